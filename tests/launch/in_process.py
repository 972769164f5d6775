"""A shell with a fake cloud in memory and a fake clock; no command of it can hang."""

import contextlib

import fake_cloud
from shell import TIMED_OUT, Result, Shell

CALLS = 3000  # far more than any scenario takes


class FakeShell(Shell):
    """Runs commands on a world of ``fake_cloud``; signals arrive at chosen moments."""

    def __init__(self, world, signal_at=(), number=15):
        """``signal_at`` counts calls and pauses; the signals arrive in the middle of these."""
        super().__init__()
        self.world, self.said, self.time = world, [], 0.0
        self._moments, self._signal_at, self._number = 0, signal_at, number
        self._listens = False

    def say(self, line):
        self.said.append(line)

    def now(self):
        return self.time

    def sleep(self, seconds):
        assert 0 <= seconds <= 3600
        self.time += seconds
        self._moment()

    def call(self, argv, seconds, show=True, stream=False):
        assert seconds > 0
        if show:
            self.say("$ " + " ".join(argv))
        if argv[0] == "git":
            answers = {"rev-parse": "0123456789abcdef", "status": "", "bundle": ""}
            return Result(0, answers[argv[3]], "")
        assert self._deferring or "create" not in argv or self.dry_run, "not deferred"
        self.time += 1.0
        try:
            result = Result(*fake_cloud.gcloud(argv[1:], self.world))
        except fake_cloud.Hang:
            self.time += seconds
            result = Result(TIMED_OUT, "", "no answer")
        # The command has had its effect, even if the caller is stopped before it sees the result.
        self._moment()
        return result

    @contextlib.contextmanager
    def stop_on_signals(self):
        """Count moments from here on; a signal before would just end the script."""
        self._listens = True
        yield
        self._listens = False

    def _moment(self):
        self._moments += self._listens
        assert self._moments < CALLS, "does not end"
        if self._moments in self._signal_at:
            self._on_signal(self._number, None)
