"""Chains with their segments coloured by label, as text for terminals and as HTML."""

import html
from collections.abc import Sequence

from asesjax.core.errors import harmless
from asesjax.core.types import AS, ES, FILLER, Segment

# Colours in terminals and on pages, and names in legends. Other labels have the plain colour.
TERMINAL: dict[str | None, str] = {
    ES: "\x1b[36m", AS: "\x1b[33m", FILLER: "\x1b[2m", "question": "\x1b[35m",
    "answer": "\x1b[32m",
}  # fmt: skip
PAGE: dict[str | None, str] = {
    ES: "#cdeaf2", AS: "#ffe3a8", FILLER: "#f6f6f6", "question": "#e7d9f5", "answer": "#d5efd3",
}  # fmt: skip
NAMES: dict[str | None, str] = {
    ES: "ES, extractive", AS: "AS, abstractive", FILLER: "not needed",
    "question": "subquestion", "answer": "its answer", None: "no label",
}  # fmt: skip
_PLAIN = "#eeeeee"


def segments_text(segments: Sequence[Segment], colour: bool = True) -> str:
    """Write one segment a line as ``ES | text``, by default coloured for a terminal."""
    lines = []
    for segment in segments:
        start, end = (TERMINAL.get(segment.label, ""), "\x1b[0m") if colour else ("", "")
        lines.append(f"{start}{segment.label or '--'} | {harmless(segment.text.strip())}{end}")
    return "\n".join(lines)


def segments_html(segments: Sequence[Segment], question: str = "") -> str:
    """Write segments as one HTML paragraph, each a coloured span whose title is its label.

    >>> segments_html([Segment("a < b", "AS")])
    '<p><span title="AS" style="background:#ffe3a8">a &lt; b</span></p>'
    """
    spans = "".join(
        f'<span title="{segment.label or "unlabelled"}" '
        f'style="background:{PAGE.get(segment.label, _PLAIN)}">'
        f"{html.escape(segment.text)}</span>"
        for segment in segments
    )
    return paragraphs(question, spans)


def segments_page(title: str, chains: Sequence[tuple[str, Sequence[Segment]]]) -> str:
    """Write an HTML page of questions and their coloured chains, and a legend of their labels."""
    there = {segment.label for _, segments in chains for segment in segments}
    others = sorted(label for label in there if label is not None and label not in NAMES)
    labels = [*(label for label in NAMES if label in there), *others]
    legend = " ".join(
        f'<span style="background:{PAGE.get(label, _PLAIN)}">{NAMES.get(label, label)}</span>'
        for label in labels
    )
    body = [segments_html(segments, question) for question, segments in chains]
    return html_page(title, [f"<p>{legend}</p>", *body])


def paragraphs(question: str, content: str) -> str:
    """Write HTML ``content`` as a paragraph, after a paragraph of the question if there is one."""
    head = f"<p><b>{html.escape(question)}</b></p>" if question else ""
    return f"{head}<p>{content}</p>"


def html_page(title: str, body: Sequence[str]) -> str:
    """Write a whole HTML page of a heading and the lines of ``body``."""
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title>'
    style = "body{max-width:50em;margin:2em auto;font-family:sans-serif;white-space:pre-wrap}"
    lines = "\n".join([f"<body><h1>{html.escape(title)}</h1>", *body, "</body></html>", ""])
    return f"<!doctype html>\n<html><head>{head}<style>{style}</style></head>\n{lines}"
