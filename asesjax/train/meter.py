"""Turns the metrics of single steps into log lines, without making the device wait."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from asesjax.core.metric_log import MetricLog
from asesjax.core.progress import Progress
from asesjax.train.hardware import peak_memory
from asesjax.train.step import METRICS, named

_SUMMED = tuple(name for name in METRICS if name != "learning_rate")
_MOST_SKIPPED = 100  # updates in a row that may be left out


class Clock:
    """Seconds of training: the wall clock, standing still where it is paused."""

    def __init__(self, seconds: float = 0.0):
        """Start at ``seconds``, those spent before an interruption."""
        self._start = time.perf_counter() - seconds
        self._paused_at: float | None = None

    def seconds(self) -> float:
        """Return the seconds so far."""
        now = time.perf_counter() if self._paused_at is None else self._paused_at
        return now - self._start

    def skip(self, seconds: float) -> None:
        """Take out seconds that have passed but were not training."""
        self._start += seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stand still in a block that is not training (evaluating, saving)."""
        self._paused_at = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - self._paused_at
            self._paused_at = None


class Meter:
    """Collects steps, writes a line every ``log_every`` of them, and finds diverged losses.

    Attributes:
      totals: source_tokens, target_tokens and examples so far, interruptions included.
    """

    def __init__(
        self,
        log: MetricLog | None,
        clock: Clock,
        log_every: int,
        total_steps: int,
        carried: dict[str, Any] | None,
        on_divergence: Callable[[int, str], Exception],
        progress: Progress,
        token_flops: Callable[[int, int], tuple[float, float]] = lambda s, t: (0.0, 0.0),
        peak_flops: float | None = None,
        device: jax.Device | None = None,
    ):
        """Start, or go on from what ``carry`` returned before an interruption.

        Args:
          log: where lines go; None on all processes but the first.
          clock: of the training seconds.
          log_every: steps a line covers.
          total_steps: of the run; a last line is written there.
          carried: from ``carry``, or None at the start.
          on_divergence: (step, what) -> the exception to raise; the step counts from 1.
          progress: gets every line.
          token_flops: (S, T) -> forward operations of a source and of a target token.
          peak_flops: of all devices together, a second; None where it is not known.
          device: whose memory is told; None for no device.
        """
        carried = carried or {}
        self.totals = carried.get("totals") or dict.fromkeys(
            ("source_tokens", "target_tokens", "examples"), 0
        )
        self._window = _empty() | carried.get("window", {})
        self._since = carried.get("since", 0.0)
        self._skipped = carried.get("skipped_in_a_row", 0)
        self._pending: list[tuple[int, jax.Array, int, int]] = []
        self._token_flops, self._peak_flops, self._device = token_flops, peak_flops, device
        self._log, self._clock, self._progress = log, clock, progress
        self._log_every, self._total = log_every, total_steps
        self._on_divergence = on_divergence

    def add(
        self, step: int, metrics: jax.Array, source_length: int = 0, target_length: int = 0
    ) -> None:
        """Take the vector of the step that was just dispatched; read it later.

        Steps are read once a window, when the step after the window's last is already under way.

        Args:
          step: counts from 1.
          metrics: what it reports.
          source_length: S of its batch.
          target_length: T of its batch.
        """
        metrics.copy_to_host_async()
        self._pending.append((step, metrics, source_length, target_length))
        if (step - 1) % self._log_every == 0:
            self._read(step - 1)

    def flush(self) -> None:
        """Read every step taken so far; the device is idle afterwards."""
        self._read(math.inf)

    def carry(self) -> dict[str, Any]:
        """Return what a checkpoint must keep, as JSON values. Call ``flush`` before."""
        return {
            "totals": dict(self.totals),
            "window": dict(self._window),
            "since": self._since,
            "skipped_in_a_row": self._skipped,
            "seconds": self._clock.seconds(),
        }

    def _read(self, last: float) -> None:
        ready = [entry for entry in self._pending if entry[0] <= last]
        self._pending = self._pending[len(ready) :]
        for step, metrics, *lengths in ready:
            values = named(np.asarray(metrics))
            source, target = self._token_flops(*lengths)
            # The backward pass costs twice the forward pass.
            flops = source * values["source_tokens"] + target * values["target_tokens"]
            self._count(step, values | {"flops": 3 * flops})

    def _count(self, step: int, values: dict[str, float]) -> None:
        self._skipped = self._skipped + 1 if values["skipped"] else 0
        if self._skipped == _MOST_SKIPPED:
            raise self._on_divergence(
                step, f"loss or gradients are not finite for the {_MOST_SKIPPED}th time in a row"
            )
        for name, what in (("loss_sum", "loss"), ("grad_norm", "gradient norm")):
            if not math.isfinite(values[name]):
                raise self._on_divergence(step, f"{what} is {values[name]}")
        for name in self.totals:
            self.totals[name] += int(values[name])
        window = self._window
        for name in (*_SUMMED, "flops"):
            window[name] += values[name]
        window["steps"] += 1
        window["learning_rate"] = values["learning_rate"]
        if step % self._log_every == 0 or step == self._total:
            self._write(step)

    def _write(self, step: int) -> None:
        w, seconds = self._window, self._clock.seconds()
        real = w["source_tokens"] + w["target_tokens"]
        elapsed = max(seconds - self._since, 1e-9)
        updates = max(w["steps"] - w["skipped"], 1)
        peak, device = self._peak_flops, self._device
        row = {
            "loss": w["loss_sum"] / w["normalizer"] if w["normalizer"] else 0.0,
            "nll": w["nll_sum"] / w["weight_sum"] if w["weight_sum"] else 0.0,
            "accuracy": w["correct_sum"] / w["weight_sum"] if w["weight_sum"] else 0.0,
            "learning_rate": w["learning_rate"],
            "grad_norm": w["grad_norm"] / updates,
            "update_norm": w["update_norm"] / updates,
            "skipped": int(w["skipped"]),
            "tokens": self.totals["source_tokens"] + self.totals["target_tokens"],
            **self.totals,
            "seconds": round(seconds, 3),
            "step_seconds": round(elapsed / w["steps"], 6),
            "tokens_per_second": round(real / elapsed, 1),
            "padding_share": 1.0 - real / w["positions"],
            "flops_per_second": round(w["flops"] / elapsed),
            # Of the peak in bfloat16, whatever the model computes in.
            "flops_utilisation": round(w["flops"] / elapsed / peak, 4) if peak else None,
            "device_memory_bytes": peak_memory(device) if device is not None else None,
        }
        if w["skipped"]:
            self._progress.say(
                f"step {step}: {w['skipped']:.0f} of {w['steps']:.0f} updates left out, not finite"
            )
        if self._log is not None:
            self._log.write("train", step, **row)
        self._progress.show(
            step,
            f"loss {row['loss']:.4f}, lr {row['learning_rate']:.2e}, "
            f"{row['tokens_per_second']:.0f} tokens/s, {row['seconds']:.0f} s",
        )
        self._window, self._since = _empty(), seconds


def _empty() -> dict[str, float]:
    return dict.fromkeys((*_SUMMED, "flops", "learning_rate", "steps"), 0.0)
