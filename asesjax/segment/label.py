"""Labels of pieces, segments from labelled pieces, and agreement with gold labels."""

from collections.abc import Sequence

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.types import AS, ES, LABELS, Segment
from asesjax.segment.pieces import Piece


def label_pieces(
    scores: Sequence[float] | np.ndarray,
    strategy: str,
    beta: float = 1.4,
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
