"""AS-ES learning (Xi et al. 2024, section 3): one segment at a time, with one model or two."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.files import read_json
from asesjax.core.options import Config, option, section
from asesjax.core.stages import Stage
from asesjax.core.types import AS, ES, LABELS, Example
from asesjax.data.corpus import EncodedRecord, need_tokens
from asesjax.data.examples import Ids, make_example
from asesjax.data.vocab import Vocabulary
from asesjax.decode.spec import DecodePlan, Turn
from asesjax.methods.ases.scoring import chain_pieces, score_records, segment_scored
from asesjax.methods.ases.stages import labelling, segment_report, segment_stages
from asesjax.methods.method import METHODS, Method, ReportPart
from asesjax.methods.token_weights import TOKEN_WEIGHTS
from asesjax.run import Run
from asesjax.segmentation.pieces import Piece
from asesjax.segmentation.score import SCORES


class _Sources:
    """The registered sources of token weights, and none."""

    def __contains__(self, name: object) -> bool:
        return name == "" or name in TOKEN_WEIGHTS

    def __iter__(self):
        return iter(["", *TOKEN_WEIGHTS])


@section("ases")
class AsEsOptions:
    """Loss weights of segments and the end of a chain."""

    gamma: float = option(1.0, "loss weight of AS tokens; ES tokens weigh 1 (the paper names gamma "
                          "and does not say where it goes)", least=0)  # fmt: skip
    end_of_chain: str = option(
        "sentinel", "the last target ends with sentinel 0; or the chain ends with the segment that "
        "holds stop_text ([code])", choices=("sentinel", "stop_text"),
    )  # fmt: skip
    stop_text: str = option("answer is", "see end_of_chain", changes="decode")
    first: str = option(
        "empty", "DSM, where a rationale begins with AS: ESM learns to write an empty segment; ESM "
        "writes first all the same ([code]); the role that most rationales begin with comes first",
        choices=("empty", "es", "frequent"),
    )  # fmt: skip
    token_weights: str = option("", "a method whose token weights multiply the loss weights; "
                                "empty: none", choices=_Sources())  # fmt: skip


class AsEs(Method):
    """What both paths share."""

    Options = AsEsOptions
    turns: tuple[Turn, ...] = (Turn(),)

    def __init__(self, name: str, config: Config):
        super().__init__(name, config)
        self.labelling = labelling(name, config)
        self.needs = (f"segment{self.labelling.of_segments}",)
        self.annotations = (self.labelling.annotations,)
        if self.options.token_weights:
            weights = TOKEN_WEIGHTS.get(self.options.token_weights)
            self.needs += (weights.stage,)
            self.annotations += (weights.annotations,)

    def foreseen(
        self, records: Sequence[EncodedRecord], vocab: Vocabulary
    ) -> Iterator[list[dict[str, list[Example]]]]:
        """Label as the stage does, or where it asks a scorer, all pieces alike and in turn: no
        labels make a longer segment, or a longer context.
        """
        for one, pieces, ways in zip(records, *self._labels(records), strict=True):
            notes = {"pieces": np.ravel(pieces)}
            more = {}
            if self.options.token_weights:
                notes["weights"] = np.ones(len(one.chain.ids))
                more["weights"] = [
                    make_example(vocab, one.record.id, [one.question.ids], [one.chain.ids])
                ]
            labelled = (one._replace(annotations=notes | {"labels": own}) for own in ways)
            yield [self.examples(own, vocab) | more for own in labelled]

    def _labels(self, records: Sequence[EncodedRecord]) -> tuple[list, list[list[np.ndarray]]]:
        """Return the pieces of each record, and the labels that they can have."""
        options = self.config.segment
        if not SCORES.get(options.strategy).needs_model:
            scored = score_records(records, self.config)
            rows = segment_scored(scored, options.strategy, options.beta)
            labels = [[np.array([LABELS.index(label) for label in row.labels])] for row in rows]
            return [row.pieces for row in rows], labels
        pieces = [chain_pieces(one.record, self.config)[1] for one in records]
        return pieces, [
            [first ^ (np.arange(len(own)) % 2 * turns) for turns in (0, 1) for first in (0, 1)]
            for own in pieces
        ]

    def stages(self, run: Run) -> list[Stage]:
        """Return the stages that cut and label, and those of token weights."""
        out = segment_stages(run, self)
        if self.options.token_weights:
            out += TOKEN_WEIGHTS.get(self.options.token_weights).stages(run, self.config)
        return out

    def decode_plan(self, vocab: Vocabulary) -> DecodePlan:
        """Segments follow each other until the chain ends itself."""
        by_text = self.options.end_of_chain == "stop_text"
        stop_text = self.options.stop_text if by_text else ""
        return DecodePlan(self.turns, n_turns=0, sentinel=not by_text, stop_text=stop_text)

    def report(self, run: Run, rows: Sequence[dict[str, Any]]) -> ReportPart | None:
        """Return what labelled what, and how labels agree with gold ones."""
        return segment_report(run)

    def segment_examples(self, record: EncodedRecord, vocab: Vocabulary) -> list[Example]:
        """Return one example a segment: question and earlier segments -> this segment. The last, of
        kind "answer", ends with sentinel 0 and end of sequence (``ases.end_of_chain``).
        """
        return segment_examples(
            vocab, record, self.config.segment.merge_adjacent, self.options.gamma,
            self.options.end_of_chain == "sentinel",
        )  # fmt: skip


@METHODS.register("dsm")
class DualPath(AsEs):
    """Two models in turn: ESM writes the extractive segments, ASM the abstractive ones.

    A rationale may begin with AS (of GSM8K's a quarter, by ROUGE). By default ("empty", ours) ESM
    is taught to pass, so that each question has its own beginning; where no rationale begins so,
    this is the same as "es".
    """

    roles = ("es", "as")
    turns = (Turn("es", ES), Turn("as", AS))

    def examples(self, record: EncodedRecord, vocab: Vocabulary) -> dict[str, list[Example]]:
        """Divide the segments by their labels."""
        by_role: dict[str, list[Example]] = {"es": [], "as": []}
        segments = self.segment_examples(record, vocab)
        labels = merged_labels(record, self.config.segment.merge_adjacent)
        if self.options.first == "empty" and labels[0] == AS:
            nothing = make_example(vocab, f"{record.record.id}/0", [record.question.ids], [], "es")
            by_role["es"].append(nothing)
        for label, example in zip(labels, segments, strict=True):
            by_role[label.lower()].append(example)
        return by_role

    def recall(self, workdir: Path) -> None:
        """Let the role begin that most rationales begin with, where the options ask for it."""
        if self.options.first == "frequent":
            summary = read_json(workdir / self.labelling.segments / "summary.json")
            if summary["first_as_share"] > 0.5:
                self.turns = self.turns[::-1]

    def decode_plan(self, vocab: Vocabulary) -> DecodePlan:
        """ESM and ASM take turns; ESM may pass the first."""
        return super().decode_plan(vocab)._replace(empty_first=self.options.first == "empty")


@METHODS.register("usm")
class UnifiedPath(AsEs):
    """One model writes every segment."""

    def examples(self, record: EncodedRecord, vocab: Vocabulary) -> dict[str, list[Example]]:
        """All segments are the one role's."""
        return {"main": self.segment_examples(record, vocab)}


def segment_examples(
    vocab: Vocabulary,
    record: EncodedRecord,
    merge_adjacent: bool = True,
    gamma: float = 1.0,
    closes: bool = True,
) -> list[Example]:
    """Return the examples of a record's segments, see ``AsEs.segment_examples``. Raises UserError
    for a segment without tokens, or token weights of another chain.
    """
    name, notes = record.record.id, record.annotations
    pieces = [Piece(*pair) for pair in np.reshape(notes["pieces"], (-1, 2)).tolist()]
    segment = segment_of_pieces(notes["labels"], merge_adjacent)
    # Tokens between pieces (segment.short=drop) belong to none; the chain continues without them.
    of_token = record.chain.piece_of_tokens(pieces)
    held = of_token >= 0
    ids, of_token = record.chain.ids[held], segment[of_token[held]]
    own = notes.get("weights")
    if own is not None and len(own) != len(record.chain.ids):
        raise UserError(
            f"record {name}: there are weights for {len(own)} tokens and its chain has "
            f"{len(record.chain.ids)}; run again with --redo"
        )
    labels = merged_labels(record, merge_adjacent)
    cuts = np.searchsorted(of_token, np.arange(len(labels) + 1))
    examples = []
    for i, (label, start, end) in enumerate(zip(labels, cuts, cuts[1:], strict=False)):
        need_tokens(ids[start:end], record.record, f"segment {i + 1}", record.chain.text)
        last = i == len(labels) - 1
        target: list[Ids] = [ids[start:end], [vocab.sentinel(0)] if last and closes else []]
        weights = np.full(sum(map(len, target)) + 1, gamma if label == AS else 1.0, np.float32)
        if own is not None:
            weights[: end - start] *= own[held][start:end]
        kind = "answer" if last else label.lower()
        examples.append(make_example(
            vocab, f"{name}/{i + 1}", [record.question.ids, ids[:start]], target, kind,
            weights=weights,
        ))  # fmt: skip
    return examples


def segment_of_pieces(labels: np.ndarray, merge_adjacent: bool) -> np.ndarray:
    """Return the segment of each labelled piece; neighbours of one label may share one.

    >>> segment_of_pieces(np.array([0, 0, 1, 0]), True).tolist()
    [0, 0, 1, 2]
    """
    if not merge_adjacent:
        return np.arange(len(labels))
    return np.cumsum(np.append(False, labels[1:] != labels[:-1]))


def merged_labels(record: EncodedRecord, merge_adjacent: bool) -> list[str]:
    """Return the label of each segment."""
    labels = record.annotations["labels"]
    first = np.unique(segment_of_pieces(labels, merge_adjacent), return_index=True)[1]
    return [LABELS[label] for label in labels[first].tolist()]
