"""Any task or mixture of seqio as our examples, for the training loop:

    config.load_plugin("my_tasks.py")  # registers the tasks
    examples = examples_from_task("my_mixture", "train", n_examples=100_000)
    vocab_size = -(-task.output_features["targets"].vocabulary.vocab_size // 128) * 128
    train(config.train, T5Config(vocab_size=vocab_size, ...), examples, ..., n_steps=10_000)

All examples are in memory, because a batch of the loop is a function of the step alone.
"""

import itertools
from collections.abc import Mapping

import numpy as np
import seqio

from asesjax.core.errors import UserError, unknown
from asesjax.core.types import Example
from asesjax.tasks.features import WEIGHTS, example_of


def get_provider(name: str, split: str | None = None) -> seqio.Task | seqio.Mixture:
    """Return a task or mixture; ``UserError`` for an unknown name, or a split that it lacks."""
    names = sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
    if name not in names:
        if not names:
            raise UserError(
                f"no task {name!r}: none is registered; import the module that registers it first "
                "(config.load_plugin)"
            )
        raise unknown("task or mixture", name, names)
    provider = seqio.get_mixture_or_task(name)
    if split is not None and split not in provider.splits:
        raise unknown(f"split of {name}:", split, sorted(provider.splits))
    return provider


def examples_from_task(
    name: str, split: str, n_examples: int = 0,
    sequence_length: Mapping[str, int] | None = None, use_cached: bool = False, seed: int = 0,
) -> list[Example]:  # fmt: skip
    """Return the examples of a task or mixture with 1-D features ``inputs`` and ``targets``, and
    optionally ``targets_weights`` (1 otherwise) and ``id`` (``name/split/number`` otherwise).

    With ``n_examples`` 0 every example comes once, unshuffled, a mixture's tasks one after another
    whatever their rates; above 0, that many of an endless shuffled stream at those rates.
    ``sequence_length`` is for preprocessors that need it; nothing is trimmed. Raises UserError for
    no such task or split, other features, no examples, an empty side, an id 0 or a bad weight.
    """
    provider = get_provider(name, split)
    features = provider.output_features
    for side in ("inputs", "targets"):
        feature = features.get(side)
        if feature is None or feature.rank != 1 or not feature.dtype.is_integer:
            raise UserError(f"{name} needs a 1-D feature {side!r} of ids; {_has(features)}")
    if WEIGHTS in features and not features[WEIGHTS].dtype.is_floating:
        raise UserError(f"{name}: feature {WEIGHTS!r} must be floating; {_has(features)}")
    parts = [provider] if n_examples else seqio.get_subtasks(provider)
    rows = itertools.chain.from_iterable(
        part.get_dataset(
            sequence_length=sequence_length, split=split, use_cached=use_cached,
            shuffle=n_examples > 0, num_epochs=None if n_examples else 1, seed=seed,
            trim_output_features=False,
        ).as_numpy_iterator()
        for part in parts
        if split in part.splits
    )  # fmt: skip
    examples = []
    for i, row in enumerate(itertools.islice(rows, n_examples or None)):
        where = f"{name}/{split}/{i}"
        kept = {key: row[key] for key in ("inputs", "targets", WEIGHTS) if key in features}
        found = example_of(kept, row["id"].decode() if "id" in row else where)
        ids, weights = (found.inputs, found.targets), found.weights
        if not all(len(side) and side.all() for side in ids):
            raise UserError(f"{where}: a side is empty, or holds the id 0, which is padding")
        if (weights < 0).any() or not np.isfinite(weights).all():
            raise UserError(f"{where}: weights must be 0 or more, and finite")
        inputs, targets = (side.astype(np.int32) for side in ids)
        examples.append(Example(found.id, inputs, targets, weights.astype(np.float32)))
    if not examples:
        raise UserError(f"split {split} of {name} has no examples")
    return examples


def _has(features):
    held = ", ".join(f"{k} ({f.dtype.name}, rank {f.rank})" for k, f in features.items())
    return f"it has {held}"
