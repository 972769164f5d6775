"""Optimizers and learning-rate schedules from the ``train`` section of the configuration."""

import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from asesjax.core.errors import UserError
from asesjax.core.types import Params
from asesjax.models.layers import path_name


def check(train: Any) -> None:
    """Refuse ``train.microbatches`` that do not divide the batch, and bad rate factors."""
    if train.batch_size % train.parts:
        raise UserError(
            f"train.batch_size {train.batch_size} must be divisible by train.microbatches "
            f"{train.microbatches}"
        )
    rate_factors(train)


def horizon(train: Any, total_steps: int) -> np.ndarray:
    """Return the steps of the warm-up and of the whole training, float32 [2]."""
    return np.array([max(1, round(train.warmup_share * total_steps)), total_steps], np.float32)


def learning_rate(train: Any, step: jax.Array, horizon: jax.Array) -> jax.Array:
    """Return the learning rate of the update after so many finished steps. Linear warm-up to
    ``learning_rate``, then: "cosine" falls to ``final_share`` of it at the last step;
    "inverse_square_root" falls as ``sqrt(warmup / step)``; "constant" stays. The first step's rate
    is not 0.
    """
    warmup, total = horizon
    update = jnp.asarray(step, jnp.float32) + 1.0
    if train.schedule == "cosine":
        done = jnp.clip((update - warmup) / jnp.maximum(1.0, total - warmup), 0.0, 1.0)
        last = train.final_share
        shape = last + (1.0 - last) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
    elif train.schedule == "inverse_square_root":
        shape = jnp.sqrt(warmup / jnp.maximum(update, warmup))
    else:
        shape = 1.0
    return train.learning_rate * jnp.minimum(1.0, update / warmup) * shape


class Scheduled(NamedTuple):
    """State of ``scale_by_schedule``. The horizon is data and no constant of the program, so that
    one program trains for any number of steps.
    """

    # int32 scalar, updates so far
    count: jax.Array  # type: ignore[assignment]  # in place of tuple.count
    horizon: jax.Array  # float32 [2], as from the function
    learning_rate: jax.Array  # float32 scalar, of the last update


def scale_by_schedule(train: Any, total_steps: int) -> optax.GradientTransformation:
    """Multiply updates by minus the learning rate."""

    def init(params):
        return Scheduled(jnp.int32(0), jnp.asarray(horizon(train, total_steps)), jnp.float32(0.0))

    def update(updates, state, params=None):
        rate = learning_rate(train, state.count, state.horizon)
        updates = jax.tree.map(lambda u: -rate * u, updates)
        return updates, Scheduled(state.count + 1, state.horizon, rate)

    return optax.GradientTransformation(init, update)


def decay_mask(params: Params) -> Params:
    """Return a tree of bools: weight decay shrinks kernels and embeddings only. Norm scales, biases
    and relative position biases would be switched off rather than regularised.
    """

    def decays(path, leaf):
        names = jax.tree_util.keystr(path)
        return leaf.ndim > 1 and "rel_embedding" not in names and "scale" not in names

    return jax.tree.map_with_path(decays, params)


def rate_factors(train: Any) -> list[tuple[re.Pattern, float]]:
    """Parse ``train.rate_factors``, entries ``regex=factor`` that scale the learning rate of
    parameters; the first pattern that is found in a name counts.
    """
    factors = []
    for entry in train.rate_factors:
        pattern, equals, number = entry.rpartition("=")
        try:
            factors.append((re.compile(pattern), factor := float(number)))
            if not equals or not pattern or not 0 <= factor < float("inf"):
                raise ValueError("the factor must be a number of at least 0")
        except (ValueError, re.error) as error:
            raise UserError(
                f"train.rate_factors holds {entry!r}: {error}; expected regex=factor, such as "
                "'token_embedder=0' (frozen) or 'encoder/layers_[01]/=0.1'"
            ) from None
    return factors


def _factor(factors: list[tuple[re.Pattern, float]], path: tuple) -> float:
    return next((factor for pattern, factor in factors if pattern.search(path_name(path))), 1.0)


def _labels(factors: list[tuple[re.Pattern, float]], params: Params) -> Params:
    """Label the parameters "trained" or "frozen"; every pattern must be found in some name."""
    names = [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]
    for pattern, _ in factors:
        if not any(map(pattern.search, names)):
            raise UserError(
                f"train.rate_factors: {pattern.pattern!r} is found in no parameter's name; they "
                f"are like {', '.join(names[:: max(1, len(names) // 4)][:5])}"
            )
    label = lambda path, _: "trained" if _factor(factors, path) else "frozen"  # noqa: E731
    return jax.tree.map_with_path(label, params)


def without_frozen(train: Any, params: Params) -> Params:
    """Stop the gradient at frozen parameters, so that theirs is 0 and never computed."""
    factors = rate_factors(train)
    if all(factor for _, factor in factors):
        return params
    stop = lambda path, p: p if _factor(factors, path) else jax.lax.stop_gradient(p)  # noqa: E731
    return jax.tree.map_with_path(stop, params)


class Averaged(NamedTuple):
    """State of ``average``."""

    # int32 scalar, updates so far
    count: jax.Array  # type: ignore[assignment]  # in place of tuple.count
    weights: Params  # that are trained; those of the TrainState are their average
    inner: Any  # state of the optimizer


def average(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """Make the parameters the running average of weights that the optimizer trains. Evaluation,
    decoding and conversion so read the average; gradients are taken at the weights
    (``training_weights``). The average keeps ``min(decay, (1 + n) / (10 + n))`` of itself at update
    n, as in TensorFlow, so that it forgets where it started.
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
    """Return the parameters that gradients are taken at, from those of the TrainState."""
    return opt_state.weights if isinstance(opt_state, Averaged) else params


def make_optimizer(train: Any, total_steps: int) -> optax.GradientTransformation:
    """Build the optimizer with clipping, schedule, weight decay, frozen parameters and average.

    Adafactor is that of Shazeer & Stern 2018 as T5 uses it: factored second moments, update
    clipping at 1, steps scaled by the size of the parameter (so ``learning_rate`` is relative), no
    momentum. Raffel et al. 2020, section 3.1.2, fine-tune T5 with ``learning_rate=1e-3``,
    ``schedule="constant"``, ``warmup_share=0.0``, ``clip_norm=0.0`` and ``model.dropout=0.1``.
    ``beta1`` is the momentum of sgd. Weight decay is decoupled and multiplied by the learning rate
    (``optax.adafactor`` would not). Frozen parameters have no optimizer state and do not count in
    the clipped norm. Raises UserError as ``check`` does, and at ``init`` for a rate factor that
    matches nothing.
    """
    check(train)
    chain = {
        "adamw": [optax.scale_by_adam(b1=train.beta1, b2=train.beta2)],
        "adafactor": [
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.scale_by_param_block_rms(),
        ],
        "lion": [optax.scale_by_lion(b1=train.beta1, b2=train.beta2)],
        "sgd": [optax.trace(decay=train.beta1)],
    }[train.optimizer]
    if train.clip_norm:
        chain.insert(0, optax.clip_by_global_norm(train.clip_norm))
    if train.weight_decay:
        chain.append(optax.add_decayed_weights(train.weight_decay, mask=decay_mask))
    chain.append(scale_by_schedule(train, total_steps))
    if factors := rate_factors(train):
        scale = lambda path, u: u * _factor(factors, path)  # noqa: E731
        chain.append(optax.stateless(lambda updates, _: jax.tree.map_with_path(scale, updates)))
        kinds = {"trained": optax.chain(*chain), "frozen": optax.set_to_zero()}
        optimizer = optax.multi_transform(kinds, lambda params: _labels(factors, params))
    else:
        optimizer = optax.chain(*chain)
    return average(optimizer, train.ema_decay) if train.ema_decay else optimizer
