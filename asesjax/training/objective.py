"""What the training loop minimises: where parameters come from, and the loss of a batch.

Nearly every role is a T5 with teacher forcing (``sequence_to_sequence``); one with another loss or
parameters, such as KPOD's weighting module, brings its own ``Objective``.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax

from asesjax import losses
from asesjax.core.types import Params
from asesjax.models import t5
from asesjax.models.t5_config import T5Config, token_flops


@dataclasses.dataclass(frozen=True)
class Objective:
    """A model and its loss."""

    init: Callable[[jax.Array], Params]  # PRNG key -> parameters
    logical_axes: Callable[[], Params]  # names of every parameter's axes, as ``t5.logical_axes``
    # (params, batch, key, train section) -> sums of training; the key is None unless ``draws``
    loss: Callable[[Params, dict[str, jax.Array], jax.Array | None, Any], losses.LossSums]
    evaluate: Callable[[Params, dict[str, jax.Array], Any], losses.LossSums]  # deterministic
    draws: bool  # whether the training loss uses random numbers
    token_flops: Callable[[int, int], tuple[float, float]]  # as ``t5_config.token_flops``


def as_objective(model: T5Config | Objective) -> Objective:
    """Return the objective of a T5 configuration, or an objective unchanged."""
    return sequence_to_sequence(model) if isinstance(model, T5Config) else model


@functools.lru_cache(maxsize=8)
def sequence_to_sequence(config: T5Config) -> Objective:
    """Return T5 with teacher forcing and weighted cross-entropy. Evaluation has no dropout, no
    label smoothing and no z-loss.
    """

    def loss(params, batch, key, train):
        return batch_loss(
            config, params, batch, key, train.z_loss, train.label_smoothing, train.remat,
            train.scan_layers,
        )  # fmt: skip

    def evaluate(params, batch, train):
        return batch_loss(config, params, batch, scan_layers=train.scan_layers)

    return Objective(
        init=functools.partial(t5.init, config),
        logical_axes=functools.partial(t5.logical_axes, config),
        loss=loss,
        evaluate=evaluate,
        draws=config.dropout > 0,
        token_flops=functools.partial(token_flops, config),
    )


def batch_loss(
    model_config: T5Config,
    params: Params,
    batch: dict[str, jax.Array],
    dropout_key: jax.Array | None = None,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    remat: str = "none",
    scan_layers: bool = False,
) -> losses.LossSums:
    """Run the model with teacher forcing and sum its loss; no dropout where the key is None."""
    hidden = t5.forward(model_config, params, batch, dropout_key, remat, scan_layers)
    return losses.hidden_cross_entropy(
        functools.partial(t5.logits, model_config, params),
        hidden,
        batch["decoder_target_tokens"],
        batch["decoder_loss_weights"],
        z_loss,
        label_smoothing,
    )
