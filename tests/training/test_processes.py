"""Several processes train like one, resume each other's checkpoints, and stop together."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from shared.processes import ROOT, ended, free_port, spawn

from asesjax.core.files import read_json
from asesjax.sharding.mesh import make_mesh
from asesjax.training import checkpoint

pytestmark = pytest.mark.long

SCRIPT = Path(__file__).with_name("tiny.py")
STEPS = 40
FIELDS = {"steps": STEPS, "save_every_steps": 7}


def start(command, n, *fields):
    """Start n processes that share 8 devices; ``command`` takes the number of each and a port."""
    port = free_port()
    return spawn([[*command(i, port), *fields] for i in range(n)], 8 // n)


def tiny_role(work, n, **fields):
    fields = {"n_steps": STEPS, **FIELDS, **fields, "processes": n}
    given = [f"{name}={value}" for name, value in fields.items()]
    return lambda i, port: [
        str(SCRIPT), str(work), f"{work}.npz", *given, f"process={i}", f"port={port}"
    ]  # fmt: skip


def finish(processes, status=0):
    """Wait for all; return what they said."""
    statuses, output = ended(processes)
    for one, text in zip(statuses, output, strict=True):
        assert one == status, "\n-----\n".join(output)
        assert status or "Traceback" not in text, text
    return output


def in_one(tiny, work, **fields):
    return tiny.run(work, tiny.config(**FIELDS | fields), n_steps=STEPS, mesh=make_mesh())


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """An uninterrupted run in one process with 8 devices: its folder and its parameters."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, tiny.leaves(in_one(tiny, folder).params)


def same(tiny, work, got, whole):
    """Sums over devices are taken in another order between processes, so not to the last bit."""
    folder, want = whole
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=5e-6, err_msg=name)
    counts = ("step", "kind", "tokens", "examples", "source_tokens", "target_tokens", "skipped")
    for row, other in zip(tiny.lines(work), tiny.lines(folder), strict=True):
        assert [row.get(name) for name in counts] == [other.get(name) for name in counts]
        if "loss" in row:
            assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_two_processes_stop_together_and_one_resumes(tiny, whole, tmp_path):
    work = tmp_path / "role"
    two = start(tiny_role(work, 2), 2)
    deadline = time.monotonic() + 200
    while not checkpoint.steps(work / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.01)
    two[1].send_signal(signal.SIGTERM)
    told = [re.search(r"stopped by SIGTERM after step (\d+)", text) for text in finish(two, 1)]
    assert all(told) and told[0][1] == told[1][1]
    assert checkpoint.steps(work / "checkpoints")[-1] == int(told[0][1]) < STEPS

    result = in_one(tiny, work)
    same(tiny, work, tiny.leaves(result.params), whole)


@pytest.mark.slow
def test_one_process_stops_and_two_resume(tiny, whole, tmp_path):
    work = tmp_path / "role"
    with tiny.stopped(16):
        in_one(tiny, work)
    cursor = checkpoint.read_cursor(work)
    first, second = finish(start(tiny_role(work, 2), 2))
    same(tiny, work, dict(np.load(f"{work}.npz")), whole)
    # Only process 0 says and writes anything; and the totals of the first process carried over.
    assert "[role] step 40" in first and "[role]" not in second
    boards = list((work / "tensorboard").iterdir())
    assert len(boards) == 2
    assert cursor["step"] == 14 and cursor["totals"]["examples"] == 14 * 8
    assert checkpoint.read_cursor(work)["totals"]["examples"] == STEPS * 8


@pytest.mark.slow
def test_four_processes_that_split_the_parameters(tiny, whole, tmp_path):
    work = tmp_path / "role"
    finish(start(tiny_role(work, 4, fsdp=8, stop=30), 4), 1)
    finish(start(tiny_role(work, 4, fsdp=8), 4))
    same(tiny, work, dict(np.load(f"{work}.npz")), whole)
    finish(start(tiny_role(work, 2), 2))  # finished: both restore it, on another mesh
    same(tiny, work, dict(np.load(f"{work}.npz")), whole)


def asesjax_run(workdir, *more):
    return lambda i, port: [
        "-m", "asesjax.cli.main", "run", "--config", "configs/smoke.py", "--workdir",
        str(workdir), "--config.methods=direct,usm", "--config.train.steps=12",
        "--config.decode.curve_questions=2", "--config.train.keep_best=answer_accuracy",
        "--config.train.patience=1", "--coordinator", f"localhost:{port}",
        "--processes", "2", "--process", str(i), *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_the_whole_job_in_two_processes(tmp_path):
    workdir = tmp_path / "run"
    first, second = finish(start(asesjax_run(workdir), 2))
    assert "| usm " in first and "[train-usm] done" in first
    assert not re.search(r"\[(data|train|decode|report)|records|questions|\|", second), second
    assert read_json(workdir / "report.json")["rows"][1]["method"] == "usm"

    first, second = finish(start(asesjax_run(workdir, "--config.seed=7"), 2), 2)
    assert "holds results of another configuration" in first
    assert "process 0 stopped" in second

    alone = [sys.executable, "-m", "asesjax.cli.main", "run", "--workdir", str(workdir)]
    kept = subprocess.run(alone, cwd=ROOT, capture_output=True, text=True, check=True)
    assert kept.stdout.count("kept") == len(list((workdir / "stages").iterdir()))
