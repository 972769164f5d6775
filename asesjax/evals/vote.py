"""Self-consistency (Wang et al. 2022): several chains are drawn, and their answers vote.

The paper takes the answer that most chains give. How ties are broken, and which chain is shown for
the answer, is ours.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Vote(NamedTuple):
    """How the answers of a question's chains voted."""

    answer: str | None  # the one with most votes; None where no chain gave any
    chain: int  # place of the most probable chain with that answer, or without one of all chains
    votes: dict[str, int]  # answer to number of chains, the winner first
    tied: bool  # another answer had as many votes


def vote(answers: Sequence[str | None], log_probabilities: Sequence[float]) -> Vote:
    """Let the answers of chains vote; None has no vote. Most votes win; on a tie the answer whose
    chains are together more probable (a NaN is impossible), then the one drawn first.

    >>> vote(["5", "7", None, "7"], [-1.0, -3.0, -0.1, -2.0])
    Vote(answer='7', chain=3, votes={'7': 2, '5': 1}, tied=False)
    """
    weights = [-math.inf if math.isnan(x) else float(x) for x in log_probabilities]
    chains: dict[str, list[int]] = {}
    silent: list[int] = []
    for place, (answer, _) in enumerate(zip(answers, weights, strict=True)):
        (silent if answer is None else chains.setdefault(answer, [])).append(place)

    def most_probable(places: list[int]) -> int:
        return max(places, key=lambda place: (weights[place], -place))

    if not chains:
        return Vote(None, most_probable(silent), {}, False)
    ranked = sorted(
        chains, key=lambda answer: (-len(chains[answer]), -_total(weights, chains[answer]))
    )  # sorting is stable: what is equal stays in the order drawn
    counts = {answer: len(chains[answer]) for answer in ranked}
    best = ranked[0]
    tied = len(ranked) > 1 and counts[ranked[1]] == counts[best]
    return Vote(best, most_probable(chains[best]), counts, tied)


def _total(weights: Sequence[float], places: Sequence[int]) -> float:
    """The logarithm of the summed probabilities of some chains, to nine digits: ties stay ties."""
    highest = max(weights[place] for place in places)
    if highest == -math.inf:
        return highest
    total = math.fsum(math.exp(weights[place] - highest) for place in places)
    return round(highest + math.log(total), 9)
