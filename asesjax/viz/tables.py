"""Results as text tables."""

from collections.abc import Sequence
from typing import Any

PERCENT, INTERVAL = "{:.1%}", "{0[0]:.1%}..{0[1]:.1%}"
# Columns of the results table: field of a report row, heading, format.
COLUMNS = (
    ("method", "method", "{}"),
    ("accuracy", "accuracy %", PERCENT),
    ("accuracy_interval", "95 % interval", INTERVAL),
    ("chain_accuracy", "chain right %", PERCENT),
    ("bleu", "BLEU", "{:.1f}"),
    ("rouge_l", "ROUGE-L", "{:.1f}"),
    ("segments_per_chain", "segments", "{:.1f}"),
    ("tokens_per_question", "tokens", "{:.0f}"),
    ("truncated_share", "cut off %", PERCENT),
    ("questions_per_second", "questions/s", "{:.1f}"),
    ("train_seconds", "train s", "{:.0f}"),
    ("train_steps", "steps", "{:,}"),
    ("train_tokens", "train tokens", "{:,}"),
    ("before_tokens", "tokens before", "{:,}"),
)


def format_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table with aligned columns: the first to the left, others to the right.

    >>> print(format_table(["a", "bb"], [["x", "1"]]))
    | a | bb |
    |:--|---:|
    | x |  1 |
    """
    lines = [[str(text) for text in row] for row in [headings, *rows]]
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))

    def line(left: str, *right: str) -> str:
        aligned = [text.rjust(width) for text, width in zip(right, others, strict=True)]
        return "| " + " | ".join([left.ljust(first), *aligned]) + " |"

    rule = [":" + "-" * (first + 1)] + ["-" * (width + 1) + ":" for width in others]
    head, *body = (line(*row) for row in lines)
    return "\n".join([head, "|" + "|".join(rule) + "|", *body])


def results_table(rows: Sequence[dict[str, Any]]) -> str:
    """Write report rows as a table, see ``results_cells``."""
    return format_table(*results_cells(rows))


def results_cells(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells of report rows: methods' ``columns`` last, columns of only None
    left out.
    """
    shown = [c for c in COLUMNS if any(row.get(c[0]) is not None for row in rows)]
    more = list(dict.fromkeys(name for row in rows for name in row.get("columns", {})))
    cells = [
        [cell(row.get(field), template) for field, _, template in shown]
        + [cell(row.get("columns", {}).get(name), "{:.3f}") for name in more]
        for row in rows
    ]
    return [heading for _, heading, _ in shown] + more, cells


def cell(value: Any, template: str) -> str:
    """Format a value, percentages without their sign, or ``-`` for None."""
    return "-" if value is None else template.format(value).replace("%", "")
