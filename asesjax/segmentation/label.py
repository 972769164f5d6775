"""Labels of pieces, segments from labelled pieces, and agreement with gold labels."""

from collections.abc import Sequence

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.types import AS, ES, LABELS, Segment
from asesjax.segmentation.pieces import Piece

_FEW = 0.02  # share of pieces of a label below which a labelling is worth a warning


def label_pieces(
    scores: Sequence[float] | np.ndarray,
    strategy: str,
    beta: float = 1.0,
    threshold: float | None = None,
) -> list[str]:
    """Label each piece of one rationale ES or AS. AS (AS-ES paper) are the pieces whose score is
    above ``beta`` times the mean of the rationale's pieces (1.4 in the authors' code), or above a
    fixed ``threshold`` (ours). Raises UserError for scores that are not finite.

    >>> label_pieces([1.0, 5.0, 1.0], "entropy"), label_pieces([0, 1, 0], "location", 9.0, 0.5)
    (['ES', 'AS', 'ES'], ['ES', 'AS', 'ES'])
    """
    values = np.asarray(scores, np.float64)
    if not np.isfinite(values).all():
        raise UserError(
            f"scores of strategy {strategy!r} are not all finite: {values.tolist()}; the scorer "
            "diverged, train it with a lower train.learning_rate"
        )
    if threshold is None:
        threshold = beta * values.mean() if values.size else 0.0
    return [AS if above else ES for above in values > threshold]


def balance(labels: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return ``as_share`` of the pieces of all rationales, ``first_as_share`` of their first ones,
    and ``both_share``: of the rationales of several pieces, those with both labels (nan without).

    >>> balance([["ES", "AS"], ["AS", "AS"]])
    {'as_share': 0.75, 'first_as_share': 0.5, 'both_share': 0.5}
    """
    pieces = [label for own in labels for label in own]
    both = [len(set(own)) == len(LABELS) for own in labels if len(own) > 1]
    return {"as_share": pieces.count(AS) / max(len(pieces), 1),
            "first_as_share": sum(own[0] == AS for own in labels) / max(len(labels), 1),
            "both_share": sum(both) / len(both) if both else float("nan")}  # fmt: skip


def lopsided(
    scores: Sequence[Sequence[float]],
    labels: Sequence[Sequence[str]],
    threshold: float | None = None,
) -> str:
    """Say so where next to no or all pieces are AS, or most rationales of several pieces have one
    label alone, and (without a ``threshold``) with which beta half of these would have both; empty
    where all is well.
    """
    share, _, both = balance(labels).values()
    if _FEW <= share <= 1 - _FEW and not both < 0.5:
        return ""
    text = f"{share:.1%} of all pieces are AS"
    if threshold is not None:
        return f"{text}; the score has a fixed threshold, {threshold:g}"
    several = [np.asarray(own, np.float64) for own in scores if len(own) > 1]
    relative = [own / own.mean() for own in several if own.mean() > 0]
    if not relative:
        return f"{text}; no rationale has several pieces of which some score above 0"
    # Both labels are there from the least score over the mean up to below the greatest.
    if share < 0.5:
        beta = np.floor(1e4 * np.median([own.max() for own in relative])) / 1e4
        where = f"below segment.beta={beta:.6g}"
    else:
        beta = np.ceil(1e4 * np.median([own.min() for own in relative])) / 1e4
        where = f"from segment.beta={beta:.6g} to 1"
    return f"{text}; {both:.0%} of the rationales have both labels, half of them {where}"


def merge_segments(
    texts: Sequence[str], labels: Sequence[str], merge_adjacent: bool = True
) -> list[Segment]:
    """Make segments of labelled pieces; their joined texts stay the same. In the AS-ES paper
    neighbours of one label become one segment; in the authors' code none do (``merge_adjacent``
    False).
    """
    if any(label not in LABELS for label in labels):
        raise ValueError(f"labels must be {LABELS}, got {sorted(set(labels))}")
    groups: list[tuple[str, list[str]]] = []
    for text, label in zip(texts, labels, strict=True):
        if merge_adjacent and groups and groups[-1][0] == label:
            groups[-1][1].append(text)
        else:
            groups.append((label, [text]))
    return [Segment("".join(parts), label) for label, parts in groups]


def gold_labels(pieces: Sequence[Piece], gold: Sequence[Segment]) -> list[str | None]:
    """Return each piece's gold label: that of most of its characters that are not white space. ES
    on a tie; None for a piece without labelled characters. Unlabelled segments and filler do not
    count. The pieces' text begins with the joined text of the gold segments.

    >>> gold_labels([Piece(0, 4), Piece(4, 9)], [Segment("a b ", "ES"), Segment("c", "AS")])
    ['ES', 'AS']
    """
    labels: list[str | None] = []
    of = [None if c.isspace() else segment.label for segment in gold for c in segment.text]
    for start, end in pieces:
        n_es, n_as = of[start:end].count(ES), of[start:end].count(AS)
        labels.append(None if n_es + n_as == 0 else ES if n_es >= n_as else AS)
    return labels


def segmentation_f1(
    pieces: Sequence[Piece], labels: Sequence[str], gold: Sequence[Segment]
) -> np.ndarray:
    """Count how the labels of one record's pieces agree with its gold segments (``gold_labels``).
    Returns int64 [2, 3]: rows ES and AS, columns true positives, false positives, false negatives;
    their sum over records goes to ``f1_from_counts``.

    >>> gold = [Segment("Ann has 3. ", "ES"), Segment("So 6.", "AS")]
    >>> segmentation_f1([Piece(0, 11), Piece(11, 16)], ["AS", "AS"], gold).tolist()
    [[0, 0, 1], [1, 1, 0]]
    """
    counts = np.zeros((len(LABELS), 3), np.int64)
    for ours, right in zip(labels, gold_labels(pieces, gold), strict=True):
        if ours == right:
            counts[LABELS.index(right), 0] += 1
        elif right is not None:
            counts[LABELS.index(ours), 1] += 1
            counts[LABELS.index(right), 2] += 1
    return counts


def f1_from_counts(counts: np.ndarray) -> dict[str, float]:
    """Return ``es_f1``, ``as_f1`` and their mean ``macro_f1`` from summed counts. A label that
    neither gold nor prediction has is nan and not part of the mean.
    """
    scores = [
        float(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn else float("nan")
        for tp, fp, fn in np.asarray(counts).tolist()
    ]
    known = [score for score in scores if score == score]
    macro = sum(known) / len(known) if known else float("nan")
    return {"es_f1": scores[0], "as_f1": scores[1], "macro_f1": macro}
