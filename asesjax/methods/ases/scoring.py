"""Pieces of every chain and their scores, by every registered score (AS-ES, section 2)."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.files import read_jsonl
from asesjax.core.options import Config
from asesjax.core.types import Example, Record
from asesjax.data.corpus import EncodedRecord
from asesjax.data.examples import chain_text, make_example
from asesjax.data.vocab import Vocabulary
from asesjax.segmentation.label import label_pieces
from asesjax.segmentation.pieces import Piece, count_words, piece_texts, split_pieces
from asesjax.segmentation.records import SegmentedRecord
from asesjax.segmentation.score import SCORES, ScoreInput

# Per example, negative log-likelihood and entropy of its targets, float32 [T] each, in nats.
Scorer = Callable[[Sequence[Example]], list[tuple[np.ndarray, np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class ScoredRecord:
    """The pieces of one chain and their scores."""

    id: str  # the record's
    text: str  # the chain: rationale and answer sentence
    pieces: tuple[Piece, ...]  # offsets into ``text``
    # name to one number a piece, of every score that could be computed
    scores: dict[str, list[float]]


def score_records(
    records: Sequence[Record | EncodedRecord],
    config: Config,
    vocab: Vocabulary | None = None,
    scorer: Scorer | None = None,
) -> list[ScoredRecord]:
    """Cut chains into pieces and score them; records must be encoded where there is a ``scorer``.
    Raises UserError for a record whose chain has no pieces.
    """
    plain = [one.record if isinstance(one, EncodedRecord) else one for one in records]
    segment, chains = config.segment, [chain_pieces(record, config) for record in plain]
    tokens: Iterator[tuple] = iter([(None, None, None)] * len(plain))
    if scorer is not None:
        assert vocab is not None
        encoded = [one for one in records if isinstance(one, EncodedRecord)]
        tokens = _token_scores(encoded, [p for _, p in chains], segment.given, vocab, scorer)
    names = [name for name in SCORES if scorer is not None or not SCORES.get(name).needs_model]
    scored = []
    for record, (text, pieces), (nll, entropy, of_token) in zip(
        plain, chains, tokens, strict=True
    ):
        texts = piece_texts(text, pieces)
        words = [count_words(piece) for piece in texts]
        chain = ScoreInput(record.question, texts, config.evaluate.language, words, nll,
                           entropy, of_token, segment.reduce)  # fmt: skip
        scores = {name: SCORES.get(name).function(chain).tolist() for name in names}
        scored.append(ScoredRecord(record.id, text, pieces, scores))
    return scored


def chain_pieces(record: Record, config: Config) -> tuple[str, tuple[Piece, ...]]:
    """Return the text of a chain and its pieces; UserError where there are none."""
    segment, text = config.segment, chain_text(record, config.data.answer_template)
    pieces = tuple(split_pieces(text, segment.short, segment.min_words, segment.cut))
    if not pieces:
        raise UserError(
            f"record {record.id}: no piece of its rationale has more than "
            f"segment.min_words={segment.min_words} words; use segment.short=merge"
        )
    return text, pieces


def read_scores(path: str | Path) -> list[ScoredRecord]:
    """Read the scored records of a run, ``scores/<split>.jsonl``."""
    return [
        ScoredRecord(**row | {"pieces": tuple(Piece(*pair) for pair in row["pieces"])})
        for _, row in read_jsonl(path)
    ]


def segment_scored(
    scored: Sequence[ScoredRecord], strategy: str, beta: float = 0.0
) -> list[SegmentedRecord]:
    """Label the pieces of scored records by one score, with ``beta`` 0 at its own. Raises UserError
    if it needs a scorer's numbers and there are none.
    """
    score, out = SCORES.get(strategy), []
    for row in scored:
        if strategy not in row.scores:
            raise UserError(
                f"segment.strategy {strategy!r} needs a trained scorer; use asesjax run, or one of "
                + ", ".join(name for name in SCORES if not SCORES.get(name).needs_model)
            )
        scores = tuple(row.scores[strategy])
        labels = label_pieces(scores, strategy, beta or score.beta, score.threshold)
        out.append(SegmentedRecord(row.id, row.text, row.pieces, scores, tuple(labels), strategy))
    return out


def _token_scores(
    records: Sequence[EncodedRecord],
    pieces: Sequence[Sequence[Piece]],
    given: str,
    vocab: Vocabulary,
    scorer: Scorer,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield nll, entropy and piece of each token of every chain, [N] each. "question": the chain is
    one target. "prefix" and "piece": each run of tokens of one piece is a target of its own, given
    the question and the earlier pieces, or the question alone ([code]: the end of sequence is then
    one of the piece's tokens, otherwise it belongs to none).
    """
    examples, places = [], []  # targets; the record of each, and the pieces of its tokens
    for i, (record, own) in enumerate(zip(records, pieces, strict=True)):
        ids, of_token = record.chain.ids, record.chain.piece_of_tokens(own)
        changes: Any = [] if given == "question" else np.flatnonzero(np.diff(of_token)) + 1
        starts = [0, *(int(change) for change in changes), len(ids)]
        for start, end in zip(starts, starts[1:], strict=False):
            context = [record.question.ids, ids[: 0 if given == "piece" else start]]
            examples.append(make_example(vocab, record.record.id, context, [ids[start:end]]))
            closing = of_token[start] if given == "piece" else -1
            places.append((i, np.append(of_token[start:end], closing)))
    tokens: list[list[tuple]] = [[] for _ in records]
    for (i, piece), (nll, entropy) in zip(places, scorer(examples), strict=True):
        tokens[i].append((nll, entropy, piece))
    for own in tokens:
        nll, entropy, piece = (np.concatenate(column) for column in zip(*own, strict=True))
        yield nll, entropy, piece
