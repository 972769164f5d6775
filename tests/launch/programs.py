"""Fake programs for PATH, and a copy of the launch scripts in a git checkout of their own."""

import os
import shutil
import subprocess
from pathlib import Path

LAUNCH = Path(__file__).resolve().parents[2] / "launch"


def write_program(folder, name, body, shebang="#!/usr/bin/env bash"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{shebang}\n{body}\n")
    (folder / name).chmod(0o755)


def copy_launch(root):
    """Copy launch/ with an environment.sh that only prints what it would install."""
    shutil.copytree(LAUNCH, root / "launch", ignore=shutil.ignore_patterns("__py*"))
    (root / "launch/environment.sh").write_text(
        'make_environment() { echo "environment $1${PYTHON:+ with $PYTHON}"; }\n'
    )


def commit(root, environment):
    """Make ``root`` a git checkout with one commit of everything in it."""
    environment = {**environment, "GIT_CONFIG_GLOBAL": os.devnull}
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
        user = ["-c", "user.name=x", "-c", "user.email=x@x"]
        subprocess.run(["git", *user, *command], cwd=root, check=True, env=environment)
