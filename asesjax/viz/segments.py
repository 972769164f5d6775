"""A chain with its segments coloured by label, for terminals and for pages."""

import html
from collections.abc import Sequence

from asesjax.core.types import AS, ES, FILLER, Segment

# Colours in terminals and on pages, and names. Labels of other kinds look as if they were none.
TERMINAL = {ES: "\x1b[36m", AS: "\x1b[33m", FILLER: "\x1b[2m", "question": "\x1b[35m",
            "answer": "\x1b[32m"}  # fmt: skip
PAGE = {ES: "#cdeaf2", AS: "#ffe3a8", FILLER: "#f6f6f6", "question": "#e7d9f5",
        "answer": "#d5efd3"}  # fmt: skip
NAMES = {ES: "ES, extractive", AS: "AS, abstractive", FILLER: "not needed",
         "question": "subquestion", "answer": "its answer", None: "no label"}  # fmt: skip
_PLAIN = "#eeeeee"


def segments_text(segments: Sequence[Segment], colour: bool = True) -> str:
    """Write one segment a line as ``ES | text``, coloured for a terminal unless told otherwise.

    Example:
      >>> print(segments_text([Segment("Ben has 3 more.", "ES")], colour=False))
      ES | Ben has 3 more.
    """
    lines = []
    for segment in segments:
        start, end = (TERMINAL.get(segment.label, ""), "\x1b[0m") if colour else ("", "")
        lines.append(f"{start}{segment.label or '--'} | {segment.text.strip()}{end}")
    return "\n".join(lines)


def segments_html(segments: Sequence[Segment], question: str = "") -> str:
    """Write segments as one HTML paragraph, each a coloured span whose title is its label.

    Example:
      >>> segments_html([Segment("a < b", "AS")])
      '<p><span title="AS" style="background:#ffe3a8">a &lt; b</span></p>'
    """
    spans = "".join(
        f'<span title="{segment.label or "unlabelled"}" '
        f'style="background:{PAGE.get(segment.label, _PLAIN)}">'
        f"{html.escape(segment.text)}</span>"
        for segment in segments
    )
    head = f"<p><b>{html.escape(question)}</b></p>" if question else ""
    return f"{head}<p>{spans}</p>"


def segments_page(title: str, chains: Sequence[tuple[str, Sequence[Segment]]]) -> str:
    """Write a whole HTML page of questions and their coloured chains, with a legend.

    Args:
      title: of the page.
      chains: question and segments of each; the legend has the labels that occur.
    """
    there = {segment.label for _, segments in chains for segment in segments}
    labels = [*(label for label in NAMES if label in there), *sorted(there - NAMES.keys())]
    legend = " ".join(
        f'<span style="background:{PAGE.get(label, _PLAIN)}">{NAMES.get(label, label)}</span>'
        for label in labels
    )
    body = "\n".join(segments_html(segments, question) for question, segments in chains)
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title>'
    style = "body{max-width:50em;margin:2em auto;font-family:sans-serif;white-space:pre-wrap}"
    return (
        f"<!doctype html>\n<html><head>{head}<style>{style}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n<p>{legend}</p>\n{body}\n</body></html>\n"
    )
