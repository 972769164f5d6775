"""Data as people have it: tables, folders, options, duplicates, and rows without a rationale."""

import gzip
import json
from unittest import mock

import pytest

from asesjax.cli.generate_file import read_questions
from asesjax.config import base_config, finish
from asesjax.core.errors import UserError
from asesjax.data.corpus import read_corpus
from asesjax.data.rows import BadRow, labelled_options, read_rows
from asesjax.data.sources import REPEATED, load_records
from asesjax.data.vocab import ByteVocabulary
from asesjax.experiment import all_rows
from asesjax.jobs.data import prepare_data
from asesjax.jobs.lengths import check_rows
from asesjax.methods.method import make_method
from asesjax.run import Run

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = [{"question": f"What is {i}?", "rationale": f"It is {i}.", "answer": i} for i in range(30)]
BOUNDS = {"methods": "direct", "decode.max_chain_tokens": "20", "decode.max_rounds": "4",
          "decode.max_segment_tokens": "20", "decode.question_buckets": "(64,)"}  # fmt: skip
BARE = [{"question": one["question"], "answer": one["answer"]} for one in ROWS]
NOTE = {b"huggingface": json.dumps(
    {"info": {"features": {"answer": {"names": ["no", "yes"], "_type": "ClassLabel"}}}}
).encode()}  # fmt: skip


def write(path, rows, schema=None):
    """Write rows as the name of a file says; an ``.arrow`` as the library datasets does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows, schema)
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=7)
    elif path.suffix == ".arrow":
        with pyarrow.ipc.new_stream(path, table.schema) as out:
            out.write_table(table)
    elif path.suffix == ".feather":
        with pyarrow.ipc.new_file(path.with_suffix(".arrow"), table.schema) as out:
            out.write_table(table)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        packed = path.suffix == ".gz"
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


def saved(folder, rows, n=2):
    """Write a folder as ``Dataset.save_to_disk`` does, with a cache that is no part of it."""
    names = [f"data-0000{i}-of-0000{n}.arrow" for i in range(n)]
    for i, name in enumerate(names):
        write(folder / name, rows[i::n])
    write(folder / "cache-1f.arrow", rows)
    (folder / "dataset_info.json").write_text("{}")
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))


def load(path, part="train", rationales=True, source="file", **changed):
    data = base_config().data
    data.update(source=source, path=str(path), n_train=0, n_validation=0, n_test=0, **changed)
    return load_records(data, part, 0, None, rationales)


def everything(path, rationales=True, **changed):
    splits = ("train", "validation", "test")
    return [r for split in splits for r in load(path, split, rationales, **changed)[0]]


@pytest.mark.parametrize(
    "name", ["a.parquet", "a.arrow", "a.feather", "a.jsonl", "a.jsonl.gz", "lines.json", "a.data"]
)
def test_a_file_is_read_as_its_name_tells(tmp_path, name):
    write(tmp_path / name, ROWS)
    path = tmp_path / name.replace("feather", "arrow")
    assert {(r.question, r.rationale, r.answer) for r in everything(path)} == {
        tuple(map(str, row.values())) for row in ROWS
    }


def test_values_of_tables_become_text_or_are_refused(tmp_path):
    import datetime
    from decimal import Decimal

    rows = [{"d": datetime.date(2024, 3, 5), "n": Decimal("1.50"), "b": b"text", "x": b"\xff",
             "in": {"f": [1.5]}, "none": None, "answer": 1}]  # fmt: skip
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata(NOTE)
    parquet.write_table(table, tmp_path / "a.parquet")
    [(number, row)] = read_rows(tmp_path / "a.parquet")
    assert number == 1 and isinstance(row.pop("x"), BadRow)
    assert row == {"d": "2024-03-05", "n": "1.50", "b": "text", "in": {"f": [1.5]}, "none": None,
                   "answer": "yes"}  # fmt: skip
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    (tmp_path / "b.arrow").write_bytes(b"nothing")
    for name in ("b.parquet", "b.arrow"):
        with pytest.raises(UserError, match=rf"{name} is no whole (Parquet|Arrow) file"):
            list(read_rows(tmp_path / name))
    with mock.patch.dict("sys.modules", pyarrow=None):
        with pytest.raises(UserError, match=r"pip install 'asesjax\[parquet\]'"):
            list(read_rows(tmp_path / "a.parquet"))


def as_saved_dict(folder):
    for split in ("train", "test"):
        saved(folder / split, ROWS if split == "train" else BARE)
    (folder / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')


def as_on_the_hub(folder):
    write(folder / "data/train-00000-of-00002.parquet", ROWS[:9])
    write(folder / "data/train-00001-of-00002.parquet", ROWS[9:])
    write(folder / "data/test-00000-of-00001.parquet", BARE)
    write(folder / ".cache/x/train.parquet", ROWS)
    (folder / "README.md").write_text("card")


def as_plain_files(folder):
    write(folder / "my_train.jsonl", ROWS)
    write(folder / "my_test.jsonl.gz", BARE)


@pytest.mark.parametrize("make", [as_saved_dict, as_on_the_hub, as_plain_files])
def test_a_folder_has_splits(tmp_path, make):
    make(tmp_path)
    n = {split: len(load(tmp_path, split)[0]) for split in ("train", "validation", "test")}
    assert n["train"] + n["validation"] == n["test"] == 30 and n["validation"]
    # The test file may have no rationales, what is learned has them.
    assert {r.rationale for r in load(tmp_path, "test")[0]} == {""}
    assert len(everything(tmp_path, False, split="test")) == 30
    with pytest.raises(UserError, match="field 'rationale' is missing"):
        everything(tmp_path, split="test")
    with pytest.raises(UserError, match="has no split 'dev', but t"):
        everything(tmp_path, split="dev")


def test_names_on_the_hub_are_asked_for_by_source_alone(tmp_path, monkeypatch):
    for config in ("main", "socratic"):
        for split, rows in (("train", ROWS), ("test", BARE)):
            write(tmp_path / f"{config}/{split}/0000.parquet", rows)
    asked = []
    fetch = lambda name, **more: asked.append((name, more)) or str(tmp_path)  # noqa: E731
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    hub = {"source": "huggingface", "path": "owner/sums/main"}
    assert len(load(part="test", **hub)[0]) == 30
    assert asked == [("owner/sums", {"repo_type": "dataset", "revision": "refs/convert/parquet",
                                     "allow_patterns": ["main/*.parquet"]})]  # fmt: skip
    with pytest.raises(UserError, match="several data sets with a split t.*/main/t.*/socratic/t"):
        load("owner/sums", source="huggingface")
    with pytest.raises(UserError, match="no name on the hub; give owner/name"):
        load("sums", source="huggingface")
    with pytest.raises(UserError, match="does not exist; set data.path"):
        load("owner/sums")


def test_a_saved_data_set_without_splits_is_divided(tmp_path):
    saved(tmp_path / "mine", ROWS)
    assert len(everything(tmp_path / "mine")) == 30
    state = {"_data_files": [], "_indices_data_files": [{"filename": "indices.arrow"}]}
    (tmp_path / "mine/state.json").write_text(json.dumps(state))
    with pytest.raises(UserError, match="flatten_indices"):
        everything(tmp_path / "mine")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no file of records"),
        (["a/train.jsonl", "b/train.jsonl"], "several data sets with a split train; .*/a, .*/b"),
        (["train.jsonl", "more.jsonl"], "more.jsonl names no split"),
        (["train.jsonl", "train.parquet"], "train files of several formats"),
        (["dev.jsonl"], "has no split train, but validation; name the one .* data.split"),
    ],
)
def test_folders_that_are_not_clear(tmp_path, names, message):
    for name in names:
        write(tmp_path / name, ROWS)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["red", "blue"], "AB"), ([3, 4], "AB"), (["A) red", "B) blue"], "AB"),
        ({"A": "red", "B": "blue"}, "AB"), ({"1": "red", "2": "blue"}, "12"),
        ({"label": ["A", "B"], "text": ["red", "blue"]}, "AB"),
        ([{"label": "A", "text": "red"}, {"label": "B", "text": "blue"}], "AB"),
        ([{"text": "red"}, {"text": "blue"}], "AB"), ('["red", "blue"]', "AB"),
    ],
)  # fmt: skip
def test_options_become_part_of_the_question(tmp_path, options, found):
    pairs = labelled_options({"o": options}, "o")
    assert "".join(label for label, _ in pairs) == found
    assert [text for _, text in pairs] in (["red", "blue"], ["3", "4"])
    rows = [row | {"o": options, "answer": 1} for row in ROWS]
    path = write(tmp_path / "a.jsonl", rows)
    records = everything(path, options_field="o")
    assert {r.answer for r in records} == {"1" if found == "12" else "B"}
    shown = "\n".join(f"({label}) {text}" for label, text in pairs)
    assert {r.question for r in records} == {f"What is {i}?\n{shown}" for i in range(30)}


def test_options_that_are_none():
    for wrong in ([], {}, "red, blue", 3, ["red", ""], {"A": "red", "B": None}):
        with pytest.raises(BadRow, match="field 'o' must be a list of options"):
            labelled_options({"o": wrong}, "o")


def test_usual_names_of_fields(tmp_path):
    names = ["问题", "推理", "答案"]
    lines = [",".join(names), *(",".join(map(str, row.values())) for row in ROWS)]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    assert {(r.question, r.rationale, r.answer) for r in everything(tmp_path / "a.csv")} == {
        tuple(map(str, row.values())) for row in ROWS
    }
    unclear = [{"prompt": "a", "problem": "b", "rationale": "c", "answer": "d"}]
    with pytest.raises(UserError, match="field 'question' is missing"):
        load(write(tmp_path / "b.jsonl", unclear))


def test_duplicates_are_refused_or_dropped(tmp_path):
    path = write(tmp_path / "a.jsonl", [*ROWS, ROWS[3], ROWS[4] | {"id": "other"}, ROWS[3]])
    with pytest.raises(UserError, match=r"a.jsonl:31: .* of .*a.jsonl:4; data.duplicates=drop"):
        load(path)
    records, skipped = load(path, duplicates="drop", validation_share=0.0, test_share=0.0)
    assert len(records) == 30
    assert [reason for _, reason in skipped] == [REPEATED] * 3
    path = write(tmp_path / "b.jsonl", [*BARE, BARE[3] | {"answer": 99}])
    with pytest.raises(UserError, match=r":31: has the question of .*:4 and another answer, '99'"):
        load(path, rationales=False, duplicates="drop")


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "json", "csv", "parquet", "arrow", "folder"])
def test_generate_reads_what_data_reads(tmp_path, form):
    rows = [
        {"q": {"stem": f"What is {i}?"}, "answer": i % 2 == 0, "opts": ["red", "blue"],
         "max_chain_tokens": 9} for i in range(4)
    ]  # fmt: skip
    path, field = tmp_path / f"in.{form}", "q.stem"
    if form == "csv":
        lines = [f'{row["q"]["stem"]},{"yes" if row["answer"] else "no"},"[""red"",""blue""]",9\n'
                 for row in rows]  # fmt: skip
        path.write_text("".join(["stem,answer,opts,max_chain_tokens\n", *lines]))
        field = "stem"
    elif form == "json":
        path.write_text(json.dumps({"data": rows}))
    elif form == "folder":
        saved(path, rows, 1)
    else:
        write(path, rows)
    fields = {"data.question_field": field, "data.options_field": "opts"}
    config = finish(base_config(), BOUNDS | fields)
    method, vocab = make_method("direct", config), ByteVocabulary(100)
    request, sha256 = read_questions(path, config, method, vocab)
    assert [record.question for record in request.records] == [
        f"What is {i}?\n(A) red\n(B) blue" for i in range(4)
    ]
    assert [record.answer for record in request.records] == ["yes", "no"] * 2
    assert request.limits.max_chain_tokens.tolist() == [9] * 4 and len(sha256) == 64
    assert len({record.id for record in request.records}) == 4


def test_generate_reads_rows_of_the_run_s_data_set(tmp_path):
    rows = [{"question": "2 + 2?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}, {"question": "1 + 1?"}]
    config = finish(base_config(), {"data.source": "gsm8k"} | BOUNDS)
    method, vocab = make_method("direct", config), ByteVocabulary(100)
    request, _ = read_questions(write(tmp_path / "a.jsonl", rows), config, method, vocab)
    assert [(r.question, r.rationale, r.answer) for r in request.records] == [
        ("2 + 2?", "2 + 2 = 4", "4"), ("1 + 1?", "", ""),
    ]  # fmt: skip


def test_methods_that_need_rationales_say_so_at_the_start(tmp_path):
    fields = {"data.source": "file", "data.path": str(write(tmp_path / "a.parquet", BARE))}
    fields |= {"data.n_train": "0", "vocab.kind": "byte", "methods": "start,answer_only"}
    config = finish(base_config(), fields)
    run = Run(config, tmp_path / "run", lambda text: None)
    prepare_data(run)
    check_rows(run, all_rows(run))
    template = config.data.answer_template
    chains = [one.chain.text for one in read_corpus(run.workdir, "train", template)]
    assert chains and all(chain.startswith("The answer is ") for chain in chains)
    later = Run(finish(config, {"methods": "answer_only,direct"}), run.workdir)
    with pytest.raises(UserError, match="row direct learns .* record row-.* take direct out of"):
        check_rows(later, all_rows(later))
    with pytest.raises(UserError, match=r"parquet:1: field 'rationale' .*methods=answer_only can"):
        prepare_data(Run(later.config, tmp_path / "other", lambda text: None))
