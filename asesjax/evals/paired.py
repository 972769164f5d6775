"""Comparisons of methods: over seeds, and over the questions that they have in common.

A test over seeds says whether a new seed would agree, but has little power with few seeds. A test
over questions says whether these trained models differ, and nothing about other seeds.
"""

import math
import statistics
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from asesjax.core.errors import UserError


class Mean(NamedTuple):
    """A mean over seeds; what says nothing is None."""

    mean: float
    sd: float | None  # sample standard deviation; None for a single value
    interval: tuple[float, float] | None  # 95 %, of the mean; None where values do not differ


def mean_interval(values: Sequence[float]) -> Mean:
    """Return mean, sample standard deviation and the 95 % interval of Student's t, which assumes
    independent, normal values; that of a share may exceed [0, 1].

    >>> mean_interval([0.25, 0.75])
    Mean(mean=0.5, sd=0.3535533905932738, interval=(-2.676551184...))
    """
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Mean(mean, None, None)
    sd = statistics.stdev(values)
    if sd == 0:
        return Mean(mean, sd, None)
    from scipy.special import stdtrit  # slow to import, and only needed here

    half = float(stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)
    return Mean(mean, sd, (mean - half, mean + half))


def paired_t(differences: Sequence[float]) -> float | None:
    """Return the two-sided p-value of a paired t test; None for a single difference. Equal
    differences, which have no spread, give 1 where they are 0 and else 0.
    """
    n = len(differences)
    if n == 1:
        return None
    mean, sd = statistics.fmean(differences), statistics.stdev(differences)
    if sd == 0:
        return float(mean == 0)
    from scipy.special import stdtr

    return float(2 * stdtr(n - 1, -abs(mean) / sd * math.sqrt(n)))


def sign_flip(differences: Sequence[int]) -> float:
    """Return the exact two-sided p-value of a sum of independent differences: the probability that
    random signs give a sum as far from 0. With differences of -1, 0 and 1 it is McNemar's test.

    >>> sign_flip([1, 1, 1, 1, 1, 0, -1])  # 2 * (1 + 6) / 2**6
    0.21875
    """
    sizes = np.abs([d for d in differences if d]).astype(np.int64)
    if not len(sizes):
        return 1.0
    # Probabilities of the sums -total ... total, after each difference.
    total = int(sizes.sum())
    chances = np.zeros(2 * total + 1)
    chances[total] = 1.0
    for size in sizes.tolist():
        chances = (np.roll(chances, size) + np.roll(chances, -size)) / 2
    far = np.abs(np.arange(-total, total + 1)) >= abs(int(np.sum(differences)))
    return min(1.0, float(chances[far].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    scaled = np.arange(len(order), 0, -1) * np.take(p_values, order)
    out = np.zeros(len(order))
    out[order] = np.maximum.accumulate(np.minimum(scaled, 1.0))
    return out.tolist()


class Versus(NamedTuple):
    """One method against another."""

    difference: float  # of the accuracies, mean over seeds
    interval: tuple[float, float] | None  # its 95 % interval over seeds, as in ``Mean``
    p_seeds: float | None  # of the paired t test over seeds; None for a single seed
    p_questions: float  # of the sign-flip test over questions
    better: int  # pairs of seed and question that only this method answers right
    worse: int  # pairs that only the other answers right


Outcomes = Mapping[Hashable, bool]  # question -> whether it is answered right


def versus(own: Sequence[Outcomes], other: Sequence[Outcomes]) -> Versus:
    """Compare two methods that answered the same questions, with an item for each seed. The test
    over questions pools all seeds; a question's differences, which are dependent, flip together.
    """
    differences, by_question, better, worse = [], Counter[Hashable](), 0, 0
    for mine, theirs in zip(own, other, strict=True):
        if mine.keys() != theirs.keys():
            raise UserError(
                "two methods of a run have answered different test questions; run it again with "
                "--redo"
            )
        signs = {question: int(mine[question]) - int(theirs[question]) for question in mine}
        differences.append(sum(signs.values()) / len(signs))
        better += sum(sign > 0 for sign in signs.values())
        worse += sum(sign < 0 for sign in signs.values())
        by_question.update(signs)
    mean = mean_interval(differences)
    return Versus(
        mean.mean, mean.interval, paired_t(differences), sign_flip([*by_question.values()]),
        better, worse,
    )  # fmt: skip


def compared_with(name: str, against: str, names: Collection[str]) -> str | None:
    """Return the row that a row is compared with: ``against`` with the longest end of the row's own
    name that makes another row, or None.

    >>> compared_with("usm_entropy_200", "direct", ["direct_200", "usm_entropy_200"])
    'direct_200'
    """
    parts = name.split("_")
    others = ("_".join([against, *parts[i:]]) for i in range(1, len(parts) + 1))
    return next((other for other in others if other in names and other != name), None)


def compare(
    outcomes: Mapping[str, Sequence[Outcomes]], against: str | None
) -> list[dict[str, Any]]:
    """Compare all methods over their seeds, and with the row of ``compared_with``, if any. Returns
    a row a method: ``method``, ``accuracies`` (of the seeds), the fields of ``Mean``, and
    ``versus``: None, or ``row``, the fields of ``Versus``, and Holm's ``p_seeds_holm`` and
    ``p_questions_holm``.
    """
    rows = []
    for method, own in outcomes.items():
        accuracies = [sum(right.values()) / len(right) for right in own]
        row = {"method": method, "accuracies": accuracies, **mean_interval(accuracies)._asdict()}
        other = compared_with(method, against, outcomes) if against else None
        row["versus"] = other and {"row": other, **versus(own, outcomes[other])._asdict()}
        rows.append(row)
    compared = [row["versus"] for row in rows if row["versus"]]
    for name in ("p_seeds", "p_questions"):
        values = [one[name] for one in compared]
        known = bool(values) and None not in values
        for one, value in zip(compared, holm(values) if known else values, strict=True):
            one[f"{name}_holm"] = value
    return rows
