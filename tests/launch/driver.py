"""Runs a launch script as a process of its own, against the fake gcloud, without real pauses.

``python driver.py SCRIPTS ROOT MODULE ARGS...``: SCRIPTS is the folder of the scripts, ROOT the
checkout that is packed for the workers. A command that hangs is found out by the mark it leaves.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])

import steps  # noqa: E402
from shell import Shell  # noqa: E402


class QuickShell(Shell):
    """Time passes without waiting."""

    time = 0.0

    def now(self):
        """Tell how much time would have passed."""
        return self.time

    def sleep(self, seconds):
        """Let it pass."""
        self.time += seconds

    def wait(self, process, seconds):
        """Wait for real, but not for what hangs."""
        mark = Path(os.environ["FAKE_CLOUD"]).with_suffix(".hangs")
        for _ in range(6000):
            try:
                return process.wait(0.01)
            except subprocess.TimeoutExpired:
                if mark.exists():
                    mark.unlink()
                    raise
        raise AssertionError("a command took a minute")


steps.ROOT = Path(sys.argv[2])
module = importlib.import_module(sys.argv[3])
arguments = sys.argv[4:]
sys.exit(module.main(arguments, QuickShell("--dry-run" in arguments)))
