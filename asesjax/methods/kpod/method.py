"""KPOD (Feng et al. 2024): weighted tokens, and rationales that are learned from their end.

The student is a T5 trained on question -> chain with the loss of equation 15: a token of the
rationale weighs w_j, or nothing while its step is given; the answer sentence weighs 1. Given steps
stay in the decoder as a prefix without weight, or go to the encoder. The paper's ablations are
variants, see ``configs/kpod.py``.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.options import Config
from asesjax.core.stages import Stage
from asesjax.core.types import Example
from asesjax.data.corpus import EncodedRecord
from asesjax.data.examples import make_example
from asesjax.data.vocab import Vocabulary
from asesjax.methods.kpod.options import KpodOptions
from asesjax.methods.kpod.schedule import begins
from asesjax.methods.kpod.stages import (
    WEIGHTS,
    WEIGHTS_STAGE,
    schedule_stages,
    weight_stages,
)
from asesjax.methods.kpod.steps import step_ends
from asesjax.methods.method import METHODS, Method
from asesjax.methods.token_weights import TOKEN_WEIGHTS, TokenWeights
from asesjax.run import Run

TOKEN_WEIGHTS.register("kpod")(TokenWeights(WEIGHTS_STAGE, WEIGHTS, weight_stages))


@METHODS.register("kpod")
class Kpod(Method):
    """A student of weighted tokens and growing targets."""

    Options = KpodOptions

    def __init__(self, name: str, config: Config):
        super().__init__(name, config)
        if config.train.normalize != "examples":
            raise UserError(
                f"{name} needs train.normalize=examples, or for this row alone "
                f"variants.{name}.train.normalize=examples: divided by the weights, the answer's "
                "share of the loss would rise as tokens lose weight or are given"
            )
        self.needs = (WEIGHTS_STAGE, f"schedule-{name}")
        self.annotations = (WEIGHTS, f"kpod/{name}/{{split}}.npz")

    def stages(self, run: Run) -> list[Stage]:
        """Return the stages of token weights, difficulties and schedule."""
        return [*weight_stages(run, self.config), *schedule_stages(run, self.config, self.name)]

    def foreseen(
        self, records: Sequence[EncodedRecord], vocab: Vocabulary
    ) -> Iterator[list[dict[str, list[Example]]]]:
        """No schedule gives more than all steps, for all of its stages."""
        for one in records:
            ends = step_ends(one)
            given = np.full(2, len(ends))
            notes = {"weights": np.ones(len(one.chain.ids)), "ends": ends, "given": given}
            plain = make_example(vocab, one.record.id, [one.question.ids], [one.chain.ids])
            yield [self.examples(one._replace(annotations=notes), vocab) | {"weights": [plain]}]

    def examples(self, record: EncodedRecord, vocab: Vocabulary) -> dict[str, list[Example]]:
        """Return question -> chain, with a weight and a beginning for each token."""
        notes, options, n = record.annotations, self.options, len(record.chain.ids)
        ends = step_ends(record)
        if len(notes["weights"]) != n or notes["ends"].tolist() != ends.tolist():
            raise UserError(
                f"record {record.record.id}: its token weights are of another chain; run again "
                "with --redo"
            )
        weights, loss_from = np.ones(n + 1, np.float32), np.zeros(n + 1, np.float32)
        if options.weighted_loss:
            weights[:n] = notes["weights"]
        of_steps = begins(notes["given"], len(ends), options.progressive_share)
        loss_from[: ends[-1]] = np.repeat(of_steps, np.diff(ends, prepend=0))
        example = make_example(
            vocab, record.record.id, [record.question.ids], [record.chain.ids], weights=weights
        )
        return {"main": [dataclasses.replace(
            example, loss_from=loss_from if loss_from.any() else None,
            prefix_in_encoder=options.given == "encoder",
        )]}  # fmt: skip
