"""AS-ES examples: exact ids and texts by hand, the paths, and targets that joined are the chain."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.files import write_json
from asesjax.core.types import AS, ES, LABELS, Record, Segment
from asesjax.data.corpus import encode_record
from asesjax.data.vocab import ByteVocabulary, load_vocabulary
from asesjax.data.vocab_training import train_vocabulary
from asesjax.methods.ases.method import segment_examples
from asesjax.methods.method import make_method
from asesjax.segmentation.pieces import split_pieces

QUESTION = "Amy has 5 apples. Ben has 3 more apples than Amy."
FIRST, SECOND = "Ben has 3 more apples than Amy.", "Ben has 5 + 3 = 8 apples."
SEGMENTS = [
    Segment(f"{FIRST} ", ES),
    Segment(f"{SECOND} ", AS),
    Segment("The answer is 8.", ES),
]


@functools.cache
def vocabulary():
    texts = [QUESTION, FIRST, SECOND, "The answer is {answer}.", "肺结节。肝脏，未见异常。"]
    return train_vocabulary(texts * 3, 300, extra_ids=4)


def segmented(segments, vocab=None, question=QUESTION):
    """Return a record of this chain, encoded, with its segments as pieces."""
    ends = np.cumsum([len(segment.text) for segment in segments])
    notes = {"pieces": np.ravel([[0, *ends[:-1]], ends], order="F"),
             "labels": np.array([LABELS.index(segment.label) for segment in segments])}  # fmt: skip
    text = "".join(segment.text for segment in segments)
    return encode_record(vocab or vocabulary(), Record("r-7", question, text, ""), "", notes)


def made(name, **fields):
    fields = {field.replace("__", "."): str(value) for field, value in fields.items()}
    method = make_method(name, finish(base_config(), fields))
    return method.examples(segmented(SEGMENTS), vocabulary())


def text_of(ids):
    """Decode, with end of sequence shown."""
    assert ids.dtype == np.int32 and ids[-1] == 1 and 1 not in ids[:-1]
    return vocabulary().decode(ids[:-1]) + "|"


def test_unified_path_by_hand():
    examples = made("usm", ases__gamma=2.5)["main"]
    assert [e.id for e in examples] == ["r-7/1", "r-7/2", "r-7/3"]
    assert [text_of(e.inputs) for e in examples] == [
        f"{QUESTION}|",
        f"{QUESTION} {FIRST}|",
        f"{QUESTION} {FIRST} {SECOND}|",
    ]
    assert [text_of(e.targets) for e in examples] == [
        f"{FIRST}|",
        f"{SECOND}|",
        "The answer is 8. <extra_id_0>|",
    ]
    assert [set(e.weights.tolist()) for e in examples] == [{1.0}, {2.5}, {1.0}]
    assert [e.kind for e in examples] == ["es", "as", "answer"]
    assert all(e.weights.shape == e.targets.shape for e in examples)
    assert examples[2].targets[-2] == vocabulary().sentinel(0)
    # Ids are joined, never text encoded again; here the tokenizer allows both to agree.
    for example in examples:
        again = vocabulary().encode(vocabulary().decode(example.inputs))
        np.testing.assert_array_equal(again, example.inputs[:-1])
    with pytest.raises(UserError, match="ases.gamma"):
        made("usm", ases__gamma=-1)


def test_dual_path_divides_the_unified_examples_by_label():
    unified, dual = made("usm")["main"], made("dsm")
    assert [e.id for e in dual["es"]] == [unified[0].id, unified[2].id]
    assert [e.id for e in dual["as"]] == [unified[1].id]
    np.testing.assert_array_equal(dual["as"][0].inputs, unified[1].inputs)


def test_who_begins_where_a_rationale_begins_with_as(tmp_path):
    record = segmented([SEGMENTS[1], SEGMENTS[0]])

    def of(first):
        return make_method("dsm", finish(base_config(), {"ases.first": first}))

    empty, first = of("empty").examples(record, vocabulary())["es"]
    assert (text_of(empty.inputs), empty.targets.tolist()) == (f"{QUESTION}|", [1])
    assert text_of(first.targets) == f"{FIRST} <extra_id_0>|"
    assert len(of("empty").examples(segmented(SEGMENTS), vocabulary())["es"]) == 2
    for name in ("es", "frequent"):
        assert len(of(name).examples(record, vocabulary())["es"]) == 1
    plans = {name: of(name).decode_plan(vocabulary()) for name in ("empty", "es", "frequent")}
    assert {name: plan.empty_first for name, plan in plans.items()} == {
        "empty": True, "es": False, "frequent": False
    }  # fmt: skip
    for share, roles in ((0.4, ["es", "as"]), (0.6, ["as", "es"])):
        write_json(tmp_path / "segments/summary.json", {"first_as_share": share})
        for name, expected in (("frequent", roles), ("empty", ["es", "as"])):
            method = of(name)
            method.recall(tmp_path)
            plan = method.decode_plan(vocabulary())
            assert [turn.role for turn in plan.turns] == expected


def test_end_marks_weigh_what_their_segment_weighs():
    last = segment_examples(vocabulary(), segmented(SEGMENTS[:2]), gamma=0.0)[-1]
    assert last.weights.tolist() == [0.0] * len(last.targets)


def test_chains_that_end_by_text_have_no_sentinel():
    last = made("usm", ases__end_of_chain="stop_text")["main"][-1]
    assert text_of(last.targets) == "The answer is 8.|"


def test_neighbours_of_one_label_are_one_segment_or_stay_apart():
    record = segmented([SEGMENTS[0], SEGMENTS[2], SEGMENTS[1]])
    merged = segment_examples(vocabulary(), record)
    apart = segment_examples(vocabulary(), record, merge_adjacent=False)
    assert [e.kind for e in merged] == ["es", "answer"]
    assert [e.kind for e in apart] == ["es", "es", "answer"]
    joined = np.concatenate([e.targets[:-1] for e in apart[:2]])
    np.testing.assert_array_equal(merged[0].targets[:-1], joined)
    np.testing.assert_array_equal(merged[1].inputs, apart[2].inputs)


def test_tokens_of_dropped_pieces_are_left_out():
    text = "Ben has 5. So. Amy has 3."
    record = encode_record(vocabulary(), Record("r", "Amy", text, ""), "")
    notes = {"pieces": np.array([0, 11, 15, 25]), "labels": np.array([0, 1])}
    first, second = segment_examples(vocabulary(), record._replace(annotations=notes))
    assert [text_of(first.inputs), text_of(first.targets)] == ["Amy|", "Ben has 5.|"]
    assert text_of(second.inputs) == "Amy Ben has 5.|"
    assert text_of(second.targets) == "Amy has 3. <extra_id_0>|"


def test_errors_name_the_record():
    build = functools.partial(segment_examples, vocabulary())
    with pytest.raises(UserError, match=r"record r-7: the segment 2 .* comes to no tokens"):
        build(segmented([Segment("Ben. ", ES), Segment(" ", AS), Segment("Amy.", ES)]))
    with pytest.raises(UserError, match=r"record r-7: the segment 1 '  ' comes to no tokens"):
        build(segmented([Segment("  ", ES)]))
    with pytest.raises(UserError, match="vocab.extra_ids to at least 1"):
        segment_examples(ByteVocabulary(0), segmented(SEGMENTS, ByteVocabulary(0)))


WORDS = st.lists(
    st.sampled_from(
        ["Ben ", "has", " 5", ", ", ". ", "\n", "é", "ﬁ ", "½", " ", "! "]
        + ["肺结节", "。", "，", "３"]
    ),
    max_size=25,
).map("".join)


@settings(max_examples=100, deadline=None)
@given(WORDS.filter(str.strip))
def test_targets_joined_are_the_chain_encoded_once(text):
    pieces = split_pieces(text, min_words=1)
    segments = [
        Segment(text[piece.start : piece.end], (ES, AS)[i % 2]) for i, piece in enumerate(pieces)
    ]
    record = segmented(segments, question="Amy has")
    try:
        examples = segment_examples(vocabulary(), record, gamma=2.0)
    except UserError:
        # Only where a piece has no tokens of its own.
        piece_of_token = record.chain.piece_of_tokens(pieces)
        assert set(piece_of_token.tolist()) != set(range(len(pieces)))
        return
    done = np.zeros(0, np.int32)
    for i, example in enumerate(examples):
        assert example.inputs.tolist() == [*record.question.ids, *done, 1]
        n_closing = 2 if i == len(examples) - 1 else 1
        done = np.concatenate([done, example.targets[:-n_closing]])
        assert set(example.weights.tolist()) == {2.0 if i % 2 else 1.0}
    np.testing.assert_array_equal(done, vocabulary().encode(text))


@pytest.mark.data
def test_t5_space_piece_goes_with_the_word_after_it(data_folder):
    # "é" is no word of T5's: it becomes a lone space piece and "é", at the start of a segment.
    vocab = load_vocabulary("sentencepiece", str(data_folder / "t5_vocab/spiece.model"))
    segments = [Segment("Hello. ", ES), Segment("é there.", AS)]
    first, second = segment_examples(vocab, segmented(segments, vocab, question="q"))
    assert first.targets.tolist() == [*vocab.encode("Hello.").tolist(), 1]
    assert second.targets.tolist() == [*vocab.encode("é there.").tolist(), 32099, 1]
    assert vocab.encode("é").tolist() == [3, 154]
