"""When training ends: its steps, its evaluations and early stopping."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.options import MOST
from asesjax.training.options import DECODED, OF_ROLES

UNITS = ("steps", "examples", "epochs", "tokens")


def n_steps(
    train: Any,
    mean_tokens_per_example: float,
    n_examples: int,
    share: float = 1.0,
    examples_per_row: float = 1.0,
) -> int:
    """Convert the length of training, given in one of four units, to optimizer steps (at least 1).

    ``share`` in (0, 1] is this role's part of steps and of tokens (real source and target tokens),
    which the roles of a method share; each role gets all epochs and examples over its own examples.
    ``examples_per_row`` is above 1 for packed rows, of which a batch has ``train.batch_size``.
    Raises UserError unless exactly one of steps, examples, epochs and tokens is set and there are
    examples.
    """
    unit, value = length(train)
    if n_examples < 1:
        raise UserError("there are no training examples; look at data.n_train and data.path")
    batch = train.batch_size * examples_per_row
    examples = {
        "steps": value * batch * share,
        "examples": value,
        "epochs": value * n_examples,
        "tokens": value / mean_tokens_per_example * share,
    }[unit]
    steps = examples / batch
    if steps > MOST:
        raise UserError(f"train.{unit}={value:g} makes {steps:.3g} steps; {MOST} at most can be")
    return max(1, round(steps))


def length(train: Any) -> tuple[str, float]:
    """Return the unit of the length of training, and how many. Raises UserError unless exactly one
    of the units is set.
    """
    given = {unit: getattr(train, unit) for unit in UNITS if getattr(train, unit) != 0}
    if len(given) != 1:
        got = ", ".join(f"train.{unit}={value}" for unit, value in given.items()) or "none"
        raise UserError(
            "the length of training must be given by exactly one of train.steps, train.examples, "
            f"train.epochs and train.tokens, got {got}; set the others to 0"
        )
    ((unit, value),) = given.items()
    return unit, value


def evaluation_steps(total_steps: int, share: float) -> list[int]:
    """Return the steps of evaluations and of checkpoints that are never deleted, ``share`` of the
    run apart, the last step included. How many depends on the share alone, so that those of all
    roles of a method are at the same shares of training; in a very short run, steps repeat.

    >>> evaluation_steps(10, 0.25), evaluation_steps(2, 0.25), evaluation_steps(10, 0.4)
    ([2, 5, 8, 10], [1, 1, 2, 2], [4, 8, 10])
    """
    # The small term makes ten times 0.1 equal 1.
    n = int(1 / share + 1e-9)
    steps = [max(1, round(total_steps * share * k)) for k in range(1, n + 1)]
    return steps if n * share > 1 - 1e-9 else [*steps, total_steps]


def check_early_stopping(train: Any, n_validation: int) -> None:
    """Refuse ``patience`` without ``keep_best``, or a role's measure without its examples."""
    if train.patience and not train.keep_best:
        raise UserError(
            f"train.patience {train.patience} needs a train.keep_best, one of "
            f"{', '.join((*OF_ROLES, *DECODED))}, and 0 turns it off"
        )
    if train.keep_best in OF_ROLES and not n_validation:
        raise UserError(
            f"train.keep_best {train.keep_best!r} needs validation examples; look at "
            "data.n_validation, or set train.keep_best=''"
        )


def best_step(evaluations: Sequence[dict[str, Any]], metric: str) -> int:
    """Return the step of the best evaluation by a measure of ``train.keep_best`` (of
    "validation_loss" less is better); NaN is the worst. Of equals it is the last one by what was
    decoded: few questions tell little, and it has learned most.
    """
    return min(evaluations[:: -1 if metric in DECODED else 1], key=_cost(metric))["step"]


def _cost(metric: str) -> Callable[[dict[str, Any]], float]:
    sign = 1.0 if metric == "validation_loss" else -1.0
    return lambda row: math.inf if math.isnan(row[metric]) else sign * row[metric]


def gave_up(evaluations: Sequence[dict[str, Any]], train: Any) -> bool:
    """Tell whether the last ``train.patience`` evaluations were no better than an earlier one, by a
    measure that they have.
    """
    if not train.patience or not evaluations or train.keep_best not in evaluations[-1]:
        return False
    if train.keep_best in DECODED and not any(row[train.keep_best] for row in evaluations):
        return False  # nothing right yet says nothing of them
    best = min(evaluations, key=_cost(train.keep_best))["step"]
    return sum(row["step"] > best for row in evaluations) >= train.patience
