"""The questions of a file for `asesjax generate`, checked before anything is generated."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asesjax.config import Config
from asesjax.core.errors import UserError
from asesjax.core.files import read_jsonl
from asesjax.core.types import Record
from asesjax.data.vocab import Vocabulary
from asesjax.decode.spec import Limits
from asesjax.evals.runner import check_question, decode_spec, encode_prefix
from asesjax.methods.method import Method, Request

# Fields of a row that bound its own chain, by the names of the bounds of all.
BUDGETS = ("max_rounds", "max_segment_tokens", "max_chain_tokens")


class Questions(NamedTuple):
    """A file of questions."""

    records: list[Record]  # one a row, with what the row holds of references
    request: Request  # the same in ids, with the rows' own bounds and prefixes
    sha256: str  # of the file's bytes


def read_questions(
    path: str | Path, config: Config, method: Method, vocab: Vocabulary
) -> Questions:
    """Read and check a JSONL file of questions; UserErrors name file, line and field. A method that
    writes a single segment has only ``max_chain_tokens`` of the ``BUDGETS``.
    """
    data = config.data
    sha256 = _fingerprint(path)
    records, lines, budgets, prefixes = [], [], [], []
    for line, row in read_jsonl(path):
        where = f"{path}:{line}"
        _check_characters(row, where)
        question = row.get(data.question_field)
        if not isinstance(question, str) or not question.strip():
            raise UserError(
                f"{where}: field {data.question_field!r} must be a text that is not empty, got "
                f"{question!r}"
            )
        texts = (row.get(name) for name in (data.id_field, data.rationale_field, data.answer_field))
        own = ["" if text is None else str(text) for text in texts]
        records.append(Record(own[0] or str(line), question, *own[1:]))
        lines.append(where)
        budgets.append({name: _budget(row, name, where, config) for name in BUDGETS})
        prefixes.append(_prefix(row, where, config))
    if not records:
        raise UserError(f"{path} holds no questions")
    questions = vocab.encode_batch([record.question for record in records])
    for where, ids in zip(lines, questions, strict=True):
        check_question(ids, where, config)
    _, plan = decode_spec(method, vocab)
    limits = _limits(budgets, plan, config)
    forced = _forced(prefixes, lines, limits or plan, vocab)
    request = Request(questions, np.arange(len(questions)), limits, forced, records=records)
    return Questions(records, request, sha256)


def _fingerprint(path: str | Path) -> str:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text; convert the file") from None
    return hashlib.sha256(content).hexdigest()


def _check_characters(row: dict, where: str) -> None:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{where}: half of a surrogate pair (\\ud800 to \\udfff) stands alone, which is no "
            "character; remove it"
        ) from None


def _budget(row: dict, name: str, where: str, config: Config) -> int | list[int] | None:
    value = row.get(name)
    if value is None:
        return None
    room = getattr(config.decode, name)
    several = name == "max_segment_tokens"
    numbers = value if several and isinstance(value, list) else [value]
    if not numbers or not all(type(n) is int and 1 <= n <= room for n in numbers):
        more = ", or a list of such, one for each segment" if several else ""
        raise UserError(
            f"{where}: field {name!r} must be a whole number from 1 to {room} (decode.{name})"
            f"{more}; got {value!r}"
        )
    if len(numbers) > config.decode.max_rounds:
        raise UserError(
            f"{where}: field {name!r} has bounds for {len(numbers)} segments, more than "
            f"decode.max_rounds={config.decode.max_rounds}"
        )
    return numbers if several else value


def _limits(budgets: list[dict], plan: Limits, config: Config) -> Limits | None:
    """The bounds of all rows, [N] and [N, segments]; None where no row has its own."""
    if not any(value is not None for row in budgets for value in row.values()):
        return None
    decode = config.decode
    chain = [row["max_chain_tokens"] or decode.max_chain_tokens for row in budgets]
    if plan.max_rounds == 1:
        return Limits(np.ones(len(chain), int), np.array(chain), np.array(chain))
    rounds = [min(row["max_rounds"] or plan.max_rounds, plan.max_rounds) for row in budgets]
    segment = [row["max_segment_tokens"] or [decode.max_segment_tokens] for row in budgets]
    longest = max(map(len, segment))
    segment = [row + row[-1:] * (longest - len(row)) for row in segment]
    return Limits(np.array(rounds), np.array(segment), np.array(chain))


def _prefix(row: dict, where: str, config: Config) -> str:
    prefix: Any = row.get("prefix")
    if prefix is None:
        return config.decode.prefix
    if not isinstance(prefix, str):
        raise UserError(f"{where}: field 'prefix' must be a text, got {prefix!r}")
    if prefix and config.decode.beams > 1:
        raise UserError(f"{where}: field 'prefix': beam search takes none; set decode.beams=1")
    return prefix


def _forced(prefixes, lines, limits: Limits, vocab) -> list[np.ndarray] | None:
    """The ids each chain begins with, all padded to the longest: one shape for the whole file."""
    if not any(prefixes):
        return None
    segment = np.asarray(limits.max_segment_tokens)
    first = segment[:, 0] if segment.ndim == 2 else segment
    room = np.broadcast_to(np.minimum(first, limits.max_chain_tokens), len(lines))
    ids = [
        encode_prefix(prefix, vocab, int(most), f"{where}: field 'prefix'")
        for prefix, where, most in zip(prefixes, lines, room, strict=True)
    ]
    longest = max(map(len, ids))
    return [np.pad(row, (0, longest - len(row))) for row in ids]
