"""The main job on embedded data: worded arithmetic, four methods, one budget of training tokens.

About 10 minutes on two CPU cores:
    bash launch/quickstart.sh
or, in an environment of your own:
    asesjax run --config configs/quickstart.py --workdir runs/quickstart

Argument "epochs" matches passes over the training questions instead of tokens, as the paper's
scripts do; USM and DSM then compute several times as much as the others:
    asesjax run --config configs/quickstart.py:epochs --workdir runs/quickstart-epochs

tests/benchmarks/learnability.py tries other settings and prints how fast each is learned. Two
defaults come from it (seed 0, this budget):
- Adafactor, not AdamW, from random weights: T5's initialisation gives parameters of very different
  sizes, and Adafactor's steps are relative to them. direct and USM reach 46.6 % and 65.8 %; with
  --config.train.optimizer=adamw --config.train.learning_rate=0.002 20.8 % and 8.4 %.
- 700 training problems: with many more, direct reaches the ceiling within the budget and the
  methods cannot be told apart; with 700 it stops near half.
"""

from asesjax.config import base_config
from asesjax.core.errors import unknown


def get_config(arg: str = ""):
    if arg not in ("", "epochs"):
        raise unknown("argument of configs/quickstart.py", arg, ("epochs",))
    c = base_config()  # the embedded task is what its defaults are made for
    c.vocab.size, c.vocab.extra_ids = 248, 8  # every word and number is one piece; 256 ids in all
    if arg == "epochs":
        c.data.n_train = 4000
        c.train.tokens, c.train.epochs = 0, 4.0
    return c
