"""What all evidence has in common: the student and its training."""

from pathlib import Path

from asesjax.config import load_file
from asesjax.core.errors import unknown

quickstart = load_file(Path(__file__).parents[1] / "quickstart.py")


def first_word(arg: str, words: tuple[str, ...], file: str) -> str:
    """Return the argument without "tiny", the first of ``words`` when it is empty."""
    asked = [word for word in arg.split(",") if word not in ("", "tiny")]
    for word in asked:
        if word not in words or len(asked) > 1:
            raise unknown(f"argument of {Path(file).name}", arg, (*words, "tiny"))
    return asked[0] if asked else words[0]


def scaled(arg: str, value: float, tiny: float = 20_000) -> float:
    """Return a setting, or a tiny one with the argument "tiny"."""
    return tiny if "tiny" in arg.split(",") else value


def add_variants(c, rows: dict[str, dict]) -> tuple[str, ...]:
    """Make rows of the configuration and return their names."""
    for name, fields in rows.items():
        c.variants[name.replace(".", "p")] = fields
    return tuple(name.replace(".", "p") for name in rows)


def student_config(arg: str = ""):
    """Return a configuration of five seeds whose rows start from one pretrained student a seed;
    with the argument "tiny" one that only shows that everything works.
    """
    c = quickstart.get_config()
    c.seeds, c.students = (0, 1, 2, 3, 4), "runs/evidence/students"
    c.segment.strategy = "location"
    c.data.n_validation = 100
    if "tiny" in arg.split(","):
        c.seeds, c.students = (0,), ""
        c.model.d_model, c.model.d_ff, c.model.n_heads, c.model.d_kv = 16, 32, 2, 8
        c.model.n_encoder_layers = c.model.n_decoder_layers = 1
        c.pretrain.data.n_train, c.pretrain.data.n_validation, c.pretrain.data.n_test = 64, 8, 8
        c.pretrain.train.tokens = c.train.tokens = 20_000
        c.data.n_test = c.data.n_validation = 8
    return c
