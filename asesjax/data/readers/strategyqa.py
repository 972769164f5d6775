"""StrategyQA (Geva et al. 2021): facts as reasoning, yes or no as answer."""

from pathlib import Path

from asesjax.core.types import Record
from asesjax.data.registry import file_source
from asesjax.data.rows import BadRow, Row, text_field, text_list


def _files(settings) -> dict[str, Path]:
    folder = Path(settings.path)
    return {"train": folder / "train.json", "test": folder / "dev.json"}


@file_source("strategyqa", _files, "json")
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
    chain = f"The answer is {answer}."
    return Record(name, question, " ".join(facts), answer, steps=steps), chain
