"""Where records come from: the generators, and files that ``readers.py`` can read.

Bad rows are errors that name file, line and field. Which split a row goes to, and which rows a
limit keeps, is decided by hashes, so it does not depend on the order of a file or of Python's sets.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError, unknown
from asesjax.core.files import read_jsonl, write_jsonl
from asesjax.core.types import FILLER, LABELS, Record, Segment
from asesjax.data.letters import make_letters
from asesjax.data.readers import SPLITS, Reader, get_reader, read_steps
from asesjax.data.reports import make_reports
from asesjax.data.rows import BadRow, Row, place, read_rows, stable_hash, text_field
from asesjax.data.synthetic import make_math

Skipped = list[tuple[str, str]]
GENERATORS: dict[str, Callable[[Any, str, int, int], list[Record]]] = {
    "synthetic_math": make_math,
    "synthetic_reports": make_reports,
    "synthetic_letters": make_letters,
}
WRONG_CHAIN = "the chain does not end in the right answer (data.only_right_chains)"


def load_records(
    settings: Any,
    split: str,
    seed: int,
    is_right: Callable[[str, str], bool] | None = None,
) -> tuple[list[Record], Skipped]:
    """Load one split of the configured source.

    GSM8K's line breaks between steps stay in the rationale: 44 % of its lines end without
    punctuation, so segmentation needs them, and to SentencePiece a line break is a space.

    Args:
      settings: section ``data`` of the config.
      split: "train", "validation" or "test".
      seed: of generated data, and of the choice where a limit keeps some rows; never moves a row
        to another split.
      is_right: (chain, right answer) -> whether the chain ends in it; needed with
        ``settings.only_right_chains``, which leaves out the others (not in the test split).

    Returns:
      ``records``, and for every row of the file that could not be used ``("file:line", reason)``,
      whatever split it would have been in, and for every chain of this split that was left out.
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
    if settings.source in GENERATORS:
        return GENERATORS[settings.source](settings, split, limit, seed), []
    if settings.only_right_chains and is_right is None:
        raise ValueError("data.only_right_chains needs is_right")
    reader = get_reader(settings.source)
    files = reader.files(settings)
    part = split if split in files else "train" if "train" in files else ""
    shares = {} if split == part != "train" else _shares(settings, files)
    rest = "train" if shares else split
    rows, skipped = _read_rows(reader, files[part], part, settings)
    n_rows = len(rows)
    key = {"question": _asked, "id": lambda record: record.id}[settings.split_by]
    rows = [row for row in rows if _split_of(key(row[1]), shares, rest) == split]
    if not rows:
        raise UserError(
            f"{files[part]} has no {split} records among its {n_rows} good rows; "
            + (f"raise data.{split}_share" if split in shares else "name another file: data.path")
        )
    if settings.only_right_chains and split != "test":
        kept = [right for row in rows if (right := _right_chains(row, is_right)) is not None]
        right = {record.id for _, record, _ in kept}
        skipped += [(where, WRONG_CHAIN) for where, record, _ in rows if record.id not in right]
        rows = kept
        if not rows:
            raise UserError(
                f"no {split} record of {files[part]} has a chain that ends in its answer; check "
                "evaluate.metric, or set data.only_right_chains=false"
            )
    records = [record for _, record, _ in rows]
    records.sort(key=lambda record: stable_hash(f"{seed}/{record.id}"))
    return records[: limit or None], skipped


def write_records(path: str | os.PathLike, records: Iterable[Record]) -> None:
    """Write records as JSON lines, the whole file or nothing; gold segments and steps included."""
    rows = []
    for record in records:
        row = dataclasses.asdict(record)
        row["rationales"] = row.pop("others")
        for name in ("gold", "steps", "rationales"):
            if not row[name]:
                del row[name]
        if record.gold is not None:
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
            text = {name: text_field(row, name) for name in ("id", "question", "rationale")}
            text["answer"] = text_field(row, "answer", empty=True)
            steps = None if row.get("steps") is None else read_steps(row["steps"])
            others = tuple(_others(row))
            records.append(Record(**text, gold=_gold(row), steps=steps, others=others))
        except BadRow as error:
            raise UserError(f"{path}:{line}: {error}") from None
    _check_ids(records, path)
    return records


def _right_chains(row: tuple[str, Record, str], is_right) -> tuple[str, Record, str] | None:
    """Leave out the chains of a record that are wrong; the first right one becomes its own."""
    where, record, closed = row
    others = [text for text in record.others if is_right(text, record.answer)]
    if is_right(closed, record.answer):
        return where, dataclasses.replace(record, others=tuple(others)), closed
    if not others:
        return None
    first, *others = others
    # Gold segments and steps are of the rationale that is left out.
    record = dataclasses.replace(
        record, rationale=first, others=tuple(others), gold=None, steps=None
    )
    return where, record, first


def _shares(settings, files: dict[str, Path]) -> dict[str, float]:
    """Return the shares of the training file, or of the only file, that go to other splits."""
    shares = {
        name: settings[f"{name}_share"] for name in ("validation", "test") if name not in files
    }
    if sum(shares.values()) >= 1 or min(shares.values(), default=0) < 0:
        raise UserError(
            "data.validation_share and data.test_share must be 0 or more and leave something to "
            f"train on, got {settings.validation_share} and {settings.test_share}"
        )
    return shares


def _read_rows(
    reader: Reader, file: Path, split: str, settings
) -> tuple[list[tuple[str, Record, str]], Skipped]:
    """Parse every row of a file: place, record and closed chain, and what was skipped."""
    good, skipped = [], []
    found = reader.rows(file, split) if reader.rows else read_rows(file, reader.form)
    for number, row in found:
        where = place(file, number, reader.form)
        try:
            if isinstance(row, BadRow):
                raise row
            good.append((where, *reader.parse(settings, row, file, number)))
        except BadRow as error:
            if not settings.max_skipped_share:
                raise UserError(
                    f"{where}: {error}; mend the row, or set data.max_skipped_share to "
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
    _check_ids([record for _, record, _ in good], file)
    return good, skipped


def _others(row: Row) -> list[str]:
    others = row.get("rationales", [])
    if not isinstance(others, list) or not all(isinstance(text, str) for text in others):
        raise BadRow("field 'rationales' must be a list of texts")
    return others


def _gold(row: Row):
    gold = row.get("gold")
    if gold is None:
        return None
    form = isinstance(gold, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and pair[0] in (*LABELS, FILLER, None)
        and isinstance(pair[1], str)
        for pair in gold
    )
    if not form:
        raise BadRow('field \'gold\' must be a list of ["ES", "AS" or "FILLER", text]')
    if "".join(text for _, text in gold) != row["rationale"]:
        raise BadRow("field 'gold': its texts joined are not the rationale")
    return tuple(Segment(text, label) for label, text in gold)


def _check_ids(records, path):
    seen = set()
    for record in records:
        if record.id in seen:
            raise UserError(f"{path}: two rows have the id {record.id!r}; ids must be unique")
        seen.add(record.id)


def _asked(record: Record) -> str:
    return " ".join(record.question.split())


def _split_of(key: str, shares: dict[str, float], rest: str) -> str:
    """Return the split of a key: equal keys never part."""
    position = stable_hash(key) / 2**64
    for name, share in shares.items():
        position -= share
        if position < 0:
            return name
    return rest
