"""Records to examples: exact ids and texts by hand, and properties of the token-to-piece map."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.core.errors import UserError
from asesjax.core.types import AS, ES, Record, Segment
from asesjax.data.examples import (
    answer_only_example,
    answer_sentence,
    chain_text,
    context_ids,
    direct_example,
    encode_chain,
    segment_examples,
)
from asesjax.data.vocab import ByteVocabulary, load_vocabulary, train_vocabulary
from asesjax.segment.pieces import Piece, split_pieces

TEMPLATE = "The answer is {answer}."
RECORD = Record(
    id="r-7",
    question="Amy has 5 apples. Ben has 3 more apples than Amy.",
    rationale="Ben has 3 more apples than Amy. Ben has 5 + 3 = 8 apples.",
    answer="8",
)
SEGMENTS = [
    Segment("Ben has 3 more apples than Amy. ", ES),
    Segment("Ben has 5 + 3 = 8 apples. ", AS),
    Segment("The answer is 8.", ES),
]


@functools.cache
def vocabulary():
    texts = [RECORD.question, RECORD.rationale, TEMPLATE, "肺结节。肝脏，未见异常。"]
    return train_vocabulary(texts * 3, 300, extra_ids=4)


def text_of(ids):
    """Decode, with end of sequence shown."""
    assert ids.dtype == np.int32 and ids[-1] == 1 and 1 not in ids[:-1]
    return vocabulary().decode(ids[:-1]) + "|"


def test_chain_text():
    assert chain_text(RECORD, TEMPLATE) == f"{RECORD.rationale} The answer is 8."
    assert chain_text(RECORD, "") == RECORD.rationale
    report = Record("1", "q", "Impression. ", "")
    assert chain_text(report, TEMPLATE) == "Impression. "
    assert chain_text(Record("1", "q", "r \n", "a{answer}"), "So {answer}") == "r So a{answer}"
    with pytest.raises(UserError, match=r"data.answer_template must hold \{answer\}, got 'Done'"):
        answer_sentence(RECORD, "Done")


def test_direct():
    example = direct_example(vocabulary(), RECORD, vocabulary().encode(RECORD.question), TEMPLATE)
    assert example.id == "r-7"
    assert text_of(example.inputs) == RECORD.question + "|"
    assert text_of(example.targets) == RECORD.rationale + " The answer is 8.|"
    assert example.weights.dtype == np.float32
    assert example.weights.tolist() == [1.0] * len(example.targets)


def test_answer_only():
    question = vocabulary().encode(RECORD.question)
    example = answer_only_example(vocabulary(), RECORD, question, TEMPLATE)
    assert text_of(example.inputs) == RECORD.question + "|"
    assert text_of(example.targets) == "The answer is 8.|"
    assert text_of(answer_only_example(vocabulary(), RECORD, question, "").targets) == "8|"
    with pytest.raises(UserError, match=r"record r-8 has no answer, .*take answer_only out"):
        answer_only_example(vocabulary(), Record("r-8", "q", "r", ""), question, TEMPLATE)


def test_segments_by_hand():
    question = vocabulary().encode(RECORD.question)
    examples = segment_examples(vocabulary(), "r-7", question, SEGMENTS, gamma=0.5)
    assert [e.id for e in examples] == ["r-7/1", "r-7/2", "r-7/3"]
    first, second = "Ben has 3 more apples than Amy.", "Ben has 5 + 3 = 8 apples."
    assert [text_of(e.inputs) for e in examples] == [
        f"{RECORD.question}|",
        f"{RECORD.question} {first}|",
        f"{RECORD.question} {first} {second}|",
    ]
    assert [text_of(e.targets) for e in examples] == [
        f"{first}|",
        f"{second}|",
        "The answer is 8. <extra_id_0>|",
    ]
    assert [sorted(set(e.weights.tolist())) for e in examples] == [[1.0], [0.5], [1.0]]
    assert [e.kind for e in examples] == ["es", "as", "answer"]
    assert all(e.weights.shape == e.targets.shape for e in examples)
    assert examples[2].targets[-2] == vocabulary().sentinel(0)


def test_end_of_chain_carries_the_weight_of_its_segment():
    question = vocabulary().encode(RECORD.question)
    last = segment_examples(vocabulary(), "r", question, SEGMENTS[:2], gamma=0.0)[-1]
    assert last.weights.tolist() == [0.0] * len(last.targets)
    stop = segment_examples(vocabulary(), "r", question, SEGMENTS, end_of_chain="stop_text")
    assert text_of(stop[-1].targets) == "The answer is 8.|"


def test_errors_name_the_record():
    question = vocabulary().encode("Amy")
    nothing = np.zeros(0, np.int32)
    build = functools.partial(segment_examples, vocabulary(), "r-9")
    with pytest.raises(UserError, match=r"record r-9: the segment 2 ' ' comes to no tokens"):
        build(question, [Segment("Ben. ", ES), Segment(" ", AS), Segment("Amy.", ES)])
    with pytest.raises(UserError, match=r"record r-9: the rationale '  ' comes to no tokens"):
        build(question, [Segment("  ", ES)])
    with pytest.raises(UserError, match=r"record r-9: the rationale '' comes to no tokens"):
        build(question, [])
    with pytest.raises(UserError, match=r"record r-9: the question .* comes to no tokens"):
        build(nothing, SEGMENTS)
    with pytest.raises(UserError, match=r"record r-9: segment 1 has label None, not ES or AS"):
        build(question, [Segment("Ben has", None)])
    with pytest.raises(UserError, match=r"record e: the rationale ' ' comes to no tokens"):
        direct_example(vocabulary(), Record("e", "q", " ", ""), question, TEMPLATE)
    with pytest.raises(UserError, match="vocab.extra_ids to at least 1"):
        segment_examples(ByteVocabulary(0), "r", question, SEGMENTS)


WORDS = st.lists(
    st.sampled_from(
        ["Ben ", "has", " 5", ", ", ". ", "\n", "é", "ﬁ ", "½", " ", "! "]
        + ["肺结节", "。", "，", "３"]
    ),
    max_size=25,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(WORDS, st.sampled_from(["keep", "merge"]), st.booleans())
def test_tokens_belong_to_the_piece_of_their_first_character(text, short, use_bytes):
    vocab = ByteVocabulary(3) if use_bytes else vocabulary()
    pieces = split_pieces(text, short=short, min_words=1)
    ids, piece_of_token = encode_chain(vocab, text, pieces)
    again, starts, ends = vocab.encode_with_offsets(text)
    assert ids.tolist() == again.tolist() and piece_of_token.dtype == np.int32
    assert len(piece_of_token) == len(ids)
    assert (np.diff(piece_of_token) >= 0).all()
    for start, end, got in zip(starts, ends, piece_of_token, strict=True):
        solid = [c for c in range(start, end) if not text[c].isspace()]
        after = [c for c in range(start, len(text)) if not text[c].isspace()]
        before = [c for c in range(start) if not text[c].isspace()]
        first = (solid or after or before[-1:] or [0])[0]
        (expected,) = [i for i, piece in enumerate(pieces) if piece.start <= first < piece.end]
        assert got == expected


@settings(max_examples=100, deadline=None)
@given(WORDS.filter(str.strip))
def test_targets_joined_are_the_chain_encoded_once(text):
    pieces = split_pieces(text, min_words=1)
    segments = [
        Segment(text[piece.start : piece.end], (ES, AS)[i % 2]) for i, piece in enumerate(pieces)
    ]
    question = vocabulary().encode("Amy has")
    chain = vocabulary().encode(text)
    try:
        examples = segment_examples(vocabulary(), "r", question, segments, gamma=2.0)
    except UserError:
        # Only where a piece has no tokens of its own.
        piece_of_token = encode_chain(vocabulary(), text, pieces)[1]
        assert set(piece_of_token.tolist()) != set(range(len(pieces)))
        return
    done = np.zeros(0, np.int32)
    for i, example in enumerate(examples):
        np.testing.assert_array_equal(example.inputs, context_ids(vocabulary(), question, done))
        n_closing = 2 if i == len(examples) - 1 else 1
        done = np.concatenate([done, example.targets[:-n_closing]])
        assert set(example.weights.tolist()) == {2.0 if i % 2 else 1.0}
    np.testing.assert_array_equal(done, chain)


def test_dropped_pieces_are_minus_one():
    text = "Ben has 5. So. Amy has 3."
    pieces = [Piece(0, 11), Piece(15, 25)]
    ids, piece_of_token = encode_chain(vocabulary(), text, pieces)
    assert vocabulary().decode(ids[piece_of_token == 0]) == "Ben has 5."
    assert vocabulary().decode(ids[piece_of_token == 1]) == "Amy has 3."
    assert vocabulary().decode(ids[piece_of_token == -1]).endswith(".")
    assert encode_chain(vocabulary(), text, [])[1].tolist() == [-1] * len(ids)
    assert encode_chain(vocabulary(), "", [Piece(0, 1)])[0].shape == (0,)


@pytest.mark.data
def test_t5_space_piece_goes_with_the_word_after_it(data_folder):
    # "é" is no word of T5's: it becomes a lone space piece and "é", at the start of a segment.
    vocab = load_vocabulary("sentencepiece", str(data_folder / "t5_vocab/spiece.model"))
    segments = [Segment("Hello. ", ES), Segment("é there.", AS)]
    first, second = segment_examples(vocab, "r", vocab.encode("q"), segments)
    assert first.targets.tolist() == [*vocab.encode("Hello.").tolist(), 1]
    assert second.targets.tolist() == [*vocab.encode("é there.").tolist(), 32099, 1]
    assert vocab.encode("é").tolist() == [3, 154]
