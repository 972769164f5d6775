"""What goes into generation and what comes out of it; shared by every way of running it.

A chain is written in turns, a segment each. A row's turn number counts 0, 1, ..., unless a segment
ends with a mark that names another turn; ``turns[number % len(turns)]`` says who writes from what.

Shapes: B rows, Q question length, N extra input length, F forced ids of a segment, P segments with
such, C, L, R the buffers for a chain, a segment and the number of segments.
"""

import dataclasses
import enum
from typing import NamedTuple

import jax
import numpy as np

from asesjax.core.errors import UserError
from asesjax.decode.sampling import Sampler, greedy

PAD = 0


class FinishReason(enum.IntEnum):
    """Why a chain has ended; the first that holds of NONFINITE, END, LOOPING, REPEATED, LENGTH."""

    RUNNING = 0  # it has not
    END = 1  # it came to its own end
    LENGTH = 2  # a bound cut it: its tokens, its rounds, or those of its last segment
    REPEATED = 3  # a segment was empty, or that before it again
    LOOPING = 4  # a segment wrote the same ids in a row again (DecodeSpec.repeat_ngram)
    NONFINITE = 5  # the logits were not finite


class Prompt(NamedTuple):
    """How the encoder input of a turn is put together: lead, question, extra input, chain, eos.

    Attributes:
      lead: ids that it begins with.
      extra_input: whether the row's extra input follows the question.
      history: whether the whole chain follows; otherwise its last segment alone.
    """

    lead: tuple[int, ...] = ()
    extra_input: bool = False
    history: bool = True


class Turn(NamedTuple):
    """Who writes a segment, and from what.

    Attributes:
      role: the parameter set that writes.
      label: what the segment is called in the output.
      prompt: what is read.
      mark: the end mark by which a segment names this turn as the next one; -1 for none.
    """

    role: str = "main"
    label: str | None = None
    prompt: Prompt = Prompt()
    mark: int = -1


class DecodePlan(NamedTuple):
    """How the chains of a method are written.

    Attributes:
      turns: taken in order, again and again.
      n_turns: turns of a chain; 1 where it is written at once, 0 where it ends by itself.
      sentinel: whether sentinel 0 ends a chain.
      stop_text: ends a chain with the segment that holds it; empty for none.
    """

    turns: tuple[Turn, ...] = (Turn(),)
    n_turns: int = 1
    sentinel: bool = False
    stop_text: str = ""


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
      n_turns: above 0, the end of the segment of turn ``n_turns - 1`` is the end of the chain, and
        segments may be empty; 1 for a method that writes its whole chain at once.
      turns: see ``DecodePlan``.
      sampler: chooses ids, see ``sampling``.
      repeat_ngram: n; a segment that writes the same n ids in a row a second time is cut there,
        and its chain ends. 0: never.
      beams: above 1, each segment is the best that a beam search finds (see ``beam``), by the
        plain loop.
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
    n_turns: int = 0
    turns: tuple[Turn, ...] = (Turn(),)
    sampler: Sampler = greedy
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
        if self.n_turns < 0 or not self.turns:
            raise UserError(f"a chain needs turns, got {self}")
        if self.repeat_ngram < 0:
            raise UserError(f"decode.repeat_ngram must be 0 or more, got {self.repeat_ngram}")
        if self.beams < 1:
            raise UserError(f"decode.beams must be at least 1, got {self.beams}")
        if self.beams > 1 and (self.sampler is not greedy or self.repeat_ngram):
            raise UserError(
                "beam search neither samples nor looks for repetitions; set decode.beams=1, or "
                "decode.sampler=greedy and decode.repeat_ngram=0"
            )

    @property
    def roles(self) -> tuple[str, ...]:
        """The parameter sets that write, in the order of their first turns."""
        return tuple(dict.fromkeys(turn.role for turn in self.turns))

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end a segment."""
        marks = (turn.mark for turn in self.turns)
        return tuple(i for i in (self.eos_id, self.sentinel_id, *marks) if i >= 0)

    def context_room(self, question_length: int, extra_length: int) -> int:
        """Return the length of the longest encoder input there can be."""
        prompts = [turn.prompt for turn in self.turns]
        lead = max(len(prompt.lead) for prompt in prompts)
        extra = extra_length if any(prompt.extra_input for prompt in prompts) else 0
        return lead + question_length + extra + self.chain_buffer + 1


class Limits(NamedTuple):
    """Bounds that may change from call to call, and from row to row, without compiling again.

    Each is one number for all rows or an array [B] with one for each.

    Attributes:
      max_rounds: segments in a chain, those of all roles counted; at most R.
      max_segment_tokens: decoder steps in a segment, its end mark included; at most L. It may be
        [B, R] too, one for each segment.
      max_chain_tokens: tokens in a chain; at most C.
    """

    max_rounds: int | np.ndarray
    max_segment_tokens: int | np.ndarray
    max_chain_tokens: int | np.ndarray


class DecodeInput(NamedTuple):
    """The questions of a call, one a row.

    Attributes:
      question: [B, Q] int32 ids without end of sequence, 0 after the end. A row of padding is no
        question: it has ended.
      limits: a ``Limits`` of int32 arrays [B], of which ``max_segment_tokens`` is [B, 1] or
        [B, R].
      key: [B, 2] uint32; what is drawn for a row depends on it and on nothing else.
      forced: [B, P, F] int32, ids that each of the first P segments begins with, 0 after the end;
        one that ends with an end mark is the whole segment.
      extra_input: [B, N] int32, 0 after the end; see ``Prompt``.
      turn: [B] int32, of the first segment.
    """

    question: jax.Array
    limits: Limits
    key: jax.Array
    forced: jax.Array
    extra_input: jax.Array
    turn: jax.Array


class DecodeOutput(NamedTuple):
    """Generated chains, one a row.

    Attributes:
      ids: [B, C] int32, the ids of all segments joined, then 0; end marks are not kept.
      token_log_probability: [B, C] float32, natural, of each of ``ids`` when it was written; 0 for
        forced ones.
      length: [B] int32.
      segment_ends: [B, R] int32, where each segment ends in ``ids``; 0 past ``n_segments``.
      segment_turns: [B, R] int32, the turn of each segment; 0 past ``n_segments``.
      n_segments: [B] int32.
      cut_segments: [B] int32, how many of them a bound cut.
      finish_reason: [B] int32, a ``FinishReason``.
      generated_tokens: [B] int32, decoder steps used, for end marks and dropped segments too.
      log_probability: [B] float32, natural, summed over those steps that were not forced.
    """

    ids: jax.Array
    token_log_probability: jax.Array
    length: jax.Array
    segment_ends: jax.Array
    segment_turns: jax.Array
    n_segments: jax.Array
    cut_segments: jax.Array
    finish_reason: jax.Array
    generated_tokens: jax.Array
    log_probability: jax.Array


class Counts(NamedTuple):
    """What the device did, int32 scalars.

    Attributes:
      slot_steps: decoder steps, those of idle slots counted.
      useful_steps: of which some question needed.
      encoded_rows: contexts encoded, those of idle slots counted.
      useful_rows: of which some question needed.
      encoded_positions: positions of those contexts, padding counted.
    """

    slot_steps: jax.Array
    useful_steps: jax.Array
    encoded_rows: jax.Array
    useful_rows: jax.Array
    encoded_positions: jax.Array

    def plus(self, **more: jax.Array | int) -> "Counts":
        """Add to some of them."""
        return self._replace(**{name: getattr(self, name) + n for name, n in more.items()})


NO_COUNTS = Counts(*np.zeros(len(Counts._fields), np.int32))


def make_input(
    questions: np.ndarray | jax.Array,
    limits: Limits,
    spec: DecodeSpec,
    keys: np.ndarray | None = None,
    forced: np.ndarray | None = None,
    extra_input: np.ndarray | None = None,
    first_turns: np.ndarray | None = None,
) -> DecodeInput:
    """Check the bounds and put the inputs of a call together.

    Args:
      questions: [B, Q] int32.
      limits: numbers, or arrays [B].
      spec: whose buffers they must fit.
      keys: [B, 2] uint32, from ``row_keys``; zeros when None.
      forced: [B, P, F] int32, or [B, F] for the first segment alone; none when None.
      extra_input: [B, N] int32; none when None.
      first_turns: [B] int32; 0 when None.

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
    extra_input = np.zeros((b, 0), np.int32) if extra_input is None else extra_input
    turn = np.zeros(b, np.int32) if first_turns is None else np.asarray(first_turns, np.int32)
    return DecodeInput(questions, Limits(*bounds), keys, forced, extra_input, turn)


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
