"""AS-ES on four symbolic tasks (Ho et al. 2023), with reasoning and gold ES and AS by rule.

    asesjax run --config configs/symbolic.py --config.data.path=DIR --workdir runs/letters
    asesjax run --config configs/symbolic.py:coin_flip --config.data.path=DIR --workdir runs/coin

Arguments: last_letter_concatenation (default), coin_flip, date_understanding,
tracking_shuffled_objects. DIR holds <task>.json and <task>__default.json, its split. Rows whose
answer no rule comes to are left out and counted: names of two words, and dates that the files
have wrong. The models are small and from scratch.
"""

from asesjax.config import base_config
from asesjax.core.errors import unknown
from asesjax.data.readers.symbolic import RULES


def get_config(arg: str = ""):
    task = arg or "last_letter_concatenation"
    if task not in RULES:
        raise unknown("argument of configs/symbolic.py", task, RULES)
    c = base_config()
    c.data.source, c.data.max_skipped_share = task, 0.1
    c.data.n_train = c.data.n_validation = c.data.n_test = 0
    # Bytes, so that every letter of a name is seen: a word that is one piece hides its last one.
    c.vocab.kind = "byte"
    c.evaluate.metric = "exact"
    return c
