"""The whole job through the command line: stages, continuing, refusing, killing, other data."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from shared.environment import xla_flags

from asesjax.cli.main import main
from asesjax.core.files import read_json, read_jsonl, write_json
from asesjax.data.sources import read_records
from asesjax.evals.runner import answer_questions
from asesjax.experiment import open_run
from asesjax.jobs.decoding import decode_method
from asesjax.methods.method import make_method
from asesjax.run import load_method, load_role, own_mesh
from asesjax.segmentation.score import SCORES

ROOT = Path(__file__).resolve().parents[2]
SMOKE = str(ROOT / "configs/smoke.py")
FIELDS = {
    "method", "accuracy", "chain_accuracy", "bleu", "segments_per_chain",
    "questions_per_second", "train_seconds", "train_tokens", "seed",
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("smoke") / "run"
    assert main(["run", "--config", SMOKE, "--workdir", str(workdir)]) == 0
    return workdir


def rows(workdir):
    return {row["method"]: row for row in read_json(workdir / "report.json")["rows"]}


def test_report_holds_what_the_readme_promises(finished, capsys):
    report = read_json(finished / "report.json")
    assert [row["method"] for row in report["rows"]] == ["answer_only", "direct", "dsm", "usm"]
    for row in report["rows"]:
        assert row.keys() >= FIELDS
        assert 0 <= row["accuracy_interval"][0] <= row["accuracy"] <= row["accuracy_interval"][1]
        if row["method"] == "answer_only":  # it writes no rationale
            assert row["first_wrong"] is row["chain_accuracy"] is None
        else:
            assert sum(row["first_wrong"].values()) == row["questions"] == 16
        assert [point["steps"] for point in row["curve"]][-1][0] == (
            row["train_steps"] // (2 if row["method"] == "dsm" else 1)
        )
    found = report["segmentation"]
    assert (found["strategy"], found["beta"]) == ("entropy", 1.0)
    assert list(found["agreement"]) == list(SCORES)
    assert found["agreement"]["location"]["macro_f1"] == 1.0
    f1 = {"segm. F1": found["agreement"]["entropy"]["macro_f1"]}
    assert [row["columns"] for row in report["rows"]] == [{}, {}, f1, f1]
    for figure in report["figures"]:
        assert (finished / figure).read_bytes().startswith(b"\x89PNG")
    text = (finished / "report.md").read_text()
    assert "| usm " in text and text.endswith("as a page: report.html\n")
    page = (finished / "report.html").read_text()
    assert page.count("<article>") == 16 and page.count("data:image/png") == len(report["figures"])
    assert "report.html" in read_json(finished / "stages/report.json")["files"]


def test_the_report_is_made_from_the_predictions(finished, capsys):
    path = finished / "predictions/usm/test.jsonl"
    assert main(["evaluate", "--predictions", str(path)]) == 0
    again = json.loads(capsys.readouterr().out)
    row = rows(finished)["usm"]
    assert {name: row[name] for name in again} == again
    ids = [record["id"] for _, record in read_jsonl(finished / "data/test.jsonl")]
    assert [prediction["id"] for _, prediction in read_jsonl(path)] == ids


def test_a_second_run_keeps_everything(finished, capsys):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.json*")}
    assert main(["run", "--workdir", str(finished)]) == 0
    out = capsys.readouterr().out
    assert out.count("kept") == len(list((finished / "stages").iterdir()))
    assert "| usm " in out
    changed = {p.name for p, t in before.items() if p.stat().st_mtime_ns != t}
    assert changed <= {"config.json", "run.jsonl"}


def test_a_changed_configuration_is_refused(finished, capsys):
    command = ["run", "--config", SMOKE, "--workdir", str(finished)]
    assert main([*command, "--config.segment.beta=1.2"]) == 2
    error = capsys.readouterr().err
    assert "stage segment: segment.beta: 1.0 -> 1.2" in error
    assert "stage train-usm: result of stage segment" in error
    assert "train-direct" not in error and "--redo" in error
    assert read_json(finished / "config.json")["segment.beta"] == 1.0


def test_options_of_a_row_change_its_training_alone(finished, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    command = ["run", "--workdir", str(workdir), "--config.variants.usm.train.learning_rate=0.01"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "stage train-usm: train.learning_rate: 0.05 -> 0.01\n" in error
    named = re.findall("^  stage ([^:]*):", error, re.MULTILINE)
    assert named == ["train-usm", "decode-usm", "report"]
    assert main([*command, "--redo"]) == 0
    run = open_run(None, workdir)
    assert (run.config.variants["usm"], run.config.train.learning_rate) == (
        {"train.learning_rate": 0.01}, 0.05
    )  # fmt: skip
    for name in run.config.methods:
        params = [jax.tree.leaves(load_method(open_run(None, folder), name).params)
                  for folder in (finished, workdir)]  # fmt: skip
        assert all(map(np.array_equal, *params)) == (name != "usm")


def test_a_row_with_a_model_of_its_own_is_scored_by_the_runs_model(finished, tmp_path):
    workdir = tmp_path / "run"
    fields = ["--config.methods=direct,usm", "--config.variants.usm.model.d_model=32",
              "--config.variants.usm.train.source_buckets=100"]  # fmt: skip
    command = ["run", "--config", SMOKE, "--workdir", str(workdir), *fields]
    assert main(command) == 0
    run = open_run(None, workdir)
    widths = [load_method(run, name).model.d_model for name in ("direct", "usm")]
    assert widths == [16, 32]
    assert (workdir / "scores/train.jsonl").read_bytes() == (
        finished / "scores/train.jsonl"
    ).read_bytes()


def test_options_of_every_row_are_checked_before_the_first_stage(tmp_path, capsys):
    command = ["run", "--config", SMOKE, "--workdir", str(tmp_path / "run"),
               "--config.methods=direct,late", "--config.variants.late.method=direct"]  # fmt: skip
    for field in ("train.tokens=100", "train.microbatches=3", "model.init_from=nowhere"):
        assert main([*command, f"--config.variants.late.{field}"]) == 2
        assert not (tmp_path / "run/stages").exists()
    assert "nowhere" in capsys.readouterr().err


def test_the_best_checkpoint_is_selected_and_a_role_may_have_stopped_early(
    finished, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    run = open_run(None, workdir)
    dsm = make_method("dsm", run.config)
    place = workdir / "roles/dsm/es/result.json"
    result = read_json(place)
    first, last = result["kept_steps"][0], result["kept_steps"][-1]
    assert result["best_step"] == last > first
    write_json(place, result | {"kept_steps": [first], "best_step": first})
    shutil.rmtree(workdir / "stages")  # which would know that this is not what training wrote

    selected = jax.tree.leaves(load_role(run, dsm, "es"))
    for step, equal in ((first, True), (last, False)):
        there = jax.tree.leaves(load_role(run, dsm, "es", step))
        assert equal == all(map(np.array_equal, selected, there))

    decode_method(run, dsm)
    curve = read_json(workdir / "predictions/dsm/curve.json", list)
    assert [point["steps"] for point in curve] == [
        [first, own] for own in read_json(workdir / "roles/dsm/as/result.json")["kept_steps"]
    ]
    metrics = [row for _, row in read_jsonl(workdir / "roles/usm/main/metrics.jsonl")]
    assert {"validation_loss_as", "validation_loss_answer"} <= metrics[-1].keys()


def test_generate_answers_questions(finished, capsys, tmp_path):
    command = ["generate", "--workdir", str(finished), "--method", "dsm"]
    question = "Amy has 5 apples. Ben has 3 more apples than Amy. How many apples does Ben have?"
    assert main([*command, "--question", question]) == 0
    assert "answer:" in capsys.readouterr().out
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"question": question}) + "\n" for _ in range(3)))
    target = tmp_path / "out.jsonl"
    assert main([*command, "--input", str(source), "--output", str(target)]) == 0
    answers = [row["chain"] for _, row in read_jsonl(target)]
    assert len(answers) == 3 and len(set(answers)) == 1
    assert main([*command, "--input", str(source), "--output", str(target)]) == 0
    assert "is complete: 3 answers" in capsys.readouterr().out


@pytest.mark.parametrize(
    "extra, words",
    [
        (["--method", "ussm", "--question", "x"], "did you mean 'usm'"),
        (["--method", "usm"], "--question or --input"),
        (["--method", "usm", "--question", "apples " * 600], "decode.question_buckets"),
        (["--method", "usm", "--question", "x", "--config.train.steps=1"], "decode.* only"),
    ],
)
def test_generate_explains_mistakes(finished, capsys, extra, words):
    assert main(["generate", "--workdir", str(finished), *extra]) == 2
    assert words in capsys.readouterr().err


def test_training_starts_from_another_checkpoint(finished, tmp_path, capsys):
    source = finished / "roles/direct/main"
    train = ["train", "--config", SMOKE, "--method", "direct", f"--config.model.init_from={source}"]
    wide = [*train, "--workdir", str(tmp_path / "wide"), "--config.model.d_model=32"]
    assert main(wide) == 2
    error = capsys.readouterr().err
    assert str(source) in error and "d_model is 32 here and 16 there" in error

    still = [*train, "--workdir", str(tmp_path / "same"), "--config.train.steps=1"]
    assert main([*still, "--config.train.learning_rate=1e-9"]) == 0
    for one, other in zip(final_params(finished), final_params(tmp_path / "same"), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def command(workdir, *more):
    return [
        sys.executable, "-m", "asesjax.cli.main", "run", "--config", SMOKE, "--workdir",
        str(workdir), "--config.methods=direct", "--config.train.steps=60",
        "--config.train.save_every_steps=7", "--config.decode.curve_questions=2", *more,
    ]  # fmt: skip


def environment():
    # One device is quicker to compile for than the tests' eight.
    return os.environ | {"XLA_FLAGS": xla_flags(1), "PYTHONWARNINGS": "error"}


def test_decoding_in_bfloat16_takes_half_the_memory_and_writes_the_same(finished):
    run = open_run(None, finished, {"model.dtype": "bfloat16"})
    records = read_records(finished / "data/test.jsonl")
    half = load_method(run, "dsm")
    whole = {role: load_role(run, half.method, role) for role in half.method.roles}
    chains = []
    for params in (half.params, whole):
        using = half._replace(params=params)
        answers, _ = answer_questions(using, records, own_mesh(run))
        chains.append([answer.ids for one in answers for answer in one])
    for one, other in zip(*chains, strict=True):
        np.testing.assert_array_equal(one, other)
    size = lambda params: sum(x.nbytes for x in jax.tree.leaves(params))  # noqa: E731
    assert size(half.params) < 0.52 * size(whole)


def final_params(workdir):
    params = load_method(open_run(None, workdir), "direct").params
    return jax.tree.leaves(jax.tree.map(np.asarray, params))


@pytest.mark.long
def test_a_run_killed_in_training_resumes_to_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(command(whole), check=True, env=environment(), stdout=subprocess.DEVNULL)

    process = subprocess.Popen(command(killed), env=environment(), stdout=subprocess.DEVNULL)
    metrics = killed / "roles/direct/main/metrics.jsonl"
    deadline = time.time() + 300
    checkpoints = metrics.parent / "checkpoints"
    while not list(checkpoints.glob("step_[1-9]*")):
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "report.json").exists()
    again = subprocess.run(
        command(killed), check=True, env=environment(), capture_output=True, text=True
    )
    assert "[data] finished before" in again.stdout and "[train-direct] resumes" in again.stdout

    for one, other in zip(final_params(whole), final_params(killed), strict=True):
        np.testing.assert_array_equal(one, other)
    own = [[r["step"] for _, r in read_jsonl(w / "roles/direct/main/metrics.jsonl")
            if r["kind"] == "train"] for w in (whole, killed)]  # fmt: skip
    assert own[0] == own[1] == sorted(set(own[0]))
    chains = [[r["chain"] for _, r in read_jsonl(w / "predictions/direct/test.jsonl")]
              for w in (whole, killed)]  # fmt: skip
    assert chains[0] == chains[1]


@pytest.mark.long
@pytest.mark.data
@pytest.mark.parametrize(
    "variant", ["tiny,paper", pytest.param("tiny,code", marks=pytest.mark.slow)]
)
def test_gsm8k_goes_through_every_stage(tmp_path, data_folder, variant):
    workdir = tmp_path / "gsm8k"
    small = {
        "data.path": data_folder / "gsm8k", "data.n_train": 48, "data.n_validation": 8,
        "data.n_test": 8, "train.tokens": 0, "train.steps": 4, "train.batch_size": 8,
        "model.d_model": 16, "model.d_ff": 16, "model.n_heads": 2, "model.d_kv": 8,
        "decode.batch_size": 8,
        "decode.context_lengths": "()", "decode.curve_questions": 8, "decode.max_chain_tokens": 24,
        "decode.max_segment_tokens": 8, "decode.max_rounds": 4, "methods": "direct,dsm,usm",
        "train.source_buckets": "(512,)", "train.target_buckets": "(384,)",
    }  # fmt: skip
    overrides = [f"--config.{name}={value}" for name, value in small.items()]
    spec = f"{ROOT / 'configs/gsm8k.py'}:{variant}"
    assert main(["run", "--config", spec, "--workdir", str(workdir), *overrides]) == 0
    assert set(rows(workdir)) == {"direct", "dsm", "usm"}
    for row in rows(workdir).values():
        assert row["questions"] == 8 and row["chain_accuracy"] is None
