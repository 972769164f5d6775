"""The schedule: its identities, its solver against brute force, its speed only in benchmarks."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.methods.kpod.options import KpodOptions
from asesjax.methods.kpod.schedule import (
    begins,
    ceilings,
    make_schedule,
    select,
    step_difficulties,
    value,
)

KPOD = KpodOptions(n_stages=5, start_share=0.3, power=0.5, beta=2.0, steps_at_once=1)


@st.composite
def problems(draw, most=30):
    """Step difficulties, clusters and mean losses of some questions."""
    n = draw(st.integers(1, most))
    number = st.floats(0.0, 8.0, allow_subnormal=False)
    steps = [draw(st.lists(number, min_size=1, max_size=5)) for _ in range(n)]
    clusters = draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    losses = draw(st.lists(number, min_size=n, max_size=n))
    return [np.array(own) for own in steps], np.array(clusters), np.array(losses)


@st.composite
def all_settings(draw):
    return KpodOptions(
        schedule=draw(st.sampled_from(("progressive", "self_paced"))),
        n_stages=draw(st.integers(1, 8)),
        start_share=draw(st.floats(0, 1)),
        power=draw(st.floats(0, 3)),
        beta=draw(st.sampled_from((0.0, 0.5, 12.0))),
        steps_at_once=draw(st.integers(1, 3)),
    )


@given(problems(), all_settings())
@settings(deadline=None, max_examples=150)
def test_every_schedule_keeps_its_ceiling_and_never_gives_more(problem, chosen):
    difficulties, clusters, losses = problem
    made = make_schedule(difficulties, clusters, losses, chosen)
    total = sum(own.sum() for own in difficulties)
    n_steps = np.array([len(own) for own in difficulties])
    close = 1e-9 * max(total, 1.0)
    assert made.given.shape == (chosen.n_stages + 1, len(difficulties))
    assert abs(made.ceiling[0] - chosen.start_share * total) <= close  # D(0) = C0
    assert abs(made.ceiling[-1] - total) <= close  # D(T) = B
    assert (np.diff(made.ceiling) >= -close).all()
    # Given steps are some of the first, and never become more.
    assert (made.given >= 0).all() and (made.given <= n_steps).all()
    assert (np.diff(made.given, axis=0) <= 0).all()
    # H is what the table says, and stays below its ceiling: dH <= dD at every stage.
    for row, difficulty, ceiling in zip(made.given, made.difficulty, made.ceiling, strict=True):
        left = sum(own[c:].sum() for own, c in zip(difficulties, row, strict=True))
        assert abs(left - difficulty) <= close
        assert difficulty <= ceiling + close
    if chosen.schedule == "progressive":
        falls = -np.diff(made.given, axis=0)
        assert set(np.unique(falls)) <= set(range(chosen.steps_at_once + 1))
        assert [int((row > 0).sum()) for row in falls] == list(made.chosen[1:])
    else:
        assert ((made.given == 0) | (made.given == n_steps)).all()
        assert (made.given[-1] == 0).all()


def test_ceilings_follow_the_differential_equation():
    """dD/dt = u t^p with D(0) = C0 and D(T) = B, by numbers."""
    chosen = dataclasses.replace(KPOD, n_stages=4000, power=0.5)
    values = ceilings(100.0, chosen)
    u = (100.0 - 30.0) * 1.5 / 4000**1.5
    t = np.arange(4000) + 0.5
    np.testing.assert_allclose(np.diff(values)[100:], u * t[100:] ** 0.5, rtol=1e-5)


def test_c0_is_filled_as_far_as_steps_fit():
    random = np.random.default_rng(0)
    difficulties = [random.gamma(2, 0.5, random.integers(3, 9)) for _ in range(200)]
    clusters = random.integers(0, 5, 200)
    options = dataclasses.replace(KPOD, n_stages=20)
    made = make_schedule(difficulties, clusters, np.zeros(200), options)
    total = made.ceiling[-1]
    next_steps = [own[c - 1] for own, c in zip(difficulties, made.given[0], strict=True) if c]
    assert made.difficulty[0] + min(next_steps) > made.ceiling[0]
    # Until the last stages, where one step a question is the limit, H follows D closely.
    assert (made.ceiling - made.difficulty)[:15].max() < 0.005 * total


def test_none_gives_nothing_and_self_paced_takes_the_easiest_first():
    difficulties = [np.array([1.0, 1.0]), np.array([2.0]), np.array([3.0, 1.0])]
    clusters, losses = np.zeros(3, int), np.array([0.3, 0.1, 0.2])
    none = make_schedule(difficulties, clusters, losses, dataclasses.replace(KPOD, schedule="none"))
    assert not none.given.any() and (none.difficulty == 8).all()
    own = dataclasses.replace(KPOD, schedule="self_paced", n_stages=2, start_share=0.0, power=0.0)
    made = make_schedule(difficulties, clusters, losses, own)  # ceilings 0, 4, 8
    assert made.given.tolist() == [[2, 1, 2], [2, 0, 2], [0, 0, 0]]


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 2)), min_size=2, max_size=8),
    st.floats(0, 10), st.data(),
)  # fmt: skip
@settings(deadline=None)
def test_the_value_is_monotone_and_submodular(items, beta, data):
    costs, clusters = np.array([c for c, _ in items]), np.array([k for _, k in items])
    pick = st.lists(st.booleans(), min_size=len(items), max_size=len(items))
    large = np.array(data.draw(pick))
    small = large & np.array(data.draw(pick))
    new = data.draw(st.integers(0, len(items) - 1))
    one = np.arange(len(items)) == new

    def f(chosen):
        return value(chosen, costs, clusters, 7.0, beta)

    assert f(large) >= f(small) - 1e-9
    if not large[new]:
        assert f(small | one) - f(small) >= f(large | one) - f(large) - 1e-9


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(0, 2)), min_size=1, max_size=9),
    st.floats(0, 15), st.floats(0, 10),
)  # fmt: skip
@settings(deadline=None, max_examples=150)
def test_the_solver_stays_within_its_factor_of_the_best(items, budget, beta):
    """At least (1 - 1/e) / 2 of what brute force finds, counted from the empty set."""
    costs, clusters = np.array([c for c, _ in items]), np.array([k for _, k in items])
    candidates = np.ones(len(items), bool)

    def worth(chosen):
        return value(chosen, costs, clusters, budget, beta) + budget

    chosen, _ = select(candidates, costs, clusters, budget, beta)
    assert costs[chosen].sum() <= budget + 1e-9
    subsets = (np.array(bits) for bits in itertools.product((False, True), repeat=len(items)))
    best = max(worth(own) for own in subsets if costs[own].sum() <= budget)
    assert worth(chosen) >= (1 - 1 / math.e) / 2 * best - 1e-9
    # What is left over and fits would only add to the value.
    rest = candidates & ~chosen
    assert not rest.any() or costs[rest].min() > budget - costs[chosen].sum() - 1e-9


def greedy(costs, clusters, budget, beta, by_density):
    """Greedy over all candidates anew at each pick, the definition."""
    chosen, left = [], budget
    while True:
        offers = []
        for i in range(len(costs)):
            if i not in chosen and costs[i] <= left:
                n = sum(clusters[j] == clusters[i] for j in chosen)
                gain = costs[i] + beta * (math.sqrt(n + 1) - math.sqrt(n))
                offers.append((gain / costs[i] if by_density else gain, i))
        if not offers:
            return chosen
        pick = max(offers)[1]
        chosen.append(pick)
        left -= costs[pick]


def test_sorted_queues_choose_what_plain_greedy_chooses():
    random = np.random.default_rng(1)
    solvers = set()
    for _ in range(60):
        n = int(random.integers(2, 25))
        costs, clusters = random.gamma(2, 1, n), random.integers(0, 4, n)
        beta, budget = random.choice([0.3, 3.0]), random.uniform(1, costs.sum())
        chosen, solver = select(np.ones(n, bool), costs, clusters, budget, beta)
        solvers.add(solver)
        tried = [greedy(costs, clusters, budget, beta, by) for by in (True, False)]
        of = [value(np.isin(np.arange(n), own), costs, clusters, budget, beta) for own in tried]
        assert value(chosen, costs, clusters, budget, beta) >= max(of) - 1e-9
        if solver in ("density", "gain"):
            assert set(np.flatnonzero(chosen)) == set(tried[solver == "gain"])
    assert {"density", "gain"} <= solvers


def test_diversity_spreads_the_choice_over_clusters():
    costs, clusters = np.full(8, 1.0), np.array([0, 0, 0, 0, 0, 1, 2, 3])
    chosen, _ = select(np.ones(8, bool), costs, clusters, 4.0, beta=1.0)
    assert set(clusters[chosen]) == {0, 1, 2, 3}
    assert not select(np.zeros(8, bool), costs, clusters, 4.0, 1.0)[0].any()


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=6), min_size=1, max_size=5), st.data()
)
@settings(deadline=None)
def test_difficulties_are_means_with_softmax_weights(steps, data):
    """In every step the softmax sums to 1: a constant loss is its own difficulty."""
    weights = [w for step in steps for w in step]
    ends = np.cumsum([len(step) for step in steps]).tolist()
    constant = step_difficulties([2.5] * len(weights), ends, weights)
    np.testing.assert_allclose(constant, 2.5, rtol=1e-12)
    losses = data.draw(
        st.lists(st.floats(0, 9), min_size=len(weights), max_size=len(weights))
    )
    got = step_difficulties(losses, ends, [*weights, 1.0])  # an answer's weight is not looked at
    for i, step in enumerate(steps):
        own = np.exp(step) / np.exp(step).sum()
        assert own.sum() == pytest.approx(1)
        start = ends[i] - len(step)
        assert got[i] == pytest.approx(float(own @ losses[start : ends[i]]))
        assert got[i] <= max(losses[start : ends[i]]) + 1e-9


def test_steps_begin_with_their_stage():
    given_steps = np.array([3, 3, 2, 2, 0, 0])  # c(0), c(1), ..., c(5)
    starts = begins(given_steps, 4, 0.5)
    np.testing.assert_allclose(starts, [0.3, 0.3, 0.1, 0.0], atol=1e-7)
    assert starts.dtype == np.float32
    # Never taken back within the stages: a target when they are over.
    np.testing.assert_allclose(begins(np.array([1, 1, 1]), 2, 0.5), [0.5, 0.0])
    # A stage begins at its very step, in spite of float32.
    for n_steps in (10, 30, 70, 200):
        for t in range(1, 6):
            given_steps = np.array([1] * t + [0] * (6 - t))
            start = begins(given_steps, 1, 1.0)[0]
            first = next(step for step in range(n_steps) if not start > step / n_steps)
            assert first == math.ceil((t - 1) * n_steps / 5) and float(start) <= (t - 1) / 5


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("schedule", "progresive", "did you mean 'progressive'"),
        ("n_stages", "0", "kpod.n_stages must be at least 1"),
        ("n_clusters", "0", "kpod.n_clusters must be at least 1"),
        ("start_share", "1.5", "kpod.start_share must be at least 0 and at most 1"),
        ("progressive_share", "1.5", "kpod.progressive_share must be at least 0 and at most 1"),
        ("power", "1e999", "kpod.power must be a finite number, got inf"),
        ("beta", "-1", "kpod.beta must be at least 0"),
        ("steps_at_once", "0", "kpod.steps_at_once must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(name, value, words):
    with pytest.raises(UserError, match=words):
        finish(base_config(), {f"kpod.{name}": value})


def test_a_power_that_is_no_number_is_refused():
    config = base_config()
    config.kpod.power = float("nan")
    with pytest.raises(UserError, match="kpod.power must be a finite number"):
        finish(config)
