"""KPOD."""

from asesjax.core.config import base_config
from asesjax.core.errors import unknown


def get_config(arg: str = ""):
    c = base_config()
    c.methods = ("direct", "kpod")
    c.vocab.size, c.vocab.extra_ids = 248, 8
    c.kpod.weight_epochs = 40.0
    c.train.normalize = "examples"
    return c
