"""SIGKILL and SIGTERM at any moment: the same command then ends with the same bits and lines."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from shared.environment import xla_flags

from asesjax.core.metric_log import read_metrics
from asesjax.training import checkpoint

pytestmark = pytest.mark.long

SCRIPT = Path(__file__).with_name("tiny.py")
# Saves most of the time, and logs in windows that saves cut.
FIELDS = ("n_steps=40", "steps=40", "save_every_steps=2", "log_every_steps=3")


def start(workdir, out):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags(1)}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(workdir), str(out), *FIELDS], env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n", process.communicate()[0]
    return process


def finish(process, out):
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "Traceback" not in output
    return dict(np.load(out))


def same(tiny, work, got, whole):
    folder, want = whole
    assert got.keys() == want.keys()
    for name, value in want.items():
        np.testing.assert_array_equal(got[name], value, err_msg=name)
    assert tiny.lines(work) == tiny.lines(folder)
    times = [row["seconds"] for row in read_metrics(work / "metrics.jsonl")]
    assert times == sorted(times)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run in a process of its own: its folder and its parameters."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder / "role", folder / "out.npz")
    return folder / "role", finish(process, folder / "out.npz")


def unfinished(work):
    """Folders of saves that have not come to their end, with their times."""
    folders = (work / "checkpoints").glob("*orbax-checkpoint-tmp*")
    return {(folder.name, folder.stat().st_ctime_ns) for folder in folders}


def is_saving(work, leftovers):
    try:
        return bool(unfinished(work) - leftovers)
    except FileNotFoundError:  # renamed just now
        return False


@pytest.mark.parametrize(
    "wanted, seed", [(6, 1), pytest.param(50, 2, marks=pytest.mark.slow)], ids=["six", "fifty"]
)
def test_kill_9_at_any_moment_changes_no_bit(tiny, whole, tmp_path, wanted, seed):
    """Most kills come soon after the first save begins, some in the start of the process."""
    draw, kills, in_saves, resumed, rounds = random.Random(seed), 0, 0, [], 0
    while kills < wanted:
        rounds += 1
        work, out = tmp_path / str(rounds) / "role", tmp_path / str(rounds) / "out.npz"
        work.parent.mkdir()
        # So many a round that each gets some way; then it is let through to the end.
        for _ in range(min(10, wanted - kills)):
            leftovers = unfinished(work)
            process = start(work, out)
            if kills % 5 == 4:
                time.sleep(draw.uniform(0.0, 4.0))
            else:
                while process.poll() is None and not is_saving(work, leftovers):
                    time.sleep(0.001)
                time.sleep(draw.uniform(0.0, 1.5))
            process.send_signal(signal.SIGKILL)
            code = process.wait(60)
            process.stdout.close()
            if code == 0:
                break  # too late: it had finished
            assert code == -signal.SIGKILL
            kills += 1
            in_saves += is_saving(work, leftovers)
            resumed += checkpoint.steps(work / "checkpoints")[-1:]
        same(tiny, work, finish(start(work, out), out), whole)
    print(json.dumps({"kills": kills, "in_saves": in_saves, "resumed": resumed}))
    assert in_saves >= wanted // 4 and len(resumed) >= wanted // 2


def test_sigterm_saves_and_stops_and_the_run_resumes(tiny, whole, tmp_path):
    work, out = tmp_path / "role", tmp_path / "out.npz"
    process = start(work, out)
    deadline = time.monotonic() + 120
    while not checkpoint.steps(work / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    found = re.search(r"Preempted: role role stopped by SIGTERM after step (\d+) of 40", output)
    assert found and not out.exists(), output
    assert checkpoint.steps(work / "checkpoints")[-1] == int(found[1]) >= 2
    same(tiny, work, finish(start(work, out), out), whole)
