"""SVAMP (Patel et al. 2021): an equation in the place of reasoning."""

from pathlib import Path

from asesjax.core.types import Record
from asesjax.data.readers.arithmetic import number_text, work_out
from asesjax.data.registry import file_source
from asesjax.data.rows import BadRow, Row, text_field


@file_source("svamp", lambda settings: {"": Path(settings.path) / "SVAMP.json"}, "json")
def parse_svamp(settings, row: Row, file: Path, number: int) -> tuple[Record, str]:
    """Parse a problem: each operation of its equation is a sentence, and a step that a subquestion
    asks for (ours; the last is the row's question).
    """
    body, question = text_field(row, "Body").strip(), text_field(row, "Question").strip()
    found = work_out(text_field(row, "Equation"))
    if found is None:
        raise BadRow("field 'Equation' is no sum of + - * /")
    value, lines = found
    answer = number_text(value)
    if answer != text_field(row, "Answer").removesuffix(".0"):
        raise BadRow("field 'Equation' does not come to field 'Answer'")
    texts = [f"{line}." for line in lines or [f"It is {answer}"]]
    asked = [f"How much is {line.partition(' = ')[0]}?" for line in lines[:-1]] + [question]
    rationale, steps = " ".join(texts), tuple(zip(asked, texts, strict=True))
    name = text_field(row, "ID")
    return Record(name, f"{body} {question}", rationale, answer, steps=steps), rationale
