"""A chain with its segments coloured by label, for terminals and for pages."""

import html
from collections.abc import Sequence

from asesjax.core.types import AS, ES, Segment

TERMINAL = {ES: "\x1b[36m", AS: "\x1b[33m", None: ""}
PAGE = {ES: "#cdeaf2", AS: "#ffe3a8", None: "#eeeeee"}


def segments_text(segments: Sequence[Segment], colour: bool = True) -> str:
    """Write one segment a line as ``ES | text``, coloured for a terminal unless told otherwise.

    Example:
      >>> print(segments_text([Segment("Ben has 3 more.", "ES")], colour=False))
      ES | Ben has 3 more.
    """
    lines = []
    for segment in segments:
        start, end = (TERMINAL[segment.label], "\x1b[0m") if colour else ("", "")
        lines.append(f"{start}{segment.label or '--'} | {segment.text.strip()}{end}")
    return "\n".join(lines)


def segments_html(segments: Sequence[Segment], question: str = "") -> str:
    """Write segments as one HTML paragraph, each a coloured span whose title is its label.

    Example:
      >>> segments_html([Segment("a < b", "AS")])
      '<p><span title="AS" style="background:#ffe3a8">a &lt; b</span></p>'
    """
    spans = "".join(
        f'<span title="{segment.label or "unlabelled"}" style="background:{PAGE[segment.label]}">'
        f"{html.escape(segment.text)}</span>"
        for segment in segments
    )
    head = f"<p><b>{html.escape(question)}</b></p>" if question else ""
    return f"{head}<p>{spans}</p>"
