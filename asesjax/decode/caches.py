"""A decoding cache seen in parts, cut to a length, and spread over a mesh.

The parts: keys and values of the segment being written, which a step changes ("own"); keys and
values of the context and its mask, which only a new context changes; the bias, which all rows
share. Shapes as in ``models.t5.start_cache``.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from asesjax.models import t5
from asesjax.sharding.place import BATCH_AXES

OWN = ("self_key", "self_value")
CROSS = ("cross_key", "cross_value")


def split(cache: t5.Cache) -> tuple[tuple, t5.Cache]:
    """Part what a step changes, a dict a layer, from the rest."""
    own = tuple({name: layer[name] for name in OWN} for layer in cache["layers"])
    cross = tuple({name: layer[name] for name in CROSS} for layer in cache["layers"])
    return own, {**cache, "layers": cross}


def joined(own: tuple, rest: t5.Cache) -> t5.Cache:
    """Undo ``split``."""
    layers = zip(own, rest["layers"], strict=True)
    return {**rest, "layers": tuple({**a, **b} for a, b in layers)}


def per_row(cache: t5.Cache) -> t5.Cache:
    """The arrays that have a row for each row of the batch."""
    return {name: cache[name] for name in ("layers", "cross_mask")}


def up_to(rest: t5.Cache, length: int) -> t5.Cache:
    """The contexts' keys and values [B, H, S, K], and the mask, up to a length."""
    layers = tuple({k: v[:, :, :length] for k, v in layer.items()} for layer in rest["layers"])
    return {**rest, "layers": layers, "cross_mask": rest["cross_mask"][:, :length]}


def padded(cache: t5.Cache, length: int) -> t5.Cache:
    """The contexts' keys and values filled up with zeros, unseen, to a length."""
    more = length - cache["cross_mask"].shape[1]
    at_end = ((0, 0), (0, 0), (0, more), (0, 0))
    layers = tuple(
        layer | {k: jnp.pad(layer[k], at_end) for k in CROSS} for layer in cache["layers"]
    )
    mask = jnp.pad(cache["cross_mask"], ((0, 0), (0, more)))
    return {**cache, "layers": layers, "cross_mask": mask}


def spread(cache: t5.Cache) -> t5.Cache:
    """Rows over the data axes of the mesh that is known, heads over its tensor axis."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return cache

    def one(x):  # [B, H, L, K]
        heads = "tensor" if x.shape[1] % mesh.shape["tensor"] == 0 else None
        return jax.lax.with_sharding_constraint(x, PartitionSpec(BATCH_AXES, heads))

    return {
        **cache,
        "layers": jax.tree.map(one, cache["layers"]),
        "cross_mask": rows_spread(cache["cross_mask"]),
        "bias": whole(cache["bias"]),
    }


def rows_spread(x: jax.Array) -> jax.Array:
    """Rows over the data axes of the mesh that is known, where they divide them."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    parts = 1
    for axis in BATCH_AXES:
        parts *= mesh.shape[axis]
    return jax.lax.with_sharding_constraint(
        x, PartitionSpec(BATCH_AXES if x.shape[0] % parts == 0 else None)
    )


def whole(x: jax.Array) -> jax.Array:
    """On every device of the mesh that is known."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())
