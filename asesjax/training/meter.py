"""The log lines of training: metrics of a window of steps, read while the device works on."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from asesjax.core.metric_log import MetricLog
from asesjax.core.progress import Progress
from asesjax.training.step import METRICS, named

# Peak of dense bfloat16 products, FLOP/s of a device as jax counts devices, from the makers' data
# sheets. The first name that a device's kind begins with is used.
_PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,  # v5p
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}
_SUMMED = (*(name for name in METRICS if name != "learning_rate"), "flops")
_MOST_SKIPPED = 100  # updates in a row that may be skipped


def peak_flops(device_kind: str) -> float | None:
    """Return the peak FLOP/s of a device in bfloat16, None where it is not known.

    >>> peak_flops("TPU v5 lite"), peak_flops("NVIDIA H200"), peak_flops("cpu")
    (197000000000000.0, 989000000000000.0, None)
    """
    return next((peak for name, peak in _PEAKS.items() if device_kind.startswith(name)), None)


def mesh_peak_flops(mesh: Mesh) -> float | None:
    """Return the peak FLOP/s of all devices of a mesh, None where it is not known."""
    peaks = [peak_flops(device.device_kind) for device in mesh.devices.flat]
    known = [peak for peak in peaks if peak is not None]
    return sum(known) if len(known) == len(peaks) else None


class Clock:
    """Seconds of training: a wall clock that can be paused."""

    def __init__(self, seconds: float = 0.0):
        """Start at the ``seconds`` that were spent before an interruption."""
        self._start = time.perf_counter() - seconds
        self._paused_at: float | None = None

    def seconds(self) -> float:
        """Return the seconds so far."""
        now = time.perf_counter() if self._paused_at is None else self._paused_at
        return now - self._start

    def skip(self, seconds: float) -> None:
        """Subtract seconds that have passed but were not training."""
        self._start += seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Pause during a block that is not training (evaluating, saving)."""
        self._paused_at = time.perf_counter()
        try:
            yield
        finally:
            self._start += time.perf_counter() - self._paused_at
            self._paused_at = None


@dataclasses.dataclass
class Meter:
    """Collects steps, writes a line every ``log_every`` of them, and detects diverged losses.

    ``carried`` is what ``carry`` returned before an interruption. ``totals`` holds source_tokens,
    target_tokens and examples since step 0.
    """

    log: MetricLog | None  # None on all processes but the first
    clock: Clock
    log_every: int
    total_steps: int
    carried: dataclasses.InitVar[dict[str, Any] | None]
    on_divergence: Callable[[int, str], Exception]  # of a step, from 1, and what it found: raised
    progress: Progress
    # (S, T) -> forward FLOPs of a source and of a target token
    token_flops: Callable[[int, int], tuple[float, float]] = lambda s, t: (0.0, 0.0)
    peak_flops: float | None = None  # of all devices together
    device: jax.Device | None = None  # whose peak memory is logged

    def __post_init__(self, carried: dict[str, Any] | None) -> None:
        carried = carried or {}
        self.totals = carried.get("totals") or dict.fromkeys(
            ("source_tokens", "target_tokens", "examples"), 0
        )
        self._window = _empty() | carried.get("window", {})
        self._since = carried.get("since", 0.0)
        self._skipped = carried.get("skipped_in_a_row", 0)
        self._pending: list[tuple[int, jax.Array, int, int]] = []

    def add(
        self, step: int, metrics: jax.Array, source_length: int = 0, target_length: int = 0
    ) -> None:
        """Take the metrics of the step (from 1) that was just dispatched, with S and T of its
        batch. They are read once a window, when the step after the window's last is already
        running.
        """
        metrics.copy_to_host_async()
        self._pending.append((step, metrics, source_length, target_length))
        if (step - 1) % self.log_every == 0:
            self._read(step - 1)

    def flush(self) -> None:
        """Read every step taken so far; the device is idle afterwards."""
        self._read(math.inf)

    def carry(self) -> dict[str, Any]:
        """Return what a checkpoint must keep, as JSON values. Call ``flush`` first."""
        return {
            "totals": dict(self.totals),
            "window": dict(self._window),
            "since": self._since,
            "skipped_in_a_row": self._skipped,
            "seconds": self.clock.seconds(),
        }

    def _read(self, last: float) -> None:
        ready = [entry for entry in self._pending if entry[0] <= last]
        self._pending = self._pending[len(ready) :]
        for step, metrics, *lengths in ready:
            values = named(np.asarray(metrics))
            source, target = self.token_flops(*lengths)
            # The backward pass costs twice the forward pass.
            flops = source * values["source_tokens"] + target * values["target_tokens"]
            self._count(step, values | {"flops": 3 * flops})

    def _count(self, step: int, values: dict[str, float]) -> None:
        self._skipped = self._skipped + 1 if values["skipped"] else 0
        if self._skipped == _MOST_SKIPPED:
            raise self.on_divergence(
                step, f"loss or gradients are not finite for the {_MOST_SKIPPED}th time in a row"
            )
        for name, what in (("loss_sum", "loss"), ("grad_norm", "gradient norm")):
            if not math.isfinite(values[name]):
                raise self.on_divergence(step, f"{what} is {values[name]}")
        for name in self.totals:
            self.totals[name] += int(values[name])
        window = self._window
        for name in _SUMMED:
            window[name] += values[name]
        window["steps"] += 1
        window["learning_rate"] = values["learning_rate"]
        if step % self.log_every == 0 or step == self.total_steps:
            self._write(step)

    def _write(self, step: int) -> None:
        w, seconds = self._window, self.clock.seconds()
        real = w["source_tokens"] + w["target_tokens"]
        elapsed = max(seconds - self._since, 1e-9)
        updates = max(w["steps"] - w["skipped"], 1)
        peak, memory = self.peak_flops, (self.device and self.device.memory_stats()) or {}
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
            "device_memory_bytes": memory.get("peak_bytes_in_use"),
        }
        if w["skipped"]:
            self.progress.say(
                f"step {step}: {w['skipped']:.0f} of {w['steps']:.0f} updates skipped, not finite"
            )
        if self.log is not None:
            self.log.write("train", step, **row)
        self.progress.show(
            step,
            f"loss {row['loss']:.4f}, lr {row['learning_rate']:.2e}, "
            f"{row['tokens_per_second']:.0f} tokens/s, {row['seconds']:.0f} s",
        )
        self._window, self._since = _empty(), seconds


def _empty() -> dict[str, float]:
    return dict.fromkeys((*_SUMMED, "learning_rate", "steps"), 0.0)
