"""Problems longer than those taught: models learn 2 to 4 steps and are asked 2 to 6.

    asesjax run --config configs/evidence/length.py --workdir runs/evidence/length

Five seeds, 800 problems, 2 M training tokens a row, gold labels; ``accuracy_by_steps`` in
compare.json has a share for each number of steps. About 40 minutes of one core. Argument "tiny":
models too small to learn anything.
"""

from pathlib import Path

from asesjax.config import load_file

common = load_file(Path(__file__).with_name("common.py"))


def get_config(arg: str = ""):
    common.first_word(arg, ("",), __file__)  # nothing, or tiny
    c = common.student_config(arg)
    c.methods = ("start", "direct", "usm", "dsm")
    c.data.n_train = 800
    c.data.test_max_steps = 6
    c.decode.max_rounds, c.decode.max_chain_tokens = 16, 144
    return c
