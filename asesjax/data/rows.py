"""Rows of JSON lines, JSON arrays and CSV, plain or gzipped (by the name's ``.gz``).

A row that is none is handed on as a ``BadRow``, so that whoever reads may leave it out and count
it; a file that is none is an error.
"""

import codecs
import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError, unknown

FORMATS = ("jsonl", "json", "csv")
Row = dict[str, Any]


class BadRow(Exception):
    """What is wrong with a row."""


def format_of(path: str | Path) -> str:
    """Tell the format by a file's name: ``.csv``, ``.json``, and JSON lines for all others.

    Example:
      >>> format_of("a/b.csv.gz"), format_of("b.txt")
      ('csv', 'jsonl')
    """
    suffix = Path(str(path).removesuffix(".gz")).suffix[1:]
    return suffix if suffix in FORMATS else "jsonl"


def place(path: Path, number: int, form: str) -> str:
    """Name a row for people: ``file:line``, or ``file item n`` for a JSON array."""
    return f"{path} item {number}" if form == "json" else f"{path}:{number}"


def read_rows(path: Path, form: str) -> Iterator[tuple[int, Row | BadRow]]:
    """Yield the rows of a file.

    Args:
      path: the file, in UTF-8, with or without byte order mark.
      form: ``"jsonl"``: an object a line, blank lines are passed over; ``"json"``: one array of
        objects; ``"csv"``: a header, then rows as RFC 4180 quotes them, every value a string.

    Yields:
      The number of the row, and the row or what is wrong with it. Numbers are lines from 1 (where
      the row begins), or items of the array from 1.

    Raises:
      UserError: no such file, not gzip in spite of its name, not one JSON array, a CSV file
        without a header or with a quote that is never closed, or another format.
    """
    if form not in FORMATS:
        raise unknown("format", form, FORMATS)
    if not path.is_file():
        raise UserError(f"{path} does not exist; set data.path to where the records are")
    read = {"jsonl": _json_lines, "json": _json_array, "csv": _csv_rows}[form]
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    with opened as file:
        try:
            yield from read(path, file)
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise UserError(f"{path} is not a whole gzip file: {error}") from None


def text_field(row: Row, name: str, empty: bool = False) -> str:
    """Return a field as text; numbers are written out.

    Raises:
      BadRow: the field is missing, no text, empty (unless ``empty``), or no valid Unicode.
    """
    if name not in row:
        raise BadRow(
            f"field {name!r} is missing; the row has {', '.join(map(repr, row)) or 'none'}"
        )
    value = row[name]
    if type(value) in (int, float):
        value = str(value)
    if not isinstance(value, str):
        raise BadRow(f"field {name!r} must be text, got {type(value).__name__}")
    if not value.strip() and not empty:
        raise BadRow(f"field {name!r} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"field {name!r} holds half a surrogate pair, which is no text") from None
    return value


def stable_hash(text: str) -> int:
    """Return a number of 64 bits that is the same in every process and version."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _json_lines(path, file):
    for number, line in enumerate(file, 1):
        if not line.removeprefix(codecs.BOM_UTF8).strip():
            continue
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            yield number, BadRow(f"not JSON in UTF-8: {error}")
            continue
        yield number, _object(row)


def _json_array(path, file):
    try:
        rows = json.loads(file.read().decode("utf-8-sig"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is not JSON in UTF-8: {error}") from None
    if not isinstance(rows, list):
        raise UserError(f"{path} must hold one JSON array, got {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        yield number, _object(row)


def _object(row):
    if isinstance(row, dict):
        return row
    return BadRow(f"a JSON object is needed, got {type(row).__name__}")


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
            if values and len(values) != len(header):
                bad = BadRow(f"a row of {len(header)} columns is needed, got {len(values)}")
                rows.append((number, bad))
            elif values:  # else a blank line
                rows.append((number, dict(zip(header, values, strict=True))))
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not CSV: {error}") from None
    finally:
        csv.field_size_limit(limit)
    yield from rows
