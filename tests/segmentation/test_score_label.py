"""Scores of pieces, labels by them, segments of labels, agreement with gold labels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.core.errors import UserError
from asesjax.core.types import AS, ES, LABELS, Segment
from asesjax.segmentation.label import (
    balance,
    f1_from_counts,
    gold_labels,
    label_pieces,
    lopsided,
    merge_segments,
    segmentation_f1,
)
from asesjax.segmentation.pieces import Piece, split_pieces
from asesjax.segmentation.score import SCORES, ScoreInput, pool_token_scores
from asesjax.segmentation.similarity import rouge_l, sentence_bleu

quick = settings(deadline=None, max_examples=200)
NUMBERS = st.lists(st.floats(0, 100, width=32), max_size=8)


def similarity_scores(texts, question, kind, language="en"):
    return SCORES.get(kind).function(ScoreInput(question, texts, language, ()))


@pytest.mark.parametrize("kind", ["bleu", "rouge"])
def test_similarity_scores(kind):
    texts = ["Ann has 3 dogs.", "She buys 5 more cats.", ""]
    question = "Ann has 3 dogs. Ben has 5 cats."
    scores = similarity_scores(texts, question, kind)
    assert scores.dtype == np.float32 and scores.shape == (3,)
    measure = sentence_bleu if kind == "bleu" else rouge_l
    tokens = "ann has 3 dogs ben has 5 cats".split()
    assert scores[0] == np.float32(1 - measure("ann has 3 dogs".split(), tokens))
    assert scores[1] == np.float32(1 - measure("she buys 5 more cats".split(), tokens))
    assert scores[0] < scores[1] < scores[2] == 1
    assert similarity_scores([question], question, kind) == pytest.approx([0], abs=1e-6)
    assert similarity_scores([], question, kind).shape == (0,)


def test_similarity_scores_of_chinese_characters():
    zh = similarity_scores(["肝大。"], "肝不大。", "rouge", "zh")
    assert zh == pytest.approx([1 - 2 * 3 / 7])  # 肝 大 。 of 3 and 4
    with pytest.raises(UserError, match="unknown segment.strategy 'blue'; did you mean 'bleu'"):
        similarity_scores(["a"], "a", "blue")


@quick
@given(st.data())
def test_pooling_is_a_sum_over_each_piece(data):
    n_pieces = data.draw(st.integers(0, 5))
    tokens = data.draw(
        st.lists(st.tuples(st.floats(0, 50, width=32), st.integers(-1, n_pieces - 1)), max_size=20)
    )
    n_words = data.draw(st.lists(st.integers(0, 6), min_size=n_pieces, max_size=n_pieces))
    scores = np.array([score for score, _ in tokens], np.float32)
    piece = np.array([p for _, p in tokens], np.int32)
    for reduce in ("sum", "mean"):
        pooled = pool_token_scores(scores, piece, n_pieces, n_words, reduce)
        assert pooled.dtype == np.float32 and pooled.shape == (n_pieces,)
        for p in range(n_pieces):
            total = sum(float(score) for score, of in tokens if of == p)
            expected = total / max(n_words[p], 1) if reduce == "mean" else total
            assert pooled[p] == pytest.approx(expected, rel=1e-6)


def test_pooling_checks():
    with pytest.raises(UserError, match="unknown segment.reduce 'avg'"):
        pool_token_scores([1.0], [0], 1, [1], "avg")
    with pytest.raises(ValueError, match=r"token_scores \(2,\) and token_piece \(1,\)"):
        pool_token_scores([1.0, 2.0], [0], 1, [1])
    with pytest.raises(ValueError, match="n_words"):
        pool_token_scores([1.0], [0], 1, [1, 2])
    with pytest.raises(ValueError, match="names piece 1 of 1"):
        pool_token_scores([1.0], [1], 1, [1])


@quick
@given(NUMBERS, st.floats(0, 3))
def test_threshold_rule(scores, beta):
    labels = label_pieces(np.array(scores, np.float32), "entropy", beta)
    assert len(labels) == len(scores)
    if scores:
        threshold = beta * float(np.mean(np.array(scores, np.float64)))
        assert labels == ["AS" if score > threshold else "ES" for score in scores]
    if beta >= 1:
        assert labels.count(AS) < max(len(scores), 1)  # not all are above their mean


def test_equal_scores_are_es_at_beta_1_and_as_below():
    scores = np.full(7, 0.1, np.float32)
    assert label_pieces(scores, "loss", 1.0) == [ES] * 7
    assert label_pieces(scores, "loss", 0.99) == [AS] * 7


@quick
@given(st.lists(st.lists(st.floats(0.125, 100, width=32), min_size=2, max_size=6), min_size=1,
                max_size=9), st.sampled_from((0.0, 0.3, 1.0, 1.5, 9.0)))  # fmt: skip
def test_a_lopsided_labelling_names_a_beta_that_gives_half_the_rationales_both(scores, beta):
    def labelled(beta):
        return [label_pieces(own, "loss", beta) for own in scores]

    found = balance(labelled(beta))
    text = lopsided(scores, labelled(beta))
    assert bool(text) == (found["both_share"] < 0.5 or not 0.02 <= found["as_share"] <= 0.98)
    if text:
        assert f"{found['as_share']:.1%} of all pieces" in text
        edge = float(text.partition("segment.beta=")[2].split()[0])
        assert (
            balance(labelled(edge + (1e-6 if "from" in text else -1e-6)))["both_share"] >= 0.5
            or np.median([max(own) / np.mean(own) for own in scores]) < 1.0001
        )


def test_a_labelling_by_threshold_or_of_single_pieces_names_no_beta():
    assert "fixed threshold, 5" in lopsided([[1.0, 2.0]], [[ES, ES]], 5.0)
    text = lopsided([[1.0]] * 3, [[ES]] * 3)
    assert text.startswith("0.0% of all pieces are AS; no rationale has several pieces")
    assert lopsided([[1.0, 2.0]], [[ES, AS]]) == ""


def test_location_alternates_es_first():
    location = SCORES.get("location")
    for n, labels in ((5, [ES, AS, ES, AS, ES]), (0, [])):
        scores = location.function(ScoreInput("", ["x"] * n, "en", ()))
        assert label_pieces(scores, "location", threshold=location.threshold) == labels


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_of_a_diverged_scorer_are_refused(bad):
    with pytest.raises(UserError, match="not all finite.*the scorer diverged"):
        label_pieces([1.0, bad], "entropy")


@quick
@given(st.lists(st.tuples(st.text(min_size=1, max_size=4), st.sampled_from(LABELS))))
def test_merging(parts):
    texts, labels = [t for t, _ in parts], [label for _, label in parts]
    merged = merge_segments(texts, labels, merge_adjacent=True)
    apart = merge_segments(texts, labels, merge_adjacent=False)
    assert apart == [Segment(t, label) for t, label in parts]
    assert "".join(s.text for s in merged) == "".join(texts)
    # As characters, the labels are what they were; neighbours differ.
    assert "".join(s.label * len(s.text) for s in merged) == "".join(
        label * len(t) for t, label in parts
    )
    assert all(a.label != b.label for a, b in zip(merged, merged[1:], strict=False))


def test_merging_checks():
    with pytest.raises(ValueError, match="labels must be"):
        merge_segments(["a"], ["es"])
    with pytest.raises(ValueError):
        merge_segments(["a", "b"], [ES])


GOLD = st.lists(st.tuples(st.text("ab  \n", max_size=5), st.sampled_from([ES, AS, None])))


@quick
@given(GOLD, st.data())
def test_gold_labels_and_counts_by_brute_force(parts, data):
    gold = [Segment(text, label) for text, label in parts]
    text = "".join(s.text for s in gold) + " x."  # a closing sentence that gold does not have
    of = [label for s, label in parts for _ in s] + [None] * 3
    cuts = sorted(data.draw(st.sets(st.integers(1, len(text) - 1)))) + [len(text)]
    pieces = [Piece(a, b) for a, b in zip([0, *cuts], cuts, strict=False)]
    expected = []
    for a, b in pieces:
        solid = [of[i] for i in range(a, b) if not text[i].isspace()]
        n_es, n_as = solid.count(ES), solid.count(AS)
        expected.append(None if n_es + n_as == 0 else ES if n_es >= n_as else AS)
    assert gold_labels(pieces, gold) == expected

    labels = data.draw(
        st.lists(st.sampled_from(LABELS), min_size=len(pieces), max_size=len(pieces))
    )
    pairs = [(o, r) for o, r in zip(labels, expected, strict=True) if r]
    counts = segmentation_f1(pieces, labels, gold)
    for row, label in zip(counts, LABELS, strict=True):
        assert row.tolist() == [
            sum(o == r == label for o, r in pairs),
            sum(o == label != r for o, r in pairs),
            sum(o != label == r for o, r in pairs),
        ]


def test_a_piece_of_as_many_characters_of_both_labels_is_es():
    gold = [Segment("a ", AS), Segment("b", ES), Segment("c", AS)]
    assert gold_labels([Piece(0, 3)], gold) == [ES] and gold_labels([Piece(0, 4)], gold) == [AS]


def test_gold_without_pieces_or_text():
    assert gold_labels([], []) == []
    assert gold_labels([Piece(0, 3)], []) == [None]
    assert segmentation_f1([], [], []).tolist() == [[0, 0, 0], [0, 0, 0]]
    with pytest.raises(ValueError):
        segmentation_f1([Piece(0, 1)], [], [Segment("a", ES)])


def test_f1():
    counts = np.array([[3, 1, 2], [0, 2, 1]])
    scores = f1_from_counts(counts)
    assert scores["es_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert scores["as_f1"] == 0
    assert scores["macro_f1"] == pytest.approx(1 / 3)
    only_es = f1_from_counts(np.array([[2, 0, 0], [0, 0, 0]]))
    assert only_es["macro_f1"] == 1 and np.isnan(only_es["as_f1"])
    assert np.isnan(f1_from_counts(np.zeros((2, 3), int))["macro_f1"])


def test_perfect_labels_on_alternating_sentences():
    gold = [Segment("Ben has 3 more than Ann. ", ES), Segment("Ben has 2 + 3 = 5.", AS)] * 2
    text = "".join(s.text for s in gold)
    pieces = split_pieces(text, "keep")
    labels = label_pieces([0, 1] * 2, "location", threshold=0.5)
    assert f1_from_counts(segmentation_f1(pieces, labels, gold))["macro_f1"] == 1
    flipped = [AS if label == ES else ES for label in labels]
    assert f1_from_counts(segmentation_f1(pieces, flipped, gold))["macro_f1"] == 0
