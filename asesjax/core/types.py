"""The few data types that all layers share, and the letters used for array shapes.

Shape letters, everywhere: B batch, S source (encoder) length, T target (decoder) length, V
vocabulary, D width, H heads, K head size, L layers, R rounds, C chain length.
"""

import dataclasses
from typing import Any

import numpy as np

from asesjax.core.errors import UserError

ES = "ES"  # extractive segment: restates what the context already says
AS = "AS"  # abstractive segment: infers something new
LABELS = (ES, AS)
FILLER = "FILLER"  # in gold segments alone: says nothing that the answer needs

BATCH_AXES = ("data", "fsdp")  # axes of the device mesh that the rows of a batch are spread over

# One training or evaluation batch, with T5X's names:
#   encoder_input_tokens   [B, S] int32, 0 is padding
#   decoder_input_tokens   [B, T] int32, targets shifted right, 0 first
#   decoder_target_tokens  [B, T] int32, 0 is padding
#   decoder_loss_weights   [B, T] float32 >= 0, 0 on padding
#   example_index          [B] int32, the row's place in the list of examples, -1 for padding rows
# and, only when several examples share a row (data/packing.py):
#   encoder_segment_ids [B, S], decoder_segment_ids [B, T] int32, 1, 2, ... in a row, 0 on padding;
#   example_index is then [B, N], -1 where a row holds fewer than N; decoder inputs are shifted
#   within each segment
Batch = dict[str, np.ndarray]

Params = Any  # a nested dict of arrays


@dataclasses.dataclass(frozen=True)
class Segment:
    """A stretch of a rationale with its label."""

    text: str  # the characters, white space included, so that segments joined give the text back
    # ``"ES"``, ``"AS"``, or None where nothing has labelled it; in gold segments also ``"FILLER"``
    label: str | None = None


@dataclasses.dataclass(frozen=True)
class Record:
    """One question with its worked reasoning and answer, whatever file it came from."""

    id: str  # unique in its data set, and stable from run to run
    question: str  # what the model is given
    rationale: str  # the chain of thought, without the closing answer sentence
    answer: str  # final answer, as text; empty where the rationale is itself the answer (reports)
    gold: tuple[Segment, ...] | None = None  # texts joined are ``rationale``; None for real data
    # the rationale as pairs (subquestion, text), if any; the last text may be the answer itself
    steps: tuple[tuple[str, str], ...] | None = None
    others: tuple[str, ...] = ()  # further rationales of the same question, each as ``rationale``


@dataclasses.dataclass(frozen=True)
class Example:
    """One sequence-to-sequence training pair, already in ids."""

    id: str  # names the record and the place in it (``"gsm8k-17/2"``), for error messages
    inputs: np.ndarray  # [S] int32 encoder ids, the end-of-sequence id last
    targets: np.ndarray  # [T] int32 decoder targets, the end-of-sequence id last
    weights: np.ndarray  # [T] float32 >= 0, the weight of each target in the loss
    # what the targets are, for losses of each kind: ``"es"``, ``"as"``, ``"question"``, ``"chunk"``
    # ..., or ``"answer"`` for the last segment of a chain; empty for a whole chain
    kind: str = ""
    # [T] float32 in [0, 1], never rising: the share of training after which a target counts;
    # before, it is given (KPOD's schedule). None where all count from the beginning.
    loss_from: np.ndarray | None = None
    # given targets move to the source, before its last token; else they stay, with weight 0
    prefix_in_encoder: bool = False
    group: str = ""  # a training batch holds examples of one group

    def __post_init__(self) -> None:
        """Raise UserError unless there is a weight for each target: plug-ins make examples, too."""
        if len(self.weights) != len(self.targets):
            raise UserError(
                f"example {self.id} has {len(self.weights)} weights for {len(self.targets)} "
                "targets; each target has one, the end mark too"
            )

    @property
    def most_tokens(self) -> tuple[int, int]:
        """Source and target tokens that it has at most, at any time of training."""
        moved = 0
        if self.prefix_in_encoder and self.loss_from is not None:
            moved = int((self.loss_from > 0).sum())
        return len(self.inputs) + moved, len(self.targets)

    def at(self, progress: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return inputs, targets and weights when a share of training is over.

        >>> example = Example("1", np.array([7, 1]), np.array([4, 5, 6]), np.ones(3),
        ...     loss_from=np.float32([0.5, 0.5, 0]))
        >>> [values.tolist() for values in example.at(0.2)]
        [[7, 1], [4, 5, 6], [0.0, 0.0, 1.0]]
        """
        if self.loss_from is None:
            return self.inputs, self.targets, self.weights
        given = int((self.loss_from > progress).sum())
        if not self.prefix_in_encoder:
            weights = self.weights.copy()
            weights[:given] = 0
            return self.inputs, self.targets, weights
        inputs = np.concatenate([self.inputs[:-1], self.targets[:given], self.inputs[-1:]])
        return inputs, self.targets[given:], self.weights[given:]
