#!/usr/bin/env python3
"""One Cloud TPU slice, step by step. Every step prints its command; --dry-run prints it only.

  python3 launch/tpu/tpu.py VERB --name NAME --zone ZONE [--project PROJECT] [--dry-run] ...

  create --topology v5e:4x4 [--spot | --reserved] [--at-once]
  setup  --bucket BUCKET                code, environment and bucket on every machine
  run    --bucket BUCKET -- --config FILE --workdir gs://BUCKET/FOLDER ...
                                        `asesjax run` with what follows --, on every machine
  status                                the slice, and the run on every machine
  logs   [--follow] [--worker N] [--lines N]
  stop                                  the run saves and ends; the slice stays, and is billed
  delete
  list                                  everything in the zone that may cost; needs no --name

babysit.py does all of it by itself, again after every preemption, and deletes the slice at the end.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence

import gcloud
import steps
from babysit import add_kind_arguments, add_slice_arguments, split_arguments
from gcloud import Pod
from shell import Shell
from slices import Mistake, find

RUN = "by-hand"  # what runs that were started here are called on the workers
VERBS = ("create", "setup", "run", "status", "logs", "stop", "delete", "list")


def main(argv: Sequence[str], shell: Shell | None = None) -> int:
    """Do one verb; 0, 1 where a command failed, 2 for a mistake of the user."""
    args = parse(argv)
    shell = Shell(args.dry_run) if shell is None else shell
    try:
        pod = Pod(args.name, args.zone, args.project, queued=not getattr(args, "at_once", False))
        return globals()[f"do_{args.verb}"](shell, pod, args)
    except Mistake as mistake:
        shell.say(f"error: {mistake}")
        return 2


def do_create(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    """Ask for a slice."""
    of = find(args.topology)
    shell.say(f"{steps.kind(of)}: its chips are billed from ready to deleted")
    return _report(shell, gcloud.create(pod, of, args.spot, args.reserved), steps.CREATE)


def do_setup(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    """Bring code, environment and bucket to all workers."""
    steps.check_bucket(shell, pod, args.bucket)
    with tempfile.TemporaryDirectory() as folder:
        result = steps.setup(shell, pod, steps.pack(shell, folder), args.bucket)
    if not result.ok:
        shell.say(f"error: {steps.why(result)}")
    return 0 if result.ok else 1


def do_run(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    """Start a run on all workers and leave it alone."""
    steps.check_arguments(args.arguments, args.bucket)
    result = steps.start(shell, pod, RUN, args.bucket, args.arguments)
    shell.say(result.out if result.ok else f"error: {steps.why(result)}")
    return 0 if result.ok else 1


def do_status(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    """Say how the slice is, and the run on each of its machines."""
    state, words = steps.look(shell, pod)
    if state == steps.GONE:  # perhaps made at once, without a queue
        state, words = steps.look(shell, Pod(pod.name, pod.zone, pod.project, queued=False))
    shell.say(f"slice {pod.name}: {state} ({words})")
    if state != steps.READY and not shell.dry_run:
        return 0
    # The name of the run does not matter here, so the worker is asked for its own.
    show = 'bash asesjax/launch/tpu/worker.sh status "$(cat asesjax-state/id)"'
    return _report(shell, gcloud.on_workers(pod, show), steps.LOOK)


def do_logs(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    """Show the end of a worker's output, or follow it."""
    follow = ["follow"] * args.follow
    command = gcloud.on_workers(
        pod, gcloud.worker("log", str(args.lines), *follow), str(args.worker)
    )
    return 0 if shell.call(command, 86400 if follow else steps.LOOK, stream=True).ok else 1


def do_stop(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    """Ask the run to save and end."""
    result = steps.stop(shell, pod)
    shell.say(result.out if result.ok else f"error: {steps.why(result)}")
    shell.say("the slice is still there, and billed; tpu.py delete ends that")
    return 0 if result.ok else 1


def do_delete(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    """Delete a slice, however it was made."""
    for queued in (True, False):
        result = steps.delete(shell, Pod(pod.name, pod.zone, pod.project, queued))
        if not result.ok:
            shell.say(f"error: {steps.why(result)}; IT MAY STILL COST MONEY, try again")
            return 1
    return 0


def do_list(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    """List all slices and queued resources of the zone."""
    return max(_report(shell, command(pod), steps.LOOK) for command in
               (gcloud.list_nodes, gcloud.list_requests))  # fmt: skip


def _report(shell: Shell, command: Sequence[str], seconds: float) -> int:
    result = shell.call(command, seconds)
    shell.say(result.out if result.ok else f"error: {steps.why(result)}")
    return 0 if result.ok else 1


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; what follows -- goes to ``asesjax run``."""
    argv, arguments = split_arguments(argv)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb in VERBS:
        sub = verbs.add_parser(verb, help=globals()[f"do_{verb}"].__doc__)
        add_slice_arguments(sub, named=verb != "list")
        if verb == "create":
            add_kind_arguments(sub)
        if verb in ("setup", "run"):
            sub.add_argument("--bucket", required=True, help="with workdir and data, no gs://")
        if verb == "logs":
            sub.add_argument("--follow", action="store_true", help="until Ctrl-C")
            sub.add_argument("--worker", type=int, default=0, help="default: the first")
            sub.add_argument("--lines", type=int, default=50)
        if verb == "list":
            sub.set_defaults(name="any")
    args = parser.parse_args(argv)
    if arguments and args.verb != "run":
        parser.error(f"{args.verb} takes nothing after --")
    args.arguments = arguments
    return args


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
