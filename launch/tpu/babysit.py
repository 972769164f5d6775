#!/usr/bin/env python3
r"""Keep one run going on a Cloud TPU slice until it has finished, then delete the slice.

  python3 launch/tpu/babysit.py --name NAME --zone ZONE --topology v5e:4x4 --spot \
      -- --config configs/tpu.py:t5-base --workdir gs://BUCKET/runs/NAME

Makes the slice, sets it up, starts `asesjax run ARGUMENTS` on all its machines and watches. A slice
that was taken away is made again, and the run resumes in the same workdir. However this ends (the
run finished, a mistake, too many failures, Ctrl-C, a signal, a bug), it deletes the slice and
checks that it is gone. Only kill -9, or this computer going off, prevents that: then the same
command takes over the slice and the run that it finds. Never start two with the same --name.

Exit status: 0 the run has finished; 1 gave up; 2 a mistake to fix, in the arguments or reported by
the run itself; 3 the slice may still exist (the command that deletes it is printed); 128 + N
stopped by signal N.
"""

import argparse
import hashlib
import shlex
import signal
import sys
from collections.abc import Sequence

import gcloud
import steps
from arguments import SLICE_KIND, ZONE, check_run_arguments, parse
from gcloud import Pod
from shell import Shell, Stop
from slices import SliceKind, UserError, find
from steps import ABSENT, LOST, READY, STOPPING, UNKNOWN

FINISHED, GAVE_UP, USER_ERROR, LEFT_BEHIND = 0, 1, 2, 3
RUN_USER_ERROR, RUN_PREEMPTED = 2, 42  # of asesjax itself
OPTIONS = f"--name {ZONE} {SLICE_KIND} --poll --tries"
_STEADY = 600.0  # seconds of running after which earlier failures are forgotten
_PAUSE_WITH_SLICE, _PAUSE_WITHOUT_SLICE = 300.0, 3600.0  # the longest, in seconds
_SECOND_LOOK = 10.0  # seconds until a second check that the slice is absent
_SETUP_TRIES = 3  # on one slice, before another is made
_DELETE_TRIES = 12


class GaveUp(Exception):
    """Too many failures in a row."""


class Babysitter:
    """The state machine: it asks for the state anew in every round, and remembers failures."""

    def __init__(
        self, shell: Shell, pod: Pod, kind: SliceKind, bundle: bytes, args: argparse.Namespace
    ):
        """``pod`` may exist already; ``bundle`` is that of ``steps.pack``."""
        self.shell, self.pod, self.kind, self.bundle, self.args = shell, pod, kind, bundle, args
        self.run = hashlib.sha256(shlex.join(args.arguments).encode()).hexdigest()[:12]
        self._failures = 0  # since the run was last steady
        self._failed_setups = 0  # on this slice
        self._running_since: float | None = None  # when the run was first seen running
        self._said = ""

    def watch(self) -> None:
        """Return when the run has finished.

        Raises:
          UserError: another try would fail as well.
          GaveUp: after too many failures.
        """
        while True:
            state = self.state()
            if state == READY:
                if self._advance_run():
                    return
                continue
            if state != UNKNOWN:
                self._running_since = None
            if state == ABSENT:
                self._create()
            elif state == LOST:
                self.shell.say("the slice was taken away or failed; deleting what is left of it")
                self._delete()
            elif state == UNKNOWN:
                self._failed("gcloud does not answer")
            else:
                self.shell.sleep(self.args.poll)

    def remove(self) -> bool:
        """Delete the slice and wait until it is gone; tell whether it is."""
        absent = 0
        for attempt in range(_DELETE_TRIES):
            state = self.state()
            if state == ABSENT:
                absent += 1
                if absent == 2:  # twice: a request that was cut off may appear late
                    return True
            else:
                absent = 0
            if state not in (ABSENT, STOPPING):
                done = steps.delete(self.shell, self.pod)
                if not done.ok:
                    self.shell.say(f"deleting failed: {steps.reason(done)}")
            self.shell.sleep(_SECOND_LOOK if absent else min(10.0 * 2**attempt, _PAUSE_WITH_SLICE))
        return False

    def state(self) -> str:
        """Ask for the state of the slice, and print it when it is new."""
        state, words = steps.slice_state(self.shell, self.pod)
        self._say_once(f"slice {self.pod.name}: {state} ({words})")
        return state

    def _create(self) -> None:
        self._failed_setups = 0
        if self._failures:
            self._pause(_PAUSE_WITHOUT_SLICE)
        with self.shell.defer_signals():
            made = self.shell.call(
                gcloud.create(self.pod, self.kind, self.args.spot, self.args.reserved),
                steps.CREATE,
            )
        # Counts as a failure until the run is steady, so that remaking slices comes to an end.
        self._count("making the slice")
        if not made.ok:
            self.shell.say(f"making the slice failed: {steps.reason(made)}")
            if steps.is_permanent(made):
                raise UserError(f"the slice cannot be made: {steps.reason(made)}")

    def _delete(self) -> None:
        if not self.remove():
            raise GaveUp("the slice can be neither used nor deleted")

    def _advance_run(self) -> bool:
        """Check or start the run on a ready slice; tell whether it has finished."""
        what, status = steps.run_status(self.shell, self.pod, self.run)
        self._say_once(f"run {self.run}: {what}" + (f" {status}" if what == "exited" else ""))
        if what == "running":
            now = self.shell.now()
            if self._running_since is None:
                self._running_since = now
            if now - self._running_since >= _STEADY:
                self._failures = 0
            self.shell.sleep(self.args.poll)
            return False
        if what == "unknown":
            self._failed("process 0's machine does not answer")
            return False
        steady, self._running_since = self._running_since is not None and not self._failures, None
        if what == "exited":
            if status == FINISHED:
                return True
            self.shell.say(steps.log_tail(self.shell, self.pod))
            if status == RUN_USER_ERROR:
                raise UserError("the run reports a mistake to fix; its output is above")
            if status == RUN_PREEMPTED and steady:
                self.shell.sleep(self.args.poll)
            else:
                self._failed(f"the run ended with status {status}")
            if self.state() != READY:  # a preemption may show only after the run has ended
                return False
        self._start()
        return False

    def _start(self) -> None:
        shell, pod, args = self.shell, self.pod, self.args
        result = steps.setup(shell, pod, self.bundle)
        if result.ok:
            result = steps.start(shell, pod, self.run, args.arguments)
        if result.ok:
            self._failed_setups = 0
            return
        self._failed_setups += 1
        shell.say(f"setting up failed: {steps.reason(result)}")
        self._failed("setting up")
        if self._failed_setups >= _SETUP_TRIES:
            shell.say("deleting this slice to try another")
            self._delete()

    def _failed(self, what: str) -> None:
        """Count a failure while a slice may be billed, so that pauses stay short."""
        self._count(what)
        self._pause(_PAUSE_WITH_SLICE)

    def _count(self, what: str) -> None:
        self._failures += 1
        if self._failures > self.args.tries:
            raise GaveUp(f"{what}: {self._failures} failures without a steady run between them")

    def _pause(self, longest: float) -> None:
        pause = min(self.args.poll * 2 ** (self._failures - 1), longest)
        self.shell.say(f"trying again in {pause:.0f} s")
        self.shell.sleep(pause)

    def _say_once(self, line: str) -> None:
        if line != self._said:
            self.shell.say(line)
            self._said = line


def babysit(sitter: Babysitter) -> int:
    """Watch until the end, whatever it is, then delete the slice; returns the exit status."""
    shell, status, gone = sitter.shell, GAVE_UP, False
    with shell.stop_on_signals():
        try:
            sitter.watch()
            shell.say("the run has finished")
            status = FINISHED
        except UserError as error:
            shell.say(f"error: {error}")
            status = USER_ERROR
        except GaveUp as error:
            shell.say(f"error: {error}; the same command resumes in the same workdir")
        except Stop as stop:
            shell.say(f"stopped by signal {stop.number}")
            status = 128 + stop.number
            if stop.number == signal.SIGINT and sitter.state() == READY:
                shell.say("asking the run to save, a few minutes at most")
                steps.stop(shell, sitter.pod)
        finally:
            shell.ignore_signals()
            try:
                gone = sitter.remove()
            finally:
                status = _report_removal(sitter, gone, status)
    return status


def _report_removal(sitter: Babysitter, gone: bool, status: int) -> int:
    """Say whether the slice is gone, and what to do if not; returns the exit status."""
    if gone:
        sitter.shell.say(f"slice {sitter.pod.name} is gone")
        return status
    commands = [gcloud.delete(sitter.pod, queued=True)] * sitter.pod.queued
    commands.append(gcloud.delete(sitter.pod, queued=False))
    sitter.shell.say(
        f"ERROR: slice {sitter.pod.name} could not be deleted and MAY COST MONEY; delete it by "
        "hand:\n  " + "\n  ".join(map(shlex.join, commands))
    )
    return LEFT_BEHIND


def show_plan(sitter: Babysitter) -> None:
    """Print the commands of a run without trouble; a shell with ``dry_run`` runs none."""
    shell, pod, args = sitter.shell, sitter.pod, sitter.args
    shell.call(gcloud.create(pod, sitter.kind, args.spot, args.reserved), steps.CREATE)
    steps.slice_state(shell, pod)
    steps.setup(shell, pod, sitter.bundle)
    steps.start(shell, pod, sitter.run, args.arguments)
    steps.run_status(shell, pod, sitter.run)
    steps.delete(shell, pod)


def main(argv: Sequence[str], shell: Shell | None = None) -> int:
    """Check everything that can be checked before there are costs, then babysit."""
    args = parse(__doc__, argv, OPTIONS)
    shell = Shell(args.dry_run) if shell is None else shell
    try:
        if args.poll <= 0 or args.tries < 0:
            raise UserError("--poll must be above 0, and --tries 0 or more")
        kind = find(args.topology)
        pod = Pod(args.name, args.zone, args.project, queued=not args.at_once)
        bucket = check_run_arguments(args.arguments)
        pod = steps.with_project(shell, pod)
        steps.check_bucket(shell, pod, bucket)
        bundle = steps.pack(shell)
    except UserError as error:
        shell.say(f"error: {error}")
        return USER_ERROR
    shell.say(f"{kind}: its chips are billed from ready to deleted")
    sitter = Babysitter(shell, pod, kind, bundle, args)
    if args.dry_run:
        show_plan(sitter)
        return FINISHED
    return babysit(sitter)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
