"""The table and figures of result files (``notebooks/collect.py``): means over seeds with their
intervals.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asesjax.viz.curves import COLOURS, colours, log_scale, plot, role_looks

_INTERVAL = "accuracy, % (95 % interval over seeds)"


def table(results: Mapping[str, Any]) -> str:
    """Return the rows of a result file as a Markdown table: percentages, and paired differences
    with p of the t test over seeds, as they are and corrected by Holm.
    """
    columns = ["row", "accuracy %", "95 % interval", "chains right %"]
    texts = results["metric"] == "exact"  # reports, which are compared by overlap
    columns[3:] = ["BLEU", "ROUGE-L"] if texts else columns[3:]
    compared = any(row["versus"] for row in results["rows"])
    columns += ["against", "difference", "p over seeds", "Holm"] if compared else []
    lines = [columns, ["---"] * len(columns)]
    for row in results["rows"]:
        low, high = row["interval"] or (0, 0)
        # Of a t interval over seeds, which knows no ends of a share; without width it says nothing.
        ends = [f"{min(max(100 * end, 0), 100):.1f}" for end in (low, high) if low < high]
        none = "one seed" if row["sd"] is None else "-"
        line = [f"`{row['method']}`", f"{100 * row['mean']:.1f}", " to ".join(ends) or none]
        of = [row.get("bleu"), row.get("rouge_l")] if texts else [row.get("chain_accuracy")]
        line += ["" if one is None else f"{one if texts else 100 * one:.1f}" for one in of]
        if compared and (versus := row["versus"]):
            ps = [versus.get(name) for name in ("p_seeds", "p_seeds_holm")]
            line += [f"`{versus['row']}`", f"{100 * versus['difference']:+.1f}"]
            line += ["" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}" for p in ps]
        lines.append(line + [""] * (len(columns) - len(line)))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def against_size(result: Mapping[str, Any], path: str | Path) -> Path:
    """Draw accuracy against the number of problems, of rows named ``<method>_<number>``."""
    lines: dict[str, list] = {}
    for row in result["rows"]:
        if found := re.fullmatch(r"(.+)_(\d+)", row["method"]):
            lines.setdefault(found[1], []).append((int(found[2]), row))
    of_line = colours(lines)
    with plot(path, "Accuracy by number of problems", "training problems", _INTERVAL) as axes:
        for shift, (name, points) in enumerate(lines.items()):
            points.sort(key=lambda point: point[0])
            # Beside each other, so that no interval hides another.
            x = [n * 1.02**shift for n, _ in points]
            _errorbar(axes, x, [row for _, row in points], name, of_line[name])
        axes.set_xscale("log")
        sizes = sorted({n for points in lines.values() for n, _ in points})
        axes.set_xticks(sizes, list(map(str, sizes)))
        axes.minorticks_off()
        axes.set_ylim(0, 100)
    return Path(path)


def against_value(result: Mapping[str, Any], name: str, path: str | Path) -> Path:
    """Draw accuracy and, on an axis of its own, BLEU against the value of rows that are named
    ``<method>_<name>_<value>``, with p for the decimal point (AS-ES paper, Figure 3).
    """
    rows = [(float(found[1].replace("p", ".")), row) for row in result["rows"]
            if (found := re.fullmatch(rf".+_{name}_([\dp]+)", row["method"]))]  # fmt: skip
    rows.sort(key=lambda pair: pair[0])
    values = [value for value, _ in rows]
    with plot(path, f"Accuracy and BLEU by {name}", name, _INTERVAL) as axes:
        _errorbar(axes, values, [row for _, row in rows], "accuracy", COLOURS[-1])
        other = axes.twinx()
        other.plot(values, [row["bleu"] for _, row in rows], "s--", color="#8a8a8a", label="BLEU")
        other.set_ylabel("BLEU")
        other.legend(loc="lower right")
    return Path(path)


def by_steps(result: Mapping[str, Any], path: str | Path) -> Path:
    """Draw accuracy against the computed steps of a problem, a line a row."""
    of_row = colours(row["method"] for row in result["rows"])
    with plot(path, "Accuracy by steps", "steps of the problem", "accuracy, %") as axes:
        for row in result["rows"]:
            colour = of_row[row["method"]]
            shares = {int(n): 100 * share for n, share in row["accuracy_by_steps"].items()}
            axes.plot(list(shares), list(shares.values()), "o-", color=colour, label=row["method"])
        axes.set_ylim(0, 100)
    return Path(path)


def bars(result: Mapping[str, Any], path: str | Path) -> Path:
    """Draw the accuracy of every row as a bar."""
    rows = result["rows"]
    of_row = colours(row["method"] for row in rows)
    with plot(path, "Accuracy", _INTERVAL, "") as axes:
        for place, row in enumerate(rows):
            mean, error = _means([row])
            axes.barh(place, mean, xerr=error, color=of_row[row["method"]], capsize=3)
        axes.set_yticks(range(len(rows)), [row["method"] for row in rows])
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
    return Path(path)


def losses(
    result: Mapping[str, Any], roles: Mapping[str, str], path: str | Path, best: bool = False
) -> Path:
    """Draw the training loss of some roles (``row/role`` to the name shown) of the first seed
    against tokens, or, where ``best``, the lowest so far against seconds (AS-ES paper, Figure 4).
    """
    axis = "training seconds" if best else "training tokens"
    look = role_looks(roles)
    ylabel = "lowest loss so far, nats" if best else "loss, nats a token"
    with plot(path, "Training loss", axis, ylabel) as axes:
        for role, label in roles.items():
            tokens, seconds, loss = zip(*result["losses"][role], strict=True)
            lowest = [min(loss[: i + 1]) for i in range(len(loss))]
            axes.plot(seconds if best else tokens, lowest if best else loss, label=label,
                      **look[role])  # fmt: skip
        log_scale(axes)
    return Path(path)


def _errorbar(axes, x: list, rows: list, label: str, colour: str) -> None:
    means, error = _means(rows)
    axes.errorbar(x, means, error, fmt="o-", color=colour, capsize=3, label=label)


def _means(rows: list) -> tuple[list, list]:
    """Return the means in percent, and how far their intervals reach below and above them."""
    means = [100 * row["mean"] for row in rows]
    ends = [row["interval"] or (row["mean"], row["mean"]) for row in rows]
    below = [mean - 100 * low for mean, (low, _) in zip(means, ends, strict=True)]
    above = [100 * high - mean for mean, (_, high) in zip(means, ends, strict=True)]
    return means, [below, above]
