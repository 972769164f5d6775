"""Socratic CoT where planning matters: facts in any order, and one that nobody needs.

    asesjax run --config configs/evidence/socratic.py --workdir runs/evidence/socratic

Five seeds, 400 problems, 2 M training tokens a row; decomposer and solver with parameters of their
own, with shared ones, and guided by equations that a third model writes. About an hour of one core.
Argument "tiny": models too small to learn anything.
"""

from pathlib import Path

from asesjax.config import load_file

common = load_file(Path(__file__).with_name("common.py"))


def get_config(arg: str = ""):
    common.first_word(arg, ("",), __file__)  # nothing, or tiny
    c = common.student_config(arg)
    c.data.n_train, c.data.n_distractors, c.data.fact_order = 400, 1, "shuffled"
    guided = {"guidance": "equations", "guide_source": "planner"}
    rows = {"socratic_guided": {"method": "socratic", "socratic": guided}}
    c.methods = ("start", "direct", "usm", "socratic", "socratic_unified",
                 *common.add_variants(c, rows))  # fmt: skip
    c.train.source_buckets = (40, 48, 56, 64, 80, 96, 112, 128, 160, 256)
    c.decode.max_chain_tokens = 128
    return c
