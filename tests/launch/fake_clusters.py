"""Fake ``xpk``, ``sbatch``, ``srun``, ``scontrol`` and ``docker`` that check their arguments.

``python fake_clusters.py NAME ARGS...``. The flags are those of the programs' own parsers and
manuals. Every call becomes a line of the file ``$FAKE_CALLS``.
"""

import argparse
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import gcloud_reference

NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")


parser = functools.partial(argparse.ArgumentParser, allow_abbrev=False)


def xpk(argv):
    """Check what xpk's own parser checks, and that the type of TPU exists."""
    verbs = tuple(argv[:2])
    this = parser()
    for flag in ("--cluster", "--zone"):
        this.add_argument(flag, required=True)
    this.add_argument("--project")
    if verbs == ("workload", "create"):
        for flag in ("--workload", "--command"):
            this.add_argument(flag, required=True)
        kind = this.add_mutually_exclusive_group(required=True)
        kind.add_argument("--tpu-type")
        kind.add_argument("--device-type")
        image = this.add_mutually_exclusive_group()
        image.add_argument("--docker-image")
        image.add_argument("--base-docker-image")
        this.add_argument("--num-slices", type=int, default=1)
        this.add_argument("--max-restarts", type=int, default=0)
        this.add_argument("--termination-grace-period-seconds", type=int, default=30)
        this.add_argument("--priority", choices=["low", "medium", "high"])
    elif verbs == ("workload", "delete"):
        this.add_argument("--workload")
        this.add_argument("--force", action="store_true")
    elif verbs != ("workload", "list"):
        this.error(f"invalid choice: {verbs}")
    args = this.parse_args(argv[2:])
    if getattr(args, "workload", None) and not NAME.fullmatch(args.workload):
        this.error(f"--workload {args.workload}")
    if getattr(args, "tpu_type", None):
        gcloud_reference.check_kind({
            "accelerator-type": args.tpu_type,
            "version": gcloud_reference.RUNTIMES.get(args.tpu_type.rpartition("-")[0]),
        })  # fmt: skip


def sbatch(argv):
    """Check the options, those in the script too, and run the batch script."""
    this = parser()
    for flag in ("--nodes", "--ntasks-per-node", "--gpus-per-node"):
        this.add_argument(flag, type=int, required=True)
    for flag in ("--time", "--partition", "--account", "--qos"):
        this.add_argument(flag)
    this.add_argument("script")
    this.add_argument("arguments", nargs=argparse.REMAINDER)
    args = this.parse_args(argv)
    if args.ntasks_per_node != args.gpus_per_node:
        this.error("jax wants a task for each GPU")
    inside = parser()
    for flag in ("--job-name", "--open-mode", "--output", "--signal"):
        inside.add_argument(flag)
    inside.add_argument("--requeue", action="store_true")
    lines = Path(args.script).read_text().split("\n")
    if not lines[0].startswith("#!"):
        this.error("This does not look like a batch script")
    given = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    options = inside.parse_args(given)
    if not re.fullmatch(r"(B:)?[A-Z0-9]+@\d+", options.signal) or not options.requeue:
        this.error("--signal or --requeue")
    print("Submitted batch job 7")
    nodes = args.nodes
    environment = {
        **os.environ, "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": f"node[1-{nodes}]",
        "FAKE_TASKS": str(nodes * args.ntasks_per_node),
    }  # fmt: skip
    return subprocess.run(["bash", args.script, *args.arguments], env=environment).returncode


def srun(argv):
    """Run one of the tasks and exit with its status."""
    this = parser()
    this.add_argument("--kill-on-bad-exit", type=int)
    this.add_argument("command", nargs=argparse.REMAINDER)
    args = this.parse_args(argv)
    os.execvp(args.command[0], args.command)


def scontrol(argv):
    return 0 if argv == ["requeue", os.environ["SLURM_JOB_ID"]] else 1


def docker(argv):
    this = parser()
    verbs = this.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", allow_abbrev=False)
    build.add_argument("--file", required=True)
    build.add_argument("--tag", required=True)
    build.add_argument("--build-arg", action="append")
    build.add_argument("context", choices=["-"])
    verbs.add_parser("push", allow_abbrev=False).add_argument("image")
    args = this.parse_args(argv)
    if args.verb == "build":
        names = subprocess.run(["tar", "--list"], stdin=sys.stdin, capture_output=True, text=True)
        if args.file not in names.stdout.split("\n"):
            this.error(f"no {args.file} in the context")


if __name__ == "__main__":
    name, arguments = sys.argv[1], sys.argv[2:]
    with open(os.environ["FAKE_CALLS"], "a") as calls:
        calls.write(json.dumps([name, *arguments]) + "\n")
    sys.exit(globals()[name](arguments))
