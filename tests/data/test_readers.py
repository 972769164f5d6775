"""What each data set's rows say, by hand, and their bad rows."""

import json
from unittest import mock

import pytest

from asesjax.config import base_config
from asesjax.core.errors import UserError
from asesjax.core.types import Record
from asesjax.data.registry import SOURCES, SPLITS, file_source, get_reader
from asesjax.data.sources import WRONG_CHAIN, load_records, read_records, write_records


def settings_of(source, path, **changed):
    data = base_config().data
    data.update(source=source, path=str(path), n_train=0, n_validation=0, n_test=0, **changed)
    return data


def same(said, answer):
    return said == f"The answer is {answer}."


def write(path, value):
    lines = value if isinstance(value, str) else json.dumps(value)
    path.write_text(lines, "utf-8")
    return path


def write_lines(path, rows):
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def test_built_in_sources_are_registered_and_names_are_unique():
    assert set(SOURCES) >= {
        "synthetic_math", "synthetic_reports", "synthetic_letters", "gsm8k", "gsm8k_socratic",
        "svamp", "strategyqa", "palm_svamp", "palm_cqa", "coin_flip", "date_understanding",
        "last_letter_concatenation", "tracking_shuffled_objects", "jsonl", "json", "csv",
    }  # fmt: skip

    def parse(settings, row, file, number):
        raise AssertionError

    with pytest.raises(UserError, match="data source 'svamp' is registered twice: by asesjax"):
        file_source("svamp", lambda settings: {}, "json")(parse)
    with pytest.raises(UserError, match="synthetic_math generates records and has no files"):
        get_reader("synthetic_math")


@mock.patch.dict(SOURCES)
def test_a_source_of_the_users_own_module(tmp_path):
    @SOURCES.register("mine")
    def make_mine(settings, split, n, seed):
        return [Record(f"{split}-{i}", f"q{seed}", "r", "a") for i in range(n)]

    @file_source("my_file", lambda settings: {"": tmp_path / "my.csv"}, "csv")
    def parse_mine(settings, row, file, number):
        return Record(str(number), row["q"], "r", row["a"]), row["a"]

    write(tmp_path / "my.csv", "q,a\nHow?,1\nWhy?,2\n")
    data = settings_of("mine", "")
    data.n_train = 2
    assert [r.id for r in load_records(data, "train", 3)[0]] == ["train-0", "train-1"]
    data = settings_of("my_file", "", validation_share=0.0, test_share=0.0)
    records, _ = load_records(data, "train", 0)
    assert sorted((r.id, r.question) for r in records) == [("2", "How?"), ("3", "Why?")]


def test_gsm8k_socratic(tmp_path):
    answer = "How many in May? ** 48/2 = <<48/2=24>>24 ** 1\nHow many? ** \nAll? ** 72\n#### 72"
    write_lines(tmp_path / "test_socratic.jsonl", [{"question": "How many?", "answer": answer}])
    data = settings_of("gsm8k_socratic", tmp_path)
    (record,), skipped = load_records(data, "test", 0)
    assert skipped == []
    assert record == Record(  # the id is the plain file's
        "gsm8k-test-1", "How many?", "48/2 = 24 ** 1\n72", "72",
        steps=(("How many in May?", "48/2 = 24 ** 1"), ("All?", "72")),
    )  # fmt: skip
    for bad in ("So 72.\n#### 72", " ** 72\n#### 72", "How many? ** \n#### 72"):
        write_lines(tmp_path / "test_socratic.jsonl", [{"question": "q", "answer": bad}])
        with pytest.raises(UserError, match="jsonl:1: field 'answer': a line is not"):
            load_records(data, "test", 0)


def svamp(**changed):
    row = {"ID": "chal-1", "Body": " He had 6. ", "Question": "How many?",
           "Equation": "( 6.0 - ( 3.0 + 2.5 ) )", "Answer": 0.5, "Type": "Subtraction"}  # fmt: skip
    return row | changed


def test_svamp(tmp_path):
    data = settings_of("svamp", tmp_path, validation_share=0.0, test_share=0.0)
    write(tmp_path / "SVAMP.json", [svamp(), svamp(ID="b", Equation="8.0", Answer=8.0)])
    records, _ = load_records(data, "train", 0)
    assert sorted(records, key=lambda r: r.id) == [
        Record("b", "He had 6. How many?", "It is 8.", "8", steps=(("How many?", "It is 8."),)),
        Record(
            "chal-1",
            "He had 6. How many?",
            "3 + 2.5 = 5.5. 6 - 5.5 = 0.5.",
            "0.5",
            steps=(("How much is 3 + 2.5?", "3 + 2.5 = 5.5."), ("How many?", "6 - 5.5 = 0.5.")),
        ),
    ]
    for bad, message in (
        ({"Answer": 1.0}, "'Equation' does not come to field 'Answer'"),
        ({"Equation": "six"}, "'Equation' is no sum"),
        ({"Equation": "1 / 0"}, "'Equation' is no sum"),
    ):
        write(tmp_path / "SVAMP.json", [svamp(**bad)])
        with pytest.raises(UserError, match=f"SVAMP.json item 1: field {message}"):
            load_records(data, "train", 0)


def strategyqa(n_facts, n_questions, **changed):
    row = {"qid": "q", "question": "Is it? ", "answer": True,
           "facts": [f"Fact {i}. " for i in range(n_facts)],
           "decomposition": [f"Sub {i}?" for i in range(n_questions)]}  # fmt: skip
    return row | changed


@pytest.mark.parametrize(
    ("n_facts", "n_questions", "texts"),
    [
        (2, 3, ["Fact 0.", "Fact 1.", "yes"]),
        (2, 2, ["Fact 0.", "Fact 1."]),
        (3, 2, ["Fact 0.", "Fact 1. Fact 2."]),
        (2, 1, ["Fact 0. Fact 1."]),
        (1, 3, None),
    ],
)
def test_strategyqa_steps(tmp_path, n_facts, n_questions, texts):
    write(tmp_path / "dev.json", [strategyqa(n_facts, n_questions)])
    data = settings_of("strategyqa", tmp_path, only_right_chains=True)
    (record,), _ = load_records(data, "test", 0, same)
    assert record.rationale == " ".join(f"Fact {i}." for i in range(n_facts))
    assert (record.question, record.answer) == ("Is it?", "yes")
    steps = texts and tuple((f"Sub {i}?", text) for i, text in enumerate(texts))
    assert record.steps == steps
    # Steps come back from a file as they were, and so does their absence.
    write_records(tmp_path / "records.jsonl", [record])
    assert read_records(tmp_path / "records.jsonl") == [record]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"answer": "yes"}, "'answer' must be true or false"),
        ({"facts": "Fact."}, "'facts' must be a list of texts"),
        ({"facts": [" "]}, "'facts' is empty"),
        ({"decomposition": [1]}, "'decomposition' must be a list of texts"),
    ],
)
def test_strategyqa_bad_rows(tmp_path, bad, message):
    write(tmp_path / "dev.json", [strategyqa(1, 1, **bad)])
    with pytest.raises(UserError, match=f"dev.json item 1: field {message}"):
        load_records(settings_of("strategyqa", tmp_path), "test", 0)


SVAMP_CHAINS = [
    "He had 6. 6 - 1 = 5. The answer is (6 - 1).\n\nQ: Another? A: The answer is 9.",
    "Is it 6? So the answer is 6. No. So the answer is (6 + 0).",
    "He had 6 and 6 and",
    "6 - 1 = 5. The answer is 6 - 1 apples.",
]


def palm(folder, name, rows, chains, split="train"):
    write_lines(folder / f"{name}_{split}.json", rows)
    for i in range(0, len(chains), 3):  # several files of chains
        write(folder / f"palm_{split}_CoT_{i // 3}.json", chains[i : i + 3])


def test_palm_svamp(tmp_path):
    rows = [{"input": f"Q{i}\nHow many?", "label": "( 6.0 - 1.0 )"} for i in range(4)]
    palm(tmp_path, "svamp", rows, SVAMP_CHAINS)
    data = settings_of("palm_svamp", tmp_path, validation_share=0.0)
    records = sorted(load_records(data, "train", 0)[0], key=lambda record: record.id)
    assert [record.rationale for record in records] == [
        "He had 6. 6 - 1 = 5.", "Is it 6? So the answer is 6. No.", "He had 6 and 6 and",
        "6 - 1 = 5.",
    ]  # fmt: skip
    assert {record.answer for record in records} == {"5"}
    data.only_right_chains = True
    (record,), skipped = load_records(data, "train", 0, same)
    assert record == records[0]
    assert skipped == [(f"{tmp_path}/svamp_train.json:{i}", WRONG_CHAIN) for i in (2, 3, 4)]
    # What the test split asks does not depend on who solved it.
    palm(tmp_path, "svamp", rows, SVAMP_CHAINS, "test")
    records, skipped = load_records(data, "test", 0, same)
    assert len(records) == 4 and skipped == []
    with pytest.raises(ValueError, match="needs is_right"):
        load_records(data, "train", 0)
    with pytest.raises(UserError, match="no train record of .* ends in its answer; check evaluate"):
        load_records(data, "train", 0, lambda said, answer: False)


def test_palm_bad_rows(tmp_path):
    data = settings_of("palm_svamp", tmp_path, validation_share=0.0)
    palm(tmp_path, "svamp", [{"input": "q", "label": "six"}], ["The answer is 6."])
    with pytest.raises(UserError, match="svamp_train.json:1: field 'label' is no sum"):
        load_records(data, "train", 0)
    palm(tmp_path, "svamp", [{"input": "q", "label": "6"}], ["The answer is 6."])
    with pytest.raises(UserError, match=":1: the teacher's chain is an answer without reasoning"):
        load_records(data, "train", 0)
    palm(tmp_path, "svamp", [{"input": "q", "label": "6"}], ["So 6.", "So 7."])
    with pytest.raises(UserError, match=r"has 1 question, and palm_train_CoT_\*.json beside it 2"):
        load_records(data, "train", 0)


def test_palm_cqa(tmp_path):
    row = {"id": "a1", "question": "Where? ", "choices": ["bus depot", "a  bridge"],
           "answer": "a bridge"}  # fmt: skip
    chains = [
        "It is near. So the answer is (b) a bridge.\n\nQ: x",
        "It is. So the answer is (a) bus.",
    ]
    palm(tmp_path, "cqa", [row, row | {"id": "a2"}], chains)
    data = settings_of("palm_cqa", tmp_path, validation_share=0.0, only_right_chains=True)
    (record,), ((where, reason),) = load_records(data, "train", 0, same)
    assert record == Record(
        "a1", "Where?\nAnswer Choices:\n(a) bus depot\n(b) a bridge", "It is near.", "a bridge"
    )
    assert where.endswith("cqa_train.json:2") and reason == WRONG_CHAIN


def test_symbolic_rows_go_where_the_split_file_says(tmp_path):
    question = 'Take the last letters of each words in "{}" and concatenate them.'
    names = [("Amy Ben", "yn"), ("Dan Eva", "na"), ("Jo Ann Li", "oi"), ("Gus Hana", "sa")]
    rows = [{"question": question.format(text), "answer": answer} for text, answer in names]
    write(tmp_path / "last_letter_concatenation.json", rows)
    places = {"train": [3, 0], "test": [1, 2]}
    write(tmp_path / "last_letter_concatenation__default.json", places)
    data = settings_of("last_letter_concatenation", tmp_path, validation_share=0.0)
    train, _ = load_records(data, "train", 0)
    assert {record.id for record in train} == {
        "last_letter_concatenation-1", "last_letter_concatenation-4"
    }  # fmt: skip
    assert all("".join(s.text for s in r.gold) == r.rationale for r in train)
    with pytest.raises(UserError, match="item 3: the rule comes to another answer than the file"):
        load_records(data, "test", 0)
    data.max_skipped_share = 0.5
    (record,), ((where, _),) = load_records(data, "test", 0)
    assert record.answer == "na" and where.endswith("item 3")


def test_steps_field_of_json_rows(tmp_path):
    row = {"question": "q", "rationale": "r", "answer": "a", "plan": [["Sub?", "r"]]}
    data = settings_of("json", write(tmp_path / "x.json", [row]), validation_share=0.0,
                       test_share=0.0, steps_field="plan")  # fmt: skip
    (record,), _ = load_records(data, "train", 0)
    assert record.steps == (("Sub?", "r"),)
    for bad in ("r", ["r"], [["q"]], [["q", 1]]):
        write(tmp_path / "x.json", [row | {"plan": bad}])
        with pytest.raises(UserError, match="item 1: steps must be a list of"):
            load_records(data, "train", 0)


def test_several_rationales_of_a_question(tmp_path):
    """The wrong ones can be left out; a record stays while one of them is right."""

    def closed(n):
        return f"It is {n}. The answer is {n}."

    rows = [
        {"id": "1", "question": "a", "answer": "1", "rationale": closed(1),
         "rationales": [closed(1), closed(2), "So 1. The answer is 1."]},
        {"id": "2", "question": "b", "answer": "2", "rationales": [closed(1), closed(2)]},
        {"id": "3", "question": "c", "answer": "3", "rationale": closed(4)},
    ]  # fmt: skip
    path = write_lines(tmp_path / "x.jsonl", rows)
    data = settings_of("jsonl", path, validation_share=0.0, test_share=0.0)
    found = {r.id: (r.rationale, r.others) for r in load_records(data, "train", 0)[0]}
    assert found == {
        "1": ("It is 1.", (closed(2), "So 1.")), "2": (closed(1), ("It is 2.",)),
        "3": (closed(4), ()),
    }  # fmt: skip
    data.only_right_chains = True
    records, skipped = load_records(data, "train", 0, lambda text, a: text.endswith(f" {a}."))
    assert {r.id: (r.rationale, r.others) for r in records} == {
        "1": ("It is 1.", ("So 1.",)), "2": ("It is 2.", ())
    }  # fmt: skip
    assert [reason for _, reason in skipped] == [WRONG_CHAIN]
    data.only_right_chains = False
    write_lines(path, [{**rows[0], "rationales": "It is 1."}])
    with pytest.raises(UserError, match="x.jsonl:1: field 'rationales' must be a list of texts"):
        load_records(data, "train", 0)


def test_split_by_id(tmp_path):
    """With equal questions of several ids, or several questions of one passage."""
    rows = [{"id": i, "question": "Same?", "rationale": "r", "answer": "a"} for i in range(400)]
    data = settings_of("json", write(tmp_path / "x.json", rows), split_by="id")
    sizes = [len(load_records(data, split, 0)[0]) for split in SPLITS]
    assert sum(sizes) == 400 and sizes[1:] == pytest.approx([40, 40], abs=20)
    data.split_by = "question"
    with pytest.raises(UserError, match="has no .* records"):
        for split in SPLITS:
            load_records(data, split, 0)


@pytest.mark.data
def test_socratic_files_hold_the_plain_solutions(data_folder):
    plain, socratic = (
        {
            record.id: record
            for split in SPLITS
            for record in load_records(settings_of(source, data_folder / "gsm8k"), split, 0)[0]
        }
        for source in ("gsm8k", "gsm8k_socratic")
    )
    assert plain.keys() == socratic.keys() and len(plain) == 8792
    blank = 0
    for name, record in socratic.items():
        assert (record.question, record.answer) == (plain[name].question, plain[name].answer)
        lines = [line.strip() for line in plain[name].rationale.split("\n")]
        blank += lines.count("")
        written, closing = [line for line in lines if line], f"The answer is {record.answer}."
        # One solution says it itself; the chain has it once.
        assert [text for _, text in record.steps] in (written, [*written, closing])
    assert blank == 6  # subquestions without a step
    assert sum(len(record.steps) for record in socratic.values()) == 26724 + 4821 - 6


@pytest.mark.data
def test_strategyqa_steps_of_the_files(data_folder):
    data = settings_of("strategyqa", data_folder / "strategyqa")
    records = [record for split in SPLITS for record in load_records(data, split, 0)[0]]
    steps = [record.steps for record in records]
    assert steps.count(None) == 125  # two or more facts too few
    for record in records:
        if record.steps is not None:
            texts = [text for _, text in record.steps]
            assert " ".join(texts) in (record.rationale, f"{record.rationale} {record.answer}")


@pytest.mark.parametrize("source", ["file", "csv", "gsm8k", "palm_svamp", "svamp", "coin_flip"])
def test_an_empty_path_is_told(source):
    with pytest.raises(UserError, match=r"^data\.path is empty; set"):
        load_records(settings_of(source, ""), "train", 0)
