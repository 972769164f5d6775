"""KPOD (Feng et al. 2024): weighted tokens, and rationales that are learned from their end.

The student is a T5 trained on question -> chain like the direct baseline, with equation 15 as its
loss: a token of the rationale weighs w_j, or nothing while its step is given; the answer sentence
always weighs 1. What is given stays in the decoder as a prefix without weight, or goes to the
encoder. A variant is KPOD with other values of some fields of the section ``kpod``.
"""

import functools
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from asesjax.core.errors import UserError
from asesjax.core.types import Example
from asesjax.data.examples import context_ids
from asesjax.data.vocab import Vocabulary
from asesjax.methods.kpod.schedule import begins
from asesjax.methods.kpod.steps import encode_steps
from asesjax.methods.kpod.weights import weight_example
from asesjax.methods.method import Method, Prepared

WEIGHT_NOTES = "kpod/weights/{split}.jsonl"
WEIGHT_STAGE = "kpod-weights"
# The ablations of the paper's table 2, and a curriculum of whole rationales to compare with.
VARIANTS: dict[str, dict[str, Any]] = {
    "kpod": {},
    "kpod_without_weights": {"weighted_loss": False},
    "kpod_without_weights_in_difficulty": {"weighted_difficulty": False},
    "kpod_without_progression": {"schedule": "none"},
    "kpod_without_diversity": {"beta": 0.0},
    "kpod_self_paced": {"schedule": "self_paced"},
}


def settings(config: ConfigDict, name: str) -> dict[str, Any]:
    """Return the section ``kpod`` as a variant has it.

    Example:
      >>> from asesjax.core.config import base_config
      >>> settings(base_config(), "kpod_without_diversity")["beta"]
      0.0
    """
    return dict(config.kpod) | VARIANTS[name]


def fields(name: str, *wanted: str) -> tuple[str, ...]:
    """Return those of some fields of the section ``kpod`` that a variant does not set itself."""
    return tuple(f"kpod.{field}" for field in wanted if field not in VARIANTS[name])


def _weights(
    prepared: Prepared, config: ConfigDict, vocab: Vocabulary
) -> dict[str, list[Example]]:
    chain = encode_steps(vocab, prepared.record, config)
    example = weight_example(vocab, prepared.record.id, prepared.question_ids, chain)
    return {"weights": [example]}


def _student(
    name: str, prepared: Prepared, config: ConfigDict, vocab: Vocabulary
) -> dict[str, list[Example]]:
    own, record, notes = settings(config, name), prepared.record, prepared.notes
    if not 0 <= own["progressive_share"] <= 1:
        raise UserError(
            f"kpod.progressive_share must be from 0 to 1, got {own['progressive_share']}"
        )
    chain = encode_steps(vocab, record, config)
    if len(notes["weights"]) != len(chain.ids) or notes["ends"] != chain.ends.tolist():
        raise UserError(
            f"record {record.id}: its token weights are of another chain; run again with --redo"
        )
    targets = np.append(chain.ids, vocab.eos_id).astype(np.int32)
    weights, loss_from = np.ones((2, len(targets)), np.float32)
    if own["weighted_loss"]:
        weights[: len(chain.ids)] = notes["weights"]
    of_steps = begins(np.asarray(notes["given"]), len(chain.ends), own["progressive_share"])
    loss_from[:] = 0
    loss_from[: chain.n_rationale] = np.repeat(of_steps, np.diff(chain.ends, prepend=0))
    return {"main": [Example(
        id=record.id,
        inputs=context_ids(vocab, prepared.question_ids, np.zeros(0, np.int32)),
        targets=targets,
        weights=weights,
        loss_from=loss_from if loss_from.any() else None,
        prefix_in_encoder=own["given"] == "encoder",
    )]}  # fmt: skip


# What trains the token weights, for all variants together; no method that answers questions.
WEIGHTS = Method("kpod_weights", _weights, roles=("weights",))
KPOD = tuple(
    Method(
        name,
        functools.partial(_student, name),
        notes=(WEIGHT_NOTES, f"kpod/{name}/{{split}}.jsonl"),
        needs=(WEIGHT_STAGE, f"schedule-{name}"),
        train_fields=fields(name, "weighted_loss", "progressive_share", "given"),
    )
    for name in VARIANTS
)
