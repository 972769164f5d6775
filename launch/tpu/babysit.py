#!/usr/bin/env python3
r"""Keep one run going on a Cloud TPU slice until it has finished, and leave nothing behind.

  python3 launch/tpu/babysit.py --name NAME --zone ZONE --topology v5e:4x4 --bucket BUCKET --spot \
      -- --config configs/tpu.py:t5-base --workdir gs://BUCKET/runs/NAME

Makes the slice, sets it up, starts `asesjax run ARGUMENTS` on all its machines and watches. A slice
that was taken away is made again, and the run goes on in the same workdir. However this ends (the
run finished, a mistake, too many failures, Ctrl-C, a signal, a bug), the slice is deleted, and that
it is gone is checked. Only kill -9, or this computer going off, prevents that: the same command
given again takes over the slice and the run that it finds. The slice of this name is babysit's own.

Exit status: 0 the run has finished; 1 gave up; 2 a mistake to mend, in the arguments or told by the
run itself; 3 the slice may still be there (the command that deletes it is printed); 128 + N stopped
by signal N.
"""

import argparse
import hashlib
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence

import gcloud
import steps
from gcloud import Pod
from shell import Shell, Stop
from slices import Mistake, Slice, find
from steps import ABSENT, GONE, LEAVING, READY, UNKNOWN

FINISHED, GAVE_UP, MISTAKE, LEFT_BEHIND = 0, 1, 2, 3
RUN_MISTAKE, RUN_PREEMPTED = 2, 42  # of asesjax itself
_STEADY = 600.0  # seconds of running after which earlier failures are forgotten
_PAUSE_WITH_SLICE, _PAUSE_WITHOUT_SLICE = 300.0, 3600.0  # the longest, in seconds
_SECOND_LOOK = 10.0  # seconds until it is checked that what is gone stays gone
_SETUP_TRIES = 3  # on one slice, before another is made
_DELETE_TRIES = 12


class GaveUp(Exception):
    """Too much went wrong, one after the other."""


class Babysitter:
    """The state machine. What it knows it asks for anew in every round; it remembers failures."""

    def __init__(self, shell: Shell, pod: Pod, of: Slice, bundle: str, args: argparse.Namespace):
        """Take charge of a slice that is or will be ``pod``."""
        self.shell, self.pod, self.of, self.bundle, self.args = shell, pod, of, bundle, args
        self.run = hashlib.sha256(shlex.join(args.arguments).encode()).hexdigest()[:12]
        self._failures = 0  # since the run was last steady
        self._setups = 0  # that failed on this slice
        self._since: float | None = None  # when the run was first seen running
        self._said = ""

    def watch(self) -> None:
        """Return when the run has finished.

        Raises:
          Mistake: that trying again would not mend.
          GaveUp: after too many failures.
        """
        while True:
            state = self.look()
            if state == READY:
                if self._tend():
                    return
                continue
            if state != UNKNOWN:
                self._since = None
            if state == ABSENT:
                self._create()
            elif state == GONE:
                self.shell.say("the slice was taken away or failed; clearing up what is left of it")
                self._clear()
            elif state == UNKNOWN:
                self._failed("gcloud does not answer")
            else:
                self.shell.sleep(self.args.poll)

    def remove(self) -> bool:
        """Delete the slice and look until it is gone; tell whether it is."""
        absent = 0
        for attempt in range(_DELETE_TRIES):
            state = self.look()
            if state == ABSENT:
                absent += 1
                if absent == 2:  # twice: a request that was cut off may show only now
                    return True
            else:
                absent = 0
            if state not in (ABSENT, LEAVING):
                done = steps.delete(self.shell, self.pod)
                if not done.ok:
                    self.shell.say(f"deleting failed: {steps.why(done)}")
            self.shell.sleep(_SECOND_LOOK if absent else min(10.0 * 2**attempt, _PAUSE_WITH_SLICE))
        return False

    def look(self) -> str:
        """Ask for the state of the slice, and say it when it is new."""
        state, words = steps.look(self.shell, self.pod)
        self._say_once(f"slice {self.pod.name}: {state} ({words})")
        return state

    def _create(self) -> None:
        self._setups = 0
        if self._failures:
            self._pause(_PAUSE_WITHOUT_SLICE)
        with self.shell.unstoppable():
            made = self.shell.call(
                gcloud.create(self.pod, self.of, self.args.spot, self.args.reserved), steps.CREATE
            )
        # Counts until the run is steady, so that making it again and again comes to an end.
        self._count("making the slice")
        if not made.ok:
            self.shell.say(f"making the slice failed: {steps.why(made)}")
            if steps.is_mistake(made):
                raise Mistake(f"the slice cannot be made: {steps.why(made)}")

    def _clear(self) -> None:
        if not self.remove():
            raise GaveUp("the slice can be neither used nor deleted")

    def _tend(self) -> bool:
        """Bring the run on a ready slice one step further; tell whether it has finished."""
        what, status = steps.run_status(self.shell, self.pod, self.run)
        self._say_once(f"run {self.run}: {what}" + (f" {status}" if what == "exited" else ""))
        if what == "running":
            now = self.shell.now()
            self._since = now if self._since is None else self._since
            if now - self._since >= _STEADY:
                self._failures = 0
            self.shell.sleep(self.args.poll)
            return False
        if what == "unknown":
            self._failed("process 0's machine does not answer")
            return False
        steady, self._since = self._since is not None and not self._failures, None
        if what == "exited":
            if status == FINISHED:
                return True
            self.shell.say(steps.log_tail(self.shell, self.pod))
            if status == RUN_MISTAKE:
                raise Mistake("the run says that there is a mistake to mend; its output is above")
            if status == RUN_PREEMPTED and steady:
                self.shell.sleep(self.args.poll)
            else:
                self._failed(f"the run ended with status {status}")
            if self.look() != READY:  # a slice that is being taken away says so only now
                return False
        self._start()
        return False

    def _start(self) -> None:
        shell, pod, args = self.shell, self.pod, self.args
        result = steps.setup(shell, pod, self.bundle, args.bucket)
        if result.ok:
            result = steps.start(shell, pod, self.run, args.bucket, args.arguments)
        if result.ok:
            self._setups = 0
            return
        self._setups += 1
        shell.say(f"setting up failed: {steps.why(result)}")
        self._failed("setting up")
        if self._setups >= _SETUP_TRIES:
            shell.say("another slice may do better; deleting this one")
            self._clear()

    def _failed(self, what: str) -> None:
        """Count a failure while there may be a slice, which costs, so that pauses stay short."""
        self._count(what)
        self._pause(_PAUSE_WITH_SLICE)

    def _count(self, what: str) -> None:
        self._failures += 1
        if self._failures > self.args.tries:
            raise GaveUp(f"{what}: {self._failures} failures without a steady run between them")

    def _pause(self, longest: float) -> None:
        pause = min(self.args.poll * 2 ** (self._failures - 1), longest)
        self.shell.say(f"going on in {pause:.0f} s")
        self.shell.sleep(pause)

    def _say_once(self, line: str) -> None:
        if line != self._said:
            self.shell.say(line)
            self._said = line


def babysit(sitter: Babysitter) -> int:
    """Watch to the end, whatever that is, and delete the slice; returns the exit status."""
    shell, status, gone = sitter.shell, GAVE_UP, False
    with shell.stoppable():
        try:
            sitter.watch()
            shell.say("the run has finished")
            status = FINISHED
        except Mistake as mistake:
            shell.say(f"error: {mistake}")
            status = MISTAKE
        except GaveUp as error:
            shell.say(f"error: {error}; the same command goes on in the same workdir")
        except Stop as stop:
            shell.say(f"stopped by signal {stop.number}")
            status = 128 + stop.number
            if stop.number == signal.SIGINT and sitter.look() == READY:
                shell.say("asking the run to save, a few minutes at most")
                steps.stop(shell, sitter.pod)
        finally:
            shell.ignore_signals()
            try:
                gone = sitter.remove()
            finally:
                status = report_removal(sitter, gone, status)
    return status


def report_removal(sitter: Babysitter, gone: bool, status: int) -> int:
    """Say whether the slice is gone, and what to do if not; returns the exit status."""
    if gone:
        sitter.shell.say(f"slice {sitter.pod.name} is gone")
        return status
    commands = [gcloud.delete_request(sitter.pod)] * sitter.pod.queued
    commands.append(gcloud.delete_node(sitter.pod))
    sitter.shell.say(
        f"ERROR: slice {sitter.pod.name} could not be deleted and MAY COST MONEY; delete it by "
        "hand:\n  " + "\n  ".join(map(shlex.join, commands))
    )
    return LEFT_BEHIND


def split_arguments(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part what is for these scripts from what follows -- and is for ``asesjax run``."""
    at = list(argv).index("--") if "--" in argv else len(argv)
    return list(argv[:at]), list(argv[at + 1 :])


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    argv, arguments = split_arguments(argv)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_slice_arguments(parser)
    add_kind_arguments(parser)
    parser.add_argument("--bucket", required=True, help="with the workdir and data, no gs://")
    parser.add_argument("--poll", type=float, default=30.0, metavar="SECONDS",
                        help="between looks, and the first pause after a failure")  # fmt: skip
    parser.add_argument("--tries", type=int, default=10, metavar="N",
                        help="failures in a row before it gives up")  # fmt: skip
    args = parser.parse_args(argv)
    args.arguments = arguments
    return args


def add_slice_arguments(parser: argparse.ArgumentParser, named: bool = True) -> None:
    """Add what finds a slice, and --dry-run."""
    if named:
        parser.add_argument("--name", required=True, help="of the slice")
    parser.add_argument("--zone", required=True)
    parser.add_argument("--project", default="", help="default: gcloud's own")
    parser.add_argument("--dry-run", action="store_true", help="print the commands, run none")


def add_kind_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what kind of slice is made."""
    parser.add_argument("--topology", required=True, help="such as v5e:4x4; slices.py lists them")
    price = parser.add_mutually_exclusive_group()
    price.add_argument("--spot", action="store_true", help="cheaper, may be taken away")
    price.add_argument("--reserved", action="store_true", help="out of the project's reservation")
    parser.add_argument("--at-once", action="store_true",
                        help="now or not at all, instead of waiting in the queue")  # fmt: skip


def show_plan(sitter: Babysitter) -> None:
    """Print the commands of a run without trouble; a shell with ``dry_run`` runs none."""
    shell, pod, args = sitter.shell, sitter.pod, sitter.args
    shell.call(gcloud.create(pod, sitter.of, args.spot, args.reserved), steps.CREATE)
    steps.look(shell, pod)
    steps.setup(shell, pod, sitter.bundle, args.bucket)
    steps.start(shell, pod, sitter.run, args.bucket, args.arguments)
    steps.run_status(shell, pod, sitter.run)
    steps.delete(shell, pod)


def main(argv: Sequence[str], shell: Shell | None = None) -> int:
    """Check everything that can be checked before there are costs, then babysit."""
    args = parse(argv)
    shell = Shell(args.dry_run) if shell is None else shell
    with tempfile.TemporaryDirectory() as folder:
        try:
            if args.poll <= 0 or args.tries < 0:
                raise Mistake("--poll must be above 0, and --tries 0 or more")
            of = find(args.topology)
            pod = Pod(args.name, args.zone, args.project, queued=not args.at_once)
            steps.check_arguments(args.arguments, args.bucket)
            steps.check_bucket(shell, pod, args.bucket)
            bundle = steps.pack(shell, folder)
        except Mistake as mistake:
            shell.say(f"error: {mistake}")
            return MISTAKE
        shell.say(f"{steps.kind(of)}: its chips are billed from ready to deleted")
        sitter = Babysitter(shell, pod, of, bundle, args)
        if args.dry_run:
            show_plan(sitter)
            return FINISHED
        return babysit(sitter)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
