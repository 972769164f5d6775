"""The main job on embedded data: a student that can do one step learns chains from 200 problems.

About 8 minutes on two CPU cores:
    bash launch/quickstart.sh
or, in an environment of your own:
    asesjax run --config configs/quickstart.py --workdir runs/quickstart

The papers fine-tune pretrained students on few chains. So a student is made first (``pretrain``):
it learns worded problems of a single step, as plain question -> rationale and answer, and never
sees a chain of two. Then every row starts from it and learns problems of two to four steps, with
one budget of training tokens; ``start`` is the student as it is. USM and DSM learn from segments
that are labelled by the entropy of ``direct``.

Argument "epochs" matches passes over each role's own examples instead of tokens, as the papers'
scripts do; USM and DSM then compute several times as much as the others.

With a real checkpoint, --config.model.init_from=FOLDER takes the student's place.

tests/benchmarks/learnability.py tries other settings and prints how fast each is learned.
"""

from asesjax.config import base_config
from asesjax.core.errors import unknown


def get_config(arg: str = ""):
    if arg not in ("", "epochs"):
        raise unknown("argument of configs/quickstart.py", arg, ("epochs",))
    c = base_config()  # the embedded task is what its defaults are made for
    c.vocab.size, c.vocab.extra_ids = 248, 8  # every word and number is one piece; 256 ids in all
    c.pretrain.method = "direct"
    # With one distractor some students take the only sentence that holds the asked name, and stay
    # at 75 to 85 %; with two they have to read the names, and all of them come to 100 %.
    c.pretrain.data = {"min_steps": 1, "max_steps": 1, "n_distractors": 2, "n_train": 16_000}
    c.pretrain.train = {"tokens": 3_000_000, "source_buckets": (40,), "target_buckets": (24,)}
    c.methods = ("start", "answer_only", "direct", "dsm", "usm")
    c.data.n_train, c.decode.curve_questions = 200, 50
    # So few rows would leave little to choose lengths from.
    lengths = {"max_rounds": 12, "max_segment_tokens": 64, "max_chain_tokens": 96,
               "question_buckets": (64, 128, 256, 512)}  # fmt: skip
    c.decode.update(lengths)
    c.pretrain.decode = {"curve_questions": 0} | lengths
    c.train.keep_best = "answer_accuracy"
    # With 32 rows the last sentence, which repeats the result, is learned only after 2 M tokens.
    c.train.tokens, c.train.batch_size, c.train.learning_rate = 2_000_000, 16, 0.02
    # At most six shapes of these are compiled for a role.
    c.train.source_buckets = (32, 40, 48, 56, 64, 72, 80, 96, 112, 128)
    c.train.target_buckets = (12, 16, 24, 32, 48, 64, 80)
    if arg == "epochs":
        c.train.tokens, c.train.epochs = 0, 20.0
    return c
