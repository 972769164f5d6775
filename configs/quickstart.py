"""The main job on embedded data: worded arithmetic, four methods, equal training tokens.

About 10 minutes on two CPU cores:
    bash launch/quickstart.sh
or, in an environment of your own:
    asesjax run --config configs/quickstart.py --workdir runs/quickstart

Why these settings: tests/benchmarks/learnability.py tries others and prints how each learns.
"""

from asesjax.core.config import base_config


def get_config(arg: str = ""):
    c = base_config()
    c.name = "quickstart"
    return c
