"""Where a student's loss wants the cuts between chunks (Chen et al. 2025, search-based chunking).

Neighbouring chunks are merged, every cut between two sentences is tried, and the cut moves where
that improves the objective by more than a threshold; one pass from left to right. The paper's
algorithm is not at hand: order, threshold, objectives and the single pass are ours. A chunk's cost
does not depend on other cuts, so with ``"total"`` the sum over a rationale only falls.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from asesjax.methods.skip_thinking.chunks import Boundaries


class Candidate(NamedTuple):
    """A chunk whose cost is asked for: sentences [start, end) of a sample, written in a stage."""

    sample: int
    stage: int
    start: int
    end: int


class Cost(NamedTuple):
    """Negative log-likelihood of a chunk and its end mark, in nats, and their tokens."""

    nll: float  # their sum
    tokens: int  # at least 1


Score = Callable[[Sequence[Candidate]], Sequence[Cost]]


class Searched(NamedTuple):
    """What a pass did."""

    boundaries: list[Boundaries]  # of every sample
    moved: int  # cuts that were moved
    cuts: int  # that there are
    before: list[list[Cost]]  # the costs of each sample's chunks; none for samples of one chunk
    after: list[list[Cost]]  # the same with the new boundaries


def objective(costs: Sequence[Cost], name: str) -> float:
    """Return the nats a token: "total" weighs all tokens the same, "mean_of_means" all chunks.

    >>> costs = [Cost(6.0, 2), Cost(1.0, 6)]
    >>> objective(costs, "total"), round(objective(costs, "mean_of_means"), 3)
    (0.875, 1.583)
    """
    if name == "total":
        return sum(cost.nll for cost in costs) / sum(cost.tokens for cost in costs)
    return sum(cost.nll / cost.tokens for cost in costs) / len(costs)


def search(
    boundaries: Sequence[Boundaries], score: Score, name: str, threshold: float
) -> Searched:
    """Move the cuts of many samples, those of one position together. ``score`` returns the cost of
    every candidate; a cut must gain ``threshold`` nats a token.
    """
    bounds = [list(one) for one in boundaries]
    after: list[list[Cost]] = [[] for _ in bounds]
    before: list[list[Cost]] = [[] for _ in bounds]
    moved = cuts = 0
    for m in range(1, max((len(one) for one in bounds), default=0) - 1):
        tried = {i: range(own[m - 1] + 1, own[m + 1]) for i, own in enumerate(bounds)
                 if m + 1 < len(own)}  # fmt: skip
        asked = []
        for i, places in tried.items():
            low, _, high = bounds[i][m - 1 : m + 2]
            for cut in places:
                asked += [Candidate(i, m - 1, low, cut), Candidate(i, m, cut, high)]
        costs = iter(score(asked))
        for i, places in tried.items():
            pairs = {cut: (next(costs), next(costs)) for cut in places}
            own = bounds[i]
            now = pairs[own[m]]
            before[i] += now if m == 1 else now[1:]
            cuts += 1
            best = min(places, key=lambda cut: (objective(pairs[cut], name), cut))  # noqa: B023
            if objective(now, name) - objective(pairs[best], name) > threshold:
                own[m], moved = best, moved + 1
            after[i] = [*after[i][:-1], *pairs[own[m]]]
    return Searched([tuple(one) for one in bounds], moved, cuts, before, after)
