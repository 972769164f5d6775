"""The feature converter: weights kept to the bit, nothing lost, nothing trimmed."""

from types import SimpleNamespace

import numpy as np
import pytest

seqio = pytest.importorskip("seqio")

import tensorflow as tf  # noqa: E402

from asesjax.core.types import Example  # noqa: E402
from asesjax.data.batching import eval_batches  # noqa: E402
from asesjax.tasks.features import WEIGHTS, WeightedEncDecFeatureConverter  # noqa: E402

LENGTHS = {"inputs": 16, "targets": 12, WEIGHTS: 12}


def examples_of(n, seed=0):
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        s, t = rng.integers(1, 9, 2)
        weights = rng.choice(np.float32([0.0, 0.1, 0.37, 1.0, 1.7]), t)
        ids = [rng.integers(1, 40, k).astype(np.int32) for k in (s, t)]
        out.append(Example(f"{i}", *ids, weights))
    return out


def dataset(examples):
    spec = {"inputs": tf.int32, "targets": tf.int32, WEIGHTS: tf.float32}
    return tf.data.Dataset.from_generator(
        lambda: ({"inputs": e.inputs, "targets": e.targets, WEIGHTS: e.weights} for e in examples),
        output_signature={key: tf.TensorSpec([None], dtype) for key, dtype in spec.items()},
    )


def test_padded_rows_equal_our_batches():
    examples = examples_of(20)
    converter = WeightedEncDecFeatureConverter(pack=False)
    rows = list(converter(dataset(examples), LENGTHS).batch(20).as_numpy_iterator())[0]
    batch = next(eval_batches(examples, 20, (16,), (12,)))
    order = np.argsort(batch.pop("example_index"))
    assert rows.keys() == batch.keys()
    for name, values in batch.items():
        assert rows[name].dtype == values.dtype
        assert rows[name].tobytes() == values[order].tobytes()


def test_packed_rows_hold_every_example_once():
    examples = examples_of(100)
    converter = WeightedEncDecFeatureConverter(pack=True)
    found = []
    rows = list(converter(dataset(examples), LENGTHS).as_numpy_iterator())
    for row in rows:
        for segment in range(1, row["encoder_segment_ids"].max() + 1):
            source = row["encoder_segment_ids"] == segment
            target = row["decoder_segment_ids"] == segment
            targets = row["decoder_target_tokens"][target]
            assert row["decoder_input_tokens"][target].tolist() == [0, *targets[:-1].tolist()]
            weights = row["decoder_loss_weights"][target]
            assert weights.dtype == np.float32
            found.append((row["encoder_input_tokens"][source], targets, weights))
        padding = row["decoder_segment_ids"] == 0
        assert not row["decoder_loss_weights"][padding].any()
    as_bytes = lambda parts: tuple(part.tobytes() for part in parts)  # noqa: E731
    expected = [(e.inputs, e.targets, e.weights) for e in examples]
    assert sorted(map(as_bytes, found)) == sorted(map(as_bytes, expected))
    n_tokens = sum(len(e.inputs) + len(e.targets) for e in examples)
    assert n_tokens / (len(rows) * 28) > 0.8


@pytest.mark.parametrize("pack", [False, True])
def test_longer_examples_are_errors(pack):
    two = np.ones(2, np.int32)
    long = [Example("long", np.arange(1, 18, dtype=np.int32), two, two.astype(np.float32))]
    converter = WeightedEncDecFeatureConverter(pack=pack)
    with pytest.raises(tf.errors.OpError, match="inputs.* has length not less"):
        list(converter(dataset(long), LENGTHS).as_numpy_iterator())


def test_weights_and_targets_must_have_one_length():
    one = np.ones(1, np.int32)
    # No Example: that one would refuse them.
    uneven = [SimpleNamespace(inputs=one, targets=np.ones(3, np.int32), weights=np.float32([1, 1]))]
    converter = WeightedEncDecFeatureConverter(pack=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be as many as targets"):
        list(converter(dataset(uneven), LENGTHS).as_numpy_iterator())
    with pytest.raises(ValueError, match="as long as targets, got 11 and 12"):
        converter(dataset(examples_of(1)), LENGTHS | {WEIGHTS: 11})


def test_seqio_own_converter_loses_weights():
    """Why ours exists; when this fails, seqio may have fixed theirs."""
    [row] = seqio.EncDecFeatureConverter(pack=False)(
        dataset([Example("0", np.ones(1, "i"), np.ones(2, "i"), np.float32([0.37, 1]))]),
        {"inputs": 2, "targets": 3},
    ).as_numpy_iterator()
    assert row["decoder_loss_weights"].tolist() == [1, 1, 0]
