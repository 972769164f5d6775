"""Accuracy against the number of training problems: AS-ES beside direct, from one student.

    asesjax run --config configs/evidence/data_efficiency.py --workdir runs/evidence/data_efficiency

Five seeds, each with a student, problems and test questions of its own, and every row from the same
student. Arguments, each a run of its own:

    tokens    2 M training tokens a row, gold labels (default); about 4 hours of one core
    controls  the same, what explains it: direct with four times the tokens, direct with USM's
              number of steps, USM and DSM with entropy labels; at 200 and 800 problems
    epochs    passes instead of tokens, ended by early stopping; at 200 and 800 problems
    tiny      models too small to learn anything, one seed: it shows that every stage works
"""

from pathlib import Path

from asesjax.config import load_file
from asesjax.core.errors import unknown

common = load_file(Path(__file__).with_name("common.py"))

SIZES = (50, 100, 200, 400, 800, 1600)
WORDS = ("tokens", "controls", "epochs", "tiny")


def get_config(arg: str = ""):
    words = [word for word in arg.split(",") if word]
    for word in words:
        if word not in WORDS:
            raise unknown("argument of configs/evidence/data_efficiency.py", word, WORDS)
    c = common.student_config()
    sizes = SIZES if words in ([], ["tokens"]) else (200, 800)
    rows = {}
    for n in sizes:
        own = {"records": n}
        rows[f"direct_{n}"] = {"method": "direct", "train": own}
        if "controls" in words:
            rows[f"direct_4x_{n}"] = {"method": "direct", "train": own | {"tokens": 8_000_000}}
            # USM takes so many steps with 2 M tokens.
            rows[f"direct_steps_{n}"] = {"method": "direct",
                                         "train": own | {"tokens": 0, "steps": 1100}}  # fmt: skip
            label = {"strategy": "entropy", "scorer": f"direct_{n}"}
            for method in ("usm", "dsm"):
                rows[f"{method}_entropy_{n}"] = {"method": method, "train": own, "segment": label}
        for method in ("usm", "dsm"):
            rows[f"{method}_{n}"] = {"method": method, "train": own}
    for name, fields in rows.items():
        c.variants[name] = fields
    c.methods = ("start", *rows)
    c.data.n_train = max(sizes)
    if "epochs" in words:
        c.train.tokens, c.train.epochs = 0, 60.0
        c.train.evaluate_every_share, c.train.patience = 1 / 12, 3
    if "tiny" in words:
        common.tiny(c)
    return c
