"""Generated chains against gold chains, sentence by sentence, and intervals for shares."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from asesjax.core.types import Segment
from asesjax.segmentation.label import gold_labels
from asesjax.segmentation.pieces import Piece, piece_texts, split_sentences


class FirstWrong(NamedTuple):
    """Where a generated chain first leaves the gold chain."""

    is_right: bool  # the chains are the same sentence by sentence
    # label of the first sentence that differs (None where it has none, or the chain is right),
    # "missing" where the generated chain stops early, "extra" where it is longer
    kind: str | None
    # of that sentence, from 0; None for a right chain
    index: int | None  # type: ignore[assignment]  # in place of tuple.index


def first_wrong(generated: str, gold: Sequence[Segment]) -> FirstWrong:
    """Compare a generated chain with the gold one. Both are cut at sentence ends and compared with
    white space normalised, so segments do not matter. A sentence's label is that of most of its
    characters (``label.gold_labels``). ``gold`` has a closing answer sentence if ``generated`` has.

    >>> gold = [Segment("Ann has 3. ", "ES"), Segment("So 3 + 3 = 6.", "AS")]
    >>> first_wrong("Ann has 3. So 3 + 3 = 7.", gold)
    FirstWrong(is_right=False, kind='AS', index=1)
    """
    text = "".join(segment.text for segment in gold)
    pieces = split_sentences(text)
    labels = zip(_sentences(text, pieces), gold_labels(pieces, gold), strict=True)
    # Sentences of white space alone do not count.
    right = [pair for pair in labels if pair[0]]
    ours = list(filter(None, _sentences(generated, split_sentences(generated))))
    for i, (mine, theirs) in enumerate(itertools.zip_longest(ours, right)):
        sentence, label = theirs or ("", "extra")
        if mine != sentence:
            return FirstWrong(False, label if mine else "missing", i)
    return FirstWrong(True, None, None)


def _sentences(text: str, pieces: Sequence[Piece]) -> list[str]:
    return [" ".join(sentence.split()) for sentence in piece_texts(text, pieces)]


def wilson_interval(k: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a share (Wilson 1927); (0, 1) where ``n`` is 0."""
    if not 0 <= k <= n:
        raise ValueError(f"k must be in 0..n, got k={k}, n={n}")
    if n == 0:
        return 0.0, 1.0
    z = 1.959963984540054  # the normal distribution's 97.5 % point
    share, spread = k / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    low = 0.0 if k == 0 else centre - half  # exact at the ends, where rounding would show
    high = 1.0 if k == n else centre + half
    return low, high
