"""Our examples in seqio's terms: vocabularies, features, and the feature converter.

Our tasks also have the feature ``targets_weights``, float32, as long as ``targets``. seqio's
converter overwrites weights with 0 and 1, and its packing casts them to integers; ours keeps them.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import seqio
import tensorflow as tf

from asesjax.core.types import Example
from asesjax.data.packing import fill_packed
from asesjax.data.vocab import SentencePieceVocabulary, Vocabulary

WEIGHTS = "targets_weights"
_OPEN_ROWS = 16  # rows that wait for more examples while packing
_INT = seqio.FeatureConverter.FeatureSpec(dtype=tf.int32)
_FLOAT = seqio.FeatureConverter.FeatureSpec(dtype=tf.float32)


class PlainVocabulary(seqio.Vocabulary):
    """A vocabulary of ours, run in Python: for those that seqio does not have."""

    # Properties without a value in seqio's class; T5 has no beginning of sequence.
    bos_id: int | None = None
    eos_id: int | None = None
    unk_id: int | None = None
    _base_vocab_size: int | None = None

    def __init__(self, vocab: Vocabulary):
        super().__init__(extra_ids=vocab.extra_ids)
        self._vocab, self._base_vocab_size = vocab, vocab.n_pieces
        self.eos_id, self.unk_id = vocab.eos_id, vocab.unk_id

    def _encode(self, s):
        return self._vocab.encode(s).tolist()

    def _decode(self, ids):
        return self._vocab.decode(ids)

    def _encode_tf(self, s):
        encode = lambda text: self._vocab.encode(_text(text))  # noqa: E731
        ids = tf.numpy_function(encode, [s], tf.int32, stateful=False)
        return tf.ensure_shape(ids, [None])

    def _decode_tf(self, ids):
        decode = lambda row: self._vocab.decode(row).encode()  # noqa: E731
        return tf.ensure_shape(tf.numpy_function(decode, [ids], tf.string, stateful=False), [])

    def __eq__(self, other):
        return isinstance(other, PlainVocabulary) and self._vocab is other._vocab


def _text(value) -> str:
    """Outside of a graph, ``numpy_function`` passes an array of one text."""
    value = value if isinstance(value, bytes) else value.item()
    return value.decode() if isinstance(value, bytes) else value


def seqio_vocabulary(vocab: Vocabulary, folder: str | Path) -> seqio.Vocabulary:
    """Return seqio's vocabulary of the model that ``vocab.save`` wrote to ``folder``.

    Pieces have the same ids, but two kinds of text still get others: those with ``<extra_id_k>``,
    which seqio makes pieces of the model, and those with two equally probable segmentations (with
    T5's vocabulary one of 6,732 records of GSM8K: 666 as 66 6 instead of 6 66).
    """
    if vocab.symbols or vocab.kind in ("tokenizer", "byt5"):
        return PlainVocabulary(vocab)
    if vocab.kind == "byte":
        return seqio.ByteVocabulary(vocab.extra_ids)
    assert isinstance(vocab, SentencePieceVocabulary)  # the only kind that is left
    return seqio.SentencePieceVocabulary(str(Path(folder) / "spiece.model"), vocab.new_ids)


def output_features(vocab: seqio.Vocabulary) -> dict[str, seqio.Feature]:
    """Return the features of a task: ids of both sides, and a weight for each target."""
    ids = seqio.Feature(vocab, add_eos=True, dtype=tf.int32)
    weights = seqio.Feature(seqio.PassThroughVocabulary(1), add_eos=False, dtype=tf.float32)
    return {"inputs": ids, "targets": ids, WEIGHTS: weights}


class WeightedEncDecFeatureConverter(seqio.FeatureConverter):
    """Task features to our batches (``core.types.Batch``), float weights unchanged, padded to the
    task's lengths or packed. Nothing is trimmed; an example that is too long is an error.
    """

    TASK_FEATURES = {"inputs": _INT, "targets": _INT, WEIGHTS: _FLOAT}
    MODEL_FEATURES = {
        "encoder_input_tokens": _INT,
        "decoder_input_tokens": _INT,
        "decoder_target_tokens": _INT,
        "decoder_loss_weights": _FLOAT,
    }
    PACKING_FEATURE_DTYPES = {"encoder_segment_ids": tf.int32, "decoder_segment_ids": tf.int32}

    def _convert_features(self, ds, task_feature_lengths):
        shape = task_feature_lengths["inputs"], task_feature_lengths["targets"]
        length = task_feature_lengths[WEIGHTS]
        if length != shape[1]:
            raise ValueError(f"{WEIGHTS} must be as long as targets, got {length} and {shape[1]}")
        ds = ds.map(_check_weights)
        if not self.pack:
            return seqio.utils.trim_and_pad_dataset(ds, task_feature_lengths).map(_shifted)
        lengths = self.get_model_feature_lengths(task_feature_lengths)
        dtypes = {name: spec.dtype for name, spec in self.MODEL_FEATURES.items()}
        dtypes |= self.PACKING_FEATURE_DTYPES
        return tf.data.Dataset.from_generator(
            lambda: ({name: batch[name][0] for name in lengths} for batch in _packed(ds, shape)),
            output_signature={
                name: tf.TensorSpec([length], dtypes[name]) for name, length in lengths.items()
            },
        )

    def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> dict[str, int]:
        """Return the length of each model feature."""
        names = [*self.MODEL_FEATURES, *(self.PACKING_FEATURE_DTYPES if self.pack else ())]
        return {
            name: task_feature_lengths["inputs" if name.startswith("encoder") else "targets"]
            for name in names
        }


def example_of(row: Mapping[str, np.ndarray], name: str) -> Example:
    """Build an example of a row of task features; without ``targets_weights`` each weight is 1."""
    inputs, targets = np.asarray(row["inputs"]), np.asarray(row["targets"])
    weights = np.asarray(row.get(WEIGHTS, np.ones(len(targets), np.float32)))
    if len(weights) != len(targets):
        raise ValueError(f"{name}: {len(weights)} {WEIGHTS} for {len(targets)} targets")
    return Example(name, inputs, targets, weights)


def _check_weights(row):
    message = f"{WEIGHTS} must be as many as targets"
    tf.debugging.assert_equal(tf.size(row[WEIGHTS]), tf.size(row["targets"]), message)
    return row


def _shifted(row):
    return {
        "encoder_input_tokens": row["inputs"],
        "decoder_input_tokens": seqio.utils.make_autoregressive_inputs(row["targets"]),
        "decoder_target_tokens": row["targets"],
        "decoder_loss_weights": row[WEIGHTS],
    }


def _packed(ds, shape):
    """First fit into a few open rows; the fullest is closed to make room for a new one."""
    rows: list[tuple[list[Example], np.ndarray]] = []  # examples, and free tokens of both sides

    def close(row):
        return fill_packed(row[0], [np.arange(len(row[0]))], shape, len(row[0]))

    for row in ds.as_numpy_iterator():
        example = example_of(row, "an example")
        size = np.array([len(example.inputs), len(example.targets)])
        place = next((open_ for open_ in rows if (size <= open_[1]).all()), None)
        if place is None:
            if len(rows) == _OPEN_ROWS:
                yield close(rows.pop(int(np.argmin([free.sum() for _, free in rows]))))
            place = ([], np.array(shape))
            rows.append(place)
        place[0].append(example)
        place[1][:] -= size
    yield from map(close, rows)
