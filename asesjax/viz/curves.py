"""Figures of a run, drawn from its report and metrics files with matplotlib (extra ``[viz]``)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.metric_log import read_metrics

# One colour a method in every figure; the palette stays apart under colour blindness.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
KINDS = ("ES", "AS", "missing", "extra")


def load_pyplot() -> Any:
    """Import matplotlib for files alone.

    Raises:
      UserError: it is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise UserError("figures need matplotlib: pip install 'asesjax[viz]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def learning_curves(rows: Sequence[dict], path: str | Path, axis: str = "tokens") -> Path:
    """Draw accuracy on validation questions against the training budget, one line a method.

    Args:
      rows: report rows with ``method`` and ``curve``: a list of points that have ``accuracy``,
        ``interval`` and the axis.
      path: PNG file to write.
      axis: ``"tokens"`` or ``"seconds"``.
    """
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    for row, colour in zip(rows, COLOURS * 9, strict=False):
        points = row["curve"]
        x = [point[axis] for point in points]
        axes.plot(x, [100 * p["accuracy"] for p in points], "o-", color=colour, label=row["method"])
        low, high = ([100 * p["interval"][i] for p in points] for i in (0, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.set_xlabel("training tokens" if axis == "tokens" else "training seconds")
    axes.set_ylabel("accuracy on validation, % (band: 95 % interval)")
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, path)


def accuracy_by_length(rows: Sequence[dict], path: str | Path) -> Path:
    """Draw accuracy on test questions against the tokens written for one, a point a method.

    Args:
      rows: report rows with ``method``, ``tokens_per_question``, ``accuracy`` and
        ``accuracy_interval``.
      path: PNG file to write.
    """
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    for row, colour in zip(rows, COLOURS * 9, strict=False):
        x, y = row["tokens_per_question"], 100 * row["accuracy"]
        low, high = (100 * end for end in row["accuracy_interval"])
        axes.errorbar(x, y, [[y - low], [high - y]], fmt="o", color=colour, capsize=3,
                      label=row["method"])
    axes.set_xlabel("tokens written for a question")
    axes.set_ylabel("accuracy, % (bar: 95 % interval)")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 100)
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, path)


def error_kinds(rows: Sequence[dict], path: str | Path) -> Path:
    """Draw, for each method, the share of chains whose first wrong sentence is of each kind."""
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(figsize=(6.4, 3.2), layout="constrained")
    names = [row["method"] for row in rows]
    left = [0.0] * len(rows)
    for kind, colour in zip(KINDS, COLOURS, strict=False):
        shares = [100 * row["first_wrong"].get(kind, 0) / row["questions"] for row in rows]
        axes.barh(names, shares, left=left, color=colour, label=kind)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("chains, % (the rest are right sentence by sentence)")
    figure.legend(title="first wrong sentence", ncols=len(KINDS), loc="outside upper center")
    return save_figure(figure, path)


def loss_curves(metrics: dict[str, Path], path: str | Path) -> Path:
    """Draw the training loss of each role against training tokens, from its metrics.jsonl."""
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    for (name, file), colour in zip(metrics.items(), COLOURS * 9, strict=False):
        points = read_metrics(file, "train")
        axes.plot([p["tokens"] for p in points], [p["loss"] for p in points], color=colour,
                  label=name)
    axes.set_xlabel("training tokens")
    axes.set_ylabel("loss, nats a target token")
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, path)


def save_figure(figure: Any, path: str | Path) -> Path:
    """Write a figure, its folder made if absent, and forget it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    load_pyplot().close(figure)
    return path
