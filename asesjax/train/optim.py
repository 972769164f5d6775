"""Optimizers and learning-rate schedules from the ``train`` section of the configuration."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from asesjax.core.errors import UserError, unknown
from asesjax.core.types import Params

Schedule = Callable[[jax.Array], jax.Array]

# Field -> (lower bound, may equal it, upper bound, may equal it).
_RANGES = {
    "learning_rate": (0.0, False, float("inf"), False),
    "warmup_share": (0.0, True, 1.0, False),
    "final_share": (0.0, True, 1.0, True),
    "weight_decay": (0.0, True, float("inf"), False),
    "beta1": (0.0, True, 1.0, False),
    "beta2": (0.0, True, 1.0, False),
    "clip_norm": (0.0, True, float("inf"), False),
    "label_smoothing": (0.0, True, 1.0, False),
    "z_loss": (0.0, True, float("inf"), False),
    "batch_size": (1, True, float("inf"), False),
    "microbatches": (1, True, float("inf"), False),
    "log_every_steps": (1, True, float("inf"), False),
    "save_every_steps": (0, True, float("inf"), False),
    "stop_after_steps": (0, True, float("inf"), False),
}


def check(train: Any) -> None:
    """Check the numbers of the ``train`` section.

    Args:
      train: the section.

    Raises:
      UserError: a number out of its range, or a batch that the microbatches do not divide.
    """
    for name, (low, low_in, high, high_in) in _RANGES.items():
        value = train[name]
        above = value > low or (low_in and value == low)
        below = value < high or (high_in and value == high)
        if not (above and below):
            left, right = "[" if low_in else "(", "]" if high_in else ")"
            raise UserError(f"train.{name} must be in {left}{low}, {high}{right}, got {value}")
    if train.batch_size % train.microbatches:
        raise UserError(
            f"train.batch_size {train.batch_size} must be divisible by train.microbatches "
            f"{train.microbatches}"
        )


def make_schedule(train: Any, total_steps: int) -> Schedule:
    """Return the learning rate as a function of the step.

    Linear warm-up over ``warmup_share`` of the steps to ``learning_rate``, then: ``cosine`` falls
    to ``final_share`` of it at the last step; ``inverse_square_root`` falls as
    ``sqrt(warmup / step)``; ``constant`` stays. The first step's rate is not 0.

    Args:
      train: the ``train`` section.
      total_steps: of the run.

    Returns:
      int32 scalar steps finished before the update -> float32 scalar rate of that update. Traced,
      so a new rate never compiles anew.

    Raises:
      UserError: unknown schedule.

    Example:
      >>> from asesjax.core.config import base_config
      >>> train = base_config().train
      >>> train.schedule, train.learning_rate, train.warmup_share = "constant", 1.0, 0.5
      >>> [round(float(make_schedule(train, 4)(s)), 2) for s in range(4)]
      [0.5, 1.0, 1.0, 1.0]
    """
    warmup = max(1, round(train.warmup_share * total_steps))
    peak, last = train.learning_rate, train.final_share

    def cosine(update):
        done = jnp.clip((update - warmup) / max(1, total_steps - warmup), 0.0, 1.0)
        return last + (1.0 - last) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))

    shapes = {
        "cosine": cosine,
        "inverse_square_root": lambda update: jnp.sqrt(warmup / jnp.maximum(update, warmup)),
        "constant": jnp.ones_like,
    }
    if train.schedule not in shapes:
        raise unknown("train.schedule", train.schedule, shapes)
    shape = shapes[train.schedule]

    def schedule(step):
        update = jnp.asarray(step, jnp.float32) + 1.0
        return peak * jnp.minimum(1.0, update / warmup) * shape(update)

    return schedule


def decay_mask(params: Params) -> Params:
    """Mark the parameters that weight decay shrinks: kernels and embeddings.

    Norm scales, biases and the tables of relative position biases are left alone: pulling them to
    0 would switch the feature off rather than regularise it.

    Args:
      params: a tree of arrays.

    Returns:
      The same tree of bools.
    """

    def decays(path, leaf):
        names = jax.tree_util.keystr(path)
        return leaf.ndim > 1 and "rel_embedding" not in names and "scale" not in names

    return jax.tree.map_with_path(decays, params)


def make_optimizer(train: Any, total_steps: int) -> optax.GradientTransformation:
    """Build AdamW or Adafactor with clipping, schedule and decoupled weight decay.

    Adafactor is that of Shazeer & Stern 2018 as T5 uses it: factored second moments, update
    clipping at 1, steps scaled by the size of the parameter, no momentum. So its
    ``learning_rate`` is relative: T5 fine-tunes with 1e-3, constant. In both, weight decay is
    multiplied by the learning rate (``optax.adafactor`` would not).

    Args:
      train: the ``train`` section.
      total_steps: of the run.

    Raises:
      UserError: unknown optimizer or schedule, or a number out of its range.
    """
    check(train)
    rules = {
        "adamw": [optax.scale_by_adam(b1=train.beta1, b2=train.beta2)],
        "adafactor": [
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_param_block_rms(),
        ],
    }
    if train.optimizer not in rules:
        raise unknown("train.optimizer", train.optimizer, rules)
    chain = list(rules[train.optimizer])
    if train.clip_norm:
        chain.insert(0, optax.clip_by_global_norm(train.clip_norm))
    if train.weight_decay:
        chain.append(optax.add_decayed_weights(train.weight_decay, mask=decay_mask))
    chain.append(optax.scale_by_learning_rate(make_schedule(train, total_steps)))
    return optax.chain(*chain)
