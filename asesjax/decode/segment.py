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
      stage: [B] int32, of the next segment.
      ended: [B] bool.
      previous: [B, L] ids of the segment before, 0 after its end.
      chains: so far.
    """

    rounds: jax.Array
    stage: jax.Array
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
      jump: [B] int32, the stage that its end mark names, -1 for none.
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
    jump: jax.Array
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
    previous = jnp.zeros((b, spec.segment_buffer), jnp.int32)
    return Progress(zeros, work.stage, empty, previous, chains)


def context_tokens(work: Work, progress: Progress, spec: DecodeSpec) -> jax.Array:
    """Encoder input [B, S] of the next segment, as the ``Frame`` of its stage says.

    S is ``spec.context_room(Q, N)``; end of sequence, then padding, follow the last part.
    """
    chains, n_frames = progress.chains, len(spec.frames)
    frame = progress.stage % n_frames

    def of_frame(values) -> jax.Array:  # one of the stage for each row
        return jnp.asarray(values)[frame]

    n_lead = [len(f.lead) for f in spec.frames]
    lead = jnp.asarray([f.lead + (PAD,) * (max(n_lead) - len(f.lead)) for f in spec.frames],
                       jnp.int32)  # fmt: skip
    parts = [(work.question, 0, (work.question != PAD).sum(axis=1))]
    if max(n_lead):
        parts.insert(0, (lead[frame], 0, of_frame(n_lead)))
    if any(f.hint for f in spec.frames) and work.hint.shape[1]:
        n_hint = (work.hint != PAD).sum(axis=1)
        parts.append((work.hint, 0, jnp.where(of_frame([f.hint for f in spec.frames]), n_hint, 0)))
    first = jnp.zeros_like(chains.length)
    if not all(f.history for f in spec.frames):
        ends = jnp.take_along_axis(chains.segment_ends, chains.n_segments[:, None] - 2, 1,
                                   mode="clip")[:, 0]  # fmt: skip
        before_last = jnp.where(chains.n_segments > 1, ends, 0)
        first = jnp.where(of_frame([f.history for f in spec.frames]), 0, before_last)
    parts.append((chains.ids, first[:, None], chains.length - first))

    place = jnp.arange(spec.context_room(work.question.shape[1], work.hint.shape[1]))[None]
    tokens, start = jnp.zeros((len(frame), place.shape[1]), jnp.int32), 0
    for ids, offset, n in parts:
        here = jnp.take_along_axis(ids, place - start + offset, axis=1, mode="clip")
        tokens = jnp.where(place >= start, here, tokens)
        start = start + n[:, None]
    return jnp.where(place < start, tokens, jnp.where(place == start, spec.eos_id, PAD))


def begin(work: Work, progress: Progress, spec: DecodeSpec) -> Segment:
    """Return the next segment of every row, before its first token."""
    b, room = work.question.shape[0], spec.segment_buffer
    zeros, no = jnp.zeros(b, jnp.int32), jnp.zeros(b, bool)
    chains = progress.chains
    left = work.limits.max_chain_tokens - chains.length
    # One bound for all segments or one for each; past the end the last.
    bound = work.limits.max_segment_tokens
    bound = jnp.take_along_axis(bound, progress.rounds[:, None], axis=1, mode="clip")[:, 0]
    n_forced = work.forced.shape[1]
    forced = jnp.zeros((b, 0), jnp.int32)
    if n_forced:
        mine = progress.rounds[:, None, None]
        forced = jnp.take_along_axis(work.forced, mine, axis=1, mode="clip")[:, 0]
        forced = jnp.where((progress.rounds < n_forced)[:, None], forced, PAD)
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
        jump=jnp.full(b, -1),
        log_probability=jnp.zeros(b, jnp.float32),
        bound=jnp.minimum(bound, left),
        before=chains.generated_tokens,
        key=work.key,
        forced=forced,
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
    jump = stage_named(token, spec)
    keep = ~broken & ~by_sentinel & ~by_eos & (jump < 0)
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
        jump=jnp.where(broken, -1, jump),
        log_probability=s.log_probability + jnp.where(broken, 0.0, log_p),
    )

    def still(old, now):
        return jnp.where(s.over.reshape(-1, *[1] * (now.ndim - 1)), old, now)

    return jax.tree.map(lambda old, now: old if old is now else still(old, now), s, new)


def judge(progress: Progress, segment: Segment, work: Work, spec: DecodeSpec) -> Progress:
    """Append each row's finished segment to its chain where it is kept, and see which chains end.

    In this order: logits not finite end the chain ``broken``, without the segment; the sentinel, a
    segment with ``stop_ids``, or the end of the last stage end it ``done``; a segment that runs in
    circles is kept and ends it ``repeated``; without ``n_stages``, an empty segment, or the one
    before again, ends it ``repeated`` without the segment; a full chain or no round left end it
    ``truncated``. Rows that had ended stay as they are.
    """
    chains, live = progress.chains, ~progress.ended
    n_ids = segment.length
    sound = live & ~segment.broken
    circles = sound & segment.circles
    done = segment.by_sentinel | _holds(segment.ids, spec.stop_ids)
    is_last = jnp.zeros_like(live)
    if spec.n_stages:
        is_last = progress.stage >= spec.n_stages - 1
        done |= is_last & ~segment.cut
    done &= sound & ~circles
    same = (segment.ids == progress.previous).all(axis=1)  # also the empty first segment
    again = sound & ~done & ~circles & (same | (n_ids == 0)) & (spec.n_stages == 0)
    keep = sound & ~again & (n_ids > 0)

    place = jnp.arange(spec.chain_buffer)[None] - chains.length[:, None]
    new = keep[:, None] & (place >= 0) & (place < n_ids[:, None])

    def joined(old, added):
        return jnp.where(new, jnp.take_along_axis(added, place, axis=1, mode="clip"), old)

    length = chains.length + jnp.where(keep, n_ids, 0)
    here = keep[:, None] & (jnp.arange(spec.round_buffer) == chains.n_segments[:, None])
    rounds = progress.rounds + live
    full = keep & ~done & (length >= work.limits.max_chain_tokens)
    full |= live & is_last & segment.cut
    broken = live & segment.broken
    ended = progress.ended | done | circles | again | full | broken
    used_up = ~ended & (rounds >= work.limits.max_rounds)
    following = jnp.where(segment.jump >= 0, segment.jump, progress.stage + 1)
    return Progress(
        rounds=rounds,
        stage=jnp.where(live, following, progress.stage),
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


def stage_named(token: jax.Array, spec: DecodeSpec) -> jax.Array:
    """Return the stage that an end mark names, int32 [B] of ids [B]; -1 for none."""
    stage = jnp.full(token.shape, -1)
    for number, mark in enumerate(spec.jump_ids):
        if mark >= 0:
            stage = jnp.where(token == mark, number, stage)
    return stage


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
