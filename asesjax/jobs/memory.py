"""Whether training fits a device, told by shapes alone: nothing is compiled, no array is made."""

import math
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

from asesjax.core.errors import UserError
from asesjax.models.t5_config import T5Config
from asesjax.run import Run, device_bytes, placed_shapes, run_mesh
from asesjax.sharding.place import divisible, on_mesh
from asesjax.training.objective import as_objective
from asesjax.training.optim import make_optimizer, without_frozen
from asesjax.training.state import state_target

GIB = 2**30
# What is told is 1.0 to 1.4 times what the compiler takes on a CPU, of which some is computed again
# (models of 14 KiB to 170 MiB). So only what exceeds the memory by more is refused.
_SURE = 1.5
_EXAMPLES_A_ROW = 32  # of a packed batch, the second axis of example_index: a few bytes


def batch_shapes(
    rows: int, source: int, target: int, packed: bool, sharding: Sharding | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
    """Describe the arrays of a training batch."""

    def of(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=sharding)

    batch = {
        "encoder_input_tokens": of(source),
        "decoder_input_tokens": of(target),
        "decoder_target_tokens": of(target),
        "decoder_loss_weights": of(target, dtype=jnp.float32),
        "example_index": of(_EXAMPLES_A_ROW) if packed else of(),
    }
    if packed:
        batch |= {"encoder_segment_ids": of(source), "decoder_segment_ids": of(target)}
    return batch


def check_memory(
    run: Run, model: T5Config, source: int, target: int, dry: bool
) -> tuple[str, int]:
    """Return in words what a step of the longest batch takes of a device and what there is, and in
    how many parts it is computed: as many as fit, where ``train.microbatches`` is 0. Raises
    UserError where it cannot fit, with the ``train.microbatches`` that would. Unless ``dry``, small
    models are not looked at: nothing is said.
    """
    train, mesh = run.config.train, run_mesh(run)
    shapes = placed_shapes(run, model, mesh)
    places = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    optimizer = make_optimizer(train, 1)
    params = size_on_device(shapes)
    # Gradients, and the parameters that all roles start from, beside the state.
    fixed = size_on_device(state_target(optimizer, shapes, places, mesh)) + params * (
        1 + bool(run.config.model.init_from))  # fmt: skip
    limit = device_memory()
    if not dry and fixed < limit / 100:
        return "", train.parts
    shards = divisible(1, mesh)
    batch = batch_shapes(
        train.batch_size // train.parts, source, target, bool(train.packed_length)
    )
    kept = on_mesh(mesh, _kept)(model, train, shapes, batch) * train.parts / shards

    def needed(parts: int) -> float:
        return fixed + kept / parts + params * (parts > 1)  # parts are added up

    parts = train.parts
    while needed(parts) > limit and train.batch_size % (2 * parts * shards) == 0:
        parts *= 2
    taken = parts if not train.microbatches and needed(parts) <= limit else train.parts
    said = (
        f"training takes about {_words(needed(taken))} of a device's {_words(limit)}, "
        f"{_words(kept / taken)} of it for batches of {source} x {target}, the rest for "
        "parameters, optimizer and gradients"
    )
    if parts == taken and needed(parts) <= limit:
        how = f"; a step is computed in {parts} parts" if parts > train.parts else ""
        return said + how, taken
    advice = "take a smaller model, train.remat=full or more devices"
    if needed(parts) <= limit:
        advice = f"train.microbatches={parts} computes the same step in as many parts"
    if needed(taken) > _SURE * limit:
        raise UserError(f"{said}; it does not fit: {advice}")
    return f"{said}; that may not fit: {advice}", taken


def device_memory() -> int:
    """Return the bytes of memory for a device's programs; the devices of a CPU share its memory."""
    if found := device_bytes():
        return found
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()


def _kept(model: T5Config, train: Any, params: Any, batch: Any) -> int:
    """Return the bytes of what the way forward keeps for the way back."""
    objective = as_objective(model)
    sizes: list[int] = []

    def forward(params: Any, batch: Any, key: jax.Array) -> None:
        def loss(p: Any) -> jax.Array:
            return objective.loss(without_frozen(train, p), batch, key, train).loss_sum

        held = {id(x): x for x in jax.tree.leaves(jax.vjp(loss, params)[1])}
        given = {id(x) for x in jax.tree.leaves((params, batch, key))}
        sizes.extend(x.size * x.dtype.itemsize for own, x in held.items() if own not in given)

    jax.eval_shape(forward, params, batch, jax.eval_shape(lambda: jax.random.key(0)))
    return sum(sizes)


def size_on_device(tree: Any) -> int:
    """Return the bytes of described arrays on a device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
               for leaf in jax.tree.leaves(tree))  # fmt: skip


def _words(size: float) -> str:
    return f"{size / GIB:,.1f} GiB" if size >= GIB else f"{size / 2**20:,.1f} MiB"
