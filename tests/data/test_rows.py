"""JSON lines, JSON arrays and CSV give the same rows, and broken ones are told apart."""

import contextlib
import csv
import gzip
import io
import json
import os

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
        ("x.csv", b"a\n\xff", "x.csv:2: not UTF-8 text; save it as 'CSV UTF-8', .* GB18030"),
        ("x.csv", "a\n1".encode("utf-16"), "x.csv:1: not UTF-8 text; .* UTF-16"),
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
    assert place(path, number).endswith("x.json item 2")
    assert place(tmp_path / "x.jsonl.gz", 2).endswith("x.jsonl.gz:2")


PAIR = [{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("lines.json", '{"a": "1", "b": "x"}\n\n{"a": "2", "b": "y"}\n'),
        ("array.jsonl", json.dumps(PAIR)),
        ("array.jsonl", "\ufeff" + json.dumps(PAIR, indent=1)),
        ("wrapped.json", json.dumps({"data": PAIR})),
        ("wrapped.jsonl", json.dumps({"data": PAIR})),
        ("wrapped.jsonl", json.dumps({"data": PAIR}, indent=1)),
        ("wrapped.json", json.dumps({"version": "1", "data": PAIR, "notes": []})),
        ("rows.json", json.dumps({"q7": PAIR[0], "q8": PAIR[1]})),
        ("columns.json", json.dumps({"a": {"0": "1", "1": "2"}, "b": {"0": "x", "1": "y"}})),
        ("columns.json", json.dumps({"a": ["1", "2"], "b": ["x", "y"]})),
    ],
)
def test_a_file_is_what_its_content_says(tmp_path, name, text):
    path = save(tmp_path / name, text)
    rows = list(read_rows(path, format_of(path)))
    assert [row for _, row in rows] == PAIR
    lines = name == "lines.json"
    assert [place(path, number) for number, _ in rows] == [
        f"{path}{f':{n}' if lines else f' item {i}'}" for i, n in enumerate((1, 3), 1)
    ]


@pytest.mark.parametrize("form", ["json", "jsonl"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"a": 1, "a": 2}', "field 'a' stands twice in one object"),
        ('{"a": {"b": 1, "b": 2}}', "field 'a': field 'b' stands twice"),
        ('{"a": NaN}', "field 'a': NaN is no number"),
        ('{"a": [-Infinity]}', "field 'a': -Infinity is no number"),
        ('{"a": 1e999}', "field 'a' is inf, which is no number"),
        ('{"a": "x <extra_id_7>"}', "holds <extra_id_7>, which models take for a mark"),
        ('{"a": null}', "must be text, got null"),
        ('{"a": ["x", "y"]}', "must be text, got a list of 2; join them, or name one, such as a.0"),
        ('{"a": {"b": "x"}}', "must be text, got an object; name one of its fields, such as a.b"),
    ],
)
def test_values_that_are_no_text(tmp_path, form, bad, message):
    text = f'[{bad}, {{"a": 5}}]' if form == "json" else f'{bad}\n{{"a": 5}}'
    found = []
    for _, row in read_rows(save(tmp_path / f"x.{form}", text), form):
        with contextlib.suppress(BadRow):
            found.append(str(row) if isinstance(row, BadRow) else "")
            found[-1] = found[-1] or text_field(row, "a")
            continue
        with pytest.raises(BadRow) as error:
            text_field(row, "a")
        found[-1] = str(error.value)
    assert message in found[0] and found[1:] == ["5"]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' * 100_000, '{"a": %s}' % ("9" * 5000)])
def test_what_python_cannot_read_is_a_bad_row(tmp_path, text):
    path = save(tmp_path / "x.jsonl", text + '\n{"a": 5}\n')
    (_, bad), (_, good) = read_rows(path, "jsonl")
    assert isinstance(bad, BadRow) and good == {"a": 5}
    with pytest.raises(UserError, match="x.json is not JSON in UTF-8"):
        list(read_rows(save(tmp_path / "x.json", text), "json"))


def test_columns_of_one_name_and_pipes_are_refused(tmp_path):
    with pytest.raises(UserError, match="x.csv: column 'a' stands twice"):
        list(read_rows(save(tmp_path / "x.csv", "a,b,a\n1,2,3\n"), "csv"))
    os.mkfifo(tmp_path / "x.jsonl")
    with pytest.raises(UserError, match="x.jsonl is no plain file, and records are read several"):
        list(read_rows(tmp_path / "x.jsonl", "jsonl"))


def test_text_field():
    assert text_field({"a": 3.5}, "a") == "3.5"
    assert text_field({"a": ""}, "a", empty=True) == ""
    assert [text_field({"a": n}, "a") for n in (4.02e-06, 1.5e6, -1e22, 7)] == [
        "0.00000402", "1500000", "-10000000000000000000000", "7"
    ]  # fmt: skip
    row = {"a": {"b": [{"c": "x"}, {"c": "y"}]}, "a.b": "z", "d": ["w"]}
    assert [text_field(row, name) for name in ("a.b.1.c", "a.b", "d")] == ["y", "z", "w"]
    for name in ("a.c", "a.b.2.c", "a.b.1.c.d", "d.x"):
        with pytest.raises(BadRow, match=f"field '{name}' is missing"):
            text_field(row, name)
    with pytest.raises(BadRow, match="must be text, got bool"):
        text_field({"a": True}, "a")
