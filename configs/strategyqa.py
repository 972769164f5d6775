"""AS-ES on StrategyQA: yes or no, with facts as reasoning; its dev.json is the test split.

    asesjax run --config configs/strategyqa.py --config.data.path=DIR --workdir runs/strategyqa

DIR holds train.json and dev.json. A small model from scratch: it shows that everything works.
"""

from asesjax.config import base_config
from asesjax.core.errors import UserError


def get_config(arg: str = ""):
    if arg:
        raise UserError(f"configs/strategyqa.py takes no argument, got {arg!r}")
    c = base_config()
    c.data.source = "strategyqa"
    c.data.n_train = c.data.n_validation = c.data.n_test = 0
    c.vocab.size, c.vocab.byte_fallback = 4000, True
    c.evaluate.metric = "exact"
    return c
