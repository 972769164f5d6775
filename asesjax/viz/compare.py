"""Methods compared over seeds, as text."""

from typing import Any

from asesjax.viz.tables import INTERVAL, PERCENT, cell, format_table


def comparison_text(group: dict[str, Any]) -> str:
    """Write the results of ``seeds.compare_runs`` as Markdown, with what the numbers mean."""
    seeds = group["seeds"]
    questions = sorted(set(group["questions"]))
    lines = [
        f"{group['name']}: seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}; "
        f"{' or '.join(map(str, questions))} test question{'s' * (questions != [1])} each",
        f"matched: {group['budget']}",
        "",
        _means(group),
    ]
    remark = "A single seed says nothing about the variation between seeds."
    if len(seeds) > 1:
        remark = (
            "Accuracy is the mean over seeds; its 95 % interval is Student's t with "
            f"{len(seeds) - 1} degree{'s' * (len(seeds) > 2)} of freedom over them, and a seed "
            "changes initialisation, batch order and, where data is generated, that. Chain right, "
            "BLEU, steps and training tokens (each method's own, and those trained on before it "
            "for what it needs) are means, too."
        )
    lines += ["", remark]
    if any(row["versus"] for row in group["rows"]):
        lines += ["", _differences(group), "", *_meaning(group)]
    return "\n".join(lines) + "\n"


def _means(group: dict[str, Any]) -> str:
    several = len(group["seeds"]) > 1
    headings = ["method", "accuracy %"]
    headings += ["sd", "95 % interval", *(f"seed {seed}" for seed in group["seeds"])] * several
    headings += ["chain right %", "BLEU", "steps", "train tokens", "tokens before"]
    cells = []
    for row in group["rows"]:
        own = [row["method"], cell(row["mean"], PERCENT)]
        if several:
            own += [cell(row["sd"], PERCENT), cell(row["interval"], INTERVAL)]
            own += [cell(accuracy, PERCENT) for accuracy in row["accuracies"]]
        own += [cell(row["chain_accuracy"], PERCENT), cell(row["bleu"], "{:.1f}")]
        counts = "train_steps", "train_tokens", "before_tokens"
        cells.append([*own, *(cell(row.get(name), "{:,.0f}") for name in counts)])
    return format_table(headings, cells)


def _differences(group: dict[str, Any]) -> str:
    several = len(group["seeds"]) > 1
    headings = ["row", "against", "difference"]
    headings += ["95 % interval", "p, seeds", "Holm"] * several
    headings += ["p, questions", "Holm", "better", "worse"]
    cells = []
    for row in group["rows"]:
        if found := row["versus"]:
            own = [row["method"], found["row"], cell(found["difference"], "{:+.1%}")]
            if several:
                own.append(cell(found["interval"], INTERVAL))
            names = ["p_seeds", "p_seeds_holm"] * several + ["p_questions", "p_questions_holm"]
            own += [_p(found[name]) for name in names]
            cells.append([*own, str(found["better"]), str(found["worse"])])
    return format_table(headings, cells)


def _meaning(group: dict[str, Any]) -> list[str]:
    compared = sum(bool(row["versus"]) for row in group["rows"])
    lines = [
        "Every row answers the questions that the other does, seed by seed; the difference is in "
        "points of accuracy.",
        "p, questions: exact test over questions, those of all seeds together, of which better and "
        "worse are the ones that only one of the two gets right (signs flip by question; McNemar's "
        "test where seeds have questions of their own). It compares these trained models and says "
        "nothing about other seeds.",
        f"Holm: the p-value before it, corrected for {compared} comparison{'s' * (compared > 1)}.",
    ]
    if len(group["seeds"]) > 1:
        lines.insert(
            1,
            "p, seeds: paired t test over seeds, and its interval: would another seed agree? With "
            "few seeds only large and steady differences are significant.",
        )
    return [f"- {line}" for line in lines]


def _p(value: float | None) -> str:
    return "<0.001" if value is not None and value < 0.001 else cell(value, "{:.3f}")
