"""Running a stack of equal layers: one after another or as one scanned, keeping less for backward.

The parameters stay a tree a layer (``layers_0``, ``layers_1``, ...) outside, on disk and in the
optimizer, whichever way the stack is run.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from asesjax.models.layers import shard_rows

# What the backward pass finds stored; it computes the rest again, layer by layer (T5X's "minimal"
# and "full"). "dots" is without the products of two activations: scores are larger than what they
# are made of.
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
    """Run equal layers one after another; every way gives the same numbers, dropout included.

    Scanned, the layers' parameters are stacked first and the program holds one layer, whose
    compile time does not grow with their number; stacking, taking apart and the optimizer's part
    still do. A second copy of the parameters and gradients is held meanwhile. On a CPU layers that
    keep less are always scanned.

    Args:
      layer: an unbound layer, called as ``layer(x, *args, deterministic)``.
      trees: the parameters of each layer, of equal shapes.
      x: [B, L, D].
      args: what every layer gets besides ``x``.
      key: draws dropout, for each layer anew; None for none.
      remat: ``"none"`` keeps what backward needs, ``"dots"`` the results of the parameters'
        products, ``"full"`` what goes into each layer.
      scanned: run as ``jax.lax.scan``.

    Returns:
      [B, L, D].
    """
    keys = None if key is None else jax.random.split(key, len(trees))

    def one(x, params, key):
        rngs = None if key is None else {"dropout": key}
        return layer.apply({"params": params}, x, *args, key is None, rngs=rngs)

    if remat != "none":
        # XLA for CPUs drops the barriers that hold recomputing back until backward needs it, so
        # unrolled it would save nothing; a loop does hold it back.
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
    """Of the devices that are compiled for: those of the known mesh, or the default ones."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return device.platform if device else jax.default_backend()
