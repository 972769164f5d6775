"""Who ran what, where and with which versions: a line in ``run.jsonl`` for every start of a run."""

import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("asesjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy",
            "sentencepiece")  # fmt: skip


def add_run_card(workdir: str | Path) -> None:
    """Append the facts of this start to ``workdir/run.jsonl``."""
    with open(Path(workdir) / "run.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(run_card()) + "\n")


def run_card() -> dict[str, Any]:
    """Collect time, command, versions, source state and devices."""
    import jax

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "versions": versions,
        "source": _git_state(Path(__file__).resolve().parents[2]),
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
    }


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the source tree and whether it was changed since; None outside a checkout."""
    git = ["git", "-C", str(folder)]
    try:
        if not (folder / ".git").exists():
            return None
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "changed": bool(changes)}
