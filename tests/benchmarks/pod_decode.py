"""What each of several processes does of the test questions of a finished run.

    python tests/benchmarks/pod_decode.py --workdir runs/quickstart --method usm

Decodes a copy with 1, 2 and 4 --processes, which have eight virtual devices in all and share this
machine's cores, so that their times say little. Prints a JSON line for each: the questions and
decoder steps of each process, and which share of its slots' steps wrote a token.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path


def decode(workdir, method, n):
    """Decode the test questions of a method anew in n processes; return its decode.json."""
    (workdir / f"stages/decode-{method}.json").unlink()
    (workdir / "stages/report.json").unlink(missing_ok=True)
    shutil.rmtree(workdir / f"predictions/{method}")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = f"--xla_force_host_platform_device_count={8 // n}"
    several = ["--coordinator", f"localhost:{port}", "--processes", str(n), "--process"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "asesjax.cli.main", "run", "--workdir", str(workdir),
             *([*several, str(i)] if n > 1 else [])],
            env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}, stdout=sys.stderr,
        )
        for i in range(n)
    ]  # fmt: skip
    if any([process.wait() for process in processes]):
        sys.exit(f"{n} processes: one failed")
    return json.loads((workdir / f"predictions/{method}/decode.json").read_text())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", type=Path, required=True, help="of a finished run of one seed")
    parser.add_argument("--method", default="usm")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(args.workdir, Path(folder) / "run")
        for n in args.processes:
            found = decode(copy, args.method, n)
            each = found.get("processes", [found])
            print(json.dumps({
                "processes": n, "questions": [own["questions"] for own in each],
                "steps": [own["useful_steps"] for own in each],
                "slots of use": [round(own["useful_steps"] / own["slot_steps"], 3)
                                 for own in each],
                "seconds": [round(own["seconds"], 2) for own in each],
            }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
