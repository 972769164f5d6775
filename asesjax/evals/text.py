"""Overlap of generated texts with references over a whole test set, in percent.

Chinese texts are compared in NFKC form (ours): the vocabularies of T5 and mT5 write full-width
commas and colons as ASCII ones, by which cPET's impressions score BLEU 83 against themselves.
"""

import functools
import unicodedata
from collections.abc import Sequence

from asesjax.core.errors import UserError, unknown
from asesjax.core.signals import check_stop
from asesjax.segmentation.similarity import LANGUAGES, Reference, rouge_l, rouge_n, words


def corpus_bleu(
    predictions: Sequence[str], references: Sequence[str], language: str = "en"
) -> float:
    """Return corpus BLEU from 0 to 100 by sacrebleu's defaults; "en" takes tokenizer 13a, "zh" its
    Chinese one. Raises UserError without sacrebleu or for lists that are empty or of two lengths.
    """
    predictions, references = _checked(predictions, references, language)
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise UserError(
            "BLEU needs sacrebleu, which is not installed; run: pip install 'asesjax[eval]'"
        ) from None
    # force: texts with spaces around punctuation are meant so; no warning about them.
    bleu = BLEU(tokenize="zh" if language == "zh" else "13a", force=True)
    return bleu.corpus_score(predictions, [references]).score


def rouge(
    predictions: Sequence[str], references: Sequence[str], language: str = "en"
) -> dict[str, float]:
    """Return ``rouge_1``, ``rouge_2`` and ``rouge_l``: mean F1 over the pairs, from 0 to 100, on
    the tokens of ``similarity.words``. ROUGE-L takes the text as one sequence.
    """
    predictions, references = _checked(predictions, references, language)
    sums = {"rouge_1": 0.0, "rouge_2": 0.0, "rouge_l": 0.0}
    for prediction, target in zip(predictions, references, strict=True):
        check_stop()
        tokens, reference = words(prediction, language), Reference(words(target, language))
        sums["rouge_1"] += rouge_n(tokens, reference, 1)
        sums["rouge_2"] += rouge_n(tokens, reference, 2)
        sums["rouge_l"] += rouge_l(tokens, reference)
    return {name: 100.0 * value / len(predictions) for name, value in sums.items()}


def _checked(
    predictions: Sequence[str], references: Sequence[str], language: str
) -> tuple[list[str], list[str]]:
    if language not in LANGUAGES:
        raise unknown("evaluate.language", language, LANGUAGES)
    if len(predictions) != len(references) or not predictions:
        raise UserError(
            f"need as many predictions as references and at least one, got {len(predictions)} "
            f"and {len(references)}"
        )
    same = functools.partial(unicodedata.normalize, "NFKC") if language == "zh" else str
    return list(map(same, predictions)), list(map(same, references))
