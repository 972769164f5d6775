"""Rows of a data set of TensorFlow Datasets and of a task of seqio, for ``data.source``."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio

from asesjax.config import load_plugin
from asesjax.core.buckets import local
from asesjax.core.errors import UserError
from asesjax.data.rows import json_value
from asesjax.data.vocab import Vocabulary, load_vocabulary
from asesjax.tasks.load import get_provider

_PROBE = "Is  it 12.5 or ½ of ＡＢ?"  # other normalisations change it


class Named(NamedTuple):
    """What is read by name."""

    splits: Sequence[str]  # their names
    rows: Callable[[str], Iterator[dict[str, Any]]]  # of a split, in a fixed order


def read_tfds(settings: Any) -> Named:
    """Return the data set ``data.path``, a name (``gsm8k:1.0.0``) or the folder of one that was
    prepared; ``data.module`` may define it. Classes are read by their names, and any expression of
    TFDS is a split (``train[:90%]``). Raises UserError where it cannot be found or prepared.
    """
    import os

    import tensorflow_datasets

    if settings.module:
        load_plugin(settings.module)
    try:
        if os.path.isdir(settings.path):
            builder = tensorflow_datasets.builder_from_directory(settings.path)
        else:
            builder = tensorflow_datasets.builder(settings.path)
            builder.download_and_prepare()
    except Exception as error:  # of TFDS, of the network, of the data set's own code
        raise UserError(_failed(f"the data set {settings.path}", error)) from error
    classes = {name: feature for name, feature in dict(builder.info.features).items()
               if isinstance(feature, tensorflow_datasets.features.ClassLabel)}  # fmt: skip

    def rows(split: str) -> Iterator[dict[str, Any]]:
        try:
            found = builder.as_dataset(split=split, shuffle_files=False)
        except Exception as error:  # a split that there is none of
            raise UserError(_failed(f"split {split} of {settings.path}", error)) from error
        for row in found.as_numpy_iterator():
            yield {name: classes[name].int2str(value) if name in classes else json_value(value)
                   for name, value in row.items()}  # fmt: skip

    return Named(list(builder.info.splits), rows)


def read_seqio(settings: Any) -> Named:
    """Return the task or mixture ``data.task``, which ``data.module`` registers. Rows have its text
    features, ids decoded where it keeps no text, and ``question`` for ``inputs``, ``rationale`` for
    ``targets`` and an empty ``answer`` where it has none of that name. A mixture's tasks come one
    after another, whatever their rates, unless ``data.n_drawn`` rows of its split ``train`` (or of
    ``data.split``) are drawn at them from an endless shuffled stream, each then with an id of its
    own. Raises UserError for an unknown name.
    """
    provider, drawn = _provider(settings), settings.n_drawn

    def rows(split: str) -> Iterator[dict[str, Any]]:
        if drawn and split == (settings.split or "train"):
            stream = _values(provider, split, shuffle=True, num_epochs=None, seed=0)
            for number, values in enumerate(itertools.islice(stream, drawn), 1):
                yield _row(provider, values) | {settings.id_field: f"{settings.task}/{number}"}
            return
        for part in seqio.get_subtasks(provider):
            if split in part.splits:
                for values in _values(part, split, shuffle=False, num_epochs=1):
                    yield _row(part, values)

    return Named(sorted({split for part in seqio.get_subtasks(provider) for split in part.splits}),
                 rows)  # fmt: skip


def task_vocabulary(settings: Any, extra_ids: int) -> Vocabulary:
    """Return the vocabulary of both sides of ``data.task``, with ``extra_ids`` sentinels if it has
    none; UserError for one that is not ours.
    """
    if not settings.task:
        raise UserError("vocab.kind=task takes the vocabulary of data.task, which is empty; set it "
                        "or another vocab.kind")  # fmt: skip
    features = _provider(settings).output_features
    sides = [features[side].vocabulary for side in ("inputs", "targets") if side in features]
    if any(side != sides[0] for side in sides):
        raise UserError(f"{settings.task} has another vocabulary for inputs than for targets, and "
                        "a model has one; set vocab.kind to another")  # fmt: skip
    own = sides[0] if sides else None
    if isinstance(own, seqio.SentencePieceVocabulary):
        file = str(local(own.sentencepiece_model_file))
        vocab = load_vocabulary("sentencepiece", file, own.extra_ids or extra_ids)
    elif isinstance(own, seqio.ByteVocabulary):
        vocab = load_vocabulary("byte", "", own.extra_ids or extra_ids)
    else:
        raise UserError(f"{settings.task} has the vocabulary {own}, which is neither SentencePiece "
                        "nor bytes; set vocab.kind to another")  # fmt: skip
    same = own.encode(_PROBE) == vocab.encode(_PROBE).tolist()
    if vocab.kind == "sentencepiece" and own.extra_ids:
        same &= vocab.sentinel(0) in own.encode("<extra_id_0>")  # seqio may count them upwards
    if not same:
        raise UserError(f"{settings.task} has the vocabulary {own}, with normalisation or an "
                        "order of sentinels that T5 has not; set another vocab.kind")  # fmt: skip
    return vocab


def _provider(settings: Any) -> seqio.Task | seqio.Mixture:
    if settings.module:
        load_plugin(settings.module)
    return get_provider(settings.task)


def _values(provider: seqio.Task | seqio.Mixture, split: str, **how: Any) -> Iterator[dict]:
    return provider.get_dataset(sequence_length=None, split=split, trim_output_features=False,
                                **how).as_numpy_iterator()  # fmt: skip


def _row(provider: seqio.Task | seqio.Mixture, values: dict[str, Any]) -> dict[str, Any]:
    """Return the features as text, under their own names and ours."""
    row = {key: json_value(value) for key, value in values.items()}
    for key, feature in provider.output_features.items():
        if text := row.get(f"{key}_pretokenized"):
            row[key] = text
        elif np.asarray(values[key]).dtype.kind == "i":
            row[key] = feature.vocabulary.decode(values[key].tolist())
    return {"question": row.get("inputs"), "rationale": row.get("targets"), "answer": ""} | row


def _failed(what: str, error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{what} cannot be read: {type(error).__name__}: {' '.join(lines[:2])[:300]}"
