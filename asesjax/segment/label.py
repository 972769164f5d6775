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
    """Label each piece of one rationale ES or AS.

    AS-ES paper: AS are the pieces whose score is above ``beta`` times the mean score of the
    rationale's pieces, or above a fixed ``threshold``.

    Args:
      scores: [P], computed with in float64.
      strategy: name of the score, for errors.
      beta: the authors' code has 1.4.
      threshold: instead of ``beta``.

    Raises:
      UserError: a score is not finite (the scorer diverged).

    Example:
      >>> label_pieces([1.0, 5.0, 1.0], "entropy"), label_pieces([0, 1, 0], "location", 9.0, 0.5)
      (['ES', 'AS', 'ES'], ['ES', 'AS', 'ES'])
    """
    values = np.asarray(scores, np.float64)
    if not np.isfinite(values).all():
        raise UserError(
            f"scores of strategy {strategy!r} are not all finite: {values.tolist()}; the scorer "
            "diverged, train it with a lower train.learning_rate"
        )
    if values.size == 0:
        return []
    bound = beta * values.mean() if threshold is None else threshold
    return [AS if above else ES for above in values > bound]


def merge_segments(
    texts: Sequence[str], labels: Sequence[str], merge_adjacent: bool = True
) -> list[Segment]:
    """Make segments of labelled pieces.

    AS-ES paper: neighbours with one label become one segment, so labels alternate
    (``merge_adjacent=True``); in the authors' code every piece stays a segment (``False``).

    Returns:
      Segments whose texts joined are ``texts`` joined.

    Raises:
      ValueError: the lists differ in length, or a label is neither ES nor AS.

    Example:
      >>> [s.text for s in merge_segments(["a ", "b ", "c"], ["ES", "ES", "AS"])]
      ['a b ', 'c']
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
    """Return each piece's gold label: that of most of its characters that are not white space.

    Args:
      pieces: offsets into a text that begins with the gold segments' texts joined; white space at
        their very end may differ.
      gold: segments; characters of one without a label, or of filler, have no say.

    Returns:
      A label a piece; ES on a tie; None where no labelled character lies in the piece.

    Example:
      >>> gold_labels([Piece(0, 4), Piece(4, 9)], [Segment("a b ", "ES"), Segment("c", "AS")])
      ['ES', 'AS']
    """
    text = "".join(segment.text for segment in gold)
    kinds = np.array([LABELS.index(s.label) if s.label in LABELS else -1 for s in gold], np.int64)
    of = np.repeat(kinds, np.array([len(s.text) for s in gold], np.int64))
    solid = np.array([not character.isspace() for character in text], bool)
    before = [np.concatenate([[0], np.cumsum(solid & (of == i))]) for i in range(len(LABELS))]
    labels: list[str | None] = []
    for start, end in pieces:
        start, end = min(start, len(text)), min(end, len(text))
        es, as_ = (int(count[end] - count[start]) for count in before)
        labels.append(None if es + as_ == 0 else ES if es >= as_ else AS)
    return labels


def segmentation_f1(
    pieces: Sequence[Piece], labels: Sequence[str], gold: Sequence[Segment]
) -> np.ndarray:
    """Count how labels of one record's pieces agree with its gold segments.

    Every piece with a gold label (``gold_labels``) counts once, whatever its length.

    Returns:
      [2, 3] int64: rows ES and AS, columns true positives, false positives, false negatives.
      Add them up over records and give the sum to ``f1_from_counts``.

    Example:
      >>> gold = [Segment("Ann has 3. ", "ES"), Segment("So 6.", "AS")]
      >>> segmentation_f1([Piece(0, 11), Piece(11, 16)], ["AS", "AS"], gold).tolist()
      [[0, 0, 1], [1, 1, 0]]
    """
    counts = np.zeros((len(LABELS), 3), np.int64)
    for ours, right in zip(labels, gold_labels(pieces, gold), strict=True):
        if right is None:
            continue
        if ours == right:
            counts[LABELS.index(right), 0] += 1
        else:
            counts[LABELS.index(ours), 1] += 1
            counts[LABELS.index(right), 2] += 1
    return counts


def f1_from_counts(counts: np.ndarray) -> dict[str, float]:
    """Return ``es_f1``, ``as_f1`` and ``macro_f1``, their plain mean, from summed counts.

    F1 = 2 tp / (2 tp + fp + fn). A label that neither gold nor prediction ever has is nan and is
    left out of the mean.

    Example:
      >>> f1_from_counts(np.array([[1, 0, 1], [2, 1, 0]]))
      {'es_f1': 0.6666666666666666, 'as_f1': 0.8, 'macro_f1': 0.7333333333333334}
    """
    scores = [
        float(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn else float("nan")
        for tp, fp, fn in np.asarray(counts).tolist()
    ]
    known = [score for score in scores if score == score]
    macro = sum(known) / len(known) if known else float("nan")
    return {"es_f1": scores[0], "as_f1": scores[1], "macro_f1": macro}
