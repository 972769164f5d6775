"""What goes into generation and what comes out of it; shared by every way of running it.

A chain is written in stages, a segment each: stage 0, 1, ... in turn, unless a segment ends with a
mark that names another. For most methods all stages are alike.

Shapes: B rows, Q question length, N hint length, F forced ids of a segment, P segments with such,
C, L, R the buffers for a chain, a segment and the number of segments.
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from asesjax.core.errors import UserError

PAD = 0


class Frame(NamedTuple):
    """How the encoder input of a stage is put together: lead, question, hint, chain, end mark.

    Attributes:
      lead: ids that it begins with: the mark of the stage.
      hint: whether the row's hint follows the question.
      history: whether the whole chain follows; otherwise its last segment alone.
    """

    lead: tuple[int, ...] = ()
    hint: bool = False
    history: bool = True


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
      n_stages: above 0, the end of the segment of stage ``n_stages - 1`` is the end of the chain,
        and segments may be empty; 1 for a method that writes its whole chain at once.
      frames: of the stages; stage s has ``frames[s % len(frames)]``.
      jump_ids: a segment may end with ``jump_ids[s]`` instead of ``eos_id``, and the chain goes on
        with stage s; -1 where no mark leads to a stage. Empty for none.
      sample: draw ids at random as ``Sampling`` says; otherwise the most probable is taken.
      repeat_ngram: n; a segment that writes the same n ids in a row a second time is cut there,
        and its chain ends. 0: never.
      beams: above 1, each segment is the best that a beam search finds (see ``beam``), by the
        synchronous engine.
      length_penalty: of the search, as in transformers.

    Raises:
      UserError: a buffer without room, or modes that exclude each other.
    """

    vocab_limit: int
    chain_buffer: int
    segment_buffer: int
    round_buffer: int
    eos_id: int = 1
    sentinel_id: int = -1
    stop_ids: tuple[int, ...] = ()
    n_stages: int = 0
    frames: tuple[Frame, ...] = (Frame(),)
    jump_ids: tuple[int, ...] = ()
    sample: bool = False
    repeat_ngram: int = 0
    beams: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        names = {
            "max_rounds": self.round_buffer,
            "max_segment_tokens": self.segment_buffer,
            "max_chain_tokens": self.chain_buffer,
        }
        for name, room in names.items():
            if room < 1:
                raise UserError(f"decode.{name} must be at least 1, got {room}")
        if self.n_stages < 0 or not self.frames:
            raise UserError(f"a chain needs stages and frames, got {self}")
        if self.repeat_ngram < 0:
            raise UserError(f"decode.repeat_ngram must be 0 or more, got {self.repeat_ngram}")
        if self.beams < 1:
            raise UserError(f"decode.beams must be at least 1, got {self.beams}")
        if self.beams > 1 and (self.sample or self.repeat_ngram):
            raise UserError(
                "beam search neither samples nor looks for repetitions; set decode.beams=1, or "
                "decode.mode=greedy and decode.repeat_ngram=0"
            )

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end a segment."""
        return tuple(i for i in (self.eos_id, self.sentinel_id, *self.jump_ids) if i >= 0)

    def context_room(self, question_length: int, hint_length: int) -> int:
        """Return the length of the longest encoder input there can be."""
        lead = max(len(frame.lead) for frame in self.frames)
        hint = hint_length if any(frame.hint for frame in self.frames) else 0
        return lead + question_length + hint + self.chain_buffer + 1


class Limits(NamedTuple):
    """Bounds that may change from call to call, and from row to row, without compiling again.

    Each is one number for all rows or an array [B] with one for each.

    Attributes:
      max_rounds: segments in a chain, those of both phases counted; at most R.
      max_segment_tokens: decoder steps in a segment, its end mark included; at most L. It may be
        [B, R] too, one for each segment.
      max_chain_tokens: tokens in a chain; at most C.
    """

    max_rounds: int | np.ndarray
    max_segment_tokens: int | np.ndarray
    max_chain_tokens: int | np.ndarray


class Sampling(NamedTuple):
    """How ids are drawn; traced, so no value compiles again. In transformers' order.

    Attributes:
      temperature: logits are divided by it; above 0.
      top_k: only the k most probable ids, and those as probable as the k-th; 0 for all.
      top_p: of those, only the most probable that together reach this share; 1 for all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0


MODEL_ITSELF = Sampling()  # drawn as the model says


class Work(NamedTuple):
    """The questions of a call, one a row.

    Attributes:
      question: [B, Q] int32 ids without end of sequence, 0 after the end. A row of padding is no
        question: done at once.
      limits: a ``Limits`` of int32 arrays [B], of which ``max_segment_tokens`` is [B, 1] or
        [B, R].
      key: [B, 2] uint32, what is drawn for a row depends on it and on nothing else.
      forced: [B, P, F] int32, ids that each of the first P segments begins with, 0 after the end;
        one that ends with an end mark is the whole segment.
      hint: [B, N] int32, 0 after the end; see ``Frame``.
      stage: [B] int32, of the first segment.
    """

    question: jax.Array
    limits: Limits
    key: jax.Array
    forced: jax.Array
    hint: jax.Array
    stage: jax.Array


class Chains(NamedTuple):
    """Generated chains, one a row.

    Attributes:
      ids: [B, C] int32, the ids of all segments joined, then 0; end marks are not kept.
      token_log_probability: [B, C] float32, natural, of each of ``ids`` when it was written; 0 for
        forced ones.
      length: [B] int32.
      segment_ends: [B, R] int32, where each segment ends in ``ids``; 0 past ``n_segments``.
      n_segments: [B] int32.
      done: [B] bool, the chain came to its own end.
      truncated: [B] bool, some bound cut a segment or the chain.
      repeated: [B] bool, ended because a segment was empty, that before it again, or ran in
        circles (``DecodeSpec.repeat_ngram``).
      broken: [B] bool, ended because the logits were not finite.
      generated_tokens: [B] int32, decoder steps used, for end marks and dropped segments too.
      log_probability: [B] float32, natural, summed over those steps that were not forced.
    """

    ids: jax.Array
    token_log_probability: jax.Array
    length: jax.Array
    segment_ends: jax.Array
    n_segments: jax.Array
    done: jax.Array
    truncated: jax.Array
    repeated: jax.Array
    broken: jax.Array
    generated_tokens: jax.Array
    log_probability: jax.Array


def make_work(
    questions: np.ndarray | jax.Array,
    limits: Limits,
    spec: DecodeSpec,
    keys: np.ndarray | None = None,
    forced: np.ndarray | None = None,
    hint: np.ndarray | None = None,
    stage: np.ndarray | None = None,
) -> Work:
    """Check the bounds and put the inputs of a call together.

    Args:
      questions: [B, Q] int32.
      limits: numbers, or arrays [B].
      spec: whose buffers they must fit.
      keys: [B, 2] uint32, from ``row_keys``; zeros when None.
      forced: [B, P, F] int32, or [B, F] for the first segment alone; none when None.
      hint: [B, N] int32; none when None.
      stage: [B] int32; 0 when None.

    Raises:
      UserError: limits below 1 or beyond the spec's buffers, or a prefix beyond them, naming the
        row.
    """
    b = questions.shape[0]
    buffers = (spec.round_buffer, spec.segment_buffer, spec.chain_buffer)
    bounds = []
    for (name, value), room in zip(limits._asdict().items(), buffers, strict=True):
        value = np.asarray(value, np.int64)
        wrong = np.argwhere((value < 1) | (value > room))
        if len(wrong):
            row = f" (row {wrong[0][0]})" if value.ndim else ""
            got = value[tuple(wrong[0])]
            raise UserError(f"decode.{name} must be from 1 to {room}, got {got}{row}")
        if name == "max_segment_tokens":
            value = value if value.ndim == 2 else np.broadcast_to(value, (b,))[:, None]
        else:
            value = np.broadcast_to(value, (b,))
        bounds.append(value.astype(np.int32))
    if keys is None:
        keys = np.zeros((b, 2), np.uint32)
    if forced is None:
        forced = np.zeros((b, 0, 0), np.int32)
    if forced.ndim == 2:
        forced = forced[:, None]
    n_forced = (forced != PAD).sum(2)
    last = np.take_along_axis(forced, np.maximum(n_forced - 1, 0)[:, :, None], 2)[:, :, 0] \
        if forced.size else n_forced
    # An end mark takes a step and no room.
    n_forced = n_forced - np.isin(last, spec.end_ids)
    places = np.minimum(np.arange(forced.shape[1]), bounds[1].shape[1] - 1)
    room = np.minimum(bounds[1][:, places], bounds[2][:, None])
    wrong = np.argwhere((n_forced > 0) & (n_forced >= room))
    if len(wrong):
        row, place = wrong[0]
        raise UserError(
            f"a forced prefix must be shorter than max_segment_tokens and max_chain_tokens; that "
            f"of row {row} has {n_forced[row, place]} tokens, and these allow {room[row, place]}"
        )
    hint = np.zeros((b, 0), np.int32) if hint is None else hint
    stage = np.zeros(b, np.int32) if stage is None else np.asarray(stage, np.int32)
    return Work(questions, Limits(*bounds), keys, forced, hint, stage)


def check_sampling(sampling: Sampling) -> None:
    """Check the numbers of ``Sampling``.

    Raises:
      UserError: one out of its range.
    """
    if not (np.isfinite(sampling.temperature) and sampling.temperature > 0):
        raise UserError(
            f"decode.temperature must be above 0, got {sampling.temperature}; decode.mode=greedy "
            "always takes the most probable id"
        )
    if sampling.top_k < 0:
        raise UserError(f"decode.top_k must be 0 or more, got {sampling.top_k}")
    if not 0 < sampling.top_p <= 1:
        raise UserError(f"decode.top_p must be above 0 and at most 1, got {sampling.top_p}")


def row_keys(seed: int, rows: np.ndarray, sample: int = 0) -> np.ndarray:
    """Make the keys of rows: what is drawn for one is the same wherever and with whom it runs.

    Args:
      seed: of the run.
      rows: [B] int, the place of each question in the whole input.
      sample: number of the chain, where several are drawn for a question.

    Returns:
      [B, 2] uint32.
    """
    mixed = [np.random.SeedSequence((seed, int(row), sample)).generate_state(2) for row in rows]
    return np.asarray(mixed, np.uint32).reshape(-1, 2)
