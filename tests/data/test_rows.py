"""JSON lines, JSON arrays and CSV give the same rows, and broken ones are told apart."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asesjax.core.errors import UserError
from asesjax.data.rows import FORMATS, BadRow, format_of, place, read_rows, text_field

FIELDS = ["a", "問", "c d"]
# Everything but lone surrogates, which UTF-8 cannot write, and NUL, which CSV cannot.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
ROWS = st.lists(st.fixed_dictionaries(dict.fromkeys(FIELDS, TEXT)), max_size=6)


def written(rows, form):
    if form == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if form == "json":
        return json.dumps(rows, indent=1, ensure_ascii=False)
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, FIELDS, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def save(path, data):
    data = data if isinstance(data, bytes) else data.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@settings(deadline=None, max_examples=60)
@given(
    ROWS, st.sampled_from(FORMATS), st.sampled_from(["", ".gz"]), st.sampled_from(["", "\ufeff"])
)
def test_every_format_gives_back_what_was_written(tmp_path_factory, rows, form, gz, mark):
    path = tmp_path_factory.mktemp("rows") / f"x.{form}{gz}"
    save(path, mark + written(rows, form))
    found = list(read_rows(path, form))
    assert [row for _, row in found] == rows
    if form != "csv":  # there a row begins behind the line breaks of the one before
        assert [number for number, _ in found] == list(range(1, len(rows) + 1))
    assert format_of(path) == form


def test_numbers_of_csv_rows_are_the_lines_they_begin_on(tmp_path):
    path = save(tmp_path / "x.csv", 'a,b\r\n1,"two\nlines"\r\n\r\n3,4,5\n6\n"7",8')
    found = list(read_rows(path, "csv"))
    assert [number for number, _ in found] == [2, 5, 6, 7]
    assert [row for _, row in found if isinstance(row, dict)] == [
        {"a": "1", "b": "two\nlines"}, {"a": "7", "b": "8"}
    ]  # fmt: skip
    assert [str(row) for _, row in found if isinstance(row, BadRow)] == [
        "a row of 2 columns is needed, got 3", "a row of 2 columns is needed, got 1"
    ]  # fmt: skip


def test_a_long_csv_field_is_whole_and_the_limit_stays(tmp_path):
    before = csv.field_size_limit()
    path = save(tmp_path / "x.csv", "a\n" + "x" * 300_000)
    [(_, row)] = read_rows(path, "csv")
    assert len(row["a"]) == 300_000 and csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.json", "{", "x.json is not JSON in UTF-8"),
        ("x.json", b"\xff", "x.json is not JSON in UTF-8"),
        ("x.json", '{"a": 1}', "x.json must hold one JSON array, got dict"),
        ("x.csv", "", "x.csv must begin with a line of column names"),
        ("x.csv", 'a\n"1', "x.csv:2: not CSV"),
        ("x.csv", b"a\n\xff", "x.csv is not UTF-8 text"),
    ],
)
def test_unreadable_files_are_refused(tmp_path, name, data, message):
    path = save(tmp_path / name, data)
    with pytest.raises(UserError, match=message):
        list(read_rows(path, format_of(path)))


@pytest.mark.parametrize("damage", [lambda data: b"plain", lambda data: data[:-9],
                                    lambda data: data[:12] + b"\xff\xff" + data[14:]])  # fmt: skip
@pytest.mark.parametrize("form", FORMATS)
def test_damaged_gzip(tmp_path, damage, form):
    path = tmp_path / f"x.{form}.gz"
    path.write_bytes(
        damage(gzip.compress(written([dict.fromkeys(FIELDS, "q" * 50)], form).encode()))
    )
    with pytest.raises(UserError, match=rf"x.{form}.gz is not a whole gzip file"):
        list(read_rows(path, form))


def test_missing_file_and_unknown_format(tmp_path):
    with pytest.raises(UserError, match=r"no.csv does not exist; set data.path"):
        list(read_rows(tmp_path / "no.csv", "csv"))
    with pytest.raises(UserError, match="unknown format 'tsv'; did you mean 'csv'"):
        list(read_rows(tmp_path / "no.tsv", "tsv"))


def test_items_of_an_array_are_checked_and_named(tmp_path):
    path = save(tmp_path / "x.json", '[{"a": 1}, 2]')
    (_, good), (number, bad) = read_rows(path, "json")
    assert good == {"a": 1} and str(bad) == "a JSON object is needed, got int"
    assert place(path, number, "json").endswith("x.json item 2")
    assert place(tmp_path / "x.jsonl.gz", 2, "jsonl").endswith("x.jsonl.gz:2")


def test_text_field():
    assert text_field({"a": 3.5}, "a") == "3.5"
    assert text_field({"a": ""}, "a", empty=True) == ""
    with pytest.raises(BadRow, match="must be text, got bool"):
        text_field({"a": True}, "a")
