"""Baselines that learn rationales in other ways: step by step, in context, from several chains.

All write their chain at once. Encoder inputs are ids put together, in training as in decoding;
marks and prompts are encoded each on its own.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from asesjax.core.errors import UserError, unknown
from asesjax.core.types import Example, Record
from asesjax.data.examples import (
    answer_only_example,
    answer_sentence,
    chain_text,
    direct_example,
)
from asesjax.data.vocab import Vocabulary
from asesjax.decode.spec import Frame
from asesjax.methods.method import Asked, Method, Prepared, Shape, Trained, Write


class Format(NamedTuple):
    """One of the four formats of Fu et al.: with worked examples or without, chain or answer."""

    few: bool
    chain: bool


FORMATS = {
    "few_chain": Format(few=True, chain=True),
    "few_answer": Format(few=True, chain=False),
    "zero_chain": Format(few=False, chain=True),
    "zero_answer": Format(few=False, chain=False),
}


def _step_by_step(
    prepared: Prepared, config: ConfigDict, vocab: Vocabulary
) -> dict[str, list[Example]]:
    """Answer and rationale as two tasks, told apart by what stands before the question.

    The answer gets the share alpha of what the question weighs: its tokens weigh alpha each, those
    of the rationale 1 - alpha times the ratio of the lengths (each task has its own mean in the
    paper). A task with no share is left out, and the other is then plain.
    """
    record, ids = prepared.record, prepared.question_ids
    alpha = _alpha(config)
    examples = []
    if alpha > 0:
        examples.append(answer_only_example(vocab, record, ids, config.data.answer_template))
    if alpha < 1:
        examples.append(direct_example(vocab, record, ids, ""))
    if len(examples) == 1:
        return {"main": examples}
    answer, rationale = examples
    predict, explain = _prefixes(config, vocab)
    weights = alpha, (1 - alpha) * len(answer.targets) / len(rationale.targets)
    return {
        "main": [
            dataclasses.replace(
                example, id=f"{record.id}/{kind}", kind=kind, weights=example.weights * weight,
                inputs=_joined(lead, example.inputs),
            )
            for example, kind, weight, lead in zip(
                examples, ("answer", "rationale"), np.float32(weights), (predict, explain),
                strict=True,
            )
        ]
    }  # fmt: skip


def _step_by_step_shape(config: ConfigDict, vocab: Vocabulary) -> Shape:
    if _alpha(config) in (0, 1):
        return Shape()
    predict, _ = _prefixes(config, vocab)
    return Shape(frames=(Frame(lead=tuple(predict.tolist())),))


def _alpha(config: ConfigDict) -> float:
    alpha = config.step_by_step.alpha
    if not 0 <= alpha <= 1:
        raise UserError(f"step_by_step.alpha must be from 0 to 1, got {alpha}")
    return alpha


def _prefixes(config: ConfigDict, vocab: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    section = config.step_by_step
    return _two_marks(vocab, section, "step_by_step", "predict_prefix", "explain_prefix")


def _in_context(
    prepared: Prepared, config: ConfigDict, vocab: Vocabulary
) -> dict[str, list[Example]]:
    """Every format of a question as a row: worked examples, the question, what is asked for."""
    record, template = prepared.record, config.data.answer_template
    if not config.in_context.formats:
        raise UserError(f"in_context.formats must name some of {', '.join(FORMATS)}")
    examples = []
    for name in config.in_context.formats:
        how = _format(config, name)
        build = direct_example if how.chain else answer_only_example
        plain = build(vocab, record, prepared.question_ids, template)
        shown = [Record("", *texts) for texts in _shown(prepared)] if how.few else []
        question, eos = plain.inputs[:-1], plain.inputs[-1:]
        inputs = _joined(_prompted(question, shown, how, config, vocab), eos)
        kind = "" if how.chain else "answer"
        examples.append(
            dataclasses.replace(plain, id=f"{record.id}/{name}", inputs=inputs, kind=kind)
        )
    return {"main": examples}


def _ask_in_context(trained: Trained, config: ConfigDict, asked: Asked, write: Write) -> Asked:
    """Put worked examples of the training records and the prompt around every question."""
    vocab, how = trained.vocab, _format(config, config.in_context.ask)
    shown: list[list[Record]] = [[] for _ in asked.questions]
    if how.few:
        records = trained.examples()
        pool = vocab.encode_batch([record.question for record in records])
        places = worked_examples(asked.questions, pool, config.in_context.shots)
        shown = [[records[place] for place in own] for own in places]
    questions = [
        _prompted(ids, own, how, config, vocab)
        for ids, own in zip(asked.questions, shown, strict=True)
    ]
    room = max(config.decode.question_buckets)
    longest = max(map(len, questions), default=0)
    if longest > room:
        raise UserError(
            f"with worked examples and prompt a question of method in_context has {longest} "
            f"tokens; raise the last of decode.question_buckets "
            f"{tuple(config.decode.question_buckets)}, or lower in_context.shots"
        )
    return asked._replace(questions=questions)


def worked_examples(
    questions: Sequence[np.ndarray], pool: Sequence[np.ndarray], shots: int
) -> list[list[int]]:
    """Choose which records each question is shown, never one with the same question.

    The choice depends on the ids of the question and on the pool alone, so that training and
    decoding show the same.

    Args:
      questions: ids of each.
      pool: ids of the training questions, in the order of their records.
      shots: how many to choose.

    Returns:
      Places in the pool, for each question ``shots`` different ones.

    Raises:
      UserError: fewer than ``shots`` other questions in the pool.

    Example:
      >>> pool = [np.array([n]) for n in range(9)]
      >>> worked_examples([np.array([3]), np.array([99])], pool, 2)
      [[4, 2], [7, 2]]
    """
    keys = [ids.astype("<i4").tobytes() for ids in pool]
    same = Counter(keys)
    out = []
    for question in questions:
        own = question.astype("<i4").tobytes()
        if len(pool) - same[own] < shots:
            raise UserError(
                f"in_context.shots is {shots}, but there are only {len(pool) - same[own]} other "
                "training questions to show; lower it, or raise data.n_train"
            )
        chosen: list[int] = []
        draw = 0
        while len(chosen) < shots:
            digest = hashlib.sha256(own + draw.to_bytes(4, "little")).digest()
            place = int.from_bytes(digest[:8], "little") % len(pool)
            if place not in chosen and keys[place] != own:
                chosen.append(place)
            draw += 1
        out.append(chosen)
    return out


def _prompted(
    question: np.ndarray,
    shown: Sequence[Record],
    how: Format,
    config: ConfigDict,
    vocab: Vocabulary,
) -> np.ndarray:
    """Ids of worked examples, the question and the prompt."""
    section = config.in_context
    chain, answer = _two_marks(vocab, section, "in_context", "chain_prompt", "answer_prompt")
    prompt, template = chain if how.chain else answer, config.data.answer_template
    pieces = []
    for record in shown:
        target = chain_text(record, template) if how.chain else (
            answer_sentence(record, template) or record.answer
        )
        pieces += [vocab.encode(record.question), prompt, vocab.encode(target)]
    return _joined(*pieces, question, prompt)


def _shown(prepared: Prepared) -> list[list[str]]:
    """Question, rationale and answer of each worked example of a record."""
    if "shown" not in prepared.notes:
        raise UserError(
            f"record {prepared.record.id}: its worked examples have not been chosen yet; run the "
            "stage in_context first (asesjax train --method in_context)"
        )
    return prepared.notes["shown"]


def _format(config: ConfigDict, name: str) -> Format:
    if name not in FORMATS:
        raise unknown("format in in_context.formats:", name, FORMATS)
    if FORMATS[name].few and config.in_context.shots < 1:
        raise UserError(
            f"in_context.shots must be at least 1 for format {name}, got {config.in_context.shots}"
        )
    return FORMATS[name]


def _diverse(
    prepared: Prepared, config: ConfigDict, vocab: Vocabulary
) -> dict[str, list[Example]]:
    """Every rationale of a question as a row."""
    record, data = prepared.record, config.data
    if data.source == "synthetic_math" and data.n_rationales < 2:
        raise UserError(
            f"method diverse learns from several rationales of a question, and data.n_rationales "
            f"is {data.n_rationales}; set it to 2 or more"
        )
    examples = []
    for i, rationale in enumerate((record.rationale, *record.others)):
        one = dataclasses.replace(record, rationale=rationale, id=f"{record.id}/{i + 1}")
        examples.append(direct_example(vocab, one, prepared.question_ids, data.answer_template))
    return {"main": examples}


def _joined(*pieces: Any) -> np.ndarray:
    return np.concatenate(pieces).astype(np.int32)


def _two_marks(
    vocab: Vocabulary, section: ConfigDict, name: str, field: str, other: str
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of two fields of a section: marks that tell two tasks apart."""
    marks = vocab.encode(section[field]), vocab.encode(section[other])
    # Unknown pieces do no harm: all that matters is that the marks differ.
    if np.array_equal(*marks):
        raise UserError(
            f"{name}.{field} {section[field]!r} and {name}.{other} {section[other]!r} must come to "
            "different tokens in this vocabulary; other words will do, or <extra_id_1> ..."
        )
    return marks


# "predict: question" -> answer and "explain: question" -> rationale (Hsieh et al. 2023, eq. 3).
STEP_BY_STEP = Method(
    "step_by_step", _step_by_step, shape=_step_by_step_shape,
    train_fields=("step_by_step",), decode_fields=("step_by_step",),
)  # fmt: skip
# Worked examples and question -> rationale, in four formats (Fu et al. 2023, section 3).
IN_CONTEXT = Method(
    "in_context", _in_context, ask=_ask_in_context,
    notes=("in_context/{split}.jsonl",), needs=("in_context",),
    train_fields=tuple(f"in_context.{f}" for f in ("formats", "shots", "chain_prompt",
                                                   "answer_prompt")),
    decode_fields=("in_context",),
)  # fmt: skip
# Several rationales of a question, each a row (Ho et al. 2023, "diverse reasoning").
DIVERSE = Method("diverse", _diverse)
