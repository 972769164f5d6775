"""Who ran what, where and with which versions: a line in ``run.jsonl`` for every start of a run."""

import datetime
import hashlib
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
            "sentencepiece", "libtpu")  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


def add_run_card(workdir: str | Path) -> None:
    """Append the facts of this start to ``workdir/run.jsonl``."""
    with open(Path(workdir) / "run.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(run_card()) + "\n")


def run_card() -> dict[str, Any]:
    """Collect time, command, versions, source state and devices."""
    import jax

    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "versions": _versions(),
        "source": _git_state(ROOT),
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
    }


def source_facts() -> dict[str, str | None]:
    """Collect what all processes of a run must have in common: versions, commit and source.

    Returns:
      ``python``, a line for each package, ``commit`` (None outside a checkout) and ``source``, a
      hash of this package's files, which also tells uncommitted changes apart.
    """
    state = _git_state(ROOT) or {}
    return {
        "python": platform.python_version(),
        **{f"package {name}": version for name, version in _versions().items()},
        "commit": state.get("commit"),
        "source": _source_hash(ROOT / "asesjax"),
    }


def _versions() -> dict[str, str | None]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _source_hash(folder: Path) -> str:
    sums = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        sums.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        sums.update(hashlib.sha256(path.read_bytes()).digest())
    return sums.hexdigest()[:16]


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the source tree and whether it was changed since; None outside a checkout."""
    git = ["git", "-C", str(folder)]
    try:
        if not (folder / ".git").exists():
            # launch/Containerfile copies the files alone, and says which commit they are of.
            commit = os.environ.get("ASESJAX_COMMIT")
            return {"commit": commit, "changed": False} if commit else None
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changes = subprocess.run(
            [*git, "status", "--porcelain"], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "changed": bool(changes)}
