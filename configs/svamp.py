"""AS-ES on SVAMP: with reasoning that PaLM wrote, or with the steps of its equations.

    asesjax run --config configs/svamp.py --config.data.path=DIR/palm_rationales/svamp \
      --workdir runs/svamp
    asesjax run --config configs/svamp.py:equations --config.data.path=DIR/svamp \
      --workdir runs/svamp-equations

PaLM's chains are raw; the quarter of the training chains that end in a wrong answer are left out
(data.only_right_chains) and counted. SVAMP's own file has one equation that does not come to its
answer; it is left out, too. A small model from scratch: it shows that everything works.
"""

from asesjax.config import base_config
from asesjax.core.errors import unknown


def get_config(arg: str = ""):
    if arg not in ("", "equations"):
        raise unknown("argument of configs/svamp.py", arg, ("equations",))
    c = base_config()
    d = c.data
    if arg == "equations":
        d.source, d.max_skipped_share = "svamp", 0.001
    else:
        d.source, d.only_right_chains = "palm_svamp", True
    d.n_train = d.n_validation = d.n_test = 0
    c.vocab.size, c.vocab.split_digits, c.vocab.byte_fallback = 2000, True, True
    return c
