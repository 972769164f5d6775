"""Our BLEU and ROUGE are sacrebleu's and rouge-score's numbers, and quick."""

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.core.errors import UserError
from asesjax.segmentation.pieces import piece_texts, split_pieces
from asesjax.segmentation.score import SCORES, ScoreInput
from asesjax.segmentation.similarity import (
    Reference,
    ngrams,
    rouge_l,
    rouge_n,
    sentence_bleu,
    words,
)

# Few words, so that n-grams repeat and match; both libraries read them as tokens.
TOKENS = st.lists(st.sampled_from(["a", "b", "c", "dog", "12"]), max_size=14)
PAIRS = st.tuples(TOKENS, TOKENS)
many = settings(deadline=None, max_examples=500)


@many
@given(PAIRS)
def test_bleu_is_sacrebleu(pair):
    sacrebleu = pytest.importorskip("sacrebleu")
    hypothesis, reference = pair
    theirs = sacrebleu.sentence_bleu(
        " ".join(hypothesis), [" ".join(reference)], tokenize="none"
    ).score
    assert sentence_bleu(hypothesis, reference) == pytest.approx(theirs / 100, rel=1e-12, abs=1e-15)


@many
@given(PAIRS)
def test_rouge_is_rouge_score(pair):
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    hypothesis, reference = pair
    theirs = scorer.RougeScorer(["rouge1", "rouge2", "rouge3", "rougeL"]).score(
        " ".join(reference), " ".join(hypothesis)
    )
    for n in (1, 2, 3):
        assert rouge_n(hypothesis, reference, n) == pytest.approx(theirs[f"rouge{n}"].fmeasure)
    assert rouge_l(hypothesis, reference) == pytest.approx(theirs["rougeL"].fmeasure)


@many
@given(st.text(st.characters(max_codepoint=127)))
def test_words_of_ascii_text_are_rouge_scores_tokens(text):
    tokenize = pytest.importorskip("rouge_score.tokenize").tokenize
    assert words(text) == tokenize(text, None)


def longest_common_subsequence(a, b):
    row = [0] * (len(b) + 1)
    for x in a:
        old = row[:]
        for j, y in enumerate(b):
            row[j + 1] = old[j] + 1 if x == y else max(old[j + 1], row[j])
    return row[-1]


@many
@given(st.lists(st.integers(0, 3), max_size=90), st.lists(st.integers(0, 3), max_size=90))
def test_bit_parallel_lcs_is_the_dynamic_programme(a, b):
    a, b = [str(x) for x in a], [str(x) for x in b]
    assert Reference(b).common_subsequence(a) == longest_common_subsequence(a, b)


@many
@given(PAIRS)
def test_measures_are_in_0_to_1_and_1_for_equal_texts(pair):
    hypothesis, reference = pair
    for measure in (sentence_bleu, rouge_l, lambda a, b: rouge_n(a, b, 2)):
        assert 0 <= measure(hypothesis, reference) <= 1 + 1e-12
        assert measure(hypothesis, Reference(reference)) == measure(hypothesis, reference)
    if hypothesis:
        assert sentence_bleu(hypothesis, hypothesis) == pytest.approx(1)
        assert rouge_l(hypothesis, hypothesis) == 1


def test_words():
    assert words("Janet’s 3.5 m_² café!") == ["janet", "s", "3", "5", "m", "²", "café"]
    assert words("肝SUV值3.6。") == ["肝", "suv", "值", "3", "6"]
    assert words("肝 SUV3.6。", "zh") == ["肝", "s", "u", "v", "3", ".", "6", "。"]
    assert words("") == words(" ,", "en") == words(" \n", "zh") == []
    with pytest.raises(UserError, match="unknown evaluate.language 'cn'"):
        words("a", "cn")


def test_ngrams():
    assert ngrams(["a", "b", "a", "b"], 2) == {("a", "b"): 2, ("b", "a"): 1}
    assert not ngrams(["a"], 2)


@pytest.mark.data
def test_7473_rationales_in_seconds(data_folder):
    rows = [json.loads(s) for s in (data_folder / "gsm8k/train.jsonl").read_text().splitlines()]
    assert len(rows) == 7473
    pairs = []
    for row in rows:
        rationale = re.sub("<<.*?>>", "", row["answer"].split("\n####")[0])
        pairs.append((piece_texts(rationale, split_pieces(rationale)), row["question"]))
    for kind in ("bleu", "rouge"):
        start = time.process_time()
        for texts, question in pairs:
            scores = SCORES.get(kind).function(ScoreInput(question, texts, "en", ()))
            assert len(scores) == len(texts)
        # 0.5 s (rouge) and 1.2 s (bleu) measured.
        assert time.process_time() - start < 3, kind
