"""Loss weights of a chain's tokens that a method finds out and others may use."""

from typing import TYPE_CHECKING, NamedTuple

from asesjax.core.registry import Registry
from asesjax.core.stages import Stage

if TYPE_CHECKING:
    from collections.abc import Callable

    from asesjax.core.options import Config
    from asesjax.run import Run


class TokenWeights(NamedTuple):
    """Where token weights come from."""

    stage: str  # that writes them
    annotations: str  # file with an array ``weights``, a float32 for each token of the chain
    # ``(run, config of the row) -> stages`` that make them, ``stage`` the last
    stages: "Callable[[Run, Config], list[Stage]]"


TOKEN_WEIGHTS: Registry[TokenWeights] = Registry("source of token weights")
