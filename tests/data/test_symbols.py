"""Escapes: every text comes back, offsets are those of the text, ids are readable."""

import functools
import json
import re

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.data.corpus import encode_text
from asesjax.data.summary import audit, unknown_share
from asesjax.data.symbols import ALPHABET, NAMES, escape, escape_of, unescape
from asesjax.data.vocab import ByteVocabulary, load_saved, load_vocabulary, with_symbols
from asesjax.data.vocab_training import train_vocabulary
from asesjax.jobs.data import prepare_data
from asesjax.run import Run
from asesjax.segmentation.pieces import split_pieces

CORPUS = ["Amy has 5 apples.", "Ben has 3 more: 5 + 3 = 8.", "café x\u0304", "右肺结节", ALPHABET]


@functools.cache
def trained():
    """English, Chinese and a combining mark; no braces, no other symbols."""
    return with_symbols(train_vocabulary(CORPUS, 200, extra_ids=5))


@pytest.fixture(scope="session")
def t5(data_folder):
    return with_symbols(
        load_vocabulary("sentencepiece", str(data_folder / "t5_vocab/spiece.model"), 100)
    )


# Pieces of escapes and whole ones, escapes of escapes, all symbols, white space of all kinds,
# characters that normalisation rewrites, joins or drops, and anything else.
PARTS = st.one_of(
    st.sampled_from(
        [*NAMES, *map(escape_of, NAMES), "[", "]", "#", "[#", "[#3c]", "[#3C]", "[#110000]"]
        + ["[#d800]", "[les", "s]", "[left]less]", "  ", "\r\n", "\u00a0", "\u2028", "\u200b"]
        + ["▁", "e\u0301", "\u0301", "\u0304", "e", "ｶﾞ", "ﾞ", "한", "ᄒ", "ᅡ", "ᆫ", "①", "½", "ﬁ"]
        + ["Amy has 5", "肺", "x", "X", "\x00", "\ufeff", "😀", "<<48/2=24>>", "</s>", "<unk>", "⁇"]
    ),
    st.text(max_size=4),
)
TEXTS = st.lists(PARTS, max_size=12).map("".join)


@settings(max_examples=1000, deadline=None)
@given(TEXTS, st.sets(st.characters(), max_size=5))
def test_unescape_undoes_escape_whatever_is_lost(text, lost):
    lost = (lost | set("<{}^~\\×÷")) - set(ALPHABET)
    escaped, lengths = escape(text, lambda c: c not in lost)
    assert unescape(escaped) == text
    assert not set(escaped) & lost
    assert "\n" not in escaped and "  " not in escaped and escaped == escaped.strip(" ")
    assert len(escaped) == len(text) + sum(lengths.values()) - len(lengths)


def no_sentinel(text):
    return "<extra_id_" not in text


def check_round_trip(vocab, text):
    ids, starts, ends = vocab.encode_with_offsets(text)
    assert vocab.decode(ids) == text
    assert vocab.unk_id not in ids
    assert ids.tolist() == vocab.encode(text).tolist()
    assert all(column.dtype == np.int32 for column in (ids, starts, ends))
    assert (np.diff(starts) >= 0).all() and (starts <= ends).all()
    assert (starts >= 0).all() and (ends <= len(text)).all()
    covered = np.zeros(len(text), bool)
    for a, b in zip(starts, ends, strict=True):
        covered[a:b] = True
    assert covered.all()  # nothing is lost, so every character has its pieces


@pytest.mark.data
@settings(max_examples=600, deadline=None)
@given(text=TEXTS.filter(no_sentinel))
def test_every_text_comes_back_from_t5(t5, text):
    check_round_trip(t5, text)


@settings(max_examples=600, deadline=None)
@given(TEXTS.filter(no_sentinel))
def test_every_text_comes_back_from_a_trained_vocabulary(text):
    check_round_trip(trained(), text)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 219), max_size=30))
def test_any_ids_decode(ids):
    vocab = trained()
    vocab.decode([i for i in ids if i < vocab.size]).encode()  # text, no half surrogate pairs


@pytest.mark.data
def test_escapes_are_readable_and_short(t5):
    pieces = sentencepiece.SentencePieceProcessor(model_proto=t5.plain.model)
    assert pieces.encode("a [less][power]", out_type=str) == [
        "▁", "a", "▁[", "less", "]", "[", "power", "]",
    ]  # fmt: skip
    mapped = [c for c in NAMES if c not in "[ "]
    assert all(t5.plain.decode(t5.plain.encode(f"x{c}x")) != f"x{c}x" for c in mapped)
    lengths = [len(t5.encode(f"8{c}9")) - len(t5.encode("8")) - 1 for c in mapped]
    assert max(lengths) <= 4 and np.mean(lengths) < 3.3
    text = t5.plain.decode(t5.encode("<<48/2=24>>\nNext {a} × b"))
    assert text == "[less][less]48/2=24>>[line] Next [open]a[close] [times] b"


@pytest.mark.data
def test_only_what_is_lost_is_mapped(t5):
    for text in ("Amy has 5: 3 + 2 = [5] > 4; #1 & #2!", "déjà für", "[lesser] [ less] [#] [Less]"):
        assert t5.encode(text).tolist() == t5.plain.encode(text).tolist()
    chinese = trained().encode("右肺 {")
    assert trained().plain.decode(chinese) == "右肺 [open]"


def test_sentinels_stay_sentinels():
    vocab = trained()
    usual = "Amy <extra_id_0> has"
    for text in (usual, "<extra_id_4> <extra_id_0>", "<extra_id_1>", "a\n <extra_id_0> {"):
        ids, starts, ends = vocab.encode_with_offsets(text)
        assert ids.tolist() == vocab.encode(text).tolist()
        assert vocab.decode(ids) == text
        for i in np.flatnonzero(ids >= vocab.n_pieces):
            assert re.fullmatch("<extra_id_[0-4]>", text[starts[i] : ends[i]])
    assert vocab.encode(usual).tolist() == vocab.plain.encode(usual).tolist()
    # One of a sentinel the vocabulary lacks is text, and comes back as it was.
    check_round_trip(vocab, "a <extra_id_5>b")


def test_an_escape_stays_in_one_piece():
    vocab = trained()
    text = "Amy has 5 {.}\nBen has 3 more: 5 + 3 = 8.\nAmy has 5 apples."
    pieces = split_pieces(text, "keep", 1)
    chain = encode_text(vocab, text)
    ids, piece = chain.ids, chain.piece_of_tokens(pieces)
    assert len(pieces) > 2 and set(piece.tolist()) == set(range(len(pieces)))
    for k in range(len(pieces)):
        part = vocab.decode(ids[piece == k])
        assert "[" not in part and part.split() == text[pieces[k].start : pieces[k].end].split()


def test_saved_with_the_vocabulary(tmp_path):
    vocab = trained()
    vocab.save(tmp_path)
    assert json.loads((tmp_path / "vocab.json").read_text())["symbols"] is True
    again = load_saved(tmp_path)
    assert again.symbols and again.size == vocab.size and again.sentinel(0) == vocab.sentinel(0)
    text = "a{b}\n[left]"
    assert again.encode(text).tolist() == vocab.encode(text).tolist()
    assert again.decode(again.encode(text)) == text
    vocab.plain.save(tmp_path)
    assert not load_saved(tmp_path).symbols


def test_bytes_need_no_escapes_and_small_vocabularies_cannot_spell_them():
    assert with_symbols(ByteVocabulary(3)).decode(ByteVocabulary(3).encode(" {\n")) == " {\n"
    assert not with_symbols(ByteVocabulary(3)).symbols
    with pytest.raises(UserError, match=r"it lacks # .*\[ \].*vocab.symbols=false"):
        with_symbols(train_vocabulary(["Amy has 5 apples"], 100))
    spelled = with_symbols(train_vocabulary(["Amy has 5"], 400, byte_fallback=True))
    assert spelled.plain.encode("{").tolist() == spelled.encode("{").tolist()
    check_round_trip(spelled, "{右} \n")


def audits(vocab, fields):
    return [audit(vocab, name, t, vocab.encode_batch(t)) for name, t in fields.items()]


def test_audit_counts_by_field():
    vocab = trained()
    fields = {"question": ["Amy has 5", "a {} b {"], "answer": ["5\n", "8"], "none": []}
    rows = {row.pop("field"): row for row in audits(vocab.plain, fields)}
    n_tokens = sum(len(vocab.plain.encode(text)) for text in fields["question"])
    assert rows["question"] == {
        "texts": 2, "tokens": n_tokens, "unknown": 2, "changed": 1, "lost": ["{", "{}"],
    }  # fmt: skip
    assert (rows["answer"]["unknown"], rows["answer"]["changed"]) == (0, 1)
    assert rows["none"]["tokens"] == 0
    for row in audits(vocab, fields):
        assert (row["unknown"], row["changed"], row["lost"]) == (0, 0, [])


@pytest.mark.data
def test_prepare_data_stops_or_writes_symbols(data_folder, tmp_path):
    fields = {
        "data.source": "gsm8k", "data.path": str(data_folder / "gsm8k"), "data.n_train": "60",
        "data.n_validation": "20", "data.n_test": "20", "data.strip_calculator": "false",
        "vocab.kind": "sentencepiece", "vocab.path": str(data_folder / "t5_vocab/spiece.model"),
    }  # fmt: skip
    said = []
    run = Run(finish(base_config(), fields), tmp_path / "plain", said.append)
    with pytest.raises(UserError, match="cannot write .* '<<'.*vocab.symbols=true"):
        prepare_data(run)
    assert any("train.chain:" in line and "'<<'" in line for line in said)
    for kind in ({}, {"vocab.kind": "train", "vocab.size": "400"}):
        config = finish(base_config(), {**fields, "vocab.symbols": "true", **kind})
        run = Run(config, tmp_path / f"with-{len(kind)}", said.append)
        prepare_data(run)
        rows = json.loads((run / "data/audit.json").read_text())
        assert {row["field"] for row in rows} == {
            f"{split}.{name}"
            for split in ("train", "validation", "test")
            for name in ("question", "chain")
        }
        assert not any(row["unknown"] or row["changed"] for row in rows)
        assert load_saved(run / "vocab").symbols
    assert sum("symbols: " in line for line in said) == 2


@pytest.mark.data
def test_real_data_round_trips(data_folder, t5):
    lines = (data_folder / "gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [text for line in lines for text in json.loads(line).values()]
    assert unknown_share(t5.plain, texts)[0] > 4000
    [row] = audits(t5, {"gsm8k": texts})
    assert row["texts"] == 2638 and row["unknown"] == row["changed"] == 0
