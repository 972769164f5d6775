"""Pieces, labels and the answer of one text, from nothing to 10,000 words."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asesjax.core.types import AS, ES
from asesjax.evals.answers import answer_number, is_correct, parse_answer
from asesjax.evals.numbers import last_number
from asesjax.segmentation.label import gold_labels, label_pieces, merge_segments
from asesjax.segmentation.pieces import count_words, piece_texts, split_pieces
from asesjax.segmentation.score import SCORES, ScoreInput

quick = settings(deadline=None, max_examples=150)
WORDS = st.sampled_from(
    ["dogs", "8,000", "1/2", "-3.5", "$1,234.50", "50%", "<<48/2=24>>24", "<<a <<1+1=2>> b>>",
     "肝脏形态可，", "SUVmax：3.6。", "1、", "２．５", "Ünïcödé,", "end.", "why?", "a\u0301", "🙂;",
     "\u202e", "...", "(b)", "\n"]
) | st.text(st.characters(), min_size=1, max_size=6)  # fmt: skip
# A short stretch, said again and again: up to 10,000 words.
TEXTS = st.builds(
    lambda words, times: " ".join(words * times),
    st.lists(WORDS, max_size=8),
    st.sampled_from([1, 1, 1, 2, 30, 1250]),
)


@quick
@given(TEXTS, st.sampled_from(["merge", "keep"]))
@example("", "merge")
@example("word", "merge")
@example("Ann has 3 dogs, and she sells 2. " * 1429, "merge")  # 10,003 words
def test_pieces_and_labels_of_any_text(text, short):
    pieces = split_pieces(text, short)
    texts = piece_texts(text, pieces)
    assert "".join(texts) == text and all(texts)
    scores = SCORES.get("rouge").function(
        ScoreInput("How many dogs has Ann?", texts[:50], "en", ())
    )
    assert ((scores >= 0) & (scores <= 1)).all()
    rng = np.random.default_rng(len(text))
    for labels in (
        label_pieces(np.arange(len(pieces)) % 2, "location", threshold=0.5),
        label_pieces(rng.random(len(pieces)), "entropy", 1.1),
    ):
        assert len(labels) == len(pieces) and set(labels) <= {ES, AS}
        segments = merge_segments(texts, labels)
        assert "".join(segment.text for segment in segments) == text
        assert all(a.label != b.label for a, b in zip(segments, segments[1:], strict=False))
        # The labels come back from the segments, wherever there is a character to tell by.
        for ours, back, piece in zip(labels, gold_labels(pieces, segments), texts, strict=True):
            assert back == (ours if piece.strip() else None)


@quick
@given(TEXTS)
@example("")
@example("yes")
def test_answers_of_any_text(text):
    for metric in ("numeric", "choice", "yes_no", "exact", "authors"):
        answer = parse_answer(text, metric)
        assert answer is None or (isinstance(answer, str) and answer)
        # A parsed answer is right by itself.
        if answer is not None and metric != "authors":
            assert is_correct(f"The answer is {answer}", answer, metric)
    number = last_number(text)
    assert (answer_number(text, "") is None) == (number is None)
    assert number is None or isinstance(number, Fraction)


@quick
@given(TEXTS, st.sampled_from(["yes", "no", "yajo", "F", "wooded area", "05/01/2021", "是"]))
def test_an_answer_in_words_after_any_text_is_read(text, answer):
    if "the answer is" in text.lower():
        return
    chain = f"{text} The answer is {answer}."
    assert is_correct(chain, answer, "exact") and is_correct(chain, answer.upper(), "exact")
    assert not is_correct(chain, answer + "n", "exact")
    assert parse_answer(chain, "exact") == answer.lower()
    # What a model writes behind its answer does not count.
    assert is_correct(f"{chain} Is it 5? The answer is so.", answer, "exact")


@quick
@given(TEXTS, st.integers(-(10**6), 10**6), st.sampled_from(["{:,}", "${:,}.00", "{}%"]))
def test_a_number_after_any_text_is_read(text, number, form):
    if "the answer is" in text.lower():
        return
    chain = f"{text}\nThe answer is {form.format(number)}."
    assert answer_number(chain) == number
    assert is_correct(chain, str(number), "numeric")
    assert not is_correct(chain, str(number + 1), "numeric")


@pytest.mark.parametrize(
    ("said", "value"),
    [
        ("8,000", "8000"), ("1/2", "1/2"), ("-3.5", "-7/2"), ("$1,234.50", "2469/2"),
        ("50%", "50"), ("<<48/2=24>>24", "24"), ("<<1+<<2*3=6>>6=7>>7", "7"), ("７２", "72"),
        ("３．５", "7/2"), ("72个", "72"), ("：72。", "72"), ("￥1,000", "1000"), ("－3", "-3"),
    ],
)  # fmt: skip
def test_numbers_as_they_are_written(said, value):
    for chain in (
        f"The answer is {said}.",
        f"So 5. The answer is {said}",
        f"所以5。答案是{said}。",
    ):
        assert answer_number(chain) == Fraction(value)


def test_words_are_counted_to_the_end():
    assert count_words("dogs " * 10_000) == 10_000
