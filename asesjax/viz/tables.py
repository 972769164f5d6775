"""Results as text tables."""

from collections.abc import Sequence
from typing import Any

# Columns of the results table: field of a report row, heading, how it is written.
COLUMNS = (
    ("method", "method", "{}"),
    ("accuracy", "accuracy %", "{:.1%}"),
    ("accuracy_interval", "95 % interval", "{0[0]:.1%}..{0[1]:.1%}"),
    ("chain_accuracy", "chain right %", "{:.1%}"),
    ("bleu", "BLEU", "{:.1f}"),
    ("rouge_l", "ROUGE-L", "{:.1f}"),
    ("segments_per_chain", "segments", "{:.1f}"),
    ("tokens_per_question", "tokens", "{:.0f}"),
    ("truncated_share", "cut off %", "{:.1%}"),
    ("questions_per_second", "questions/s", "{:.1f}"),
    ("train_seconds", "train s", "{:.0f}"),
    ("train_steps", "steps", "{:,}"),
    ("train_tokens", "train tokens", "{:,}"),
)


def format_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table with aligned columns: the first to the left, others to the right.

    Example:
      >>> print(format_table(["a", "bb"], [["x", "1"]]))
      | a | bb |
      |:--|---:|
      | x |  1 |
    """
    widths = [
        max(len(str(row[i])) for row in [headings, *rows]) for i in range(len(headings))
    ]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (str(cell) for cell in cells)
        out = [first.ljust(widths[0])]
        out += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        return "| " + " | ".join(out) + " |"

    rule = [":" + "-" * (widths[0] + 1)] + ["-" * (width + 1) + ":" for width in widths[1:]]
    return "\n".join([line(headings), "|" + "|".join(rule) + "|", *(line(row) for row in rows)])


def results_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write report rows as a table; a column in which every row is None is left out.

    What methods add (``columns`` of a row) stands at the end.
    """
    shown = [c for c in COLUMNS if any(row.get(c[0]) is not None for row in rows)]
    more = list(dict.fromkeys(name for row in rows for name in row.get("columns", {})))
    cells = [
        [_cell(row.get(field), template).replace("%", "") for field, _, template in shown]
        + [_cell(row.get("columns", {}).get(name), "{:.3f}") for name in more]
        for row in rows
    ]
    return format_table([heading for _, heading, _ in shown] + more, cells)


def _cell(value: Any, template: str) -> str:
    return "-" if value is None else template.format(value)
