"""Questions that are asked of a trained row: read from files and folders, checked, and compared
with those that it was trained on.
"""

import contextlib
import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asesjax.config import Config
from asesjax.core.errors import UserError
from asesjax.core.types import Record
from asesjax.data.folders import folder_files
from asesjax.data.readers.plain import (
    given_answer,
    parse_fields,
    question_text,
    with_usual_names,
)
from asesjax.data.registry import SOURCES, Reader
from asesjax.data.rows import (
    BadRow,
    Missing,
    Row,
    checked_text,
    optional_text,
    place,
    read_rows,
)
from asesjax.data.sources import unclosed
from asesjax.data.summary import unknown_share
from asesjax.data.vocab import Vocabulary
from asesjax.decode.spec import Limits
from asesjax.evals.runner import check_question, decode_spec, encode_prefix
from asesjax.methods.method import Method, Request
from asesjax.run import Run

# Fields of a row that bound its own chain, by the names of the bounds of all.
BUDGETS = ("max_rounds", "max_segment_tokens", "max_chain_tokens")


def read_questions(
    path: str | Path, config: Config, method: Method, vocab: Vocabulary
) -> tuple[Request, str]:
    """Read and check a file or folder of questions, with their references, bounds and prefixes;
    return them and the SHA-256 of what was read. UserErrors name file, line and field. A method
    that writes a single segment has only ``max_chain_tokens`` of the ``BUDGETS``.
    """
    sha256 = hashlib.sha256()
    records, lines, budgets, prefixes = [], [], [], []
    places: dict[str, str] = {}  # of the rows, by id
    for file, number, row in _rows_of(Path(path), sha256):
        where = place(file, number)
        try:
            name = str(number) if file == Path(path) else f"{file.stem}-{number}"
            if isinstance(row, BadRow):
                raise row
            records.append(_question(row, name, file, number, config.data))
        except BadRow as error:
            raise UserError(f"{where}: {error}") from None
        if (other := places.setdefault(records[-1].id, where)) != where:
            raise UserError(
                f"{where}: its id {records[-1].id!r} is that of {other}, where a row without an id "
                "is called by its line; give each an id of its own, or none"
            )
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
    rows = np.arange(len(questions))
    request = Request(questions, rows, limits, forced, records=records)
    return request, sha256.hexdigest()


def _rows_of(path: Path, sha256: Any) -> Iterator[tuple[Path, int, Row | BadRow]]:
    """Yield file, number and row of all that is in a file, pipe or folder, which is hashed."""
    files = [path]
    if path.is_dir():
        splits = folder_files(path)
        if len(splits) > 1:
            raise UserError(
                f"--input {path} holds the splits {', '.join(splits)}; give the file or folder of "
                "one of them"
            )
        (files,) = splits.values()
    for file in files:
        try:
            content = file.read_bytes()  # once: it may be a pipe
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}") from None
        sha256.update(content)
        pipe = None if file.is_file() else io.BytesIO(content)
        for number, row in read_rows(file, file=pipe):
            yield file, number, row


def _question(row: Row, name: str, file: Path, number: int, data: Config) -> Record:
    """Read a question and the references that its row has: as the run's data set has them, or the
    fields that the configuration names. ``name`` is for one without an id.
    """
    source = SOURCES.get(data.source)
    if isinstance(source, Reader) and source.parse is not parse_fields:
        with contextlib.suppress(BadRow):
            return unclosed(source.parse(data, row, file, number)[0], data.answer_template)
    row, answer = _as_named(with_usual_names(row), data), ""
    with contextlib.suppress(Missing):
        answer = given_answer(data, row)
    name = optional_text(row, data.id_field) or name
    rationale = optional_text(row, data.rationale_field)
    record = Record(name, question_text(data, row), rationale, answer)
    return unclosed(record, data.answer_template)


def _as_named(row: Row, data: Config) -> Row:
    """Give the fields of a row that a run has written the names of the configuration."""
    names = {getattr(data, f"{name}_field"): name for name in ("question", "rationale", "answer")}
    return row | {theirs: row[ours] for theirs, ours in names.items()
                  if theirs and theirs not in row and ours in row}  # fmt: skip


def _budget(row: dict, name: str, where: str, config: Config) -> int | list[int] | None:
    value = row.get(name)
    if value is None or value == "":
        return None
    if isinstance(value, str) and value.isdecimal():  # of a CSV file
        value = int(value)
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
    try:
        checked_text(prefix, "field 'prefix'")
    except BadRow as error:
        raise UserError(f"{where}: {error}") from None
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
    ids = [encode_prefix(prefix, vocab, int(most), f"{where}: field 'prefix'")
           for prefix, where, most in zip(prefixes, lines, room, strict=True)]  # fmt: skip
    longest = max(map(len, ids))
    return [np.pad(row, (0, longest - len(row))) for row in ids]


def doubts(
    run: Run, vocab: Vocabulary, texts: Sequence[str], ids: Sequence[np.ndarray]
) -> list[str]:
    """Say in what questions are unlike those that the run was trained on: tokens that the
    vocabulary does not know, and lengths (where the run still has its corpus).
    """
    out = []
    n, of, lost = unknown_share(vocab, texts, ids)
    if n:
        out.append(f"{n} of {of} tokens of what is asked are unknown to the vocabulary, most often "
                   f"{', '.join(map(repr, lost))}; the model does not see them")  # fmt: skip
    ends = run / "corpus/train/question_ends.npy"
    if ends.is_file():
        longest = int(np.diff(np.load(ends), prepend=0).max())
        longer = [len(own) for own in ids if len(own) > longest]
        if longer:
            out.append(f"{len(longer)} of {len(ids)} questions are longer than any trained on, up "
                       f"to {max(longer)} tokens instead of {longest}")  # fmt: skip
    return out
