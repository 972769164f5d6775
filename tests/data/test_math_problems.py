"""Generated arithmetic: every sentence is parsed and computed again, independently of the code."""

import dataclasses
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.config import base_config
from asesjax.core.errors import UserError
from asesjax.core.types import AS, ES, FILLER
from asesjax.data.generators.draw import split_of
from asesjax.data.generators.math_problems import FILLERS, make_math
from asesjax.segmentation.pieces import split_pieces

SPLITS = ("train", "validation", "test")
N = r"([A-Z][a-z]+)"  # a name
I = r"(?:apple|book|coin|shell)s?"  # noqa: E741

# Every wording again, written as what it means. Groups: names first come, first served.
MEANING = {
    "base": [rf"{N} has (\d+) {I}", rf"{N} owns (\d+) {I}", rf"The desk of {N} holds (\d+) {I}",
             rf"{N} starts out with (\d+) {I}"],
    "more": [rf"{N} has (\d+) more {I} than {N}", rf"{N} owns (\d+) {I} more than {N} does",
             rf"{N} is (\d+) {I} ahead of what {N} has",
             rf"{N} has as many {I} as {N} and another (\d+)"],
    "fewer": [rf"{N} has (\d+) fewer {I} than {N}", rf"{N} owns (\d+) {I} less than {N} does",
              rf"{N} is (\d+) {I} short of what {N} has",
              rf"{N} has as many {I} as {N} would after losing (\d+)"],
    "twice": [rf"{N} has twice as many {I} as {N}", rf"{N} owns double the {I} of {N}",
              rf"{N} has two {I} for each one that {N} has",
              rf"{N} has two times the {I} that {N} has"],
    "half": [rf"{N} has half as many {I} as {N}", rf"{N} owns half the {I} of {N}",
             rf"{N} has one for every two {I} that {N} has",
             rf"{N} has one half of the {I} that {N} has"],
    "sum": [rf"{N} has as many {I} as {N} and {N} together",
            rf"{N} owns the {I} of {N} and {N} combined",
            rf"{N} has what {N} and {N} have in {I} if counted together",
            rf"{N} has the {I} of {N} plus the {I} of {N}"],
}  # fmt: skip
COMPUTATION = re.compile(rf"{N} has (\d+) ([-+*/]) (\d+) = (\d+) ({I})\.")


def settings_of(**changed):
    data = base_config().data
    for name, value in ({"max_value": 15} | changed).items():
        data[name] = value
    return data


def parse(sentence):
    """Return relation, template number, whom it is about, whom it refers to, k."""
    found = []
    for relation, patterns in MEANING.items():
        for i, pattern in enumerate(patterns):
            match = re.fullmatch(pattern + r"\.", sentence)
            if match:
                names = [group for group in match.groups() if not group.isdigit()]
                numbers = [int(group) for group in match.groups() if group.isdigit()]
                found.append((relation, i, names[0], names[1:], numbers))
    assert len(found) == 1, (sentence, found)
    return found[0]


def solve(facts):
    """Return everybody's number and whom each needs, from the facts alone."""
    values, needs = {}, {}
    while len(values) < len(facts):
        before = len(values)
        for relation, _, who, others, numbers in facts:
            if who not in values and all(other in values for other in others):
                given = [values[other] for other in others] + numbers
                values[who] = {
                    "base": lambda a: a,
                    "more": lambda a, b: a + b,
                    "fewer": lambda a, b: a - b,
                    "twice": lambda a: a * 2,
                    "half": lambda a: a / 2,
                    "sum": lambda a, b: a + b,
                }[relation](*given)
                needs[who] = set(others).union(*(needs[other] for other in others))
        assert len(values) > before, "facts refer to each other in a circle"
    return values, needs


def check(record, data):
    *sentences, last = record.question.split(". ")
    sentences = [sentence + "." for sentence in sentences]
    asked = re.fullmatch(rf"How many ({I}) does {N} have\?", last)
    facts = [parse(sentence) for sentence in sentences]
    assert len({who for _, _, who, _, _ in facts}) == len(facts)
    values, needs = solve(facts)
    assert all(1 <= value <= data.max_value for value in values.values())
    assert all(1 <= k <= data.max_value for fact in facts for k in fact[4])
    who = asked[2]
    assert record.answer == str(int(values[who])) and values[who] == int(values[who])

    assert "".join(segment.text for segment in record.gold) == record.rationale
    labels = [segment.label for segment in record.gold]
    n_steps = len(labels) // 2
    assert labels == [ES, AS] * n_steps and data.min_steps <= n_steps <= data.max_steps
    # The asked person needs exactly the chain: one base fact and n_steps - 1 others between.
    assert len(needs[who]) == n_steps
    assert len(facts) == n_steps + 1 + data.n_distractors
    known = {name: values[name] for name in needs[who] if not needs[name]}
    for es, computed in zip(record.gold[::2], record.gold[1::2], strict=True):
        assert es.text.rstrip() in sentences
        relation, _, name, others, numbers = parse(es.text.rstrip())
        match = COMPUTATION.fullmatch(computed.text.rstrip())
        assert match[1] == name
        a, b, result = int(match[2]), int(match[4]), int(match[5])
        assert {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[match[3]] == result
        operands = [known[other] for other in others] + numbers
        operands += [2] if relation in ("twice", "half") else []
        assert sorted((a, b)) == sorted(operands), (es, computed)
        assert match[6].endswith("s") == (result != 1)
        known[name] = result
    assert known[who] == values[who]
    for k, item in re.findall(rf"(\d+) (?:more |fewer )?({I})", record.question):
        assert item.endswith("s") == (k != "1")
    return facts


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 3),
    st.integers(0, 2),
    st.sampled_from([12, 15, 99]),
    st.integers(0, 2),
    st.sampled_from(["plain", "varied"]),
    st.sampled_from(["in_order", "shuffled"]),
    st.sampled_from(SPLITS),
    st.integers(0, 1000),
)
def test_every_sentence_holds(low, more, max_value, n_distractors, wording, order, split, seed):
    data = settings_of(
        min_steps=low, max_steps=low + more, max_value=max_value, n_distractors=n_distractors,
        wording=wording, fact_order=order,
    )  # fmt: skip
    records = make_math(data, split, 12, seed)
    assert len({record.id for record in records}) == 12
    for i, record in enumerate(records):
        facts = check(record, data)
        assert len(record.gold) == 2 * (low + i % (more + 1))
        if wording == "plain":
            assert all(template == 0 for _, template, *_ in facts)
        if order == "in_order":
            seen = set()
            for _, _, who, others, _ in facts:
                assert seen.issuperset(others)
                seen.add(who)


def test_an_example_in_full():
    (record,) = make_math(settings_of(min_steps=2, max_steps=2), "train", 1, 0)
    # Generated data may not change between versions: results could not be compared.
    assert record.question == EXAMPLE[0]
    assert [segment.text for segment in record.gold] == EXAMPLE[1]
    assert (record.id, record.answer) == ("math-train-0", EXAMPLE[2])


EXAMPLE = (
    "Ivan has 6 apples. Amy has half as many apples as Ivan. Cleo has 10 more apples than Amy. "
    "How many apples does Cleo have?",
    [
        "Amy has half as many apples as Ivan. ",
        "Amy has 6 / 2 = 3 apples. ",
        "Cleo has 10 more apples than Amy. ",
        "Cleo has 3 + 10 = 13 apples.",
    ],
    "13",
)


def test_same_seed_same_records_other_seed_others():
    data = settings_of(n_distractors=1)
    first = make_math(data, "test", 50, 3)
    assert first == make_math(data, "test", 50, 3)
    # The first problems of a longer list are those of a shorter one.
    assert make_math(data, "test", 80, 3)[:50] == first
    assert not set(r.question for r in first) & set(
        r.question for r in make_math(data, "test", 50, 4)
    )


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"n_distractors": 1, "fact_order": "shuffled"},
        {"wording": "varied", "max_value": 30},
        {"max_value": 12, "max_steps": 3},
    ],
    ids=str,
)
def test_splits_share_no_problem(changed):
    data = settings_of(**changed)
    keys = {}
    for split, n in (("train", 4000), ("validation", 200), ("test", 300)):
        # Different seeds must not help either.
        records = make_math(data, split, n, 0) + make_math(data, split, n, 1)
        keys[split] = {order_free(record) for record in records}
        one_seed = [order_free(record) for record in records[:n]]
        if split != "train":
            assert len(set(one_seed)) == n
        assert len({record.question for record in records[:n]}) == n
    assert not keys["train"] & keys["test"]
    assert not keys["train"] & keys["validation"]
    assert not keys["validation"] & keys["test"]


def order_free(record):
    """Return the facts with names numbered by what they say, in no order and no wording."""
    facts = [parse(sentence + ".") for sentence in record.question.split(". ")[:-1]]
    values, needs = solve(facts)
    who = re.search(rf"does {N} have", record.question)[1]
    by_name = {fact[2]: (fact[0], fact[3], fact[4]) for fact in facts}

    def meaning(name):
        relation, others, numbers = by_name[name]
        return (relation, *numbers, *(meaning(other) for other in others))

    rest = sorted(str(meaning(name)) for name in by_name if name not in needs[who] | {who})
    return str(meaning(who)), tuple(rest)


def test_held_out_templates_are_seen_in_the_test_split_alone():
    data = settings_of(wording="varied", held_out_templates=True, n_distractors=2)
    used = {}
    for split in SPLITS:
        facts = [fact for record in make_math(data, split, 150, 0) for fact in check(record, data)]
        used[split] = {(relation, template) for relation, template, *_ in facts}
    assert not used["test"] & (used["train"] | used["validation"])
    assert {relation for relation, _ in used["test"]} == set(MEANING)
    assert used["train"] == {(r, i) for r in MEANING for i in range(3)}
    data.held_out_templates = False
    facts = [f for record in make_math(data, "test", 150, 0) for f in check(record, data)]
    assert len({fact[:2] for fact in facts}) == 24


def test_distractors_refer_to_the_chain_or_to_nobody():
    data = settings_of(n_distractors=1, fact_order="shuffled")
    kinds = set()
    for record in make_math(data, "train", 200, 0):
        facts = [parse(sentence + ".") for sentence in record.question.split(". ")[:-1]]
        values, needs = solve(facts)
        who = re.search(rf"does {N} have", record.question)[1]
        (extra,) = [fact for fact in facts if fact[2] not in needs[who] | {who}]
        kinds.add(extra[0] == "base")
    assert kinds == {True, False}


def test_gold_segments_are_the_pieces_of_the_segmenter():
    data = settings_of(wording="varied", n_distractors=1)
    for record in make_math(data, "train", 100, 0):
        pieces = split_pieces(record.rationale)
        assert [record.rationale[a:b] for a, b in pieces] == [s.text for s in record.gold]


def test_answers_are_spread():
    records = make_math(settings_of(n_distractors=1), "test", 600, 0)
    answers = [int(record.answer) for record in records]
    assert set(answers) == set(range(1, 16))
    # Always saying the commonest number is no good.
    assert max(answers.count(value) for value in range(1, 16)) < 0.15 * len(answers)


def test_splits_are_stable_and_of_the_right_size():
    assert [split_of(("base", i)) for i in range(8)] == SPLITS_OF_EIGHT
    got = [split_of((i,)) for i in range(5000)]
    shares = [got.count(split) / 5000 for split in SPLITS]
    assert shares == pytest.approx([0.7, 0.1, 0.2], abs=0.02)


SPLITS_OF_EIGHT = ["test", "train", "train", "test", "train", "test", "validation", "train"]


def test_settings_out_of_range_are_refused():
    def message(split="train", n=5, **changed):
        with pytest.raises(UserError) as error:
            make_math(settings_of(**changed), split, n, 0)
        return str(error.value)

    assert "got 5 and 4" in message(min_steps=5)
    assert "data.max_value must be at least 4" in message(max_value=3)
    assert "need 11 names and there are 10" in message(n_distractors=6)
    assert 'needs data.wording "varied"' in message(held_out_templates=True)
    assert "data.n_test is 0" in message("test", 0)
    few = message("test", 500, min_steps=1, max_steps=1, max_value=4)
    assert "too few distinct test problems of 1 steps" in few and "lower data.n_test" in few
    few = message("train", 5000, min_steps=1, max_steps=1, max_value=4)
    assert "too few distinct train problems of 1 steps" in few


def test_twenty_thousand_problems_can_be_made():
    assert len(make_math(settings_of(), "train", 20000, 0)) == 20000


def test_steps_are_the_chain_with_its_questions():
    for record in make_math(settings_of(n_fillers=1), "train", 40, 0):
        assert " ".join(text for _, text in record.steps) == record.rationale
        asked = [re.fullmatch(rf"How many {I} does {N} have\?", question)[1]
                 for question, _ in record.steps]  # fmt: skip
        computed = [match[1] for match in COMPUTATION.finditer(record.rationale)]
        assert asked == computed
        assert record.question.endswith(record.steps[-1][0])


def test_fillers_change_nothing_else():
    worded = [re.escape(text).replace(r"\{x\}", N).replace(r"\{s\}", I) for text in FILLERS]
    pattern = "|".join(worded)
    plain = make_math(settings_of(), "train", 60, 0)
    places = set()
    for n in (1, 3):
        for record in make_math(settings_of(n_fillers=n), "train", 60, 0):
            kinds = [segment.label for segment in record.gold]
            assert kinds.count(FILLER) == n and kinds[-1] == AS
            places |= {i for i, kind in enumerate(kinds) if kind == FILLER}
            for segment in record.gold:
                is_filler = re.fullmatch(pattern, segment.text.strip())
                assert bool(is_filler) == (segment.label == FILLER)
            needed = [segment.label for segment in record.gold if segment.label != FILLER]
            assert needed == [ES, AS] * len(record.steps)
    assert places >= set(range(6))
    assert all(s.label != FILLER for record in plain for s in record.gold)


def test_other_rationales_compute_the_same():
    plain = make_math(settings_of(), "train", 30, 0)
    several = make_math(settings_of(n_rationales=4), "train", 30, 0)
    computing = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
    for one, record in zip(plain, several, strict=True):
        assert dataclasses.replace(record, others=()) == one and len(set(record.others)) == 3
        for text in record.others:
            assert text != record.rationale
            assert computing.findall(text) == computing.findall(record.rationale)
    with pytest.raises(UserError, match="n_rationales must be from 1 to 4, got 5"):
        make_math(settings_of(n_rationales=5), "train", 3, 0)


def test_test_problems_may_be_longer():
    own = settings_of(max_steps=3, test_max_steps=6)
    for split, most in (("train", 3), ("validation", 3), ("test", 6)):
        steps = [record.rationale.count("=") for record in make_math(own, split, 10, seed=0)]
        assert set(steps) == set(range(2, most + 1))
    short = settings_of(max_steps=3, test_max_steps=1)
    with pytest.raises(UserError, match="at most data.test_max_steps, got 2 and 1"):
        make_math(short, "train", 1, seed=0)
