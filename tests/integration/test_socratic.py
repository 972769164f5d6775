"""Socratic CoT through the command line: embedded data, rows with steps, real data."""

import json
from pathlib import Path

import pytest

from asesjax.cli.main import main
from asesjax.config import load_config
from asesjax.core.errors import UserError
from asesjax.core.files import read_json, read_jsonl
from asesjax.experiment import make_stages
from asesjax.run import Run

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
SMOKE, CONFIG = str(ROOT / "configs/smoke.py"), str(ROOT / "configs/socratic.py")
TINY = {
    "train.tokens": 0, "train.steps": 4, "train.batch_size": 8, "train.evaluate_every_share": 1.0,
    "decode.batch_size": 8,
    "decode.context_lengths": "()", "decode.max_rounds": 7, "decode.max_segment_tokens": 8,
    "decode.max_chain_tokens": 24, "decode.curve_questions": 8,
}  # fmt: skip
QUESTION = "Ann has 3 pens. Bob has 2 more. How many pens does Bob have?"


def command(verb, workdir, spec="", **fields):
    named = {name.replace("__", "."): value for name, value in fields.items()}
    overrides = [f"--config.{name}={value}" for name, value in (TINY | named).items()]
    return [verb, *(["--config", spec] if spec else []), "--workdir", str(workdir), *overrides]


@pytest.fixture(scope="module")
def guided(tmp_path_factory):
    """Both methods on the embedded task, with the operators of the gold steps."""
    workdir = tmp_path_factory.mktemp("guided") / "run"
    fields = {"methods": "socratic,socratic_unified", "socratic.guidance": "operators"}
    assert main(command("run", workdir, SMOKE, **fields)) == 0
    return workdir


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Rows of a JSONL file with steps; plans and their guides are written."""
    folder = tmp_path_factory.mktemp("planned")
    for split, first in (("train", 1), ("validation", 5), ("test", 7)):
        with open(folder / f"{split}.jsonl", "w") as file:
            for i in range(first, first + 4):
                for j in range(4):
                    steps = [[f"How many more than {i}?", f"{i} + {j} = {i + j}."],
                             ["And twice that?", f"2 * {i + j} = {2 * (i + j)}."]]  # fmt: skip
                    row = {"question": f"There are {i} and {j} more {split}. What is twice that?",
                           "rationale": " ".join(text for _, text in steps),
                           "answer": 2 * (i + j), "steps": steps}  # fmt: skip
                    file.write(json.dumps(row) + "\n")
    fields = {
        "methods": "socratic", "data.source": "jsonl", "data.path": folder / "{split}.jsonl",
        "socratic.plan": "whole", "socratic.guidance": "equations",
        "socratic.guide_source": "planner", "vocab.size": 120,
    }  # fmt: skip
    assert main(command("run", folder / "run", SMOKE, **fields)) == 0
    return folder / "run"


def test_both_methods_are_in_the_report(guided):
    report = read_json(guided / "report.json")
    assert [row["method"] for row in report["rows"]] == ["socratic", "socratic_unified"]
    for row in report["rows"]:
        assert row["questions"] == 16 == sum(row["first_wrong"].values())
    assert set(report["metrics_files"]) == {
        "socratic/decomposer", "socratic/solver", "socratic_unified/main",
    }  # fmt: skip
    metrics = [row for _, row in read_jsonl(guided / "roles/socratic_unified/main/metrics.jsonl")]
    kinds = ("question", "end", "solution", "answer")
    assert {f"validation_loss_{kind}" for kind in kinds} <= metrics[-1].keys()


def test_predictions_name_their_segments(guided):
    found = [row for _, row in read_jsonl(guided / "predictions/socratic/test.jsonl")]
    labels = [[part["label"] for part in row["segments"]] for row in found]
    assert any(len(own) > 1 for own in labels)
    assert all(own == (["question", "answer"] * 4)[: len(own)] for own in labels)
    records = {r["id"]: r for _, r in read_jsonl(guided / "data/test.jsonl")}
    for row in found:
        record = records[row["id"]]
        asked = [question for question, _ in record["steps"]]
        assert [text.strip() for text, label in row["gold"] if label is None] == asked
        assert "".join(text for text, _ in row["gold"]) == row["reference_chain"]
        assert row["reference_chain"].endswith(f"The answer is {row['reference_answer']}.")


def test_a_gold_guide_needs_a_solved_question(guided, capsys):
    ask = ["generate", "--workdir", str(guided), "--method", "socratic", "--question", QUESTION]
    assert main(ask) == 2
    assert "socratic.guide_source=planner" in capsys.readouterr().err


@pytest.mark.slow
def test_the_planner_is_a_role(planned, capsys, tmp_path):
    assert {path.name for path in (planned / "roles/socratic").iterdir()} == {
        "decomposer", "solver", "planner",
    }  # fmt: skip
    steps = read_json(planned / "roles/socratic/planner/result.json")["steps"]
    (row,) = read_json(planned / "report.json")["rows"]
    assert row["train_steps"] == 3 * steps
    command = ["generate", "--workdir", str(planned), "--method", "socratic"]
    assert main([*command, "--question", QUESTION]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1].startswith("answer:")
    assert all(line.startswith(("question | ", "answer | ")) for line in shown[:-1])
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"question": QUESTION}) + "\n" for _ in range(8)))
    assert main([*command, "--input", str(source), "--output", str(target)]) == 0
    assert len({row["chain"] for _, row in read_jsonl(target)}) == 1
    source.write_text(json.dumps({"question": QUESTION, "prefix": "How"}) + "\n")
    assert main([*command, "--input", str(source), "--output", f"{target}.2"]) == 2
    assert "no place for a prefix" in capsys.readouterr().err


def test_a_run_without_steps_is_refused(tmp_path, capsys):
    fields = {"methods": "socratic", "data.source": "synthetic_reports"}
    assert main(command("run", tmp_path, SMOKE, **fields)) == 2
    assert "has no steps" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["gsm8k,unified,whole,equations,planner", "strategyqa,forget",
                                   "operators,unified", "whole"])  # fmt: skip
def test_arguments_of_the_config(words, tmp_path):
    config = load_config(f"{CONFIG}:{words}")
    s = config.socratic
    assert (s.plan == "whole") == ("whole" in words) and s.history == ("forget" not in words)
    assert s.guidance in words or s.guidance == "none"
    names = [stage.name for stage in make_stages(Run(config, tmp_path))]
    assert ("train-socratic_unified" in names) == ("unified" in words)
    with pytest.raises(UserError, match="operators or equations, not both"):
        load_config(f"{CONFIG}:operators,equations")


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("source, words, width", [("gsm8k", "gsm8k,equations", 640),
                                                  ("strategyqa", "strategyqa,unified", 384)])
def test_real_data_go_through_every_stage(tmp_path, data_folder, source, words, width):
    small = {
        "data.path": data_folder / source, "data.n_train": 40, "data.n_validation": 8,
        "data.n_test": 8, "model.d_model": 16, "model.d_ff": 16, "model.n_heads": 2,
        "model.d_kv": 8, "train.source_buckets": f"({width},)", "train.target_buckets": "(512,)",
    }  # fmt: skip
    assert main(command("run", tmp_path, f"{CONFIG}:{words}", **small)) == 0
    direct, own = read_json(tmp_path / "report.json")["rows"]
    assert own["method"].startswith("socratic") and own["questions"] == direct["questions"] == 8
    assert own["chain_accuracy"] is None
