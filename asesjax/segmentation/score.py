"""One number a piece, M(S): high for pieces that say what the context does not.

A score is registered where it is defined:

    @score("digits")
    def digits(chain: ScoreInput) -> np.ndarray:
        return np.array([sum(c.isdigit() for c in text) for text in chain.texts], np.float32)
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from asesjax.core.errors import unknown
from asesjax.core.registry import Registry
from asesjax.core.signals import check_stop
from asesjax.segmentation import similarity

REDUCE = ("sum", "mean")


class ScoreInput(NamedTuple):
    """What a score may look at in one chain of P pieces and N tokens, those that end a target
    (``segment.given``) counted.
    """

    question: str  # its text
    texts: Sequence[str]  # of the P pieces
    language: str  # of the texts, see ``similarity.words``
    n_words: Sequence[int]  # [P] words of each piece
    # [N] float32, nats under the scorer; it and the next two are None without a scorer
    nll: np.ndarray | None = None
    # [N] float32, entropy of the scorer's prediction of each token, in nats
    entropy: np.ndarray | None = None
    token_piece: np.ndarray | None = None  # [N] int, the piece of each token; -1 for none
    reduce: str = "sum"  # how token scores are pooled over a piece: "sum", or "mean" over its words


@dataclasses.dataclass
class Score:
    """A segmentation score."""

    # returns [P] numbers, the higher the more abstractive
    function: Callable[[ScoreInput], np.ndarray]
    needs_model: bool = False  # whether it looks at ``nll`` or ``entropy``
    # pieces above it are AS; None for ``beta`` times the mean of the rationale
    threshold: float | None = None
    # where ``segment.beta`` is 0; 1, the mean, divides every rationale, and by what was measured
    # (see each score) no other value is better for scorers of every age
    beta: float = 1.0

    def __post_init__(self):
        # So that the registry tells scores apart.
        functools.update_wrapper(self, self.function)  # type: ignore[arg-type]  # never called


SCORES: Registry[Score] = Registry("segment.strategy")
NEEDS_NO_MODEL = "location"  # stands in for scores that do, where there is none yet
BEST_WITHOUT_MODEL = "rouge"  # by what was measured, see ``asesjax/methods/ases/README.md``


def score(
    name: str, needs_model: bool = False, threshold: float | None = None, beta: float = 1.0
) -> Callable:
    """Return a decorator that registers a function as a score; see ``Score``."""

    def add(function: Callable[[ScoreInput], np.ndarray]):
        SCORES.register(name)(Score(function, needs_model, threshold, beta))
        return function

    return add


@score("entropy", needs_model=True)
def _entropy(chain: ScoreInput) -> np.ndarray:
    """AS-ES paper: how unsure the scorer is of a piece. On the embedded task (``given=piece``, 300
    chains, a scorer of 1.2 M tokens after each quarter of its training) macro F1 at beta .8, .9, 1,
    1.1, 1.4 is .97 1.00 1.00 1.00 .37, then .91 1.00 .99 .94 .50, 1.00 1.00 .99 .97 .82, and at the
    end .99 .98 .97 .94 .82.
    """
    return _pooled(chain, chain.entropy)


@score("loss", needs_model=True)
def _loss(chain: ScoreInput) -> np.ndarray:
    """AS-ES paper: how much a piece surprises the scorer. Measured as entropy, macro F1 is .87 .97
    1.00 .99 .51, then .99 1.00 1.00 .96 .65, .75 .84 .92 .94 .73, and .71 .79 .86 .90 .70.
    """
    return _pooled(chain, chain.nll)


@score("bleu")
def _bleu(chain: ScoreInput) -> np.ndarray:
    """AS-ES paper: 1 - smoothed sentence BLEU of a piece against the question ("1 -" is ours, so
    that high means AS). Scores of pieces much shorter than the question are close to 1 by the
    brevity penalty, so only ``beta`` 1 divides: of GSM8K's pieces 92, 64, 8, 0 % are AS at beta
    .98, 1, 1.02, 1.2, and 37, 100, 23, 0 % of the rationales have both labels.
    """
    return _unlike(chain, similarity.sentence_bleu)


@score("rouge")
def _rouge(chain: ScoreInput) -> np.ndarray:
    """AS-ES paper: 1 - ROUGE-L F1 against the question. Of GSM8K's pieces 73, 50, 26, 3 % are AS at
    beta .95, 1, 1.05, 1.2 (of cPET's 100, 53, 0, 0 %).
    """
    return _unlike(chain, similarity.rouge_l)


@score("location", threshold=0.5)
def _location(chain: ScoreInput) -> np.ndarray:
    """AS-ES paper: pieces alternate by position, ES first."""
    return np.arange(len(chain.texts), dtype=np.float32) % 2


def _unlike(chain: ScoreInput, measure: Callable) -> np.ndarray:
    check_stop()
    reference = similarity.Reference(similarity.words(chain.question, chain.language))
    values = [1.0 - measure(similarity.words(t, chain.language), reference) for t in chain.texts]
    return np.asarray(values, np.float32)


def _pooled(chain: ScoreInput, values: np.ndarray | None) -> np.ndarray:
    assert values is not None and chain.token_piece is not None  # the score ``needs_model``
    return pool_token_scores(values, chain.token_piece, len(chain.texts), chain.n_words,
                             chain.reduce)  # fmt: skip


def pool_token_scores(
    token_scores: np.ndarray,
    token_piece: np.ndarray,
    n_pieces: int,
    n_words: Sequence[int] | np.ndarray,
    reduce: str = "sum",
) -> np.ndarray:
    """Pool the scorer's numbers over the tokens of each piece (AS-ES paper): "sum", or "mean",
    which divides by the words of the piece. ``token_scores`` is [N], ``token_piece`` [N] int
    (negative for none), ``n_words`` [P], where 0 counts as 1. Returns float32 [P], 0 for a piece
    without tokens.

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
