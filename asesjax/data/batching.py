"""Batches of fixed shapes as a pure function of the step.

Rows form an endless stream: one permutation of all of them per epoch. A row is an example, or
several that are packed (``packing.py``). Stretches of the stream ("windows") are ordered by shape
and cut into batches, which are then shuffled, so that rows of a batch are of like length. No
example is dropped or repeated within an epoch; the step is the cursor that a checkpoint keeps.

Where examples have groups (``Example.group``), each group has a stream, epochs and batches of its
own, and their batches take turns in proportion to the examples. So a batch is always full and of
one group, and no example is dropped or repeated within an epoch of its group.
"""

import collections
import dataclasses
import functools
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.types import Batch, Example
from asesjax.data.packing import Packing, deal, fill_packed, pack

WINDOW = 32  # batches ordered by shape together; more: less padding, fewer: more like a permutation
MAX_SHAPES = 6
_QUANTILES, _GRAIN = 9, 8  # of lengths, where no buckets are given, and what they are multiples of
_MERGE_SHARE = 0.02  # a shape that saves less padding than this is not worth a compilation
_PERMUTATION, _BATCH_ORDER, _DEAL = 0, 1, 1 << 63  # streams of random numbers
_NEXT_GROUP = 0x9E3779B97F4A7C15  # between the seeds of two groups
_END: Any = object()
Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What ``batch_at`` needs besides the examples."""

    batch_size: int  # rows of a batch, all processes together
    shapes: tuple[tuple[int, int], ...]  # (S, T) of batches, smallest first; each is a compilation
    rank: np.ndarray  # [R] int32, orders the rows of a window (``choose_shapes``)
    lengths: np.ndarray  # [R, 2] int32, source and target length of each row
    seed: int  # of the order
    packing: Packing | None = None  # which lengths share a row; None where row i is example i
    n_steps: int = 0  # of the training, whose progress changes examples; 0 where it is over
    groups: tuple[np.ndarray, ...] = ()  # rows of each group, int64, where there are several
    parts: tuple["Plan", ...] = ()  # the plan of each group, which counts its own rows and steps

    def progress(self, step: int) -> float:
        """Return the share of training that is over before a step."""
        return step / self.n_steps if self.n_steps else 1.0

    def epoch_start(self, epoch: int) -> int:
        """Return the first step whose batch begins in an epoch (0, 1, ...). Earlier steps have
        every example ``epoch`` times, and fewer than B rows once more; with groups, about so.
        """
        return -(-epoch * len(self.lengths) // self.batch_size)

    def shape_of(self, rows: np.ndarray) -> tuple[int, int]:
        """Return the smallest shape that holds all rows."""
        longest = self.lengths[rows].max(0)
        return next(shape for shape in self.shapes if (longest <= shape).all())

    @functools.cached_property
    def padding_share(self) -> float:
        """Share of the source and target positions of the first epoch that is padding."""
        steps = range(self.epoch_start(1))
        rows = [_places(self, step) % len(self.lengths) for step in steps]
        real = int(self.lengths[np.concatenate(rows)].sum(dtype=np.int64))
        return 1 - real / (self.batch_size * sum(sum(self.shape_of(own)) for own in rows))


def make_plan(
    examples: Sequence[Example], batch_size: int, source_buckets: Sequence[int],
    target_buckets: Sequence[int], seed: int, packed_length: int = 0, n_steps: int = 0,
) -> Plan:  # fmt: skip
    """Decide the shapes and the order of the batches of a training run.

    ``batch_size`` rows are of all processes together, and a batch is padded to one of the buckets
    of each side. With ``packed_length`` above 0, several examples share a row of at most so many
    positions and the buckets are not used (``packing.pack``). ``n_steps`` may be 0 where all
    targets count from the start. Raises UserError for wrong buckets, no fit or packed groups.
    """
    if batch_size < 1:
        raise UserError(f"train.batch_size must be at least 1, got {batch_size}")
    if not len(examples):
        raise UserError("there are no examples to make batches of")
    lengths, packing = token_counts(examples), None
    of_group: dict[str, list[int]] = {}
    for row, example in enumerate(examples):
        of_group.setdefault(example.group, []).append(row)
    if packed_length and len(of_group) > 1:
        raise UserError(
            "a batch holds examples of one group here, and groups cannot be packed; set "
            "train.packed_length=0"
        )
    if packed_length:
        packing = pack(examples, lengths, packed_length)
        first = deal(packing, np.arange(len(examples)))
        lengths = np.add.reduceat(lengths[first], packing.starts[:-1], axis=0, dtype=np.int32)
        shapes, rank = (packing.shape,), np.zeros(len(lengths), np.int32)
    else:
        shapes, rank = choose_shapes(examples, lengths, source_buckets, target_buckets)
    plan = Plan(batch_size, shapes, rank, lengths, seed, packing, n_steps)
    if len(of_group) == 1:
        return plan
    groups = tuple(np.array(of_group[name]) for name in sorted(of_group))
    parts = (
        dataclasses.replace(
            plan, rank=rank[rows], lengths=lengths[rows], seed=seed + number * _NEXT_GROUP
        )
        for number, rows in enumerate(groups, start=1)
    )
    return dataclasses.replace(plan, groups=groups, parts=tuple(parts))


def batch_at(
    plan: Plan, examples: Sequence[Example], step: int, process_index: int = 0,
    process_count: int = 1,
) -> Batch:  # fmt: skip
    """Return the batch of a step (0, 1, ...), with segment ids where the plan packs. Its shape is
    the same in every process; process p of P gets rows ``[p*B/P, (p+1)*B/P)``.
    """
    places, progress = _places(plan, step), plan.progress(step)
    mine = _share(plan.batch_size, process_index, process_count)
    epochs, rows = np.divmod(places, len(plan.lengths))
    if plan.packing is None:
        return _fill(examples, rows[mine], plan.shape_of(rows), progress)
    starts = plan.packing.starts
    members = [_dealt(plan, int(epoch))[starts[row] : starts[row + 1]]
               for epoch, row in zip(epochs[mine], rows[mine], strict=True)]  # fmt: skip
    return fill_packed(examples, members, plan.packing.shape, plan.packing.most, progress)


def eval_batches(
    examples: Sequence[Example], batch_size: int, source_buckets: Sequence[int],
    target_buckets: Sequence[int], process_index: int = 0, process_count: int = 1,
) -> Iterator[Batch]:  # fmt: skip
    """Yield every example once, ordered by shape. The last batch is filled up with empty rows whose
    ``example_index`` is -1. UserErrors are those of ``make_plan``, raised at the call.
    """
    plan = make_plan(examples, batch_size, source_buckets, target_buckets, seed=0)
    mine = _share(batch_size, process_index, process_count)
    order = np.argsort(plan.rank, kind="stable")

    def batches():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            shape = plan.shape_of(rows)
            rows = np.pad(rows, (0, batch_size - len(rows)), constant_values=-1)
            yield _fill(examples, rows[mine], shape, plan.progress(0))

    return batches()


def token_counts(examples: Sequence[Example]) -> np.ndarray:
    """Return the source and target tokens that each example has at most, int32 [N, 2]."""
    return np.array([example.most_tokens for example in examples], np.int32).reshape(-1, 2)


def examples_per_row(examples: Sequence[Example], packed_length: int) -> float:
    """Return how many examples a row of a batch holds on average: 1 without packing."""
    if not packed_length:
        return 1.0
    return len(examples) / pack(examples, token_counts(examples), packed_length).n_rows


def _places(plan: Plan, step: int) -> np.ndarray:
    """Return the rows of the batch of a step, int64 [B]: row + epoch * rows of an epoch."""
    if step < 0:
        raise ValueError(f"steps count from 0, got {step}")
    if plan.parts:
        group, own = (values[step] for values in _turns(plan, 1 << int(step).bit_length()))
        rows = plan.groups[group]
        return rows[_places(plan.parts[group], own) % len(rows)]
    # A window never reaches past the last batch that begins in its epoch, so that epochs follow
    # each other cleanly.
    epoch = step * plan.batch_size // len(plan.lengths)
    first, end = plan.epoch_start(epoch), plan.epoch_start(epoch + 1)
    start = step - (step - first) % WINDOW
    return _window(plan, start, min(start + WINDOW, end))[step - start]


@functools.lru_cache(maxsize=4)
def _turns(plan: Plan, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the group of each of the steps [0, n), and the step within it, int64 [n] each. Batch k
    of a group of m rows is due at (2 k + 1) / m, as in apportionment by Webster's method.
    """
    sizes = np.array([len(rows) for rows in plan.groups])
    most = n * sizes // sizes.sum() + len(sizes) + 1  # batches that can be due by then
    group = np.repeat(np.arange(len(sizes)), most)
    own = np.concatenate([np.arange(k) for k in most])
    order = np.lexsort((group, (2 * own + 1) / sizes[group]))[:n]
    return group[order], own[order]


@functools.lru_cache(maxsize=32)  # more than there are groups in turn
def _window(plan: Plan, start: int, end: int) -> np.ndarray:
    """Return the places of the batches of the steps [start, end), int64 [end - start, B]."""
    n, size = len(plan.lengths), plan.batch_size
    stream = np.arange(start * size, end * size)
    epochs = range(start * size // n, (end * size - 1) // n + 1)
    orders = np.concatenate([_shuffled(plan.seed, _PERMUTATION, epoch, n) for epoch in epochs])
    rows = orders[stream - epochs[0] * n]
    by_rank = np.argsort(plan.rank[rows], kind="stable")
    places = (rows + stream // n * n)[by_rank].reshape(end - start, size)
    return places[_shuffled(plan.seed, _BATCH_ORDER, start, end - start)]


@functools.lru_cache(maxsize=4)
def _dealt(plan: Plan, epoch: int) -> np.ndarray:
    """Return the example of each slot of the packed rows in an epoch, int64 [N]."""
    assert plan.packing is not None  # who asks has packed rows
    n = len(plan.packing.kind_of_example)
    return deal(plan.packing, _shuffled(plan.seed, _DEAL, epoch, n))


@functools.lru_cache(maxsize=8)
def _shuffled(seed: int, purpose: int, index: int, n: int) -> np.ndarray:
    # Raw Philox bits, not Generator.permutation: numpy promises only of bit generators that their
    # streams never change, and a resumed run must see the same order.
    key = np.array([seed % (1 << 64), 2 * index + purpose], np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")


def _share(batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size % process_count:
        raise UserError(
            f"train.batch_size {batch_size} cannot be shared by {process_count} processes; "
            "make it a multiple of their number"
        )
    share = batch_size // process_count
    return slice(process_index * share, (process_index + 1) * share)


def _fill(examples, rows: np.ndarray, shape: tuple[int, int], progress: float) -> Batch:
    """Pad the examples of some rows to a shape; row -1 stays empty."""
    members = [[row] if row >= 0 else [] for row in rows.tolist()]
    batch = fill_packed(examples, members, shape, 1, progress)
    del batch["encoder_segment_ids"], batch["decoder_segment_ids"]
    batch["decoder_input_tokens"][:, 1:] = batch["decoder_target_tokens"][:, :-1]
    batch["example_index"] = batch["example_index"][:, 0]
    return batch


def choose_shapes(
    examples: Sequence[Example], lengths: np.ndarray, source_buckets: Sequence[int],
    target_buckets: Sequence[int],
) -> tuple[tuple[tuple[int, int], ...], np.ndarray]:  # fmt: skip
    """Choose the shapes of batches, smallest first, and the rank of each example, [N] int32.

    Starts from every pair of buckets that an example needs and drops, one at a time, the pair whose
    examples are cheapest to pad further, while there are too many or it costs next to nothing.
    Ranks are equal where the shape is the same, and neighbours where a batch mixing two shapes is
    padded little. Raises UserError for wrong buckets, or an example longer than the largest.
    """
    source = _bucket_of(examples, lengths[:, 0], source_buckets, "source")
    target = _bucket_of(examples, lengths[:, 1], target_buckets, "target")
    pairs, pair_of, counts = np.unique(
        np.stack([source, target], 1), axis=0, return_inverse=True, return_counts=True
    )
    largest = pairs.max(0)
    kept = np.unique(np.concatenate([pairs, largest[None]]), axis=0)

    def cost(shapes):
        """Return the padded tokens of all examples."""
        fits = (shapes[None] >= pairs[:, None]).all(-1)
        return (counts * np.where(fits, shapes.sum(-1)[None], 1 << 40).min(1)).sum()

    while len(kept) > 1:
        options = [np.delete(kept, i, 0) for i in range(len(kept)) if (kept[i] < largest).any()]
        best = min(options, key=cost)
        if len(kept) <= MAX_SHAPES and cost(best) > (1 + _MERGE_SHARE) * cost(kept):
            break
        kept = best
    kept = kept[np.lexsort((kept[:, 1], kept[:, 0], kept.sum(1)))]
    # Shapes of one source length follow each other, their targets rising and falling in turn, so
    # that neighbours share a side.
    row = np.unique(kept[:, 0], return_inverse=True)[1]
    rank = np.argsort(np.lexsort((np.where(row % 2, -kept[:, 1], kept[:, 1]), row)))
    smallest = (kept[None] >= pairs[:, None]).all(-1).argmax(1)  # shape of each pair
    ranks = rank[smallest][pair_of.reshape(-1)].astype(np.int32)
    return tuple((int(s), int(t)) for s, t in kept), ranks


def _bucket_of(examples, lengths: np.ndarray, buckets: Sequence[int], side: str) -> np.ndarray:
    """Return the smallest bucket of one side that holds each length. Without buckets they are
    quantiles of the lengths themselves.
    """
    field = f"train.{side}_buckets"
    if not len(buckets):
        buckets = quantile_buckets(lengths)
    buckets = np.asarray(buckets, np.int64)
    if buckets.min() < 1 or (np.diff(buckets) <= 0).any():
        raise UserError(f"{field} must be rising lengths, got {tuple(buckets.tolist())}")
    worst = int(lengths.argmax())
    if lengths[worst] > buckets[-1]:
        n_over = int((lengths > buckets[-1]).sum())
        raise UserError(
            f"example {examples[worst].id} has {lengths[worst]} {side} tokens, more than the "
            f"largest of {field} {tuple(buckets.tolist())} ({n_over} of {len(lengths)} examples "
            f"do not fit); add a bucket of at least {lengths[worst]} to {field}"
        )
    return buckets[np.searchsorted(buckets, lengths)]


def quantile_buckets(lengths: np.ndarray, n: int = _QUANTILES) -> np.ndarray:
    """Return at most n rising lengths, quantiles of those given, multiples of 8; the last holds
    all.

    >>> quantile_buckets(np.array([3, 9, 20, 21, 60]), 3).tolist()
    [8, 24, 64]
    """
    cuts = np.quantile(lengths, np.linspace(0, 1, n), method="higher")
    return np.unique(-(-np.maximum(cuts, 1) // _GRAIN) * _GRAIN)


def holding(buckets: Sequence[int], longest: int) -> tuple[int, ...]:
    """Return buckets with one more behind them where none holds the longest; () stays as it is.

    >>> holding((16, 32), 20), holding((16, 32), 70), holding((), 70)
    ((16, 32), (16, 32, 128), ())
    """
    if not len(buckets) or buckets[-1] >= longest:
        return tuple(buckets)
    last = buckets[-1]
    while last < longest:
        last *= 2
    return (*buckets, last)


def prefetch(items: Iterable[Item], depth: int = 2) -> Generator[Item, None, None]:
    """Yield items that a background thread prepares ahead, in order, at most ``depth``. An
    exception of ``items`` is raised here in its place. The thread ends when the consumer stops.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(1, "prefetch")
    try:
        ready = collections.deque(pool.submit(next, source, _END) for _ in range(depth))
        while (item := ready.popleft().result()) is not _END:
            ready.append(pool.submit(next, source, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
