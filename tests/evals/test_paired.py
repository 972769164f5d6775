"""Intervals and tests against scipy, against enumeration, and under the null hypothesis."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from asesjax.core.errors import UserError
from asesjax.evals.paired import (
    compare,
    compared_with,
    holm,
    mean_interval,
    paired_t,
    sign_flip,
    versus,
)

SHARES = st.lists(st.integers(0, 50).map(lambda n: n / 50), min_size=2, max_size=8)
DIFFERENCES = st.lists(st.integers(-3, 3), min_size=1, max_size=9)


@given(SHARES)
def test_intervals_are_scipys(values):
    found = mean_interval(values)
    assert found.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert found.sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    if found.sd > 0:
        theirs = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert found.interval == pytest.approx(theirs, abs=1e-9)
    else:
        assert found.interval is None


def test_a_single_seed_claims_nothing():
    assert mean_interval([0.5]) == (0.5, None, None)
    assert paired_t([0.1]) is None


@given(SHARES, st.randoms(use_true_random=False))
def test_paired_t_is_scipys(values, random):
    others = [random.randrange(50) / 50 for _ in values]
    differences = [a - b for a, b in zip(values, others, strict=True)]
    if np.std(differences) < 1e-9:  # scipy gives no number, or an arbitrary one
        return
    assert paired_t(differences) == pytest.approx(stats.ttest_rel(values, others).pvalue)


def test_differences_without_spread():
    assert paired_t([0.0, 0.0]) == 1 and paired_t([0.5, 0.5, 0.5]) == 0


def flipped(differences):
    """The sums of all ways to give the differences signs."""
    ways = itertools.product((1, -1), repeat=len(differences))
    return np.array([np.dot(signs, differences) for signs in ways])


@given(DIFFERENCES)
def test_sign_flip_is_enumeration(differences):
    sums = flipped(differences)
    want = np.mean(np.abs(sums) >= abs(sum(differences)))
    assert sign_flip(differences) == pytest.approx(want, abs=1e-12)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 5))
def test_sign_flip_of_single_questions_is_mcnemars(better, worse, ties):
    found = sign_flip([1] * better + [0] * ties + [-1] * worse)
    discordant = better + worse
    want = stats.binomtest(better, discordant, 0.5).pvalue if discordant else 1.0
    assert found == pytest.approx(want)


@settings(max_examples=30, deadline=None)
@given(DIFFERENCES, st.sampled_from([0.01, 0.05, 0.2, 0.5]))
def test_sign_flip_holds_its_level(sizes, level):
    """If signs are random, p is at most the level no more often than the level says."""
    ways = itertools.product((1, -1), repeat=len(sizes))
    ps = [sign_flip([s * d for s, d in zip(signs, sizes, strict=True)]) for signs in ways]
    assert np.mean(np.array(ps) <= level + 1e-12) <= level + 1e-12


def test_sign_flip_of_many_questions():
    p = sign_flip([1] * 900 + [-1] * 600)
    assert p == pytest.approx(stats.binomtest(900, 1500).pvalue, rel=1e-6) and p < 1e-13
    assert sign_flip([1, -1] * 2000) == 1.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_rejects_as_the_stepwise_rule_does(ps):
    corrected = holm(ps)
    for level in (0.01, 0.05, 0.3):
        rejected, left = set(), sorted(range(len(ps)), key=lambda i: ps[i])
        while left and ps[left[0]] * len(left) <= level:
            rejected.add(left.pop(0))
        assert {i for i, p in enumerate(corrected) if p <= level} == rejected


def outcomes(text):
    """Right and wrong as + and -, of questions 0, 1, ..."""
    return {place: mark == "+" for place, mark in enumerate(text)}


def test_methods_are_compared_on_the_same_questions():
    ours, theirs = ["++-+", "+++-"], ["-+--", "--+-"]
    # Questions of each seed are different ones, as generated data are.
    own = [{(s, q): r for q, r in outcomes(t).items()} for s, t in enumerate(ours)]
    other = [{(s, q): r for q, r in outcomes(t).items()} for s, t in enumerate(theirs)]
    found = versus(own, other)
    assert found.difference == pytest.approx(0.5) and (found.better, found.worse) == (4, 0)
    assert found.p_questions == pytest.approx(stats.binomtest(4, 4).pvalue)
    assert found.p_seeds == 0  # both seeds differ by 0.5
    back = versus(other, own)
    assert back.difference == -found.difference and (back.better, back.worse) == (0, 4)
    assert back[2:4] == found[2:4]


def test_a_question_that_seeds_share_counts_once():
    """Its outcomes depend on each other: seeds that agree are no further evidence."""
    own, other = outcomes("+++-"), outcomes("---+")
    one, three = versus([own], [other]), versus([own] * 3, [other] * 3)
    assert one.p_questions == three.p_questions == stats.binomtest(3, 4).pvalue
    assert (three.better, three.worse) == (9, 3)
    mixed = versus([outcomes("+-"), outcomes("++")], [outcomes("--"), outcomes("-+")])
    assert mixed.p_questions == pytest.approx(np.mean(np.abs(flipped([2, 0])) >= 2)) == 1.0


def test_other_questions_are_refused():
    with pytest.raises(UserError, match="different test questions"):
        versus([outcomes("++")], [outcomes("+++")])


def test_rows_of_a_comparison():
    rights = {"direct": ["++--", "+---"], "usm": ["+++-", "++--"], "none": ["----", "----"]}
    methods = {name: [outcomes(text) for text in own] for name, own in rights.items()}
    rows = {row["method"]: row for row in compare(methods, "direct")}
    assert list(rows) == list(rights) and rows["direct"]["versus"] is None
    assert rows["usm"]["accuracies"] == [0.75, 0.5] and rows["usm"]["mean"] == 0.625
    assert rows["usm"]["versus"]["difference"] == 0.25
    ps = [rows[name]["versus"]["p_questions"] for name in ("usm", "none")]
    corrected = [rows[name]["versus"]["p_questions_holm"] for name in ("usm", "none")]
    assert corrected == holm(ps)
    single = compare({name: own[:1] for name, own in methods.items()}, "direct")
    assert single[1]["interval"] is None and single[1]["versus"]["p_seeds_holm"] is None
    assert all(row["versus"] is None for row in compare(methods, None))


def test_rows_are_compared_with_the_row_of_their_ending():
    names = ["direct_200", "direct_4x_200", "usm_200", "usm_entropy_200", "usm_400", "step_by_200"]
    found = {name: compared_with(name, "direct", names) for name in names}
    assert found == {"direct_200": None, "direct_4x_200": "direct_200", "usm_200": "direct_200",
                     "usm_entropy_200": "direct_200", "usm_400": None,
                     "step_by_200": "direct_200"}  # fmt: skip
    assert compared_with("step_by_step", "direct", ["direct", "step_by_step"]) == "direct"
