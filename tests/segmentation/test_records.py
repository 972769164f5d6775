"""Segmented JSONL comes back as it was written, and says what is wrong with a file."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.core.errors import UserError
from asesjax.core.types import LABELS
from asesjax.segmentation.pieces import split_pieces
from asesjax.segmentation.records import VERSION, SegmentedRecord, read_segments, write_segments

GOOD = SegmentedRecord(
    "train-0", "Ann has 3. So 6.", ((0, 11), (11, 16)), (0.5, 2.0), ("ES", "AS"), "entropy"
)


@st.composite
def records(draw):
    text = draw(st.text(st.characters(), max_size=40))
    short = draw(st.sampled_from(["merge", "keep", "drop"]))
    pieces = tuple(split_pieces(text, short, 1))
    sized = {"min_size": len(pieces), "max_size": len(pieces)}
    floats = st.floats(allow_nan=False, allow_infinity=False)
    return SegmentedRecord(
        id=draw(st.text(st.characters(), min_size=1)),
        text=text,
        pieces=pieces,
        scores=draw(st.none() | st.lists(floats, **sized).map(tuple)),
        labels=tuple(draw(st.lists(st.sampled_from(LABELS), **sized))),
        strategy=draw(st.sampled_from(["entropy", "location"])),
    )


@settings(deadline=None, max_examples=150)
@given(st.lists(records(), max_size=4, unique_by=lambda r: r.id))
def test_round_trip(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    provenance = {"strategy": "entropy", "beta": 1.4, "scorer": "肝\u2028"}
    write_segments(path, iter(rows), provenance)
    assert read_segments(path) == (provenance, rows)


def test_float32_scores_come_back_exactly(tmp_path):
    scores = np.random.default_rng(0).normal(size=2).astype(np.float32)
    row = dataclasses.replace(GOOD, scores=tuple(scores), pieces=[[0, 11], [11, 16]])
    write_segments(tmp_path / "a" / "s.jsonl", [row], {})
    (back,) = read_segments(tmp_path / "a" / "s.jsonl")[1]
    assert np.array_equal(np.array(back.scores, np.float32), scores)
    assert back.texts == ["Ann has 3. ", "So 6."]
    assert [p.end for p in back.pieces] == [11, 16]


def test_chinese_is_readable_in_the_file(tmp_path):
    row = dataclasses.replace(GOOD, text="肝脏形态可，轮廓光整。" + " " * 5)
    write_segments(tmp_path / "s.jsonl", [row], {})
    assert "肝脏形态可" in (tmp_path / "s.jsonl").read_text(encoding="utf-8")


def test_an_invalid_record_writes_nothing(tmp_path):
    path = tmp_path / "s.jsonl"
    write_segments(path, [GOOD], {"run": 1})
    before = path.read_bytes()
    for bad in (
        dataclasses.replace(GOOD, id="b", scores=(0.5, float("nan"))),
        dataclasses.replace(GOOD, id="b", labels=("ES",)),
        GOOD,
    ):
        with pytest.raises(UserError, match="s.jsonl: record 1 is not valid, nothing written"):
            write_segments(path, [GOOD, bad], {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["s.jsonl"]


def row(**changes):
    value = dataclasses.asdict(GOOD) | changes
    return json.dumps({name: item for name, item in value.items() if item != "absent"})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "s.jsonl:2: not JSON"),
        ("[1]", "s.jsonl:2: expected a JSON object, got list"),
        (row(labels="absent"), "s.jsonl:2: field 'labels' is missing"),
        (row(label=["ES"]), "s.jsonl:2: unknown field 'label'; valid: id, text"),
        (row(id=3), "s.jsonl:2: field 'id': expected a string, got '3'"),
        (row(id=""), "s.jsonl:2: field 'id': it is empty"),
        (row(text=None), "s.jsonl:2: field 'text': expected a string"),
        (row(strategy=""), "s.jsonl:2: field 'strategy': it is empty"),
        (row(pieces=3), r"field 'pieces': expected a list of \[start, end\], got '3'"),
        (row(pieces=[[0, 11], [11]]), r"field 'pieces': expected \[start, end\], two whole"),
        (row(pieces=[[0, 11], [11, 16.0]]), r"field 'pieces': expected \[start, end\], two whole"),
        (row(pieces=[[0, 11], [10, 16]]), "field 'pieces'.*11 <= start < end <= 16.*got .*10, 16"),
        (row(pieces=[[0, 11], [11, 17]]), "field 'pieces'.*11 <= start < end <= 16"),
        (row(pieces=[[-1, 11], [11, 16]]), "field 'pieces'"),
        (row(pieces=[[0, 0], [11, 16]]), "field 'pieces'.*0 <= start < end <= 16"),
        (row(labels=["ES", "es"]), "field 'labels': expected a list of 'ES' and 'AS'"),
        (row(labels=["ES"]), "field 'labels': expected 2 labels, one a piece"),
        (row(scores=[1.0]), "field 'scores': expected 2 scores, one a piece"),
        (row(scores=[1.0, "2"]), "field 'scores': expected null or a list of finite numbers"),
        (row(scores=[1.0, True]), "field 'scores': expected null or a list of finite numbers"),
        (row(scores=[1.0, float("nan")]), "field 'scores': expected null or a list of finite"),
        (row(scores=[1.0, 10**400]), "field 'scores': expected null or a list of finite"),
    ],
)
def test_a_bad_line_names_file_line_and_field(tmp_path, line, message):
    path = tmp_path / "s.jsonl"
    header = json.dumps({"asesjax_segments": VERSION, "records": 1, "provenance": {}})
    path.write_text(f"{header}\n{line}\n")
    with pytest.raises(UserError, match=message) as error:
        read_segments(path)
    assert f"{path}:2" in str(error.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"id": "a"}, "s.jsonl:1: no field 'asesjax_segments'; this is not a segments file"),
        (
            {"asesjax_segments": 99, "records": 1, "provenance": {}},
            "s.jsonl:1: field 'asesjax_segments': version 99, this program reads version 1",
        ),
        (
            {"asesjax_segments": 1, "records": -1, "provenance": {}},
            "s.jsonl:1: field 'records': expected a whole number, got '-1'",
        ),
        (
            {"asesjax_segments": 1, "records": 1, "provenance": "x"},
            "s.jsonl:1: field 'provenance': expected an object",
        ),
        (
            {"asesjax_segments": 1, "records": 2, "provenance": {}},
            "s.jsonl:1: field 'records': the header says 2 records, the file holds 1",
        ),
    ],
)
def test_a_bad_header(tmp_path, header, message):
    path = tmp_path / "s.jsonl"
    path.write_text(f"{json.dumps(header)}\n{row()}\n")
    with pytest.raises(UserError, match=message):
        read_segments(path)


def test_other_bad_files(tmp_path):
    path = tmp_path / "s.jsonl"
    with pytest.raises(UserError, match="s.jsonl does not exist"):
        read_segments(path)
    path.write_text("")
    with pytest.raises(UserError, match="s.jsonl is empty"):
        read_segments(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(UserError, match="s.jsonl:1: not JSON in UTF-8"):
        read_segments(path)
    header = json.dumps({"asesjax_segments": VERSION, "records": 2, "provenance": {}})
    path.write_text(f"{header}\n{row()}\n{row()}\n")
    with pytest.raises(UserError, match="s.jsonl:3: field 'id': 'train-0' was there before"):
        read_segments(path)
