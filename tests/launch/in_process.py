"""A shell whose gcloud is a world in memory, whose time is a number, and which cannot hang."""

import contextlib

import fake_cloud
from shell import TIMED_OUT, Result, Shell, Stop

CALLS = 3000  # far more than any story takes


class FakeShell(Shell):
    """Runs commands on a world of ``fake_cloud``; a signal comes at a chosen moment."""

    def __init__(self, world, signal_at=(), number=15):
        """``signal_at`` counts calls and pauses; signals come in the middle of these."""
        super().__init__()
        self.world, self.said, self.time = world, [], 0.0
        self._moments, self._signal_at, self._number = 0, signal_at, number
        self._listens = False

    def say(self, line):
        """Keep a line."""
        self.said.append(line)

    def now(self):
        """Tell the time of this world."""
        return self.time

    def sleep(self, seconds):
        """Let time pass."""
        assert 0 <= seconds <= 3600
        self.time += seconds
        self._moment()

    def call(self, argv, seconds, show=True, stream=False):
        """Run a command of this world."""
        assert seconds > 0
        if show:
            self.say("$ " + " ".join(argv))
        if argv[0] == "git":
            answers = {"rev-parse": "0123456789abcdef", "status": "", "bundle": ""}
            return Result(0, answers[argv[3]], "")
        assert self._holding or "create" not in argv or self.dry_run, "may be cut off half way"
        self.time += 1.0
        try:
            result = Result(*fake_cloud.gcloud(argv[1:], self.world))
        except fake_cloud.Hang:
            self.time += seconds
            result = Result(TIMED_OUT, "", "no answer")
        # The world has done it; whoever asked may never hear of it.
        self._moment()
        return result

    @contextlib.contextmanager
    def stoppable(self):
        """Count moments from here on; before, a signal would just end the script."""
        self._listens = True
        yield
        self._listens = False

    def _moment(self):
        self._moments += self._listens
        assert self._moments < CALLS, "goes on for ever"
        if self._moments in self._signal_at:
            self._on_signal(self._number, None)


__all__ = ["FakeShell", "Stop"]
