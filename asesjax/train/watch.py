"""Looks at training from aside: which steps are slow or hang, and a profile of some of them."""

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

_TIMES = 10  # a step is slow at so many times the median
_REMEMBERED = 100  # steps the median is of
_ENOUGH = 5  # steps that make a median
_LEAST_SECONDS = 5.0  # nothing is said below
_FIRST_SECONDS = 300.0  # of a step or a batch before there is a median
_POLL_SECONDS = 0.1


class StepTimes:
    """Times of steps, found by asking what they report whether it is there.

    So neither the loop nor the device waits. The time of a step begins when it was dispatched or,
    if later, when the step before was done: evaluating, saving and compiling are not in it.
    """

    def __init__(self) -> None:
        self._running: collections.deque = collections.deque()  # (step, metrics, start)
        self._seconds: collections.deque = collections.deque(maxlen=_REMEMBERED)
        self._done = 0.0
        self._batch: tuple[int, float] | None = None
        self._told = 0.0  # seconds of the step or batch that were told last

    def waits(self, step: int, now: float) -> None:
        """Note that the loop waits for the batch of a step, which counts from 1."""
        self._batch = step, now

    def began(self, step: int, metrics: jax.Array, now: float) -> None:
        """Note that a step was dispatched; ``metrics`` is ready when it is done."""
        self._batch = None
        self._running.append((step, metrics, now))

    def look(self, now: float) -> list[str]:
        """Return a line about a step or batch that takes far longer than steps do, if there is one.

        Each is told once, again whenever its time has doubled, and when it is done at last.
        """
        ended = []
        while self._running and self._running[0][1].is_ready():
            ended.append(self._running.popleft())
        lines = []
        if ended:
            total = now - max(self._done, ended[0][2])
            if self._told:
                lines.append(f"step {ended[0][0]} is done, after {total:.0f} s{self._usual()}")
            self._seconds.extend([total / len(ended)] * len(ended))
            self._done, self._told = now, 0.0
        batch = self._batch
        if self._running:
            step, _, start = self._running[0]
            what, seconds = f"step {step} has been running for", now - max(self._done, start)
        elif batch is not None:
            what, seconds = f"step {batch[0]} has been waiting for its batch for", now - batch[1]
        else:
            return lines
        if seconds > max(self._limit(), 2 * self._told):
            self._told = seconds
            lines.append(f"{what} {seconds:.0f} s{self._usual()}")
        return lines

    def _limit(self) -> float:
        if len(self._seconds) < _ENOUGH:
            return _FIRST_SECONDS
        return max(_LEAST_SECONDS, _TIMES * statistics.median(self._seconds))

    def _usual(self) -> str:
        if len(self._seconds) < _ENOUGH:
            return ""
        return f"; the median is {statistics.median(self._seconds):.2g} s"


@contextmanager
def watching(say: Callable[[str], None]) -> Iterator[StepTimes]:
    """Have a thread look at the times of steps and say what it finds."""
    times, closed = StepTimes(), threading.Event()

    def watch() -> None:
        while not closed.wait(_POLL_SECONDS):
            try:
                lines = times.look(time.perf_counter())
            except Exception:  # the step has failed, which the loop tells better
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
    """A trace of some steps for TensorBoard's profiler or Perfetto."""

    def __init__(self, folder: Path, train: Any):
        """Take the steps ``train.profile_steps``, both included, counted from 1; none for (0, 0).

        Args:
          folder: gets ``plugins/profile/...``.
          train: the ``train`` section.

        Raises:
          UserError: not a first and a last step.
        """
        steps = tuple(train.profile_steps)
        if steps != (0, 0) and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
            raise UserError(
                f"train.profile_steps must be the first and the last step to profile, such as "
                f"(10, 15), or (0, 0); got {steps}"
            )
        self._folder, (self._first, self._last), self._on = folder, steps, False

    def before(self, step: int) -> None:
        """Start, if the step that is dispatched next is to be profiled."""
        wanted = self._first <= step <= self._last and is_first()
        if wanted and not self._on:
            jax.profiler.start_trace(str(self._folder))
            self._on = True

    def after(self, step: int, metrics: jax.Array) -> None:
        """Write the trace when the last step is done, which is waited for."""
        if self._on and step >= self._last:
            metrics.block_until_ready()
            self.close()

    def close(self) -> None:
        """Write what there is."""
        if self._on:
            self._on = False
            jax.profiler.stop_trace()
