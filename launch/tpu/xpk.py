#!/usr/bin/env python3
"""A run on a GKE cluster of TPUs, through xpk. Prints every command; --dry-run prints it only.

  python3 launch/tpu/xpk.py VERB --cluster CLUSTER --zone ZONE [--project PROJECT] [--dry-run] ...

  image  --image IMAGE                    build the committed code into a container, and push it
  attach --bucket BUCKET                  once a cluster: make the bucket known to it
  submit --name NAME --topology v5e:4x4 [--slices N] --image IMAGE --bucket BUCKET
         -- --config FILE --workdir gs://BUCKET/FOLDER ...
                                          `asesjax run` with what follows --, on every machine
  list
  delete --name NAME

The cluster is made, and deleted, with `xpk cluster create` and `xpk cluster delete`: its machines
are what is billed. A submitted run that is preempted (exit status 42) or loses a machine is started
again by the cluster and goes on in its workdir; one that says that there is a mistake (2) is not.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

import steps
from babysit import split_arguments
from gcloud import Pod
from shell import Shell
from slices import Mistake, find

MOUNT, STORAGE = "/bucket", "asesjax-bucket"
RESTARTS = 100
GRACE_SECONDS = 300  # to save in, when a machine is taken away on notice
# As worker.sh mounts it, for the same reasons.
MOUNT_OPTIONS = (
    "metadata-cache:ttl-secs:0", "metadata-cache:negative-ttl-secs:0",
    "write:enable-streaming-writes:false", "file-system:rename-dir-limit:0",
)  # fmt: skip
VERBS = {
    "image": "build a container of the committed code and push it",
    "attach": "make the bucket known to the cluster, once",
    "submit": "start a run",
    "list": "show the runs",
    "delete": "end a run and forget it",
}


def commands(shell: Shell, args: argparse.Namespace) -> list[list[str]]:
    """Return what a verb does.

    Raises:
      Mistake: arguments that do not fit.
    """
    where = [f"--cluster={args.cluster}", f"--zone={args.zone}",
             *([f"--project={args.project}"] if args.project else [])]  # fmt: skip
    if args.verb == "image":
        root = shlex.quote(str(steps.ROOT))
        # The commit alone goes in: no data, no environment, nothing that is not committed.
        build = (
            f"git -C {root} archive HEAD | docker build --file launch/Containerfile --build-arg "
            f'EXTRAS=tpu,eval,viz --build-arg COMMIT="$(git -C {root} rev-parse HEAD)" '
            f"--tag {shlex.quote(args.image)} -"
        )
        return [["bash", "-c", f"set -o pipefail; {build}"], ["docker", "push", args.image]]
    if args.verb == "attach":
        return [["xpk", "storage", "attach", STORAGE, "--type=gcsfuse", f"--bucket={args.bucket}",
                 f"--mount-point={MOUNT}", "--readonly=false", "--auto-mount=false", "--size=1",
                 f"--mount-options={','.join(MOUNT_OPTIONS)}", *where]]  # fmt: skip
    if args.verb == "list":
        return [["xpk", "workload", "list", *where]]
    if args.verb == "delete":
        return [["xpk", "workload", "delete", f"--workload={args.name}", "--force", *where]]
    of = find(args.topology)
    steps.check_arguments(args.arguments, args.bucket)
    if args.slices < 1:
        raise Mistake(f"--slices must be 1 or more, got {args.slices}")
    arguments = [a.replace(f"gs://{args.bucket}/", f"{MOUNT}/") for a in args.arguments]
    # exec, so that the signal that xpk passes on reaches the run itself.
    run = shlex.join(["exec", "asesjax", "run", *arguments, "--coordinator", "auto"])
    return [["xpk", "workload", "create", f"--workload={args.name}",
             f"--tpu-type={of.accelerator_type}", f"--num-slices={args.slices}",
             f"--docker-image={args.image}", f"--storage={STORAGE}", f"--max-restarts={RESTARTS}",
             f"--termination-grace-period-seconds={GRACE_SECONDS}", f"--command={run}",
             *where]]  # fmt: skip


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line; what follows -- goes to ``asesjax run``."""
    argv, arguments = split_arguments(argv)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, help_ in VERBS.items():
        sub = verbs.add_parser(verb, help=help_)
        sub.add_argument("--cluster", required=True)
        sub.add_argument("--zone", required=True)
        sub.add_argument("--project", default="", help="default: gcloud's own")
        sub.add_argument("--dry-run", action="store_true", help="print the commands, run none")
        if verb in ("submit", "delete"):
            sub.add_argument("--name", required=True, help="of the run")
        if verb in ("image", "submit"):
            sub.add_argument("--image", required=True, help="REGISTRY/NAME:TAG")
        if verb in ("attach", "submit"):
            sub.add_argument("--bucket", required=True, help="with the workdir, no gs://")
        if verb == "submit":
            sub.add_argument("--topology", required=True, help="such as v5e:4x4")
            sub.add_argument("--slices", type=int, default=1, help="set mesh.slices to the same")
    args = parser.parse_args(argv)
    if arguments and args.verb != "submit":
        parser.error(f"{args.verb} takes nothing after --")
    args.arguments = arguments
    return args


def main(argv: Sequence[str], shell: Shell | None = None) -> int:
    """Do one verb; 0, 1 where a command failed, 2 for a mistake of the user."""
    args = parse(argv)
    shell = Shell(args.dry_run) if shell is None else shell
    try:
        if hasattr(args, "name"):
            Pod(args.name, args.zone)  # xpk's names are gcloud's
        if args.verb == "attach":
            steps.check_bucket(shell, Pod("any", args.zone, args.project), args.bucket)
        todo = commands(shell, args)
    except Mistake as mistake:
        shell.say(f"error: {mistake}")
        return 2
    for command in todo:
        result = shell.call(command, steps.SETUP, stream=not shell.dry_run)
        if not result.ok:
            shell.say(f"error: {command[0]} ended with status {result.status}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
