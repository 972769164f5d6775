"""Figures of a run, drawn from its report and metrics files with matplotlib (extra ``[viz]``)."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.metric_log import read_metrics

# One colour a method in every figure, told apart under colour blindness (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
KINDS = ("ES", "AS", "missing", "extra")


def load_pyplot() -> Any:
    """Import matplotlib for writing files; ``UserError`` where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("figures need matplotlib: pip install 'asesjax[viz]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def learning_curves(rows: Sequence[dict], path: str | Path, axis: str = "tokens") -> Path:
    """Plot validation accuracy over ``"tokens"`` or ``"seconds"`` of training, a line a method."""
    with plot(path, f"training {axis}", "accuracy on validation, % (band: 95 % interval)") as axes:
        for row, colour in coloured(rows):
            x = [point[axis] for point in row["curve"]]
            y = [100 * point["accuracy"] for point in row["curve"]]
            axes.plot(x, y, "o-", color=colour, label=row["method"])
            low, high = ([100 * p["interval"][i] for p in row["curve"]] for i in (0, 1))
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set_ylim(0, 100)
    return Path(path)


def accuracy_by_length(rows: Sequence[dict], path: str | Path) -> Path:
    """Draw accuracy on test questions against the tokens written for one, a point a report row."""
    with plot(path, "tokens written for a question", "accuracy, % (bar: 95 % interval)") as axes:
        for row, colour in coloured(rows):
            x, y = row["tokens_per_question"], 100 * row["accuracy"]
            low, high = (100 * end for end in row["accuracy_interval"])
            axes.errorbar(x, y, [[y - low], [high - y]], fmt="o", color=colour, capsize=3,
                          label=row["method"])  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_ylim(0, 100)
    return Path(path)


def loss_curves(metrics: dict[str, Path], path: str | Path) -> Path:
    """Draw the training loss of each role against training tokens, from its metrics.jsonl."""
    with plot(path, "training tokens", "loss, nats a target token") as axes:
        for (name, file), colour in coloured(metrics.items()):
            points = read_metrics(file, "train")
            x, y = ([point[key] for point in points] for key in ("tokens", "loss"))
            axes.plot(x, y, color=colour, label=name)
        axes.set_yscale("log")
    return Path(path)


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


def save_figure(figure: Any, path: str | Path) -> Path:
    """Write a figure, make its folder if needed, and close it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    load_pyplot().close(figure)
    return path


@contextlib.contextmanager
def plot(path: str | Path, xlabel: str, ylabel: str) -> Iterator[Any]:
    """Yield the axes of a plot with grid and legend, and save it afterwards."""
    figure, axes = load_pyplot().subplots(figsize=(6.4, 4.0), layout="constrained")
    yield axes
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    save_figure(figure, path)


def coloured(items: Iterable) -> Iterator[tuple[Any, str]]:
    """Yield each item with a colour of its own."""
    return zip(items, COLOURS * 9, strict=False)
