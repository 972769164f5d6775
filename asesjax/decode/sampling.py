"""Choosing an id from logits: the most probable, or drawn at random.

Drawing takes one uniform number a row, not one for each id of the vocabulary: at 32,128 ids those
numbers alone would take longer than a small model's step.
"""

import jax
import jax.numpy as jnp

from asesjax.decode.spec import Sampling

_BLOCK = 128  # ids whose probabilities are summed before the id is looked for among them


def choose_token(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pick an id from each row of logits [B, V]: the most probable, the lowest among equals.

    Returns:
      ids [B] int32 and their log probabilities [B] float32, not finite where the logits are not.
    """
    return _with_log_probability(logits, jnp.argmax(logits, axis=-1).astype(jnp.int32))


def draw_token(
    logits: jax.Array, keys: jax.Array, steps: jax.Array, sampling: Sampling
) -> tuple[jax.Array, jax.Array]:
    """Draw an id for each row from its logits [B, V].

    What is drawn for a row depends on its logits, key and step alone.

    Args:
      logits: float32, -inf where an id is not allowed.
      keys: [B, 2] uint32.
      steps: [B] int32, decoder steps of the row so far.
      sampling: temperature, top k, top p.

    Returns:
      ids [B] int32 and their log probabilities [B] float32 under the model itself: temperature 1
      and all allowed ids. Not finite where the logits are not.
    """
    scores = logits / sampling.temperature
    scores = jax.lax.cond(sampling.top_k > 0, _keep_top_k, lambda s, _: s, scores, sampling.top_k)
    p = jax.nn.softmax(scores, axis=-1)
    p = jax.lax.cond(sampling.top_p < 1, _keep_top_p, lambda p, _: p, p, sampling.top_p)

    def uniform(key, step):
        return jax.random.uniform(jax.random.fold_in(jax.random.wrap_key_data(key), step))

    ids = _inverse_cdf(p, jax.vmap(uniform)(keys, steps))
    # A row of NaN would give some id; the log probability tells.
    return _with_log_probability(logits, ids)


def _with_log_probability(logits, ids):
    chosen = jnp.take_along_axis(logits, ids[:, None], axis=-1)[:, 0]
    return ids, chosen - jax.nn.logsumexp(logits, axis=-1)


def _inverse_cdf(p: jax.Array, u: jax.Array) -> jax.Array:
    """The first id whose cumulated weight exceeds u times the total: p [B, V] >= 0, u [B].

    In two steps, blocks and then ids, as cumulating over the whole vocabulary would be slow and
    round more. An id of weight 0 is never returned.
    """
    b, v = p.shape
    blocks = jnp.pad(p, ((0, 0), (0, -v % _BLOCK))).reshape(b, -1, _BLOCK)
    sums = blocks.sum(axis=-1)  # [B, N]
    block, rest = _first_above(sums, u * sums.sum(axis=-1))
    inside = jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0]
    place, _ = _first_above(inside, rest)
    return (block * _BLOCK + place).astype(jnp.int32)


def _first_above(weights: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the running sum of weights [B, N] first exceeds target [B], and what is left there.

    The last place with any weight where rounding leaves none.
    """
    total = jnp.cumsum(weights, axis=-1)
    above = (total > target[:, None]) & (weights > 0)
    last = weights.shape[1] - 1 - jnp.argmax(weights[:, ::-1] > 0, axis=-1)
    place = jnp.where(above.any(axis=-1), jnp.argmax(above, axis=-1), last)
    before = jnp.take_along_axis(total - weights, place[:, None], axis=-1)[:, 0]
    return place, target - before


def _keep_top_k(scores: jax.Array, k: jax.Array) -> jax.Array:
    """-inf for all scores [B, V] below the k-th highest of their row."""

    def enough(threshold):
        return jnp.sum(scores >= threshold[:, None], axis=-1) >= k

    lowest = _highest_that_holds(enough, scores.shape[0])
    return jnp.where(scores >= lowest[:, None], scores, -jnp.inf)


def _keep_top_p(p: jax.Array, share: jax.Array) -> jax.Array:
    """0 for all probabilities [B, V] outside the fewest that reach ``share``, ties kept."""

    def enough(threshold):
        return jnp.sum(jnp.where(p >= threshold[:, None], p, 0.0), axis=-1) >= share

    lowest = _highest_that_holds(enough, p.shape[0])
    return jnp.where(p >= lowest[:, None], p, 0.0)


def _highest_that_holds(holds, rows: int) -> jax.Array:
    """The highest float32 threshold [B] for which a falling condition holds, to the last bit.

    Found by halving the range of bit patterns, 32 passes over the row instead of a sort.
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
