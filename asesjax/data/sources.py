"""Records of a split from the configured source, and the files that a run keeps them in. Hashes
decide splits and limits, so neither the order of a file nor that of Python's sets matters.
"""

import collections
import dataclasses
import importlib
import os
import pkgutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from asesjax.core.buckets import is_address, local
from asesjax.core.errors import UserError, counted, unknown
from asesjax.core.files import read_jsonl, write_jsonl
from asesjax.core.signals import check_stop
from asesjax.core.types import FILLER, LABELS, Record, Segment
from asesjax.data import generators, readers
from asesjax.data.examples import without_answer_sentence
from asesjax.data.registry import SOURCES, SPLITS, Reader
from asesjax.data.rows import (
    BadRow,
    Missing,
    Row,
    are_pairs,
    place,
    stable_hash,
    step_pairs,
    text_field,
)

Skipped = list[tuple[str, str]]
IsRight = Callable[[str, str], bool]
REPEATED = "repeats question, rationale and answer of another row (data.duplicates)"
WRONG_CHAIN = "the chain does not end in the right answer (data.only_right_chains)"

for _folder in (generators, readers):
    for _module in pkgutil.iter_modules(_folder.__path__, _folder.__name__ + "."):
        importlib.import_module(_module.name)


def load_records(
    settings: Any, split: str, seed: int, is_right: IsRight | None = None, rationales: bool = True
) -> tuple[list[Record], Skipped]:
    """Load one split of the configured source: at most ``n_<split>`` records, in a random order
    that ``seed`` fixes, and ``("file:line", reason)`` for every row or chain that was left out.

    ``seed`` also draws generated data and what a limit keeps; it never moves a row to another
    split. ``is_right(chain, right answer)`` is needed with ``only_right_chains``, which leaves out
    the other chains (not in the test split). Without ``rationales`` a row, or a test file, needs
    none. Raises UserError for a missing file, bad rows (beyond ``max_skipped_share``; a second row
    of an id is one), no rows, or what a generator cannot meet.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    limit = getattr(settings, f"n_{split}")
    source = SOURCES.get(settings.source)
    if not isinstance(source, Reader):
        if settings.path and source.__module__.startswith(generators.__name__):
            raise UserError(
                f"data.path is {settings.path}, and data.source={settings.source} generates its "
                "records; set data.source=file, or that of a named data set, or leave data.path "
                "empty"
            )
        return source(settings, split, limit, seed), []
    if settings.only_right_chains and is_right is None:
        raise ValueError("data.only_right_chains needs is_right")
    if is_address(settings.path):
        settings = dataclasses.replace(settings, path=str(local(settings.path)))
    files = source.files(settings)
    part = next((name for name in (split, "train") if name in files), "")
    own_file = split == part != "train"
    shares = {} if own_file else _shares(settings, files)
    rationales = rationales and not (own_file and split == "test")
    rows, skipped = _read_rows(source, files[part], part, settings, rationales)
    n_rows, rest = len(rows), split if own_file else "train"
    rows = [row for row in rows if _split_of(row[1], settings.split_by, shares, rest) == split]
    if not rows:
        raise UserError(
            f"{files[part]} has no {split} records among its {counted(n_rows, 'good row')}; "
            + (f"raise data.{split}_share" if split in shares else "name another file: data.path")
        )
    records = [record for _, record, _ in rows]
    if settings.only_right_chains and split != "test":
        assert is_right is not None  # asked for above
        right = {where: _right_chains(record, chain, is_right) for where, record, chain in rows}
        skipped += [(where, WRONG_CHAIN) for where, record in right.items() if record is None]
        records = [record for record in right.values() if record is not None]
        if not records:
            raise UserError(
                f"no {split} record of {files[part]} has a chain that ends in its answer; check "
                "evaluate.metric, or set data.only_right_chains=false"
            )
    records.sort(key=lambda record: stable_hash(f"{seed}/{record.id}"))
    records = [unclosed(record, settings.answer_template) for record in records]
    return records[: limit or None], skipped


def write_records(path: str | Path, records: Iterable[Record]) -> None:
    """Write records as JSON lines, the whole file or nothing; gold segments and steps included."""
    rows = []
    for record in records:
        check_stop()
        row = dataclasses.asdict(record)
        row["rationales"] = row.pop("others")
        for name in ("gold", "steps", "rationales"):
            if not row[name]:
                del row[name]
        if record.gold is not None:
            row["gold"] = [[segment.label, segment.text] for segment in record.gold]
        rows.append(row)
    write_jsonl(path, rows)


def read_records(path: str | Path) -> list[Record]:
    """Read what ``write_records`` wrote; UserErrors name line and field."""
    records = []
    for line, row in read_jsonl(path):
        try:
            text = {name: text_field(row, name) for name in ("id", "question")}
            text |= {name: text_field(row, name, empty=True) for name in ("rationale", "answer")}
            steps, others = step_pairs(row.get("steps")), row.get("rationales", [])
            if not isinstance(others, list) or not all(isinstance(x, str) for x in others):
                raise BadRow("field 'rationales' must be a list of texts")
            records.append(Record(**text, gold=_gold(row), steps=steps, others=tuple(others)))
        except BadRow as error:
            raise UserError(f"{path}:{line}: {error}") from None
    _check_ids(records, path)
    return records


def _right_chains(record: Record, chain: str, is_right: IsRight) -> Record | None:
    """Leave out the wrong chains of a record; the first right one becomes its rationale."""
    others = tuple(text for text in record.others if is_right(text, record.answer))
    if is_right(chain, record.answer):
        return dataclasses.replace(record, others=others)
    if not others:
        return None
    # Gold segments and steps belong to the rationale that is left out.
    return dataclasses.replace(
        record, rationale=others[0], others=others[1:], gold=None, steps=None
    )


def unclosed(record: Record, template: str) -> Record:
    """Leave the answer sentence out of rationales that have it: all chains get it at their end."""
    if record.gold:
        return record
    texts = [without_answer_sentence(text, record, template)
             for text in (record.rationale, *record.others)]  # fmt: skip
    return dataclasses.replace(record, rationale=texts[0], others=tuple(texts[1:]))


def _shares(settings, files: dict[str, Path]) -> dict[str, float]:
    """Return the shares of the training file, or of the only file, that go to other splits."""
    shares = {split: getattr(settings, f"{split}_share")
              for split in SPLITS[1:] if split not in files}  # fmt: skip
    if sum(shares.values()) >= 1:
        raise UserError(
            "data.validation_share and data.test_share must leave something to train on, got "
            f"{settings.validation_share} and {settings.test_share}"
        )
    return shares


def _read_rows(
    reader: Reader, file: Path, split: str, settings, rationales: bool
) -> tuple[list[tuple[str, Record, str]], Skipped]:
    """Parse every row of a file: place, record and closed chain, and what was skipped."""
    seen: dict[Any, Any] = {}
    good, skipped, repeated, texts = [], [], [], set()
    for number, row in reader.rows(settings, file, split):
        check_stop()
        where = place(file, number)
        try:
            if isinstance(row, BadRow):
                raise row
            record, chain = reader.parse(settings, row, file, number)
            if rationales and not record.rationale:
                _need_rationale(row, settings.rationale_field)
            own = record.question, record.rationale, record.answer
            if settings.duplicates == "drop" and own in texts:
                repeated.append((where, REPEATED))
                continue
            texts.add(own)
            first, other = seen.setdefault(record.id, (where, record))
            if other is not record:
                raise BadRow(_repeats(record, other, first, settings))
            good.append((where, record, chain))
        except BadRow as error:
            if not settings.max_skipped_share:
                others = ("name the fields by data.question_field, data.rationale_field and "
                          "data.answer_field, " if isinstance(error, Missing) else "")  # fmt: skip
                raise UserError(
                    f"{where}: {error}; {others}fix the row, or set data.max_skipped_share to "
                    "leave out bad rows"
                ) from None
            skipped.append((where, str(error)))
    total = len(good) + len(skipped)
    if len(skipped) > settings.max_skipped_share * total:
        shown = "; ".join(f"{where}: {reason}" for where, reason in skipped[:3])
        raise UserError(
            f"{len(skipped)} of {total} rows of {file} cannot be used, more than "
            f"data.max_skipped_share {settings.max_skipped_share}: {shown}"
        )
    return good, skipped + repeated


def _need_rationale(row: Row, field: str) -> None:
    """Say what a row has in the place of its rationale."""
    try:
        text_field(row, field)
    except BadRow as error:
        raise BadRow(f"{error} (data.rationale_field); methods that learn from rationales cannot "
                     "do without, methods=answer_only can") from None  # fmt: skip


def _repeats(record: Record, other: Record, first: str, settings) -> str:
    if (record.question, record.rationale) != (other.question, other.rationale):
        return f"has the id {record.id!r} of {first}; ids must be unique (data.id_field)"
    what = "question and rationale" if record.rationale else "question"
    if record.answer != other.answer:
        return (f"has the {what} of {first} and another answer, {record.answer!r} instead of "
                f"{other.answer!r}")  # fmt: skip
    return f"has the {what} of {first}; data.duplicates=drop keeps the first of such rows"


def _gold(row: Row) -> tuple[Segment, ...] | None:
    gold = row.get("gold")
    if gold is None:
        return None
    if not are_pairs(gold, (*LABELS, FILLER, None)):
        raise BadRow('field \'gold\' must be a list of ["ES", "AS" or "FILLER", text]')
    if "".join(text for _, text in gold) != row["rationale"]:
        raise BadRow("field 'gold': its texts joined are not the rationale")
    return tuple(Segment(text, label) for label, text in gold)


def _check_ids(records: list[Record], path: str | os.PathLike) -> None:
    for name, n in collections.Counter(record.id for record in records).items():
        if n > 1:
            raise UserError(f"{path}: two rows have the id {name!r}; ids must be unique")


def _split_of(record: Record, split_by: str, shares: dict[str, float], rest: str) -> str:
    """Return the split of a record: records of equal ids, or equal questions, stay together."""
    key = record.id if split_by == "id" else " ".join(record.question.split())
    position = stable_hash(key) / 2**64
    for name, share in shares.items():
        position -= share
        if position < 0:
            return name
    return rest
