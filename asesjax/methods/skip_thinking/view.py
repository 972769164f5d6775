"""What skip-thinking left out, as text for a report."""

from collections.abc import Sequence
from typing import Any

from asesjax.viz.tables import format_table

_HEADINGS = (
    "method", "accuracy %", "tokens", "ms/question", "sentences", "filler", "ES there %",
    "AS there %", "precision %", "recall %",
)  # fmt: skip


def skipping_lines(rows: Sequence[dict[str, Any]], skipping: dict[str, Any]) -> list[str]:
    """Write what methods wrote and left out, and the facts of ``report.skipping_report``."""
    cells = []
    for row in rows:
        own = skipping["methods"][row["method"]]
        there = own.get("needed_present", {})
        cells.append([
            row["method"], _percent(row["accuracy"]), f"{row['tokens_per_question']:.1f}",
            f"{1000 * own['seconds_per_question']:.1f}", _number(own.get("sentences_per_chain")),
            _number(own.get("filler_per_chain")), _percent(there.get("ES")),
            _percent(there.get("AS")), _percent(own.get("precision")), _percent(own.get("recall")),
        ])  # fmt: skip
    shown = [i for i in range(len(_HEADINGS)) if any(row[i] != "-" for row in cells)]
    lines = [
        "What was written for a question, decoded in batches:",
        "",
        format_table([_HEADINGS[i] for i in shown], [[row[i] for i in shown] for row in cells]),
        "",
    ]
    for split, data in (skipping["data"] or {}).items():
        lines.append(
            f"Skip data, {split}: {data['kept_share']:.1%} of {data['chunks']:,} chunks kept; the "
            f"chunk-wise student answers {data['right_before']:.1%} rightly from all chunks, "
            f"{data['right_after']:.1%} from those kept."
        )
        if "sentences" in data:
            parts = ", ".join(f"{label or 'unlabelled'} {data['left_out'][label]} of {n}"
                              for label, n in data["sentences"].items())  # fmt: skip
            lines.append(
                f"Sentences left out: {parts}; as a search for filler, precision "
                f"{_percent(data['precision'])} %, recall {_percent(data['recall'])} %."
            )
    return lines


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
