"""GSM8K (Cobbe et al. 2021), plain and with a subquestion before each step."""

import dataclasses
import re
from pathlib import Path

from asesjax.core.types import Record
from asesjax.data.registry import Files, file_source
from asesjax.data.rows import BadRow, Row, text_field

_CALCULATOR = re.compile(r"<<[^<>]*>>")


def _files(end: str) -> Files:
    return lambda settings: {
        split: Path(settings.path) / f"{split}{end}.jsonl" for split in ("train", "test")
    }


@file_source("gsm8k", _files(""), "jsonl")
def parse_gsm8k(settings, row: Row, file: Path, number: int) -> tuple[Record, str]:
    """Parse lines of reasoning with <<48/2=24>> marks, then ``#### 24``. Line breaks stay: 44 % of
    the lines end without punctuation, so segmentation needs them.
    """
    question, solution = text_field(row, "question"), text_field(row, "answer")
    rationale, mark, answer = solution.rpartition("####")
    if not mark or not answer.strip():
        raise BadRow("field 'answer' does not end with '#### <answer>'")
    if settings.strip_calculator:
        rationale = _CALCULATOR.sub("", rationale)
    rationale = rationale.strip()
    if not rationale:
        raise BadRow("field 'answer' has no reasoning before '####'")
    # Line numbers, because questions are too long to name and the files never change.
    name = f"gsm8k-{file.stem.removesuffix('_socratic')}-{number}"
    return Record(name, question, rationale, answer.strip()), rationale


@file_source("gsm8k_socratic", _files("_socratic"), "jsonl")
def parse_gsm8k_socratic(settings, row: Row, file: Path, number: int) -> tuple[Record, str]:
    """Parse lines ``How many ...? ** Natalia sold ...``; the six without a step are left out."""
    record, _ = parse_gsm8k(settings, row, file, number)
    lines = [line.partition(" ** ") for line in record.rationale.split("\n") if line.strip()]
    steps = tuple((q.strip(), text.strip()) for q, _, text in lines if text.strip())
    if not steps or not all(question.strip() and mark for question, mark, _ in lines):
        raise BadRow("field 'answer': a line is not '<subquestion> ** <step>'")
    rationale = "\n".join(text for _, text in steps)
    return dataclasses.replace(record, rationale=rationale, steps=steps), rationale
