"""Reports of several runs side by side."""

import math
import statistics
from collections.abc import Sequence
from typing import Any

from asesjax.viz.tables import format_table

_SHOWN = ("accuracy", "chain_accuracy", "bleu", "segmentation_f1", "train_tokens")


def comparison(reports: dict[str, dict[str, Any]]) -> str:
    """Write one table of all rows, and one of means where runs differ in their seed alone.

    Args:
      reports: workdir to contents of its ``report.json``.

    Returns:
      Text. The second table has, per method, number of seeds, mean accuracy, sample standard
      deviation over seeds, and a 95 % interval of the mean from Student's t; nothing is claimed
      for a single seed.
    """
    rows = [(folder, report, row) for folder, report in reports.items() for row in report["rows"]]
    cells = [
        [folder, str(row["seed"]), report["strategy"] or "-", row["method"],
         *(_cell(name, row[name]) for name in _SHOWN)]
        for folder, report, row in rows
    ]  # fmt: skip
    headings = ["run", "seed", "strategy", "method", *(name.replace("_", " ") for name in _SHOWN)]
    text = format_table(headings, cells)
    groups: dict[tuple, list[float]] = {}
    for _, report, row in rows:
        key = (report["name"], report["budget"], report["strategy"], row["method"])
        groups.setdefault(key, []).append(row["accuracy"])
    means = [
        [key[3], key[2] or "-", str(len(values)), *mean_interval(values)]
        for key, values in groups.items()
        if len(values) > 1
    ]
    if means:
        headings = ["method", "strategy", "seeds", "mean accuracy", "sd", "95 % interval"]
        text += "\n\n" + format_table(headings, means)
    return text


def mean_interval(values: Sequence[float]) -> tuple[str, str, str]:
    """Write mean, sample standard deviation and 95 % t interval of shares, in percent.

    Example:
      >>> mean_interval([0.5, 0.7])
      ('60.0', '14.1', '-67.1..187.1')
    """
    n, mean, sd = len(values), statistics.mean(values), statistics.stdev(values)
    half = _T975[min(n - 1, len(_T975)) - 1] * sd / math.sqrt(n)
    low, high = (f"{100 * (mean + sign * half):.1f}" for sign in (-1, 1))
    return f"{100 * mean:.1f}", f"{100 * sd:.1f}", f"{low}..{high}"


# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom; the last serves all above.
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "train_tokens":
        return f"{value:,}"
    return f"{value:.1f}" if name == "bleu" else f"{value:.3f}"
