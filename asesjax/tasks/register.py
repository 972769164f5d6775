"""Registers the data of a run as tasks and mixtures of seqio, with our metrics, in percent.

For a run with data set ``gsm8k`` and methods ``direct`` and ``dsm``:

    asesjax_gsm8k_text       questions and chains as text, tokenised by seqio; every weight is 1
    asesjax_gsm8k_direct     the examples that ``asesjax train`` reads, ids and float weights
    asesjax_gsm8k_dsm_es     one for each role where a method has several, also ``_as``,
    asesjax_gsm8k_dsm        and their mixture, at the rates of their numbers of examples
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from asesjax.config import Config
from asesjax.core.errors import UserError
from asesjax.core.types import Example, Record
from asesjax.data.examples import chain_text
from asesjax.data.registry import get_reader
from asesjax.data.sources import SPLITS, read_records
from asesjax.data.vocab import load_saved
from asesjax.evals.answers import is_correct, marker_of
from asesjax.evals.text import corpus_bleu
from asesjax.jobs.training import role_examples
from asesjax.methods.method import make_method
from asesjax.run import Run
from asesjax.tasks.features import WEIGHTS, output_features, seqio_vocabulary


def register_run(
    run: Run, dataset: str = "", methods: Sequence[str] | None = None
) -> tuple[str, ...]:
    """Register the text task of a run and the tasks of its methods, and return all names.

    Tasks of these names are replaced. ``dataset`` (default ``data.source``) is part of the names;
    ``methods`` are those of the configuration when None. Examples are read only when seqio asks for
    them. Raises UserError where the run has no data or segments yet.
    """
    config, dataset = run.config, dataset or run.config.data.source
    _need(run, "vocab/vocab.json", "its data is not prepared")
    vocab = load_saved(run / "vocab")
    features = output_features(seqio_vocabulary(vocab, run / "vocab"))
    files = {split: str(run / f"data/{split}.jsonl") for split in SPLITS}

    def parse(line: bytes) -> Record:
        row = json.loads(line)
        return Record(row["id"], row["question"], row["rationale"], row["answer"])

    source, name = seqio.TextLineDataSource(files), f"asesjax_{dataset}_text"
    names = [_register_text(name, source, _parsed(parse, config), features, config)]
    answers = functools.cache(
        lambda split: {r.id: r.answer for r in read_records(run / f"data/{split}.jsonl")}
    )
    for name in config.methods if methods is None else methods:
        method = make_method(name, config)
        for file in method.annotations:
            _need(run, file.format(split="train"), f"method {name} needs it")
        examples_of = functools.cache(functools.partial(role_examples, run, method))
        metrics = _metrics(config, whole_chains=method.decode_plan(vocab).n_turns == 1)
        names += _register_roles(
            f"asesjax_{dataset}_{name}", method.roles, examples_of, answers, features, metrics,
            SPLITS[:2] if method.annotations else SPLITS,
        )  # fmt: skip
    return tuple(names)


def _register_roles(name, roles, examples_of, answers, features, metrics, splits) -> list[str]:
    """Register a task for each role, and their mixture if there are several; return their names."""
    names = []
    for role in roles:
        task = name if len(roles) == 1 else f"{name}_{role}"

        def dataset_fn(split, shuffle_files=False, seed=None, role=role):
            return _dataset(examples_of(split)[role], answers(split))

        _add_task(
            task, seqio.FunctionDataSource(dataset_fn, splits),
            [seqio.CacheDatasetPlaceholder()], features, metrics,
        )  # fmt: skip
        names.append(task)
    if len(roles) > 1:
        rate = lambda role: lambda task: len(examples_of("train")[role])  # noqa: E731
        seqio.MixtureRegistry.remove(name)
        seqio.MixtureRegistry.add(name, list(zip(names, map(rate, roles), strict=True)))
        names.append(name)
    return names


def register_tfds(
    name: str, tfds_name: str, config: Config, features: Mapping[str, seqio.Feature],
    fields: Sequence[str] = ("question", "answer"),
) -> str:  # fmt: skip
    """Register a data set of TensorFlow Datasets (``"gsm8k:1.0.0"``) as a text task; return its
    name. ``data.source`` names the parser of rows, which reads the texts ``fields``.
    """
    reader = get_reader(config.data.source)

    def parse(*values):
        row = {field: value.decode() for field, value in zip(fields, values, strict=True)}
        return reader.parse(config.data, row, Path(tfds_name), 0)[0]

    source = seqio.TfdsDataSource(tfds_name)
    return _register_text(name, source, _parsed(parse, config, fields), features, config)


def _register_text(name, source, parse, features, config) -> str:
    """Register a task that seqio tokenises, and return its name; every target weighs 1."""
    tokenised = {key: feature for key, feature in features.items() if key != WEIGHTS}
    tokenise = functools.partial(seqio.preprocessors.tokenize, output_features=tokenised)
    close = functools.partial(seqio.preprocessors.append_eos, output_features=tokenised)

    def weighted(ds: tf.data.Dataset) -> tf.data.Dataset:
        return ds.map(lambda row: row | {WEIGHTS: tf.ones_like(row["targets"], tf.float32)})

    steps = [parse, tokenise, seqio.CacheDatasetPlaceholder(), close, weighted]
    _add_task(name, source, steps, features, _metrics(config))
    return name


def _metrics(config: Config, whole_chains: bool = True) -> list[Callable]:
    """Return metric functions: corpus BLEU, and accuracy where the target is a whole chain."""

    def accuracy(targets, predictions):
        metric, marker = config.evaluate.metric, marker_of(config.data.answer_template)
        right = [
            is_correct(prediction, target["answer"], metric, marker, target["text"])
            for target, prediction in zip(targets, predictions, strict=True)
        ]
        return {"accuracy": 100 * float(np.mean(right))}

    def bleu(targets, predictions):
        references = [target["text"] for target in targets]
        return {"bleu": corpus_bleu(predictions, references, config.evaluate.language)}

    return [accuracy, bleu] if whole_chains else [bleu]


def _add_task(name, source, preprocessors, features, metric_fns):
    # Replace a task of this name: a notebook cell may run twice.
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name, source, preprocessors=preprocessors, output_features=features,
        postprocess_fn=_postprocess, metric_fns=metric_fns,
    )  # fmt: skip


def _postprocess(text, example=None, is_target=False):
    """Give metrics the right answer beside the target."""
    if not is_target:
        return text
    return {"text": text, "answer": example["answer"].decode() if "answer" in example else ""}


def _dataset(examples: Sequence[Example], answers: Mapping[str, str]) -> tf.data.Dataset:
    def ragged(name, dtype):
        parts = [getattr(example, name) for example in examples]
        flat = np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype, copy=False)
        return tf.RaggedTensor.from_row_lengths(flat, [len(part) for part in parts])

    ids = [example.id for example in examples]
    return tf.data.Dataset.from_tensor_slices({
        "inputs": ragged("inputs", np.int32), "targets": ragged("targets", np.int32),
        WEIGHTS: ragged("weights", np.float32), "id": tf.constant(ids, tf.string),
        "answer": tf.constant([answers.get(i, "") for i in ids], tf.string),
    })  # fmt: skip


def _parsed(parse: Callable[..., Record], config: Config, fields: Sequence[str] = ()) -> Callable:
    """Return a preprocessor that calls ``parse`` with a line, or with fields of a row."""

    def texts(*parts):
        record = parse(*parts)
        chain = chain_text(record, config.data.answer_template)
        return [np.array(t.encode(), object) for t in (record.question, chain, record.answer)]

    def row(value: Any) -> dict[str, tf.Tensor]:
        values = [value[field] for field in fields] if fields else [value]
        found = tf.numpy_function(texts, values, [tf.string] * 3, stateful=False)
        names = ("inputs", "targets", "answer")
        return {key: tf.ensure_shape(t, []) for key, t in zip(names, found, strict=True)}

    return lambda ds: ds.map(row, num_parallel_calls=1)


def _need(run: Run, name: str, what: str) -> None:
    if not (run / name).is_file():
        raise UserError(
            f"{run.workdir}: {what}: {name} does not exist; run 'asesjax segment --workdir "
            f"{run.workdir}' first"
        )
