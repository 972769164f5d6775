"""The training state and where its arrays live."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from asesjax.core.types import Params
from asesjax.sharding.place import replicated


class TrainState(NamedTuple):
    """Everything that a training step changes.

    Attributes:
      step: int32 scalar, optimizer steps finished.
      params: nested dict of float32 arrays: what is evaluated, kept and handed on. With
        ``train.ema_decay`` the average of those that are trained.
      opt_state: of the optax transformation; with ``train.ema_decay`` an ``optim.Averaged``, which
        holds the parameters that are trained.
    """

    step: jax.Array
    params: Params
    opt_state: Any


def create(optimizer: optax.GradientTransformation, params: Params) -> TrainState:
    """Return the state before the first step. Pure; jit it with ``out_shardings``."""
    return TrainState(jnp.int32(0), params, optimizer.init(params))


def state_target(
    optimizer: optax.GradientTransformation,
    shapes: Params,
    param_shardings: Params,
    mesh: Mesh,
) -> TrainState:
    """Describe the state: shape, dtype and sharding of every leaf, without computing one.

    Optimizer arrays that mirror a parameter lie where it lies; everything else is replicated. That
    is small: counts, and Adafactor's factored moments, a vector for each axis of a kernel (0.3 %
    of T5-small's parameters, 0.1 % of T5-11B's).

    Args:
      optimizer: the optax transformation.
      shapes: parameters as anything with shape and dtype.
      param_shardings: a NamedSharding for each parameter.
      mesh: of the shardings.

    Returns:
      A state of ``ShapeDtypeStruct`` leaves.
    """
    abstract = jax.eval_shape(lambda p: create(optimizer, p), shapes)
    params = {
        path: (leaf.shape, on)
        for (path, leaf), on in zip(
            jax.tree.leaves_with_path(shapes), jax.tree.leaves(param_shardings), strict=True
        )
    }

    def describe(path, leaf):
        # The path of a mirror ends with the parameter's own.
        for start in range(len(path)):
            shape, on = params.get(path[start:], (None, None))
            if shape == leaf.shape:
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh))

    return jax.tree.map_with_path(describe, abstract)


def shardings(target: TrainState) -> TrainState:
    """Return the shardings of a described state."""
    return jax.tree.map(lambda leaf: leaf.sharding, target)


def init_state(
    optimizer: optax.GradientTransformation,
    target: TrainState,
    init_fn: Callable[[jax.Array], Params],
    key: jax.Array,
) -> TrainState:
    """Draw parameters and make the first state, each device making only its own shards.

    Args:
      optimizer: the optax transformation.
      target: from ``state_target``.
      init_fn: PRNG key -> parameters.
      key: the key.
    """
    first = jax.jit(lambda k: create(optimizer, init_fn(k)), out_shardings=shardings(target))
    return first(key)


def state_from_params(
    optimizer: optax.GradientTransformation, target: TrainState, params: Params
) -> TrainState:
    """Make the first state from given parameters, which stay the caller's own.

    Args:
      optimizer: the optax transformation.
      target: from ``state_target``.
      params: arrays of the target's shapes, on any devices or on the host.
    """
    # Training donates the state, so it must not share memory with what the caller holds.
    place = lambda leaf, want: jax.device_put(leaf, want.sharding, may_alias=False)  # noqa: E731
    params = jax.tree.map(place, params, target.params)
    out = shardings(target)
    opt_state = jax.jit(optimizer.init, out_shardings=out.opt_state)(params)
    return TrainState(jax.device_put(np.int32(0), out.step), params, opt_state)
