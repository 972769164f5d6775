"""Scores of every piece of a rationale, by every strategy that has scores (AS-ES, section 2)."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from ml_collections import ConfigDict

from asesjax.core.errors import UserError
from asesjax.core.types import Example, Record
from asesjax.data.examples import chain_text, context_ids, encode_chain
from asesjax.data.vocab import Vocabulary
from asesjax.segment.label import label_pieces
from asesjax.segment.pieces import Piece, count_words, piece_texts, split_pieces
from asesjax.segment.records import SegmentedRecord
from asesjax.segment.score import pool_token_scores, similarity_scores

# Per example, negative log-likelihood and entropy of its targets, float32 [T] each, in nats.
Scorer = Callable[[Sequence[Example]], list[tuple[np.ndarray, np.ndarray]]]


@dataclasses.dataclass(frozen=True)
class ScoredRecord:
    """The pieces of one chain and their scores.

    Attributes:
      id: the record's.
      text: the chain: rationale and answer sentence.
      pieces: offsets into ``text``.
      scores: strategy name to one number a piece; without ``"entropy"`` and ``"loss"`` where there
        was no scorer.
    """

    id: str
    text: str
    pieces: tuple[Piece, ...]
    scores: dict[str, list[float]]


def score_records(
    records: Sequence[Record],
    config: ConfigDict,
    vocab: Vocabulary | None = None,
    scorer: Scorer | None = None,
) -> list[ScoredRecord]:
    """Cut chains into pieces and score them.

    Args:
      records: with rationales.
      config: sections ``data``, ``segment`` and ``evaluate`` are read.
      vocab: needed with a scorer.
      scorer: the direct model's token scores; None for the similarity scores alone.

    Returns:
      One for each record, in order.

    Raises:
      UserError: a record whose chain has no pieces or whose question has no tokens.
    """
    segment, language = config.segment, config.evaluate.language
    cut = []
    for record in records:
        text = chain_text(record, config.data.answer_template)
        pieces = tuple(split_pieces(text, segment.short, segment.min_words))
        if not pieces:
            raise UserError(
                f"record {record.id}: no piece of its rationale has more than "
                f"segment.min_words={segment.min_words} words; use segment.short=merge"
            )
        cut.append((text, pieces))
    scored = []
    by_model = _model_scores(records, cut, config, vocab, scorer) if scorer else None
    for i, (record, (text, pieces)) in enumerate(zip(records, cut, strict=True)):
        texts = piece_texts(text, pieces)
        scores = by_model[i] if by_model else {}
        for kind in ("bleu", "rouge"):
            scores[kind] = similarity_scores(texts, record.question, kind, language).tolist()
        scored.append(ScoredRecord(record.id, text, pieces, scores))
    return scored


def segment_scored(
    scored: Sequence[ScoredRecord], strategy: str, beta: float
) -> list[SegmentedRecord]:
    """Label the pieces of scored records by one strategy.

    Raises:
      UserError: the strategy needs the scorer's numbers and there are none.
    """
    out = []
    for row in scored:
        scores = None
        if strategy != "location":
            if strategy not in row.scores:
                raise UserError(
                    f"segment.strategy {strategy!r} needs a trained scorer; use asesjax run, or "
                    "one of bleu, rouge, location"
                )
            scores = tuple(row.scores[strategy])
        labels = label_pieces(scores, strategy, beta, n_pieces=len(row.pieces))
        out.append(
            SegmentedRecord(row.id, row.text, row.pieces, scores, tuple(labels), strategy)
        )
    return out


def _model_scores(records, cut, config, vocab, scorer) -> list[dict[str, list[float]]]:
    """Token scores of the scorer, pooled over pieces: entropy and loss for every record."""
    questions = vocab.encode_batch([record.question for record in records])
    examples, places = [], []  # places: (record, first token in the chain)
    encoded = []
    for i, (record, question) in enumerate(zip(records, questions, strict=True)):
        text, pieces = cut[i]
        ids, piece_of_token = encode_chain(vocab, text, pieces)
        encoded.append((ids, piece_of_token))
        if config.segment.given == "question":
            starts = [0, len(ids)]
        else:  # after each piece a new target begins
            changes = np.flatnonzero(np.diff(piece_of_token)) + 1
            starts = [0, *changes.tolist(), len(ids)]
        for start, end in zip(starts, starts[1:], strict=False):
            targets = np.append(ids[start:end], vocab.eos_id).astype(np.int32)
            examples.append(
                Example(
                    record.id,
                    context_ids(vocab, question, ids[:start]),
                    targets,
                    np.ones(len(targets), np.float32),
                )
            )
            places.append((i, start))
    tokens = [np.zeros((2, len(ids)), np.float32) for ids, _ in encoded]
    for (i, start), (nll, entropy) in zip(places, scorer(examples), strict=True):
        end = start + len(nll) - 1  # the end of sequence is no part of a piece
        tokens[i][:, start:end] = entropy[:-1], nll[:-1]
    pooled = []
    for i, (text, pieces) in enumerate(cut):
        words = [count_words(piece) for piece in piece_texts(text, pieces)]
        pooled.append(
            {
                name: pool_token_scores(
                    tokens[i][row], encoded[i][1], len(pieces), words, config.segment.reduce
                ).tolist()
                for row, name in enumerate(("entropy", "loss"))
            }
        )
    return pooled
