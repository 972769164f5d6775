"""Reasoning that PaLM wrote for SVAMP and CommonsenseQA, as generated (Hsieh et al. 2023)."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from asesjax.core.errors import UserError
from asesjax.core.files import read_json
from asesjax.core.types import Record
from asesjax.data.readers.arithmetic import number_text, work_out
from asesjax.data.registry import Files, file_source
from asesjax.data.rows import BadRow, Row, read_rows, text_field, text_list

_CLOSING = re.compile(r"\b(?:so )?the answer is\b", re.IGNORECASE)


def _files(name: str) -> Files:
    return lambda settings: {
        split: Path(settings.path) / f"{name}_{split}.json" for split in ("train", "test")
    }


def _rows(file: Path, split: str) -> Iterator[tuple[int, Row | BadRow]]:
    """Join a file of one question a line with palm_<split>_CoT_<i>.json, arrays of chains."""
    chains: list = []
    for i in itertools.count():
        part = file.parent / f"palm_{split}_CoT_{i}.json"
        if not part.is_file():
            break
        chains += read_json(part)
    rows = list(read_rows(file, "jsonl"))
    if len(rows) != len(chains):
        raise UserError(
            f"{file} has {len(rows)} questions, and palm_{split}_CoT_*.json beside it "
            f"{len(chains)} chains; as many are needed"
        )
    for (number, row), chain in zip(rows, chains, strict=True):
        yield number, row if isinstance(row, BadRow) else {**row, "chain": chain}


def _split_chain(row: Row) -> tuple[str, str]:
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


@file_source("palm_svamp", _files("svamp"), "jsonl", _rows)
def parse_svamp(settings, row: Row, file: Path, number: int) -> tuple[Record, str]:
    """Parse a question whose label is an equation, and whose chain may end in one."""
    found = work_out(text_field(row, "label"))
    if found is None:
        raise BadRow("field 'label' is no sum of + - * /")
    rationale, answer = _split_chain(row)
    theirs = work_out(answer)
    closed = f"The answer is {number_text(theirs[0])}." if theirs else ""
    name, question = f"palm-{file.stem}-{number}", text_field(row, "input").strip()
    return Record(name, question, rationale, number_text(found[0])), closed


@file_source("palm_cqa", _files("cqa"), "jsonl", _rows)
def parse_cqa(settings, row: Row, file: Path, number: int) -> tuple[Record, str]:
    """Parse a question with choices, which are listed behind it."""
    choices = text_list(row, "choices")
    listed = "\n".join(f"({chr(ord('a') + i)}) {text}" for i, text in enumerate(choices))
    question = f"{text_field(row, 'question').strip()}\nAnswer Choices:\n{listed}"
    rationale, said = _split_chain(row)
    closed = "The answer is " + re.sub(r"^\([a-z]\) ?", "", said) + "." if said else ""
    answer = " ".join(text_field(row, "answer").split())
    return Record(text_field(row, "id"), question, rationale, answer), closed
