"""Several processes on this machine run the command that launch/ starts on every worker."""

import re
import signal
import time

import pytest
from shared.processes import free_port, spawn

from asesjax.core.files import read_json
from asesjax.core.metric_log import read_metrics
from asesjax.training.checkpoint_files import steps

pytestmark = pytest.mark.long

STEPS = 60


# How a verb starts, with a configuration of one field.
JOIN = """
import os, signal, sys
from asesjax.core import processes
from asesjax.core.errors import UserError
how, n, i, seed = sys.argv[1:]
try:
    processes.start(how, *([] if how == "auto" else [int(n), int(i)]), timeout=60)
    if seed == "none":
        raise UserError("my own mistake")
    if seed == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    processes.check_same({"config.seed": int(seed), "workdir": "w"})
    import jax
    print("process", jax.process_index(), "of", jax.process_count())
except UserError as error:
    print(f"error: {error}")
    processes.leave(error.status)
    sys.exit(error.status)
"""


def start(workdir, n, *more):
    """Start the main job in n processes; ``more`` is the same for all."""
    port = free_port()
    command = [
        "-m", "asesjax.cli.main", "run", "--config", "configs/smoke.py",
        "--workdir", str(workdir), "--config.methods=direct", f"--config.train.steps={STEPS}",
        "--config.train.save_every_steps=5", "--config.train.evaluate_every_share=1.0",
        "--config.decode.curve_questions=2", *more,
        "--coordinator", f"localhost:{port}", "--processes", str(n), "--process",
    ]  # fmt: skip
    return spawn([[*command, str(i)] for i in range(n)])


def finish(processes):
    """Wait for all; return exit statuses and output."""
    try:
        output = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert not any("Traceback" in text for text in output), "\n-----\n".join(output)
    return [process.returncode for process in processes], output


def preempted_and_resumed(workdir, n, *more):
    role = workdir / "roles/direct/main"
    processes = start(workdir, n, *more)
    try:
        deadline = time.monotonic() + 200
        while not steps(role / "checkpoints") and time.monotonic() < deadline:
            assert all(process.poll() is None for process in processes), finish(processes)
            time.sleep(0.01)
        for process in processes:
            process.send_signal(signal.SIGTERM)
    finally:
        statuses, said = finish(processes)
    assert statuses == [42] * n, said
    stopped = {re.search(r"stopped by SIGTERM after step (\d+)", text)[1] for text in said}
    assert len(stopped) == 1
    step = int(stopped.pop())
    assert steps(role / "checkpoints")[-1] == step < STEPS

    statuses, said = finish(start(workdir, n, *more))
    assert statuses == [0] * n, said
    assert "[train-direct] resumes" in said[0] and "| direct " in said[0]
    assert read_json(workdir / "report.json")["rows"][0]["method"] == "direct"
    lines = [row["step"] for row in read_metrics(role / "metrics.jsonl", "train")]
    assert lines == list(range(2, STEPS + 1, 2))  # none twice, none missing
    return said


def test_two_processes_are_preempted_and_resume(tmp_path):
    said = preempted_and_resumed(tmp_path / "run", 2)
    assert not re.search(r"\[(data|train|decode|report)|records|\|", said[1])


def join(how, *seeds, **environment):
    n = len(seeds)
    return finish(spawn(
        [["-c", JOIN, how, str(n), str(i), str(seed)] for i, seed in enumerate(seeds)],
        **environment,
    ))  # fmt: skip


def test_processes_find_each_other_under_slurm():
    """With the variables that jax reads under launch/slurm/train.sbatch."""
    statuses, said = join(
        "auto", 7, 7, SLURM_JOB_ID="1", SLURM_STEP_NODELIST="localhost", SLURM_NTASKS="2",
        SLURM_PROCID=["0", "1"], SLURM_LOCALID=["0", "1"], JAX_COORDINATOR_PORT=str(free_port()),
    )  # fmt: skip
    assert statuses == [0, 0], said
    assert all(f"process {i} of 2" in text for i, text in enumerate(said))


@pytest.mark.parametrize("seeds, message", [
    ((7, 8), r"config.seed is 7 in process 0 \(.+\) and 8 in process 1"),
    ((7, "none"), r"process 1 \(.+\) has stopped; what it printed says why"),
    (("none", 7), r"process 0 did not confirm: it has stopped"),
    ((7, "killed"), r"process 1 \(.+\) was lost"),
    (("killed", 7), r"process 0 .*was lost"),
])  # fmt: skip
def test_processes_that_differ_stop_with_a_message(seeds, message):
    """At once, where jax would wait for minutes and end with a trace."""
    began = time.monotonic()
    statuses, said = join(f"localhost:{free_port()}", *seeds)
    assert time.monotonic() - began < 60  # jax would find out after 100 seconds
    lost = 3 if "killed" in seeds else 2
    for seed, status, text in zip(seeds, statuses, said, strict=True):
        assert status == (-signal.SIGKILL if seed == "killed" else lost)
        expected = {"none": "error: my own mistake", "killed": "^$"}.get(seed, message)
        assert re.search(expected, text), text


@pytest.mark.slow
def test_four_processes_with_sharded_parameters_are_preempted_and_resume(tmp_path):
    preempted_and_resumed(
        tmp_path / "run", 4, "--config.mesh.preset=fsdp", "--config.mesh.data=1",
        "--config.mesh.fsdp=4",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_lost_in_training_changes_no_bit(tmp_path, killed):
    def outcome(workdir):
        rows = read_metrics(workdir / "roles/direct/main/metrics.jsonl", "train")
        losses = [(row["step"], row["loss"]) for row in rows]
        return losses, (workdir / "predictions/direct/test.jsonl").read_bytes()

    assert finish(start(tmp_path / "whole", 2))[0] == [0, 0]
    workdir = tmp_path / "run"
    processes = start(workdir, 2)
    deadline = time.monotonic() + 400
    while not steps(workdir / "roles/direct/main/checkpoints") and time.monotonic() < deadline:
        time.sleep(0.01)
    processes[killed].kill()
    statuses, said = finish(processes)
    assert statuses[killed] == -signal.SIGKILL and statuses[1 - killed] == 3
    (line,) = re.findall("^asesjax: .*", said[1 - killed], re.MULTILINE)
    assert f"process {killed} (" in line and "was lost" in line
    assert finish(start(workdir, 2))[0] == [0, 0]
    assert outcome(workdir) == outcome(tmp_path / "whole")
