#!/usr/bin/env python3
"""One Cloud TPU slice, step by step. Every step prints its command; --dry-run prints it only.

  python3 launch/tpu/tpu.py VERB --name NAME --zone ZONE [--project PROJECT] [--dry-run] ...

  create --topology v5e:4x4 [--spot | --reserved] [--at-once]
  setup                                 code and environment on every machine
  run    -- --config FILE --workdir gs://BUCKET/FOLDER ...
                                        `asesjax run` with what follows --, on every machine
  status                                the slice, and the run on every machine
  logs   [--follow] [--worker N] [--lines N]
  stop                                  the run saves and ends; the slice stays, and is billed
  delete
  list                                  everything in the zone that may cost; needs no --name

babysit.py does all of it by itself, again after every preemption, and deletes the slice at the end.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

import gcloud
import steps
from arguments import SLICE_KIND, ZONE, check_run_arguments, parse
from gcloud import Pod
from shell import Result, Shell
from slices import UserError, find

RUN = "by-hand"  # name on the workers of the runs that this script starts
VERBS = {
    "create": ("request a slice", f"--name {SLICE_KIND}"),
    "setup": ("install code and environment on all workers", "--name"),
    "run": ("start a run on all workers, in the background", "--name"),
    "status": ("print the state of the slice, and of the run on each machine", "--name"),
    "logs": ("print a worker's output, or follow it", "--name --follow --worker --lines"),
    "stop": ("ask the run to save and end", "--name"),
    "delete": ("delete a slice, however it was made", "--name"),
    "list": ("list all slices and queued resources of the zone", ""),
}


def main(argv: Sequence[str], shell: Shell | None = None) -> int:
    """Execute one verb; returns 0, 1 where a command failed, 2 for a mistake of the user."""
    args = parse(__doc__, argv, ZONE, VERBS, "run")
    shell = Shell(args.dry_run) if shell is None else shell
    name, at_once = getattr(args, "name", "any"), getattr(args, "at_once", False)
    try:
        pod = Pod(name, args.zone, args.project, queued=not at_once)
        return globals()[f"_{args.verb}"](shell, pod, args)
    except UserError as error:
        shell.say(f"error: {error}")
        return 2


def _create(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    kind = find(args.topology)
    shell.say(f"{kind}: its chips are billed from ready to deleted")
    command = gcloud.create(pod, kind, args.spot, args.reserved)
    return _report(shell, shell.call(command, steps.CREATE))


def _setup(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    return _report(shell, steps.setup(shell, pod, steps.pack(shell)))


def _run(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    steps.check_bucket(shell, pod, check_run_arguments(args.arguments))
    return _report(shell, steps.start(shell, pod, RUN, args.arguments))


def _status(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    state, words = steps.slice_state(shell, pod)
    if state == steps.LOST:  # perhaps made at once, without a queue
        state, words = steps.slice_state(shell, dataclasses.replace(pod, queued=False))
    shell.say(f"slice {pod.name}: {state} ({words})")
    if state != steps.READY and not shell.dry_run:
        return 0
    # Any run, so the worker is asked for the name that it has.
    command = 'bash asesjax/launch/tpu/worker.sh status "$(cat asesjax-state/id)"'
    return _report(shell, shell.call(gcloud.on_workers(pod, command), steps.LOOK))


def _logs(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    log = gcloud.worker("log", str(args.lines), *["follow"] * args.follow)
    command = gcloud.on_workers(pod, log, str(args.worker))
    return 0 if shell.call(command, 86400 if args.follow else steps.LOOK, stream=True).ok else 1


def _stop(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    status = _report(shell, steps.stop(shell, pod))
    shell.say("the slice still exists and is billed; tpu.py delete ends that")
    return status


def _delete(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    absent = []
    for queued in (True, False):
        result = steps.delete(shell, dataclasses.replace(pod, queued=queued))
        if not result.ok:
            shell.say(f"error: {steps.reason(result)}; IT MAY STILL COST MONEY, try again")
            return 1
        absent.append(bool(result.err))
    if all(absent):
        shell.say(f"error: {pod.zone} has no slice {pod.name}, so none was deleted; tpu.py list "
                  "shows those that there are")  # fmt: skip
        return 1
    return 0


def _list(shell: Shell, pod: Pod, args: argparse.Namespace) -> int:
    commands = [gcloud.list_zone(pod, queued) for queued in (False, True)]
    return max(_report(shell, shell.call(command, steps.LOOK)) for command in commands)


def _report(shell: Shell, result: Result) -> int:
    """Print the output or the error of a command; returns the exit status."""
    if not result.ok:
        shell.say(f"error: {steps.reason(result)}")
    elif result.out:
        shell.say(result.out)
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
