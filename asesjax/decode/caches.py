"""A decoding cache seen in parts, cut to a length, and spread over a mesh.

The parts: keys and values of the segment being written, which a step changes ("own"); keys and
values of the context and its mask, which only a new context changes; the bias, which all rows
share. Shapes as in ``models.t5.start_cache``.
"""

import jax
import jax.numpy as jnp

from asesjax.models import t5
from asesjax.models.layers import rows_apart, whole

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
    return {
        "layers": jax.tree.map(lambda x: rows_apart(x, "tensor"), cache["layers"]),
        "cross_mask": rows_apart(cache["cross_mask"]),
        "bias": whole(cache["bias"]),
    }
