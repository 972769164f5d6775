"""AS-ES on generated reports: short findings -> impression, the shape of the paper's PET task.

The impression is the chain and there is no separate answer, so a report is right when its whole
text is (evaluate.metric=exact); BLEU and ROUGE say how near it comes. About 5 minutes on two cores.

    asesjax run --config configs/reports.py --workdir runs/reports
"""

from asesjax.config import base_config
from asesjax.core.errors import UserError


def get_config(arg: str = ""):
    if arg:
        raise UserError(f"configs/reports.py takes no argument, got {arg!r}")
    c = base_config()
    c.methods = ("direct", "dsm", "usm")
    c.data.source = "synthetic_reports"
    c.data.answer_template = ""
    c.data.min_steps, c.data.max_steps, c.data.n_distractors = 1, 3, 2
    c.vocab.size, c.vocab.extra_ids = 504, 8
    c.train.tokens = 2_000_000
    c.evaluate.metric = "exact"
    return c
