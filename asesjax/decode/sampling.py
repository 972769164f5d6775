"""Choosing an id from logits: samplers by name, and the two that come with the package.

A sampler is a function ``(logits [B, V], keys [B, 2] uint32, steps [B] int32) -> ids [B] int32``.
Logits are float32, -inf where an id is not allowed; steps count the decoder steps of a row. An id
may depend on its row's logits, key and step alone. Samplers are compiled in, so they must be
hashable; what is registered makes one from the section ``decode``.

Drawing takes one uniform number a row: one for each of 32,128 ids would take longer than a small
model's step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from asesjax.core.registry import Registry

Sampler = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
SAMPLERS: Registry[Callable[[Any], Sampler]] = Registry("sampler")

_BLOCK = 128  # ids whose probabilities are summed before the id is looked for among them


def greedy(logits: jax.Array, keys: jax.Array, steps: jax.Array) -> jax.Array:
    """Return the most probable id of each row, the lowest among equals."""
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class RandomSampler:
    """Draws an id at random, with the options in transformers' order; ``DecodeOptions`` has their
    ranges.
    """

    temperature: float = 1.0  # logits are divided by it; above 0
    top_k: int = 0  # only the k most probable ids, and those as probable as the k-th; 0 for all
    top_p: float = 1.0  # of those, only the most probable that together reach this share; 1 for all

    def __call__(self, logits: jax.Array, keys: jax.Array, steps: jax.Array) -> jax.Array:
        """See the head of this file."""
        # Behind the barrier it is no constant: the compiler would multiply by its reciprocal.
        scores = logits / jax.lax.optimization_barrier(jnp.float32(self.temperature))
        if self.top_k:
            scores = _keep_top_k(scores, self.top_k)
        p = jax.nn.softmax(scores, axis=-1)
        if self.top_p < 1:
            p = _keep_top_p(p, self.top_p)

        def uniform(key, step):
            return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key), step))

        return _inverse_cdf(p, jax.vmap(uniform)(keys, steps))


SAMPLERS.register("greedy")(lambda decode: greedy)
SAMPLERS.register("sample")(lambda d: RandomSampler(d.temperature, d.top_k, d.top_p))


def log_probability(logits: jax.Array, ids: jax.Array) -> jax.Array:
    """Return natural log probabilities [B] of ids [B] under the model; not finite where logits are
    not.
    """
    chosen = jnp.take_along_axis(logits, ids[:, None], axis=-1)[:, 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def _inverse_cdf(p: jax.Array, u: jax.Array) -> jax.Array:
    """The first id whose cumulated weight exceeds u times the total: p [B, V] >= 0, u [B]. In two
    steps, blocks and then ids, which is faster and rounds less. Never an id of weight 0.
    """
    b, v = p.shape
    blocks = jnp.pad(p, ((0, 0), (0, -v % _BLOCK))).reshape(b, -1, _BLOCK)
    sums = blocks.sum(axis=-1)  # [B, N]
    block, rest = _first_above(sums, u * sums.sum(axis=-1))
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    place, _ = _first_above(inside, rest)
    return (block * _BLOCK + place).astype(jnp.int32)


def _first_above(weights: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the running sum of weights [B, N] first exceeds target [B], or else the last weight
    above 0, and what is left there.
    """
    total = jnp.cumsum(weights, axis=-1)
    above = (total > target[:, None]) & (weights > 0)
    last = weights.shape[1] - 1 - jnp.argmax(weights[:, ::-1] > 0, axis=-1)
    place = jnp.where(above.any(axis=-1), jnp.argmax(above, axis=-1), last)
    before = jnp.take_along_axis(total - weights, place[:, None], axis=-1)[:, 0]
    return place, target - before


def _keep_top_k(scores: jax.Array, k: int) -> jax.Array:
    """-inf for all scores [B, V] below the k-th highest of their row."""
    enough = lambda least: jnp.sum(scores >= least[:, None], axis=-1) >= k  # noqa: E731
    lowest = _highest_that_holds(enough, scores.shape[0])
    return jnp.where(scores >= lowest[:, None], scores, -jnp.inf)


def _keep_top_p(p: jax.Array, share: float) -> jax.Array:
    """0 for all probabilities [B, V] outside the fewest that reach ``share``, ties kept."""

    def enough(threshold):
        return jnp.sum(jnp.where(p >= threshold[:, None], p, 0.0), axis=-1) >= share

    lowest = _highest_that_holds(enough, p.shape[0])
    return jnp.where(p >= lowest[:, None], p, 0.0)


def _highest_that_holds(holds: Callable[[jax.Array], jax.Array], rows: int) -> jax.Array:
    """The highest float32 threshold [B] for which a falling condition holds, to the last bit:
    halves the range of bit patterns in 32 passes instead of a sort.
    """

    def as_float(order):
        # Floats sort as their bits do, negative ones the other way round.
        bits = jnp.where(order >= 0, order, jnp.int32(-(2**31)) - order - 1)
        return jax.lax.bitcast_convert_type(bits, jnp.float32)

    def halve(_, bounds):
        low, high = bounds  # holds at low, not at high
        middle = (low & high) + ((low ^ high) >> 1)
        good = holds(as_float(middle))
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    infinite = 0x7F800000
    start = jnp.full(rows, -infinite - 1, jnp.int32), jnp.full(rows, infinite, jnp.int32)
    low, _ = jax.lax.fori_loop(0, 32, halve, start)
    return as_float(low)
