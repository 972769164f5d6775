"""Texts of a chain, and examples put together from runs of ids; no text is encoded twice. Decoding
appends ids in the same way, so it sees the same contexts as training to the last id.
"""

import re
from collections.abc import Sequence

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.types import Example, Record
from asesjax.data.vocab import Vocabulary


def answer_sentence(record: Record, answer_template: str) -> str:
    """Return what closes the chain, ``""`` without an answer or a template."""
    if not answer_template or not record.answer:
        return ""
    if "{answer}" not in answer_template:
        raise UserError(f"data.answer_template must hold {{answer}}, got {answer_template!r}")
    return answer_template.replace("{answer}", record.answer)


def chain_text(record: Record, answer_template: str) -> str:
    """Return the chain: the rationale, if any, and the answer sentence.

    >>> chain_text(Record("1", "q", "40 + 2 = 42. ", "42"), "The answer is {answer}.")
    '40 + 2 = 42. The answer is 42.'
    """
    closing = answer_sentence(record, answer_template)
    if not record.rationale:
        return closing or record.answer
    if not closing or record.rationale.strip() == closing:
        return record.rationale
    return f"{record.rationale.rstrip()} {closing}"


def without_answer_sentence(text: str, record: Record, answer_template: str) -> str:
    """Return a rationale of a record without the answer sentence, where it closes with that itself
    (in any case, with or without a full stop) and says more than that.

    >>> record = Record("1", "q", "", "42")
    >>> without_answer_sentence("40 + 2 = 42. The answer is 42", record, "The answer is {answer}.")
    '40 + 2 = 42.'
    """
    words = answer_sentence(record, answer_template).rstrip(" .。!").split()
    pattern = r"\s*".join(map(re.escape, words)) + r"[\s.。!]*\Z"
    found = words and re.search(pattern, text, re.IGNORECASE)
    before = text[: found.start()] if found else ""
    rest = before.rstrip()
    if not rest or not (rest[-1] in ".!?:;)。！？：；）" or "\n" in before[len(rest) :]):
        return text
    return rest


Ids = Sequence[int] | np.ndarray  # a run of them


def join_ids(*parts: Ids) -> np.ndarray:
    """Return runs of ids as one, int32."""
    return np.concatenate([np.zeros(0, np.int32), *map(np.asarray, parts)]).astype(np.int32)


def make_example(
    vocab: Vocabulary, name: str, context: Sequence[Ids],
    target: Sequence[Ids], kind: str = "", end: int | None = None,
    weights: np.ndarray | float = 1.0,
) -> Example:  # fmt: skip
    """Put an example together from runs of ids, as decoding puts its contexts together. End of
    sequence follows the source, and ``end`` (end of sequence when None) the target; ``weights`` are
    one for all targets, or one for each, the end mark included.
    """
    targets = join_ids(*target, [vocab.eos_id if end is None else end])
    weights = np.broadcast_to(np.float32(weights), targets.shape).copy()
    return Example(name, join_ids(*context, [vocab.eos_id]), targets, weights, kind)
