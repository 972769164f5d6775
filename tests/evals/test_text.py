"""Corpus BLEU and mean ROUGE."""

import sys
import unicodedata

import pytest

from asesjax.core.errors import UserError
from asesjax.evals.text import corpus_bleu, rouge

PREDICTIONS = ["Ann has 3.5 dogs, Ben has 12.", "So 5 + 3 = 8.", ""]
REFERENCES = ["Ann has 3.5 dogs. Ben has 12 cats.", "So 5 + 3 = 9.", "Yes."]
CHINESE = (["肝脏形态可，轮廓光整。", "SUVmax3.6"], ["肝脏形态尚可，轮廓光整。", "SUVmax3.1"])


def test_bleu_is_sacrebleus_with_either_tokenizer():
    sacrebleu = pytest.importorskip("sacrebleu")
    ours = corpus_bleu(PREDICTIONS, REFERENCES)
    assert ours == sacrebleu.corpus_bleu(PREDICTIONS, [REFERENCES]).score
    assert 20 < ours < 100
    ours = corpus_bleu(*CHINESE, "zh")
    assert ours == sacrebleu.corpus_bleu(CHINESE[0], [CHINESE[1]], tokenize="zh").score
    assert ours > corpus_bleu(*CHINESE, "en")
    # Predictions and references do not swap.
    assert corpus_bleu(["a b c d"], ["a b c d e"]) < 100 * 0.8


def test_rouge_is_the_mean_of_rouge_scores():
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    theirs = [
        scorer.RougeScorer(["rouge1", "rouge2", "rougeL"]).score(reference, prediction)
        for prediction, reference in zip(PREDICTIONS, REFERENCES, strict=True)
    ]
    ours = rouge(PREDICTIONS, REFERENCES)
    assert set(ours) == {"rouge_1", "rouge_2", "rouge_l"}
    for name, other in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        assert ours[name] == pytest.approx(100 * sum(t[other].fmeasure for t in theirs) / 3)


def test_rouge_of_chinese_counts_characters():
    assert rouge(["肝大。"], ["肝不大。"], "zh") == pytest.approx(
        {"rouge_1": 600 / 7, "rouge_2": 200 * 1 / 5, "rouge_l": 600 / 7}
    )


def test_chinese_in_half_width_is_no_worse():
    """The vocabularies of T5 and mT5 write NFKC forms, references have full-width ones."""
    half = [unicodedata.normalize("NFKC", text) for text in CHINESE[0]]
    assert half != CHINESE[0]
    assert rouge(half, CHINESE[1], "zh") == rouge(*CHINESE, "zh")
    pytest.importorskip("sacrebleu")
    assert corpus_bleu(half, CHINESE[1], "zh") == corpus_bleu(*CHINESE, "zh")
    assert corpus_bleu(half, CHINESE[0], "zh") == pytest.approx(100)


def test_bleu_without_sacrebleu_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(UserError, match=r"pip install 'asesjax\[eval\]'"):
        corpus_bleu(["a"], ["a"])


@pytest.mark.parametrize("measure", [corpus_bleu, rouge])
def test_lists_and_languages_are_checked(measure):
    with pytest.raises(UserError, match="at least one, got 0 and 0"):
        measure([], [])
    with pytest.raises(UserError, match="got 1 and 2"):
        measure(["a"], ["a", "b"])
    with pytest.raises(UserError, match="unknown evaluate.language 'cn'"):
        measure(["a"], ["a"], "cn")
