"""JSON lines, JSON arrays and CSV with field names of the user's (``data.*_field``)."""

from pathlib import Path

from asesjax.core.types import Record
from asesjax.data.registry import SPLITS, file_source
from asesjax.data.rows import (
    FORMATS,
    Row,
    answer_text,
    stable_hash,
    step_pairs,
    text_field,
    text_list,
)


def _files(settings) -> dict[str, Path]:
    if "{split}" not in settings.path:
        return {"": Path(settings.path)}
    files = {name: Path(settings.path.replace("{split}", name)) for name in SPLITS}
    if not files["validation"].is_file():
        del files["validation"]
    return files


def parse_fields(settings, row: Row, file: Path, number: int) -> tuple[Record, str]:
    """Parse a row by the names of its fields."""
    question = text_field(row, settings.question_field)
    several = text_list(row, settings.others_field) if row.get(settings.others_field) else []
    if several and row.get(settings.rationale_field) is None:
        rationale, *several = several
    else:
        rationale = text_field(row, settings.rationale_field)
    others = tuple(text for text in dict.fromkeys(several) if text != rationale)
    answer = answer_text(row, settings.answer_field) if settings.answer_field else ""
    if settings.id_field in row:
        name = text_field(row, settings.id_field)
    else:  # made of the text, so that it does not depend on the place in the file
        name = f"row-{stable_hash(question + chr(0) + rationale):016x}"
    steps = step_pairs(row.get(settings.steps_field))
    return Record(name, question, rationale, answer, steps=steps, others=others), rationale


for _form in FORMATS:
    file_source(_form, _files, _form)(parse_fields)
