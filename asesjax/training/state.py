"""The training state: where its arrays lie, and which run it belongs to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from asesjax.core.errors import UserError
from asesjax.core.types import Params
from asesjax.sharding.place import replicated

# Fields whose change makes it another run, as does the number of steps; others change rounding.
_IDENTITY = (
    "batch_size", "beta1", "beta2", "clip_norm", "ema_decay", "final_share", "label_smoothing",
    "learning_rate", "normalize", "optimizer", "packed_length", "rate_factors", "schedule",
    "source_buckets", "target_buckets", "warmup_share", "weight_decay", "z_loss",
)  # fmt: skip


class TrainState(NamedTuple):
    """Everything that a training step changes."""

    step: jax.Array  # int32 scalar, optimizer steps finished
    params: Params  # float32; with ``train.ema_decay`` the average of those that are trained
    opt_state: Any  # of optax; with ``train.ema_decay`` ``optim.Averaged``, with trained parameters


def state_target(
    optimizer: optax.GradientTransformation, shapes: Params, param_shardings: Params, mesh: Mesh
) -> TrainState:
    """Describe the state as ``ShapeDtypeStruct`` leaves with shardings, without computing one.
    Optimizer arrays that mirror a parameter lie where it lies; the rest is replicated, which is
    small (Adafactor's factored moments are 0.3 % of T5-small's parameters).
    """
    create = lambda p: TrainState(jnp.int32(0), p, optimizer.init(p))  # noqa: E731
    abstract = jax.eval_shape(create, shapes)
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
    """Draw parameters and make the first state; each device makes only its own shards."""
    out = shardings(target)
    params = jax.jit(init_fn, out_shardings=out.params)(key)
    return _first(optimizer, out, params)


def state_from_params(
    optimizer: optax.GradientTransformation, target: TrainState, params: Params
) -> TrainState:
    """Make the first state from a copy of given parameters, on any devices or on the host."""
    # Training donates the state, so it must not share memory with what the caller holds.
    place = lambda leaf, want: jax.device_put(leaf, want.sharding, may_alias=False)  # noqa: E731
    params = jax.tree.map(place, params, target.params)
    return _first(optimizer, shardings(target), params)


def _first(optimizer: optax.GradientTransformation, out: TrainState, params: Params) -> TrainState:
    opt_state = jax.jit(optimizer.init, out_shardings=out.opt_state)(params)
    return TrainState(jax.device_put(np.int32(0), out.step), params, opt_state)


def identity(train: Any, n_steps: int, n_examples: int, seed: int) -> dict[str, Any]:
    """Return what a resumed run must share with its beginning, as JSON values for the cursor."""
    fields = {f"train.{name}": getattr(train, name) for name in _IDENTITY}
    fields = {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}
    return fields | {"optimizer steps": n_steps, "training examples": n_examples, "seed": seed}


def check_identity(wanted: dict[str, Any], cursor: dict[str, Any], workdir: Path) -> None:
    """Refuse the checkpoint of another run: its cursor differs from ``identity``."""
    wrong = [
        f"{name} was {cursor[name]!r} and is now {value!r}"
        for name, value in wanted.items()
        if name in cursor and cursor[name] != value
    ]
    if wrong:
        raise UserError(
            f"{workdir} holds checkpoints of another run: {'; '.join(wrong)}; restore that, or "
            "give another workdir"
        )
