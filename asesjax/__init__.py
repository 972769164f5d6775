"""Learning from chain-of-thought data with small encoder-decoder models, in JAX.

    asesjax.train("smoke", "runs/smoke")
    usm = asesjax.load("runs/smoke", "usm")
    usm.generate(["Amy has 5 apples. ..."])[0].answer

``load``, ``train`` and ``segment`` are those of ``asesjax.api``. Importing the package imports
nothing else.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asesjax.api import load, segment, train

__version__ = "0.1.0"
__all__ = ["load", "segment", "train"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'asesjax' has no attribute {name!r}")
    return getattr(importlib.import_module("asesjax.api"), name)
