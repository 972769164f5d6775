"""Figures of a run, drawn from its report and metrics files with matplotlib (extra ``[viz]``)."""

import contextlib
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.metric_log import read_metrics

# Told apart under colour blindness (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_SALT = 17648  # by which the usual rows have colours of their own, see ``colours``
# Kinds of first wrong sentences, none in the colour of a method.
KINDS = {"ES": "#8fd0e0", "AS": "#ffd166", "missing": "#9a9a9a", "extra": "#5a5a5a"}


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
    of_row = colours(row["method"] for row in rows)
    title = f"Accuracy by {axis} of training"
    with plot(path, title, f"training {axis}", "validation, % (band: 95 % interval)") as axes:
        for row in rows:
            colour = of_row[row["method"]]
            x = [point[axis] for point in row["curve"]]
            y = [100 * point["accuracy"] for point in row["curve"]]
            axes.plot(x, y, "o-", color=colour, label=row["method"])
            low, high = ([100 * p["interval"][i] for p in row["curve"]] for i in (0, 1))
            axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        axes.set_ylim(0, 100)
    return Path(path)


def accuracy_by_length(rows: Sequence[dict], path: str | Path) -> Path:
    """Draw accuracy on test questions against the tokens written for one, a point a report row."""
    of_row = colours(row["method"] for row in rows)
    title, ylabel = "Accuracy by length of the chain", "accuracy, % (bar: 95 % interval)"
    with plot(path, title, "tokens written for a question", ylabel) as axes:
        for row in rows:
            colour = of_row[row["method"]]
            x, y = row["tokens_per_question"], 100 * row["accuracy"]
            low, high = (100 * end for end in row["accuracy_interval"])
            axes.errorbar(x, y, [[y - low], [high - y]], fmt="o", color=colour, capsize=3,
                          label=row["method"])  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_ylim(0, 100)
    return Path(path)


def loss_curves(metrics: dict[str, Path], path: str | Path) -> Path:
    """Draw training and validation loss of each role (``row/role``) against training tokens, from
    its metrics.jsonl. Roles of a row have its colour and lines of their own.
    """
    look = role_looks(metrics)
    title = "Training loss, and validation loss (points)"
    with plot(path, title, "training tokens", "loss, nats a target token") as axes:
        for name, file in metrics.items():
            axes.plot(*_points(file, "train", "loss"), **look[name], linewidth=1, label=name)
            points = look[name] | {"linestyle": "none", "marker": "o", "markersize": 4}
            axes.plot(*_points(file, "validation", "validation_loss"), **points)
        log_scale(axes)
    return Path(path)


def _points(file: Path, kind: str, value: str) -> tuple[list, list]:
    points = [row for row in read_metrics(file, kind) if row.get(value) is not None]
    return [row["tokens"] for row in points], [row[value] for row in points]


def error_kinds(rows: Sequence[dict], path: str | Path) -> Path:
    """Draw, for each method, the share of chains whose first wrong sentence is of each kind."""
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(figsize=(6.4, 3.2), layout="constrained")
    names = [row["method"] for row in rows]
    left = [0.0] * len(rows)
    for kind, colour in KINDS.items():
        shares = [100 * row["first_wrong"].get(kind, 0) / row["questions"] for row in rows]
        axes.barh(names, shares, left=left, color=colour, label=kind)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("chains, % (the rest are right sentence by sentence)")
    figure.suptitle("First wrong sentence of a chain", fontsize="large")
    figure.legend(ncols=len(KINDS), loc="outside lower center")
    return save_figure(figure, path)


def save_figure(figure: Any, path: str | Path) -> Path:
    """Write a figure, make its folder if needed, and close it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    load_pyplot().close(figure)
    return path


@contextlib.contextmanager
def plot(path: str | Path, title: str, xlabel: str, ylabel: str) -> Iterator[Any]:
    """Yield the axes of a plot with title, grid, plain numbers and legend, and save it
    afterwards.
    """
    figure, axes = load_pyplot().subplots(figsize=(6.4, 4.0), layout="constrained")
    axes.locator_params(axis="x", nbins=6)  # so that whole numbers have room
    axes.xaxis.set_major_formatter(_plain)
    axes.yaxis.set_major_formatter(_plain)
    yield axes
    axes.set_title(title, fontsize="large")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    save_figure(figure, path)


def _plain(value: float, place: int | None = None) -> str:
    """Write the number of a tick: 20,000 and 0.05 instead of 2e4 and 5 times a power of ten."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def log_scale(axes: Any) -> None:
    """Make the y axis logarithmic, with plain numbers at more places than powers of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axes.dataLim.intervaly
    if not 0 < low < high:  # nothing to draw, or one value
        return
    axes.set_yscale("log")
    several = (1, 2, 5) if high > 8 * low else range(1, 10)
    axes.yaxis.set_major_locator(LogLocator(subs=several))
    axes.yaxis.set_major_formatter(_plain)
    axes.yaxis.set_minor_formatter(NullFormatter())


def colours(names: Iterable[str]) -> dict[str, str]:
    """Return a colour for each name, the same in every figure: one that its letters decide, or,
    where another of the figure's names has it, the next that is free.
    """
    taken: dict[str, str] = {}
    for name in dict.fromkeys(names):
        first = zlib.crc32(name.encode(), _SALT) % len(COLOURS)
        order = COLOURS[first:] + COLOURS[:first]
        free = [colour for colour in order if colour not in taken.values()]
        taken[name] = (free or order)[0]
    return taken


def role_looks(roles: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return how to draw each role (``row/role``): in the colour of its row, with a style of its
    own.
    """
    rows = {role: role.partition("/")[0] for role in roles}
    of_row, drawn, out = colours(rows.values()), dict.fromkeys(rows.values(), 0), {}
    for role, row in rows.items():
        out[role] = {"color": of_row[row], "linestyle": ("-", "--", ":", "-.")[drawn[row] % 4]}
        drawn[row] += 1
    return out
