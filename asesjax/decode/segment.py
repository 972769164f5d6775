"""Writing one segment a row and joining it to the row's chain, a token and a segment at a time.

Rows are independent, so the plain loop (``iterative``) and the one that refills its slots
(``continuous``) give the same chains. Shapes as in ``spec``.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from asesjax.decode.sampling import log_probability
from asesjax.decode.spec import PAD, Array, DecodeInput, DecodeOutput, DecodeSpec, FinishReason
from asesjax.models import t5


class RowState(NamedTuple):
    """What is known of a row between segments."""

    rounds: jax.Array  # [B] int32, segments begun so far
    turn: Array  # [B] int32, of the next segment
    previous: jax.Array  # [B, L] ids of the segment before, 0 after its end
    output: DecodeOutput  # so far

    @property
    def ended(self) -> jax.Array:
        """[B] bool."""
        return self.output.finish_reason != FinishReason.RUNNING


class SegmentState(NamedTuple):
    """A segment being written, with what its writing needs of its row."""

    step: jax.Array  # [B] int32, decoder steps so far, and the position of ``last``
    last: jax.Array  # [B] int32, the id fed next
    ids: jax.Array  # [B, L], those written, 0 after the end
    log_probabilities: jax.Array  # [B, L] float32, of ``ids``
    over: jax.Array  # [B] bool
    end: jax.Array  # [B] int32, the end mark; 0 for none
    looping: jax.Array  # [B] bool, it repeats itself, and so was cut
    nonfinite: jax.Array  # [B] bool, the logits were
    log_probability: jax.Array  # [B] float32, of all steps that were not forced
    bound: jax.Array  # [B] int32, most ids
    before: jax.Array  # [B] int32, decoder steps of the row before this segment
    key: jax.Array  # [B, 2], see ``DecodeInput``
    forced: jax.Array  # [B, F], ids it must begin with


def start_rows(inputs: DecodeInput, spec: DecodeSpec) -> RowState:
    """Return rows before their first segment; those without a question have ended."""
    b = inputs.question.shape[0]
    zeros = jnp.zeros(b, jnp.int32)
    empty = (inputs.question == PAD).all(axis=1)
    output = DecodeOutput(
        ids=jnp.zeros((b, spec.chain_buffer), jnp.int32),
        token_log_probability=jnp.zeros((b, spec.chain_buffer), jnp.float32),
        length=zeros,
        segment_ends=jnp.zeros((b, spec.round_buffer), jnp.int32),
        segment_turns=jnp.zeros((b, spec.round_buffer), jnp.int32),
        n_segments=zeros,
        cut_segments=zeros,
        finish_reason=jnp.where(empty, jnp.int32(FinishReason.END), FinishReason.RUNNING),
        generated_tokens=zeros,
        log_probability=jnp.zeros(b, jnp.float32),
    )
    return RowState(zeros, inputs.turn, jnp.zeros((b, spec.segment_buffer), jnp.int32), output)


def waiting_for(rows: RowState, role: str, spec: DecodeSpec) -> jax.Array:
    """Return which rows have not ended and have a role write next, [B] bool."""
    writes = jnp.asarray([turn.role == role for turn in spec.turns])
    return ~rows.ended & writes[rows.turn % len(spec.turns)]


def context_tokens(inputs: DecodeInput, rows: RowState, spec: DecodeSpec) -> jax.Array:
    """Encoder input [B, S] of the next segment, as the ``Prompt`` of its turn says. S is
    ``spec.context_room(Q, N)``; end of sequence, then padding, follow the last part.
    """
    output, turn = rows.output, rows.turn % len(spec.turns)
    prompts = [turn.prompt for turn in spec.turns]

    def of_turn(values: list) -> jax.Array:  # the turn's value for each row
        return jnp.asarray(values)[turn]

    n_lead = [len(prompt.lead) for prompt in prompts]
    parts: list[tuple[Any, Any, Any]] = [(inputs.question, 0, (inputs.question != PAD).sum(axis=1))]
    if max(n_lead):
        lead = [prompt.lead + (PAD,) * (max(n_lead) - len(prompt.lead)) for prompt in prompts]
        parts.insert(0, (of_turn(lead), 0, of_turn(n_lead)))
    if any(prompt.extra_input for prompt in prompts) and inputs.extra_input.shape[1]:
        n_extra = (inputs.extra_input != PAD).sum(axis=1)
        reads = of_turn([prompt.extra_input for prompt in prompts])
        parts.append((inputs.extra_input, 0, jnp.where(reads, n_extra, 0)))
    first = jnp.zeros_like(output.length)
    if not all(prompt.history for prompt in prompts):
        ends = jnp.take_along_axis(output.segment_ends, output.n_segments[:, None] - 2, 1,
                                   mode="clip")[:, 0]  # fmt: skip
        before_last = jnp.where(output.n_segments > 1, ends, 0)
        first = jnp.where(of_turn([prompt.history for prompt in prompts]), 0, before_last)
    parts.append((output.ids, first[:, None], output.length - first))

    room = spec.context_room(inputs.question.shape[1], inputs.extra_input.shape[1])
    place = jnp.arange(room)[None]
    tokens, start = jnp.zeros((len(turn), room), jnp.int32), 0
    for ids, offset, n in parts:
        here = jnp.take_along_axis(ids, place - start + offset, axis=1, mode="clip")
        tokens = jnp.where(place >= start, here, tokens)
        start = start + n[:, None]
    return jnp.where(place < start, tokens, jnp.where(place == start, spec.eos_id, PAD))


def begin(inputs: DecodeInput, rows: RowState, spec: DecodeSpec) -> SegmentState:
    """Return the next segment of every row, before its first token."""
    b, room = inputs.question.shape[0], spec.segment_buffer
    zeros, no = jnp.zeros(b, jnp.int32), jnp.zeros(b, bool)
    # One bound for all segments or one for each; past the end the last.
    bound = inputs.limits.max_segment_tokens
    bound = jnp.take_along_axis(bound, rows.rounds[:, None], axis=1, mode="clip")[:, 0]
    n_forced = inputs.forced.shape[1]
    forced = jnp.zeros((b, 0), jnp.int32)
    if n_forced:
        mine = rows.rounds[:, None, None]
        forced = jnp.take_along_axis(inputs.forced, mine, axis=1, mode="clip")[:, 0]
        forced = jnp.where((rows.rounds < n_forced)[:, None], forced, PAD)
    return SegmentState(
        step=zeros,
        last=zeros,
        ids=jnp.zeros((b, room), jnp.int32),
        log_probabilities=jnp.zeros((b, room), jnp.float32),
        over=rows.ended,
        end=zeros,
        looping=no,
        nonfinite=no,
        log_probability=jnp.zeros(b, jnp.float32),
        bound=jnp.minimum(bound, inputs.limits.max_chain_tokens - rows.output.length),
        before=rows.output.generated_tokens,
        key=jnp.asarray(inputs.key),
        forced=forced,
    )


def advance(segment: SegmentState, logits: jax.Array, spec: DecodeSpec) -> SegmentState:
    """Choose an id for every row from its logits [B, V] and write it, unless the row is over."""
    s = segment
    ids = jnp.arange(logits.shape[1])
    scores = jnp.where((ids < spec.vocab_limit) & (ids != PAD), logits, -jnp.inf)
    token = spec.sampler(scores, s.key, s.before + s.step)
    # From logits that are not finite some id is chosen; its log probability tells.
    log_p = log_probability(scores, token)
    nonfinite = ~jnp.isfinite(log_p)
    if n_forced := s.forced.shape[1]:
        wanted = jnp.take_along_axis(s.forced, s.step[:, None], axis=1, mode="clip")[:, 0]
        is_forced = (s.step < n_forced) & (wanted != PAD)
        token = jnp.where(is_forced, wanted, token)
        log_p = jnp.where(is_forced, 0.0, log_p)
    ends = ~nonfinite & spec.ends(token)
    keep = ~nonfinite & ~ends
    at_step = keep[:, None] & (jnp.arange(s.ids.shape[1]) == s.step[:, None])
    written = jnp.where(at_step, token[:, None], s.ids)
    looping = keep & _again(written, s.step, spec.repeat_ngram)
    new = s._replace(
        step=s.step + 1,
        last=token,
        ids=written,
        log_probabilities=jnp.where(at_step, log_p[:, None], s.log_probabilities),
        over=~keep | looping | (s.step + 1 >= s.bound),
        end=jnp.where(ends, token, PAD),
        looping=looping,
        nonfinite=nonfinite,
        log_probability=s.log_probability + jnp.where(nonfinite, 0.0, log_p),
    )
    return where_rows(s.over, s, new)


def tell(role: str, segment: SegmentState, spec: DecodeSpec) -> None:
    """Tell ``spec.watch``, if there is one, which slots of a role write now."""
    if spec.watch:
        report = functools.partial(spec.watch, role)
        jax.debug.callback(report, segment.key, ~segment.over, ordered=True)


def judge(rows: RowState, segment: SegmentState, inputs: DecodeInput, spec: DecodeSpec) -> RowState:
    """Append each row's finished segment to its chain where it is kept, and see which chains end.

    In this order: logits that are not finite end the chain without the segment (NONFINITE); the
    sentinel, ``stop_ids`` or the last turn end it (END); a segment that loops is kept and ends it
    (LOOPING); without ``n_turns`` an empty or repeated segment ends it and is dropped (REPEATED),
    but for the first with ``empty_first``; a full chain or no round left end it (LENGTH).
    """
    output = rows.output
    n_ids = (segment.ids != PAD).sum(axis=1)
    is_last = rows.turn >= spec.n_turns - 1 if spec.n_turns else jnp.zeros_like(segment.over)
    cut = (segment.end == PAD) & ~segment.looping & ~segment.nonfinite
    by_sentinel = segment.end == spec.sentinel_id
    end = by_sentinel | _holds(segment.ids, spec.stop_ids) | (is_last & ~cut)
    end &= ~segment.nonfinite & ~segment.looping
    again = jnp.zeros_like(end)
    if not spec.n_turns:
        same = (segment.ids == rows.previous).all(axis=1)  # also the empty first segment
        again = (same | (n_ids == 0)) & ~end & ~segment.looping
        if spec.empty_first:
            again &= rows.rounds > 0
    keep = ~segment.nonfinite & ~again & (n_ids > 0)

    place = jnp.arange(spec.chain_buffer)[None] - output.length[:, None]
    new = keep[:, None] & (place >= 0) & (place < n_ids[:, None])

    def joined(old, added):
        return jnp.where(new, jnp.take_along_axis(added, place, axis=1, mode="clip"), old)

    length = output.length + jnp.where(keep, n_ids, 0)
    here = keep[:, None] & (jnp.arange(spec.round_buffer) == output.n_segments[:, None])
    rounds = rows.rounds + 1
    full = keep & (length >= inputs.limits.max_chain_tokens) | (is_last & cut)
    next_turn = rows.turn + 1
    for number, turn in enumerate(spec.turns):
        if turn.mark >= 0:
            next_turn = jnp.where(segment.end == turn.mark, number, next_turn)
    reasons = {
        FinishReason.NONFINITE: segment.nonfinite,
        FinishReason.END: end,
        FinishReason.LOOPING: segment.looping,
        FinishReason.REPEATED: again,
        FinishReason.LENGTH: full | (rounds >= inputs.limits.max_rounds),
    }
    return RowState(
        rounds=rounds,
        turn=next_turn,
        previous=segment.ids,
        output=DecodeOutput(
            ids=joined(output.ids, segment.ids),
            token_log_probability=joined(
                output.token_log_probability, segment.log_probabilities
            ),
            length=length,
            segment_ends=jnp.where(here, length[:, None], output.segment_ends),
            segment_turns=jnp.where(here, rows.turn[:, None], output.segment_turns),
            n_segments=output.n_segments + keep,
            cut_segments=output.cut_segments + cut,
            finish_reason=jnp.select(
                list(reasons.values()), [jnp.int32(reason) for reason in reasons],
                jnp.int32(FinishReason.RUNNING),
            ),
            generated_tokens=output.generated_tokens + segment.step,
            log_probability=output.log_probability + segment.log_probability,
        ),
    )  # fmt: skip


def where_rows(mask: jax.Array, yes: Any, no: Any) -> Any:
    """Take rows of every array of one tree where ``mask`` [B] holds, and else of the other."""

    def one(a, b):
        return a if a is b else jnp.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)

    return jax.tree.map(one, yes, no)


def own_cache(cache: t5.Cache) -> tuple[dict, ...]:
    """Return the keys and values that a decoder step changes, those of the segment, by layer."""
    return tuple({key: layer[key] for key in ("self_key", "self_value")}
                 for layer in cache["layers"])  # fmt: skip


def with_own(cache: t5.Cache, own: tuple[dict, ...]) -> t5.Cache:
    """Return a cache with the segment's keys and values in the place of its own."""
    layers = zip(cache["layers"], own, strict=True)
    return {**cache, "layers": tuple({**layer, **new} for layer, new in layers)}


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
