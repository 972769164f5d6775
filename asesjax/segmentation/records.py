r"""Segmented JSONL: the labelled pieces of every record, on disk.

The first line is a header, each further line one record::

    {"asesjax_segments": 1, "records": 2, "provenance": {"strategy": "entropy", "beta": 1.4}}
    {"id": "train-0", "text": "Ann has 3. So 6.", "pieces": [[0, 11], [11, 16]],
     "scores": [0.5, 2.0], "labels": ["ES", "AS"], "strategy": "entropy"}
"""

import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.files import read_jsonl, write_text
from asesjax.core.types import LABELS
from asesjax.segmentation.pieces import Piece, piece_texts

VERSION = 1
_FIELDS = ("id", "text", "pieces", "scores", "labels", "strategy")


@dataclasses.dataclass(frozen=True)
class SegmentedRecord:
    """One rationale cut into labelled pieces."""

    id: str  # the record's
    text: str  # the whole chain, which the pieces' offsets count into
    # in order, not overlapping; characters between them belong to none (short=drop)
    pieces: tuple[Piece, ...]
    scores: tuple[float, ...] | None  # one finite number a piece, or None
    labels: tuple[str, ...]  # ``"ES"`` or ``"AS"``, one a piece
    strategy: str  # what labelled them

    @property
    def texts(self) -> list[str]:
        """Text of each piece."""
        return piece_texts(self.text, self.pieces)


def write_segments(
    path: str | Path, rows: Iterable[SegmentedRecord], provenance: dict[str, Any]
) -> None:
    """Write segmented JSONL atomically, with how it was made (any JSON value). Raises UserError,
    and writes nothing, if a record would not be read back.
    """
    rows = list(rows)
    header = {"asesjax_segments": VERSION, "records": len(rows), "provenance": provenance}
    lines, seen = [_dump(header)], set[str]()
    for i, row in enumerate(rows):
        value = {name: getattr(row, name) for name in _FIELDS}
        if row.scores is not None:
            value["scores"] = [float(score) for score in row.scores]
        value["pieces"] = [[int(start), int(end)] for start, end in row.pieces]
        value["labels"] = list(row.labels)
        _parse_row(value, f"{path}: record {i} is not valid, nothing written", seen)
        lines.append(_dump(value))
    write_text(path, "\n".join(lines) + "\n")


def read_segments(path: str | Path) -> tuple[dict[str, Any], list[SegmentedRecord]]:
    """Return provenance and records of segmented JSONL, bit for bit those written. Raises UserError
    with file, line (from 1) and field for anything that ``write_segments`` does not write.
    """
    header, rows, seen = None, [], set[str]()
    for number, value in read_jsonl(path):
        where = f"{path}:{number}"
        if header is None:
            header = _parse_header(value, where)
        else:
            rows.append(_parse_row(value, where, seen))
    if header is None:
        raise UserError(f"{path} is empty; a segments file begins with a header line")
    if len(rows) != header["records"]:
        raise UserError(
            f"{path}:1: field 'records': the header says {header['records']} records, the file "
            f"holds {len(rows)}; it was cut or joined, make it again"
        )
    return header["provenance"], rows


def _dump(value: dict[str, Any]) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a lone surrogate: kept as an escape
        text = json.dumps(value, allow_nan=False)
    return text


def _parse_header(value: dict[str, Any], where: str) -> dict[str, Any]:
    if "asesjax_segments" not in value:
        raise UserError(f"{where}: no field 'asesjax_segments'; this is not a segments file")
    if value["asesjax_segments"] != VERSION:
        raise UserError(
            f"{where}: field 'asesjax_segments': version {value['asesjax_segments']!r}, this "
            f"program reads version {VERSION}; make the file again with it"
        )
    records, provenance = value.get("records"), value.get("provenance")
    _expect(_whole(records), where, "records", "a whole number", records)
    _expect(isinstance(provenance, dict), where, "provenance", "an object", provenance)
    return value


def _parse_row(value: dict[str, Any], where: str, seen: set[str]) -> SegmentedRecord:
    for name in _FIELDS:
        if name not in value:
            raise UserError(f"{where}: field {name!r} is missing")
    for name in value:
        if name not in _FIELDS:
            raise UserError(f"{where}: unknown field {name!r}; valid: {', '.join(_FIELDS)}")
    for name in ("id", "text", "strategy"):
        _expect(isinstance(value[name], str), where, name, "a string", value[name])
        if name != "text" and not value[name]:
            raise UserError(f"{where}: field {name!r}: it is empty")
    if value["id"] in seen:
        raise UserError(f"{where}: field 'id': {value['id']!r} was there before; ids are unique")
    seen.add(value["id"])
    pieces = _parse_pieces(value["pieces"], len(value["text"]), where)
    n, labels, scores = len(pieces), value["labels"], value["scores"]
    form = isinstance(labels, list) and all(label in LABELS for label in labels)
    _expect(form, where, "labels", "a list of 'ES' and 'AS'", labels)
    _expect(len(labels) == n, where, "labels", f"{n} labels, one a piece", labels)
    if scores is not None:
        form = isinstance(scores, list) and all(map(_finite, scores))
        _expect(form, where, "scores", "null or a list of finite numbers", scores)
        _expect(len(scores) == n, where, "scores", f"{n} scores, one a piece", scores)
        scores = tuple(map(float, scores))
    return SegmentedRecord(
        value["id"], value["text"], pieces, scores, tuple(labels), value["strategy"]
    )


def _parse_pieces(value: Any, length: int, where: str) -> tuple[Piece, ...]:
    _expect(isinstance(value, list), where, "pieces", "a list of [start, end]", value)
    last = 0
    for pair in value:
        form = isinstance(pair, list) and len(pair) == 2 and all(map(_whole, pair))
        _expect(form, where, "pieces", "[start, end], two whole numbers", pair)
        rule = f"in order, apart and in the text: {last} <= start < end <= {length}"
        _expect(last <= pair[0] < pair[1] <= length, where, "pieces", rule, pair)
        last = pair[1]
    return tuple(Piece(start, end) for start, end in value)


def _whole(value: Any) -> bool:
    return type(value) is int and value >= 0


def _finite(value: Any) -> bool:
    # Not true of nan, the infinities, and whole numbers no float can hold.
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _expect(holds: bool, where: str, field: str, expected: str, got: Any) -> None:
    if not holds:
        raise UserError(f"{where}: field {field!r}: expected {expected}, got {str(got)[:80]!r}")
