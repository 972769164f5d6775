"""Which chunks are kept, on students that are plain rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asesjax.methods.skip_thinking.skip_data import find_kept

ORDERS = pytest.mark.parametrize("order", ["front_to_back", "back_to_front"])


def student(chains, able=True):
    """Knows the needed chunks of each chain, and writes those it lacks in turn, never a filler."""

    def right(trials):
        out = []
        for i, own, following in trials:
            needed = [m for m, is_needed in enumerate(chains[i]) if is_needed]
            lacks = [m for m in needed if m not in own]
            out.append(able and len(lacks) <= len(following))
        return out

    return right


def anything(i, m):
    return True


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=7), min_size=1, max_size=5))
def test_back_to_front_finds_the_needed_chunks(chains):
    sizes = [len(chain) for chain in chains]
    kept, before, after = find_kept(sizes, anything, student(chains), "back_to_front")
    assert all(before) and all(after)
    for own, chain in zip(kept, chains, strict=True):
        assert own == [m for m, is_needed in enumerate(chain) if is_needed]


def test_front_to_back_keeps_all_where_the_kept_chunks_are_not_enough():
    # Chunk 0 is needed, but the student writes it in the place of chunk 2, which nobody needs.
    # Then chunk 2 must stay, and what is kept is not enough: everything is.
    chains = [[True, True, False, True]]
    seen = []

    def right(trials):
        answers = student(chains)(trials)
        seen.extend(zip(trials, answers, strict=True))
        return answers

    kept, _, after = find_kept([4], anything, right, "front_to_back")
    assert [(list(own), list(rest), ok) for (_, own, rest), ok in seen] == [
        ([], [1, 2, 3], True),
        ([], [2, 3], False),
        ([1], [3], False),
        ([1, 2], [], False),
        ([0, 1, 2, 3], [], True),
        ([1, 2, 3], [], False),
    ]
    assert kept == [[0, 1, 2, 3]] and after == [True]


@ORDERS
@given(chains=st.lists(st.lists(st.booleans(), min_size=1, max_size=7), min_size=1, max_size=5))
def test_both_orders_find_the_needed_chunks_of_a_student_that_writes_by_stage(order, chains):
    """It writes what belongs to each stage, as the teacher's own chunks would."""

    def right(trials):
        return [
            all(not needed or m in own or m in rest for m, needed in enumerate(chains[i]))
            for i, own, rest in trials
        ]

    kept, before, after = find_kept(list(map(len, chains)), anything, right, order)
    assert all(before) and all(after)
    assert kept == [[m for m, needed in enumerate(chain) if needed] for chain in chains]


@ORDERS
def test_a_student_that_is_never_right_keeps_everything(order):
    chains = [[True, True, False, False], [False], [True, False]]
    kept, before, after = find_kept([4, 1, 2], anything, student(chains, able=False), order)
    assert kept == [[0, 1, 2, 3], [0], [0, 1]] and not any(before) and not any(after)


@ORDERS
def test_protected_chunks_are_never_tried(order):
    tried = []

    def right(trials):
        tried.extend((len(own), len(rest)) for _, own, rest in trials)
        return [True] * len(trials)

    middle = lambda i, m: 0 < m < 3  # noqa: E731
    kept, _, _ = find_kept([4], middle, right, order)
    assert kept == [[0, 3]]
    assert len(tried) == 4 and (4, 0) in tried and (2, 0) in tried
