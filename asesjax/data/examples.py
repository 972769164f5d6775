"""Records and segments to training examples, in ids; no text is encoded twice.

The question is encoded once and the chain once; segments are runs of the chain's ids. Decoding
appends ids in the same way, so that training and decoding see the same contexts to the last id.
"""

from collections.abc import Sequence

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.types import AS, LABELS, Example, Record, Segment
from asesjax.data.vocab import Vocabulary
from asesjax.segment.pieces import Piece


def answer_sentence(record: Record, answer_template: str) -> str:
    """Return what closes the chain, ``""`` where the record has no answer or there is no template.

    Raises:
      UserError: a template without ``{answer}``.

    Example:
      >>> answer_sentence(Record("1", "q", "r", "42"), "The answer is {answer}.")
      'The answer is 42.'
    """
    if not answer_template or not record.answer:
        return ""
    if "{answer}" not in answer_template:
        raise UserError(f"data.answer_template must hold {{answer}}, got {answer_template!r}")
    return answer_template.replace("{answer}", record.answer)


def chain_text(record: Record, answer_template: str) -> str:
    """Return the chain: the rationale and the answer sentence.

    Example:
      >>> chain_text(Record("1", "q", "40 + 2 = 42. ", "42"), "The answer is {answer}.")
      '40 + 2 = 42. The answer is 42.'
    """
    closing = answer_sentence(record, answer_template)
    return f"{record.rationale.rstrip()} {closing}" if closing else record.rationale


def encode_chain(
    vocab: Vocabulary, text: str, pieces: Sequence[Piece]
) -> tuple[np.ndarray, np.ndarray]:
    """Encode a whole text once and tell which piece each token belongs to.

    A token belongs to the piece that holds its first character that is not white space. A token
    of white space alone goes with the character after it, at the end of the text with the one
    before.

    Args:
      vocab: the vocabulary.
      text: the chain.
      pieces: in order, without overlap; where they do not tile the text (dropped pieces), the
        tokens between them have piece -1.

    Returns:
      ``ids`` int32 [N] without end of sequence, and ``piece_of_token`` int32 [N].
    """
    ids, starts, _ = vocab.encode_with_offsets(text)
    if not len(ids) or not len(pieces):
        return ids, np.full(len(ids), -1, np.int32)
    solid = np.flatnonzero([not character.isspace() for character in text])
    if not len(solid):
        return ids, np.zeros(len(ids), np.int32)
    first = solid[np.minimum(np.searchsorted(solid, starts), len(solid) - 1)]
    piece = np.searchsorted([span.start for span in pieces], first, side="right") - 1
    ends = np.asarray([span.end for span in pieces])
    inside = (piece >= 0) & (first < ends[piece])
    return ids, np.where(inside, piece, -1).astype(np.int32)


def context_ids(vocab: Vocabulary, question_ids: np.ndarray, chain_ids: np.ndarray) -> np.ndarray:
    """Return an encoder input, int32: question, the chain so far, end of sequence."""
    return np.concatenate([question_ids, chain_ids, [vocab.eos_id]]).astype(np.int32)


def direct_example(
    vocab: Vocabulary, record: Record, question_ids: np.ndarray, answer_template: str
) -> Example:
    """Build the example of plain seq2seq: question to whole chain, every weight 1.

    Raises:
      UserError: question or rationale comes to no tokens.
    """
    return _plain(vocab, record, question_ids, chain_text(record, answer_template), "rationale")


def answer_only_example(
    vocab: Vocabulary, record: Record, question_ids: np.ndarray, answer_template: str
) -> Example:
    """Build the example of the answer-only baseline: question to the answer sentence.

    Without a template the target is the bare answer.

    Raises:
      UserError: the record has no answer, or a text comes to no tokens.
    """
    if not record.answer:
        raise UserError(
            f"record {record.id} has no answer, so method answer_only cannot use it; "
            "take answer_only out of methods"
        )
    text = answer_sentence(record, answer_template) or record.answer
    return _plain(vocab, record, question_ids, text, "answer")


def segment_examples(
    vocab: Vocabulary,
    record_id: str,
    question_ids: np.ndarray,
    segments: Sequence[Segment],
    gamma: float = 1.0,
    end_of_chain: str = "sentinel",
    token_weights: np.ndarray | None = None,
) -> list[Example]:
    """Build one example a segment: question and earlier segments to this segment (AS-ES, sec. 3).

    Args:
      vocab: the vocabulary.
      record_id: names the record in errors; example i has the id ``record_id/i``, from 1.
      question_ids: ids of the question, without end of sequence.
      segments: labelled, in order; their texts joined are the chain.
      gamma: weight of every target token of an AS segment, 1 for ES ("ours": the paper names
        gamma without saying where it goes).
      end_of_chain: "sentinel" closes the last target with sentinel 0 before the end of sequence;
        "stop_text" adds nothing.
      token_weights: [C], what the weights of the chain's tokens are multiplied by.

    Returns:
      Examples in the order of the segments. End of sequence and sentinel weigh what their
      segment weighs.

    Raises:
      UserError: no label, a question or segment that comes to no tokens, or token weights of
        another chain.
    """
    text = "".join(segment.text for segment in segments)
    ends = np.cumsum([len(segment.text) for segment in segments]).tolist()
    spans = [Piece(*span) for span in zip([0, *ends], ends, strict=False)]
    ids, piece = encode_chain(vocab, text, spans)
    if not len(ids):
        raise UserError(_nothing(record_id, "rationale", text))
    _need(question_ids, record_id, "question", "")
    if token_weights is not None and len(token_weights) != len(ids):
        raise UserError(
            f"record {record_id}: there are weights for {len(token_weights)} tokens and the "
            f"segments have {len(ids)}; weights need segments that hold the whole chain "
            "(segment.short=merge or keep)"
        )
    # Tokens of one segment are neighbours: piece never decreases where segments tile the text.
    cuts = np.searchsorted(piece, np.arange(len(segments) + 1))
    examples = []
    for i, segment in enumerate(segments):
        target = ids[cuts[i] : cuts[i + 1]]
        _need(target, record_id, f"segment {i + 1}", segment.text)
        if segment.label not in LABELS:
            raise UserError(
                f"record {record_id}: segment {i + 1} has label {segment.label!r}, not ES or AS; "
                "segment the records first"
            )
        last = i == len(segments) - 1
        closes = last and end_of_chain == "sentinel"
        closing = [vocab.sentinel(0), vocab.eos_id] if closes else [vocab.eos_id]
        target = np.concatenate([target, closing]).astype(np.int32)
        weights = np.full(len(target), gamma if segment.label == AS else 1.0, np.float32)
        if token_weights is not None:
            weights[: cuts[i + 1] - cuts[i]] *= token_weights[cuts[i] : cuts[i + 1]]
        examples.append(
            Example(
                id=f"{record_id}/{i + 1}",
                inputs=context_ids(vocab, question_ids, ids[: cuts[i]]),
                targets=target,
                weights=weights,
                kind="answer" if last else segment.label.lower(),
            )
        )
    return examples


def _plain(vocab, record, question_ids, text, field):
    ids = vocab.encode(text)
    _need(question_ids, record.id, "question", record.question)
    _need(ids, record.id, field, text)
    targets = np.concatenate([ids, [vocab.eos_id]]).astype(np.int32)
    return Example(
        id=record.id,
        inputs=context_ids(vocab, question_ids, np.zeros(0, np.int32)),
        targets=targets,
        weights=np.ones(len(targets), np.float32),
    )


def _need(ids, record_id, field, text):
    if not len(ids):
        raise UserError(_nothing(record_id, field, text))


def _nothing(record_id, field, text):
    return (
        f"record {record_id}: the {field} {text[:60]!r} comes to no tokens in this vocabulary; "
        "mend the record or leave it out"
    )
