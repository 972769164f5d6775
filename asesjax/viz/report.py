"""The report of a run: a table, figures, a page with the chains, and the same as JSON."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asesjax.core.errors import counted
from asesjax.core.files import write_json, write_text
from asesjax.viz.curves import error_kinds, learning_curves, loss_curves
from asesjax.viz.page import report_page
from asesjax.viz.tables import results_table


def write_report(
    workdir: Path, report: dict[str, Any], chains: Sequence[dict[str, Any]] = (),
    parts: Sequence[Any] = (),
) -> str:  # fmt: skip
    """Write ``figures/``, ``report.md``, ``report.html`` and ``report.json``; return the text to
    print. ``chains`` are those of ``evals.report.compared_chains``.
    """
    rows, folder = report["rows"], workdir / "figures"
    metrics = {role: workdir / path for role, path in report["metrics_files"].items()
               if (workdir / path).exists()}  # fmt: skip
    figures = [
        learning_curves(rows, folder / "accuracy_by_tokens.png", "tokens"),
        learning_curves(rows, folder / "accuracy_by_seconds.png", "seconds"),
    ]
    if metrics:
        figures.append(loss_curves(metrics, folder / "training_loss.png"))
    if compared := [row for row in rows if row["first_wrong"]]:
        figures.append(error_kinds(compared, folder / "first_wrong_sentence.png"))
    for part in parts:
        figures += part.figures
        report = report | {part.name: part.facts}
        for row in rows:
            row["columns"] = row.get("columns", {}) | part.columns.get(row["method"], {})
    report = report | {"figures": [str(path.relative_to(workdir)) for path in figures]}
    head = [
        f"{report['name']}: {counted(rows[0]['questions'], 'test question')}, one run with seed "
        f"{report['seed']}",
        f"matched: {report['budget']}",
    ]
    notes = [
        "The interval is over test questions only; it does not cover the variation between seeds.",
        *_before(rows),
        *(line for part in parts for line in part.lines),
    ]
    drawn = [f"Figure: {path}" for path in report["figures"]]
    page = "With the chains, as a page: report.html"
    text = "\n".join([*head, "", results_table(rows), "", *notes, *drawn, page]) + "\n"
    write_text(workdir / "report.md", text)
    write_text(workdir / "report.html", report_page(report, head, notes, figures, chains))
    write_json(workdir / "report.json", report)
    return text


def _before(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Say what came before the rows' own training, once for those that share it."""
    of_rows: dict[str, list[str]] = {}
    for row in rows:
        parts = [
            f"{part['name']} ({part['tokens']:,} tokens, {part['seconds']:.0f} s)"
            if part["tokens"] else f"{part['name']} ({part['seconds']:.0f} s)"
            for part in row["before"]
        ]  # fmt: skip
        if parts:
            of_rows.setdefault(", ".join(parts), []).append(row["method"])
    return [
        f"Besides {'its' if len(names) == 1 else 'their'} own training, {' and '.join(names)} "
        f"needed: {parts}."
        for parts, names in of_rows.items()
    ]
