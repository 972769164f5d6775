"""Warnings about slow or hanging steps, and a profile of chosen steps."""

import collections
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

from asesjax.core.errors import UserError
from asesjax.core.processes import is_first

_SLOW = 10  # a step is slow at this many times the median
_WINDOW = 100  # last steps that the median is taken of
_MIN_STEPS = 5  # that a median needs
_LEAST_SECONDS = 5.0  # a faster step is never slow
_FIRST_SECONDS = 300.0  # for a step or a batch while there is no median
_POLL_SECONDS = 0.1
_WAITING = "waiting for its batch"


class StepTimes:
    """Measures steps by polling whether their metrics are ready: nothing waits for anything.

    A step's time begins when it was dispatched or, if later, when the step before it was done, so
    evaluating, saving and compiling do not count.
    """

    def __init__(self) -> None:
        self._running: collections.deque = collections.deque()  # (step, metrics, start)
        self._seconds: collections.deque = collections.deque(maxlen=_WINDOW)
        self._done = 0.0
        self._batch: tuple[int, float, str] | None = None
        self._reported = 0.0  # seconds of the step or batch that was last reported

    def waits(self, step: int, now: float, what: str = _WAITING) -> None:
        """Note what happens before a step, which counts from 1, can be dispatched."""
        self._batch = step, now, what

    def began(self, step: int, metrics: jax.Array, now: float) -> None:
        """Note that a step was dispatched; ``metrics`` is ready when it is done."""
        self._batch = None
        if not self._running:  # what was reported is what came before the step
            self._reported = 0.0
        self._running.append((step, metrics, now))

    def look(self, now: float) -> list[str]:
        """Return lines about a step or batch that takes far longer than the others: once, again
        whenever its time has doubled, and when it is done.
        """
        ended = []
        while self._running and self._running[0][1].is_ready():
            ended.append(self._running.popleft())
        lines = []
        if ended:
            total = now - max(self._done, ended[0][2])
            if self._reported:
                lines.append(f"step {ended[0][0]} is done, after {total:.0f} s{self._usual()}")
            self._seconds.extend([total / len(ended)] * len(ended))
            self._done, self._reported = now, 0.0
        usual = self._usual()
        if self._running:
            step, _, start = self._running[0]
            what, seconds = f"step {step} has been running for", now - max(self._done, start)
        elif (batch := self._batch) is not None:  # the loop may reset it meanwhile
            step, start, what = batch
            usual = usual if what == _WAITING else ""  # nothing else is as long as a step
            what, seconds = f"step {step} has been {what} for", now - start
        else:
            return lines
        if seconds > max(self._limit(), 2 * self._reported):
            self._reported = seconds
            lines.append(f"{what} {seconds:.0f} s{usual}")
        return lines

    def _limit(self) -> float:
        if len(self._seconds) < _MIN_STEPS:
            return _FIRST_SECONDS
        return max(_LEAST_SECONDS, _SLOW * statistics.median(self._seconds))

    def _usual(self) -> str:
        if len(self._seconds) < _MIN_STEPS:
            return ""
        return f"; the median is {statistics.median(self._seconds):.2g} s"


@contextmanager
def watching(say: Callable[[str], None]) -> Iterator[StepTimes]:
    """Poll the times of steps in a thread, and say what is slow."""
    times, closed = StepTimes(), threading.Event()

    def watch() -> None:
        while not closed.wait(_POLL_SECONDS):
            try:
                lines = times.look(time.perf_counter())
            except Exception:  # the step has failed; the loop raises the error
                return
            for line in lines:
                say(line)

    thread = threading.Thread(target=watch, name="watch", daemon=True)
    thread.start()
    try:
        yield times
    finally:
        closed.set()
        thread.join()


class Profile:
    """A trace of the steps ``train.profile_steps`` for TensorBoard's profiler or Perfetto. Both
    steps are included and count from 1; (0, 0) is for none.
    """

    def __init__(self, folder: Path, train: Any):
        steps = tuple(train.profile_steps)
        if steps != (0, 0) and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
            raise UserError(
                f"train.profile_steps must be the first and the last step to profile, such as "
                f"(10, 15), or (0, 0); got {steps}"
            )
        self._first, self._last = int(steps[0]), int(steps[1])
        self._folder, self._on = folder, False

    def before(self, step: int) -> None:
        """Start, if the step that is dispatched next is to be profiled."""
        if not self._on and self._first <= step <= self._last and is_first():
            jax.profiler.start_trace(str(self._folder))
            self._on = True

    def after(self, step: int, metrics: jax.Array) -> None:
        """Wait for the last step and write the trace."""
        if self._on and step >= self._last:
            metrics.block_until_ready()
            self.close()

    def close(self) -> None:
        """Write the trace, if one is running."""
        if self._on:
            self._on = False
            jax.profiler.stop_trace()
