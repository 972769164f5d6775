"""Several seeds through the command line: one run each, killed and continued, then compared."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from asesjax.cli.main import main
from asesjax.config import load_config
from asesjax.core.files import locked, read_json, read_jsonl
from asesjax.evals.paired import holm, mean_interval, sign_flip
from asesjax.evals.report import is_right
from asesjax.experiment import open_run
from asesjax.run import load_method
from asesjax.seeds import one_by_one, same_but_for_seed

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
COMPARE = f"{ROOT / 'configs/compare.py'}:tiny"
METHODS = ("answer_only", "direct")


def command(workdir, *more, methods=METHODS):
    return ["run", "--config", COMPARE, "--workdir", str(workdir),
            f"--config.methods={','.join(methods)}", *more]  # fmt: skip


def direct_params(workdir):
    """Of every seed."""
    return [
        leaves(load_method(open_run(None, workdir / f"seed-{seed}"), "direct").params)
        for seed in read_json(workdir / "compare.json")["seeds"]
    ]


def leaves(params):
    return jax.tree.leaves(jax.tree.map(np.asarray, params))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("seeds") / "run"
    assert main(command(workdir)) == 0
    return workdir


def predictions(workdir, seed, method):
    rows = [row for _, row in read_jsonl(workdir / f"seed-{seed}/predictions/{method}/test.jsonl")]
    return [is_right(row, "numeric") for row in rows]


def test_comparison_is_of_the_predictions(finished):
    group = read_json(finished / "compare.json")
    assert (group["seeds"], group["questions"], group["against"]) == ([0, 1], [16, 16], "direct")
    assert "8 optimizer steps" in group["budget"]
    rows = {row["method"]: row for row in group["rows"]}
    assert tuple(rows) == METHODS and rows["direct"]["versus"] is None
    ps = []
    for name, row in rows.items():
        rights = [predictions(finished, seed, name) for seed in (0, 1)]
        assert row["accuracies"] == [np.mean(own) for own in rights]
        interval = row["interval"] and tuple(row["interval"])
        assert (row["mean"], row["sd"], interval) == mean_interval(row["accuracies"])
        files = [finished / f"seed-{seed}/roles/{name}/main/result.json" for seed in (0, 1)]
        assert row["train_tokens"] == np.mean([read_json(path)["tokens"] for path in files])
        if name != "direct":
            base = [predictions(finished, seed, "direct") for seed in (0, 1)]
            signs = np.array(rights, int).ravel() - np.array(base, int).ravel()
            assert row["versus"]["p_questions"] == sign_flip(signs.tolist())
            assert row["versus"]["better"] == (signs > 0).sum()
            ps.append(row["versus"]["p_questions"])
    found = [row["versus"]["p_questions_holm"] for row in rows.values() if row["versus"]]
    assert found == holm(ps)
    text = (finished / "compare.md").read_text()
    assert "matched: every method gets 8 optimizer steps" in text
    assert f"{rows['direct']['train_tokens']:,.0f}" in text


def test_seeds_are_runs_of_their_own(finished):
    first, second = direct_params(finished)
    assert not all(map(np.array_equal, first, second))
    assert [open_run(None, finished / f"seed-{s}").config.seed for s in (0, 1)] == [0, 1]
    assert tuple(open_run(None, finished).config.seeds) == (0, 1)
    alone = open_run(None, finished / "seed-1").config
    assert not alone.seeds and alone.methods == METHODS


def test_a_second_run_keeps_everything(finished, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("result.json")}
    assert main(["run", "--workdir", str(finished)]) == 0
    out = capsys.readouterr().out
    assert "starts" not in out and out.count("[report] finished before") == 2
    assert "p, questions" in out
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("result.json")}


def test_a_changed_configuration_is_refused_and_not_saved(finished, capsys):
    assert main(command(finished, "--config.train.steps=9")) == 2
    assert "train.steps: 8 -> 9" in capsys.readouterr().err
    assert read_json(finished / "config.json")["train.steps"] == 8


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["generate", "--method", "direct", "--question", "x"], "give one of its runs, such as"),
        (["train", "--method", "direct"], "is of several seeds, (0, 1)"),
        (["run", "--config.seeds=()"], "holds runs of several seeds"),
        (["run", "--config.seeds=1,1"], "seeds must be different numbers from 0 on, got (1, 1)"),
        (["run", "--config.seeds=1,2"], "compares seeds 0, 1, and seeds=1,2 leaves out 0"),
    ],
)
def test_a_folder_of_several_seeds_refuses_what_takes_one_run(finished, capsys, arguments, words):
    assert main([*arguments, "--workdir", str(finished)]) == 2
    assert words in capsys.readouterr().err


def test_two_runs_over_seeds_cannot_share_a_folder(finished, capsys):
    with locked(finished):
        assert main(["run", "--workdir", str(finished), "--config.seeds=0,1,2"]) == 2
    assert "another run is using workdir" in capsys.readouterr().err


def test_a_folder_of_one_seed_refuses_several(finished, capsys):
    assert main(["run", "--workdir", str(finished / "seed-0"), "--config.seeds=2,3"]) == 2
    assert "holds a run of one seed" in capsys.readouterr().err


def test_report_groups_runs_by_their_seed(finished, capsys, tmp_path):
    """A folder of seeds stands for its runs, and so do the runs alone."""
    one, two = finished / "seed-0", finished / "seed-1"
    assert one_by_one([finished, two]) == [one, two, two]
    assert same_but_for_seed([one, two, two]) == [[one, two], [two]]
    other = tmp_path / "other"
    shutil.copytree(two, other)
    fields = read_json(other / "config.json") | {"seed": 2, "train.learning_rate": 0.1}
    (other / "config.json").write_text(json.dumps(fields))
    assert same_but_for_seed([one, other, two]) == [[one, two], [other]]
    assert main(["report", "--workdir", str(one), str(two)]) == 0
    text = (finished / "compare.md").read_text()
    assert capsys.readouterr().out.endswith(text)
    assert main(["report", "--workdir", str(finished), str(other)]) == 0
    out = capsys.readouterr().out
    # One table of all; the run alone is compared over no seeds.
    assert text in out and out.count("paired t test over seeds") == 1
    table = [line.split("|") for line in out.splitlines() if "train.learning_rate" in line
             or line.startswith(f"| {tmp_path.parent}")]  # fmt: skip
    columns = [name.strip() for name in table[0]]
    at = [columns.index(name) for name in ("train.learning_rate", "method", "seeds")]
    rows = [tuple(line[i].strip() for i in at) for line in table[1:]]
    assert [(rate == "0.1", method, seeds) for rate, method, seeds in rows] == [
        (False, "answer_only", "2"), (False, "direct", "2"),
        (True, "answer_only", "1"), (True, "direct", "1"),
    ]  # fmt: skip
    assert main(["report", "--workdir", str(finished)]) == 0
    assert text in capsys.readouterr().out
    assert main(["report", "--workdir", str(finished), "--output", str(tmp_path)]) == 2
    assert "several workdirs; the table of one is compare.md in it" in capsys.readouterr().err


def test_seeds_may_be_added(finished, tmp_path):
    workdir = tmp_path / "more"
    workdir.mkdir()
    shutil.copytree(finished / "seed-1", workdir / "seed-1")
    before = (workdir / "seed-1/roles/direct/main/result.json").stat().st_mtime_ns
    assert main(command(workdir, "--config.seeds=1,2")) == 0
    group = read_json(workdir / "compare.json")
    assert group["seeds"] == [1, 2]
    assert (workdir / "seed-1/roles/direct/main/result.json").stat().st_mtime_ns == before
    single = read_json(finished / "compare.json")
    assert [r["accuracies"][0] for r in group["rows"]] == [
        r["accuracies"][1] for r in single["rows"]
    ]


def test_a_job_killed_between_seeds_resumes_to_the_same_results(finished, tmp_path):
    workdir = tmp_path / "killed"
    start = [sys.executable, "-m", "asesjax.cli.main", *command(workdir, methods=("direct",))]
    # As many devices as here: sums on another number of them have other last bits.
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    process = subprocess.Popen(start, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.time() + 600
    while not (workdir / "seed-1/data").exists():
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (workdir / "compare.json").exists()
    assert (workdir / "seed-0/report.json").exists()
    kept = (workdir / "seed-0/roles/direct/main/result.json").stat().st_mtime_ns
    assert main(["run", "--workdir", str(workdir)]) == 0
    assert (workdir / "seed-0/roles/direct/main/result.json").stat().st_mtime_ns == kept
    for one, other in zip(direct_params(finished), direct_params(workdir), strict=True):
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)
    [row] = read_json(workdir / "compare.json")["rows"]
    [same] = [r for r in read_json(finished / "compare.json")["rows"] if r["method"] == "direct"]
    for clocked in ("train_seconds", "before_seconds", "questions_per_second"):
        assert row.pop(clocked) >= 0 and same.pop(clocked) >= 0
    assert row == same and row["train_steps"] == 8


def test_step_by_step_is_trained_to_the_bits_of_its_halves(tmp_path):
    """With alpha 1 as answer_only; with alpha 0 as plain training on rationales alone."""
    for alpha, twin, more in (("1", "answer_only", ()),
                              ("0", "direct", ("--config.data.answer_template=",))):  # fmt: skip
        pair = (twin, "step_by_step")
        fields = ("--config.seeds=3", f"--config.step_by_step.alpha={alpha}", *more)
        assert main(command(tmp_path / alpha, *fields, methods=pair)) == 0
        run = open_run(None, tmp_path / alpha / "seed-3")
        own = [leaves(load_method(run, name).params) for name in pair]
        for one, two in zip(*own, strict=True):
            np.testing.assert_array_equal(one, two)
        chains = [
            [row["chain"] for _, row in read_jsonl(run / f"predictions/{name}/test.jsonl")]
            for name in pair
        ]
        assert chains[0] == chains[1]
        assert "A single seed says nothing" in (tmp_path / alpha / "compare.md").read_text()


def test_the_configuration_names_every_method():
    config = load_config(str(ROOT / "configs/compare.py"))
    assert config.seeds == (0, 1, 2) and "direct" in config.methods
    assert config.train.tokens and not config.train.steps  # the budget is of tokens
