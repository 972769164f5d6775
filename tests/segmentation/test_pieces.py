"""Pieces tile their text and never cut what belongs together."""

import csv
import gzip
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.segmentation.pieces import (
    Piece,
    count_words,
    piece_texts,
    split_pieces,
    split_sentences,
)

# Any Unicode, lone surrogates included, and text dense in the characters that matter.
ANY = st.text(st.characters(), max_size=60)
MATTERS = "ab 12.,:;!?。，、：；！？\n\t 　<>()\"'”’-肝é１\r\u2028"
DENSE = st.text(st.sampled_from(MATTERS), max_size=60)
TEXTS = ANY | DENSE
quick = settings(deadline=None, max_examples=300)


def cut(text, **options):
    return piece_texts(text, split_pieces(text, **options))


def tiles(text, pieces):
    assert [p.start for p in pieces] == [0, *[p.end for p in pieces]][: len(pieces)]
    assert all(p.start < p.end for p in pieces)
    assert "".join(piece_texts(text, pieces)) == text


@quick
@given(TEXTS, st.integers(0, 5))
def test_merge_keep_and_sentences_are_lossless(text, min_words):
    tiles(text, split_pieces(text, "merge", min_words))
    tiles(text, split_pieces(text, "keep"))
    tiles(text, split_sentences(text))


@quick
@given(TEXTS, st.integers(0, 5))
def test_merge_leaves_no_short_piece_and_only_removes_cuts(text, min_words):
    kept = split_pieces(text, "keep")
    merged = split_pieces(text, "merge", min_words)
    assert {p.end for p in merged} <= {p.end for p in kept}
    if len(merged) > 1:
        for piece in merged:
            parts = [p for p in kept if piece.start <= p.start and p.end <= piece.end]
            assert sum(count_words(text[a:b]) for a, b in parts) > min_words


@quick
@given(TEXTS, st.integers(0, 5))
def test_drop_is_keep_without_short_pieces(text, min_words):
    kept = split_pieces(text, "keep")
    long = [p for p in kept if count_words(text[p.start : p.end]) > min_words]
    assert split_pieces(text, "drop", min_words) == long


@quick
@given(TEXTS)
def test_cuts_are_behind_punctuation_and_white_space_never_begins_a_piece(text):
    for piece in split_pieces(text, "keep")[1:]:
        before = text[: piece.start].rstrip()
        assert not text[piece.start].isspace()
        gap = text[len(before) : piece.start]
        assert "\n" in gap or before.rstrip("\"'”’)）]】》」』")[-1] in ".!?;:,。！？；，、：\n"


@quick
@given(TEXTS)
def test_no_cut_between_digits(text):
    for _, end in split_pieces(text, "keep") + split_sentences(text):
        if 1 < end < len(text) and text[end - 1] in ".,:：":
            assert not (text[end - 2].isdecimal() and text[end].isdecimal())


NUMBERS = st.sampled_from(["3.5", "1,000", "1,234,567.89", ".5", "10:30", "１２.５", "1：2", "7"])
MARKS = st.sampled_from(["<<48/2=24>>", "<<a, b. c>>", "<<x, <<1,2. 3>>: y>>", "<<\n>>"])
BETWEEN = st.sampled_from([" ", ", ", ". ", "!\n", "：", "，", " and ", ";", "。", " (", ") "])


@quick
@given(st.lists(st.tuples(NUMBERS | MARKS, BETWEEN), max_size=12))
def test_no_cut_inside_a_number_or_calculator_mark(parts):
    text, spans = "", []
    for token, gap in parts:
        if token[0] in ".1１7３3" and text.endswith(("：", ":")):
            text += " "  # 7：3 would be one number
        spans.append((len(text), len(text) + len(token)))
        text += token + gap
    for _, end in split_pieces(text, "keep"):
        assert not any(a < end < b for a, b in spans), (text, end)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He has 5. She has 6.", ["He has 5. ", "She has 6."]),
        ("It is 3.5, or 1,000; no: 2.", ["It is 3.5, ", "or 1,000; ", "no: ", "2."]),
        ("肝脏饱满，SUVmax：3.6。脾大！", ["肝脏饱满，", "SUVmax：", "3.6。", "脾大！"]),
        ("1、双肺结节。  2、肝大，脾大。", ["1、双肺结节。  ", "2、肝大，", "脾大。"]),
        ("所见：  1.肝；  2.脾", ["所见：  ", "1.肝；  ", "2.脾"]),
        ("（不签字）  1.胰腺", ["（不签字）  1.胰腺"]),
        ("2) add, 3) go", ["2) add, ", "3) go"]),
        ("\n2. add\n12. go", ["\n2. add\n", "12. go"]),
        ("How many? 5. So 5.", ["How many? ", "5. ", "So 5."]),
        ("She has 3, 1. Then 4", ["She has 3, ", "1. ", "Then 4"]),
        ("It is:\n5.\nSo on", ["It is:\n", "5.\n", "So on"]),
        ("on 3.5.5, 3..5 a", ["on 3.5.5, ", "3..", "5 a"]),
        ("L1、2、3 and", ["L1、", "2、", "3 and"]),
        ("a <<1,2. 3>>b, c", ["a <<1,2. 3>>b, ", "c"]),
        ("a <<b, <<c>> d>> e, f", ["a <<b, <<c>> d>> e, ", "f"]),
        ("a <<b, <<c, d>> e, f", ["a <<b, ", "<<c, d>> e, ", "f"]),
        ("a, b >> c", ["a, ", "b >> c"]),
        ('She said "Go!". He went.', ['She said "Go!". ', "He went."]),
        ('He said:"Go"', ["He said:", '"Go"']),
        ("Wait...5 more?!  Yes", ["Wait...", "5 more?!  ", "Yes"]),
        ("18*.5 is $.50.", ["18*.5 is $.50."]),
        ("the end.3 more", ["the end.", "3 more"]),
        ("  \n a. b", ["  \n a. ", "b"]),
        (" \n ", [" \n "]),
        ("", []),
        ("...", ["..."]),
        ("a\n\n  b\r\nc", ["a\n\n  ", "b\r\n", "c"]),
    ],
)
def test_cuts_with_short_keep(text, expected):
    assert cut(text, short="keep") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Forward inside a sentence, backward at its end, forward for the first.
        ("So, Ann has 5 dogs and cats.", ["So, Ann has 5 dogs and cats."]),
        (
            "Ann has five dogs, too, so she now has more.",
            ["Ann has five dogs, ", "too, so she now has more."],
        ),
        (
            "Ann has five dogs. She does. Ben has none at all.",
            ["Ann has five dogs. She does. ", "Ben has none at all."],
        ),
        (
            "Ann has five dogs\nIt is\nBen has none at all.",
            ["Ann has five dogs\nIt is\n", "Ben has none at all."],
        ),
        ("Yes. Ben has none at all.", ["Yes. Ben has none at all."]),
        ("Ben has none at all, I say", ["Ben has none at all, I say"]),
        ("a, b, c, d, e", ["a, b, c, d, e"]),
        ("肝大，肝脏形态可，脾。", ["肝大，肝脏形态可，脾。"]),
        ("Yes.\n", ["Yes.\n"]),
    ],
)
def test_joins_with_short_merge(text, expected):
    assert cut(text) == expected


def test_the_released_code_cuts_at_full_stops_newlines_and_commas_alone():
    text = "It is 3.5, or 1,000; no: 2! Yes.\nNo, so?"
    assert cut(text, short="keep", cut="commas") == [
        "It is 3.5, ",
        "or 1,000; no: 2! Yes.\n",
        "No, ",
        "so?",
    ]


def test_drop_may_leave_nothing():
    assert cut("Yes. No, never. Ann has five dogs", short="drop") == ["Ann has five dogs"]
    assert split_pieces("Yes.", short="drop") == []


def test_sentences_keep_commas_and_colons():
    text = "A: 3, B; 4.\n5 。 c"
    assert piece_texts(text, split_sentences(text)) == ["A: 3, B; 4.\n", "5 。 ", "c"]


def test_count_words():
    assert [count_words(t) for t in ("", " ", "a b", "a-b 3.5", "肝大，a", "，。")] == [
        0,
        0,
        2,
        2,
        3,
        0,
    ]


def test_options_are_checked():
    with pytest.raises(UserError, match="unknown segment.short 'mrge'; did you mean 'merge'"):
        finish(base_config(), {"segment.short": "mrge"})
    with pytest.raises(UserError, match="segment.min_words must be at least 0 .*, got -1"):
        finish(base_config(), {"segment.min_words": "-1"})


@pytest.mark.timeout(120)  # a quadratic scan of 200,000 characters takes longer
@pytest.mark.parametrize(
    "unit", ["word, ", "a.", "1.", "1. ", "  1.", "<<", "<<,>>", "1,1 ", '."', "\n", "x", "1"]
)
def test_time_is_linear(unit):
    text = unit * (200_000 // len(unit))
    for short in ("merge", "keep", "drop"):
        split_pieces(text, short)


@pytest.mark.timeout(120)
def test_nested_marks_are_linear():
    pieces = split_pieces("<<" * 50_000 + "," + ">>" * 50_000 + ", b", "keep")
    assert len(pieces) == 2


def documents(text):
    """Yield the JSON documents written one behind the other."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        value, at = decoder.raw_decode(text, at)
        yield value
        at += len(text[at:]) - len(text[at:].lstrip())


def gsm8k(folder):
    for split in ("train", "test", "train_socratic", "test_socratic"):
        for line in (folder / f"gsm8k/{split}.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            yield row["question"]
            yield row["answer"]


def palm(folder):
    for path in sorted((folder / "palm_rationales/svamp").glob("palm_*.json")):
        for rationales in documents(path.read_text("utf-8")):
            yield from rationales


def cpet(folder):
    with gzip.open(folder / "cpet/cpet.csv.gz", "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield row["question"]
            yield row["answer"]


@pytest.mark.data
@pytest.mark.parametrize(("source", "n"), [(gsm8k, 35168), (palm, 1000), (cpet, 21000)])
def test_real_data_is_tiled_and_its_numbers_are_whole(data_folder, source, n):
    texts = list(source(data_folder))
    assert len(texts) >= n
    number = re.compile(r"\d+(?:[.,]\d+)*")
    for text in texts:
        for pieces in (split_pieces(text), split_pieces(text, "keep"), split_sentences(text)):
            tiles(text, pieces)
        ends = {p.end for p in split_pieces(text, "keep")}
        for match in number.finditer(text):
            assert ends.isdisjoint(range(match.start() + 1, match.end())), match


@pytest.mark.data
def test_list_markers_of_reports_stay_with_their_text(data_folder):
    alone = re.compile(r"(?:^|\s)\d{1,2}[.、]\s*")
    stray = []
    for text in cpet(data_folder):
        for piece in split_pieces(text, "keep"):
            if piece.end < len(text) and alone.fullmatch(text, piece.start, piece.end):
                stray.append(text[max(piece.start - 12, 0) : piece.end + 12])
    # What is left: enumerations (腰4、5、骶1), where the number is no marker.
    markers = [s for s in stray if re.search(r"\s\s\d{1,2}[.、]", s)]
    assert markers == []


def test_pieces_are_plain_tuples():
    assert split_pieces("a. b", "keep") == [(0, 3), (3, 4)] == [Piece(0, 3), Piece(3, 4)]
