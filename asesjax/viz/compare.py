"""Runs side by side: every row of their reports, and methods compared over seeds."""

from typing import Any

from asesjax.viz.tables import format_table

_SHOWN = ("accuracy", "chain_accuracy", "bleu", "train_tokens")


def rows_table(reports: dict[str, dict[str, Any]]) -> str:
    """Write one table of all rows of several reports.

    Args:
      reports: workdir to contents of its ``report.json``.
    """
    cells = [
        [folder, str(row["seed"]), report.get("segmentation", {}).get("strategy", "-"),
         row["method"],
         *(_cell(name, row[name]) for name in _SHOWN)]
        for folder, report in reports.items()
        for row in report["rows"]
    ]  # fmt: skip
    headings = ["run", "seed", "strategy", "method", *(name.replace("_", " ") for name in _SHOWN)]
    return format_table(headings, cells)


def comparison_text(group: dict[str, Any]) -> str:
    """Write what runs that differ in their seed alone say together.

    Args:
      group: from ``seeds.compare_runs``.

    Returns:
      Markdown: what is matched, a table of means over seeds, one of the methods against
      ``against``, and what the numbers mean.
    """
    seeds, against = group["seeds"], group["against"]
    questions = sorted(set(group["questions"]))
    lines = [
        f"{group['name']}: seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; "
        f"{' or '.join(map(str, questions))} test questions each",
        f"matched: {group['budget']}",
        "",
        _means(group),
    ]
    if len(seeds) > 1:
        lines += [
            "",
            "Accuracy is the mean over seeds; its 95 % interval is Student's t with "
            f"{len(seeds) - 1} degree{'s' * (len(seeds) > 2)} of freedom over them, and a seed "
            "changes initialisation, batch order and generated data. Chain right, BLEU, steps and "
            "training tokens (each method's own) are means, too.",
        ]
    else:
        lines += ["", "A single seed says nothing of how far another one moves the numbers."]
    if against:
        lines += ["", _differences(group), "", *_meaning(group)]
    return "\n".join(lines) + "\n"


def _means(group: dict[str, Any]) -> str:
    several = len(group["seeds"]) > 1
    headings = ["method", "accuracy %"]
    headings += ["sd", "95 % interval", *(f"seed {seed}" for seed in group["seeds"])] * several
    headings += ["chain right %", "BLEU", "steps", "train tokens"]
    cells = []
    for row in group["rows"]:
        own = [row["method"], _percent(row["mean"])]
        if several:
            own += [_percent(row["sd"]), _interval(row["interval"])]
            own += map(_percent, row["accuracies"])
        own += [_percent(row["chain_accuracy"]), "-" if row["bleu"] is None else
                f"{row['bleu']:.1f}", f"{row['train_steps']:,.0f}",
                f"{row['train_tokens']:,.0f}"]  # fmt: skip
        cells.append(own)
    return format_table(headings, cells)


def _differences(group: dict[str, Any]) -> str:
    several = len(group["seeds"]) > 1
    headings = [f"against {group['against']}", "difference"]
    headings += ["95 % interval", "p, seeds", "Holm"] * several
    headings += ["p, questions", "Holm", "better", "worse"]
    cells = []
    for row in group["rows"]:
        found = row["versus"]
        if not found:
            continue
        own = [row["method"], f"{100 * found['difference']:+.1f}"]
        if several:
            own += [_interval(found["interval"]), _p(found["p_seeds"]), _p(found["p_seeds_holm"])]
        own += [_p(found["p_questions"]), _p(found["p_questions_holm"])]
        cells.append([*own, str(found["better"]), str(found["worse"])])
    return format_table(headings, cells)


def _meaning(group: dict[str, Any]) -> list[str]:
    against = group["against"]
    compared = sum(bool(row["versus"]) for row in group["rows"])
    lines = [
        f"Every method answers the questions that {against} does, seed by seed; the difference is "
        "in points of accuracy.",
        "p, questions: exact test over questions, those of all seeds together, of which better and "
        "worse are the ones that only one of the two gets right (signs flip by question; McNemar's "
        "test where seeds have questions of their own). It is about these trained models and says "
        "nothing of other seeds.",
        f"Holm: the p-value before it, corrected for {compared} comparison{'s' * (compared > 1)}.",
    ]
    if len(group["seeds"]) > 1:
        lines.insert(
            1,
            "p, seeds: paired t test over seeds, and the interval with it: would another seed "
            "agree? Few seeds find large and steady differences alone.",
        )
    return [f"- {line}" for line in lines]


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "train_tokens":
        return f"{value:,}"
    return f"{value:.1f}" if name == "bleu" else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _interval(ends: tuple[float, float] | None) -> str:
    return "-" if ends is None else "..".join(f"{100 * end:.1f}" for end in ends)


def _p(value: float | None) -> str:
    if value is None:
        return "-"
    return "<0.001" if value < 0.001 else f"{value:.3f}"
