"""From the chains of a question to a row of a predictions file."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from asesjax.core.types import ES, Record
from asesjax.data.examples import answer_sentence, chain_text
from asesjax.data.vocab import Vocabulary
from asesjax.decode.predict import Generated
from asesjax.decode.spec import FinishReason
from asesjax.evals.answers import marker_of, parse_answer
from asesjax.evals.vote import vote
from asesjax.methods.method import Method


def prediction_row(
    record: Record, chains: Sequence[Generated], method: Method, vocab: Vocabulary,
    log_probabilities: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write the chains of a question as a row of a predictions file. Several vote (``vote.vote``;
    not if their logits were not finite): the row is of the most probable chain with the answer that
    won, and ``votes`` maps answers to numbers of chains, the winner first. ``segments`` have the
    turn's label (and ``ids`` and ``log_probabilities`` if asked for), ``tokens`` counts the decoder
    steps of all chains, ``log_probability`` is in nats.
    """
    config, metric = method.config, method.config.evaluate.metric
    texts = [vocab.decode(chain.ids) for chain in chains]
    marker = marker_of(config.data.answer_template)
    answers = [parse_answer(text, metric, marker) for text in texts]
    voters = [None if chain.finish_reason == FinishReason.NONFINITE else answer
              for answer, chain in zip(answers, chains, strict=True)]  # fmt: skip
    elected = vote(voters, [chain.log_probability for chain in chains])
    chain = chains[elected.chain]
    row: dict[str, Any] = {
        "id": record.id, "question": record.question, "chain": texts[elected.chain],
        "segments": _segments(chain, texts[elected.chain], vocab, log_probabilities),
        "answer": answers[elected.chain], "finish_reason": chain.finish_reason.name.lower(),
        "cut_segments": chain.cut_segments, "tokens": sum(each.tokens for each in chains),
        "log_probability": _plain(chain.log_probability),
    }  # fmt: skip
    if len(chains) > 1:
        row |= {"samples": len(chains), "votes": elected.votes, "tied": elected.tied}
    row["reference_answer"] = record.answer
    given = bool(record.rationale) or not method.writes_rationales
    record = method.reference(record)
    row["reference_chain"] = chain_text(record, config.data.answer_template) if given else ""
    if record.gold:
        closing = answer_sentence(record, config.data.answer_template)
        gold: list[list[Any]] = [[segment.text, segment.label] for segment in record.gold]
        if closing:
            gold[-1][0] = gold[-1][0].rstrip() + " "
            gold.append([closing, ES])
        row["gold"] = gold
    return row


def _segments(
    chain: Generated, text: str, vocab: Vocabulary, log_probabilities: bool
) -> list[dict]:
    """Cut the text of a chain into those of its segments, white space included."""
    out: list[dict[str, Any]] = []
    start = done = 0
    for ids, label in zip(chain.segments, chain.labels, strict=True):
        end = start + len(ids)
        before = vocab.decode(chain.ids[:end]) if end < len(chain.ids) else text
        # A character may be cut in the middle of its bytes.
        cut = max(done, len(os.path.commonprefix([before, text])))
        out.append({"text": text[done:cut], "label": label})
        if log_probabilities:
            own = chain.token_log_probability[start:end]
            out[-1] |= {"ids": ids.tolist(), "log_probabilities": [_plain(x) for x in own]}
        start, done = end, cut
    return out


def _plain(value: float) -> float | None:
    """The shortest number that names a float32, None where it is not finite."""
    return float(str(np.float32(value))) if np.isfinite(value) else None
