"""A pod of processes on this machine, through the command that launch/ starts on every worker."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asesjax.core.files import read_json
from asesjax.core.metric_log import read_metrics
from asesjax.train.checkpoint_files import steps

ROOT = Path(__file__).resolve().parents[2]
STEPS = 60


def start(workdir, n, *more, slurm=False):
    """Start n processes with a device each; ``more`` is the same for all."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "asesjax.cli.main", "run", "--config", "configs/smoke.py",
        "--workdir", str(workdir), "--config.methods=direct", f"--config.train.steps={STEPS}",
        "--config.train.save_every_steps=5", "--config.train.evaluate_every_share=1.0",
        "--config.decode.curve_questions=2", *more,
    ]  # fmt: skip
    processes = []
    for i in range(n):
        environment = {
            **os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "1",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        }  # fmt: skip
        if slurm:
            joining = ["--coordinator", "auto"]
            environment |= {
                "SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "localhost",
                "SLURM_NTASKS": str(n), "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i),
                "JAX_COORDINATOR_PORT": str(port),
            }  # fmt: skip
        else:
            joining = ["--coordinator", f"localhost:{port}", "--processes", str(n), "--process",
                       str(i)]  # fmt: skip
        processes.append(subprocess.Popen(
            [*command, *joining], env=environment, cwd=ROOT, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        ))  # fmt: skip
    return processes


def finish(processes):
    """Wait for all; return exit statuses and what they said."""
    try:
        output = [process.communicate(timeout=300)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
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
    assert "[train-direct] goes on" in said[0] and "| direct " in said[0]
    assert read_json(workdir / "report.json")["rows"][0]["method"] == "direct"
    lines = [row["step"] for row in read_metrics(role / "metrics.jsonl", "train")]
    assert lines == list(range(2, STEPS + 1, 2))  # none twice, none missing
    return said


def test_two_processes_are_preempted_and_go_on(tmp_path):
    said = preempted_and_resumed(tmp_path / "run", 2)
    assert not re.search(r"\[(data|train|decode|report)|records|\|", said[1])


@pytest.mark.slow
def test_four_processes_that_share_out_the_parameters(tmp_path):
    preempted_and_resumed(
        tmp_path / "run", 4, "--config.mesh.preset=fsdp", "--config.mesh.data=1",
        "--config.mesh.fsdp=4",
    )  # fmt: skip
