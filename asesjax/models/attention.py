"""T5's attention: unscaled dot products, relative position bias, float32 softmax, key-value cache.
Stored keys and values are [B, H, L, K], the order in which a decoding step reads them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from asesjax.models.layers import Dense, dropout, param
from asesjax.models.t5_config import T5Config

# Added to masked logits. Their exponentials are exactly 0 beside any real logit, and a query with
# nothing to see gets a uniform distribution instead of NaN.
MASKED = -1e10


def relative_position_buckets(
    relative_position: np.ndarray, bidirectional: bool, n_buckets: int, max_distance: int
) -> np.ndarray:
    """Int32 buckets of relative positions, key minus query (Raffel et al. 2020, section 2.1). Half
    of a direction's buckets hold one distance each, the others grow logarithmically. If not
    ``bidirectional``, all keys after the query are at distance 0.

    Example:
      >>> relative_position_buckets(np.array([0, -1, 1, -200]), True, 32, 128).tolist()
      [0, 1, 17, 15]
    """
    if bidirectional:
        n_buckets //= 2
        first = np.where(relative_position > 0, n_buckets, 0)
        distance = np.abs(relative_position)
    else:
        first = 0
        distance = np.maximum(-relative_position, 0)
    n_exact = n_buckets // 2
    growth = np.log(np.maximum(distance, 1) / n_exact) / np.log(max_distance / n_exact)
    # The small term keeps exact powers (16, 32, 64) from falling one bucket short.
    large = n_exact + np.floor(growth * (n_buckets - n_exact) + 1e-9).astype(np.int64)
    bucket = np.where(distance < n_exact, distance, np.minimum(large, n_buckets - 1))
    return (first + bucket).astype(np.int32)


class RelativePositionBias(nn.Module):
    """A learned bias for each head and bucket, shared by the layers of a stack."""

    config: T5Config
    bidirectional: bool

    def setup(self) -> None:
        """Declare the table [H, buckets]."""
        c = self.config
        shape = (c.n_heads, c.relpos_buckets)
        init = nn.initializers.normal(c.d_model**-0.5)
        self.rel_embedding = param(self, "rel_embedding", init, shape, ("heads", "relpos_buckets"))

    def _lookup(self, relative_position: np.ndarray) -> jax.Array:
        c = self.config
        buckets = relative_position_buckets(
            relative_position, self.bidirectional, c.relpos_buckets, c.relpos_max_distance
        )
        # A product instead of a gather: its gradient is a product too, not a scatter.
        one_hot = jax.nn.one_hot(buckets, c.relpos_buckets, dtype=jnp.float32)
        return jnp.einsum("...n,hn->h...", one_hot, self.rel_embedding)

    def __call__(self, n_queries: int, n_keys: int) -> jax.Array:
        """Bias of every query and key: float32 [1, H, n_queries, n_keys]."""
        n = n_queries + n_keys
        # The bias depends on the distance alone: compute one row that holds every distance once
        # (0 .. n_keys - 1, a gap, then -n_queries + 1 .. -1) and repeat it, shifted by one a query.
        row = self._lookup(np.concatenate([np.arange(n_keys + 1), np.arange(1 - n_queries, 0)]))
        rows = jnp.tile(row, (1, n_queries))[:, : n_queries * (n - 1)]
        bias = rows.reshape(1, -1, n_queries, n - 1)[..., :n_keys]
        # Without the barrier XLA computes it again for every row of the batch.
        return jax.lax.optimization_barrier(bias)

    def by_distance(self, length: int) -> jax.Array:
        """Bias of keys 0 .. length - 1 positions before the query: float32 [length, H]."""
        return self._lookup(-np.arange(length)).T


@jax.custom_vjp
def add_shared_bias(scores: jax.Array, bias: jax.Array) -> jax.Array:
    """Add a bias [1, H, Q, L] that all rows share to scores [B, H, Q, L]. The gradient's sum over
    the batch is a product with ones, a fifth of the time of a reduction on a CPU.
    """
    return scores + bias


def _shared_bias_gradients(_, gradient):
    ones = jnp.ones(gradient.shape[0], gradient.dtype)
    return gradient, jnp.einsum("b,bhql->hql", ones, gradient)[None]


add_shared_bias.defvjp(lambda scores, bias: (scores + bias, None), _shared_bias_gradients)


class Attention(nn.Module):
    """Multi-head attention with kernels [D, H*K] and [H*K, D]."""

    config: T5Config

    def setup(self) -> None:
        """Declare the four maps; standard deviations as in Mesh TensorFlow's T5."""
        c = self.config
        joined = c.n_heads * c.d_kv
        inward = ("embed", "joined_kv")
        self.query = Dense(joined, inward, (c.d_model * c.d_kv) ** -0.5)
        self.key = Dense(joined, inward, c.d_model**-0.5)
        self.value = Dense(joined, inward, c.d_model**-0.5)
        self.out = Dense(c.d_model, ("joined_kv", "embed"), joined**-0.5)
        self.dropout = dropout(c)

    def _split(self, x: jax.Array) -> jax.Array:
        """[B, L, H*K] -> [B, H, L, K]."""
        b, length, _ = x.shape
        return x.reshape(b, length, self.config.n_heads, self.config.d_kv).swapaxes(1, 2)

    def keys_values(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values of [B, L, D], each [B, H, L, K]."""
        return self._split(self.key(x)), self._split(self.value(x))

    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | tuple[jax.Array, jax.Array],
        mask: jax.Array,
        bias: jax.Array | None,
        deterministic: bool,
    ) -> jax.Array:
        """Let ``x`` [B, Q, D] attend to ``context``, [B, L, D] or stored keys and values:
        [B, Q, D]. The bool ``mask`` (True may be seen) and the float32 ``bias`` broadcast to
        [B, H, Q, L].
        """
        k, v = context if isinstance(context, tuple) else self.keys_values(context)
        q = self._split(self.query(x))
        scores = jnp.einsum("bhqk,bhlk->bhql", q, k, preferred_element_type=jnp.float32)
        if bias is not None:
            scores = add_shared_bias(scores, bias) if bias.shape[0] == 1 else scores + bias
        scores += jnp.where(mask, 0.0, MASKED)
        # The softmax is divided by its sum after the values are mixed: K numbers a query instead
        # of L, and a backward pass without a reduction over L.
        scores -= jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
        weights = jnp.exp(scores)
        total = weights.sum(axis=-1, keepdims=True)
        weights = self.dropout(weights.astype(v.dtype), deterministic=deterministic)
        mixed = jnp.einsum("bhql,bhlk->bhqk", weights, v, preferred_element_type=jnp.float32)
        mixed = (mixed / total).astype(v.dtype).swapaxes(1, 2)
        return self.out(mixed.reshape(*mixed.shape[:2], -1))


def overwrite(cache: jax.Array, new: jax.Array, positions: jax.Array) -> jax.Array:
    """Replace the cells of ``cache`` [B, H, L, K] at ``positions`` [B] by ``new`` [B, H, 1, K]."""
    here = jnp.arange(cache.shape[2]) == positions[:, None]
    return jnp.where(here[:, None, :, None], new, cache)
