"""Socratic chains (Shridhar et al. 2023): subquestions and their answers as one text, and as ids.

    How many clips in May? She sold 48 / 2 = 24. How many in all? 48 + 24 = 72. The answer is 72.

The text is encoded once and cut into runs of ids, a subquestion or an answer each. Inputs are built
from these runs, as in decoding from the segments written so far.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.options import Config
from asesjax.core.types import ES, Example, Record, Segment
from asesjax.data.corpus import encode_text
from asesjax.data.examples import answer_sentence, make_example
from asesjax.data.vocab import Vocabulary
from asesjax.methods.socratic.equations import equations_text
from asesjax.methods.socratic.options import SocraticOptions
from asesjax.segmentation.pieces import Piece

Steps = tuple[tuple[str, str], ...]


class Leads(NamedTuple):
    """Ids that the inputs of a task begin with; none where a task has parameters of its own."""

    ask: tuple[int, ...] = ()
    solve: tuple[int, ...] = ()
    guide: tuple[int, ...] = ()


def steps_of(record: Record, settings: SocraticOptions) -> Steps:
    """Return a record's stripped pairs of subquestion and text, or raise UserError."""
    steps = record.steps
    if not steps and settings.single_steps:
        steps = ((record.question, record.rationale),)
    if not steps:
        raise UserError(
            f"record {record.id} has no steps (pairs of a subquestion and its answer), which "
            "Socratic methods need. Those of data.source=synthetic_math and gsm8k_socratic have "
            "them, most of strategyqa, and rows of jsonl and json may (data.steps_field); "
            "socratic.single_steps=true takes a whole rationale as one step"
        )
    for number, pair in enumerate(steps, 1):
        for text, what in zip(pair, ("subquestion", "text"), strict=True):
            if not text.strip():
                raise UserError(
                    f"record {record.id}: the {what} of step {number} is empty; fix the record "
                    "or leave it out"
                )
    return tuple((question.strip(), text.strip()) for question, text in steps)


def chain_parts(record: Record, config: Config) -> list[str]:
    """Return subquestions and answers in turn; joined by blanks they are the chain. The last answer
    ends with the answer sentence (``data.answer_template``), which replaces a bare answer.
    """
    parts = [text for pair in steps_of(record, config.socratic) for text in pair]
    closing = answer_sentence(record, config.data.answer_template)
    if closing and parts[-1] == record.answer:
        parts[-1] = closing
    elif closing and not parts[-1].endswith(closing):
        parts[-1] = f"{parts[-1]} {closing}"
    return parts


def reference(record: Record, config: Config) -> Record:
    """Return a record whose rationale is the whole Socratic chain, to compare chains with.
    Subquestions are gold segments without a label. A record without steps stays as it is.
    """
    if not record.steps:
        return record
    chain = " ".join(chain_parts(record, config))
    gold = _gold(record, chain) if record.gold else None
    return dataclasses.replace(record, rationale=chain, answer="", gold=gold)


def encode_parts(vocab: Vocabulary, record: Record, config: Config) -> list[np.ndarray]:
    """Return the ids of each of ``chain_parts``, int32; UserError for a part without tokens."""
    parts = chain_parts(record, config)
    texts = [f"{text} " for text in parts[:-1]] + parts[-1:]
    ends = np.cumsum([len(text) for text in texts]).tolist()
    spans = [Piece(*span) for span in zip([0, *ends], ends, strict=False)]
    chain = encode_text(vocab, "".join(texts))
    cuts = chain.cuts(spans)
    runs = [chain.ids[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]
    for run, text in zip(runs, parts, strict=True):
        if not len(run):
            raise UserError(
                f"record {record.id}: {text[:60]!r} comes to no tokens in this vocabulary; fix "
                "the record or leave it out"
            )
    return runs


def guide_ids(vocab: Vocabulary, record: Record, settings: SocraticOptions) -> np.ndarray:
    """Return the gold guide of a record, int32; none where ``settings.guidance`` is "none"."""
    if settings.guidance == "none":
        return np.zeros(0, np.int32)
    texts = [text for _, text in steps_of(record, settings)]
    return vocab.encode(equations_text(texts, settings.guidance))


def ask_examples(
    vocab: Vocabulary, record: Record, head: np.ndarray, runs: list[np.ndarray], plan: str
) -> list[Example]:
    """Build the decomposer's examples; ``head`` is mark, question and guide, ``runs`` the parts'
    ids. Plan "step": head and steps so far -> next subquestion, and after the last step sentinel 0.
    Plan "whole": head -> all subquestions, sentinel 1 between them.
    """
    if plan == "whole":
        separator = [vocab.sentinel(1)]
        rest = [ids for run in runs[2::2] for ids in (separator, run)]
        return [_example(vocab, record, "plan", "plan", head, runs[:0], [runs[0], *rest])]
    examples = [
        _example(vocab, record, f"q{i // 2 + 1}", "question", head, runs[:i], [runs[i]])
        for i in range(0, len(runs), 2)
    ]
    return [*examples, _example(vocab, record, "end", "end", head, runs, [[vocab.sentinel(0)]])]


def solve_examples(
    vocab: Vocabulary, record: Record, head: np.ndarray, runs: list[np.ndarray], history: bool
) -> list[Example]:
    """Build the solver's examples: head, steps so far and a subquestion -> its answer. Without
    ``history`` the steps so far are left out.
    """
    return [
        _example(
            vocab, record, f"s{i // 2 + 1}", "answer" if i == len(runs) - 1 else "solution",
            head, runs[0 if history else i - 1 : i], [runs[i]],
        )
        for i in range(1, len(runs), 2)
    ]  # fmt: skip


def _example(vocab, record, name, kind, head, context, target) -> Example:
    return make_example(vocab, f"{record.id}/{name}", [head, *context], target, kind)


def _gold(record: Record, chain: str) -> tuple[Segment, ...] | None:
    """Put the subquestions before the gold segments of their steps; None where they do not fit."""
    left, gold = list(record.gold or ()), []
    for question, text in record.steps or ():
        own: list[Segment] = []
        while left and len(_text(own)) < len(text.strip()):
            own.append(left.pop(0))
        if _text(own) != text.strip():
            return None
        own[-1] = dataclasses.replace(own[-1], text=f"{own[-1].text.rstrip()} ")
        gold += [Segment(f"{question.strip()} "), *own]
    written = "".join(segment.text for segment in gold)
    if left or not chain.startswith(written.rstrip()):
        return None
    return (*gold, Segment(chain[len(written) :], ES))


def _text(segments: list[Segment]) -> str:
    return "".join(segment.text for segment in segments).strip()
