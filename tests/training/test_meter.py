"""The log lines, and warnings about slow and hanging steps."""

import jax.numpy as jnp
import numpy as np
import pytest

from asesjax.core.progress import Progress
from asesjax.training import watch
from asesjax.training.meter import Clock, Meter
from asesjax.training.step import METRICS


class Log(list):
    def write(self, kind, step, **row):
        self.append((kind, step, row))


def vector(**values):
    filled = dict.fromkeys(METRICS, 1.0) | {"skipped": 0.0} | values
    return jnp.asarray([filled[name] for name in METRICS], jnp.float32)


def make(log, carried=None, clock=None, **options):
    def diverged(step, what):
        return ValueError(f"{what} at {step}")

    quiet = Progress("role", 100, 0, "step", quiet=True)
    return Meter(log, clock or Clock(), 2, 100, carried, diverged, quiet, **options)


class Frozen(Clock):
    """A clock that is set by hand."""

    def seconds(self):
        return self.now


def test_rates_are_those_of_the_window():
    log, clock = Log(), Frozen()
    flops = lambda source, target: (10.0 * source, 100.0 * target)  # noqa: E731
    meter = make(log, clock=clock, token_flops=flops, peak_flops=1e6)
    for step, now in ((1, 0), (2, 0), (3, 4.0), (4, 4.0), (5, 5.0)):
        clock.now = now
        meter.add(step, vector(source_tokens=6.0, target_tokens=2.0, positions=10.0), 3, 7)
    rows = [row for _, _, row in log]
    assert [row["step_seconds"] for row in rows] == [2.0, 0.5]
    assert [row["tokens_per_second"] for row in rows] == [4.0, 16.0]
    assert rows[0]["padding_share"] == pytest.approx(0.2)
    # Each of two steps: 3 * (6 * 30 + 2 * 700) operations.
    assert [row["flops_per_second"] for row in rows] == [2370, 9480]
    assert [row["flops_utilisation"] for row in rows] == [0.0024, 0.0095]
    assert rows[0]["device_memory_bytes"] is None


def test_a_window_resumes_from_what_was_carried():
    whole, parts = Log(), Log()
    metrics = [vector(loss_sum=i, grad_norm=i / 3, source_tokens=i) for i in range(1, 6)]
    one = make(whole, clock=Clock())
    for step, made in enumerate(metrics, 1):
        one.add(step, made, 2, 2)
    first = make(parts)
    for step in (1, 2, 3):
        first.add(step, metrics[step - 1], 2, 2)
    first.flush()
    second = make(parts, first.carry())
    for step in (4, 5):
        second.add(step, metrics[step - 1], 2, 2)
    timed = ("seconds", "step_seconds", "tokens_per_second", "flops_per_second")
    plain = lambda log: [  # noqa: E731
        (k, s, {n: v for n, v in row.items() if n not in timed}) for k, s, row in log
    ]
    assert plain(whole) == plain(parts)


def test_norms_are_means_over_updates_that_were_not_skipped():
    log = Log()
    meter = make(log)
    left_out = dict.fromkeys(("loss_sum", "normalizer", "grad_norm", "update_norm"), 0.0)
    meter.add(1, vector(grad_norm=3.0, loss_sum=2.0))
    meter.add(2, vector(skipped=1.0, **left_out))
    meter.flush()
    (_, _, row), = log
    assert (row["skipped"], row["grad_norm"], row["loss"]) == (1, 3.0, 2.0)


def test_a_nonfinite_gradient_is_reported_with_its_step():
    meter = make(Log())
    meter.add(1, vector())
    meter.add(2, vector(grad_norm=np.nan))
    with pytest.raises(ValueError, match="gradient norm is nan at 2"):
        meter.flush()


class Step:
    """What a step reports; ready when it is told so."""

    def __init__(self):
        self.ready = False

    def is_ready(self):
        return self.ready


def run_steps(times, n, seconds=1.0, start=0.0):
    for i in range(n):
        step = Step()
        times.waits(i + 1, start + i * seconds)
        times.began(i + 1, step, start + i * seconds)
        step.ready = True
        assert times.look(start + (i + 1) * seconds) == []
    return start + n * seconds


def test_a_hanging_step_is_reported_again_when_its_time_doubles_and_when_it_ends():
    times, hung = watch.StepTimes(), Step()
    now = run_steps(times, 6)
    times.began(7, hung, now)
    told = [(t, line) for t in range(60) for line in times.look(now + t)]
    assert [t for t, _ in told] == [11, 23, 47]
    assert told[0][1] == "step 7 has been running for 11 s; the median is 1 s"
    hung.ready = True
    assert times.look(now + 60) == ["step 7 is done, after 60 s; the median is 1 s"]
    following = Step()
    times.began(8, following, now + 60)
    assert times.look(now + 69) == [] and len(times.look(now + 71)) == 1


def test_pauses_are_not_reported_but_a_missing_batch_is():
    times = watch.StepTimes()
    now = run_steps(times, 6) + 1000.0  # a long evaluation
    assert times.look(now) == []
    times.waits(7, now)
    assert times.look(now + 9) == []
    assert times.look(now + 11) == [
        "step 7 has been waiting for its batch for 11 s; the median is 1 s"
    ]
    times.waits(7, now, "compiling 128 x 64")
    assert times.look(now + 23) == ["step 7 has been compiling 128 x 64 for 23 s"]
    step = Step()
    times.began(7, step, now + 11)
    step.ready = True
    assert times.look(now + 12) == []  # the step itself was quick


def test_steps_that_end_between_two_polls_share_the_time():
    times = watch.StepTimes()
    steps = [Step() for _ in range(10)]
    for i, step in enumerate(steps, 1):
        times.began(i, step, 0.0)
        step.ready = True
    assert times.look(20.0) == []
    hung = Step()
    times.began(11, hung, 20.0)
    assert times.look(39.0) == [] and "median is 2 s" in times.look(41.0)[0]


def test_the_first_step_may_take_longer():
    times = watch.StepTimes()
    times.began(1, Step(), 0.0)
    assert times.look(299.0) == []
    assert times.look(301.0) == ["step 1 has been running for 301 s"]


def test_the_watching_thread_reports_and_ends(monkeypatch):
    monkeypatch.setattr(watch, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(watch, "_FIRST_SECONDS", 0.0)
    lines = []
    with watch.watching(lines.append) as times:
        times.began(3, Step(), 0.0)
        while not lines:
            pass
    assert lines[0].startswith("step 3 has been running for")
