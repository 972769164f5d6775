"""Generation for any number of questions: few compiled shapes, results by place in the input."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from asesjax.core.errors import UserError
from asesjax.core.types import Params
from asesjax.decode import continuous, iterative
from asesjax.decode.passes import stop_check
from asesjax.decode.spec import (
    Counts,
    DecodeInput,
    DecodeOutput,
    DecodeSpec,
    FinishReason,
    Limits,
    make_input,
    row_keys,
)
from asesjax.models.layers import quantize
from asesjax.models.t5_config import T5Config
from asesjax.sharding.place import (
    batch_sharding,
    divisible,
    fetch,
    on_mesh,
    put_whole,
    replicated,
)


@dataclasses.dataclass(frozen=True)
class Generated:
    """The chain of one question; log probabilities are natural."""

    ids: np.ndarray  # [N] int32, all segments joined
    token_log_probability: np.ndarray  # [N] float32
    segments: tuple[np.ndarray, ...]  # the same ids
    labels: tuple[str | None, ...]  # of the segments, as their turns have it
    finish_reason: FinishReason
    cut_segments: int  # how many segments a bound cut
    tokens: int  # decoder steps used
    log_probability: float  # of those steps


@dataclasses.dataclass(frozen=True)
class Decoder:
    """How questions are run through the device. Only ``int8`` changes what is written."""

    batch_size: int  # questions written at once (by each role)
    buckets: tuple[int, ...]  # lengths to pad questions to, rising; the engine pads all to one
    encode_rows: int = 0  # contexts the engine encodes at once; 0 for an eighth of the slots
    context_lengths: tuple[int, ...] = (64, 128, 192)  # to pad contexts to, besides the longest
    int8: bool = False  # round weights to int8 first (``models.layers``)
    plain: bool = False  # use the plain loop of ``iterative``, as tests do, and beam search always

    def __post_init__(self) -> None:
        for name, lengths in (
            ("question_buckets", self.buckets), ("context_lengths", self.context_lengths)
        ):  # fmt: skip
            if list(lengths) != sorted(set(lengths)) or (lengths and lengths[0] < 1):
                raise UserError(f"decode.{name} must be rising lengths, got {lengths}")


def predict(
    config: T5Config,
    params: dict[str, Params],
    questions: Sequence[np.ndarray],
    *arguments: Any,
    **options: Any,
) -> list[Generated]:
    """Return the chains of many questions: all that ``stream`` yields, in order."""
    found = dict(stream(config, params, questions, *arguments, **options))
    return [found[index] for index in range(len(questions))]


class Step(NamedTuple):
    """What the slots did at one decoder step."""

    role: str  # that wrote
    questions: np.ndarray  # [B] the question that each slot wrote a token of; -1: it was idle


def watched(
    config: T5Config,
    params: dict[str, Params],
    questions: Sequence[np.ndarray],
    limits: Limits,
    spec: DecodeSpec,
    decoder: Decoder,
) -> tuple[list[Generated], list[Step], dict[str, int]]:
    """Return the chains of ``predict``, what the slots did at every decoder step (those of the
    plain loop are the rows of a batch), and the sums of ``spec.Counts``. The device waits for the
    host at every step, so this is for looking at few questions.
    """
    keys = row_keys(0, np.arange(len(questions))).tolist()
    number = {tuple(key): i for i, key in enumerate(keys)}
    steps: list[Step] = []

    def watch(role: str, keys: np.ndarray, writing: np.ndarray) -> None:
        own = [number.get(tuple(key), -1) for key in np.asarray(keys).tolist()]
        steps.append(Step(role, np.where(writing, own, -1)))

    counts: dict[str, int] = {}
    spec = dataclasses.replace(spec, watch=watch)
    found = predict(config, params, questions, limits, spec, decoder, counts=counts)
    jax.effects_barrier()
    return found, steps, counts


def stream(
    config: T5Config,
    params: dict[str, Params],
    questions: Sequence[np.ndarray],
    limits: Limits,
    spec: DecodeSpec,
    decoder: Decoder,
    mesh: Mesh | None = None,
    keys: np.ndarray | None = None,
    forced: Sequence[np.ndarray] | Sequence[Sequence[np.ndarray]] | None = None,
    extra_inputs: Sequence[np.ndarray] | None = None,
    first_turns: np.ndarray | None = None,
    counts: dict[str, int] | None = None,
) -> Iterator[tuple[int, Generated]]:
    """Yield the number of each question and its chain, in the order in which they end.

    ``questions`` are int32 ids without end of sequence; ``keys`` uint32 [N, 2] from
    ``spec.row_keys``, None for those of seed 0; ``forced`` the ids that each chain begins with, or
    a list of such for its segments (``spec.DecodeInput``); ``extra_inputs`` ids for
    ``spec.Prompt``; ``first_turns`` int32 [N]. ``counts`` gets ``spec.Counts`` added. Raises
    UserError for an empty question, one longer than the largest bucket, or bounds out of range,
    before anything is generated.
    """
    if not decoder.buckets:
        raise UserError("decode.question_buckets must have a length")
    for index, question in enumerate(questions):
        if not 1 <= len(question) <= max(decoder.buckets):
            raise UserError(
                f"question {index} has {len(question)} tokens; it must have from 1 to "
                f"{max(decoder.buckets)} (the largest of decode.question_buckets)"
            )
    n = len(questions)
    if not n:
        return iter(())
    if spec.beams > 1 and forced is not None:
        raise UserError("beam search takes no forced prefix; set decode.beams=1")
    longest = max(map(len, questions))
    inputs = make_input(  # checked as one, so that a wrong bound is named by its question
        _padded(questions, min(bucket for bucket in decoder.buckets if bucket >= longest)),
        limits, spec, row_keys(0, np.arange(n)) if keys is None else keys,
        None if forced is None else _forced(forced),
        None if extra_inputs is None else _padded(extra_inputs, max(map(len, extra_inputs))),
        first_turns,
    )  # fmt: skip
    params = {role: params[role] for role in spec.roles}
    if decoder.int8:
        params = {role: quantize(tree) for role, tree in params.items()}
    run = _plain if decoder.plain or spec.beams > 1 else _continuous
    return run(config, params, inputs, spec, decoder, mesh, {} if counts is None else counts)


def make_slots(inputs: DecodeInput, decoder: Decoder, mesh: Mesh | None) -> continuous.Slots:
    """Return the sizes of the engine for some questions, arrays or descriptions of such."""
    n_slots = divisible(min(decoder.batch_size, len(inputs.question)), mesh)
    return continuous.Slots(
        n_slots=n_slots,
        n_entries=4 * n_slots,
        encode_rows=min(n_slots, divisible(decoder.encode_rows or max(1, n_slots // 8), mesh)),
        row=jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), inputs),
        context_lengths=decoder.context_lengths,
    )


def _forced(forced) -> np.ndarray:
    """[N, P, F], of ids for each chain, or for each of its segments."""
    each = [own if isinstance(own, list | tuple) else [own] for own in forced]
    length = max((len(ids) for own in each for ids in own), default=0)
    out = np.zeros((len(each), max(map(len, each)), length), np.int32)
    for place, own in zip(out, each, strict=True):
        place[: len(own)] = _padded(own, length)
    return out


def _padded(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
    out = np.zeros((len(rows), length), np.int32)
    for place, row in zip(out, rows, strict=True):
        place[: len(row)] = row
    return out


def _by_bucket(table: np.ndarray, decoder: Decoder, mesh: Mesh | None):
    """Yield the bucket, the batch size and the questions of each batch."""
    lengths = (table != 0).sum(axis=1)
    bucket = np.asarray(decoder.buckets)[np.searchsorted(decoder.buckets, lengths)]
    rows = min(decoder.batch_size, np.unique(bucket, return_counts=True)[1].max())
    rows = divisible(rows, mesh)
    for length in np.unique(bucket):
        members = np.flatnonzero(bucket == length)
        for start in range(0, len(members), rows):
            yield int(length), rows, members[start : start + rows]


def _placing(mesh: Mesh | None, *functions: Callable, sharding=replicated) -> list[Callable]:
    """Return what places arrays on the mesh, and functions that know it."""
    if mesh is None:
        return [lambda tree: tree, *functions]
    place = lambda tree: put_whole(tree, sharding(mesh))  # noqa: E731
    return [place, *(on_mesh(mesh, function) for function in functions)]


def _plain(config, params, inputs: DecodeInput, spec, decoder, mesh, counts):
    place, generate = _placing(mesh, iterative.generate, sharding=batch_sharding)
    check = stop_check(mesh)
    for length, rows, members in _by_bucket(np.asarray(inputs.question), decoder, mesh):
        check()
        batch = _take(inputs, members, rows)
        batch = place(batch._replace(question=batch.question[:, :length]))
        output, more = fetch(generate(config, params, batch, spec), mesh)
        _add(counts, more)
        for row, index in enumerate(members.tolist()):
            yield index, _generated(output, row, spec)


def _continuous(config, params, inputs: DecodeInput, spec, decoder, mesh, counts):
    n, slots = len(inputs.question), make_slots(inputs, decoder, mesh)
    place, start, put, run = _placing(mesh, continuous.start, continuous.put, continuous.run)
    state = start(config, params, spec=spec, slots=slots)
    owner = np.full(slots.n_entries, -1)  # the question of each entry
    fed, check = 0, stop_check(mesh)
    while fed < n or (owner >= 0).any():
        check()
        free = np.flatnonzero(owner < 0)[: n - fed]
        if len(free):
            rows = np.arange(fed, fed + len(free))
            owner[free] = rows
            entries = np.full(slots.n_entries, slots.n_entries, np.int32)
            entries[: len(free)] = free
            new = place((entries, _take(inputs, rows, slots.n_entries)))
            state = put(state, *new, spec=spec)
            fed += len(free)
        state = run(config, params, state, place(np.bool_(fed == n)), spec=spec, slots=slots)
        output, more = fetch((state.rows.output, state.counts), mesh)
        _add(counts, more)
        ended = output.finish_reason != FinishReason.RUNNING
        for entry in np.flatnonzero(ended & (owner >= 0)).tolist():
            index, owner[entry] = int(owner[entry]), -1
            yield index, _generated(output, entry, spec)


def _take(inputs: DecodeInput, rows: np.ndarray, size: int) -> DecodeInput:
    """Some rows of the inputs, filled up with rows of padding."""

    def one(x):
        x = np.asarray(x)
        out = np.zeros((size, *x.shape[1:]), x.dtype)
        out[: len(rows)] = x[rows]
        return out

    return jax.tree.map(one, inputs)


def _add(counts: dict[str, int], more: Counts) -> None:
    for name, value in more._asdict().items():
        counts[name] = counts.get(name, 0) + int(value)


def _generated(output: DecodeOutput, row: int, spec: DecodeSpec) -> Generated:
    length, n = output.length[row], output.n_segments[row]
    ids = np.array(output.ids[row, :length])
    turns = output.segment_turns[row, :n].tolist()
    return Generated(
        ids=ids,
        token_log_probability=np.array(output.token_log_probability[row, :length]),
        segments=tuple(np.split(ids, output.segment_ends[row, : n - 1])) if n else (),
        labels=tuple(spec.turns[turn % len(spec.turns)].label for turn in turns),
        finish_reason=FinishReason(int(output.finish_reason[row])),
        cut_segments=int(output.cut_segments[row]),
        tokens=int(output.generated_tokens[row]),
        log_probability=float(output.log_probability[row]),
    )
