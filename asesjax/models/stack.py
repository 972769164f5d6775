"""Running equal layers, unrolled or as one scan, and storing less for the backward pass.
Checkpoints have a tree for each layer (``layers_0``, ``layers_1``, ...) either way.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from asesjax.models.layers import shard_rows

# What is stored for the backward pass, which computes the rest again, layer by layer (T5X's
# "minimal" and "full"). "dots" leaves out products of two activations: attention scores are larger
# than the queries and keys that they are computed from.
REMAT = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def run_layers(
    layer: nn.Module,
    trees: Sequence[Any],
    x: jax.Array,
    args: tuple,
    key: jax.Array | None,
    remat: str = "none",
    scanned: bool = False,
) -> jax.Array:
    """Run equal layers over [B, L, D]; every way gives the same numbers, dropout included.

    ``layer`` is unbound and called as ``layer(x, *args, deterministic)``; ``trees`` are the layers'
    parameters, ``key`` draws dropout. For the backward pass ``remat="none"`` stores what it needs,
    ``"dots"`` the products with parameters, ``"full"`` the input of each layer. ``scanned``
    compiles one layer for all, with a second copy of parameters and gradients in memory.
    """
    keys = None if key is None else jax.random.split(key, len(trees))

    def one(x, params, key):
        rngs = None if key is None else {"dropout": key}
        return layer.apply({"params": params}, x, *args, key is None, rngs=rngs)

    if remat != "none":
        # XLA for CPUs drops the barriers that delay recomputation until the backward pass needs
        # it, so unrolled layers would save nothing; a loop does delay it.
        scanned = scanned or _platform() == "cpu"
        one = jax.checkpoint(one, policy=REMAT[remat], prevent_cse=not scanned)
    if not scanned:
        for number, params in enumerate(trees):
            x = one(x, params, None if keys is None else keys[number])
        return x
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    def step(x, each):
        return shard_rows(one(x, *each)), None

    return jax.lax.scan(step, shard_rows(x), (stacked, keys))[0]


def _platform() -> str:
    """Platform of the devices that are compiled for: the known mesh's, or the default one."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()
