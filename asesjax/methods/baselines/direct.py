"""The two baselines: the answer alone, and the whole rationale as one target."""

from ml_collections import ConfigDict

from asesjax.core.types import Example
from asesjax.data.examples import answer_only_example, direct_example
from asesjax.data.vocab import Vocabulary
from asesjax.methods.method import Method, Prepared


def _answer_only(
    prepared: Prepared, config: ConfigDict, vocab: Vocabulary
) -> dict[str, list[Example]]:
    template = config.data.answer_template
    example = answer_only_example(vocab, prepared.record, prepared.question_ids, template)
    return {"main": [example]}


def _direct(prepared: Prepared, config: ConfigDict, vocab: Vocabulary) -> dict[str, list[Example]]:
    template = config.data.answer_template
    return {"main": [direct_example(vocab, prepared.record, prepared.question_ids, template)]}


# Question -> answer sentence (Ho et al. 2023, "fine-tune").
ANSWER_ONLY = Method("answer_only", _answer_only)
# Question -> rationale and answer sentence; also the scorer that AS-ES segmentation asks.
DIRECT = Method("direct", _direct)
