"""One number a piece, M(S): high for pieces that say what the context does not."""

from collections.abc import Sequence

import numpy as np

from asesjax.core.errors import unknown
from asesjax.segment import similarity

KINDS = ("bleu", "rouge")
REDUCE = ("sum", "mean")


def similarity_scores(
    texts: Sequence[str], question: str, kind: str, language: str = "en"
) -> np.ndarray:
    """Score pieces by how unlike the question they are: 1 - similarity.

    AS-ES paper, the BLEU and ROUGE strategies; 1 minus it is ours, so that the threshold rule
    reads the same for every score. BLEU's brevity penalty makes nearly every score of a piece
    much shorter than its question close to 1; with ``beta`` above 1 the threshold then passes 1
    and no piece is AS: beta belongs near 1 here.

    Args:
      texts: text of each piece.
      question: what they are compared with, the reference.
      kind: ``"bleu"`` (smoothed sentence BLEU) or ``"rouge"`` (ROUGE-L F1).
      language: see ``similarity.words``.

    Returns:
      [P] float32 in [0, 1].

    Raises:
      UserError: another kind or language.

    Example:
      >>> similarity_scores(["Ann has 3 dogs", "So 6 legs"], "Ann has 3 dogs", "rouge")
      array([0., 1.], dtype=float32)
    """
    if kind not in KINDS:
        raise unknown("similarity", kind, KINDS)
    measure = similarity.sentence_bleu if kind == "bleu" else similarity.rouge_l
    reference = similarity.Reference(similarity.words(question, language))
    values = [1.0 - measure(similarity.words(text, language), reference) for text in texts]
    return np.asarray(values, np.float32)


def pool_token_scores(
    token_scores: np.ndarray,
    token_piece: np.ndarray,
    n_pieces: int,
    n_words: Sequence[int] | np.ndarray,
    reduce: str = "sum",
) -> np.ndarray:
    """Pool the scorer's numbers over the tokens of each piece.

    AS-ES paper: summed entropy (or loss) of a piece, or that divided by its words.

    Args:
      token_scores: [N] float, entropy or negative log-likelihood of each token.
      token_piece: [N] int, the piece of each token; negative for tokens of no piece.
      n_pieces: P.
      n_words: [P] words of each piece (``pieces.count_words``); used by ``"mean"``, where a piece
        without words counts as one word.
      reduce: ``"sum"`` or ``"mean"``.

    Returns:
      [P] float32, 0 for a piece without tokens.

    Raises:
      UserError: another ``reduce``.
      ValueError: shapes that do not fit, or a piece number of P or more.

    Example:
      >>> pool_token_scores([1., 2., 4.], [0, 0, 1], 2, [4, 2], "mean")
      array([0.75, 2.  ], dtype=float32)
    """
    if reduce not in REDUCE:
        raise unknown("segment.reduce", reduce, REDUCE)
    values = np.asarray(token_scores, np.float64)
    pieces = np.asarray(token_piece, np.int64)
    sizes = np.asarray(n_words)
    if values.shape != pieces.shape or values.ndim != 1 or sizes.shape != (n_pieces,):
        raise ValueError(
            f"token_scores {values.shape} and token_piece {pieces.shape} must be [N], "
            f"n_words {sizes.shape} must be [{n_pieces}]"
        )
    if pieces.size and pieces.max() >= n_pieces:
        raise ValueError(f"token_piece names piece {pieces.max()} of {n_pieces}")
    held = pieces >= 0
    pooled = np.bincount(pieces[held], weights=values[held], minlength=n_pieces)
    if reduce == "mean":
        pooled = pooled / np.maximum(sizes, 1)
    return pooled.astype(np.float32)
