"""Runs a launch script as its own process, against the fake gcloud, without real pauses.

``python driver.py SCRIPTS ROOT MODULE ARGS...``: SCRIPTS is the folder of the scripts, ROOT the
checkout that is packed for the workers. A command that hangs leaves a file that ends the waiting.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path


def without_pauses(shell):
    """Replace the clock of a shell by one that only counts."""
    clock = [0.0]

    def sleep(seconds):
        clock[0] += seconds

    def wait(process, seconds):
        mark = Path(os.environ["FAKE_CLOUD"]).with_suffix(".hangs")
        for _ in range(6000):
            try:
                return process.wait(0.01)
            except subprocess.TimeoutExpired:
                if mark.exists():
                    mark.unlink()
                    raise
        raise AssertionError("a command took a minute")

    shell.now, shell.sleep, shell.wait = lambda: clock[0], sleep, wait
    return shell


def main(scripts, root, module, *arguments):
    sys.path.insert(0, scripts)
    importlib.import_module("steps").ROOT = Path(root)
    shell = importlib.import_module("shell").Shell("--dry-run" in arguments)
    return importlib.import_module(module).main(arguments, without_pauses(shell))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
