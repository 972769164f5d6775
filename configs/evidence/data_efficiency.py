r"""Accuracy against the number of training problems: AS-ES beside direct, from one student.

    asesjax run --config configs/evidence/data_efficiency.py --workdir runs/evidence/data_efficiency
    asesjax run --config configs/evidence/data_efficiency.py --config.methods=dsm_800 \
        --config.train.tokens=4000000 --workdir runs/evidence/dsm_4m

Five seeds, each with a student, problems and test questions of its own, and every row from the same
student. Arguments, each a run of its own:

    tokens    2 M training tokens a row, gold labels (default); about 2 hours of one core (70 s a
              row); --config.methods takes some of the rows, and with --redo, which makes the report
              anew, others later in the same folder
    controls  the same, what explains it: direct with four times the tokens, direct with USM's
              number of steps, USM and DSM with entropy labels; at 200 and 800 problems
    epochs    passes instead of tokens, ended by early stopping; at 200 and 800 problems
    tiny      with or without one of these: models too small to learn anything
"""

from pathlib import Path

from asesjax.config import load_file

common = load_file(Path(__file__).with_name("common.py"))

SIZES = (50, 100, 200, 400, 800, 1600)
WORDS = ("tokens", "controls", "epochs")


def get_config(arg: str = ""):
    what, c = common.first_word(arg, WORDS, __file__), common.student_config(arg)
    sizes = SIZES if what == "tokens" else (200, 800)
    rows = {}
    for n in sizes:
        own = {"records": n}
        rows[f"direct_{n}"] = {"method": "direct", "train": own}
        if what == "controls":
            longer = {"tokens": 4 * c.train.tokens}
            rows[f"direct_4x_{n}"] = {"method": "direct", "train": own | longer}
            # USM takes about so many steps with 2 M tokens.
            steps = {"tokens": 0, "steps": 1640}
            rows[f"direct_steps_{n}"] = {"method": "direct", "train": own | steps}
            label = {"strategy": "entropy", "scorer": f"direct_{n}"}
            for method in ("usm", "dsm"):
                rows[f"{method}_entropy_{n}"] = {"method": method, "train": own, "segment": label}
        for method in ("usm", "dsm"):
            rows[f"{method}_{n}"] = {"method": method, "train": own}
    c.methods = ("start", *common.add_variants(c, rows))
    c.data.n_train = max(sizes)
    if what == "epochs":
        c.train.tokens, c.train.epochs = 0, common.scaled(arg, 60.0, 1.0)
        c.train.evaluate_every_share, c.train.patience = 1 / 12, 3
    return c
