"""Runs that differ in some fields: a table with these as columns, as text, CSV and LaTeX, and a
figure for each field. Rows are those of ``sweeps.varied_rows``.
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asesjax.viz.curves import colours, plot
from asesjax.viz.tables import INTERVAL, PERCENT, cell, format_table

_COLUMNS = (
    ("method", "method", "{}"),
    ("seeds", "seeds", "{}"),
    ("mean", "accuracy %", PERCENT),
    ("interval", "95 % interval", INTERVAL),
    ("chain_accuracy", "chain right %", PERCENT),
    ("bleu", "BLEU", "{:.1f}"),
    ("train_steps", "steps", "{:,.0f}"),
    ("train_tokens", "train tokens", "{:,.0f}"),
)
_CSV = ("method", "seeds", "mean", "sd", "low", "high", "chain_accuracy", "bleu", "rouge_l",
        "train_steps", "train_tokens", "train_seconds")  # fmt: skip


def varied_table(fields: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Write one Markdown table, with what its intervals are over."""
    over = "over seeds" if any(row["seeds"] > 1 for row in rows) else "over test questions"
    if len({row["seeds"] > 1 for row in rows}) > 1:
        over += "; over test questions where there is one seed"
    return f"{format_table(*_cells(fields, rows))}\n\nThe 95 % interval is {over}.\n"


def _cells(
    fields: Sequence[str], rows: Sequence[dict[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    shown = [column for column in _COLUMNS if any(row.get(column[0]) is not None for row in rows)
             and (column[0] != "seeds" or any(row["seeds"] > 1 for row in rows))]  # fmt: skip
    cells = [[_value(row[name]) for name in fields]
             + [cell(row.get(name), template) for name, _, template in shown]
             for row in rows]  # fmt: skip
    return [*fields, *(heading for _, heading, _ in shown)], cells


def _value(value: Any) -> str:
    """Write the value of a field as the command line takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "-" if value in (None, "") else str(value)


def varied_csv(fields: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Write the rows as CSV: shares from 0 to 1, empty where something is not known."""
    out = io.StringIO()
    writer = csv.DictWriter(out, [*fields, *_CSV], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        low, high = row["interval"] or ("", "")
        values = {name: _value(row[name]) for name in fields}
        writer.writerow(row | {"low": low, "high": high} | values)
    return out.getvalue()


def varied_latex(fields: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """Write the table as a LaTeX ``tabular`` that needs no package."""
    headings, cells = _cells(fields, rows)
    lines = [" & ".join(map(_escaped, line)) + r" \\" for line in (headings, *cells)]
    columns = "l" * (len(fields) + 1) + "r" * (len(headings) - len(fields) - 1)
    begin, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    return "\n".join([begin, r"\hline", lines[0], r"\hline", *lines[1:], r"\hline", end]) + "\n"


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _escaped(text: str) -> str:
    return re.sub(r"[\\~^&%$#_{}]", lambda found: _LATEX.get(found[0], f"\\{found[0]}"), text)


def accuracy_against(
    rows: Sequence[dict[str, Any]], field: str, fields: Sequence[str], path: str | Path
) -> Path:
    """Draw accuracy against the values of a field, a line for each method and each combination of
    values of the other ``fields``; lines of a method that are the same are drawn once.
    """
    values = list(dict.fromkeys(_value(row[field]) for row in rows))
    numeric = all(type(row[field]) in (int, float) for row in rows)
    lines: dict[tuple[str, str], dict[Any, dict]] = {}
    for row in rows:
        others = ", ".join(f"{name}={_value(row[name])}" for name in fields if name != field)
        x = row[field] if numeric else values.index(_value(row[field]))
        lines.setdefault((row["method"], others), {})[x] = row
    drawn: dict[tuple, str] = {}
    for (method, others), points in lines.items():
        means = tuple((x, mean := points[x]["mean"], *(points[x]["interval"] or (mean, mean)))
                      for x in sorted(points))  # fmt: skip
        same = (method, means) in drawn
        drawn[method, means] = method if same or not others else f"{method}, {others}"
    of_line, ylabel = colours(drawn.values()), "accuracy, % (bar: 95 % interval)"
    with plot(path, f"Accuracy by {field}", field, ylabel) as axes:
        for (_, means), label in drawn.items():
            x, mean, low, high = (list(part) for part in zip(*means, strict=True))
            bars = [[100 * max(m - end, 0) for m, end in zip(mean, low, strict=True)],
                    [100 * max(end - m, 0) for m, end in zip(mean, high, strict=True)]]  # fmt: skip
            axes.errorbar(x, [100 * m for m in mean], bars, fmt="o-", color=of_line[label],
                          capsize=3, label=label)  # fmt: skip
        if not numeric:
            axes.set_xticks(range(len(values)), values)
        axes.set_ylim(0, 100)
    return Path(path)
