"""Distilling step by step (Hsieh et al. 2023): answer and rationale as two tasks of one model."""

import dataclasses

import numpy as np

from asesjax.core.options import Config, option, section
from asesjax.core.types import Example
from asesjax.data.corpus import EncodedRecord
from asesjax.data.examples import join_ids, make_example
from asesjax.data.vocab import Vocabulary
from asesjax.decode.spec import DecodePlan, Prompt, Turn
from asesjax.methods.baselines.direct import answer_example
from asesjax.methods.baselines.marks import encode_marks
from asesjax.methods.method import METHODS, Method


@section("step_by_step")
class StepByStepOptions:
    """How the two tasks are weighed and told apart."""

    alpha: float = option(0.5, "share of a question's weight that its answer gets; 1: answers "
                          "alone; 0: rationales alone", least=0, most=1)  # fmt: skip
    predict_prefix: str = option("predict:", "before questions that ask for the answer")
    explain_prefix: str = option("explain:", "before questions that ask for the rationale; marks "
                                 "like <extra_id_1> are shorter")  # fmt: skip


@METHODS.register("step_by_step")
class StepByStep(Method):
    """"predict: question" -> answer and "explain: question" -> rationale (eq. 3).

    Tokens of the answer weigh alpha; those of the rationale weigh 1 - alpha times the ratio of the
    lengths, since each task has its own mean in the paper. A task of weight 0 is left out.
    """

    Options = StepByStepOptions

    def __init__(self, name: str, config: Config):
        super().__init__(name, config)
        self.writes_rationales = self.options.alpha == 0

    def examples(self, record: EncodedRecord, vocab: Vocabulary) -> dict[str, list[Example]]:
        """One example for each task."""
        name, alpha = record.record.id, self.options.alpha
        answer = answer_example(record, vocab, self.config.data.answer_template)
        rationale = make_example(
            vocab, name, [record.question.ids], [record.rationale_and_answer()[0]]
        )
        if alpha in (0, 1):
            return {"main": [answer if alpha else rationale]}
        marks = encode_marks(vocab, self.options, "predict_prefix", "explain_prefix")
        weights = alpha, (1 - alpha) * len(answer.targets) / len(rationale.targets)
        return {"main": [
            dataclasses.replace(
                example, id=f"{name}/{kind}", kind=kind, weights=example.weights * weight,
                inputs=join_ids(mark, example.inputs),
            )
            for example, kind, weight, mark in zip(
                (answer, rationale), ("answer", "rationale"), np.asarray(weights, np.float32),
                marks, strict=True,
            )
        ]}  # fmt: skip

    def decode_plan(self, vocab: Vocabulary) -> DecodePlan:
        """The answer is asked for."""
        if self.options.alpha in (0, 1):
            return DecodePlan()
        predict, _ = encode_marks(vocab, self.options, "predict_prefix", "explain_prefix")
        return DecodePlan((Turn(prompt=Prompt(tuple(predict.tolist()))),))
