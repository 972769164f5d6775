"""The majority vote against a brute-force count."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asesjax.evals.vote import vote

CHAINS = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", "3", None]),
        # Few values, powers of two: ties happen, and their sums are exact.
        st.sampled_from([1.0, 0.5, 0.25, 0.125, 0.0]),
    ),
    min_size=1,
    max_size=8,
)


def log(p):
    return math.log(p) if p else -math.inf


def by_hand(chains):
    """Answer, chain, votes and tie, from the definition, by trying every answer."""
    answers = [answer for answer, _ in chains if answer is not None]
    if not answers:
        return None, max(range(len(chains)), key=lambda i: (chains[i][1], -i)), {}, False

    def rank(answer):
        mine = [p for a, p in chains if a == answer]
        first = min(i for i, (a, _) in enumerate(chains) if a == answer)
        return len(mine), sum(mine), -first

    winner = max(set(answers), key=rank)
    with_it = [i for i, (a, _) in enumerate(chains) if a == winner]
    most = answers.count(winner)
    return (
        winner,
        max(with_it, key=lambda i: (chains[i][1], -i)),
        {a: answers.count(a) for a in answers},
        sum(answers.count(a) == most for a in set(answers)) > 1,
    )


@given(CHAINS)
def test_against_brute_force(chains):
    answers, p = zip(*chains, strict=True)
    got = vote(answers, [log(x) for x in p])
    assert tuple(got) == by_hand(chains)
    assert list(got.votes)[:1] == ([] if got.answer is None else [got.answer])
    assert list(got.votes.values()) == sorted(got.votes.values(), reverse=True)


@pytest.mark.parametrize(
    "answers, p, want",
    [
        # A tie goes to the answer with the more probable chains together, not the likeliest one.
        (["1", "2", "2", "1"], [0.5, 0.45, 0.4, 0.1], ("2", 1, True)),
        (["1", "2"], [0.2, 0.2], ("1", 0, True)),
        (["1", "2", "2"], [0.9, 0.01, 0.02], ("2", 2, False)),
        ([None, None, "3"], [0.9, 0.8, 0.01], ("3", 2, False)),
        ([None, None], [0.1, 0.2], (None, 1, False)),
        (["1", "2"], [math.nan, 0.1], ("2", 1, True)),
    ],
)
def test_by_example(answers, p, want):
    got = vote(answers, [x if math.isnan(x) else log(x) for x in p])
    assert (got.answer, got.chain, got.tied) == want


def test_very_improbable_chains_keep_their_order():
    assert vote(["1", "2", "2", "1"], [-2000.0, -1990.0, -2100.0, -1995.0]).answer == "2"
    assert vote(["1", "2"], [-math.inf, -3000.0]) == ("2", 1, {"2": 1, "1": 1}, True)
