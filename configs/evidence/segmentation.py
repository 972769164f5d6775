"""Which segments to learn: every score for USM and DSM, and how beta and gamma matter.

    asesjax run --config configs/evidence/segmentation.py --workdir runs/evidence/segmentation
    asesjax run --config configs/evidence/segmentation.py:beta --workdir runs/evidence/beta
    asesjax run --config configs/evidence/segmentation.py:gamma --workdir runs/evidence/gamma

Five seeds, 400 problems, 2 M training tokens a row, scores by the model of the row ``direct``.

Arguments:
    scores  {location, entropy, loss, BLEU, ROUGE} x {DSM, USM} (default); about 2 hours of one core
    beta    AS-ES Figure 3, left: beta with gamma 1, entropy labels, USM
    gamma   AS-ES Figure 3, right: gamma with beta 1, entropy labels, USM
    tiny    models too small to learn anything
"""

from pathlib import Path

from asesjax.config import load_file

common = load_file(Path(__file__).with_name("common.py"))

SCORES = ("location", "entropy", "loss", "bleu", "rouge")
BETAS = (0.6, 0.8, 1.0, 1.2, 1.4, 1.6)
GAMMAS = (0.25, 0.5, 1.0, 2.0, 4.0)
WORDS = ("scores", "beta", "gamma")


def get_config(arg: str = ""):
    what, c = common.first_word(arg, WORDS, __file__), common.student_config(arg)
    c.data.n_train = 400
    rows = {}
    if what == "scores":
        for score in SCORES:
            for method in ("usm", "dsm"):
                rows[f"{method}_{score}"] = {"method": method, "segment": {"strategy": score}}
    for value in BETAS if what == "beta" else ():
        segment = {"strategy": "entropy", "beta": value}
        rows[f"usm_beta_{value}"] = {"method": "usm", "segment": segment}
    for value in GAMMAS if what == "gamma" else ():
        rows[f"usm_gamma_{value}"] = {"method": "usm", "ases": {"gamma": value},
                                      "segment": {"strategy": "entropy", "beta": 1.0}}  # fmt: skip
    c.methods = ("direct", *common.add_variants(c, rows))
    return c
