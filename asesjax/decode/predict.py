"""Generation for any number of questions: few compiled shapes, results by place in the input."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from asesjax.core.errors import UserError, unknown
from asesjax.core.types import BATCH_AXES, Params
from asesjax.decode import continuous, iterative
from asesjax.decode.spec import (
    MODEL_ITSELF,
    Chains,
    DecodeSpec,
    Limits,
    Sampling,
    Work,
    check_sampling,
    make_work,
    row_keys,
)
from asesjax.models.int8 import quantize
from asesjax.models.t5_config import T5Config
from asesjax.sharding.place import on_mesh, put_batch, replicated

ENGINES = ("continuous", "synchronous")


@dataclasses.dataclass(frozen=True)
class Generated:
    """The chain of one question; the flags are those of ``spec.Chains``.

    Attributes:
      ids: [N] int32, all segments joined.
      token_log_probability: [N] float32, natural, of each of them.
      segments: the same ids, cut into segments.
      done: the chain came to its own end.
      truncated: some bound cut a segment or the chain.
      repeated: ended because it repeated itself.
      broken: ended because the logits were not finite.
      tokens: decoder steps used.
      log_probability: of those steps, natural.
    """

    ids: np.ndarray
    token_log_probability: np.ndarray
    segments: tuple[np.ndarray, ...]
    done: bool
    truncated: bool
    repeated: bool
    broken: bool
    tokens: int
    log_probability: float


@dataclasses.dataclass(frozen=True)
class Decoder:
    """How questions are run through the device. Only ``int8`` changes what is written.

    Attributes:
      batch_size: questions written at once (of each phase, by the continuous engine).
      buckets: question lengths to pad to, rising. The synchronous engine and beam search put
        questions of one bucket together, the continuous engine pads all to that of the longest.
      engine: "continuous" refills its slots, "synchronous" waits for a batch to end.
      encode_rows: contexts the continuous engine encodes at once; 0 for an eighth of the slots.
      context_lengths: lengths it pads contexts to, besides the longest.
      int8: round weights to int8 first (``models.int8``), which changes what is written.

    Raises:
      UserError: an unknown engine, or sizes that are not positive and rising.
    """

    batch_size: int
    buckets: tuple[int, ...]
    engine: str = "continuous"
    encode_rows: int = 0
    context_lengths: tuple[int, ...] = (64, 128, 192)
    int8: bool = False

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise unknown("decode.engine", self.engine, ENGINES)
        if self.batch_size < 1:
            raise UserError(f"decode.batch_size must be at least 1, got {self.batch_size}")
        buckets = self.buckets
        if not buckets or buckets[0] < 1 or list(buckets) != sorted(set(buckets)):
            raise UserError(f"decode.question_buckets must be rising lengths, got {buckets}")
        if self.encode_rows < 0:
            raise UserError(f"decode.encode_rows must be 0 or more, got {self.encode_rows}")
        lengths = self.context_lengths
        if list(lengths) != sorted(set(lengths)) or (lengths and lengths[0] < 1):
            raise UserError(f"decode.context_lengths must be rising lengths, got {lengths}")


def predict(
    config: T5Config,
    params_by_phase: tuple[Params, ...],
    questions: Sequence[np.ndarray],
    *arguments: Any,
    **options: Any,
) -> list[Generated]:
    """Return the chains of many questions: all that ``stream`` yields, in order."""
    found = dict(stream(config, params_by_phase, questions, *arguments, **options))
    return [found[index] for index in range(len(questions))]


def stream(
    config: T5Config,
    params_by_phase: tuple[Params, ...],
    questions: Sequence[np.ndarray],
    limits: Limits,
    spec: DecodeSpec,
    decoder: Decoder,
    mesh: Mesh | None = None,
    sampling: Sampling = MODEL_ITSELF,
    keys: np.ndarray | None = None,
    forced: Sequence[np.ndarray] | Sequence[Sequence[np.ndarray]] | None = None,
    hints: Sequence[np.ndarray] | None = None,
    stages: np.ndarray | None = None,
    counts: dict[str, int] | None = None,
) -> Iterator[tuple[int, Generated]]:
    """Generate the chains of many questions, each as soon as it is there.

    Args:
      config: shape of the model.
      params_by_phase: see ``iterative.generate``.
      questions: int32 ids each, without end of sequence; at least one id.
      limits: see ``iterative.generate``; arrays have a row for each question.
      spec: see ``iterative.generate``.
      decoder: how they are run.
      mesh: spread the rows over its devices; None for one device.
      sampling: how ids are drawn, where ``spec.sample``.
      keys: [N, 2] uint32 from ``spec.row_keys``; those of seed 0 when None.
      forced: int32 ids each chain begins with, or a list of such for its segments (see
        ``spec.Work``); none when None.
      hints: int32 ids each, see ``spec.Frame``; none when None.
      stages: [N] int32, of the first segments; 0 when None.
      counts: gets the engine's counts (``iterative.Counts``) added.

    Yields:
      The number of a question and its chain, in the order in which they end.

    Raises:
      UserError: an empty question, one longer than the largest bucket, or bounds out of range;
        before anything is generated.
    """
    for index, question in enumerate(questions):
        if not 1 <= len(question) <= max(decoder.buckets):
            raise UserError(
                f"question {index} has {len(question)} tokens; it must have from 1 to "
                f"{max(decoder.buckets)} (the largest of decode.question_buckets)"
            )
    n = len(questions)
    if not n:
        return iter(())
    table = _table(questions, decoder.buckets)
    counts = {} if counts is None else counts
    if spec.beams > 1 and forced is not None:
        raise UserError("beam search takes no forced prefix; set decode.beams=1")
    check_sampling(sampling)
    keys = row_keys(0, np.arange(n)) if keys is None and spec.sample else keys
    prefix = None if forced is None else _forced(forced)
    hint = None if hints is None else _padded(hints, max(map(len, hints)))
    # Checked as one, so that a wrong bound is named by the question's own number.
    work = make_work(table, limits, spec, keys, prefix, hint, stages)
    traced = Sampling(np.float32(sampling.temperature), np.int32(sampling.top_k),
                      np.float32(sampling.top_p))  # fmt: skip
    if decoder.int8:
        params_by_phase = tuple(quantize(params) for params in params_by_phase)
    run = _synchronous if decoder.engine == "synchronous" or spec.beams > 1 else _continuous
    return run(config, params_by_phase, work, traced, spec, decoder, mesh, counts)


def _table(questions: Sequence[np.ndarray], buckets: Sequence[int]) -> np.ndarray:
    """Questions [N, Q] padded to the smallest bucket that holds all."""
    longest = max(map(len, questions))
    return _padded(questions, min(bucket for bucket in buckets if bucket >= longest))


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
    rows = _share(rows, mesh)
    for length in np.unique(bucket):
        members = np.flatnonzero(bucket == length)
        for start in range(0, len(members), rows):
            yield int(length), rows, members[start : start + rows]


def _share(rows: int, mesh: Mesh | None) -> int:
    """The next number of rows that the mesh's data axes divide."""
    parts = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    return -(-int(rows) // parts) * parts


def _synchronous(config, params, work: Work, sampling, spec, decoder, mesh, counts):
    write = iterative.generate_work
    if mesh is not None:
        write = on_mesh(mesh, write)
    for length, rows, members in _by_bucket(work.question, decoder, mesh):
        batch = _take(work, members, rows)
        batch = batch._replace(question=batch.question[:, :length])
        if mesh is not None:
            leaves, tree = jax.tree.flatten(batch)
            placed = put_batch(mesh, {str(i): leaf for i, leaf in enumerate(leaves)})
            batch = jax.tree.unflatten(tree, placed.values())
        chains, more = jax.device_get(write(config, params, batch, sampling, spec))
        _add(counts, more)
        for row, index in enumerate(members.tolist()):
            yield index, _generated(chains, row)


def _continuous(config, params, work: Work, sampling, spec, decoder, mesh, counts):
    n, length = work.question.shape
    n_slots = _share(min(decoder.batch_size, n), mesh)
    slots = continuous.Slots(
        n_slots=n_slots,
        n_entries=4 * n_slots,
        encode_rows=min(n_slots, _share(decoder.encode_rows or max(1, n_slots // 8), mesh)),
        question_length=length,
        forced_shape=work.forced.shape[1:],
        hint_length=work.hint.shape[1],
        n_bounds=work.limits.max_segment_tokens.shape[1],
        context_lengths=decoder.context_lengths,
    )
    start, put, run = continuous.start, continuous.put, continuous.run
    place = lambda x: x  # noqa: E731
    if mesh is not None:
        start, put, run = (on_mesh(mesh, function) for function in (start, put, run))
        place = lambda tree: jax.device_put(tree, replicated(mesh))  # noqa: E731
    state = start(config, params, spec=spec, slots=slots)
    owner = np.full(slots.n_entries, -1)  # the question of each entry
    fed = 0
    while fed < n or (owner >= 0).any():
        free = np.flatnonzero(owner < 0)[: n - fed]
        if len(free):
            rows = np.arange(fed, fed + len(free))
            owner[free] = rows
            entries = np.full(slots.n_entries, slots.n_entries, np.int32)
            entries[: len(free)] = free
            new = place((entries, _take(work, rows, slots.n_entries)))
            state = put(state, *new, spec=spec)
            fed += len(free)
        drain = place(np.bool_(fed == n))
        state = run(config, params, state, sampling, drain, spec=spec, slots=slots)
        ended, chains, more = jax.device_get(
            (state.progress.ended, state.progress.chains, state.counts)
        )
        _add(counts, more)
        for entry in np.flatnonzero(ended & (owner >= 0)).tolist():
            index, owner[entry] = int(owner[entry]), -1
            yield index, _generated(chains, entry)


def _take(work: Work, rows: np.ndarray, size: int) -> Work:
    """Some rows of the work, filled up with rows of padding."""

    def one(x):
        x = np.asarray(x)
        out = np.zeros((size, *x.shape[1:]), x.dtype)
        out[: len(rows)] = x[rows]
        return out

    return jax.tree.map(one, work)


def _add(counts: dict[str, int], more: iterative.Counts) -> None:
    for name, value in more._asdict().items():
        counts[name] = counts.get(name, 0) + int(value)


def _generated(chains: Chains, row: int) -> Generated:
    length = chains.length[row]
    ids = chains.ids[row, :length].copy()
    ends = chains.segment_ends[row, : chains.n_segments[row]]
    return Generated(
        ids=ids,
        token_log_probability=chains.token_log_probability[row, :length].copy(),
        segments=tuple(np.split(ids, ends[:-1])) if len(ends) else (),
        done=bool(chains.done[row]),
        truncated=bool(chains.truncated[row]),
        repeated=bool(chains.repeated[row]),
        broken=bool(chains.broken[row]),
        tokens=int(chains.generated_tokens[row]),
        log_probability=float(chains.log_probability[row]),
    )
