"""AS-ES learning (Xi et al. 2024, section 3): one segment at a time, with one model or two."""

from ml_collections import ConfigDict

from asesjax.core.errors import UserError
from asesjax.core.types import AS, ES, Example
from asesjax.data.examples import segment_examples
from asesjax.data.vocab import Vocabulary
from asesjax.methods.method import Method, Prepared


def _segment_examples(
    prepared: Prepared, config: ConfigDict, vocab: Vocabulary
) -> list[Example]:
    if config.ases.gamma < 0:
        raise UserError(f"ases.gamma must be 0 or more, got {config.ases.gamma}")
    return segment_examples(
        vocab,
        prepared.record.id,
        prepared.question_ids,
        prepared.segments,
        config.ases.gamma,
        config.ases.end_of_chain,
    )


def _unified(
    prepared: Prepared, config: ConfigDict, vocab: Vocabulary
) -> dict[str, list[Example]]:
    return {"main": _segment_examples(prepared, config, vocab)}


def _dual(prepared: Prepared, config: ConfigDict, vocab: Vocabulary) -> dict[str, list[Example]]:
    examples = _segment_examples(prepared, config, vocab)
    by_label: dict[str, list[Example]] = {ES: [], AS: []}
    for segment, example in zip(prepared.segments, examples, strict=True):
        by_label[segment.label].append(example)
    return {"es": by_label[ES], "as": by_label[AS]}


# Unified path: one model writes every segment.
USM = Method("usm", ("main",), (None,), True, False, _unified)
# Dual path: ESM writes the extractive segments, ASM the abstractive ones, ESM first.
DSM = Method("dsm", ("es", "as"), (ES, AS), True, False, _dual)
