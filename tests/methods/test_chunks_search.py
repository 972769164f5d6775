"""One pass of search-based chunking: against plain loops, and what it promises."""

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.methods.skip_thinking.chunks import average_boundaries
from asesjax.methods.skip_thinking.search import Candidate, Cost, objective, search

NAMES = pytest.mark.parametrize("name", ["total", "mean_of_means"])
SAMPLES = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 5)), min_size=1, max_size=6)


def cost(seed, chunk, sizes):
    """Any number at all for a chunk in its stage, the same whenever it is asked for."""
    number = zlib.crc32(f"{seed}/{chunk}".encode()) / 2**32
    tokens = int(sum(sizes[chunk.sample][chunk.start : chunk.end])) + 1
    return Cost(5 * number * tokens, tokens)


def setting(samples, seed):
    rng = np.random.default_rng(seed)
    sizes = [rng.integers(1, 9, n).tolist() for n, _ in samples]
    return [average_boundaries(n, m) for n, m in samples], sizes


def plain(bounds, one_cost, name, threshold):
    """The specification's loop over one sample."""
    bounds = list(bounds)

    def j(m, low, cut, high):
        return objective([one_cost(m - 1, low, cut), one_cost(m, cut, high)], name)

    for m in range(1, len(bounds) - 1):
        low, high = bounds[m - 1], bounds[m + 1]
        base = j(m, low, bounds[m], high)
        best = (base, bounds[m])
        for cut in range(low + 1, high):
            best = min(best, (j(m, low, cut, high), cut))
        if base - best[0] > threshold:
            bounds[m] = best[1]
    return tuple(bounds)


@NAMES
@settings(max_examples=60, deadline=None)
@given(samples=SAMPLES, seed=st.integers(0, 999), threshold=st.sampled_from([0.0, 0.3, 2.0]))
def test_equals_plain_loops_over_each_sample(name, samples, seed, threshold):
    bounds, sizes = setting(samples, seed)
    calls = []

    def score(asked):
        calls.append(len(asked))
        return [cost(seed, one, sizes) for one in asked]

    found = search(bounds, score, name, threshold)
    for i, own in enumerate(bounds):
        def one(stage, start, end, i=i):
            return cost(seed, Candidate(i, stage, start, end), sizes)

        assert found.boundaries[i] == plain(own, one, name, threshold)
        if len(own) > 2:
            for costs, at in ((found.before[i], own), (found.after[i], found.boundaries[i])):
                spans = zip(at, at[1:], strict=False)
                assert costs == [one(m, *span) for m, span in enumerate(spans)]
        else:
            assert found.before[i] == found.after[i] == []
    most = max(len(own) for own in bounds)
    assert len(calls) == max(0, most - 2)  # one for each position
    assert found.cuts == sum(len(own) - 2 for own in bounds)
    assert 0 <= found.moved <= found.cuts


@NAMES
@settings(max_examples=60, deadline=None)
@given(samples=SAMPLES, seed=st.integers(0, 999))
def test_boundaries_stay_sorted_and_the_objective_never_rises(name, samples, seed):
    bounds, sizes = setting(samples, seed)
    found = search(bounds, lambda asked: [cost(seed, one, sizes) for one in asked], name, 0.0)
    for i, (old, new) in enumerate(zip(bounds, found.boundaries, strict=True)):
        assert len(old) == len(new) and (np.diff(new) >= 1).all()
        assert new[0] == 0 and new[-1] == old[-1]
        if len(old) > 2:
            before, after = objective(found.before[i], name), objective(found.after[i], name)
            assert after <= before + 1e-9
            assert (after < before) == (old != new)


def test_a_gain_must_exceed_the_threshold():
    costs = {(0, 1): 4.0, (1, 3): 4.0, (0, 2): 3.0, (2, 3): 3.0}

    def score(asked):
        return [Cost(costs[one.start, one.end], 2) for one in asked]

    for threshold, cut in ((0.4, 2), (0.5, 1), (0.6, 1)):
        assert search([(0, 1, 3)], score, "total", threshold).boundaries == [(0, cut, 3)]


def test_the_two_objectives_differ():
    """Hard tokens hide in a long chunk from the mean of means alone."""
    costs = {(0, 1): Cost(9.0, 3), (1, 4): Cost(1.0, 10), (0, 3): Cost(9.9, 10),
             (3, 4): Cost(0.3, 3), (0, 2): Cost(9.5, 6), (2, 4): Cost(0.5, 7)}  # fmt: skip

    def score(asked):
        return [costs[one.start, one.end] for one in asked]

    assert search([(0, 1, 4)], score, "total", 0.01).boundaries == [(0, 1, 4)]
    assert search([(0, 1, 4)], score, "mean_of_means", 0.01).boundaries == [(0, 3, 4)]


def test_chains_without_cuts_stay_as_they_are():
    assert search([], None, "total", 0.0).boundaries == []
    assert search([(0, 3), (0, 1)], None, "total", 0.0).boundaries == [(0, 3), (0, 1)]
