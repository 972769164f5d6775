"""Where records come from: the generators, GSM8K's files, and JSON lines of any field names.

Bad rows are errors that name file, line and field. Which split a row goes to, and which rows a
limit keeps, is decided by hashes, so it does not depend on the order of a file or of Python's sets.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from asesjax.core.config import SOURCES
from asesjax.core.errors import UserError, unknown
from asesjax.core.files import read_jsonl, write_jsonl
from asesjax.core.types import LABELS, Record, Segment
from asesjax.data.reports import make_reports
from asesjax.data.synthetic import make_math

SPLITS = ("train", "validation", "test")
_CALCULATOR = re.compile(r"<<[^<>]*>>")
Skipped = list[tuple[str, str]]


def load_records(settings: Any, split: str, seed: int) -> tuple[list[Record], Skipped]:
    """Load one split of the configured source.

    GSM8K's line breaks between steps stay in the rationale: 44 % of its lines end without
    punctuation, so segmentation needs them, and to SentencePiece a line break is a space.

    Args:
      settings: section ``data`` of the config.
      split: "train", "validation" or "test".
      seed: of generated data, and of the choice where a limit keeps some rows; never moves a row
        to another split.

    Returns:
      ``records``, and for every row of the file that could not be used ``("file:line", reason)``.
      Rows of a file come in a random order that ``seed`` fixes, at most ``settings.n_<split>``.

    Raises:
      UserError: missing file, bad row (beyond ``max_skipped_share``), two rows with one id, no
        rows, or settings that a generator cannot meet.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    limit = settings[f"n_{split}"]
    if limit < 0:
        raise UserError(f"data.n_{split} must be 0 (all) or more, got {limit}")
    if settings.source == "synthetic_math":
        return make_math(settings, split, limit, seed), []
    if settings.source == "synthetic_reports":
        return make_reports(settings, split, limit, seed), []
    file, shares = _file_and_shares(settings, split)
    parse = _gsm8k_record if settings.source == "gsm8k" else _jsonl_record
    records, skipped = _read_rows(file, parse, settings)
    rest = "train" if shares else split
    n_rows = len(records)
    records = [record for record in records if _split_of(record.question, shares, rest) == split]
    if not records:
        raise UserError(
            f"{file} has no {split} records among its {n_rows} good rows; "
            + (f"raise data.{split}_share" if split in shares else "name another file: data.path")
        )
    records.sort(key=lambda record: _hash(f"{seed}/{record.id}"))
    return records[: limit or None], skipped


def write_records(path: str | os.PathLike, records: Iterable[Record]) -> None:
    """Write records as JSON lines, the whole file or nothing; gold segments included."""
    rows = []
    for record in records:
        row = dataclasses.asdict(record)
        if record.gold is None:
            del row["gold"]
        else:
            row["gold"] = [[segment.label, segment.text] for segment in record.gold]
        rows.append(row)
    write_jsonl(path, rows)


def read_records(path: str | os.PathLike) -> list[Record]:
    """Read what ``write_records`` wrote.

    Raises:
      UserError: no such file, or a row that is not such a record; names line and field.
    """
    records = []
    for line, row in read_jsonl(path):
        try:
            text = {name: _text(row, name) for name in ("id", "question", "rationale")}
            text["answer"] = _text(row, "answer", empty=True)
            records.append(Record(**text, gold=_gold(row)))
        except _Bad as error:
            raise UserError(f"{path}:{line}: {error}") from None
    _check_ids(records, path)
    return records


class _Bad(Exception):
    """What is wrong with a row."""


def _file_and_shares(settings, split):
    """Return the file that holds a split, and the shares of it that go to other splits.

    Splits without a file of their own are shares of the training file, or of the only file.
    """
    own = {}
    if settings.source == "gsm8k":
        own = {name: Path(settings.path) / f"{name}.jsonl" for name in ("train", "test")}
    elif settings.source != "jsonl":
        raise unknown("data.source", settings.source, SOURCES)
    elif "{split}" in settings.path:
        own = {name: Path(settings.path.replace("{split}", name)) for name in SPLITS}
        if not own["validation"].is_file():
            del own["validation"]
    file = own.get(split) or own.get("train") or Path(settings.path)
    if split in own and split != "train":
        return file, {}
    shares = {name: settings[f"{name}_share"] for name in ("validation", "test") if name not in own}
    if sum(shares.values()) >= 1 or min(shares.values(), default=0) < 0:
        raise UserError(
            "data.validation_share and data.test_share must be 0 or more and leave something to "
            f"train on, got {settings.validation_share} and {settings.test_share}"
        )
    return file, shares


def _gsm8k_record(settings, row, file, line):
    """GSM8K (Cobbe et al. 2021): reasoning lines with <<48/2=24>> marks, then ``#### 24``."""
    question, solution = _text(row, "question"), _text(row, "answer")
    rationale, mark, answer = solution.rpartition("####")
    if not mark or not answer.strip():
        raise _Bad("field 'answer' does not end with '#### <answer>'")
    if settings.strip_calculator:
        rationale = _CALCULATOR.sub("", rationale)
    rationale = rationale.strip()
    if not rationale:
        raise _Bad("field 'answer' has no reasoning before '####'")
    # Line numbers, because questions are too long to name and the files never change.
    return Record(f"gsm8k-{file.stem}-{line}", question, rationale, answer.strip())


def _jsonl_record(settings, row, file, line):
    question = _text(row, settings.question_field)
    rationale = _text(row, settings.rationale_field)
    answer = _text(row, settings.answer_field, empty=True) if settings.answer_field else ""
    if settings.id_field in row:
        name = _text(row, settings.id_field)
    else:
        name = f"row-{_hash(question + chr(0) + rationale):016x}"
    return Record(name, question, rationale, answer)


def _read_rows(file, parse, settings):
    """Parse every row of a file; return the records and what was skipped."""
    records, skipped = [], []
    for line, row in _json_lines(file):
        try:
            if isinstance(row, _Bad):
                raise row
            records.append(parse(settings, row, file, line))
        except _Bad as error:
            if not settings.max_skipped_share:
                raise UserError(
                    f"{file}:{line}: {error}; mend the row, or set data.max_skipped_share to "
                    "leave out bad rows"
                ) from None
            skipped.append((f"{file}:{line}", str(error)))
    total = len(records) + len(skipped)
    if len(skipped) > settings.max_skipped_share * total:
        shown = "; ".join(f"{where}: {reason}" for where, reason in skipped[:3])
        raise UserError(
            f"{len(skipped)} of {total} rows of {file} cannot be used, more than "
            f"data.max_skipped_share {settings.max_skipped_share}: {shown}"
        )
    _check_ids(records, file)
    return records, skipped


def _json_lines(path):
    """Yield (line number from 1, object or _Bad) of every line that is not blank."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; set data.path to where the records are")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                yield number, _Bad(f"not JSON in UTF-8: {error}")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                yield number, _Bad(f"a JSON object is needed, got {type(row).__name__}")


def _text(row, name, empty=False):
    """Return a field as text; numbers are written out."""
    if name not in row:
        raise _Bad(f"field {name!r} is missing; the row has {', '.join(map(repr, row)) or 'none'}")
    value = row[name]
    if type(value) in (int, float):
        value = str(value)
    if not isinstance(value, str):
        raise _Bad(f"field {name!r} must be text, got {type(value).__name__}")
    if not value.strip() and not empty:
        raise _Bad(f"field {name!r} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Bad(f"field {name!r} holds half a surrogate pair, which is no text") from None
    return value


def _gold(row):
    gold = row.get("gold")
    if gold is None:
        return None
    form = isinstance(gold, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and pair[0] in (*LABELS, None)
        and isinstance(pair[1], str)
        for pair in gold
    )
    if not form:
        raise _Bad('field \'gold\' must be a list of ["ES" or "AS", text]')
    if "".join(text for _, text in gold) != row["rationale"]:
        raise _Bad("field 'gold': its texts joined are not the rationale")
    return tuple(Segment(text, label) for label, text in gold)


def _check_ids(records, path):
    seen = set()
    for record in records:
        if record.id in seen:
            raise UserError(f"{path}: two rows have the id {record.id!r}; ids must be unique")
        seen.add(record.id)


def _split_of(question, shares, rest):
    """Return the split of a question: equal questions never part."""
    place = _hash(" ".join(question.split())) / 2**64
    for name, share in shares.items():
        place -= share
        if place < 0:
            return name
    return rest


def _hash(text):
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
