"""Writing one segment a row and joining it to the row's chain, a token and a segment at a time.

Everything here works on rows that have nothing to do with each other, so that the synchronous loop
(``iterative``) and the one that refills its slots (``continuous``) give the same chains: they only
differ in which rows stand side by side. Shapes as in ``spec``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from asesjax.decode.sampling import choose_token, draw_token
from asesjax.decode.spec import PAD, Chains, DecodeSpec, Sampling, Work


class Progress(NamedTuple):
    """What is known of a row between segments.

    Attributes:
      rounds: [B] int32, segments begun so far.
      ended: [B] bool.
      previous: [B, L] ids of the segment before, 0 after its end.
      chains: so far.
    """

    rounds: jax.Array
    ended: jax.Array
    previous: jax.Array
    chains: Chains


class Segment(NamedTuple):
    """A segment being written, with what its writing needs of its row.

    Attributes:
      step: [B] int32, decoder steps so far, and the position of ``last``.
      last: [B] int32, the id fed next.
      ids: [B, L], those written, 0 after the end.
      log_probabilities: [B, L] float32, of ``ids``.
      over: [B] bool.
      by_sentinel, cut, circles, broken: [B] bool, how it ended, if not by its end mark.
      log_probability: [B] float32, of all steps that were not forced.
      bound: [B] int32, most ids.
      before: [B] int32, decoder steps of the row before this segment.
      key: [B, 2], see ``Work``.
      forced: [B, F], ids it must begin with.
    """

    step: jax.Array
    last: jax.Array
    ids: jax.Array
    log_probabilities: jax.Array
    over: jax.Array
    by_sentinel: jax.Array
    cut: jax.Array
    circles: jax.Array
    broken: jax.Array
    log_probability: jax.Array
    bound: jax.Array
    before: jax.Array
    key: jax.Array
    forced: jax.Array

    @property
    def length(self) -> jax.Array:
        """[B] int32."""
        return jnp.sum(self.ids != PAD, axis=1)


def start_progress(work: Work, spec: DecodeSpec) -> Progress:
    """Return rows before their first segment; those without a question have ended."""
    b = work.question.shape[0]
    zeros, no = jnp.zeros(b, jnp.int32), jnp.zeros(b, bool)
    empty = (work.question == PAD).all(axis=1)
    chains = Chains(
        ids=jnp.zeros((b, spec.chain_buffer), jnp.int32),
        token_log_probability=jnp.zeros((b, spec.chain_buffer), jnp.float32),
        length=zeros,
        segment_ends=jnp.zeros((b, spec.round_buffer), jnp.int32),
        n_segments=zeros,
        done=empty,
        truncated=no,
        repeated=no,
        broken=no,
        generated_tokens=zeros,
        log_probability=jnp.zeros(b, jnp.float32),
    )
    return Progress(zeros, empty, jnp.zeros((b, spec.segment_buffer), jnp.int32), chains)


def context_tokens(question: jax.Array, chains: Chains, eos_id: int) -> jax.Array:
    """Encoder input [B, Q + C + 1]: question, chain so far, end of sequence, padding."""
    place = jnp.arange(question.shape[1] + chains.ids.shape[1] + 1)[None]  # [1, S]
    start = jnp.sum(question != PAD, axis=1, keepdims=True)  # [B, 1]
    end = start + chains.length[:, None]
    in_question = jnp.take_along_axis(question, place, axis=1, mode="clip")
    in_chain = jnp.take_along_axis(chains.ids, place - start, axis=1, mode="clip")
    tokens = jnp.where(place < start, in_question, in_chain)
    return jnp.where(place < end, tokens, jnp.where(place == end, eos_id, PAD))


def begin(work: Work, progress: Progress, spec: DecodeSpec) -> Segment:
    """Return the next segment of every row, before its first token."""
    b, room = work.question.shape[0], spec.segment_buffer
    zeros, no = jnp.zeros(b, jnp.int32), jnp.zeros(b, bool)
    chains = progress.chains
    left = work.limits.max_chain_tokens - chains.length
    # One bound for all segments or one for each; past the end the last.
    bound = work.limits.max_segment_tokens
    bound = jnp.take_along_axis(bound, progress.rounds[:, None], axis=1, mode="clip")[:, 0]
    return Segment(
        step=zeros,
        last=zeros,
        ids=jnp.zeros((b, room), jnp.int32),
        log_probabilities=jnp.zeros((b, room), jnp.float32),
        over=progress.ended,
        by_sentinel=no,
        cut=no,
        circles=no,
        broken=no,
        log_probability=jnp.zeros(b, jnp.float32),
        bound=jnp.minimum(bound, left),
        before=chains.generated_tokens,
        key=work.key,
        forced=jnp.where((progress.rounds == 0)[:, None], work.forced, PAD),
    )


def advance(
    segment: Segment, logits: jax.Array, sampling: Sampling, spec: DecodeSpec
) -> Segment:
    """Choose an id for every row from its logits [B, V] and write it, where the row still writes.

    Rows that are over stay as they are, to the last field.
    """
    s = segment
    ids = jnp.arange(logits.shape[1])
    scores = jnp.where((ids < spec.vocab_limit) & (ids != PAD), logits, -jnp.inf)
    if spec.sample:
        token, log_p = draw_token(scores, s.key, s.before + s.step, sampling)
    else:
        token, log_p = choose_token(scores)
    broken = ~jnp.isfinite(log_p)
    if n_forced := s.forced.shape[1]:
        wanted = jnp.take_along_axis(s.forced, s.step[:, None], axis=1, mode="clip")[:, 0]
        is_forced = (s.step < n_forced) & (wanted != PAD)
        token = jnp.where(is_forced, wanted, token)
        log_p = jnp.where(is_forced, 0.0, log_p)
    by_sentinel = ~broken & (token == spec.sentinel_id)
    by_eos = ~broken & (token == spec.eos_id)
    keep = ~broken & ~by_sentinel & ~by_eos
    at_step = keep[:, None] & (jnp.arange(s.ids.shape[1]) == s.step[:, None])
    written = jnp.where(at_step, token[:, None], s.ids)
    circles = keep & _again(written, s.step, spec.repeat_ngram)
    cut = keep & ~circles & (s.step + 1 >= s.bound)
    new = s._replace(
        step=s.step + 1,
        last=token,
        ids=written,
        log_probabilities=jnp.where(at_step, log_p[:, None], s.log_probabilities),
        over=~keep | circles | cut,
        by_sentinel=by_sentinel,
        cut=cut,
        circles=circles,
        broken=broken,
        log_probability=s.log_probability + jnp.where(broken, 0.0, log_p),
    )

    def still(old, now):
        return jnp.where(s.over.reshape(-1, *[1] * (now.ndim - 1)), old, now)

    return jax.tree.map(lambda old, now: old if old is now else still(old, now), s, new)


def judge(progress: Progress, segment: Segment, work: Work, spec: DecodeSpec) -> Progress:
    """Append each row's finished segment to its chain where it is kept, and see which chains end.

    In this order: logits not finite end the chain ``broken``, without the segment; the sentinel, a
    segment with ``stop_ids``, or the end of a ``single_segment`` end it ``done``; a segment that
    runs in circles is kept and ends it ``repeated``; an empty segment, or the one before again,
    ends it ``repeated`` without the segment; a full chain or no round left end it ``truncated``.
    Rows that had ended stay as they are.
    """
    chains, live = progress.chains, ~progress.ended
    n_ids = segment.length
    sound = live & ~segment.broken
    circles = sound & segment.circles
    done = segment.by_sentinel | _holds(segment.ids, spec.stop_ids)
    if spec.single_segment:
        done |= ~segment.cut
    done &= sound & ~circles
    same = (segment.ids == progress.previous).all(axis=1)  # also the empty first segment
    again = sound & ~done & ~circles & (same | (n_ids == 0))
    keep = sound & ~again & (n_ids > 0)

    place = jnp.arange(spec.chain_buffer)[None] - chains.length[:, None]
    new = keep[:, None] & (place >= 0) & (place < n_ids[:, None])

    def joined(old, added):
        return jnp.where(new, jnp.take_along_axis(added, place, axis=1, mode="clip"), old)

    length = chains.length + jnp.where(keep, n_ids, 0)
    here = keep[:, None] & (jnp.arange(spec.round_buffer) == chains.n_segments[:, None])
    rounds = progress.rounds + live
    full = keep & ~done & (length >= work.limits.max_chain_tokens)
    if spec.single_segment:
        full |= live & segment.cut
    broken = live & segment.broken
    ended = progress.ended | done | circles | again | full | broken
    used_up = ~ended & (rounds >= work.limits.max_rounds)
    return Progress(
        rounds=rounds,
        ended=ended | used_up,
        previous=jnp.where(live[:, None], segment.ids, progress.previous),
        chains=Chains(
            ids=joined(chains.ids, segment.ids),
            token_log_probability=joined(
                chains.token_log_probability, segment.log_probabilities
            ),
            length=length,
            segment_ends=jnp.where(here, length[:, None], chains.segment_ends),
            n_segments=chains.n_segments + keep,
            done=chains.done | done,
            truncated=chains.truncated | (live & segment.cut) | used_up,
            repeated=chains.repeated | again | circles,
            broken=chains.broken | broken,
            generated_tokens=chains.generated_tokens + jnp.where(live, segment.step, 0),
            log_probability=chains.log_probability
            + jnp.where(live, segment.log_probability, 0.0),
        ),
    )


def _again(ids: jax.Array, step: jax.Array, n: int) -> jax.Array:
    """Whether the n ids of [B, L] that end at ``step`` [B] stand there before as well: [B] bool."""
    b, room = ids.shape
    if not n or room <= n:
        return jnp.zeros(b, bool)
    last = step[:, None] + jnp.arange(1 - n, 1)  # [B, n]
    tail = jnp.take_along_axis(ids, last, axis=1, mode="clip")
    ends = jnp.arange(n - 1, room)
    match = (ends < step[:, None]) & (step >= n)[:, None]
    for offset in range(n):
        match &= ids[:, offset : offset + len(ends)] == tail[:, offset, None]
    return match.any(axis=1)


def _holds(ids: jax.Array, pattern: tuple[int, ...]) -> jax.Array:
    """Whether each row of [B, L], 0 after its end, holds the pattern: [B] bool."""
    n_places = ids.shape[1] - len(pattern) + 1
    if not pattern or n_places < 1:
        return jnp.zeros(ids.shape[0], bool)
    match = jnp.ones((ids.shape[0], n_places), bool)
    for offset, token in enumerate(pattern):
        match &= ids[:, offset : offset + n_places] == token
    return match.any(axis=1)
