"""Optimizers and learning-rate schedules from the ``train`` section of the configuration."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

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
    "ema_decay": (0.0, True, 1.0, False),
    "label_smoothing": (0.0, True, 1.0, False),
    "z_loss": (0.0, True, float("inf"), False),
    "batch_size": (1, True, float("inf"), False),
    "microbatches": (1, True, float("inf"), False),
    "log_every_steps": (1, True, float("inf"), False),
    "save_every_steps": (0, True, float("inf"), False),
}


def check(train: Any) -> None:
    """Check the numbers of the ``train`` section.

    Args:
      train: the section.

    Raises:
      UserError: a number out of its range, or a batch that the microbatches do not divide.
    """
    for name, (low, low_in, high, high_in) in _RANGES.items():
        value = getattr(train, name)
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
    rate_factors(train)


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
      >>> from asesjax.config import base_config
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


def rate_factors(train: Any) -> list[tuple[re.Pattern, float]]:
    """Read ``train.rate_factors``.

    Args:
      train: the section.

    Returns:
      Patterns and what the learning rate of the parameters they are found in is multiplied by.

    Raises:
      UserError: an entry that is not ``regex=factor``.

    Example:
      >>> from asesjax.config import base_config
      >>> train = base_config().train
      >>> train.rate_factors = ("token_embedder=0", "^encoder/=0.1")
      >>> [factor for _, factor in rate_factors(train)]
      [0.0, 0.1]
    """
    factors = []
    for entry in train.rate_factors:
        pattern, equals, number = entry.rpartition("=")
        try:
            factor, compiled = float(number), re.compile(pattern)
        except (ValueError, re.error) as error:
            raise _bad_factor(entry, str(error)) from None
        if not equals or not pattern or not 0 <= factor < float("inf"):
            raise _bad_factor(entry, "the factor must be a number of at least 0")
        factors.append((compiled, factor))
    return factors


def _bad_factor(entry: str, why: str) -> UserError:
    return UserError(
        f"train.rate_factors holds {entry!r}: {why}; expected regex=factor, such as "
        "'token_embedder=0' (frozen) or 'encoder/layers_[01]/=0.1'"
    )


def _factor(factors: list[tuple[re.Pattern, float]], path: tuple) -> float:
    """Return the factor of the first pattern found in a parameter's name, 1 for none."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return next((factor for pattern, factor in factors if pattern.search(name)), 1.0)


def _labels(factors: list[tuple[re.Pattern, float]], params: Params) -> Params:
    """Tell which parameters are trained; every pattern must be found in some name."""
    names = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree.leaves_with_path(params)
    ]
    for pattern, _ in factors:
        if not any(map(pattern.search, names)):
            raise UserError(
                f"train.rate_factors: {pattern.pattern!r} is found in no parameter's name; they "
                f"are like {', '.join(names[:: max(1, len(names) // 4)][:5])}"
            )
    label = lambda path, _: "trained" if _factor(factors, path) else "frozen"  # noqa: E731
    return jax.tree.map_with_path(label, params)


def without_frozen(train: Any, params: Params) -> Params:
    """Cut frozen parameters off from the gradient, so that theirs is 0 and never computed.

    Args:
      train: the ``train`` section.
      params: of the model.
    """
    factors = rate_factors(train)
    if all(factor for _, factor in factors):
        return params
    stop = lambda path, p: p if _factor(factors, path) else jax.lax.stop_gradient(p)  # noqa: E731
    return jax.tree.map_with_path(stop, params)


class Averaged(NamedTuple):
    """State of ``average``.

    Attributes:
      count: int32 scalar, updates so far.
      weights: the parameters that are trained; those of the TrainState are their average.
      inner: state of the optimizer.
    """

    count: jax.Array
    weights: Params
    inner: Any


def average(
    optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformation:
    """Let the parameters follow, as a running average, weights that the optimizer trains.

    So whoever reads the parameters (evaluation, decoding, conversion) has the average, and the
    weights are the optimizer's own affair; gradients are taken at them, see ``training_weights``.
    The average keeps ``min(decay, (1 + n) / (10 + n))`` of itself at update n, as in TensorFlow,
    so that it forgets where it started.

    Args:
      optimizer: of the weights.
      decay: in [0, 1).
    """

    def init(params):
        # A copy, because both are donated to the step.
        return Averaged(jnp.int32(0), jax.tree.map(jnp.copy, params), optimizer.init(params))

    def update(gradients, state, params=None):
        updates, inner = optimizer.update(gradients, state.inner, state.weights)
        weights = optax.apply_updates(state.weights, updates)
        n = state.count.astype(jnp.float32)
        share = 1.0 - jnp.minimum(decay, (1.0 + n) / (10.0 + n))
        moves = jax.tree.map(lambda p, w: share * (w - p), params, weights)
        return moves, Averaged(state.count + 1, weights, inner)

    return optax.GradientTransformation(init, update)


def training_weights(params: Params, opt_state: Any) -> Params:
    """Return the parameters that gradients are taken at.

    Args:
      params: of the TrainState.
      opt_state: of the TrainState.
    """
    return opt_state.weights if isinstance(opt_state, Averaged) else params


def make_optimizer(train: Any, total_steps: int) -> optax.GradientTransformation:
    """Build the optimizer with clipping, schedule, weight decay, frozen parameters and average.

    Adafactor is that of Shazeer & Stern 2018 as T5 uses it: factored second moments, update
    clipping at 1, steps scaled by the size of the parameter, no momentum. So its
    ``learning_rate`` is relative. T5 is fine-tuned with ``optimizer="adafactor"``,
    ``learning_rate=1e-3``, ``schedule="constant"``, ``warmup_share=0.0``, ``clip_norm=0.0`` and
    ``model.dropout=0.1`` (Raffel et al. 2020, section 3.1.2).

    ``beta1`` is the momentum of sgd, ``beta1`` and ``beta2`` are those of adamw and lion.
    Weight decay is decoupled and multiplied by the learning rate (``optax.adafactor`` would not).
    Frozen parameters have no optimizer state and do not count in the norm that is clipped.

    Args:
      train: the ``train`` section.
      total_steps: of the run.

    Raises:
      UserError: unknown optimizer or schedule, or a number out of its range; when it meets the
        parameters, a rate factor that is of none of them.
    """
    check(train)
    rules = {
        "adamw": [optax.scale_by_adam(b1=train.beta1, b2=train.beta2)],
        "adafactor": [
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_param_block_rms(),
        ],
        "lion": [optax.scale_by_lion(b1=train.beta1, b2=train.beta2)],
        "sgd": [optax.trace(decay=train.beta1)],
    }
    if train.optimizer not in rules:
        raise unknown("train.optimizer", train.optimizer, rules)
    chain = list(rules[train.optimizer])
    if train.clip_norm:
        chain.insert(0, optax.clip_by_global_norm(train.clip_norm))
    if train.weight_decay:
        chain.append(optax.add_decayed_weights(train.weight_decay, mask=decay_mask))
    chain.append(optax.scale_by_learning_rate(make_schedule(train, total_steps)))
    if factors := rate_factors(train):
        scale = lambda path, u: u * _factor(factors, path)  # noqa: E731
        chain.append(optax.stateless(lambda updates, _: jax.tree.map_with_path(scale, updates)))
        kinds = {"trained": optax.chain(*chain), "frozen": optax.set_to_zero()}
        optimizer = optax.multi_transform(kinds, lambda params: _labels(factors, params))
    else:
        optimizer = optax.chain(*chain)
    return average(optimizer, train.ema_decay) if train.ema_decay else optimizer
