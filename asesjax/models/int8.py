"""Weights for decoding as int8 with one scale an output channel (weight-only quantisation, ours).

Products run in the activations' dtype and are scaled afterwards, so that a step bound by reading
weights reads a quarter (of float32) or half (of bfloat16).
"""

import dataclasses

import jax
import jax.numpy as jnp

from asesjax.core.types import Params

MATRICES = ("kernel", "embedding")  # names of the leaves that products read in the model's dtype


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """A matrix as int8 [in, out] times float32 scales [1, out]; the embedding [V, D] by [V, 1]."""

    values: jax.Array
    scales: jax.Array


@jax.jit
def quantize(params: Params) -> Params:
    """Round every kernel and the embedding to ``Int8``, the largest of a channel to 127. The tree
    is for ``t5.encode``, ``start_cache`` and ``decode_step``, not for training.
    """

    def one(path, leaf):
        name = path[-1].key
        if name not in MATRICES:
            return leaf
        largest = jnp.max(jnp.abs(leaf), axis=0 if name == "kernel" else 1, keepdims=True)
        scales = jnp.where(largest > 0, largest, 1.0) / 127
        return Int8(jnp.round(leaf / scales).astype(jnp.int8), scales)

    return jax.tree_util.tree_map_with_path(one, params)

