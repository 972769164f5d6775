"""KPOD's token weights on AS-ES segments: one weighs tokens, the other cuts and orders them.

    asesjax run --config configs/kpod.py:start --workdir runs/kpod-start
    asesjax run --config configs/ases_kpod.py:runs/kpod-start --workdir runs/ases-kpod

usm_kpod and dsm_kpod are usm and dsm with the loss weights of KPOD's weighting module on top of
gamma. As in configs/kpod.py the argument is the run that everything starts from; without it, from
random weights, every stage runs and the weights mean little.
"""

from ml_collections import ConfigDict

from asesjax.config import load_config


def get_config(arg: str = ""):
    spec = __file__.replace("ases_kpod.py", "kpod.py") + (f":{arg}" if arg else "")
    with ConfigDict(load_config(spec)).unlocked() as c:
        c.name = ""
        c.methods = ("direct", "usm", "usm_kpod", "dsm", "dsm_kpod")
    return c
