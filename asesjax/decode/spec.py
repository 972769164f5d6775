"""What goes into generation and what comes out of it; shared by every way of running it.

A chain is written in turns, a segment each. A row's turn number counts 0, 1, ..., unless a segment
ends with a mark that names another turn; ``turns[number % len(turns)]`` says who writes from what.

Shapes: B rows, Q question length, N extra input length, F forced ids of a segment, P segments with
such, C, L, R the buffers for a chain, a segment and the number of segments.
"""

import dataclasses
import enum
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
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
    """How the encoder input of a turn is put together: lead, question, extra input, chain, eos."""

    lead: tuple[int, ...] = ()  # ids that it begins with
    extra_input: bool = False  # whether the row's extra input follows the question
    history: bool = True  # the whole chain follows; otherwise its last segment alone


class Turn(NamedTuple):
    """Who writes a segment, and from what."""

    role: str = "main"  # the parameter set that writes
    label: str | None = None  # what the segment is called in the output
    prompt: Prompt = Prompt()
    mark: int = -1  # end mark by which a segment names this turn as the next one; -1: none


class DecodePlan(NamedTuple):
    """How the chains of a method are written."""

    turns: tuple[Turn, ...] = (Turn(),)  # taken in order, again and again
    n_turns: int = 1  # turns of a chain; 0: until the chain ends by itself
    sentinel: bool = False  # whether sentinel 0 ends a chain
    stop_text: str = ""  # ends a chain with the segment that holds it; empty: none
    empty_first: bool = False  # whether the first segment may be empty without ending the chain


@dataclasses.dataclass(frozen=True)
class DecodeSpec:
    """What is compiled into the program; a change compiles it again."""

    vocab_limit: int  # ids from here on are never chosen (rows of the model the tokenizer lacks)
    chain_buffer: int  # C, tokens there is room for in a chain
    segment_buffer: int  # L, tokens there is room for in a segment
    round_buffer: int  # R, segments there is room for
    eos_id: int = 1  # ends a segment
    sentinel_id: int = -1  # ends the chain; -1 for none
    stop_ids: tuple[int, ...] = ()  # end the chain with the segment that holds them in a row
    # above 0: turns of a chain, whose segments may be empty; 1 to write the whole chain at once
    n_turns: int = 0
    turns: tuple[Turn, ...] = (Turn(),)  # see ``DecodePlan``
    empty_first: bool = False  # see ``DecodePlan``
    sampler: Sampler = greedy  # chooses ids, see ``sampling``
    repeat_ngram: int = 0  # n: a segment that repeats n ids in a row is cut, and its chain ends
    beams: int = 1  # above 1, segments are the best of a beam search, in the plain loop
    length_penalty: float = 1.0  # of the search, as in transformers
    # called at every decoder step, in order, with the role that writes, the keys [B, 2] of its
    # slots' questions and which of them write; for ``predict.watched``, on one device
    watch: Callable[[str, np.ndarray, np.ndarray], None] | None = None

    def __post_init__(self) -> None:
        if not np.isfinite(self.length_penalty):
            raise UserError(f"decode.length_penalty must be finite, got {self.length_penalty}")

    @property
    def roles(self) -> tuple[str, ...]:
        """The parameter sets that write, in the order of their first turns."""
        return tuple(dict.fromkeys(turn.role for turn in self.turns))

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The ids that end a segment."""
        marks = (turn.mark for turn in self.turns)
        return tuple(i for i in (self.eos_id, self.sentinel_id, *marks) if i >= 0)

    def ends(self, ids: jax.Array) -> jax.Array:
        """Whether each id ends a segment, bool of their shape."""
        return (ids[..., None] == jnp.asarray(self.end_ids)).any(axis=-1)

    def context_room(self, question_length: int, extra_length: int) -> int:
        """Return the length of the longest encoder input there can be."""
        prompts = [turn.prompt for turn in self.turns]
        lead = max(len(prompt.lead) for prompt in prompts)
        extra = extra_length if any(prompt.extra_input for prompt in prompts) else 0
        return lead + question_length + extra + self.chain_buffer + 1


class Limits(NamedTuple):
    """Bounds that may change without compiling again: one number for all rows, or an array [B]."""

    max_rounds: int | np.ndarray  # segments in a chain, those of all roles counted; at most R
    max_segment_tokens: int | np.ndarray  # with the end mark; at most L; perhaps [B, R]
    max_chain_tokens: int | np.ndarray  # tokens in a chain; at most C


Array = jax.Array | np.ndarray  # on the devices or the host


class DecodeInput(NamedTuple):
    """The questions of a call, one a row; int32 but for the keys, 0 after the end of ids. A row of
    padding has ended. Forced are the ids that each of the first P segments begins with; with an end
    mark they are the whole segment.
    """

    question: Array  # [B, Q] without end of sequence
    limits: Limits  # of [B], of which ``max_segment_tokens`` is [B, 1] or [B, R]
    key: Array  # [B, 2] uint32; what is drawn for a row depends on it and on nothing else
    forced: Array  # [B, P, F]
    extra_input: Array  # [B, N], see ``Prompt``
    turn: Array  # [B], of the first segment


class DecodeOutput(NamedTuple):
    """Generated chains, one a row; int32, log probabilities natural and float32."""

    ids: jax.Array  # [B, C] of all segments joined, then 0; end marks are not kept
    token_log_probability: jax.Array  # [B, C] of each when it was written; 0 for forced ones
    length: jax.Array  # [B]
    segment_ends: jax.Array  # [B, R] in ``ids``; 0 past ``n_segments``
    segment_turns: jax.Array  # [B, R] that wrote them; 0 past ``n_segments``
    n_segments: jax.Array  # [B]
    cut_segments: jax.Array  # [B] how many of them a bound cut
    finish_reason: jax.Array  # [B] a ``FinishReason``
    generated_tokens: jax.Array  # [B] decoder steps, for end marks and dropped segments too
    log_probability: jax.Array  # [B] summed over those steps that were not forced


class Counts(NamedTuple):
    """What the device did, int32 scalars."""

    slot_steps: jax.Array  # decoder steps, those of idle slots counted
    useful_steps: jax.Array  # of which some question needed
    encoded_rows: jax.Array  # contexts encoded, those of idle slots counted
    useful_rows: jax.Array  # of which some question needed
    encoded_positions: jax.Array  # positions of those contexts, padding counted

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
    """Check the bounds and put the inputs of a call together: ``questions`` int32 [B, Q], ``keys``
    uint32 [B, 2], ``forced`` int32 [B, P, F], ``extra_input`` int32 [B, N], ``first_turns`` int32
    [B]. Raises UserError, naming the row, for limits or forced ids beyond the spec's buffers.
    """
    b = questions.shape[0]
    bounds = []
    rooms = spec.round_buffer, spec.segment_buffer, spec.chain_buffer
    for name, value, room in zip(Limits._fields, limits, rooms, strict=True):
        value = np.asarray(value, np.int64)
        wrong = np.argwhere((value < 1) | (value > room))
        if len(wrong):
            row = f" (row {wrong[0][0]})" if value.ndim else ""
            got = value[tuple(wrong[0])]
            raise UserError(f"decode.{name} must be from 1 to {room}, got {got}{row}")
        value = value if value.ndim == 2 else np.broadcast_to(value, (b,))
        bounds.append(value.astype(np.int32))
    rounds, segment, chain = bounds
    segment = segment if segment.ndim == 2 else segment[:, None]
    forced = np.zeros((b, 0, 0), np.int32) if forced is None else forced
    n_forced = (forced != PAD).sum(2)
    if forced.size:  # an end mark takes a step and no room
        last = np.take_along_axis(forced, np.maximum(n_forced - 1, 0)[:, :, None], 2)[:, :, 0]
        n_forced -= np.isin(last, spec.end_ids)
    places = np.minimum(np.arange(forced.shape[1]), segment.shape[1] - 1)
    room = np.minimum(segment[:, places], chain[:, None])
    wrong = np.argwhere((n_forced > 0) & (n_forced >= room))
    if len(wrong):
        row, place = wrong[0]
        raise UserError(
            f"a forced prefix must be shorter than max_segment_tokens and max_chain_tokens; that "
            f"of row {row} has {n_forced[row, place]} tokens, and these allow {room[row, place]}"
        )
    return DecodeInput(
        question=questions,
        limits=Limits(rounds, segment, chain),
        key=np.zeros((b, 2), np.uint32) if keys is None else keys,
        forced=forced,
        extra_input=np.zeros((b, 0), np.int32) if extra_input is None else extra_input,
        turn=np.zeros(b, np.int32) if first_turns is None else np.asarray(first_turns, np.int32),
    )


def row_keys(seed: int, rows: np.ndarray, sample: int = 0) -> np.ndarray:
    """Make the keys uint32 [B, 2] of rows, so that draws do not depend on where a row runs.
    ``rows`` [B] are places of questions in the whole input, ``sample`` numbers a question's chains.
    """
    mixed = [np.random.SeedSequence((seed, int(row), sample)).generate_state(2) for row in rows]
    return np.asarray(mixed, np.uint32).reshape(-1, 2)
