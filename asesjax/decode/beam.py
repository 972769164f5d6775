"""Beam search over one segment, compiled as one loop, with the semantics of transformers 5.

Hypotheses, scores and the moment a row stops are those of ``generate(num_beams=K, do_sample=False,
length_penalty=..., max_new_tokens=...)`` with ``suppress_tokens`` for ids that may not be written.
But a row's beams share the cross keys and values of their question, never copied nor moved.

Shapes: B rows, K = ``spec.beams``, S source length, T = ``spec.segment_buffer``, V vocabulary rows.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from asesjax.core.types import Params
from asesjax.decode.segment import SegmentState, own_cache, where_rows, with_own
from asesjax.decode.spec import PAD, DecodeSpec
from asesjax.models import t5
from asesjax.models.t5_config import T5Config

# Score of what does not exist yet. Not -inf: where a vocabulary has too few ids for all beams,
# transformers fills up with it, and so do we.
NOTHING = -1e9


class Hypotheses(NamedTuple):
    """The K best hypotheses of every row, the best first; natural log probabilities, float32."""

    ids: jax.Array  # [B, K, T] int32, 0 after the end; the end mark is not kept
    length: jax.Array  # [B, K] int32
    score: jax.Array  # [B, K], log probability over ``n ** length_penalty``, n with the end mark
    log_probability: jax.Array  # [B, K] of all V rows' softmax, end mark included
    token_log_probability: jax.Array  # [B, K, T] of each of ``ids``
    end: jax.Array  # [B, K] int32, the end mark; 0 where the bound cut it
    nonfinite: jax.Array  # [B] bool, the logits were: all hypotheses of the row are empty
    steps: jax.Array  # [B] int32, decoder steps until the row stopped


class _Best(NamedTuple):
    """The best finished hypotheses of a row so far, the best first."""

    ids: jax.Array  # [B, K, T], the end mark included
    log_p: jax.Array  # [B, K, T], of each id
    score: jax.Array  # [B, K]
    length: jax.Array  # [B, K], the end mark included
    finished: jax.Array  # [B, K] bool; False: there are fewer


class _Search(NamedTuple):
    step: jax.Array  # scalar
    caches: tuple  # of the layers: self keys and values [B, K, H, T, head]
    last: jax.Array  # [B, K] ids fed next
    ids: jax.Array  # [B, K, T] of the open beams
    log_p: jax.Array  # [B, K, T]
    score: jax.Array  # [B, K], their log probabilities
    best: _Best
    over: jax.Array  # [B] bool
    nonfinite: jax.Array  # [B] bool
    steps: jax.Array  # [B]


@functools.partial(jax.jit, static_argnames=("config", "spec"))
def beam_search(
    config: T5Config, params: Params, source: jax.Array, bound: jax.Array, spec: DecodeSpec
) -> Hypotheses:
    """Search the best targets of a batch of sources; a row does not depend on the others.
    ``source`` is int32 [B, S] with end of sequence, 0 after it; rows of padding alone stop at once,
    with empty hypotheses. ``bound``, one number or [B], is the longest target with its end mark. A
    hypothesis of n tokens, its end mark included, scores its log probability divided by
    ``n ** length_penalty``. With one beam the search is greedy.
    """
    bound = jnp.broadcast_to(bound, source.shape[:1])
    b, k, room = source.shape[0], spec.beams, spec.segment_buffer
    n_kept = (1 + len(spec.end_ids)) * k
    # Divisors of lengths 0 .. T, as Python computes them and not as the device would.
    lengths = np.arange(1, room + 1, dtype=np.float64)
    divisor = jnp.asarray([1.0, *(lengths**spec.length_penalty)], jnp.float32)
    ids = jnp.arange(config.vocab_size)
    allowed = (ids < spec.vocab_limit) & (ids != PAD)

    cache = t5.start_cache(config, params, t5.encode(config, params, source), source, room)
    # Axis 1 of what every beam has for itself; the rest is the row's.
    own_axes = jax.tree.map(lambda _: 1, own_cache(cache))
    axes = with_own(jax.tree.map(lambda _: None, cache), own_axes)
    step_beams = jax.vmap(
        functools.partial(t5.decode_step, config, params), (axes, 1, None), (1, axes)
    )

    def advance(s: _Search) -> _Search:
        logits, stepped = step_beams(with_own(cache, s.caches), s.last, jnp.full(b, s.step))
        log_p = jax.nn.log_softmax(logits, axis=-1)
        log_p = jnp.where(allowed, log_p, jnp.where(jnp.isnan(log_p), jnp.nan, -jnp.inf))
        log_p = (log_p + s.score[:, :, None]).reshape(b, -1)
        # A beam has as many ends as there are end marks, so of these at least K go on.
        score, flat = jax.lax.top_k(log_p, n_kept)
        parent, token = flat // config.vocab_size, (flat % config.vocab_size).astype(jnp.int32)
        here = jnp.arange(room) == s.step
        written = jnp.where(here, token[:, :, None], _pick(s.ids, parent))
        gained = score - _pick(s.score, parent)
        gained = jnp.where(here, gained[:, :, None], _pick(s.log_p, parent))
        n = s.step + 1
        ends = (n >= bound)[:, None] | spec.ends(token)
        # NaN counts as the highest score, so it would be among these.
        nonfinite = s.nonfinite | (~s.over & jnp.isnan(score).any(axis=1))

        running = score + jnp.where(ends, NOTHING, 0.0)
        running, going_on = jax.lax.top_k(running, k)
        parent = _pick(parent, going_on)
        caches = jax.tree.map(lambda x: _pick(x, parent), own_cache(stepped))

        # Only the K best may finish; the others were fetched to go on in their place.
        finishes = ends & (jnp.arange(n_kept) < k)
        new = _Best(
            ids=written,
            log_p=gained,
            score=score / divisor[n] + jnp.where(finishes, 0.0, NOTHING),
            length=jnp.full((b, n_kept), n),
            finished=finishes,
        )
        both = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), s.best, new)
        _, kept = jax.lax.top_k(both.score, k)
        best = jax.tree.map(lambda x: _pick(x, kept), both)
        best = where_rows(s.over, s.best, best)

        # A row stops when its best open beam scores below K finished hypotheses.
        worst = jnp.where(best.finished.all(axis=1), best.score.min(axis=1), NOTHING)
        over = s.over | nonfinite | (n >= bound) | ~(running[:, 0] / divisor[n] > worst)
        if k == 1:
            over |= best.finished.all(axis=1)
        return _Search(
            step=n,
            caches=caches,
            last=_pick(token, going_on),
            ids=_pick(written, going_on),
            log_p=_pick(gained, going_on),
            score=running,
            best=best,
            over=over,
            nonfinite=nonfinite,
            steps=s.steps + ~s.over,
        )

    zeros, nowhere = jnp.zeros((b, k), jnp.int32), jnp.zeros((b, k, room), jnp.int32)
    no_log_p = jnp.zeros((b, k, room), jnp.float32)
    start = _Search(
        step=jnp.int32(0),
        caches=jax.tree.map(lambda x: jnp.repeat(x[:, None], k, axis=1), own_cache(cache)),
        last=zeros,
        ids=nowhere,
        log_p=no_log_p,
        # All beams start as one: the others must not write the same a second time.
        score=jnp.broadcast_to(jnp.where(jnp.arange(k) == 0, 0.0, NOTHING), (b, k)),
        best=_Best(nowhere, no_log_p, jnp.full((b, k), NOTHING), zeros, jnp.zeros((b, k), bool)),
        over=(source == PAD).all(axis=1),
        nonfinite=jnp.zeros(b, bool),
        steps=jnp.zeros(b, jnp.int32),
    )
    s = jax.lax.while_loop(lambda s: ~s.over.all(), advance, start)

    best = s.best
    there = best.finished & ~s.nonfinite[:, None]
    length = jnp.where(there, best.length, 0)
    last = jnp.take_along_axis(best.ids, jnp.maximum(length - 1, 0)[:, :, None], axis=2)[:, :, 0]
    done = there & spec.ends(last)
    text = length - done
    score = jnp.where(there, best.score, 0.0)
    in_text = jnp.arange(room) < text[:, :, None]
    return Hypotheses(
        ids=jnp.where(in_text, best.ids, PAD),
        length=text,
        score=score,
        log_probability=score * divisor[length],
        token_log_probability=jnp.where(in_text, best.log_p, 0.0),
        end=jnp.where(done, last, 0),
        nonfinite=s.nonfinite,
        steps=s.steps,
    )


def write_segment(
    config: T5Config, params: Params, context: jax.Array, segment: SegmentState, spec: DecodeSpec
) -> SegmentState:
    """Write the best segment of every row that is not over: what ``segment.advance`` does a token
    at a time. ``context`` is int32 [B, S], with end of sequence.
    """
    found = beam_search(
        config,
        params,
        jnp.where(segment.over[:, None], PAD, context),
        jnp.where(segment.over, 1, segment.bound),
        spec,
    )
    live = ~segment.over
    return segment._replace(
        step=jnp.where(live, found.steps, 0),
        ids=found.ids[:, 0],
        log_probabilities=found.token_log_probability[:, 0],
        over=jnp.ones_like(live),
        end=jnp.where(live, found.end[:, 0], PAD),
        nonfinite=live & found.nonfinite,
        log_probability=jnp.where(live, found.log_probability[:, 0], 0.0),
    )


def _pick(x: jax.Array, beams: jax.Array) -> jax.Array:
    """Take beams [B, N] of x [B, M, ...]: [B, N, ...]."""
    return jnp.take_along_axis(x, beams.reshape(*beams.shape, *[1] * (x.ndim - 2)), axis=1)
