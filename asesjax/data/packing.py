"""Several examples in a row: how long rows are, which lengths share one, and the arrays.

The packing is made once, of lengths alone; which examples of equal lengths go where is dealt anew
in every epoch. So all epochs have as many rows, the step alone tells which batch comes next, and
examples change their neighbours (2 % of GSM8K's pairs stay together in the next epoch).

Rows are filled one after another: examples drawn at random until half of either side is taken, then
whichever comes closest to filling both (the norm-based greedy of Panigrahy et al. 2011, "Heuristics
for Vector Bin Packing"); the fullest of some tries is kept.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.types import Batch, Example

_MULTIPLE = 8  # of both sides of a row
_SHORTEST_SHARE = 0.75  # of packed_length that a row may have for the sake of its proportions
_DRAWN_SHARE = 0.5  # of either side, before examples are chosen
_TRIES = 16  # of filling a row, at most
_FULL = 0.99  # a row of which more is taken, on average of both sides, is tried no further
_KEY = 0x5041434B  # of the random numbers; a seed would make runs of other lengths
_SIDES = ("source", "target")


@dataclasses.dataclass(frozen=True, eq=False)
class Packing:
    """Rows of slots, each for an example of two given lengths (a "kind")."""

    shape: tuple[int, int]  # (S, T) of every row
    starts: np.ndarray  # [R + 1] int64; row r has the slots ``starts[r]`` to ``starts[r + 1] - 1``
    kind_of_slot: np.ndarray  # [N] int64
    kind_of_example: np.ndarray  # [N] int64

    @property
    def n_rows(self) -> int:
        """Rows of an epoch."""
        return len(self.starts) - 1

    @functools.cached_property
    def most(self) -> int:
        """Examples of the row that has most of them."""
        return int(np.diff(self.starts).max())


def pack(examples: Sequence[Example], lengths: np.ndarray, packed_length: int) -> Packing:
    """Decide how long rows are and which lengths ([N, 2] int32, source and target) share one. The
    longer side has between three quarters of ``packed_length`` and all of it, the other what is in
    proportion or what the longest example needs, both a multiple of 8. Raises UserError where an
    example does not fit, ValueError for one without tokens or with the id 0.
    """
    # Padding is told from tokens by the id 0, and a segment without tokens would not be counted.
    for example in examples:
        if not (len(example.inputs) and len(example.targets)):
            raise ValueError(f"example {example.id} has a side without tokens")
        if not (example.inputs.all() and example.targets.all()):
            raise ValueError(f"example {example.id} holds the id 0, which is padding")
    return _pack(lengths.tobytes(), _row_shape(examples, lengths, packed_length))


def deal(packing: Packing, order: np.ndarray) -> np.ndarray:
    """Return the example of each slot, [N] int64: those of one kind come as in ``order``, [N]."""
    members = np.empty(len(order), np.int64)
    slots = np.argsort(packing.kind_of_slot, kind="stable")
    members[slots] = order[np.argsort(packing.kind_of_example[order], kind="stable")]
    return members


def fill_packed(
    examples: Sequence[Example], rows: Sequence[Sequence[int] | np.ndarray],
    shape: tuple[int, int], most: int, progress: float = 1.0,
) -> Batch:  # fmt: skip
    """Place the examples of each row (``rows`` has their indices) one behind the other. The batch
    has segment ids, targets shifted right within their segment, and ``most`` columns of
    ``example_index``; ``progress`` is the share of training that is over.
    """
    n, source, target = len(rows), *shape
    batch = {
        "encoder_input_tokens": np.zeros((n, source), np.int32),
        "encoder_segment_ids": np.zeros((n, source), np.int32),
        "decoder_input_tokens": np.zeros((n, target), np.int32),
        "decoder_target_tokens": np.zeros((n, target), np.int32),
        "decoder_segment_ids": np.zeros((n, target), np.int32),
        "decoder_loss_weights": np.zeros((n, target), np.float32),
        "example_index": np.full((n, most), -1, np.int32),
    }
    for i, members in enumerate(rows):
        batch["example_index"][i, : len(members)] = members
        s = t = 0
        for segment, index in enumerate(members, start=1):
            inputs, targets, weights = examples[index].at(progress)
            s_end, t_end = s + len(inputs), t + len(targets)
            batch["encoder_input_tokens"][i, s:s_end] = inputs
            batch["encoder_segment_ids"][i, s:s_end] = segment
            batch["decoder_input_tokens"][i, t + 1 : t_end] = targets[:-1]
            batch["decoder_target_tokens"][i, t:t_end] = targets
            batch["decoder_segment_ids"][i, t:t_end] = segment
            batch["decoder_loss_weights"][i, t:t_end] = weights
            s, t = s_end, t_end
    return batch


def _row_shape(examples, lengths: np.ndarray, packed_length: int) -> tuple[int, int]:
    """Choose (S, T): the longer side a little shorter than asked where that fits the proportion."""
    if packed_length < _MULTIPLE:
        raise UserError(
            f"train.packed_length must be 0 (no packing) or at least {_MULTIPLE}, got "
            f"{packed_length}"
        )
    totals = lengths.sum(0, dtype=np.int64)
    long = int(totals.argmax())
    ratio = totals[1 - long] / totals[long]
    longest, options = lengths.max(0), []
    limit = packed_length // _MULTIPLE * _MULTIPLE
    for side in range(limit, int(_SHORTEST_SHARE * limit) - 1, -_MULTIPLE):
        wanted = side * ratio
        below = int(wanted // _MULTIPLE) * _MULTIPLE
        for other in (below, below + _MULTIPLE):
            if side >= longest[long] and other >= longest[1 - long]:
                # The share of the less full side when the other is full.
                options.append((min(wanted / other, other / wanted), side, other))
    if not options:  # one example is longer than in proportion
        worst, side = np.unravel_index(lengths.argmax(), lengths.shape)
        if longest[side] > limit:
            needed = -(-longest[side] // _MULTIPLE) * _MULTIPLE
            raise UserError(
                f"example {examples[worst].id} has {longest[side]} {_SIDES[side]} tokens, too many "
                f"for rows of train.packed_length {packed_length}; make train.packed_length at "
                f"least {needed}, or 0 for no packing"
            )
        options.append((0.0, limit, -(-longest[1 - long] // _MULTIPLE) * _MULTIPLE))
    _, side, other = max(options)
    return (side, other) if long == 0 else (other, side)


@functools.lru_cache(maxsize=4)
def _pack(raw: bytes, shape: tuple[int, int]) -> Packing:
    """Fill rows with lengths; ``raw`` holds [N, 2] int32."""
    lengths = np.frombuffer(raw, np.int32).reshape(-1, 2)
    kinds, kind_of_example, counts = np.unique(
        lengths, axis=0, return_inverse=True, return_counts=True
    )
    bits = np.random.Philox(key=_KEY)  # raw bits never change with numpy's version
    # In units of which a row has S * T on either side: whole numbers, so nothing is rounded.
    sides = np.ascontiguousarray((kinds * np.array(shape[::-1])).astype(np.float64).T)
    alive = np.arange(len(kinds))  # kinds that may have examples left
    rows, left = [], len(lengths)
    while left:
        if (counts == 0).sum() > 0.2 * len(alive):  # kinds without examples cost time
            alive, sides, counts = (x[..., counts > 0] for x in (alive, sides, counts))
        best, row = -1.0, []
        for _ in range(_TRIES):
            filled, taken = _fill_row(sides, counts, left, bits, float(shape[0] * shape[1]))
            if filled > best:
                best, row = filled, taken
            if filled > _FULL:
                break
        np.subtract.at(counts, row, 1)
        left -= len(row)
        rows.append(alive[row])
    starts = np.cumsum([0, *map(len, rows)])
    return Packing(shape, starts, np.concatenate(rows), kind_of_example.reshape(-1))


def _fill_row(sides, counts, left: int, bits, whole: float) -> tuple[float, list[int]]:
    """Fill a row once; return the share that is filled, mean of both sides, and its kinds.
    ``sides`` [2, K] of the ``whole`` of a side go to an example; ``counts`` [K] are left.
    """
    source, target = sides
    free_source = free_target = whole
    up_to, row, drawing = counts.cumsum(), list[int](), True
    while len(row) < left:
        drawing = drawing and min(free_source, free_target) >= (1 - _DRAWN_SHARE) * whole
        if drawing:
            kind = int(up_to.searchsorted(bits.random_raw() % left, side="right"))
            drawing = counts[kind] and source[kind] <= free_source and target[kind] <= free_target
        if not drawing:
            after_source, after_target = free_source - source, free_target - target
            distance = after_source * after_source + after_target * after_target
            distance[(after_source < 0) | (after_target < 0) | (counts == 0)] = np.inf
            kind = int(distance.argmin())
            if distance[kind] == np.inf:
                break
        counts[kind] -= 1
        row.append(kind)
        free_source -= source[kind]
        free_target -= target[kind]
    np.add.at(counts, row, 1)
    return 1 - (free_source + free_target) / (2 * whole), row
