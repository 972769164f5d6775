"""Questions in, prediction rows out: a method's decode plan around the one engine."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from asesjax.core.errors import UserError
from asesjax.core.types import ES, Params, Record
from asesjax.data.examples import answer_sentence, chain_text
from asesjax.data.vocab import Vocabulary
from asesjax.decode import beam
from asesjax.decode.iterative import DecodeSpec, Limits, n_compilations
from asesjax.decode.predict import Generated, predict
from asesjax.evals.answers import answer_number
from asesjax.methods.method import Method
from asesjax.models.t5_config import T5Config


def decode_plan(
    method: Method, config: ConfigDict, vocab: Vocabulary
) -> tuple[DecodeSpec | beam.BeamSpec, Limits]:
    """Return what the engine needs to know of a method.

    A method that writes its whole chain at once gets the chain's bound for its one segment.

    Raises:
      UserError: see ``check_beams``.
    """
    check_beams(method, config)
    decode, ases = config.decode, config.ases
    single = method.single_segment
    if decode.beams > 1:
        room = decode.max_chain_tokens
        spec = beam.BeamSpec(
            decode.beams, vocab.size, room, decode.length_penalty, eos_id=vocab.eos_id
        )
        return spec, Limits(1, room, room)
    segment = decode.max_chain_tokens if single else decode.max_segment_tokens
    rounds = 1 if single else decode.max_rounds
    by_sentinel = not single and ases.end_of_chain == "sentinel"
    by_text = not single and ases.end_of_chain == "stop_text"
    spec = DecodeSpec(
        vocab_limit=vocab.size,
        chain_buffer=decode.max_chain_tokens,
        segment_buffer=segment,
        round_buffer=rounds,
        eos_id=vocab.eos_id,
        sentinel_id=vocab.sentinel(0) if by_sentinel else -1,
        stop_ids=tuple(vocab.encode(ases.stop_text).tolist()) if by_text else (),
        single_segment=single,
    )
    return spec, Limits(rounds, segment, decode.max_chain_tokens)


def check_beams(method: Method, config: ConfigDict) -> None:
    """Refuse beam search where it cannot be done, before anything is trained for it.

    Raises:
      UserError: fewer than one beam, or several for a method that writes segment by segment.
    """
    beams = config.decode.beams
    if beams < 1:
        raise UserError(f"decode.beams must be at least 1, got {beams}")
    if beams > 1 and not method.single_segment:
        raise UserError(
            f"decode.beams is {beams}, but method {method.name} writes segment by segment, which "
            "is greedy; set decode.beams=1, or take the method out of methods"
        )


def answer_questions(
    method: Method,
    model: T5Config,
    params: tuple[Params, ...],
    config: ConfigDict,
    vocab: Vocabulary,
    records: Sequence[Record],
    mesh: Mesh | None = None,
    timed: bool = False,
) -> tuple[list[Generated], float]:
    """Decode the chains of some records' questions.

    Args:
      method: what trained the parameters.
      model: their shape.
      params: one tree for each role, in the roles' order.
      config: sections ``decode`` and ``ases`` are read.
      vocab: the run's.
      records: only ids and questions are looked at.
      mesh: spread the rows over its devices.
      timed: where the first pass had to compile, decode once more for the time.

    Returns:
      One for each record, in order, and the seconds it took; with ``timed``, without compiling.

    Raises:
      UserError: a question without tokens or longer than the largest of decode.question_buckets.
    """
    spec, limits = decode_plan(method, config, vocab)
    buckets = config.decode.question_buckets
    questions = vocab.encode_batch([record.question for record in records])
    for record, ids in zip(records, questions, strict=True):
        if not 1 <= len(ids) <= max(buckets):
            raise UserError(
                f"record {record.id}: its question has {len(ids)} tokens, and must have from 1 to "
                f"{max(buckets)}; raise the last of decode.question_buckets {tuple(buckets)}"
            )

    def decode() -> tuple[list[Generated], float]:
        start = time.perf_counter()
        answers = predict(
            model, params, questions, limits, spec, config.decode.batch_size, buckets, mesh
        )
        return answers, time.perf_counter() - start

    before = n_compilations() + beam.n_compilations()
    answers, seconds = decode()
    if timed and n_compilations() + beam.n_compilations() > before:
        answers, seconds = decode()
    return answers, seconds


def prediction_row(
    record: Record, answer: Generated, method: Method, config: ConfigDict, vocab: Vocabulary
) -> dict[str, Any]:
    """Write one generated chain as a row of a predictions file.

    Returns:
      ``id``, ``question``, ``chain`` (text), ``segments`` (text and label each; the label is the
      role's, None where a role writes any segment), ``answer`` (the number it ends in, as text, or
      None), flags, ``tokens`` (decoder steps), ``log_probability`` (nats), and from the record
      ``reference_answer``, ``reference_chain`` and, where there is one, ``gold``.
    """
    labels = method.labels
    number = answer_number(vocab.decode(answer.ids))
    row: dict[str, Any] = {
        "id": record.id,
        "question": record.question,
        "chain": vocab.decode(answer.ids),
        "segments": [
            {"text": vocab.decode(ids), "label": labels[i % len(labels)]}
            for i, ids in enumerate(answer.segments)
        ],
        "answer": None if number is None else str(number),
        **{name: getattr(answer, name) for name in ("done", "truncated", "repeated", "broken")},
        "tokens": answer.tokens,
        "log_probability": answer.log_probability if np.isfinite(answer.log_probability) else None,
        "reference_answer": record.answer,
        "reference_chain": chain_text(record, config.data.answer_template),
    }
    if record.gold:
        closing = answer_sentence(record, config.data.answer_template)
        gold = [[segment.text, segment.label] for segment in record.gold]
        if closing:
            gold[-1][0] = gold[-1][0].rstrip() + " "
            gold.append([closing, ES])
        row["gold"] = gold
    return row
