"""How many optimizer steps a run takes, and at which of them it evaluates."""

from typing import Any

from asesjax.core.errors import UserError

UNITS = ("steps", "examples", "epochs", "tokens")


def n_steps(
    train: Any,
    mean_tokens_per_example: float,
    n_examples: int,
    share: float = 1.0,
    examples_per_row: float = 1.0,
) -> int:
    """Turn the length of training, given in one of four units, into optimizer steps.

    Args:
      train: the ``train`` section of the configuration.
      mean_tokens_per_example: real source and target tokens of an example, on average.
      n_examples: examples of an epoch.
      share: what part of the length this role gets; roles of a method share one budget.
      examples_per_row: more than 1 where they are packed; a batch has ``train.batch_size`` rows.

    Returns:
      Steps, at least 1.

    Raises:
      UserError: none or several of steps, examples, epochs, tokens are set, one is negative, or
        there are no examples.

    Example:
      >>> from asesjax.train.options import TrainOptions
      >>> train = TrainOptions(tokens=2_000_000, batch_size=64)
      >>> n_steps(train, mean_tokens_per_example=100.0, n_examples=5000)  # 2e6 / (64 * 100)
      312
    """
    given = {unit: value for unit in UNITS if (value := getattr(train, unit)) != 0}
    if len(given) != 1:
        got = ", ".join(f"train.{unit}={value}" for unit, value in given.items()) or "none"
        raise UserError(
            "the length of training must be given by exactly one of train.steps, train.examples, "
            f"train.epochs and train.tokens, got {got}; set the others to 0"
        )
    ((unit, value),) = given.items()
    if value < 0:
        raise UserError(f"train.{unit} must be positive, got {value}")
    if n_examples < 1:
        raise UserError("there are no training examples; look at data.n_train and data.path")
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    batch = train.batch_size * examples_per_row
    examples = {
        "steps": value * batch,
        "examples": value,
        "epochs": value * n_examples,
        "tokens": value / mean_tokens_per_example,
    }[unit]
    return max(1, round(examples * share / batch))


def evaluation_steps(total_steps: int, share: float) -> list[int]:
    """Return the steps at which validation loss is computed and a checkpoint kept for good.

    Args:
      total_steps: of the run.
      share: distance between two of them as a share of the run, in (0, 1].

    Returns:
      Increasing steps; the last is ``total_steps``, step 0 is not among them.

    Raises:
      UserError: ``share`` out of range.

    Example:
      >>> evaluation_steps(10, 0.25), evaluation_steps(2, 0.25), evaluation_steps(10, 0.4)
      ([2, 5, 8, 10], [1, 2], [4, 8, 10])
    """
    if not 0 < share <= 1:
        raise UserError(f"train.evaluate_every_share must be in (0, 1], got {share}")
    # The small term lets 0.1 ten times be 1.
    steps = {round(total_steps * share * k) for k in range(1, int(1 / share + 1e-9) + 1)}
    return sorted(step for step in steps | {total_steps} if 0 < step <= total_steps)
