"""KPOD's schedule: how many first steps of each rationale are given at each stage.

Feng et al. 2024, section 3.3, equations 9 to 13; N questions, T stages, d step difficulties.

    H(t) = sum of the difficulties that are still to be written        <= D(t)
    D(t) = C0 + (B - C0) (t / T)^(p + 1),     C0 = start_share * B,  B = the sum of all d

A stage takes steps_at_once steps off what is given of the set S of questions that it chooses. With
a what a question adds to H and C_k clusters of questions, S is to maximise

    F(S) = -(D(t) - H(t - 1) - sum of a) + beta * sum_k sqrt(|C_k & S|)
    sum of a <= D(t) - H(t - 1)

F is monotone and submodular. The paper's threshold greedy (FTGP) has its pseudo-code in another
paper; here the best of three sets is taken (Leskovec et al. 2007, "Cost-effective outbreak
detection in networks"): greedy by gain, greedy by gain per cost, and the best single question. It
is worth at least (1 - 1/e) / 2 of the optimum, counted from F of the empty set. What is left after
the last stage becomes a target at once.
"""

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from asesjax.core.signals import check_stop
from asesjax.methods.kpod.options import KpodOptions


class Schedule(NamedTuple):
    """A schedule, for t = 0..T."""

    # [T + 1, N] int32, the first steps of each question that are given; 0 after T
    given: np.ndarray
    ceiling: np.ndarray  # [T + 1] float64, D(t)
    difficulty: np.ndarray  # [T + 1] float64, H(t)
    chosen: tuple[int, ...]  # questions that t took steps from; of t = 0 all that its rounds took
    # which of the three sets was best; empty where nothing was left to choose
    solver: tuple[str, ...]


def step_difficulties(
    losses: Sequence[float] | np.ndarray, ends: Sequence[int] | np.ndarray,
    weights: Sequence[float] | np.ndarray | None,
) -> np.ndarray:
    """Return the difficulty of each step, equation 8: a weighted mean of its tokens' losses.
    ``losses`` are in nats, ``ends`` says where steps end, and ``weights`` in [0, 1] act through a
    softmax over the step (equal when None), so two tokens of it differ by a factor of at most e.

    >>> step_difficulties([1.0, 3.0, 4.0], [2, 3], None).tolist()
    [2.0, 4.0]
    """
    losses = np.asarray(losses, np.float64)
    factors = np.ones(len(losses))
    if weights is not None:
        factors = np.exp(np.asarray(weights[: len(losses)], np.float64))
    starts = [0, *ends[:-1]]
    return np.add.reduceat(losses * factors, starts) / np.add.reduceat(factors, starts)


def make_schedule(
    difficulties: Sequence[np.ndarray],
    clusters: np.ndarray,
    losses: np.ndarray,
    settings: KpodOptions,
) -> Schedule:
    """Decide what is given of every rationale at every stage, before the student is trained.
    ``difficulties`` holds those of each question's steps, 0 or more, and ``losses`` [N] the mean
    loss of each rationale. "progressive" is KPOD's schedule; "self_paced" gives a whole rationale
    until it fits under the ceiling, smallest losses first; "none" gives nothing.
    """
    n_steps = np.array([len(steps) for steps in difficulties])
    # tails[i, c]: what is still to be written of question i when its first c steps are given.
    tails = np.zeros((len(difficulties), n_steps.max() + 1))
    for row, steps in zip(tails, difficulties, strict=True):
        row[: len(steps)] = np.cumsum(steps[::-1])[::-1]
    ceiling = ceilings(tails[:, 0].sum(), settings)
    if settings.schedule == "none":
        given = np.zeros((len(ceiling), len(tails)), np.int32)
        picked = [(0, "")] * len(ceiling)
    elif settings.schedule == "self_paced":
        given, picked = _self_paced(tails[:, 0], n_steps, losses, ceiling)
    else:
        given, picked = _progressive(tails, n_steps, clusters, ceiling, settings)
    difficulty = np.array([tails[np.arange(len(tails)), row].sum() for row in given])
    chosen, solver = zip(*picked, strict=True)
    return Schedule(given, ceiling, difficulty, chosen, solver)


def ceilings(total: float, settings: KpodOptions) -> np.ndarray:
    """Return D(0), ..., D(T), equation 10.

    >>> ceilings(100.0, KpodOptions(n_stages=2, start_share=0.5, power=1.0)).tolist()
    [50.0, 62.5, 100.0]
    """
    start = settings.start_share * total
    share = (np.arange(settings.n_stages + 1) / settings.n_stages) ** (settings.power + 1)
    values = start + (total - start) * share
    values[-1] = total
    return values


def begins(given: np.ndarray, n_steps: int, progressive_share: float) -> np.ndarray:
    """Return the share of training after which each step of one rationale is a target. Stage t =
    1..T lasts from (t - 1) / T to t / T of the progressive share. ``given`` [T + 1] is a column of
    ``Schedule.given``. The shares, float32 [n_steps], never rise and are rounded down, so that a
    stage begins at its very step.

    >>> begins(np.array([2, 2, 1, 1, 1]), 3, 0.5).tolist()
    [0.5, 0.125, 0.0]
    """
    stages = given[1:]
    is_target = stages[:, None] <= np.arange(n_steps)
    before = np.where(is_target.any(0), is_target.argmax(0), len(stages))
    share = before / len(stages) * progressive_share
    rounded = share.astype(np.float32)
    return np.where(rounded > share, np.nextafter(rounded, np.float32(0)), rounded)


def value(
    chosen: np.ndarray, costs: np.ndarray, clusters: np.ndarray, budget: float, beta: float
) -> float:
    """Return F of a set, equation 12. ``chosen`` is bool [N], ``costs`` [N] is what each question
    adds to H, and ``budget`` is D(t) - H(t - 1), which the costs of the chosen must not exceed.
    """
    counts = np.bincount(clusters[chosen])
    return float(costs[chosen].sum() - budget + beta * np.sqrt(counts).sum())


def select(
    candidates: np.ndarray, costs: np.ndarray, clusters: np.ndarray, budget: float, beta: float
) -> tuple[np.ndarray, str]:
    """Choose questions for a stage (see the head of this file) among ``candidates``, bool [N].
    Inside a cluster questions differ by their cost alone, so greedy by gain per cost offers the
    cheapest that is left of each cluster, and greedy by gain the dearest that still fits. Returns
    bool [N] and "density", "gain" or "single"; "" where no candidate fits.
    """
    fits = np.flatnonzero(candidates & (costs <= budget))
    chosen = {"": np.zeros(len(costs), bool)}
    if len(fits):
        # Sorted by cost in each cluster, equal costs by place.
        order = fits[np.lexsort((fits, costs[fits], clusters[fits]))]
        queues = np.split(order, np.flatnonzero(np.diff(clusters[order])) + 1)
        found: dict[str, Any] = {
            "density": _greedy(queues, costs, budget, beta, by_density=True),
            "gain": _greedy(queues, costs, budget, beta, by_density=False),
            "single": fits[[np.argmax(costs[fits])]],
        }
        chosen = {name: np.isin(np.arange(len(costs)), ids) for name, ids in found.items()}
    # The first of the best.
    best = max(chosen, key=lambda name: value(chosen[name], costs, clusters, budget, beta))
    return chosen[best], best


def _greedy(queues, costs, budget: float, beta: float, by_density: bool) -> list[int]:
    """Take question after question: of each cluster the cheapest, or the dearest that fits."""
    queues = [deque(zip(costs[ids].tolist(), ids.tolist(), strict=True)) for ids in queues]
    taken, picks = [0] * len(queues), list[int]()
    while True:
        check_stop()
        offers = []
        for k, queue in enumerate(queues):
            while queue and queue[-1][0] > budget:  # what does not fit now never will
                queue.pop()
            if queue:
                price = queue[0 if by_density else -1][0]
                gain = price + beta * (math.sqrt(taken[k] + 1) - math.sqrt(taken[k]))
                # By density, the cheaper of equals.
                worth = (gain / price if price else math.inf, -price) if by_density else (gain,)
                offers.append((worth, k))
        if not offers:
            return picks
        _, k = max(offers, key=lambda offer: offer[0])
        price, pick = queues[k].popleft() if by_density else queues[k].pop()
        picks.append(pick)
        budget -= price
        taken[k] += 1


def _progressive(tails, n_steps, clusters, ceiling, settings):
    rows = np.arange(len(tails))
    now, given, picked = n_steps.astype(np.int32), [], []

    def stage(now, limit):
        """One selection; what is given afterwards, how many were chosen, and by which solver."""
        after = np.maximum(now - settings.steps_at_once, 0)
        costs = tails[rows, after] - tails[rows, now]
        budget = limit - tails[rows, now].sum()
        chosen, solver = select(now > 0, costs, clusters, budget, settings.beta)
        return np.where(chosen, after, now), int(chosen.sum()), solver

    for t, limit in enumerate(ceiling):
        now, chosen, solver = stage(now, limit)
        total = chosen
        while t == 0 and chosen:  # C0 is filled by as many selections as find something
            now, chosen, _ = stage(now, limit)
            total += chosen
        given.append(now)
        picked.append((total, solver))
    return np.stack(given).astype(np.int32), picked


def _self_paced(totals, n_steps, losses, ceiling):
    order = np.argsort(losses, kind="stable")
    # Rounding must not shut out the last one.
    active = np.searchsorted(np.cumsum(totals[order]), ceiling * (1 + 1e-9), side="right")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    given = np.where(place < active[:, None], 0, n_steps).astype(np.int32)
    return given, [(int(n), "") for n in np.diff(active, prepend=0)]
