#!/usr/bin/env python3
"""A run on a GKE cluster of TPUs, through xpk. Prints every command; --dry-run prints it only.

  python3 launch/tpu/xpk.py VERB --cluster CLUSTER --zone ZONE [--project PROJECT] [--dry-run] ...

  image  --image IMAGE                    build the committed code into a container, and push it
  submit --name NAME --topology v5e:4x4 [--slices N] --image IMAGE
         -- --config FILE --workdir gs://BUCKET/FOLDER ...
                                          `asesjax run` with what follows --, on every machine
  list
  delete --name NAME

`xpk cluster create` and `xpk cluster delete` make and delete the cluster, whose machines are
billed. The cluster restarts a run that is preempted (exit status 42) or loses a machine, and the
run resumes in its workdir; a run that reports a mistake (2) is not restarted.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

import steps
from arguments import ZONE, cache_setting, check_run_arguments, parse
from gcloud import Pod
from shell import Shell
from slices import UserError, find

RESTARTS = 100
NAME_LIMIT = 40  # of xpk, whose names of Kubernetes objects are longer
GRACE_SECONDS = 300  # for saving, when a machine is preempted
VERBS = {
    "image": ("build a container of the committed code and push it", "--image"),
    "submit": ("start a run", "--name --topology --slices --image"),
    "list": ("show the runs", ""),
    "delete": ("end a run and remove it from the list", "--name"),
}


def commands(args: argparse.Namespace) -> list[list[str]]:
    """Return the commands of a verb.

    Raises:
      UserError: arguments that contradict each other.
    """
    name = getattr(args, "name", "")
    if len(name) > NAME_LIMIT:
        raise UserError(f"--name {name}: xpk takes {NAME_LIMIT} characters, got {len(name)}")
    where = [f"--cluster={args.cluster}", f"--zone={args.zone}",
             *([f"--project={args.project}"] if args.project else [])]  # fmt: skip
    if args.verb == "image":
        root = shlex.quote(str(steps.ROOT))
        # Only the commit is sent: no data, no environment, nothing uncommitted.
        build = (
            f"git -C {root} archive HEAD | docker build --file launch/Containerfile --build-arg "
            f'EXTRAS=tpu,buckets,eval,viz --build-arg COMMIT="$(git -C {root} rev-parse HEAD)" '
            f"--tag {shlex.quote(args.image)} -"
        )
        return [["bash", "-c", f"set -o pipefail; {build}"], ["docker", "push", args.image]]
    if args.verb == "list":
        return [["xpk", "workload", "list", *where]]
    if args.verb == "delete":
        return [["xpk", "workload", "delete", f"--workload={args.name}", "--force", *where]]
    kind = find(args.topology)
    if args.slices < 1:
        raise UserError(f"--slices must be 1 or more, got {args.slices}")
    # exec, so that xpk's signal reaches the run itself.
    run = shlex.join(["asesjax", "run", *args.arguments, "--coordinator", "auto"])
    run = f"exec {cache_setting()}{run}"
    return [["xpk", "workload", "create", f"--workload={args.name}",
             f"--tpu-type={kind.accelerator_type}", f"--num-slices={args.slices}",
             f"--docker-image={args.image}", f"--max-restarts={RESTARTS}",
             f"--termination-grace-period-seconds={GRACE_SECONDS}", f"--command={run}",
             *where]]  # fmt: skip


def main(argv: Sequence[str], shell: Shell | None = None) -> int:
    """Execute one verb; returns 0, 1 where a command failed, 2 for a mistake of the user."""
    args = parse(__doc__, argv, f"--cluster {ZONE}", VERBS, "submit")
    shell = Shell(args.dry_run) if shell is None else shell
    try:
        pod = Pod(getattr(args, "name", "any"), args.zone, args.project)  # checks --name
        todo = commands(args)
        if args.verb == "submit":
            steps.check_bucket(shell, pod, check_run_arguments(args.arguments))
    except UserError as error:
        shell.say(f"error: {error}")
        return 2
    for command in todo:
        result = shell.call(command, steps.SETUP, stream=not shell.dry_run)
        if not result.ok:
            shell.say(f"error: {command[0]} ended with status {result.status}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
