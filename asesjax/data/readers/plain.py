"""Files and folders with field names of the user's (``data.*_field``): JSON lines, JSON documents,
CSV, Parquet and Arrow.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

from asesjax.core.errors import UserError
from asesjax.core.types import Record
from asesjax.data.folders import folder_files
from asesjax.data.registry import SPLITS, file_source
from asesjax.data.rows import (
    FORMATS,
    TABLES,
    BadRow,
    Row,
    answer_text,
    field_of,
    labelled_options,
    optional_text,
    place,
    read_rows,
    stable_hash,
    step_pairs,
    text_field,
    text_list,
)

# What people call the fields; taken where a row has no field of the name, and one of these.
USUAL = {
    "question": ("problem", "prompt", "问题", "题目"),
    "rationale": ("reasoning", "explanation", "solution", "chain_of_thought", "推理", "推理过程",
                  "解析", "解题过程"),
    "answer": ("final_answer", "label", "答案"),
}  # fmt: skip


def _files(settings) -> dict[str, Path]:
    path = Path(settings.path)
    if "{split}" in settings.path:
        files = {name: Path(settings.path.replace("{split}", name)) for name in SPLITS}
        if not files["validation"].is_file():
            del files["validation"]
        return files
    if settings.path and path.is_dir():
        return named_splits(settings, path, folder_files(path))
    return {"": path}


def named_splits(settings, place: Path, names) -> dict[str, Path]:
    """Return ``files`` of a place with splits of such names: ``data.split`` for all, or those named
    as ours. Raises UserError where there are none of these.
    """
    if settings.split:
        return {"": place}
    files = {name: place for name in ("", *SPLITS) if name in names}
    if not {"", "train"} & files.keys():
        raise UserError(
            f"{place} has no split train, but {', '.join(names)}; name the one to read by "
            "data.split"
        )
    return files


def split_rows(
    form: str, settings, file: Path, split: str
) -> Iterator[tuple[int | str, Row | BadRow]]:
    """Yield the rows of a file, or of all files of a split in a folder."""
    if not file.is_dir() or file == Path():
        yield from read_rows(file, form)
        return
    there, name = folder_files(file), split or settings.split
    if name not in there:
        raise UserError(
            f"{file} has no split {name!r}, but {', '.join(there)}; change data.split"
        )
    for part in there[name]:
        for number, row in read_rows(part):
            yield place(part, number), row


def question_text(settings, row: Row) -> str:
    """Return the question of a row, its options behind it where ``data.options_field`` is set."""
    text = text_field(row, settings.question_field)
    options = labelled_options(row, settings.options_field) if settings.options_field else []
    lines = [f"({label}) {option}" for label, option in options]
    return "\n".join([text.rstrip(), *lines]) if lines else text


def given_answer(settings, row: Row) -> str:
    """Return the answer of a row; beside options a whole number is the place of one, from 0."""
    if not settings.answer_field:
        return ""
    value = field_of(row, settings.answer_field)
    if settings.options_field and type(value) is int:
        options = labelled_options(row, settings.options_field)
        if str(value) not in [text for pair in options for text in pair]:
            if not 0 <= value < len(options):
                raise BadRow(f"field {settings.answer_field!r} is {value}, and there are "
                             f"{len(options)} options, counted from 0")  # fmt: skip
            return options[value][0]
    return answer_text(row, settings.answer_field)


def with_usual_names(row: Row) -> Row:
    """Give a row the fields question, rationale and answer under their usual other names."""
    found = {name: [other for other in others if other in row]
             for name, others in USUAL.items() if name not in row}  # fmt: skip
    return row | {name: row[others[0]] for name, others in found.items() if len(others) == 1}


def parse_fields(settings, row: Row, file: Path, number: int | str) -> tuple[Record, str]:
    """Parse a row by the names of its fields; the rationale is empty where it has none."""
    row = with_usual_names(row)
    question = question_text(settings, row)
    several = text_list(row, settings.others_field) if row.get(settings.others_field) else []
    if several and row.get(settings.rationale_field) is None:
        rationale, *several = several
    else:
        rationale = optional_text(row, settings.rationale_field)
    others = tuple(text for text in dict.fromkeys(several) if text != rationale)
    answer = given_answer(settings, row)
    if row.get(settings.id_field) is not None:
        name = text_field(row, settings.id_field)
    else:  # made of the text, so that it does not depend on the place in the file
        name = f"row-{stable_hash(question + chr(0) + rationale):016x}"
    steps = step_pairs(row.get(settings.steps_field))
    return Record(name, question, rationale, answer, steps=steps, others=others), rationale


for _form in ("", *FORMATS, *TABLES):  # "file": as its name tells
    file_source(_form or "file", _files, _form, functools.partial(split_rows, _form))(parse_fields)
