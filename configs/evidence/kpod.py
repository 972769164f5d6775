"""KPOD and the ablations of its table 2, from a student, with filler sentences to weigh down.

    asesjax run --config configs/evidence/kpod.py --workdir runs/evidence/kpod

Five seeds, 400 problems whose rationales have two sentences that help nobody, 2 M training tokens a
row: about 50 passes, so that the progression can pay. About 2 hours of one core. Argument "tiny":
models too small to learn anything.
"""

from pathlib import Path

from asesjax.config import load_file

common = load_file(Path(__file__).with_name("common.py"))

VARIANTS = load_file(Path(__file__).parents[1] / "kpod.py").VARIANTS


def get_config(arg: str = ""):
    common.first_word(arg, ("",), __file__)  # nothing, or tiny
    c = common.student_config(arg)
    c.data.n_train, c.data.n_fillers = 400, 2
    c.pretrain.data.n_fillers = 1
    c.pretrain.train.target_buckets = (40,)
    rows = {name: {"method": "kpod", "kpod": fields} for name, fields in VARIANTS.items()}
    c.methods = ("start", "direct", "kpod", *common.add_variants(c, rows))
    c.train.normalize = "examples"
    c.train.target_buckets = (24, 32, 48, 64, 80, 96, 112)
    c.kpod.weight_epochs = common.scaled(arg, 100.0, 1.0)
    c.kpod.alpha, c.kpod.predictor_share = 0.1, 0.6
    c.decode.max_chain_tokens = 112
    return c
