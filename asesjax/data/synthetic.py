"""The embedded data: worded multi-step arithmetic whose rationale alternates ES and AS by rule.

    question   Amy has 5 apples. Ben has 3 more apples than Amy. Cleo has twice as many apples
               as Ben. How many apples does Cleo have?
    rationale  Ben has 3 more apples than Amy. Ben has 5 + 3 = 8 apples. Cleo has twice as many
               apples as Ben. Cleo has 2 * 8 = 16 apples.

ES segments repeat a fact of the question to the letter; AS segments compute. Every computed value
needs the one before it, so the answer needs all steps. ``reports.py`` makes the other task.

Which split a problem belongs to is decided by a hash of the problem itself: its facts, without
names, items, wording and order. So no problem is in two splits, whatever the seeds; a seed decides
which problems are drawn and never moves one from test to training.
"""

import hashlib
import random
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

from asesjax.core.errors import UserError
from asesjax.core.types import AS, ES, FILLER, Record, Segment

NAMES = ("Amy", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivan", "Jade")
ITEMS = (("apple", "apples"), ("book", "books"), ("coin", "coins"), ("shell", "shells"))
# Templates of a fact about {x}; {y} and {z} are whom it refers to, {i} is the item in the number
# that fits {k}, {s} its plural. "plain" wording uses the first. With held_out_templates the last
# is seen in the test split alone. No commas: a fact is one piece for every segmenter.
TEMPLATES = {
    "base": (
        "{x} has {k} {i}.",
        "{x} owns {k} {i}.",
        "The desk of {x} holds {k} {i}.",
        "{x} starts out with {k} {i}.",
    ),
    "more": (
        "{x} has {k} more {i} than {y}.",
        "{x} owns {k} {i} more than {y} does.",
        "{x} is {k} {i} ahead of what {y} has.",
        "{x} has as many {s} as {y} and another {k}.",
    ),
    "fewer": (
        "{x} has {k} fewer {i} than {y}.",
        "{x} owns {k} {i} less than {y} does.",
        "{x} is {k} {i} short of what {y} has.",
        "{x} has as many {s} as {y} would after losing {k}.",
    ),
    "twice": (
        "{x} has twice as many {s} as {y}.",
        "{x} owns double the {s} of {y}.",
        "{x} has two {s} for each one that {y} has.",
        "{x} has two times the {s} that {y} has.",
    ),
    "half": (
        "{x} has half as many {s} as {y}.",
        "{x} owns half the {s} of {y}.",
        "{x} has one for every two {s} that {y} has.",
        "{x} has one half of the {s} that {y} has.",
    ),
    "sum": (
        "{x} has as many {s} as {y} and {z} together.",
        "{x} owns the {s} of {y} and {z} combined.",
        "{x} has what {y} and {z} have in {s} if counted together.",
        "{x} has the {s} of {y} plus the {s} of {z}.",
    ),
}
# Wordings of a computation: the chain's own, and those of further rationales of the question.
COMPUTATIONS = (
    "{x} has {a} {sign} {b} = {count}.",
    "{a} {sign} {b} = {value} so {x} has {count}.",
    "As {a} {sign} {b} = {value} we know that {x} has {count}.",
    "For {x} that makes {a} {sign} {b} = {count}.",
)
# Sentences that help nobody.
FILLERS = (
    "Let us go on with the story.",
    "This is a nice problem about {s}.",
    "We keep that in mind.",
    "{x} likes {s} very much.",
    "Now comes the next part.",
    "That was not hard to see.",
)
_SHARES = (("train", 70), ("validation", 10), ("test", 20))  # percent of all problems
_TRIES = {"train": 12, "validation": 20000, "test": 20000}  # draws for one new problem
_ANONYMOUS = re.compile(
    rf"\b(?:({'|'.join(NAMES)})|({'|'.join(word for pair in ITEMS for word in pair)}))\b"
)


def make_math(settings: Any, split: str, n: int, seed: int) -> list[Record]:
    """Make worded arithmetic problems.

    Args:
      settings: section ``data`` of the config (min_steps, max_steps, max_value, n_distractors,
        wording, fact_order, held_out_templates, n_fillers, n_rationales). Given and computed
        numbers are 1 to max_value. "varied" wording draws among templates and items, and adds the
        relation "as many as two others together". A distractor gives somebody off the chain a
        number, half the time in terms of somebody on it. Fillers stand anywhere in the rationale
        but at its end.
      split: "train", "validation" or "test".
      n: number of problems; step counts take turns, so that each is equally frequent.
      seed: of the draw.

    Returns:
      Records with gold segments and steps; ids ``math-<split>-<index>``. Validation and test
      problems differ from each other even without names and items. So do training problems, until
      no new one of a step count turns up; then problems return under other names.

    Raises:
      UserError: settings out of range, or without that many distinct problems.
    """
    check_steps(settings)
    if settings.max_value < 4:
        raise UserError(f"data.max_value must be at least 4, got {settings.max_value}")
    n_people = settings.max_steps + 1 + settings.n_distractors
    if n_people > len(NAMES):
        raise UserError(
            f"data.max_steps {settings.max_steps} and data.n_distractors "
            f"{settings.n_distractors} need {n_people} names and there are {len(NAMES)}; "
            "lower one of them"
        )
    if settings.n_fillers < 0:
        raise UserError(f"data.n_fillers must be 0 or more, got {settings.n_fillers}")
    if not 1 <= settings.n_rationales <= len(COMPUTATIONS):
        raise UserError(
            f"data.n_rationales must be from 1 to {len(COMPUTATIONS)}, got {settings.n_rationales}"
        )
    return generate("math", settings, split, n, seed, _draw_math, _write_math)


def anonymous_key(record: Record) -> str:
    """Return the question with people and items made anonymous; never the same in two splits.

    Example:
      >>> anonymous_key(Record("1", "Ben has 1 book. How many books does Ben have?", "", "1"))
      'P0 has 1 item. How many items does P0 have?'
    """
    seen: dict[str, str] = {}

    def anonymise(match):
        if match[1]:
            return seen.setdefault(match[1], f"P{len(seen)}")
        return "items" if match[2].endswith("s") else "item"

    return _ANONYMOUS.sub(anonymise, record.question)


class Written(NamedTuple):
    """A problem in words; the fields are those of ``Record``."""

    question: str
    segments: list[Segment]
    answer: str
    steps: tuple[tuple[str, str], ...] | None = None
    others: tuple[str, ...] = ()


def generate(
    kind: str,
    settings: Any,
    split: str,
    n: int,
    seed: int,
    draw: Callable[[Any, random.Random, int], Hashable],
    write: Callable[[Any, random.Random, Any, bool], Written],
) -> list[Record]:
    """Draw problems of one split; shared by the generators.

    Args:
      kind: begins the ids.
      settings: section ``data`` of the config.
      split: "train", "validation" or "test".
      n: number of problems.
      seed: of the draw.
      draw: ``(settings, rng, n_steps) -> problem``, equal where only names, wording or order
        would differ.
      write: ``(settings, rng, problem, test) -> Written``.

    Returns:
      ``n`` records of which no two have the same question, see ``make_math``.

    Raises:
      UserError: too few distinct problems found in a bounded number of draws.
    """
    if n < 1:
        raise UserError(f"data.n_{split} is {n}, but a generated source must be told how many")
    # Text of any length as a seed, and only random() afterwards: both are the same in every
    # Python version.
    rng = random.Random(f"{kind}/{split}/{seed}")
    problems, questions, records = set(), set(), []
    for i in range(n):
        n_steps = settings.min_steps + i % (settings.max_steps - settings.min_steps + 1)
        found = None
        for _ in range(_TRIES[split]):
            problem = draw(settings, rng, n_steps)
            is_new = problem not in problems
            if split_of(problem) != split or not (is_new or split == "train"):
                continue
            written = write(settings, rng, problem, split == "test")
            if written.question not in questions:
                found = written
                problems.add(problem)
                if is_new:
                    break
        if found is None:
            raise UserError(
                f"the data settings give too few distinct {split} problems of {n_steps} steps "
                f"({i} of {n} made); raise data.max_value, data.min_steps or data.n_distractors, "
                f"or lower data.n_{split}"
            )
        questions.add(found.question)
        rationale = "".join(segment.text for segment in found.segments)
        records.append(
            Record(
                f"{kind}-{split}-{i}", found.question, rationale, found.answer,
                tuple(found.segments), found.steps, found.others,
            )
        )  # fmt: skip
    return records


def split_of(problem: Hashable) -> str:
    """Return the split of a problem, the same in every process and for every seed."""
    digest = hashlib.blake2b(repr(problem).encode(), digest_size=8).digest()
    percent = int.from_bytes(digest) % 100
    for split, share in _SHARES:
        percent -= share
        if percent < 0:
            return split
    raise AssertionError("shares are percentages")


def pick(rng: random.Random, n: int) -> int:
    """Draw one of 0 ... n - 1."""
    return int(rng.random() * n)


def shuffled(rng: random.Random, items: Sequence) -> list:
    """Return the items in random order."""
    return [items[i] for _, i in sorted((rng.random(), i) for i in range(len(items)))]


def joined(texts: list[tuple[str, str]]) -> list[Segment]:
    """Make segments of (text, label), each but the last followed by a space."""
    last = len(texts) - 1
    return [Segment(text + " " * (i < last), label) for i, (text, label) in enumerate(texts)]


def template(settings: Any, rng: random.Random, choices: tuple[str, ...], test: bool) -> str:
    """Choose the wording of a fact by data.wording and data.held_out_templates."""
    if settings.wording == "plain":
        return choices[0]
    if settings.held_out_templates:
        return choices[-1] if test else choices[pick(rng, len(choices) - 1)]
    return choices[pick(rng, len(choices))]


def check_steps(settings: Any) -> None:
    """Check the settings that the generators share.

    Raises:
      UserError: a setting out of range, or two that contradict each other.
    """
    if not 1 <= settings.min_steps <= settings.max_steps:
        raise UserError(
            "data.min_steps must be at least 1 and at most data.max_steps, got "
            f"{settings.min_steps} and {settings.max_steps}"
        )
    if settings.n_distractors < 0:
        raise UserError(f"data.n_distractors must not be negative, got {settings.n_distractors}")
    if settings.held_out_templates and settings.wording != "varied":
        raise UserError('data.held_out_templates needs data.wording "varied"')


def check_unused(settings: Any, **plain: Any) -> None:
    """Check that settings a generator has no use for are as they are by default.

    Raises:
      UserError: one is not.
    """
    for name, value in plain.items():
        if settings[name] != value:
            raise UserError(
                f"data.{name} must be {value} where data.source is {settings.source}, got "
                f"{settings[name]}"
            )


# A problem: (steps, distractors). The first step is ("base", None, k) and gives value 0; step i
# is (relation, other, k), with other = the second person of a sum, and gives value i from value
# i - 1. A distractor is (relation, person it refers to or -1, k).


def _draw_math(settings, rng, n_steps):
    limit = settings.max_value
    first = 1 + pick(rng, limit)
    values, steps = [first], [("base", None, first)]
    for _ in range(n_steps):
        others = []
        if settings.wording == "varied":
            others = [j for j in range(len(values) - 1) if values[j] + values[-1] <= limit]
        relation, k, value = _relation(rng, values[-1], limit, bool(others))
        other = None
        if relation == "sum":
            other = others[pick(rng, len(others))]
            value = values[-1] + values[other]
        steps.append((relation, other, k))
        values.append(value)
    distractors = []
    for _ in range(settings.n_distractors):
        if rng.random() < 0.5:
            distractors.append(("base", -1, 1 + pick(rng, limit)))
        else:
            whom = pick(rng, len(values))
            relation, k, _ = _relation(rng, values[whom], limit, False)
            distractors.append((relation, whom, k))
    return tuple(steps), tuple(sorted(distractors))


def _relation(rng, value, limit, may_sum):
    """Draw a relation that keeps the number within 1 ... limit; return it, k and the number."""
    options = [
        relation
        for relation, possible in (
            ("more", value < limit),
            ("fewer", value > 1),
            ("twice", 2 * value <= limit),
            ("half", value % 2 == 0),
            ("sum", may_sum),
        )
        if possible
    ]
    relation = options[pick(rng, len(options))]
    if relation == "more":
        k = 1 + pick(rng, limit - value)
        return relation, k, value + k
    if relation == "fewer":
        k = 1 + pick(rng, value - 1)
        return relation, k, value - k
    return relation, 0, {"twice": 2 * value, "half": value // 2, "sum": 0}[relation]


def _write_math(settings, rng, problem, test):
    steps, distractors = problem
    n = len(steps)
    names = shuffled(rng, NAMES)[: n + len(distractors)]
    one, many = ITEMS[pick(rng, len(ITEMS)) if settings.wording == "varied" else 0]

    def count(k):
        return f"{k} {one if k == 1 else many}"

    def fact(relation, x, y, z, k):
        text = template(settings, rng, TEMPLATES[relation], test)
        return text.format(x=x, y=y, z=z, k=k, i=one if k == 1 else many, s=many)

    def computed(i, a, b, sign, style=0):
        value = values[i]
        return COMPUTATIONS[style].format(
            x=names[i], a=a, b=b, sign=sign, value=value, count=count(value)
        )

    facts, solution, values, operations = [], [], [], {}
    for i, (relation, other, k) in enumerate(steps):
        before = names[i - 1] if i else None
        facts.append(fact(relation, names[i], before, names[other] if other is not None else "", k))
        if relation == "base":
            values.append(k)
            continue
        a, b, sign = _operation(relation, values[-1], k, None if other is None else values[other])
        values.append({"+": a + b, "-": a - b, "*": a * b, "/": a // b}[sign])
        operations[i] = a, b, sign
        solution.append((facts[-1], ES))
        solution.append((computed(i, a, b, sign), AS))
    order = list(range(n))
    for j, (relation, whom, k) in enumerate(distractors):
        whose = names[whom] if relation != "base" else None
        facts.append(fact(relation, names[n + j], whose, None, k))
        # In order: anywhere after the fact it refers to.
        place = order.index(whom) + 1 if relation != "base" else 0
        order.insert(place + pick(rng, len(order) - place + 1), n + j)
    if settings.fact_order == "shuffled":
        order = shuffled(rng, order)
    question = " ".join(facts[i] for i in order)
    question += f" How many {many} does {names[n - 1]} have?"
    others = tuple(
        " ".join(f"{facts[i]} {computed(i, *own, style)}" for i, own in operations.items())
        for style in range(1, settings.n_rationales)
    )
    step = [i for i in range(1, n) for _ in range(2)]  # of each sentence
    for _ in range(settings.n_fillers):
        text = FILLERS[pick(rng, len(FILLERS))].format(x=names[pick(rng, n)], s=many)
        place = pick(rng, len(solution))  # never behind the last sentence
        solution.insert(place, (text, FILLER))
        step.insert(place, step[place])
    steps = tuple(
        (
            f"How many {many} does {names[i]} have?",
            " ".join(text for (text, _), of in zip(solution, step, strict=True) if of == i),
        )
        for i in range(1, n)
    )
    return Written(question, joined(solution), str(values[-1]), steps, others)


def _operation(relation, value, k, other):
    """Return a, b, sign of the computation ``a sign b`` of a relation."""
    return {
        "more": (value, k, "+"),
        "fewer": (value, k, "-"),
        "twice": (2, value, "*"),
        "half": (value, 2, "/"),
        "sum": (value, other, "+"),
    }[relation]
