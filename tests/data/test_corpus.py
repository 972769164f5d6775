"""Records in ids: what is read is what encoding anew gives; the piece of each token."""

import functools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.core.ragged import Ragged, write_annotations
from asesjax.core.types import Record
from asesjax.data.corpus import encode_record, encode_text, read_corpus, write_corpus
from asesjax.data.sources import read_records, write_records
from asesjax.data.vocab import ByteVocabulary, load_saved
from asesjax.data.vocab_training import train_vocabulary
from asesjax.jobs.data import prepare_data
from asesjax.jobs.training import role_examples
from asesjax.methods.ases.stages import score_pieces, segment_pieces
from asesjax.methods.method import make_method
from asesjax.run import Run
from asesjax.segmentation.pieces import Piece, split_pieces

TEMPLATE = "The answer is {answer}."
WORDS = st.lists(
    st.sampled_from(
        ["Ben ", "has", " 5", ", ", ". ", "\n", "é", "ﬁ ", "½", " ", "! "]
        + ["肺结节", "。", "，", "３"]
    ),
    max_size=25,
).map("".join)
SPOKEN = WORDS.filter(str.strip)


@functools.cache
def vocabulary():
    texts = ["Amy has 5 apples. Ben has 3 more! So 8.", TEMPLATE, "肺结节。肝脏，未见异常。"]
    return train_vocabulary(texts * 3, 300, extra_ids=4)


def write(folder, records, vocab, split="train", template=TEMPLATE):
    write_records(folder / f"data/{split}.jsonl", records)
    write_corpus(folder / f"corpus/{split}", [encode_record(vocab, r, template) for r in records])


def assert_same(found, want):
    assert found.record == want.record
    for name in ("question", "chain"):
        mine, theirs = getattr(found, name), getattr(want, name)
        assert mine.text == theirs.text
        for part in ("ids", "starts"):
            assert getattr(mine, part).dtype == np.int32
            np.testing.assert_array_equal(getattr(mine, part), getattr(theirs, part))


# What is read.


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SPOKEN, SPOKEN, SPOKEN | st.just("")), max_size=4), st.booleans(),
       st.sampled_from([TEMPLATE, ""]))  # fmt: skip
def test_what_is_read_is_what_encoding_anew_gives(tmp_path_factory, texts, use_bytes, template):
    folder = tmp_path_factory.getbasetemp() / "corpus"
    vocab = ByteVocabulary(3) if use_bytes else vocabulary()
    records = [Record(f"r{i}", *own) for i, own in enumerate(texts)]
    write(folder, records, vocab, template=template)
    marks = Ragged.of([np.arange(i) for i in range(len(records))], np.int8)
    write_annotations(folder / "notes/train.npz", [r.id for r in records], marks=marks)
    found = read_corpus(folder, "train", template, ["notes/{split}.npz"])
    assert len(found) == len(records)
    for i, (own, record) in enumerate(zip(found, records, strict=True)):
        assert_same(own, encode_record(vocab, record, template))
        assert own.annotations["marks"].tolist() == list(range(i))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    fields = {"data.n_train": "40", "data.n_validation": "5", "data.n_test": "5",
              "segment.strategy": "location", "ases.gamma": "0.37"}  # fmt: skip
    run = Run(finish(base_config(), fields), tmp_path_factory.mktemp("run"), say=lambda text: None)
    prepare_data(run)
    score_pieces(run)
    segment_pieces(run)
    return run


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_data_stage_encodes_every_split(prepared, split):
    vocab, template = load_saved(prepared / "vocab"), prepared.config.data.answer_template
    records = read_records(prepared / f"data/{split}.jsonl")
    found = read_corpus(prepared.workdir, split, template)
    assert len(found) == len(records) == (40 if split == "train" else 5)
    for own, record in zip(found, records, strict=True):
        assert_same(own, encode_record(vocab, record, template))


@pytest.mark.parametrize("name", ["direct", "usm", "dsm"])
def test_examples_are_those_of_records_encoded_anew(prepared, name):
    vocab, template = load_saved(prepared / "vocab"), prepared.config.data.answer_template
    method = make_method(name, prepared.config)
    want = {role: [] for role in method.roles}
    for own in read_corpus(prepared.workdir, "train", template, method.annotations):
        anew = encode_record(vocab, own.record, template, own.annotations)
        for role, examples in method.examples(anew, vocab).items():
            want[role] += examples
    found = role_examples(prepared, method, "train")
    assert list(found) == list(want)
    for role in want:
        for mine, theirs in zip(found[role], want[role], strict=True):
            assert (mine.id, mine.kind) == (theirs.id, theirs.kind)
            for part in ("inputs", "targets", "weights"):
                np.testing.assert_array_equal(getattr(mine, part), getattr(theirs, part))


def test_examples_follow_options_segments_and_records(prepared):
    def made(name, **fields):
        config = finish(prepared.config, {k.replace("__", "."): v for k, v in fields.items()})
        return role_examples(prepared, make_method(name, config), "train")["main"]

    before = made("usm")
    assert {w for e in before for w in e.weights.tolist()} == {1.0, float(np.float32(0.37))}
    assert {w for e in made("usm", ases__gamma="0.5") for w in e.weights.tolist()} == {1.0, 0.5}
    fields = {"segment.strategy": "bleu", "segment.beta": "2.0"}
    segment_pieces(Run(finish(prepared.config, fields), prepared.workdir, say=prepared.say))
    assert len(made("usm")) < len(before)


# What is refused.


@pytest.fixture
def written(tmp_path):
    records = [Record(f"r{i}", "Amy has 5.", "Ben has 3. So 8.", "8") for i in range(3)]
    write(tmp_path, records, vocabulary())
    return tmp_path


def test_a_corpus_or_annotations_of_other_records_are_refused(written):
    write_annotations(written / "notes.npz", ["r0", "r1"], marks=Ragged.of([[1], [2]], np.int8))
    with pytest.raises(UserError, match="notes.npz is of other records; run again with --redo"):
        read_corpus(written, "train", TEMPLATE, ["notes.npz"])
    file = written / "data/train.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match="corpus/train is of other records; run again with --redo"):
        read_corpus(written, "train", TEMPLATE)


@pytest.mark.parametrize("name", [f"{text}_{part}.npy" for text in ("question", "chain")
                                  for part in ("ids", "starts", "ends")])  # fmt: skip
@pytest.mark.parametrize("left", [0, 60, 0.95, None])
def test_a_damaged_or_missing_file_is_named(written, name, left):
    file = written / f"corpus/train/{name}"
    content = file.read_bytes()
    file.unlink()
    if left is not None:
        file.write_bytes(content[: left if isinstance(left, int) else int(left * len(content))])
    with pytest.raises(UserError, match=f"{name} cannot be read .*; run the data stage again"):
        read_corpus(written, "train", TEMPLATE)


@pytest.mark.parametrize("texts, what", [(("", "a"), "question ''"), (("a", " "), "chain ' '")])
def test_a_text_without_tokens_is_refused(tmp_path, texts, what):
    records = [Record("r0", "Amy", "Ben", ""), Record("r1", *texts, "")]
    with pytest.raises(UserError, match=f"record r1: the {what} comes to no tokens .*leave it out"):
        write(tmp_path, records, vocabulary())


# Pieces of tokens.


@settings(max_examples=200, deadline=None)
@given(WORDS, st.sampled_from(["keep", "merge"]), st.booleans())
def test_tokens_belong_to_the_piece_of_their_first_character(text, short, use_bytes):
    vocab = ByteVocabulary(3) if use_bytes else vocabulary()
    pieces = split_pieces(text, short=short, min_words=1)
    own = encode_text(vocab, text)
    piece_of_token = own.piece_of_tokens(pieces)
    ids, starts, ends = vocab.encode_with_offsets(text)
    assert own.ids.tolist() == ids.tolist() and piece_of_token.dtype == np.int32
    assert len(piece_of_token) == len(ids)
    assert (np.diff(piece_of_token) >= 0).all()
    for start, end, got in zip(starts, ends, piece_of_token, strict=True):
        solid = [c for c in range(start, end) if not text[c].isspace()]
        after = [c for c in range(start, len(text)) if not text[c].isspace()]
        before = [c for c in range(start) if not text[c].isspace()]
        first = (solid or after or before[-1:] or [0])[0]
        (expected,) = [i for i, piece in enumerate(pieces) if piece.start <= first < piece.end]
        assert got == expected
    cuts = own.cuts(pieces)
    assert cuts[0] == 0 and cuts[-1] == len(ids)
    for i, (start, end) in enumerate(zip(cuts, cuts[1:], strict=False)):
        assert (piece_of_token[start:end] == i).all()
    if len(ids):
        assert "".join(own.token_texts()) == text and len(own.token_texts()) == len(ids)


def test_tokens_between_pieces_belong_to_none():
    text = "Ben has 5. So. Amy has 3."
    own = encode_text(vocabulary(), text)
    piece_of_token = own.piece_of_tokens([Piece(0, 11), Piece(15, 25)])
    shown = [vocabulary().decode(own.ids[piece_of_token == i]) for i in (0, 1, -1)]
    assert shown[:2] == ["Ben has 5.", "Amy has 3."] and shown[2].endswith(".")
    assert own.piece_of_tokens([]).tolist() == [-1] * len(own.ids)
    assert encode_text(vocabulary(), "").piece_of_tokens([Piece(0, 1)]).shape == (0,)


def test_rationale_and_answer_sentence_are_cut_by_characters():
    record = Record("r", "Amy", "Ben has 3. So 8. \n", "8")
    for vocab in (vocabulary(), ByteVocabulary(3)):
        own = encode_record(vocab, record, TEMPLATE)
        rationale, answer = own.rationale_and_answer()
        assert vocab.decode(rationale) == "Ben has 3. So 8."
        assert vocab.decode(answer).strip() == "The answer is 8."
        np.testing.assert_array_equal(np.concatenate([rationale, answer]), own.chain.ids)
        rationale, answer = encode_record(vocab, record, "").rationale_and_answer()
        np.testing.assert_array_equal(rationale, vocab.encode(record.rationale))
        assert not len(answer)


# The data stage reads the answers of the chains that are to be learned.


def prepare(tmp_path, rows, **fields):
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = []
    fields = {"data.source": "jsonl", "data.path": str(tmp_path / "x.jsonl"), "vocab.kind": "byte",
              "data.n_train": "0", "data.validation_share": "0.2", "data.test_share": "0.2"} | {
        name.replace("__", "."): value for name, value in fields.items()
    }  # fmt: skip
    prepare_data(Run(finish(base_config(), fields), tmp_path / "run", say=said.append))
    return "\n".join(said)


def asking(answers):
    return [{"question": f"How many is {i}?", "rationale": f"Of {i + 50}.", "answer": answer}
            for i, answer in enumerate(answers)]  # fmt: skip


@pytest.mark.parametrize(
    ("template", "metric", "answers"),
    [
        ("#### {answer}", "exact", ["yes", "no"]), ("答案是{answer}。", "exact", ["是", "否"]),
        ("#### {answer}", "numeric", [2.0107e-06, 1.5e6, "3/4"]), ("", "yes_no", [True, False]),
        ("The choice is {answer}.", "choice", ["B) 230", "(A) 5"]),
    ],
)  # fmt: skip
def test_own_answers_are_read_as_right(tmp_path, template, metric, answers):
    fields = {"data__answer_template": template} if template else {}
    said = prepare(tmp_path, asking(answers * 15), evaluate__metric=metric, **fields)
    assert "another answer" not in said


def test_answers_read_otherwise_are_counted_and_too_many_stop(tmp_path):
    rows = asking(range(40))
    rows[3] |= {"rationale": "First the answer is 99. Then not."}
    said = prepare(tmp_path, rows)
    assert "evaluate.metric=numeric reads another answer than their own in 1 of 40 chains" in said
    assert "'99' instead of '3' in '...First the answer is 99. Then not. The answer is 3.'" in said
    with pytest.raises(UserError, match="more than data.max_misread_share 0.0: change evaluate.m"):
        prepare(tmp_path / "run", rows, data__max_misread_share="0.0")
    with pytest.raises(UserError, match="'B' holds no number that can be read as a whole"):
        prepare(tmp_path / "run/run", asking(["B"] * 30))
