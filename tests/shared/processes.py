"""Several processes of one run on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from shared.environment import xla_flags

ROOT = Path(__file__).resolve().parents[2]


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def spawn(commands, devices=1, **environment):
    """Start a Python process for each command, with so many devices each; a list in
    ``environment`` has a value for each.
    """
    own = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "1", "XLA_FLAGS": xla_flags(devices)}
    return [
        subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env={
                **os.environ, **own,
                **{k: v[i] if isinstance(v, list) else v for k, v in environment.items()},
            },
        )
        for i, command in enumerate(commands)
    ]  # fmt: skip


def run_in(n, *arguments, devices=8, verb="run"):
    """Start ``asesjax run`` in n processes, which have so many devices in all."""
    command = ["-m", "asesjax.cli.main", verb, *map(str, arguments)]
    if n == 1:
        return spawn([command], devices)
    several = ["--coordinator", f"localhost:{free_port()}", "--processes", str(n), "--process"]
    return spawn([[*command, *several, str(i)] for i in range(n)], devices // n)


def ended(processes, seconds=400):
    """Wait for all; return their exit statuses, and what they said."""
    try:
        said = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said
