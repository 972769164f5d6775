"""When training stops before its last step: on SIGTERM, or when validation gains no more."""

import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from jax.experimental import multihost_utils

from asesjax.core.errors import UserError


@contextmanager
def on_sigterm() -> Iterator[threading.Event]:
    """Set an event on SIGTERM, where a signal can be handled and jax does not do it."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)


def must_stop(event: threading.Event, step: int) -> bool:
    """Tell whether SIGTERM came; several processes agree on the same step.

    To be asked at every step.
    """
    if jax.process_count() > 1:
        return multihost_utils.reached_preemption_sync_point(step)
    return event.is_set()


def check_early_stopping(train: Any, n_validation: int) -> None:
    """Check ``train.keep_best`` and ``train.patience``.

    Args:
      train: the ``train`` section.
      n_validation: validation examples there are.

    Raises:
      UserError: patience without a metric, or a metric without validation examples.
    """
    if train.patience < 0 or (train.patience and not train.keep_best):
        raise UserError(
            f"train.patience {train.patience} needs train.keep_best=validation_loss or "
            "validation_accuracy, and 0 turns it off"
        )
    if train.keep_best and not n_validation:
        raise UserError(
            f"train.keep_best {train.keep_best!r} needs validation examples; look at "
            "data.n_validation, or set train.keep_best=''"
        )


def best_step(evaluations: Sequence[dict[str, Any]], metric: str) -> int:
    """Return the step of the best evaluation, the first of equals.

    Args:
      evaluations: rows with ``step`` and the metric, in order.
      metric: ``"validation_loss"`` (less is better) or ``"validation_accuracy"``.

    Example:
      >>> rows = [{"step": 2, "validation_loss": 3.0}, {"step": 4, "validation_loss": 2.0},
      ...         {"step": 6, "validation_loss": 2.5}]
      >>> best_step(rows, "validation_loss")
      4
    """
    sign = -1.0 if metric == "validation_accuracy" else 1.0
    worth = lambda row: math.inf if math.isnan(row[metric]) else sign * row[metric]  # noqa: E731
    return min(evaluations, key=worth)["step"]


def gave_up(evaluations: Sequence[dict[str, Any]], train: Any) -> bool:
    """Tell whether the last ``train.patience`` evaluations were no better than one before.

    Args:
      evaluations: as in ``best_step``.
      train: the ``train`` section.
    """
    if not train.patience or not evaluations:
        return False
    best = best_step(evaluations, train.keep_best)
    return sum(row["step"] > best for row in evaluations) >= train.patience
