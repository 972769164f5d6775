"""The plain layers of T5: dense maps without bias, RMS norm, embedding, MLP. Parameters are float32
(or ``Int8``) with logical axis names, and cast to the activations' dtype where they are used.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import PartitionSpec

from asesjax.core.types import BATCH_AXES, Params
from asesjax.models.t5_config import T5Config

MATRICES = ("kernel", "embedding")  # names of the leaves that products read in the model's dtype


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8:
    """A matrix for decoding, int8 [in, out] times float32 scales [1, out]; the embedding [V, D] by
    [V, 1] (weight-only quantisation, ours). Products run in the activations' dtype and are scaled
    afterwards, so that a step reads a quarter of the weights' float32 bytes.
    """

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


def param(module: nn.Module, name: str, init, shape: tuple[int, ...], axes: tuple[str, ...]):
    """Declare a float32 parameter of ``module`` with logical axis names."""
    return module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)


def axis_names(boxed_init: Callable[[jax.Array], Params]) -> Params:
    """Return the tree of parameters that a function of a key draws, as tuples of axis names."""
    boxed = jax.eval_shape(boxed_init, jax.random.key(0))
    is_box = lambda x: isinstance(x, nn.LogicallyPartitioned)  # noqa: E731
    return jax.tree.map(lambda box: box.names, boxed, is_leaf=is_box)


def path_name(path: tuple) -> str:
    """Return the name of a parameter from its path in jax's trees: "encoder/encoder_norm/scale"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


class Dense(nn.Module):
    """``x @ kernel`` with a kernel [in, features] and no bias, summed in ``out_dtype``."""

    features: int
    axes: tuple[str, str]
    stddev: float
    out_dtype: jnp.dtype | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., in] to [..., features]."""
        init = nn.initializers.normal(self.stddev)
        kernel = param(self, "kernel", init, (x.shape[-1], self.features), self.axes)
        if isinstance(kernel, Int8):
            values = kernel.values.astype(x.dtype)
            product = jnp.matmul(x, values, preferred_element_type=jnp.float32)
            return (product * kernel.scales[0]).astype(self.out_dtype or x.dtype)
        return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=self.out_dtype)


class RMSNorm(nn.Module):
    """T5's layer norm: no mean subtracted, no bias, computed in float32."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise the last axis of [..., D]; the result has the dtype of ``x``."""
        scale = param(self, "scale", nn.initializers.ones, (x.shape[-1],), ("embed",))
        wide = x.astype(jnp.float32)
        variance = jnp.mean(wide * wide, axis=-1, keepdims=True)
        return (wide * jax.lax.rsqrt(variance + self.epsilon) * scale).astype(x.dtype)


class Embed(nn.Module):
    """The token table, read by the encoder, the decoder and, where tied, the output."""

    config: T5Config

    def setup(self) -> None:
        """Declare the table [V, D]."""
        shape, init = (self.config.vocab_size, self.config.d_model), nn.initializers.normal(1.0)
        self.embedding = param(self, "embedding", init, shape, ("vocab", "embed"))

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Look up int32 ids [...] as [..., D]."""
        dtype = self.config.activation_dtype
        if isinstance(self.embedding, Int8):
            parts = self.embedding.values, self.embedding.scales
            values, scales = (jnp.take(replicate(x), tokens, axis=0) for x in parts)
            return (values * scales).astype(dtype)
        # Cast after the lookup, so that gradients of a frequent id add up in float32.
        return jnp.take(replicate(self.embedding), tokens, axis=0).astype(dtype)

    def attend(self, hidden: jax.Array) -> jax.Array:
        """Score hidden [..., D] against every row: float32 [..., V]."""
        table = self.embedding
        int8 = isinstance(table, Int8)
        rows = (table.values if int8 else table).astype(hidden.dtype)
        scores = jnp.einsum("...d,vd->...v", hidden, rows, preferred_element_type=jnp.float32)
        return scores * table.scales[:, 0] if int8 else scores


class MLP(nn.Module):
    """The feed-forward block: ``relu(x wi) wo``, or ``(act(x wi_0) * (x wi_1)) wo``."""

    config: T5Config

    @nn.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        """Map [B, S, D] to [B, S, D]."""
        c = self.config

        def wide(name: str) -> jax.Array:
            return Dense(c.d_ff, ("embed", "mlp"), c.d_model**-0.5, name=name)(x)

        if c.mlp == "relu":
            inner = nn.relu(wide("wi"))
        else:
            act = nn.silu if c.mlp == "gated-silu" else nn.gelu  # T5's, by tanh
            inner = act(wide("wi_0")) * wide("wi_1")
        inner = dropout(c)(inner, deterministic=deterministic)
        return Dense(c.d_model, ("mlp", "embed"), c.d_ff**-0.5, name="wo")(inner)


def replicate(x: jax.Array) -> jax.Array:
    """Give every device all of ``x``, on the mesh that ``sharding.place.on_mesh`` set. Looking up
    in a table cut along its width would leave every device with all rows of the batch.
    """
    return on_known_mesh(x)


def shard_rows(x: jax.Array, *others: str | None) -> jax.Array:
    """Cut [B, ...] along its rows, and what follows along ``others``, on the mesh of ``on_mesh``.
    The compiler does not know that a loop's carry comes in cut by rows: it would cut it along the
    width and collect all rows on every device in each turn.
    """
    return on_known_mesh(x, BATCH_AXES, *others)


def on_known_mesh(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """Lay the dimensions of ``x`` along axes of the known mesh, where these divide them."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    fits = lambda n, axis: axis and n % math.prod(mesh.shape[a] for a in np.atleast_1d(axis)) == 0  # noqa: E731
    spec = [axis if fits(n, axis) else None for n, axis in zip(x.shape, axes, strict=False)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def dropout(config: T5Config, name: str | None = None) -> nn.Dropout:
    """T5's dropout: one mask for all positions of a row, which is cheap and what T5 trains with."""
    return nn.Dropout(config.dropout, broadcast_dims=(-2,), name=name)
