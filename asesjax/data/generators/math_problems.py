"""Worded multi-step arithmetic whose rationale alternates ES and AS by rule.

    question   Amy has 5 apples. Ben has 3 more apples than Amy. Cleo has twice as many apples
               as Ben. How many apples does Cleo have?
    rationale  Ben has 3 more apples than Amy. Ben has 5 + 3 = 8 apples. Cleo has twice as many
               apples as Ben. Cleo has 2 * 8 = 16 apples.

ES segments repeat a fact of the question to the letter; AS segments compute, each from the last.
"""

import random
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.types import AS, ES, FILLER, Record
from asesjax.data.generators import draw
from asesjax.data.registry import SOURCES

NAMES = ("Amy", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana", "Ivan", "Jade")
ITEMS = (("apple", "apples"), ("book", "books"), ("coin", "coins"), ("shell", "shells"))
# Templates of a fact about {x}; {y} and {z} are whom it refers to, {i} is the item in the number
# that fits {k}, {s} its plural. "plain" wording uses the first. With held_out_templates the last
# is seen in the test split alone. No commas: a fact is one piece for every segmenter.
TEMPLATES = {
    "base": (
        "{x} has {k} {i}.", "{x} owns {k} {i}.", "The desk of {x} holds {k} {i}.",
        "{x} starts out with {k} {i}.",
    ),
    "more": (
        "{x} has {k} more {i} than {y}.", "{x} owns {k} {i} more than {y} does.",
        "{x} is {k} {i} ahead of what {y} has.", "{x} has as many {s} as {y} and another {k}.",
    ),
    "fewer": (
        "{x} has {k} fewer {i} than {y}.", "{x} owns {k} {i} less than {y} does.",
        "{x} is {k} {i} short of what {y} has.",
        "{x} has as many {s} as {y} would after losing {k}.",
    ),
    "twice": (
        "{x} has twice as many {s} as {y}.", "{x} owns double the {s} of {y}.",
        "{x} has two {s} for each one that {y} has.", "{x} has two times the {s} that {y} has.",
    ),
    "half": (
        "{x} has half as many {s} as {y}.", "{x} owns half the {s} of {y}.",
        "{x} has one for every two {s} that {y} has.", "{x} has one half of the {s} that {y} has.",
    ),
    "sum": (
        "{x} has as many {s} as {y} and {z} together.", "{x} owns the {s} of {y} and {z} combined.",
        "{x} has what {y} and {z} have in {s} if counted together.",
        "{x} has the {s} of {y} plus the {s} of {z}.",
    ),
}  # fmt: skip
# Wordings of a computation: the chain's own, and those of further rationales of the question.
COMPUTATIONS = (
    "{x} has {a} {sign} {b} = {count}.",
    "{a} {sign} {b} = {value} so {x} has {count}.",
    "As {a} {sign} {b} = {value} we know that {x} has {count}.",
    "For {x} that makes {a} {sign} {b} = {count}.",
)
# Sentences that help nobody.
FILLERS = (
    "Let us go on with the story.", "This is a nice problem about {s}.", "We keep that in mind.",
    "{x} likes {s} very much.", "Now comes the next part.", "That was not hard to see.",
)  # fmt: skip


@SOURCES.register("synthetic_math")
def make_math(settings: Any, split: str, n: int, seed: int) -> list[Record]:
    """Make worded arithmetic problems with steps, as ``draw.generate`` does.

    Given and computed numbers are 1 to max_value. "varied" wording draws among templates and items,
    and adds "as many as two others together". A distractor gives somebody off the chain a number,
    half the time in terms of somebody on it. Fillers stand anywhere but at the end.
    """
    draw.check_settings(settings, n_words=300)
    if settings.max_value < 4:
        raise UserError(f"data.max_value must be at least 4, got {settings.max_value}")
    most = max(settings.max_steps, settings.test_max_steps)
    n_people = most + 1 + settings.n_distractors
    if n_people > len(NAMES):
        raise UserError(
            f"data.max_steps {most} and data.n_distractors {settings.n_distractors} "
            f"need {n_people} names and there are {len(NAMES)}; lower one of them"
        )
    if settings.n_rationales > len(COMPUTATIONS):
        raise UserError(
            f"data.n_rationales must be from 1 to {len(COMPUTATIONS)}, got {settings.n_rationales}"
        )
    return draw.generate("math", settings, split, n, seed, _draw, _write)


# A problem: (steps, distractors). The first step is ("base", None, k) and gives value 0; step i
# is (relation, other, k), with other = the second person of a sum, and gives value i from value
# i - 1. A distractor is (relation, person it refers to or -1, k).


def _draw(settings, rng: random.Random, n_steps: int) -> tuple:
    limit = settings.max_value
    values = [1 + draw.pick(rng, limit)]
    steps: list[tuple[str, int | None, int]] = [("base", None, values[0])]
    for _ in range(n_steps):
        others = [j for j, value in enumerate(values[:-1])
                  if settings.wording == "varied" and value + values[-1] <= limit]  # fmt: skip
        relation, k = _relation(rng, values[-1], limit, bool(others))
        other = others[draw.pick(rng, len(others))] if relation == "sum" else None
        steps.append((relation, other, k))
        term = None if other is None else values[other]
        values.append(_COMPUTE[relation](values[-1], k, term)[-1])
    distractors = []
    for _ in range(settings.n_distractors):
        if rng.random() < 0.5:
            distractors.append(("base", -1, 1 + draw.pick(rng, limit)))
        else:
            whom = draw.pick(rng, len(values))
            relation, k = _relation(rng, values[whom], limit, False)
            distractors.append((relation, whom, k))
    return tuple(steps), tuple(sorted(distractors))


def _relation(rng, value: int, limit: int, may_sum: bool) -> tuple[str, int]:
    """Draw a relation that keeps the number within 1 ... limit, and its k."""
    possible = {
        "more": value < limit, "fewer": value > 1, "twice": 2 * value <= limit,
        "half": value % 2 == 0, "sum": may_sum,
    }  # fmt: skip
    options = [relation for relation, may in possible.items() if may]
    relation = options[draw.pick(rng, len(options))]
    bound = {"more": limit - value, "fewer": value - 1}.get(relation)
    return relation, 1 + draw.pick(rng, bound) if bound else 0


# a, sign, b, c of the computation ``a sign b = c`` of each relation.
_COMPUTE = {
    "more": lambda value, k, other: (value, "+", k, value + k),
    "fewer": lambda value, k, other: (value, "-", k, value - k),
    "twice": lambda value, k, other: (2, "*", value, 2 * value),
    "half": lambda value, k, other: (value, "/", 2, value // 2),
    "sum": lambda value, k, other: (value, "+", other, value + other),
}


def _write(settings, rng: random.Random, problem: tuple, test: bool) -> Record:
    steps, distractors = problem
    n = len(steps)
    names = draw.shuffled(rng, NAMES)[: n + len(distractors)]
    one, many = ITEMS[draw.pick(rng, len(ITEMS)) if settings.wording == "varied" else 0]

    def item(k):
        return one if k == 1 else many

    def fact(relation, x, y, z, k):
        text = draw.template(settings, rng, TEMPLATES[relation], test)
        return text.format(x=x, y=y, z=z, k=k, i=item(k), s=many)

    def asked(i):
        return f"How many {many} does {names[i]} have?"

    facts, computations, values = [], {}, list[int]()
    for i, (relation, other, k) in enumerate(steps):
        second, term = (None, None) if other is None else (names[other], values[other])
        facts.append(fact(relation, names[i], names[i - 1], second, k))
        if relation == "base":
            values.append(k)
            continue
        a, sign, b, value = _COMPUTE[relation](values[-1], k, term)
        values.append(value)
        count = f"{value} {item(value)}"
        computations[i] = [text.format(x=names[i], a=a, b=b, sign=sign, value=value, count=count)
                           for text in COMPUTATIONS]  # fmt: skip
    order = list(range(n))
    for j, (relation, whom, k) in enumerate(distractors):
        facts.append(fact(relation, names[n + j], names[whom], None, k))
        # In order: anywhere after the fact it refers to.
        place = order.index(whom) + 1 if relation != "base" else 0
        order.insert(place + draw.pick(rng, len(order) - place + 1), n + j)
    if settings.fact_order == "shuffled":
        order = draw.shuffled(rng, order)
    question = " ".join([*(facts[i] for i in order), asked(n - 1)])
    others = tuple(" ".join(f"{facts[i]} {texts[style]}" for i, texts in computations.items())
                   for style in range(1, settings.n_rationales))  # fmt: skip
    # (step, sentence, label)
    solution = [part for i, texts in computations.items()
                for part in ((i, facts[i], ES), (i, texts[0], AS))]  # fmt: skip
    for _ in range(settings.n_fillers):
        text = FILLERS[draw.pick(rng, len(FILLERS))].format(x=names[draw.pick(rng, n)], s=many)
        place = draw.pick(rng, len(solution))  # never behind the last sentence
        solution.insert(place, (solution[place][0], text, FILLER))
    pairs = tuple((asked(i), " ".join(text for step, text, _ in solution if step == i))
                  for i in range(1, n))  # fmt: skip
    solution, answer = [(text, label) for _, text, label in solution], str(values[-1])
    return draw.labelled_record("", question, solution, answer, steps=pairs, others=others)
