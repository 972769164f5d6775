"""``report.html``: a report as one page that needs no other file, made with jinja2 (extra
``[viz]``), which escapes every text of the data.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError
from asesjax.viz.curves import colours
from asesjax.viz.segments import NAMES
from asesjax.viz.tables import results_cells

MOST_QUESTIONS = 300  # on the page; all are in the files of predictions
# Kinds of first wrong sentences, as the filter names them.
_KINDS = {"ES": "first error: ES, a fact restated wrongly", "AS": "first error: AS, a wrong step",
          "missing": "first error: ends too early", "extra": "first error: does not end in time",
          "right": "chain right"}  # fmt: skip


def report_page(
    report: dict[str, Any],
    head: Sequence[str],
    notes: Sequence[str],
    figures: Sequence[Path],
    chains: Sequence[dict[str, Any]],
) -> str:
    """Write the page of a ``report.json``: ``head`` above its table, ``notes`` below, the figures,
    and the ``chains`` of ``evals.report.compared_chains``, first those that most methods answered
    wrongly; at most ``MOST_QUESTIONS``.
    """
    try:
        import jinja2
    except ImportError:
        raise UserError("report.html needs jinja2: pip install 'asesjax[viz]'") from None
    place = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(
        loader=place, autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("report.html.jinja")  # fmt: skip
    headings, cells = results_cells(report["rows"])
    methods = [row["method"] for row in report["rows"]]
    ordered = sorted(chains, key=lambda one: sum(row["is_right"] for row in one["rows"]))
    shown = ordered[:MOST_QUESTIONS]
    outcomes = [(row["is_right"], row["kind"]) for one in shown for row in one["rows"]]
    kinds = list(dict.fromkeys(kind for _, kind in outcomes if kind))
    names = [*(kind for kind in _KINDS if kind in kinds), *(k for k in kinds if k not in _KINDS)]
    labels = dict.fromkeys(
        label for one in shown
        for segments in (one["reference"], *(row["segments"] for row in one["rows"]))
        for _, label in segments
    )  # fmt: skip
    return template.render(
        report=report, head=head, notes=notes, headings=headings, cells=cells, methods=methods,
        colours=colours(methods), chains=shown, n_chains=len(chains),
        kinds=[(kind, _KINDS.get(kind, f"first error: {kind}")) for kind in names],
        legend=[(label, NAMES.get(label, label)) for label in labels if label is not None],
        figures=[
            (path.stem.replace("_", " "), base64.b64encode(path.read_bytes()).decode())
            for path in figures
        ],
    )  # fmt: skip
