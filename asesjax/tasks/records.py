"""Rows of a data set of TensorFlow Datasets and of a task of seqio, for ``data.source``."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import seqio

from asesjax.config import load_plugin
from asesjax.core.errors import UserError
from asesjax.data.rows import json_value
from asesjax.tasks.load import get_provider


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
    after another, whatever their rates. Raises UserError for an unknown name.
    """
    if settings.module:
        load_plugin(settings.module)
    provider = get_provider(settings.task)

    def rows(split: str) -> Iterator[dict[str, Any]]:
        for part in seqio.get_subtasks(provider):
            if split not in part.splits:
                continue
            found = part.get_dataset(sequence_length=None, split=split, shuffle=False, num_epochs=1,
                                     trim_output_features=False)  # fmt: skip
            for values in found.as_numpy_iterator():
                row = {key: json_value(value) for key, value in values.items()}
                for key, feature in part.output_features.items():
                    if text := row.get(f"{key}_pretokenized"):
                        row[key] = text
                    elif np.asarray(values[key]).dtype.kind == "i":
                        row[key] = feature.vocabulary.decode(values[key].tolist())
                named = {"question": row.get("inputs"), "rationale": row.get("targets")}
                yield named | {"answer": ""} | row

    return Named(sorted({split for part in seqio.get_subtasks(provider) for split in part.splits}),
                 rows)  # fmt: skip


def _failed(what: str, error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{what} cannot be read: {type(error).__name__}: {' '.join(lines[:2])[:300]}"
