"""Runs commands for these scripts: printed first, with a time limit, safe from signals."""

import contextlib
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

Made = TypeVar("Made")
TIMED_OUT, NO_SUCH_COMMAND = 124, 127
_PAUSING = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
# Signals that no handler gets, that do nothing by themselves, or that report a crash of Python.
_OTHERS = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGCONT, signal.SIGURG,
           signal.SIGWINCH, signal.SIGPIPE, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE,
           signal.SIGILL}  # fmt: skip


class Result(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        """True for status 0."""
        return self.status == 0


class Stop(BaseException):
    """A signal that asks to stop; not an Exception, which a handler of failures might catch."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def temporary(make: Callable[[], Made]) -> Made:
    """Call one of tempfile's classes, elsewhere when the place of its last file is gone."""
    try:
        return make()
    except FileNotFoundError:
        tempfile.tempdir = None  # to be looked for anew
        return make()


class Shell:
    """Runs commands, waits, and reads the clock; tests replace it."""

    def __init__(self, dry_run: bool = False):
        """With ``dry_run``, commands are printed and not run, and count as successful."""
        self.dry_run = dry_run
        self._deferring = self._ignoring = False
        self._pending: int | None = None

    def say(self, line: str) -> None:
        """Print a line, unless the terminal is closed."""
        with contextlib.suppress(OSError):
            print(line, flush=True)

    def now(self) -> float:
        """Return seconds of a clock that never goes back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def call(
        self, argv: Sequence[str], seconds: float, show: bool = True, stream: bool = False
    ) -> Result:
        """Run a command to its end.

        Args:
          argv: the command and its arguments.
          seconds: time limit; then it is killed with its children, and has failed.
          show: print it first; off for commands that are repeated all the time.
          stream: let it write to the terminal instead of into the result.
        """
        if show or self.dry_run:
            self.say("$ " + shlex.join(argv))
        if self.dry_run:
            return Result(0, "", "")
        # Files, not pipes: a surviving child of a killed command would keep a pipe open.
        file = tempfile.TemporaryFile
        with temporary(file) as out, temporary(file) as err:
            to = {} if stream else {"stdout": out, "stderr": err}
            try:
                # In its own session, so that Ctrl-C on the terminal reaches this script alone.
                process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, start_new_session=True, **to
                )
            except OSError as error:
                return Result(NO_SUCH_COMMAND, "", f"cannot run {argv[0]}: {error.strerror}")
            try:
                status = self.wait(process, seconds)
            except subprocess.TimeoutExpired:
                status = TIMED_OUT
            finally:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace").strip())
        if status == TIMED_OUT:
            texts[1] += f"\nno answer within {seconds:.0f} s"
        return Result(status, *texts)

    def wait(self, process: subprocess.Popen, seconds: float) -> int:
        """Wait for a command; TimeoutExpired after ``seconds``."""
        return process.wait(seconds)

    @contextlib.contextmanager
    def stop_on_signals(self) -> Iterator[None]:
        """Raise Stop in the block on every signal that would end this process. Those that would
        pause it are ignored: the slice is billed all the same.
        """
        handlers = {
            number: signal.SIG_IGN if number in _PAUSING else self._on_signal
            for number in signal.valid_signals() - _OTHERS
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)  # None: not set by Python

    @contextlib.contextmanager
    def defer_signals(self) -> Iterator[None]:
        """Delay Stop to the end of the block, for a command that must not be interrupted."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self._pending is not None:
            number, self._pending = self._pending, None
            self._stop(number)

    def ignore_signals(self) -> None:
        """Raise Stop no longer."""
        self._ignoring = True

    def _on_signal(self, number: int, _: object) -> None:
        if self._ignoring:
            self.say("cleaning up; please wait")
        elif self._deferring:
            self._pending = number
            self.say("stop requested; finishing this step first")
        else:
            self._stop(number)

    def _stop(self, number: int) -> None:
        self._ignoring = True  # the first one starts the clean-up
        raise Stop(number)
