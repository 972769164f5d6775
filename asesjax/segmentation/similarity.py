"""Sentence BLEU, ROUGE-N and ROUGE-L F1 over token lists, without dependencies."""

import functools
import math
import re
from collections import Counter
from collections.abc import Sequence

from asesjax.core.errors import unknown
from asesjax.segmentation.pieces import CJK

LANGUAGES = ("en", "zh")
BLEU_ORDER = 4

_WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")
_CHARACTER = re.compile(r"\S")


def words(text: str, language: str = "en") -> list[str]:
    """Return the lower-cased tokens of a text. "en": runs of letters and digits, and CJK characters
    alone; on ASCII text rouge-score's tokens without stemming. "zh": every character that is not
    white space. Raises UserError for another language.

    >>> words("She's 3.5 m tall"), words("肝 SUV3", "zh")
    (['she', 's', '3', '5', 'm', 'tall'], ['肝', 's', 'u', 'v', '3'])
    """
    if language not in LANGUAGES:
        raise unknown("evaluate.language", language, LANGUAGES)
    return (_CHARACTER if language == "zh" else _WORD).findall(text.lower())


class Reference:
    """A token list with what the measures need of it, made once for many hypotheses."""

    def __init__(self, tokens: Sequence[str]):
        self.size = len(tokens)
        self._grams = functools.cache(functools.partial(ngrams, list(tokens)))
        self._places: dict[str, int] = {}  # token -> bit i set where tokens[i] is it
        for i, token in enumerate(tokens):
            self._places[token] = self._places.get(token, 0) | 1 << i

    def matches(self, tokens: Sequence[str], n: int) -> int:
        """Return how many n-grams of ``tokens`` are found, each at most as often as here."""
        have = self._grams(n)
        return sum(min(k, have[gram]) for gram, k in ngrams(tokens, n).items() if gram in have)

    def common_subsequence(self, tokens: Sequence[str]) -> int:
        """Return the length of the longest common subsequence. Bit-parallel (Hyyrö 2004): a column
        of the dynamic programme is one integer, whose zero bits are where the length grows.
        """
        full = (1 << self.size) - 1
        column = full
        for token in tokens:
            if match := column & self._places.get(token, 0):
                column = (column + match | column - match) & full
        return self.size - column.bit_count()


def ngrams(tokens: Sequence[str], n: int) -> Counter:
    """Count the runs of ``n`` tokens."""
    if n == 1:
        return Counter(tokens)
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))


def sentence_bleu(hypothesis: Sequence[str], reference: Sequence[str] | Reference) -> float:
    """Return BLEU of a token list against one reference, from 0 to 1: ``sacrebleu.sentence_bleu`` /
    100 with its defaults (order 4, "exp" smoothing, effective order) on pre-tokenised text.
    """
    reference = reference if isinstance(reference, Reference) else Reference(reference)
    size = len(hypothesis)
    if size == 0 or reference.size == 0:
        return 0.0
    log_sum, smooth, matches, orders = 0.0, 1.0, 1, min(BLEU_ORDER, size)
    for n in range(1, orders + 1):
        # Once an order has no match, no longer one has: no need to count.
        matches = matches and reference.matches(hypothesis, n)
        if n == 1 and not matches:
            return 0.0
        if not matches:
            smooth *= 2
        log_sum += math.log((matches or 1 / smooth) / (size - n + 1))
    return math.exp(min(0.0, 1 - reference.size / size) + log_sum / orders)


def rouge_n(hypothesis: Sequence[str], reference: Sequence[str] | Reference, n: int) -> float:
    """Return ROUGE-N F1, from 0 to 1: shared n-grams against those of either side."""
    reference = reference if isinstance(reference, Reference) else Reference(reference)
    ours, theirs = len(hypothesis) - n + 1, reference.size - n + 1
    return _f1(reference.matches(hypothesis, n), ours, theirs)


def rouge_l(hypothesis: Sequence[str], reference: Sequence[str] | Reference) -> float:
    """Return ROUGE-L F1, from 0 to 1: the longest common subsequence against either length."""
    reference = reference if isinstance(reference, Reference) else Reference(reference)
    return _f1(reference.common_subsequence(hypothesis), len(hypothesis), reference.size)


def _f1(shared: int, ours: int, theirs: int) -> float:
    return 2 * shared / (ours + theirs) if shared else 0.0
