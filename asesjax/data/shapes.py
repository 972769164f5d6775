"""The few (S, T) that batches are padded to."""

from collections.abc import Sequence

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.types import Example

MAX_SHAPES = 6
_MERGE_SHARE = 0.02  # a shape that saves less padding than this is not worth a compilation


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
    """Return the smallest bucket of one side that holds each length."""
    field = f"train.{side}_buckets"
    buckets = np.asarray(buckets, np.int64)
    if not len(buckets) or buckets.min() < 1 or (np.diff(buckets) <= 0).any():
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
