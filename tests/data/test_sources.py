"""Files to records: splits by hash, limits, field names, and errors that name line and field."""

import json

import pytest

from asesjax.config import base_config
from asesjax.core.errors import UserError
from asesjax.core.types import AS, ES, FILLER, Record, Segment
from asesjax.data.examples import chain_text
from asesjax.data.generators.math_problems import make_math
from asesjax.data.sources import SPLITS, load_records, read_records, write_records
from asesjax.data.vocab import load_vocabulary


def settings_of(source, path, **changed):
    data = base_config().data
    data.update(source=source, path=str(path), n_train=0, n_validation=0, n_test=0, **changed)
    return data


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def row(i, **changed):
    fields = {"id": f"q{i}", "question": f"What is {i}?", "rationale": f"It is {i}.", "answer": i}
    return {**fields, **changed}


def test_a_single_file_is_divided_into_splits(tmp_path):
    file = write_rows(tmp_path / "all.jsonl", [row(i) for i in range(1000)])
    data = settings_of("jsonl", file)
    splits = {split: load_records(data, split, 0)[0] for split in SPLITS}
    ids = [record.id for records in splits.values() for record in records]
    assert sorted(ids) == sorted(f"q{i}" for i in range(1000))
    assert len(splits["test"]) == pytest.approx(100, abs=30)
    assert len(splits["validation"]) == pytest.approx(100, abs=30)
    record = next(r for records in splits.values() for r in records if r.id == "q17")
    assert record == Record("q17", "What is 17?", "It is 17.", "17")

    # Neither the seed, nor the order of the file, nor other rows move a row to another split.
    shuffled = write_rows(tmp_path / "shuffled.jsonl", [row(i) for i in reversed(range(1200))])
    for split in SPLITS:
        again = load_records(settings_of("jsonl", shuffled), split, 9)[0]
        assert {r.id for r in splits[split]} <= {r.id for r in again}


def test_equal_questions_stay_in_one_split(tmp_path):
    rows = [row(i, question=f"What  is {i // 4}?") for i in range(400)]
    data = settings_of("jsonl", write_rows(tmp_path / "all.jsonl", rows), test_share=0.4)
    asked = [{r.question for r in load_records(data, split, 0)[0]} for split in SPLITS]
    assert sum(len(questions) for questions in asked) == 100
    assert all(asked)


def test_limits_take_the_first_of_a_seeded_order(tmp_path):
    file = write_rows(tmp_path / "all.jsonl", [row(i) for i in range(300)])
    data = settings_of("jsonl", file)
    every = load_records(data, "train", 0)[0]
    data.n_train = 20
    few = load_records(data, "train", 0)[0]
    assert few == every[:20] == load_records(data, "train", 0)[0]
    other = load_records(data, "train", 1)[0]
    assert len(other) == 20 and other != few
    assert {r.id for r in other} != {r.id for r in few}
    data.n_train = 10**6
    assert load_records(data, "train", 0)[0] == every


def test_jsonl_file_for_each_split(tmp_path):
    for split, start in (("train", 0), ("test", 500)):
        write_rows(tmp_path / f"{split}-v2.jsonl", [row(i) for i in range(start, start + 200)])
    data = settings_of("jsonl", tmp_path / "{split}-v2.jsonl", validation_share=0.2)
    train, validation, test = (load_records(data, split, 0)[0] for split in SPLITS)
    assert {r.id for r in test} == {f"q{i}" for i in range(500, 700)}
    assert {r.id for r in train + validation} == {f"q{i}" for i in range(200)}
    assert len(train) + len(validation) == 200 and 20 <= len(validation) <= 60
    write_rows(tmp_path / "validation-v2.jsonl", [row(900)])
    assert [r.id for r in load_records(data, "validation", 0)[0]] == ["q900"]
    assert len(load_records(data, "train", 0)[0]) == 200
    (tmp_path / "test-v2.jsonl").unlink()
    with pytest.raises(UserError, match=r"test-v2.jsonl does not exist; set data.path"):
        load_records(data, "test", 0)


def test_field_names_and_missing_ids(tmp_path):
    rows = [{"frage": f"F{i}", "weg": "W。", "n": 3.5, "key": i} for i in range(40)]
    names = {"question_field": "frage", "rationale_field": "weg", "answer_field": "n"}
    data = settings_of("jsonl", write_rows(tmp_path / "a.jsonl", rows), id_field="key", **names)
    record = min(load_records(data, "train", 0)[0], key=lambda r: int(r.id))
    assert (record.rationale, record.answer) == ("W。", "3.5")
    assert record.question == f"F{record.id}"
    # No id: made of the text, hence the same in every run and whatever the line.
    data.id_field = "id"
    ids = {r.question: r.id for r in load_records(data, "train", 0)[0]}
    data.path = str(write_rows(tmp_path / "b.jsonl", rows[::-1]))
    assert {r.question: r.id for r in load_records(data, "train", 0)[0]} == ids
    assert len(set(ids.values())) == len(ids) and all(i.startswith("row-") for i in ids.values())
    data.answer_field = ""
    assert {r.answer for r in load_records(data, "train", 0)[0]} == {""}


BAD = [
    ('{"id": ', r"not JSON in UTF-8: "),
    (b'{"id": "\xff"}', r"not JSON in UTF-8: .*0xff"),
    ("[1]", r"a JSON object is needed, got list"),
    ({"id": "a"}, r"field 'question' is missing; the row has 'id'"),
    ({"question": "q", "answer": "1"}, r"field 'rationale' is missing"),
    (row(0, rationale="  "), r"field 'rationale' is empty"),
    (row(0, question=["q", "r"]), r"field 'question' must be text, got a list of 2"),
    (row(0, question=True), r"field 'question' must be text, got bool"),
    (row(0, answer=None), r"field 'answer' must be text, got null"),
    (row(0, answer=float("nan")), r"field 'answer': NaN is no number"),
    (row(1, answer=3), r"has the question and rationale of .*rows.jsonl:1"),
    (row(1, question="other?"), r"has the id 'q1' of .*rows.jsonl:1; ids must be unique"),
    (row(0, id=""), r"field 'id' is empty"),
    ('{"id": "a", "question": "\\ud800"}', r"field 'question' holds half a surrogate"),
]


@pytest.mark.parametrize(("bad", "message"), BAD, ids=range(len(BAD)))
def test_bad_rows(tmp_path, bad, message):
    bad = json.dumps(bad) if isinstance(bad, dict) else bad
    bad = bad if isinstance(bad, bytes) else bad.encode()
    good = [json.dumps(row(i)).encode() for i in range(1, 30)]
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"\n".join([good[0], b"", bad, *good[1:]]))
    data = settings_of("jsonl", file)
    with pytest.raises(UserError, match=rf"rows.jsonl:3: {message}") as error:
        load_records(data, "train", 0)
    assert "data.max_skipped_share" in str(error.value)

    data.max_skipped_share = 0.05  # 1 of 30 is less
    records, skipped = load_records(data, "train", 0)
    (where, reason), = skipped  # fmt: skip
    assert where.endswith("rows.jsonl:3") and reason in str(error.value)
    assert 15 < len(records) < 30
    data.max_skipped_share = 0.03
    with pytest.raises(UserError, match=r"1 of 30 rows of .* cannot be used, .*_share 0.03: .*:3:"):
        load_records(data, "train", 0)


def test_empty_splits_and_missing_files_are_refused(tmp_path):
    file = write_rows(tmp_path / "a.jsonl", [row(i) for i in range(50)])
    data = settings_of("jsonl", file, max_skipped_share=0.9)
    data.test_share = 0.0
    with pytest.raises(UserError, match=r"no test records among its 50 .*raise data.test_share"):
        load_records(data, "test", 0)
    data.test_share = 0.9
    with pytest.raises(UserError, match="leave something to train on, got 0.1 and 0.9"):
        load_records(data, "train", 0)
    with pytest.raises(UserError, match=r"nowhere.jsonl does not exist"):
        load_records(settings_of("jsonl", "nowhere.jsonl"), "train", 0)
    with pytest.raises(UserError, match=r"train.jsonl does not exist"):
        load_records(settings_of("gsm8k", tmp_path), "train", 0)
    with pytest.raises(UserError, match="unknown split 'dev'"):
        load_records(data, "dev", 0)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no train records among its 0 good rows"):
        load_records(settings_of("jsonl", tmp_path / "empty.jsonl"), "train", 0)


def test_forms_of_fields(tmp_path):
    rows = [
        {"question": {"stem": f"Is {i} even?"}, "rationale": [f"It is {i}."], "answer": i % 2 == 0}
        for i in range(30)
    ]
    data = settings_of("jsonl", write_rows(tmp_path / "a.jsonl", rows),
                       question_field="question.stem")  # fmt: skip
    found = {r.question: (r.rationale, r.answer) for r in load_records(data, "train", 0)[0]}
    assert len(found) > 15
    for question, pair in found.items():
        i = int(question.split()[1])
        assert pair == (f"It is {i}.", "no" if i % 2 else "yes")


@pytest.mark.parametrize(
    ("template", "rationale", "left"),
    [
        ("The answer is {answer}.", "2 + 3 = 5. The answer is 5.", "2 + 3 = 5."),
        ("The answer is {answer}.", "2 + 3 = 5\nthe answer is  5", "2 + 3 = 5"),
        ("#### {answer}", "2 + 3 = 5\n#### 5\n", "2 + 3 = 5"),
        ("答案是{answer}。", "2加3等于5。答案是5。", "2加3等于5。"),
        ("The answer is {answer}.", "So the answer is 5.", None),
        ("The answer is {answer}.", "It is 4. The answer is 15.", None),
        ("The answer is {answer}.", "It is 5. The answer is 5. So 6.", None),
        ("", "2 + 3 = 5. The answer is 5.", None),
    ],
)
def test_a_rationale_that_closes_itself_is_closed_once(tmp_path, template, rationale, left):
    rows = [row(i, rationale=rationale, answer=5) for i in range(9)]
    data = settings_of("jsonl", write_rows(tmp_path / "a.jsonl", rows), answer_template=template,
                       validation_share=0.0, test_share=0.0)  # fmt: skip
    assert {r.rationale for r in load_records(data, "train", 0)[0]} == {left or rationale}
    alone = Record("1", "q", "The answer is 5.", "5")
    assert chain_text(alone, "The answer is {answer}.") == "The answer is 5."


def test_gsm8k_rows_by_hand(tmp_path):
    rows = [
        {
            "question": "How many?",
            "answer": "48/2 = <<48/2=24>>24 clips.\nSo $<<1+1=2>>2\n#### 1,024",
        }
    ]
    write_rows(tmp_path / "test.jsonl", rows)
    data = settings_of("gsm8k", tmp_path)
    assert load_records(data, "test", 0) == (
        [Record("gsm8k-test-1", "How many?", "48/2 = 24 clips.\nSo $2", "1,024")],
        [],
    )
    data.strip_calculator = False
    (record,), _ = load_records(data, "test", 0)
    assert record.rationale == "48/2 = <<48/2=24>>24 clips.\nSo $<<1+1=2>>2"
    for answer, message in (
        ("24", "field 'answer' does not end with '#### <answer>'"),
        ("24 ####  ", "field 'answer' does not end with '#### <answer>'"),
        ("<<1=1>>\n#### 24", "field 'answer' has no reasoning before '####'"),
    ):
        write_rows(tmp_path / "test.jsonl", [{"question": "q", "answer": answer}])
        data.strip_calculator = True
        with pytest.raises(UserError, match=f"test.jsonl:1: {message}"):
            load_records(data, "test", 0)


def test_generated_sources():
    data = settings_of("synthetic_math", "")
    with pytest.raises(UserError, match="data.n_train is 0"):
        load_records(data, "train", 0)
    data.n_train = 7
    records, skipped = load_records(data, "train", 2)
    assert records == make_math(data, "train", 7, 2) and skipped == []
    data.path = "x.csv.gz"
    with pytest.raises(UserError, match=r"x.csv.gz, and .*synthetic_math .*data.source=file, or"):
        load_records(data, "train", 2)
    data.source, data.path = "synthetic_reports", ""
    assert [r.id for r in load_records(data, "train", 2)[0]] == [
        f"report-train-{i}" for i in range(7)
    ]


def test_write_and_read_records(tmp_path):
    records = [
        Record("a", "问\n题", "Er sagt. So.", "", (Segment("Er sagt. ", ES), Segment("So.", AS))),
        Record("b", "q", "r", "1", None),
        Record("c", "q", "r", "1", (Segment("r", None),)),
        Record("d", "q", "r e", "1", (Segment("r ", AS), Segment("e", FILLER)), (("s", "r e"),),
               ("t", "u v")),
    ]  # fmt: skip
    file = tmp_path / "new" / "records.jsonl"
    write_records(file, records)
    assert read_records(file) == records
    assert [path.name for path in file.parent.iterdir()] == ["records.jsonl"]
    # The file is a jsonl source as well.
    data = settings_of("jsonl", file, validation_share=0.0, test_share=0.0)
    assert {r.id: r.others for r in load_records(data, "train", 0)[0]} == {
        "a": (), "b": (), "c": (), "d": ("t", "u v")
    }  # fmt: skip

    def broken():
        yield records[0]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_records(file, broken())
    assert read_records(file) == records


def test_read_records_errors(tmp_path):
    file = tmp_path / "records.jsonl"
    for bad, message in (
        (row(1, gold=[["ES", "It is"]]), "records.jsonl:2: field 'gold': its texts joined are not"),
        (row(1, gold=[["XX", "It is 1."]]), "records.jsonl:2: field 'gold' must be a list of"),
        (row(1, gold="It is 1."), "records.jsonl:2: field 'gold' must be a list of"),
        ({"id": "q"}, "records.jsonl:2: field 'question' is missing"),
        (row(0), "records.jsonl: two rows have the id 'q0'"),
        ([], "records.jsonl:2: expected a JSON object"),
    ):
        write_rows(file, [row(0), bad])
        with pytest.raises(UserError, match=message):
            read_records(file)


@pytest.mark.data
def test_gsm8k(data_folder):
    data = settings_of("gsm8k", data_folder / "gsm8k")
    splits = {split: load_records(data, split, 0) for split in SPLITS}
    assert all(skipped == [] for _, skipped in splits.values())
    train, validation, test = (splits[split][0] for split in SPLITS)
    assert len(test) == 1319 and len(train) + len(validation) == 7473
    assert len(validation) == pytest.approx(747, abs=80)
    assert not {r.question for r in train} & {r.question for r in validation + test}
    records = {r.id: r for r in train + validation}
    assert records["gsm8k-train-1"].answer == "72"
    assert records["gsm8k-train-1"].rationale == (
        "Natalia sold 48/2 = 24 clips in May.\n"
        "Natalia sold 48+24 = 72 clips altogether in April and May."
    )
    assert not any("<<" in r.rationale or "####" in r.rationale for r in train + test)
    assert sum(r.rationale.count("\n") + 1 for r in records.values()) == 26723  # one closed itself
    # To the T5 vocabulary a line break is a space: keeping it changes no token.
    vocab = load_vocabulary("sentencepiece", str(data_folder / "t5_vocab/spiece.model"))
    for r in test[:200]:
        assert (
            vocab.encode(r.rationale).tolist()
            == vocab.encode(r.rationale.replace("\n", " ")).tolist()
        )
