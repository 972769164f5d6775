"""Iterative generation (AS-ES, section "iterative generation"), compiled as one program.

    context = question
    repeat: write a segment from the context; append its ids to the context

USM writes every segment with one set of parameters, DSM with two in turn, the extractive one first.
A method that writes its whole chain at once is the case of a single segment. Where the authors
decode one question at a time in Python and tokenise the text anew for every segment, here a batch
of questions stays on the device until all are done, and ids are appended as they are (ours).

Shapes: B rows, Q question length, C, L, R the buffers for a chain, a segment and the number of
segments; S = Q + C + 1 source length.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from asesjax.core.errors import UserError
from asesjax.core.types import Params
from asesjax.models import t5
from asesjax.models.t5_config import T5Config

PAD = 0


@dataclasses.dataclass(frozen=True)
class DecodeSpec:
    """What is compiled into the program; a change compiles it again.

    Attributes:
      vocab_limit: ids from here on are never chosen (rows of the model the tokenizer lacks).
      chain_buffer: C, tokens there is room for in a chain.
      segment_buffer: L, tokens there is room for in a segment.
      round_buffer: R, segments there is room for.
      eos_id: ends a segment.
      sentinel_id: ends the chain; -1 for none.
      stop_ids: ends the chain with the segment that holds these ids in a row; empty for none.
      single_segment: the end of the first segment is the end of the chain.
    """

    vocab_limit: int
    chain_buffer: int
    segment_buffer: int
    round_buffer: int
    eos_id: int = 1
    sentinel_id: int = -1
    stop_ids: tuple[int, ...] = ()
    single_segment: bool = False


class Limits(NamedTuple):
    """Bounds that may change from call to call without compiling again.

    Attributes:
      max_rounds: segments in a chain, those of both phases counted; at most R.
      max_segment_tokens: decoder steps in a segment, its end mark included; at most L.
      max_chain_tokens: tokens in a chain; at most C.
    """

    max_rounds: int
    max_segment_tokens: int
    max_chain_tokens: int


class Chains(NamedTuple):
    """Generated chains, one a row.

    Attributes:
      ids: [B, C] int32, the ids of all segments joined, then 0; end marks are not kept.
      length: [B] int32.
      segment_ends: [B, R] int32, where each segment ends in ``ids``; 0 past ``n_segments``.
      n_segments: [B] int32.
      done: [B] bool, the chain came to its own end.
      truncated: [B] bool, some bound cut a segment or the chain.
      repeated: [B] bool, ended because a segment was empty or that before it again.
      broken: [B] bool, ended because the logits were not finite.
      generated_tokens: [B] int32, decoder steps used, for end marks and dropped segments too.
      log_probability: [B] float32, natural, summed over those steps.
    """

    ids: jax.Array
    length: jax.Array
    segment_ends: jax.Array
    n_segments: jax.Array
    done: jax.Array
    truncated: jax.Array
    repeated: jax.Array
    broken: jax.Array
    generated_tokens: jax.Array
    log_probability: jax.Array


class _Segment(NamedTuple):
    """A segment being written; all but the first two are per row."""

    step: jax.Array  # scalar
    cache: t5.Cache
    last: jax.Array  # id fed next
    ids: jax.Array  # [B, L]
    length: jax.Array
    over: jax.Array
    by_sentinel: jax.Array
    cut: jax.Array
    broken: jax.Array
    generated_tokens: jax.Array
    log_probability: jax.Array


class _Progress(NamedTuple):
    """State between segments."""

    round: jax.Array  # scalar: segments begun so far
    ended: jax.Array  # [B] bool
    previous: jax.Array  # [B, L] ids of the segment before, 0 after its end
    chains: Chains


def generate(
    config: T5Config,
    params_by_phase: tuple[Params, ...],
    question_tokens: jax.Array,
    limits: Limits,
    spec: DecodeSpec,
) -> Chains:
    """Generate the chains of a batch of questions, greedily.

    A segment ends at ``eos_id``, at ``sentinel_id``, or when a bound cuts it; cut segments are kept
    and marked ``truncated``. After a segment, in this order:

    1. logits not finite: the chain ends ``broken``, without the segment;
    2. the sentinel, a segment with ``stop_ids``, or the end of a ``single_segment``: ``done``;
    3. an empty segment, or the one before again: the chain ends ``repeated``, without the segment;
    4. ``max_chain_tokens`` or ``max_rounds`` reached: the chain ends ``truncated``.

    A row's result does not depend on the other rows. Questions of no tokens are rows of padding:
    done at once.

    Args:
      config: shape of the model, that of every phase.
      params_by_phase: one set of parameters, or two that write segments in turn.
      question_tokens: [B, Q] int32, without end of sequence, 0 after the end.
      limits: bounds, traced.
      spec: what is compiled in.

    Returns:
      ``Chains``, on the device.

    Raises:
      UserError: limits below 1 or beyond the spec's buffers.
    """
    buffers = (spec.round_buffer, spec.segment_buffer, spec.chain_buffer)
    for (name, value), room in zip(limits._asdict().items(), buffers, strict=True):
        if not 1 <= value <= room:
            raise UserError(f"decode.{name} must be from 1 to {room}, got {value}")
    traced = Limits(*(jnp.asarray(value, jnp.int32) for value in limits))
    return _generate(config, tuple(params_by_phase), question_tokens, traced, spec)


def n_compilations() -> int:
    """Programs compiled by ``generate`` in this process, for tests."""
    return _generate._cache_size()


@functools.partial(jax.jit, static_argnames=("config", "spec"))
def _generate(config, params_by_phase, questions, limits, spec) -> Chains:
    b = questions.shape[0]
    zeros, no = jnp.zeros(b, jnp.int32), jnp.zeros(b, bool)
    empty = jnp.sum(questions != PAD, axis=1) == 0
    chains = Chains(
        ids=jnp.zeros((b, spec.chain_buffer), jnp.int32),
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
    progress = _Progress(jnp.int32(0), empty, previous, chains)

    def phase(params):
        def one(progress: _Progress) -> _Progress:
            segment = _write_segment(config, params, questions, progress, limits, spec)
            return _append(progress, segment, limits, spec)

        return one

    phases = [phase(params) for params in params_by_phase]
    progress = jax.lax.while_loop(
        lambda p: (p.round < limits.max_rounds) & ~p.ended.all(),
        lambda p: jax.lax.switch(p.round % len(phases), phases, p),
        progress,
    )
    chains = progress.chains
    return chains._replace(truncated=chains.truncated | ~progress.ended)


def _context(questions: jax.Array, chains: Chains, eos_id: int) -> jax.Array:
    """Encoder input [B, S]: question, chain so far, end of sequence, padding."""
    place = jnp.arange(questions.shape[1] + chains.ids.shape[1] + 1)[None]  # [1, S]
    start = jnp.sum(questions != PAD, axis=1, keepdims=True)  # [B, 1]
    end = start + chains.length[:, None]
    in_question = jnp.take_along_axis(questions, place, axis=1, mode="clip")
    in_chain = jnp.take_along_axis(chains.ids, place - start, axis=1, mode="clip")
    tokens = jnp.where(place < start, in_question, in_chain)
    return jnp.where(place < end, tokens, jnp.where(place == end, eos_id, PAD))


def choose_token(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pick an id from each row of logits [B, V]: the most probable, the lowest among equals.

    Returns:
      ids [B] int32 and their log probabilities [B] float32, not finite where the logits are not.
    """
    ids = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    chosen = jnp.take_along_axis(logits, ids[:, None], axis=-1)[:, 0]
    return ids, chosen - jax.nn.logsumexp(logits, axis=-1)


def _write_segment(config, params, questions, progress, limits, spec) -> _Segment:
    """Write one segment for every row that has not ended."""
    b, room = questions.shape[0], spec.segment_buffer
    context = _context(questions, progress.chains, spec.eos_id)
    encoded = t5.encode(config, params, context)
    zeros, no = jnp.zeros(b, jnp.int32), jnp.zeros(b, bool)
    bound = jnp.minimum(
        limits.max_segment_tokens, limits.max_chain_tokens - progress.chains.length
    )
    ids = jnp.arange(config.vocab_size)
    allowed = (ids < spec.vocab_limit) & (ids != PAD)

    def write(s: _Segment) -> _Segment:
        logits, cache = t5.decode_step(config, params, s.cache, s.last, jnp.full(b, s.step))
        token, log_probability = choose_token(jnp.where(allowed, logits, -jnp.inf))
        live = ~s.over
        broken = live & ~jnp.isfinite(log_probability)
        by_sentinel = live & ~broken & (token == spec.sentinel_id)
        by_eos = live & ~broken & (token == spec.eos_id)
        keep = live & ~broken & ~by_sentinel & ~by_eos
        length = s.length + keep
        cut = keep & (length >= bound)
        at_step = keep[:, None] & (jnp.arange(room) == s.step)
        return _Segment(
            step=s.step + 1,
            cache=cache,
            last=token,
            ids=jnp.where(at_step, token[:, None], s.ids),
            length=length,
            over=s.over | broken | by_sentinel | by_eos | cut,
            by_sentinel=s.by_sentinel | by_sentinel,
            cut=s.cut | cut,
            broken=s.broken | broken,
            generated_tokens=s.generated_tokens + live,
            log_probability=s.log_probability + jnp.where(live & ~broken, log_probability, 0.0),
        )

    start = _Segment(
        step=jnp.int32(0),
        cache=t5.start_cache(config, params, encoded, context, room),
        last=zeros,
        ids=jnp.zeros((b, room), jnp.int32),
        length=zeros,
        over=progress.ended,
        by_sentinel=no,
        cut=no,
        broken=no,
        generated_tokens=zeros,
        log_probability=jnp.zeros(b, jnp.float32),
    )
    return jax.lax.while_loop(lambda s: ~s.over.all(), write, start)


def _append(progress: _Progress, segment: _Segment, limits, spec) -> _Progress:
    """Judge a finished segment, append it where it is kept, and see which chains end."""
    chains, live = progress.chains, ~progress.ended
    sound = live & ~segment.broken
    done = segment.by_sentinel | _holds(segment.ids, spec.stop_ids)
    if spec.single_segment:
        done |= ~segment.cut
    done &= sound
    same = (segment.ids == progress.previous).all(axis=1)  # also the empty first segment
    repeated = sound & ~done & (same | (segment.length == 0))
    keep = sound & ~repeated & (segment.length > 0)

    place = jnp.arange(spec.chain_buffer)[None] - chains.length[:, None]
    added = jnp.take_along_axis(segment.ids, place, axis=1, mode="clip")
    new = keep[:, None] & (place >= 0) & (place < segment.length[:, None])
    length = chains.length + jnp.where(keep, segment.length, 0)
    here = keep[:, None] & (jnp.arange(spec.round_buffer) == chains.n_segments[:, None])
    full = keep & ~done & (length >= limits.max_chain_tokens)
    if spec.single_segment:
        full |= live & segment.cut
    return _Progress(
        round=progress.round + 1,
        ended=progress.ended | done | repeated | full | (live & segment.broken),
        previous=jnp.where(live[:, None], segment.ids, progress.previous),
        chains=Chains(
            ids=jnp.where(new, added, chains.ids),
            length=length,
            segment_ends=jnp.where(here, length[:, None], chains.segment_ends),
            n_segments=chains.n_segments + keep,
            done=chains.done | done,
            truncated=chains.truncated | (live & segment.cut),
            repeated=chains.repeated | repeated,
            broken=chains.broken | (live & segment.broken),
            generated_tokens=chains.generated_tokens + segment.generated_tokens,
            log_probability=chains.log_probability + segment.log_probability,
        ),
    )


def _holds(ids: jax.Array, pattern: tuple[int, ...]) -> jax.Array:
    """Whether each row of [B, L], 0 after its end, holds the pattern: [B] bool."""
    n_places = ids.shape[1] - len(pattern) + 1
    if not pattern or n_places < 1:
        return jnp.zeros(ids.shape[0], bool)
    match = jnp.ones((ids.shape[0], n_places), bool)
    for offset, token in enumerate(pattern):
        match &= ids[:, offset : offset + n_places] == token
    return match.any(axis=1)
