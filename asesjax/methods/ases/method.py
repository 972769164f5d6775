"""AS-ES learning (Xi et al. 2024, section 3): one segment at a time, with one model or two."""

import functools

import numpy as np
from ml_collections import ConfigDict

from asesjax.core.errors import UserError
from asesjax.core.types import AS, ES, Example
from asesjax.data.examples import segment_examples
from asesjax.data.vocab import Vocabulary
from asesjax.methods.kpod.method import WEIGHT_NOTES, WEIGHT_STAGE
from asesjax.methods.method import Method, Prepared, Shape


def _segment_examples(
    weighted: bool, prepared: Prepared, config: ConfigDict, vocab: Vocabulary
) -> list[Example]:
    if config.ases.gamma < 0:
        raise UserError(f"ases.gamma must be 0 or more, got {config.ases.gamma}")
    own = None
    if weighted:
        own = np.asarray(prepared.notes["weights"], np.float32)
    return segment_examples(
        vocab,
        prepared.record.id,
        prepared.question_ids,
        prepared.segments,
        config.ases.gamma,
        config.ases.end_of_chain,
        own,
    )


def _unified(
    weighted: bool, prepared: Prepared, config: ConfigDict, vocab: Vocabulary
) -> dict[str, list[Example]]:
    return {"main": _segment_examples(weighted, prepared, config, vocab)}


def _dual(
    weighted: bool, prepared: Prepared, config: ConfigDict, vocab: Vocabulary
) -> dict[str, list[Example]]:
    examples = _segment_examples(weighted, prepared, config, vocab)
    by_label: dict[str, list[Example]] = {ES: [], AS: []}
    for segment, example in zip(prepared.segments, examples, strict=True):
        by_label[segment.label].append(example)
    return {"es": by_label[ES], "as": by_label[AS]}


def _shape(config: ConfigDict, vocab: Vocabulary) -> Shape:
    by_text = config.ases.end_of_chain == "stop_text"
    return Shape(
        n_stages=0, sentinel=not by_text, stop_text=config.ases.stop_text if by_text else ""
    )


_FIELDS = dict(
    segmented=True, shape=_shape,
    train_fields=("ases.gamma", "ases.end_of_chain"), decode_fields=("ases",),
)  # fmt: skip
_PLAIN = dict(needs=("segment",), **_FIELDS)
# Every token of the rationale weighs KPOD's weight besides.
_WEIGHTED = dict(needs=("segment", WEIGHT_STAGE), notes=(WEIGHT_NOTES,), **_FIELDS)
# Unified path: one model writes every segment.
USM = Method("usm", functools.partial(_unified, False), **_PLAIN)
USM_KPOD = Method("usm_kpod", functools.partial(_unified, True), **_WEIGHTED)
# Dual path: ESM writes the extractive segments, ASM the abstractive ones, ESM first.
_PARTS = ("es", "as"), (ES, AS)
DSM = Method("dsm", functools.partial(_dual, False), *_PARTS, **_PLAIN)
DSM_KPOD = Method("dsm_kpod", functools.partial(_dual, True), *_PARTS, **_WEIGHTED)
