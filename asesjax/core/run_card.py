"""What ran, where and with which versions: a line in ``run.jsonl`` for every start of a run."""

import contextlib
import datetime
import functools
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

from asesjax.core.files import naming

PACKAGES = ("asesjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy",
            "sentencepiece", "tokenizers", "libtpu")  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


def add_run_card(workdir: str | Path) -> None:
    """Append time, command, versions, source state and devices to ``workdir/run.jsonl``."""
    import jax

    card = {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "python": platform.python_version(),
        "versions": _versions(),
        "source": _git_state(ROOT),
        "machine": {"system": platform.platform(), "cpus": os.cpu_count()},
        "devices": [device.device_kind for device in jax.devices()],
        "processes": jax.process_count(),
    }
    path = Path(workdir) / "run.jsonl"
    with naming(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(card) + "\n")


def source_facts() -> dict[str, str | None]:
    """Collect what must be the same in all processes of a run: versions, commit (None outside a
    checkout) and a hash of this package's files, so that uncommitted changes count too.
    """
    sums, folder = hashlib.sha256(), ROOT / "asesjax"
    for path in sorted(folder.rglob("*.py")):
        sums.update(f"{path.relative_to(folder).as_posix()}\0".encode())
        sums.update(hashlib.sha256(path.read_bytes()).digest())
    return {
        "python": platform.python_version(),
        **{f"package {name}": version for name, version in _versions().items()},
        "commit": (_git_state(ROOT) or {}).get("commit"),
        "source": sums.hexdigest()[:16],
    }


def _versions() -> dict[str, str | None]:
    versions = dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _git_state(folder: Path) -> dict[str, Any] | None:
    if not (folder / ".git").exists():
        # launch/Containerfile copies only the files, and sets the commit they are of.
        commit = os.environ.get("ASESJAX_COMMIT")
        return {"commit": commit, "changed": False} if commit else None

    git = functools.partial(subprocess.check_output, cwd=folder, text=True,
                            stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        return {"commit": git(["git", "rev-parse", "HEAD"]).strip(),
                "changed": bool(git(["git", "status", "--porcelain"]))}  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
