"""What a list of examples looks like: lengths, how full batches are, weights of targets."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from asesjax.core.types import Example
from asesjax.data.batching import examples_per_row, make_plan
from asesjax.data.vocab import Vocabulary


def length_stats(lengths: Sequence[int]) -> dict[str, float]:
    """Return ``n``, ``total``, ``mean``, ``median``, ``p95`` and ``max`` of some lengths.

    Example:
      >>> length_stats([1, 2, 6])["mean"]
      3.0
    """
    values = np.asarray(lengths, np.int64)
    if not len(values):
        return {"n": 0, "total": 0, "mean": 0.0, "median": 0.0, "p95": 0.0, "max": 0}
    return {
        "n": len(values),
        "total": int(values.sum()),
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "p95": float(np.percentile(values, 95)),
        "max": int(values.max()),
    }


def batch_stats(examples: Sequence[Example], train: Any, packed_length: int = 0) -> dict[str, Any]:
    """Say how full the batches of an epoch are.

    Args:
      examples: of one role.
      train: section ``train`` of the config: batch size and buckets.
      packed_length: above 0, with several examples in a row of so many positions.

    Returns:
      ``shapes``, the (S, T) of batches; ``padding_share`` of all positions;
      ``examples_per_row``; ``steps`` of an epoch.

    Raises:
      UserError: an example fits no bucket, or no packed row.
    """
    plan = make_plan(
        examples, train.batch_size, train.source_buckets, train.target_buckets, 0,
        packed_length=packed_length,
    )  # fmt: skip
    return {
        "shapes": [list(shape) for shape in plan.shapes],
        "padding_share": plan.padding_share,
        "examples_per_row": examples_per_row(examples, packed_length),
        "steps": plan.epoch_start(1),
    }


def weight_runs(vocab: Vocabulary, example: Example) -> list[tuple[str, float]]:
    """Return the target as stretches of equal weight, the closing ids written out.

    Example:
      >>> from asesjax.data.vocab import ByteVocabulary
      >>> ids, weights = np.array([100, 101, 1]), np.array([1.0, 0.5, 0.5])
      >>> weight_runs(ByteVocabulary(0), Example("1", ids, ids, weights))
      [('a', 1.0), ('b</s>', 0.5)]
    """
    cuts = np.flatnonzero(np.diff(example.weights)) + 1
    return [
        (shown(vocab, ids), float(weights[0]))
        for ids, weights in zip(
            np.split(example.targets, cuts), np.split(example.weights, cuts), strict=True
        )
    ]


def shown(vocab: Vocabulary, ids: np.ndarray) -> str:
    """Decode ids for people: the end of sequence is written ``</s>``."""
    text = vocab.decode(ids)
    return text + "</s>" if len(ids) and ids[-1] == vocab.eos_id else text
