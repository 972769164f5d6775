"""Data sets with reasoning as their authors published them: GSM8K (Cobbe et al. 2021), plain and
with a subquestion before each step; SVAMP (Patel et al. 2021), an equation in the place of
reasoning; StrategyQA (Geva et al. 2021), facts as reasoning; and what PaLM wrote for SVAMP and
CommonsenseQA, as generated (Hsieh et al. 2023).
"""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError, counted
from asesjax.core.types import Record
from asesjax.data.readers.arithmetic import number_text, work_out
from asesjax.data.registry import file_source, in_folder
from asesjax.data.rows import BadRow, Row, read_document, read_rows, text_field, text_list

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_CLOSING = re.compile(r"\b(?:so )?the answer is\b", re.IGNORECASE)
_SPLITS = ("train", "test")


@file_source("gsm8k_train", in_folder({"": "train.jsonl"}), "jsonl")  # it alone, for all splits
@file_source("gsm8k", in_folder({split: f"{split}.jsonl" for split in _SPLITS}), "jsonl")
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


@file_source(
    "gsm8k_socratic", in_folder({split: f"{split}_socratic.jsonl" for split in _SPLITS}), "jsonl"
)
def parse_gsm8k_socratic(settings, row: Row, file: Path, number: int) -> tuple[Record, str]:
    """Parse lines ``How many ...? ** Natalia sold ...``; the six without a step are left out."""
    record, _ = parse_gsm8k(settings, row, file, number)
    lines = [line.partition(" ** ") for line in record.rationale.split("\n") if line.strip()]
    steps = tuple((q.strip(), text.strip()) for q, _, text in lines if text.strip())
    if not steps or not all(question.strip() and mark for question, mark, _ in lines):
        raise BadRow("field 'answer': a line is not '<subquestion> ** <step>'")
    rationale = "\n".join(text for _, text in steps)
    return dataclasses.replace(record, rationale=rationale, steps=steps), rationale


@file_source("svamp", in_folder({"": "SVAMP.json"}), "json")
def parse_svamp(settings, row: Row, file: Path, number: int) -> tuple[Record, str]:
    """Parse a problem: each operation of its equation is a sentence, and a step that a subquestion
    asks for (ours; the last is the row's question).
    """
    body, question = text_field(row, "Body").strip(), text_field(row, "Question").strip()
    value, lines = _worked_out(row, "Equation")
    if value != text_field(row, "Answer").removesuffix(".0"):
        raise BadRow("field 'Equation' does not come to field 'Answer'")
    texts = [f"{line}." for line in lines or [f"It is {value}"]]
    asked = [f"How much is {line.partition(' = ')[0]}?" for line in lines[:-1]] + [question]
    rationale, steps = " ".join(texts), tuple(zip(asked, texts, strict=True))
    name = text_field(row, "ID")
    return Record(name, f"{body} {question}", rationale, value, steps=steps), rationale


def _worked_out(row: Row, field: str) -> tuple[str, list[str]]:
    """Return what a field comes to, as text, and the lines of its operations."""
    found = work_out(text_field(row, field))
    if found is None:
        raise BadRow(f"field {field!r} is no sum of + - * /")
    return number_text(found[0]), found[1]


@file_source("strategyqa", in_folder({"train": "train.json", "test": "dev.json"}), "json")
def parse_strategyqa(settings, row: Row, file: Path, number: int) -> tuple[Record, str]:
    """Parse a question; the decomposition gives the subquestions. Which fact answers which is ours:
    they go in order, the last subquestion has the facts that are left, or yes or no; with still
    fewer facts there are no steps.
    """
    if not isinstance(row.get("answer"), bool):
        raise BadRow("field 'answer' must be true or false")
    answer = "yes" if row["answer"] else "no"
    facts, questions = text_list(row, "facts"), text_list(row, "decomposition")
    last = len(questions) - 1
    steps = None
    if len(facts) >= last:
        ends = " ".join(facts[last:]) or answer
        steps = tuple(zip(questions, [*facts[:last], ends], strict=True))
    name, question = text_field(row, "qid"), text_field(row, "question").strip()
    # The facts do not say yes or no, so the chain cannot be wrong.
    return Record(name, question, " ".join(facts), answer, steps=steps), f"The answer is {answer}."


def _palm_rows(settings, file: Path, split: str) -> Iterator[tuple[int, Row | BadRow]]:
    """Join a file of one question a line with palm_<split>_CoT_<i>.json, arrays of chains."""
    parts = (file.parent / f"palm_{split}_CoT_{i}.json" for i in itertools.count())
    parts = itertools.takewhile(Path.is_file, parts)
    chains = []
    for part in parts:
        chains += _list_in(part, read_document(part))
    rows = list(read_rows(file, "jsonl"))
    if len(rows) != len(chains):
        raise UserError(
            f"{file} has {counted(len(rows), 'question')}, and palm_{split}_CoT_*.json beside it "
            f"{counted(len(chains), 'chain')}; as many are needed"
        )
    for (number, row), chain in zip(rows, chains, strict=True):
        yield number, row if isinstance(row, BadRow) else {**row, "chain": chain}


def _list_in(path: Path, document: Any) -> list:
    if not isinstance(document, list):
        raise UserError(f"{path} must hold one JSON array, got {type(document).__name__}")
    return document


def _palm_chain(row: Row) -> tuple[str, str]:
    """Return the reasoning and what stands behind its last "the answer is"."""
    # PaLM often continues with questions of its own.
    chain = text_field(row, "chain").partition("\n\nQ:")[0].strip()
    closings = list(_CLOSING.finditer(chain))
    if not closings:
        return chain, ""
    rationale = chain[: closings[-1].start()].rstrip()
    if not rationale:
        raise BadRow("the teacher's chain is an answer without reasoning")
    return rationale, chain[closings[-1].end() :].strip().removesuffix(".")


@file_source(
    "palm_svamp", in_folder({split: f"svamp_{split}.json" for split in _SPLITS}), "jsonl",
    _palm_rows,
)  # fmt: skip
def parse_palm_svamp(settings, row: Row, file: Path, number: int) -> tuple[Record, str]:
    """Parse a question whose label is an equation, and whose chain may end in one."""
    value, _ = _worked_out(row, "label")
    rationale, said = _palm_chain(row)
    theirs = work_out(said)
    closed = f"The answer is {number_text(theirs[0])}." if theirs else ""
    name, question = f"palm-{file.stem}-{number}", text_field(row, "input").strip()
    return Record(name, question, rationale, value), closed


@file_source(
    "palm_cqa", in_folder({split: f"cqa_{split}.json" for split in _SPLITS}), "jsonl", _palm_rows
)
def parse_palm_cqa(settings, row: Row, file: Path, number: int) -> tuple[Record, str]:
    """Parse a question with choices, which are listed behind it."""
    choices = text_list(row, "choices")
    listed = "\n".join(f"({chr(ord('a') + i)}) {text}" for i, text in enumerate(choices))
    question = f"{text_field(row, 'question').strip()}\nAnswer Choices:\n{listed}"
    rationale, said = _palm_chain(row)
    closed = "The answer is " + re.sub(r"^\([a-z]\) ?", "", said) + "." if said else ""
    answer = " ".join(text_field(row, "answer").split())
    return Record(text_field(row, "id"), question, rationale, answer), closed
