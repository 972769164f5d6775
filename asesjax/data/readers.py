"""One reader a data set: which files it has, how its rows are read, and what a row says.

A parser returns the record and the chain as its author closed it: what ``data.only_right_chains``
compares with the right answer.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from asesjax.core.config import SOURCES
from asesjax.core.errors import UserError, unknown
from asesjax.core.files import read_json
from asesjax.core.types import Record
from asesjax.data import symbolic
from asesjax.data.arithmetic import number_text, worked_out
from asesjax.data.rows import FORMATS, BadRow, Row, read_rows, stable_hash, text_field
from asesjax.data.synthetic import joined

SPLITS = ("train", "validation", "test")
Parsed = tuple[Record, str]

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_CLOSING = re.compile(r"\b(?:so )?the answer is\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Reader:
    """How a data set is read.

    Attributes:
      files: settings -> file of each split that the data set tells apart; key ``""`` for a file
        that is to be shared out.
      form: of the files, as in ``rows.read_rows``.
      parse: (settings, row, file, number) -> record and closed chain; raises ``BadRow``.
      rows: (file, split) -> what ``rows.read_rows`` gives, where it takes more than that.
    """

    files: Callable[[Any], dict[str, Path]]
    form: str
    parse: Callable[[Any, Row, Path, int], Parsed]
    rows: Callable[[Path, str], Iterator[tuple[int, Row | BadRow]]] | None = None


def get_reader(source: str) -> Reader:
    """Return the reader of ``data.source``; the generators have none.

    Raises:
      UserError: no such source.
    """
    if source not in READERS:
        raise unknown("data.source", source, SOURCES)
    return READERS[source]


def read_steps(value: Any) -> tuple[tuple[str, str], ...]:
    """Check the pairs (subquestion, step) of a row.

    Raises:
      BadRow: no list of two texts each.
    """
    form = isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)
        for pair in value
    )
    if not form:
        raise BadRow("steps must be a list of [subquestion, text]")
    return tuple((question, text) for question, text in value)


# Files of any field names.


def _named_files(settings) -> dict[str, Path]:
    if "{split}" not in settings.path:
        return {"": Path(settings.path)}
    files = {name: Path(settings.path.replace("{split}", name)) for name in SPLITS}
    if not files["validation"].is_file():
        del files["validation"]
    return files


def _mapped(settings, row: Row, file: Path, number: int) -> Parsed:
    question = text_field(row, settings.question_field)
    several = _texts(row, settings.others_field) if row.get(settings.others_field) else []
    if several and row.get(settings.rationale_field) is None:
        rationale, *several = several
    else:
        rationale = text_field(row, settings.rationale_field)
    others = tuple(text for text in dict.fromkeys(several) if text != rationale)
    answer = text_field(row, settings.answer_field, empty=True) if settings.answer_field else ""
    if settings.id_field in row:
        name = text_field(row, settings.id_field)
    else:  # made of the text, so that it does not depend on the place in the file
        name = f"row-{stable_hash(question + chr(0) + rationale):016x}"
    steps = row.get(settings.steps_field)
    pairs = None if steps is None else read_steps(steps)
    return Record(name, question, rationale, answer, steps=pairs, others=others), rationale


# GSM8K (Cobbe et al. 2021).


def _gsm8k_files(end: str) -> Callable[[Any], dict[str, Path]]:
    return lambda settings: {
        name: Path(settings.path) / f"{name}{end}.jsonl" for name in ("train", "test")
    }


def _gsm8k(settings, row: Row, file: Path, number: int) -> Parsed:
    """Lines of reasoning with <<48/2=24>> marks, then ``#### 24``."""
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


def _gsm8k_socratic(settings, row: Row, file: Path, number: int) -> Parsed:
    """The same with a subquestion before each line: ``How many ...? ** Natalia sold ...``.

    Six lines of GSM8K have a subquestion and no step; they are no steps.
    """
    record, _ = _gsm8k(settings, row, file, number)
    pairs = [line.partition(" ** ") for line in record.rationale.split("\n") if line.strip()]
    steps = tuple((q.strip(), text.strip()) for q, _, text in pairs if text.strip())
    if not steps or not all(question.strip() and mark for question, mark, _ in pairs):
        raise BadRow("field 'answer': a line is not '<subquestion> ** <step>'")
    rationale = "\n".join(text for _, text in steps)
    return dataclasses.replace(record, rationale=rationale, steps=steps), rationale


# SVAMP (Patel et al. 2021): an equation in the place of reasoning.


def _svamp_files(settings) -> dict[str, Path]:
    return {"": Path(settings.path) / "SVAMP.json"}


def _svamp(settings, row: Row, file: Path, number: int) -> Parsed:
    body, question = text_field(row, "Body").strip(), text_field(row, "Question").strip()
    found = worked_out(text_field(row, "Equation"))
    if found is None:
        raise BadRow("field 'Equation' is no sum of + - * /")
    value, lines = found
    if number_text(value) != text_field(row, "Answer").removesuffix(".0"):
        raise BadRow("field 'Equation' does not come to field 'Answer'")
    texts = [f"{line}." for line in lines or [f"It is {number_text(value)}"]]
    # Ours: a computation is asked for as such, the last one as the row does.
    asked = [f"How much is {line.partition(' = ')[0]}?" for line in lines[:-1]] + [question]
    rationale = " ".join(texts)
    record = Record(
        text_field(row, "ID"), f"{body} {question}", rationale, number_text(value),
        steps=tuple(zip(asked, texts, strict=True)),
    )  # fmt: skip
    return record, rationale


# StrategyQA (Geva et al. 2021).


def _strategyqa_files(settings) -> dict[str, Path]:
    folder = Path(settings.path)
    return {"train": folder / "train.json", "test": folder / "dev.json"}


def _strategyqa(settings, row: Row, file: Path, number: int) -> Parsed:
    """Facts as reasoning, yes or no as answer, the decomposition as subquestions.

    The files do not say which fact answers which subquestion. Ours: they go in order, the last
    subquestion has the facts that are left, or yes or no where none is; with still fewer facts
    there are no steps.
    """
    if not isinstance(row.get("answer"), bool):
        raise BadRow("field 'answer' must be true or false")
    answer = "yes" if row["answer"] else "no"
    facts, questions = _texts(row, "facts"), _texts(row, "decomposition")
    last = len(questions) - 1
    steps = None
    if len(facts) >= last:
        ends = " ".join(facts[last:]) or answer
        steps = tuple(zip(questions, [*facts[:last], ends], strict=True))
    rationale = " ".join(facts)
    question = text_field(row, "question").strip()
    record = Record(text_field(row, "qid"), question, rationale, answer, steps=steps)
    # The facts do not say yes or no, so there is nothing that could be wrong.
    return record, f"The answer is {answer}."


def _texts(row: Row, name: str) -> list[str]:
    values = row.get(name)
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise BadRow(f"field {name!r} must be a list of texts")
    values = [" ".join(value.split()) for value in values if value.strip()]
    if not values:
        raise BadRow(f"field {name!r} is empty")
    return values


# Reasoning that PaLM wrote, raw (Hsieh et al. 2023).


def _palm_files(name: str) -> Callable[[Any], dict[str, Path]]:
    return lambda settings: {
        split: Path(settings.path) / f"{name}_{split}.json" for split in ("train", "test")
    }


def _palm_rows(file: Path, split: str) -> Iterator[tuple[int, Row | BadRow]]:
    """Questions a line, and beside them palm_<split>_CoT_<i>.json, arrays of as many chains."""
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


def _palm_chain(row: Row) -> tuple[str, str]:
    """Return the reasoning and what stands behind its last "the answer is"."""
    # PaLM went on to write questions of its own.
    chain = text_field(row, "chain").partition("\n\nQ:")[0].strip()
    closings = list(_CLOSING.finditer(chain))
    if not closings:
        return chain, ""
    rationale = chain[: closings[-1].start()].rstrip()
    if not rationale:
        raise BadRow("the teacher's chain is an answer without reasoning")
    return rationale, chain[closings[-1].end() :].strip().removesuffix(".")


def _palm_svamp(settings, row: Row, file: Path, number: int) -> Parsed:
    found = worked_out(text_field(row, "label"))
    if found is None:
        raise BadRow("field 'label' is no sum of + - * /")
    rationale, said = _palm_chain(row)
    theirs = worked_out(said)
    closed = f"The answer is {number_text(theirs[0])}." if theirs else ""
    name, question = f"palm-{file.stem}-{number}", text_field(row, "input").strip()
    return Record(name, question, rationale, number_text(found[0])), closed


def _palm_cqa(settings, row: Row, file: Path, number: int) -> Parsed:
    choices = _texts(row, "choices")
    listed = "\n".join(f"({chr(ord('a') + i)}) {text}" for i, text in enumerate(choices))
    question = f"{text_field(row, 'question').strip()}\nAnswer Choices:\n{listed}"
    rationale, said = _palm_chain(row)
    closed = "The answer is " + re.sub(r"^\([a-z]\) ?", "", said) + "." if said else ""
    answer = " ".join(text_field(row, "answer").split())
    return Record(text_field(row, "id"), question, rationale, answer), closed


# Symbolic tasks with reasoning by rule (symbolic.py).


def _symbolic_files(name: str) -> Callable[[Any], dict[str, Path]]:
    return lambda settings: dict.fromkeys(("train", "test"), Path(settings.path) / f"{name}.json")


def _symbolic_rows(file: Path, split: str) -> Iterator[tuple[int, Row | BadRow]]:
    """The rows whose places, from 0, <name>__default.json gives to a split."""
    beside = file.with_name(f"{file.stem}__default.json")
    places = set(read_json(beside)[split])
    return ((n, row) for n, row in read_rows(file, "json") if n - 1 in places)


def _symbolic(settings, row: Row, file: Path, number: int) -> Parsed:
    question, answer = text_field(row, "question"), text_field(row, "answer")
    chain, result = symbolic.RULES[file.stem](question)
    if result != answer:
        raise BadRow("the rule comes to another answer than the file gives")
    segments = tuple(joined(chain))
    rationale = "".join(segment.text for segment in segments)
    return Record(f"{file.stem}-{number}", question, rationale, answer, segments), (
        f"The answer is {answer}."
    )


READERS: dict[str, Reader] = {
    **{form: Reader(_named_files, form, _mapped) for form in FORMATS},
    "gsm8k": Reader(_gsm8k_files(""), "jsonl", _gsm8k),
    "gsm8k_socratic": Reader(_gsm8k_files("_socratic"), "jsonl", _gsm8k_socratic),
    "svamp": Reader(_svamp_files, "json", _svamp),
    "strategyqa": Reader(_strategyqa_files, "json", _strategyqa),
    "palm_svamp": Reader(_palm_files("svamp"), "jsonl", _palm_svamp, _palm_rows),
    "palm_cqa": Reader(_palm_files("cqa"), "jsonl", _palm_cqa, _palm_rows),
    **{
        task: Reader(_symbolic_files(task), "json", _symbolic, _symbolic_rows)
        for task in symbolic.RULES
    },
}
