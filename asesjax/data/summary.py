"""What a list of examples looks like: lengths, how full batches are, weights of targets."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from asesjax.core.types import Example
from asesjax.data.batching import examples_per_row, make_plan
from asesjax.data.vocab import Vocabulary


def length_stats(lengths: Sequence[int]) -> dict[str, float]:
    """Return ``n``, ``total``, ``mean``, ``median``, ``p95`` and ``max`` of some lengths."""
    some = np.asarray(lengths if len(lengths) else [0], np.int64)
    median, p95 = np.percentile(some, [50, 95]).tolist()
    return {"n": len(lengths), "total": int(some.sum()), "mean": float(some.mean()),
            "median": median, "p95": p95, "max": int(some.max())}  # fmt: skip


def batch_stats(examples: Sequence[Example], train: Any, packed_length: int = 0) -> dict[str, Any]:
    """Return how full the batches of an epoch are: their ``shapes`` (S, T), the ``padding_share``
    of all positions, the ``steps`` of an epoch. Raises UserError where an example does not fit.
    """
    buckets = train.source_buckets, train.target_buckets
    plan = make_plan(examples, train.batch_size, *buckets, 0, packed_length)
    return {
        "shapes": [list(shape) for shape in plan.shapes],
        "padding_share": plan.padding_share,
        "examples_per_row": examples_per_row(examples, packed_length),
        "steps": plan.epoch_start(1),
    }


def weight_runs(vocab: Vocabulary, example: Example) -> list[tuple[str, float]]:
    """Return the target as (text, weight) of stretches of equal weight, with the closing ids."""
    cuts = np.flatnonzero(np.diff(example.weights)) + 1
    runs = zip(np.split(example.targets, cuts), np.split(example.weights, cuts), strict=True)
    return [(shown(vocab, ids), float(weights[0])) for ids, weights in runs]


def shown(vocab: Vocabulary, ids: np.ndarray) -> str:
    """Decode ids for people: the end of sequence is written ``</s>``."""
    text = vocab.decode(ids)
    return text + "</s>" if len(ids) and ids[-1] == vocab.eos_id else text
