"""The plainest baselines: the answer alone, the whole rationale, or several rationales."""

import dataclasses

from asesjax.core.errors import UserError
from asesjax.core.types import Example, Record
from asesjax.data.corpus import EncodedRecord
from asesjax.data.examples import answer_sentence, chain_text, make_example
from asesjax.data.vocab import Vocabulary
from asesjax.methods.method import METHODS, Method


def direct_example(record: EncodedRecord, vocab: Vocabulary) -> Example:
    """Return the example of plain seq2seq: question -> whole chain."""
    return make_example(vocab, record.record.id, [record.question.ids], [record.chain.ids])


def answer_example(record: EncodedRecord, vocab: Vocabulary, answer_template: str) -> Example:
    """Return question -> answer sentence, or the bare answer without a template."""
    target = vocab.encode(answer_text(record.record, answer_template))
    return make_example(vocab, record.record.id, [record.question.ids], [target])


def answer_text(record: Record, answer_template: str) -> str:
    """Return the answer sentence, or the bare answer without a template; UserError without one."""
    if not record.answer:
        raise UserError(
            f"record {record.id} has no answer, so methods that learn answers alone cannot use "
            "it; take answer_only, step_by_step and in_context out of methods"
        )
    return answer_sentence(record, answer_template) or record.answer


@METHODS.register("answer_only")
class AnswerOnly(Method):
    """Question -> answer sentence (Ho et al. 2023, "fine-tune")."""

    learns_rationales = False
    writes_rationales = False

    def examples(self, record: EncodedRecord, vocab: Vocabulary) -> dict[str, list[Example]]:
        """One example a record."""
        return {"main": [answer_example(record, vocab, self.config.data.answer_template)]}


@METHODS.register("direct")
class Direct(Method):
    """Question -> rationale and answer sentence; also what segmentation asks for scores."""

    def examples(self, record: EncodedRecord, vocab: Vocabulary) -> dict[str, list[Example]]:
        """One example a record."""
        return {"main": [direct_example(record, vocab)]}


@METHODS.register("diverse")
class Diverse(Method):
    """Several rationales of a question, each an example (Ho et al. 2023, "diverse reasoning")."""

    def examples(self, record: EncodedRecord, vocab: Vocabulary) -> dict[str, list[Example]]:
        """One example a rationale, with the ids ``record/1``, ``record/2`` ..."""
        own = record.record
        texts = [chain_text(dataclasses.replace(own, rationale=text),
                            self.config.data.answer_template) for text in own.others]  # fmt: skip
        targets = [record.chain.ids, *vocab.encode_batch(texts)]
        return {"main": [
            make_example(vocab, f"{own.id}/{i}", [record.question.ids], [target])
            for i, target in enumerate(targets, 1)
        ]}  # fmt: skip

    def prepare(self, records: list[EncodedRecord]) -> None:
        """Raise UserError if no record has a second rationale: this would be ``direct``."""
        if not any(record.record.others for record in records):
            raise UserError(
                f"method {self.name} learns from several rationales of a question, and no record "
                "has a second one; set data.n_rationales of synthetic_math to 2 or more, or name "
                "the field that holds them in data.others_field"
            )
