"""Rows of JSON lines, JSON documents and CSV, plain or gzipped (by the name's ``.gz``), Parquet and
Arrow. A row that cannot be read is yielded as a ``BadRow``, for the caller to count; a file that
cannot is an error.
"""

import codecs
import csv
import datetime
import gzip
import hashlib
import io
import itertools
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import numpy as np

from asesjax.core.errors import UserError, unknown
from asesjax.core.files import BadJson, load_json

FORMATS = ("jsonl", "json", "csv")
TABLES = ("parquet", "arrow")
Row = dict[str, Any]
Bytes = IO[bytes] | gzip.GzipFile
# Vocabularies read these as marks of their own.
_MARK = re.compile(r"<extra_id_\d+>")


class BadRow(Exception):
    """What is wrong with a row, or with the value of a field that perhaps nobody reads."""


class Missing(BadRow):
    """That a row lacks a field, or has null there."""


class Item(int):
    """The number of a row that is an item of a JSON document, not a line."""


def format_of(path: str | Path, other: str = "jsonl") -> str:
    """Tell the format by a file's name (``.csv``, ``.parquet``), ``other`` for all other names."""
    suffix = Path(str(path).removesuffix(".gz")).suffix[1:].lower()
    return suffix if suffix in (*FORMATS, *TABLES) else other


def place(path: Path, number: int | str) -> str:
    """Name a row in messages: ``file:line``, or ``file item n`` in a JSON document. A row of one of
    several files has such a name in the place of its number.
    """
    if isinstance(number, str):
        return number
    return f"{path} item {number}" if isinstance(number, Item) else f"{path}:{number}"


def read_rows(
    path: Path, form: str = "", file: Bytes | None = None
) -> Iterator[tuple[int, Row | BadRow]]:
    """Yield the number of each row, from 1 (its first line, or an ``Item``), and the row or a
    ``BadRow``. The file's name tells the form where that is empty; ``file`` is what is read, where
    it is open already.

    Form ``"jsonl"`` has an object a line, blank lines are left out; ``"json"`` one document: an
    array of objects, an object that holds one such array, objects by any key, or columns. Which of
    the two a file is is told by its content. ``"csv"`` has a header, then rows as RFC 4180 quotes
    them, every value a string. Files are UTF-8, with or without byte order mark. ``"parquet"`` and
    ``"arrow"`` are read by pyarrow, as JSON's types: classes of the library ``datasets`` by their
    names, dates as ISO writes them. Raises UserError for files that cannot be read.
    """
    form = form or format_of(path)
    if form not in (*FORMATS, *TABLES):
        raise unknown("format", form, (*FORMATS, *TABLES))
    with file or open_rows(path) as file:
        try:
            if form in TABLES:
                rows = _table_rows(path, file, form)
            else:
                rows = _csv_rows(path, file) if form == "csv" else _json_rows(path, file, form)
            for number, row in rows:
                if not isinstance(row, dict | BadRow):
                    row = BadRow(f"a JSON object is needed, got {type(row).__name__}")
                yield number, row
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise UserError(f"{path} is not a whole gzip file: {error}") from None


def open_rows(path: Path) -> Bytes:
    """Open a file of records for reading bytes. Raises UserError where it is missing or no file."""
    if not path.is_file():
        said = "data.path is empty" if path == Path() else f"{path} does not exist"
        if path.exists() and path != Path():
            said = f"{path} is no plain file, and records are read several times"
        raise UserError(f"{said}; set data.path to where the records are")
    try:
        return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def read_document(path: Path) -> Any:
    """Read a file of one JSON value. Raises UserError."""
    with open_rows(path) as file:
        try:
            return _loads(file.read())
        except BadRow as error:
            raise UserError(f"{path} is {error}") from None


def field_of(row: Row, name: str) -> Any:
    """Return the value of a field, the only one of a list of one; a name with dots is a way into
    nested objects and lists (``question.stem``, ``answers.0``). BadRow where it is missing.
    """
    if name in row:
        value = row[name]
    else:
        value, parts = row, name.split(".")
        for part in parts:
            if isinstance(value, list) and part.isascii() and part.isdigit():
                value = dict(zip(map(str, range(len(value))), value, strict=True))
            if not isinstance(value, dict) or part not in value:
                there = ", ".join(map(repr, row)) or "none"
                raise Missing(f"field {name!r} is missing; the row has {there}")
            value = value[part]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, BadRow):
        raise BadRow(f"field {name!r}: {value}")
    return value


def text_field(row: Row, name: str, empty: bool = False) -> str:
    """Return a field as text, numbers written out; BadRow where it is missing, empty or no text."""
    value = field_of(row, name)
    if type(value) in (int, float):
        value = _number_text(value, name)
    if not isinstance(value, str):
        said = {type(None): "null", dict: "an object", list: "a list"}.get(type(value))
        hint = ""
        if isinstance(value, dict):
            hint = f"; name one of its fields, such as {name}.{next(iter(value), 'text')}"
        elif isinstance(value, list):
            said = f"a list of {len(value)}"
            hint = f"; join them, or name one, such as {name}.0" if value else ""
        kind = Missing if value is None else BadRow
        raise kind(f"field {name!r} must be text, got {said or type(value).__name__}{hint}")
    if not value.strip() and not empty:
        raise BadRow(f"field {name!r} is empty")
    return checked_text(value, f"field {name!r}")


def optional_text(row: Row, name: str) -> str:
    """Return a field as text, empty where it is missing, null or blank."""
    try:
        text = text_field(row, name, empty=True)
    except Missing:
        return ""
    return text if text.strip() else ""


def labelled_options(row: Row, name: str) -> list[tuple[str, str]]:
    """Return label and text of the options to choose from: a list of texts or of objects, lists of
    labels and of texts, or an object of texts by their labels. BadRow for anything else.
    """
    value = field_of(row, name)
    try:
        value = _loads(value.encode()) if isinstance(value, str) else value  # of a CSV file
        if isinstance(value, dict):
            labels = value.get("label", value.get("labels"))
            texts = value.get("text", value.get("texts", value.get("choices")))
            if isinstance(labels, list) and isinstance(texts, list):
                value = dict(zip(labels, texts, strict=True))
            pairs = list(value.items())
        elif all(isinstance(one, dict) for one in value):
            pairs = [(one.get("label", one.get("key", _letter(i))), one["text"])
                     for i, one in enumerate(value)]  # fmt: skip
        else:
            pairs = [(_letter(i), one) for i, one in enumerate(value)]
        found = [(str(label), answer_text({name: text}, name).strip()) for label, text in pairs]
    except (AttributeError, KeyError, TypeError, ValueError, BadRow):
        found = []
    if not found or not all(text for _, text in found):
        raise BadRow(f"field {name!r} must be a list of options, or an object of them by their "
                     "labels")  # fmt: skip
    # "A) 21" has its label already.
    own = [re.match(rf"\(?{re.escape(label)}[).:]\s*(?=\S)", text) for label, text in found]
    return [(label, text[at.end():] if at and all(own) else text)
            for (label, text), at in zip(found, own, strict=True)]  # fmt: skip


def _letter(place: int) -> str:
    return chr(ord("A") + place)


def answer_text(row: Row, name: str) -> str:
    """Return an answer as text, which may be empty; true and false are yes and no."""
    value = field_of(row, name)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return text_field(row, name, empty=True)


def checked_text(value: str, what: str) -> str:
    """Return a text; BadRow, which calls it ``what``, where it is another once it is in ids."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f"{what} holds half a surrogate pair, which is no text") from None
    if found := _MARK.search(value):
        raise BadRow(
            f"{what} holds {found[0]}, which models take for a mark and not for text; write it "
            "otherwise"
        )
    return value


def _number_text(value: int | float, name: str) -> str:
    """Write a number out, without an exponent."""
    if isinstance(value, float) and not math.isfinite(value):
        raise BadRow(f"field {name!r} is {value}, which is no number")
    return format(Decimal(str(value)), "f").removesuffix(".0")


def text_list(row: Row, name: str) -> list[str]:
    """Return the texts of a list without blank ones and runs of white space; BadRow for none."""
    values = row.get(name)
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise BadRow(f"field {name!r} must be a list of texts")
    what = f"field {name!r}"
    values = [" ".join(checked_text(v, what).split()) for v in values if v.strip()]
    if not values:
        raise BadRow(f"field {name!r} is empty")
    return values


def step_pairs(value: Any) -> tuple[tuple[str, str], ...] | None:
    """Return the pairs (subquestion, step) of a field that may be None. Raises BadRow."""
    if value is not None and not are_pairs(value):
        raise BadRow("steps must be a list of [subquestion, text]")
    for text in itertools.chain(*value or ()):
        checked_text(text, "field 'steps'")
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


def _json_rows(path: Path, file: Bytes, form: str) -> Iterator[tuple[int, Any]]:
    """Yield the items of a document, or the lines: what the file is, whatever its name says."""
    lines = enumerate(file, 1)
    solid = ((n, line) for n, line in lines if line.removeprefix(codecs.BOM_UTF8).strip())
    start = list(itertools.islice(solid, 2))
    first = start[0][1].removeprefix(codecs.BOM_UTF8).strip() if start else b""
    if form == "json" or first[:1] == b"[" or first == b"{" or len(start) == 1:
        rest = list(solid)
        try:
            document = _loads(b"".join(line for _, line in (*start, *rest)))
        except BadRow as error:
            if form == "json" and not _is_row(first):
                raise UserError(f"{path} is {error}") from None
        else:
            items = _items(document, form)
            if items is not None:
                return ((Item(n), item) for n, item in enumerate(items, 1))
            if form == "json":
                raise UserError(f"{path} must hold one JSON array, got {_described(document)}")
        solid = iter(rest)
    return json_lines(itertools.chain(start, solid))


def json_lines(lines: Iterable[tuple[int, bytes]]) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each line, a ``BadRow`` where it is no JSON in UTF-8."""
    for number, line in lines:
        try:
            yield number, _loads(line)
        except BadRow as error:
            yield number, error


def _loads(content: bytes) -> Any:
    """Read JSON; an object with a name twice, and NaN or infinity, become a ``BadRow`` inside."""
    try:
        return load_json(content, object_pairs_hook=_object,
                         parse_constant=lambda name: BadRow(f"{name} is no number"))  # fmt: skip
    except BadJson as error:
        raise BadRow(str(error)) from None


def _object(pairs: list[tuple[str, Any]]) -> Row | BadRow:
    row = dict(pairs)
    if len(row) == len(pairs):
        return row
    names = [name for name, _ in pairs]
    twice = next(name for name in names if names.count(name) > 1)
    return BadRow(f"field {twice!r} stands twice in one object")


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(_loads(line), dict | BadRow)
    except BadRow:
        return False


def _items(document: Any, form: str) -> list | None:
    """Return the rows of a document, None where it is of no known form."""
    if isinstance(document, list):
        return document
    if not isinstance(document, dict) or not document:
        return None
    values = list(document.values())
    lists = [value for value in values if isinstance(value, list)]
    rows = [value for value in lists if value and all(isinstance(x, dict | BadRow) for x in value)]
    if len(rows) == 1 and (form == "json" or len(values) == 1):
        return rows[0]
    if form != "json":  # a file of one line is one row
        return None
    if len(lists) == len(values) and len({len(value) for value in lists}) == 1:
        return [dict(zip(document, row, strict=True)) for row in zip(*lists, strict=True)]
    if not all(isinstance(value, dict | BadRow) for value in values):
        return None
    keys = [tuple(value) if isinstance(value, dict) else () for value in values]
    if keys[0] and len(set(keys)) == 1 and all(key.isdigit() for key in keys[0]):
        return [{name: value[key] for name, value in document.items()} for key in keys[0]]
    return values


def _described(document: Any) -> str:
    if isinstance(document, BadRow):
        return f"an object in which {document}"
    names = f" with {', '.join(map(repr, [*document][:5]))}" if isinstance(document, dict) else ""
    return f"{type(document).__name__}{names}"


def _csv_rows(path, file):
    try:
        text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{line}: not UTF-8 text; {_as_utf8(error.object)}") from None
    rows = []
    limit = csv.field_size_limit(max(len(text), 1 << 17))
    try:
        # newline="": line ends inside quotes stay as they are.
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header, number = next(reader, None), reader.line_num + 1
        if not header:
            raise UserError(f"{path} must begin with a line of column names")
        if twice := [name for name in header if header.count(name) > 1]:
            raise UserError(f"{path}: column {twice[0]!r} stands twice; rename or remove one")
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


def _as_utf8(content: bytes) -> str:
    wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    of = "UTF-16" if wide else "GB18030, if it comes from Chinese Excel"
    return f"save it as 'CSV UTF-8', or convert it: iconv -f ENCODING -t UTF-8 (ENCODING: {of})"


def _table_rows(path: Path, file: Bytes, form: str) -> Iterator[tuple[int, Row]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"reading {path} needs the package pyarrow: pip install 'asesjax[parquet]'"
        ) from None
    number, names = 0, None
    try:
        for batch in _batches(pyarrow, file, form):
            names = _class_names(batch.schema) if names is None else names
            for row in batch.to_pylist():
                number += 1
                yield number, {name: _named(json_value(value), names.get(name, []))
                               for name, value in row.items()}  # fmt: skip
    except (pyarrow.ArrowException, OSError) as error:
        why = str(error).strip().splitlines()[0]
        raise UserError(f"{path} is no whole {form.capitalize()} file: {why}") from None


def _batches(pyarrow: Any, file: Bytes, form: str) -> Iterator[Any]:
    if form == "parquet":
        yield from pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1024)
        return
    magic = file.read(6)
    file.seek(0)
    if magic == b"ARROW1":
        reader = pyarrow.ipc.open_file(file)
        yield from map(reader.get_batch, range(reader.num_record_batches))
    else:  # what datasets writes
        yield from pyarrow.ipc.open_stream(file)


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Return the names of the classes of each column that datasets says has such."""
    notes = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    features = notes.get("info", {}).get("features", {})
    return {name: feature["names"] for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"}  # fmt: skip


def _named(value: Any, names: list[str]) -> Any:
    return names[value] if type(value) is int and 0 <= value < len(names) else value


def json_value(value: Any) -> Any:
    """Write a value of a table or of numpy in JSON's types; a ``BadRow`` where it has none."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, dict):
        return {name: json_value(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(own) for own in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    try:
        return value.decode()
    except (AttributeError, UnicodeDecodeError):
        return BadRow(f"{type(value).__name__} is no text")
