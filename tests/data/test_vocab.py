"""Vocabularies: layout, offsets, sentinels, deterministic training."""

import functools
import unicodedata

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.core.errors import UserError
from asesjax.data.summary import unknown_share
from asesjax.data.symbols import ALPHABET
from asesjax.data.vocab import (
    ByteVocabulary,
    SentencePieceVocabulary,
    load_saved,
    load_vocabulary,
    with_symbols,
)
from asesjax.data.vocab_training import train_vocabulary

CORPUS = [
    "Amy has 5 apples. Ben has 3 more apples than Amy.",
    "How many apples does Ben have? Ben has 5 + 3 = 8 apples.",
    "Cleo has 12 apples. Dan has 47 fewer apples: 6 / 9 - 0 * 1.",
    "右肺结节，SUVmax：3.6。肝脏未见异常。",
] * 5


@functools.cache
def trained_once():
    return train_vocabulary(CORPUS, 300, extra_ids=10)


@pytest.fixture
def trained():
    return trained_once()


@pytest.fixture(scope="module")
def t5(data_folder):
    return load_vocabulary("sentencepiece", str(data_folder / "t5_vocab/spiece.model"), 100)


def test_layout(trained):
    assert (trained.pad_id, trained.eos_id, trained.unk_id) == (0, 1, 2)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.model)
    assert [pieces.id_to_piece(i) for i in range(3)] == ["<pad>", "</s>", "<unk>"]
    assert pieces.bos_id() == -1
    assert trained.size == pieces.get_piece_size() + 10
    assert trained.sentinel(0) == trained.size - 1
    assert trained.sentinel(9) == pieces.get_piece_size()
    assert ByteVocabulary(125).size == 384
    with pytest.raises(UserError, match=r"10 sentinels, no <extra_id_10>; .*vocab.extra_ids"):
        trained.sentinel(10)


def test_words_and_digits_are_single_pieces(trained):
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.model)
    got = [pieces.id_to_piece(int(i)) for i in trained.encode("Ben has 47 fewer apples.")]
    assert got == ["▁Ben", "▁has", "▁", "4", "7", "▁fewer", "▁apples", "."]
    together = train_vocabulary(CORPUS, 300, split_digits=False)
    assert len(together.encode("Dan has 47")) == 3


def test_training_twice_gives_the_same_bytes(trained):
    assert train_vocabulary(iter(CORPUS), 300, extra_ids=10).model == trained.model
    assert train_vocabulary(CORPUS, 120).model != trained.model


def test_size_is_an_upper_bound():
    assert train_vocabulary(CORPUS, 100, extra_ids=0).size <= 100
    with pytest.raises(UserError, match=r"vocab.size 20 is too small: .* need \d+ pieces"):
        train_vocabulary(CORPUS, 20)
    with pytest.raises(UserError, match="no text"):
        train_vocabulary(["", " \n "], 100)


def test_long_texts_are_not_left_out():
    # SentencePiece drops lines above 4192 bytes unless told otherwise.
    vocab = train_vocabulary(["ab " * 3000 + "Z"], 50)
    assert (vocab.encode("Z") != vocab.unk_id).all()


def test_encode_matches_sentencepiece(trained):
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.model)
    assert [ids.tolist() for ids in trained.encode_batch(CORPUS)] == pieces.encode(CORPUS)
    assert trained.encode_batch([]) == []
    ids = trained.encode(CORPUS[0])
    assert ids.dtype == np.int32 and ids.flags.writeable
    assert trained.encode("").shape == (0,)


def test_sentinels_in_text(trained):
    text = "Amy has<extra_id_0> apples <extra_id_9><extra_id_10>"
    ids, starts, ends = trained.encode_with_offsets(text)
    assert ids.tolist() == trained.encode(text).tolist()
    where = np.flatnonzero(ids >= trained.n_pieces)
    assert ids[where].tolist() == [trained.sentinel(0), trained.sentinel(9)]
    spans = [text[starts[i] : ends[i]] for i in where]
    assert spans == ["<extra_id_0>", "<extra_id_9>"]
    # <extra_id_10> is no sentinel of this vocabulary, hence text, and "<" is not in its corpus.
    assert trained.unk_id in ids[where[-1] :]
    assert trained.decode(ids[: where[1] + 1]) == "Amy has <extra_id_0> apples <extra_id_9>"
    for vocab in (trained, ByteVocabulary(3)):
        empty = vocab.encode_with_offsets("")
        assert [column.shape for column in empty] == [(0,)] * 3


def test_decode_skips_pad_and_eos_and_refuses_ids_outside(trained):
    ids = trained.encode("Amy has 5 apples.").tolist()
    assert trained.decode([*ids, 1, 0, 0]) == "Amy has 5 apples."
    assert trained.decode(np.array([], np.int32)) == ""
    for bad in (trained.size, -1):
        with pytest.raises(ValueError, match=f"id {bad} is outside"):
            trained.decode([bad])


def squash(text):
    return " ".join(unicodedata.normalize("NFKC", text).split())


# Letters the corpus has, whole words, CJK, runs of white space, and characters NFKC rewrites:
# full-width digits, a ligature, a circled number, half-width kana with a mark.
TEXTS = st.lists(
    st.sampled_from(
        [*"Ban5。， \n\t", "  ", " Ben", " apples", "肺结", "３"] + ["ﬁ", "½", "①", "ｶﾞ", "é"]
    ),
    max_size=15,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(TEXTS)
def test_offsets_are_characters_of_the_given_text(text):
    vocab = trained_once()
    pieces = sentencepiece.SentencePieceProcessor(model_proto=vocab.model)
    ids, starts, ends = vocab.encode_with_offsets(text)
    assert ids.tolist() == vocab.encode(text).tolist()
    assert all(column.dtype == np.int32 for column in (ids, starts, ends))
    assert (np.diff(starts) >= 0).all() and (ends >= starts).all() and (ends <= len(text)).all()
    covered = "".join(text[a:b] for a, b in zip(starts, ends, strict=True))
    assert squash(covered).replace(" ", "") == squash(text).replace(" ", "")
    for i, a, b in zip(ids.tolist(), starts, ends, strict=True):
        piece = pieces.id_to_piece(i)
        if i != vocab.unk_id and all(c.isascii() or c in "▁肺结。" for c in text):
            assert squash(text[a:b]) == piece.replace("▁", "")


def test_offsets_by_hand(trained):
    text = "Amy  has\n12 。肺"
    ids, starts, ends = trained.encode_with_offsets(text)
    surfaces = [text[a:b] for a, b in zip(starts, ends, strict=True)]
    assert "".join(surfaces).replace(" ", "") == text.replace(" ", "")
    assert [s.strip() for s in surfaces if s.strip()] == ["Amy", "has", "1", "2", "。", "肺"]


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_bytes(text):
    vocab = ByteVocabulary(5)
    ids, starts, ends = vocab.encode_with_offsets(text)
    assert ids.tolist() == [b + 3 for b in text.encode()]
    assert vocab.decode(ids) == text
    assert all(
        text[a:b].encode().count(bytes([i - 3]))
        for i, a, b in zip(ids.tolist(), starts, ends, strict=True)
    )
    assert "".join(text[a:b] for a, b in sorted(set(zip(starts, ends, strict=True)))) == text


def test_byte_vocabulary_shows_half_characters():
    vocab = ByteVocabulary(0)
    assert vocab.decode(vocab.encode("肺")[:2]) == "\ufffd"


def test_byte_fallback_spells_everything():
    vocab = train_vocabulary(CORPUS, 500, byte_fallback=True)
    text = "Zoë 😀 has 囍"
    ids, starts, ends = vocab.encode_with_offsets(text)
    assert vocab.unk_id not in ids
    assert vocab.decode(ids) == text
    assert (np.diff(starts) >= 0).all()
    assert "".join(text[a:b] for a, b in zip(starts, ends, strict=True)) == text


def test_save_and_load(trained, tmp_path):
    for vocab in (trained, ByteVocabulary(7)):
        folder = tmp_path / vocab.kind
        vocab.save(folder)
        files = {"vocab.json", "spiece.model"} if vocab.model else {"vocab.json"}
        assert {path.name for path in folder.iterdir()} == files
        again = load_saved(folder)
        assert again.model == vocab.model and again.fingerprint == vocab.fingerprint
        assert type(again) is type(vocab) and again.size == vocab.size
        assert again.encode(CORPUS[3]).tolist() == vocab.encode(CORPUS[3]).tolist()
    with pytest.raises(UserError, match="holds no vocabulary"):
        load_saved(tmp_path)


def test_fingerprint_differs_when_ids_mean_something_else(trained):
    prints = {
        vocab.fingerprint
        for vocab in (
            trained, SentencePieceVocabulary(trained.model, 11), ByteVocabulary(10),
            ByteVocabulary(11), train_vocabulary(CORPUS, 120, extra_ids=10),
            train_vocabulary([*CORPUS, "0"], 300, extra_ids=10),
        )
    }  # fmt: skip
    assert len(prints) == 6
    assert SentencePieceVocabulary(trained.model, 10).fingerprint in prints


def test_errors_of_loading(tmp_path):
    with pytest.raises(UserError, match="did you mean 'byte'"):
        load_vocabulary("bytes")
    with pytest.raises(UserError, match=r"vocab.path: no SentencePiece model at '/no/where'"):
        load_vocabulary("sentencepiece", "/no/where")
    with pytest.raises(UserError, match="vocab.extra_ids"):
        load_vocabulary("byte", extra_ids=-1)
    (tmp_path / "bad.model").write_bytes(b"no model")
    with pytest.raises(UserError, match=r"bad.model is not a SentencePiece model"):
        load_vocabulary("sentencepiece", str(tmp_path / "bad.model"))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_prefix=str(tmp_path / "llama"),
        vocab_size=200,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    with pytest.raises(UserError, match=r"pad, eos, unk ids \(-1, 2, 0\); T5's 0, 1, 2"):
        load_vocabulary("sentencepiece", str(tmp_path / "llama.model"))


def test_sentinels_may_be_pieces_of_the_model_as_mt5s_are(trained, tmp_path):
    own = [f"▁<extra_id_{k}>".encode() for k in (2, 1, 0)]
    # Serialised messages behind each other are one: field 1 is a piece, whose field 1 is its text.
    more = b"".join(bytes((10, len(text) + 2, 10, len(text))) + text for text in own)
    vocab = SentencePieceVocabulary(trained.model + more, 100)
    n = trained.n_pieces
    assert (vocab.n_pieces, vocab.extra_ids, vocab.size) == (n, 3, n + 3)
    assert [vocab.sentinel(k) for k in (0, 1, 2)] == [n + 2, n + 1, n]
    text = "Ann has <extra_id_1> 5"
    ids = vocab.encode(text)
    assert ids.tolist() == [*trained.encode("Ann has"), n + 1, *trained.encode("5")]
    assert vocab.decode(ids) == text
    vocab.save(tmp_path)
    assert load_saved(tmp_path).fingerprint == vocab.fingerprint
    with pytest.raises(UserError, match="has 3 sentinels"):
        vocab.sentinel(3)


def test_unknown_share(trained):
    texts = ["Amy has 5 apples.", "Amy < Ben", "Dan ~ Ben < Amy"]
    n_unknown, n_tokens, examples = unknown_share(trained, texts)
    assert (n_unknown, examples) == (3, ["<", "~"])
    assert n_tokens == sum(len(trained.encode(text)) for text in texts)
    assert unknown_share(trained, texts)[2][:1] == ["<"]
    assert unknown_share(ByteVocabulary(0), texts)[0] == 0


@pytest.mark.data
def test_t5_vocabulary(t5):
    assert t5.size == 32100 and t5.sentinel(0) == 32099 and t5.sentinel(99) == 32000
    # From the T5 paper's figure 2, ids as in Hugging Face's documentation of T5.
    text = "The <extra_id_0> walks in <extra_id_1> park"
    assert t5.encode(text).tolist() == [37, 32099, 10681, 16, 32098, 2447]
    text = "Hello  world\nﬁne ½ é {"
    ids, starts, ends = t5.encode_with_offsets(text)
    assert ids.tolist() == t5.encode("Hello world ﬁne ½ é {").tolist()
    assert [text[a:b].strip() for a, b in zip(starts[:3], ends[:3], strict=True)] == [
        "Hello",
        "world",
        "ﬁne",
    ]
    assert unknown_share(t5, ["½ { {"]) == (3, len(t5.encode("½ { {")), ["{", "½"])


@pytest.mark.parametrize("kind", ["plain", "fallback", "symbols", "byte"])
def test_marks_in_a_text_stay_text(kind):
    text = "Amy has </s> 5 <pad> of <unk> or <s>."
    if kind == "byte":
        vocab = load_vocabulary("byte")
    else:
        texts = [text] * 3 + [ALPHABET] * (kind == "symbols")
        vocab = train_vocabulary(texts, 500, byte_fallback=kind == "fallback")
        vocab = with_symbols(vocab) if kind == "symbols" else vocab
    ids = vocab.encode(text)
    assert min(ids) > 2 and vocab.decode(ids) == text
