"""Numbers of a list of examples against plain Python."""

import statistics

import numpy as np
import pytest

from asesjax.config import base_config
from asesjax.core.errors import UserError
from asesjax.core.types import Example
from asesjax.data.summary import batch_stats, length_stats, shown, weight_runs
from asesjax.data.vocab import ByteVocabulary


def examples(lengths):
    return [
        Example(str(i), np.full(s, 7, np.int32), np.full(t, 7, np.int32), np.ones(t, np.float32))
        for i, (s, t) in enumerate(lengths)
    ]


def test_length_stats():
    values = [3, 1, 4, 1, 5, 9, 2, 6]
    stats = length_stats(values)
    assert stats["n"] == 8 and stats["total"] == sum(values) and stats["max"] == 9
    assert stats["mean"] == statistics.mean(values)
    assert stats["median"] == statistics.median(values)
    assert 6 <= stats["p95"] <= 9
    assert length_stats([])["n"] == 0


def test_padding_by_hand():
    train = base_config().train
    train.update(batch_size=2, source_buckets=(10, 20), target_buckets=(10,))
    # Two batches of equal lengths: (2*10 + 2*10) and (2*20 + 2*10) places.
    found = batch_stats(examples([(10, 5), (10, 5), (20, 5), (20, 5)]), train)
    assert found["shapes"] == [[10, 10], [20, 10]] and found["steps"] == 2
    assert found["padding_share"] == pytest.approx(1 - 80 / 100)
    assert found["examples_per_row"] == 1
    packed = batch_stats(examples([(8, 8)] * 16), train, packed_length=32)
    assert packed == {"shapes": [[32, 32]], "padding_share": 0.0, "examples_per_row": 4, "steps": 2}
    with pytest.raises(UserError, match="add a bucket of at least 21"):
        batch_stats(examples([(21, 5)]), train)


def test_weights_are_shown_by_stretches():
    vocab = ByteVocabulary(2)
    ids = np.array([*vocab.encode("ab c"), vocab.sentinel(0), vocab.eos_id])
    weights = np.array([1, 1, 0.25, 0.25, 1, 1], np.float32)
    assert weight_runs(vocab, Example("x", ids, ids, weights)) == [
        ("ab", 1.0), (" c", 0.25), ("<extra_id_0></s>", 1.0)
    ]  # fmt: skip
    assert shown(vocab, ids[:2]) == "ab" and shown(vocab, ids[:0]) == ""
