"""Shardings for parameters and batches on a mesh."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from asesjax.core.types import BATCH_AXES, Batch

Rules = Mapping[str, str | None]

# Fully sharded data parallelism cuts every kernel along the width; tensor parallelism cuts heads,
# MLP and vocabulary, so that a layer needs one sum across devices for each block.
_FSDP = {"embed": "fsdp"}
_TENSOR = {"heads": "tensor", "joined_kv": "tensor", "mlp": "tensor", "vocab": "tensor"}
PRESETS: dict[str, Rules] = {"dp": {}, "fsdp": _FSDP, "tp": _TENSOR, "fsdp_tp": _FSDP | _TENSOR}


def rules(preset: str) -> Rules:
    """Return the mesh axis of each logical axis of the parameters, such as {"embed": "fsdp"}; other
    axes are not sharded.
    """
    return PRESETS[preset]


def on_mesh(mesh: Mesh, function: Callable) -> Callable:
    """Make the mesh known to the model while ``function`` is traced; results are the same. Wrap the
    argument of ``jax.jit``, or a caller of a jitted function. Without it every device may compute
    all rows where parameters are sharded along the width (``models.layers.replicate``).
    """

    @functools.wraps(function)
    def traced(*args, **kwargs):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args, **kwargs)

    return traced


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of rows over the data and fsdp axes, other dimensions whole."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def param_shardings(mesh: Mesh, rules: Rules, axes_tree: Any, shapes: Any) -> Any:
    """Return the NamedShardings of a parameter tree. ``rules`` map logical axes to mesh axes,
    ``axes_tree`` is ``t5.logical_axes``, and ``shapes`` the parameters or their shapes. A dimension
    that its mesh axis does not divide stays whole.
    """

    def one(names: tuple[str, ...], array) -> NamedSharding:
        spec = []
        for name, size in zip(names, array.shape, strict=True):
            axis = rules.get(name)
            spec.append(axis if axis and size % mesh.shape[axis] == 0 else None)
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(one, axes_tree, shapes, is_leaf=lambda x: isinstance(x, tuple))


def put_batch(mesh: Mesh, batch: Batch) -> dict[str, jax.Array]:
    """Spread the rows of a batch over the devices; several processes of the mesh each give their
    own, and the data and fsdp axes divide all of them (``training.step.check_batch_size``).
    """
    sharding = batch_sharding(mesh)
    if not mesh.is_multi_process:
        return jax.device_put(batch, sharding)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(array))
        for name, array in batch.items()
    }


def divisible(rows: int, mesh: Mesh | None) -> int:
    """Return the next number of rows that the data axes divide."""
    parts = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    return -(-int(rows) // parts) * parts


def put_whole(tree: Any, sharding: NamedSharding) -> Any:
    """Place arrays that every process of the mesh has whole."""
    if not sharding.mesh.is_multi_process:
        return jax.device_put(tree, sharding)

    def place(x: Any) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def fetch(tree: Any, mesh: Mesh | None) -> Any:
    """Bring arrays to the host, in every process of the mesh."""
    if mesh is not None and mesh.is_multi_process:
        tree = _whole(mesh)(tree)
    return jax.device_get(tree)


@functools.lru_cache(maxsize=4)
def _whole(mesh: Mesh) -> Callable:
    return jax.jit(lambda tree: tree, out_shardings=replicated(mesh))
