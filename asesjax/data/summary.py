"""What texts and examples look like: what a vocabulary loses of them, lengths, how full batches
are, weights of targets.
"""

import collections
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


def unknown_share(
    vocab: Vocabulary, texts: Sequence[str], ids: Sequence[np.ndarray] | None = None
) -> tuple[int, int, list[str]]:
    """Count the pieces that a vocabulary cannot spell in some texts: return their number, that of
    all tokens, and the ten stretches of text most often lost. ``ids`` are the texts' own.
    """
    n_unknown, n_tokens, lost = 0, 0, collections.Counter[str]()
    for text, own in zip(texts, vocab.encode_batch(texts) if ids is None else ids, strict=True):
        n_tokens += len(own)
        if (own == vocab.unk_id).any():
            again, starts, ends = vocab.encode_with_offsets(text)
            where = np.flatnonzero(again == vocab.unk_id)
            n_unknown += len(where)
            # A piece of no width is part of what the next character was normalised to.
            lost.update(text[starts[i] : max(ends[i], starts[i] + 1)] for i in where)
    # Ties by text: the order must not depend on the order of the texts.
    common = sorted(lost.items(), key=lambda item: (-item[1], item[0]))
    return n_unknown, n_tokens, [text for text, _ in common[:10]]


def audit(
    vocab: Vocabulary, field: str, texts: Sequence[str], ids: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Count what a vocabulary loses of a field of some data: its ``unknown`` tokens, the stretches
    most often ``lost``, and the texts ``changed``, which decoding does not give back as they were.
    """
    unknown, tokens, lost = unknown_share(vocab, texts, ids)
    changed = sum(text != vocab.decode(own) for text, own in zip(texts, ids, strict=True))
    return {"field": field, "texts": len(texts), "tokens": tokens, "unknown": unknown,
            "changed": changed, "lost": lost}  # fmt: skip
