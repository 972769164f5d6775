"""Learning from chain-of-thought data with small encoder-decoder models, in JAX.

    asesjax.train("smoke", "runs/smoke")
    usm = asesjax.load("runs/smoke", "usm")
    usm.generate(["Amy has 5 apples. ..."])[0].answer

``load``, ``train`` and ``segment`` are those of ``asesjax.api``. Importing the package imports
nothing else.
"""

import importlib
import inspect
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asesjax.api import load, segment, train

__version__ = "0.1.0"
__all__ = ["load", "segment", "train"]


def __getattr__(name: str) -> Any:
    if name == "load":
        return _of_api(name)
    if name in __all__:
        return importlib.import_module(f"asesjax.{name}")
    raise AttributeError(f"module 'asesjax' has no attribute {name!r}")


def _of_api(name: str) -> Any:
    return getattr(importlib.import_module("asesjax.api"), name)


class CallablePackage(ModuleType):
    """A package that is also the function of its name in ``asesjax.api``."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return _of_api(self.__name__.rpartition(".")[2])(*args, **kwargs)

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(_of_api(self.__name__.rpartition(".")[2]))
