"""Rows of JSON lines, JSON arrays and CSV, plain or gzipped (by the name's ``.gz``). A row that
cannot be read is yielded as a ``BadRow``, for the caller to count; a file that cannot is an error.
"""

import codecs
import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError, unknown

FORMATS = ("jsonl", "json", "csv")
Row = dict[str, Any]


class BadRow(Exception):
    """What is wrong with a row."""


def format_of(path: str | Path) -> str:
    """Tell the format by a file's name: ``.csv``, ``.json``, and JSON lines for all others."""
    suffix = Path(str(path).removesuffix(".gz")).suffix[1:]
    return suffix if suffix in FORMATS else "jsonl"


def place(path: Path, number: int, form: str) -> str:
    """Name a row in messages: ``file:line``, or ``file item n`` for a JSON array."""
    return f"{path} item {number}" if form == "json" else f"{path}:{number}"


def read_rows(path: Path, form: str) -> Iterator[tuple[int, Row | BadRow]]:
    """Yield the number of each row, from 1 (its first line, or item), and the row or a ``BadRow``.

    Form ``"jsonl"`` has an object a line, blank lines are left out; ``"json"`` one array of
    objects; ``"csv"`` a header, then rows as RFC 4180 quotes them, every value a string. Files are
    UTF-8, with or without byte order mark. Raises UserError for files that cannot be read.
    """
    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    if not path.is_file():
        said = "data.path is empty" if path == Path() else f"{path} does not exist"
        raise UserError(f"{said}; set data.path to where the records are")
    read = {"jsonl": _json_lines, "json": _json_array, "csv": _csv_rows}[form]
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        try:
            for number, row in read(path, file):
                if not isinstance(row, dict | BadRow):
                    row = BadRow(f"a JSON object is needed, got {type(row).__name__}")
                yield number, row
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise UserError(f"{path} is not a whole gzip file: {error}") from None


def text_field(row: Row, name: str, empty: bool = False) -> str:
    """Return a field as text, numbers written out; BadRow where it is missing, empty or no text."""
    if name not in row:
        there = ", ".join(map(repr, row)) or "none"
        raise BadRow(f"field {name!r} is missing; the row has {there}")
    value = str(row[name]) if type(row[name]) in (int, float) else row[name]
    if not isinstance(value, str):
        raise BadRow(f"field {name!r} must be text, got {type(value).__name__}")
    if not value.strip() and not empty:
        raise BadRow(f"field {name!r} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"field {name!r} holds half a surrogate pair, which is no text") from None
    return value


def text_list(row: Row, name: str) -> list[str]:
    """Return the texts of a list without blank ones and runs of white space; BadRow for none."""
    values = row.get(name)
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise BadRow(f"field {name!r} must be a list of texts")
    values = [" ".join(value.split()) for value in values if value.strip()]
    if not values:
        raise BadRow(f"field {name!r} is empty")
    return values


def step_pairs(value: Any) -> tuple[tuple[str, str], ...] | None:
    """Return the pairs (subquestion, step) of a field that may be None. Raises BadRow."""
    if value is not None and not are_pairs(value):
        raise BadRow("steps must be a list of [subquestion, text]")
    return None if value is None else tuple(map(tuple, value))


def are_pairs(value: Any, firsts: Sequence | None = None) -> bool:
    """Tell whether a value is a list of pairs of texts, their first parts among ``firsts``."""
    return isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], str)
        and (isinstance(pair[0], str) if firsts is None else pair[0] in firsts)
        for pair in value
    )  # fmt: skip


def stable_hash(text: str) -> int:
    """Return a number of 64 bits that is the same in every process and version."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _json_lines(path, file):
    for number, line in enumerate(file, 1):
        if line.removeprefix(codecs.BOM_UTF8).strip():
            try:
                yield number, json.loads(line.decode("utf-8-sig"))
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                yield number, BadRow(f"not JSON in UTF-8: {error}")


def _json_array(path, file):
    try:
        rows = json.loads(file.read().decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not JSON in UTF-8: {error}") from None
    if not isinstance(rows, list):
        raise UserError(f"{path} must hold one JSON array, got {type(rows).__name__}")
    return enumerate(rows, 1)


def _csv_rows(path, file):
    try:
        text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None
    rows = []
    limit = csv.field_size_limit(max(len(text), 1 << 17))
    try:
        # newline="": line ends inside quotes stay as they are.
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header, number = next(reader, None), reader.line_num + 1
        if not header:
            raise UserError(f"{path} must begin with a line of column names")
        for values in reader:
            row: Row | BadRow = dict(zip(header, values, strict=False))
            if len(values) != len(header):
                row = BadRow(f"a row of {len(header)} columns is needed, got {len(values)}")
            if values:  # else a blank line
                rows.append((number, row))
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)
    return rows
