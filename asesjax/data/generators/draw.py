"""What the generators share: drawing distinct problems of a split, and choosing their wording.

A hash of the problem's facts, without names, items, wording and order, decides its split. So no
problem is in two splits, whatever the seeds; a seed decides which problems are drawn.
"""

import dataclasses
import random
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.signals import check_stop
from asesjax.core.types import Record, Segment
from asesjax.data.rows import stable_hash

# Of 100 problems 70 are for training, 10 for validation and 20 for tests.
_ENDS = (("train", 70), ("validation", 80), ("test", 100))
_TRIES = {"train": 12, "validation": 20000, "test": 20000}  # draws for one new problem


def generate(
    kind: str, settings: Any, split: str, n: int, seed: int,
    draw: Callable[[Any, random.Random, int], Hashable],
    write: Callable[[Any, random.Random, Any, bool], Record],
) -> list[Record]:  # fmt: skip
    """Draw ``n`` problems of one split; the counts of steps take turns.

    ``draw(settings, rng, n_steps)`` returns a problem that is equal where only names, wording or
    order would differ; ``write(settings, rng, problem, test)`` its record, which gets the id
    ``<kind>-<split>-<index>``. No two questions are equal. Problems are distinct too, until no new
    training problem of a count of steps is found: then problems return in other words. Raises
    UserError where too few distinct problems are found in a bounded number of draws.
    """
    if n < 1:
        raise UserError(f"data.n_{split} is {n}, but a generated source must be told how many")
    # Text of any length as a seed, and only random() afterwards: both are the same in every
    # Python version.
    rng = random.Random(f"{kind}/{split}/{seed}")
    problems, questions, records = set(), set(), []
    most = settings.test_max_steps if split == "test" else 0
    most = most or settings.max_steps
    for i in range(n):
        check_stop()
        n_steps = settings.min_steps + i % (most - settings.min_steps + 1)
        found = None
        for _ in range(_TRIES[split]):
            problem = draw(settings, rng, n_steps)
            is_new = problem not in problems
            if split_of(problem) != split or not (is_new or split == "train"):
                continue
            record = write(settings, rng, problem, split == "test")
            if record.question not in questions:
                found = record
                problems.add(problem)
                if is_new:
                    break
        if found is None:
            raise UserError(
                f"the data settings give too few distinct {split} problems of {n_steps} steps "
                f"({i} of {n} made); raise data.max_value, data.min_steps, data.n_distractors "
                f"or data.n_words, or lower data.n_{split}"
            )
        questions.add(found.question)
        records.append(dataclasses.replace(found, id=f"{kind}-{split}-{i}"))
    return records


def labelled_record(
    name: str, question: str, sentences: Sequence[tuple[str, str]], answer: str, **fields: Any
) -> Record:
    """Make a record with gold segments of (sentence, label), joined by spaces."""
    gold = [Segment(f"{text} ", label) for text, label in sentences]
    gold[-1] = Segment(*sentences[-1])
    rationale = " ".join(text for text, _ in sentences)
    return Record(name, question, rationale, answer, tuple(gold), **fields)


def split_of(problem: Hashable) -> str:
    """Return the split of a problem, the same in every process and for every seed."""
    percent = stable_hash(repr(problem)) % 100
    return next(split for split, end in _ENDS if percent < end)


def pick(rng: random.Random, n: int) -> int:
    """Draw one of 0 ... n - 1."""
    return int(rng.random() * n)


def shuffled(rng: random.Random, items: Sequence) -> list:
    """Return the items in random order."""
    return [items[i] for _, i in sorted((rng.random(), i) for i in range(len(items)))]


def template(settings: Any, rng: random.Random, choices: Sequence[str], test: bool) -> str:
    """Choose the wording of a fact by data.wording and data.held_out_templates."""
    if settings.wording == "plain":
        return choices[0]
    if settings.held_out_templates and test:
        return choices[-1]
    return choices[pick(rng, len(choices) - settings.held_out_templates)]


def check_settings(settings: Any, **unused: Any) -> None:
    """Refuse settings that contradict each other, or are not the default that ``unused`` gives."""
    for most in ("max_steps", "test_max_steps"):
        if settings.min_steps > (getattr(settings, most) or settings.max_steps):
            raise UserError(
                f"data.min_steps must be at most data.{most}, got {settings.min_steps} and "
                f"{getattr(settings, most)}"
            )
    if settings.held_out_templates and settings.wording != "varied":
        raise UserError('data.held_out_templates needs data.wording "varied"')
    for name, default in unused.items():
        if getattr(settings, name) != default:
            raise UserError(
                f"data.{name} must be {default} where data.source is {settings.source}, got "
                f"{getattr(settings, name)}"
            )
