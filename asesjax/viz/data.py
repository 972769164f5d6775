"""Views of training data: histograms of lengths, and examples with the weights of targets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asesjax.core.errors import harmless
from asesjax.viz.curves import COLOURS, load_pyplot, save_figure

_DIM, _BOLD, _END = "\x1b[2m", "\x1b[1m", "\x1b[0m"


def histogram_text(title: str, lengths: Sequence[int], bins: int = 10, width: int = 40) -> str:
    """Draw a histogram of lengths (0 or more) as text, at most ``bins`` bins of one whole width.

    >>> print(histogram_text("tokens", [1, 2, 2, 9], bins=2, width=4))
    tokens
      0..4  3 ####
      5..9  1 ##
    """
    values = np.asarray(lengths, np.int64)
    step = max(1, -(-(int(values.max()) + 1) // bins))
    counts = np.bincount(values // step)
    starts, most = range(0, step * len(counts), step), int(counts.max())
    names = [f"{start}..{start + step - 1}" if step > 1 else str(start) for start in starts]
    left, right = max(map(len, names)), len(str(most))
    lines = [
        f"  {name:>{left}}  {count:>{right}} {'#' * -(-count * width // most)}".rstrip()
        for name, count in zip(names, counts.tolist(), strict=True)
    ]
    return "\n".join([title, *lines])


def example_text(
    name: str, source: str, runs: Sequence[tuple[str, float]], colour: bool = True
) -> str:
    """Write an example: its input, and its target with the weight of each run of tokens. On a
    terminal (``colour``) weights above 1 are bold, those below 1 dim.
    """
    parts = []
    for text, weight in runs:
        start = "" if not colour or weight == 1 else _BOLD if weight > 1 else _DIM
        parts.append(f"({weight:g}) {start}{harmless(text)}{_END if start else ''}")
    return f"{harmless(name)}\n  input   {harmless(source)}\n  target  {' '.join(parts)}"


def length_figure(
    lengths: dict[str, tuple[Sequence[int], Sequence[int]]], path: str | Path
) -> Path:
    """Draw histograms of each name's source and target lengths, in tokens, into a PNG file."""
    pyplot = load_pyplot()
    figure, grid = pyplot.subplots(
        len(lengths), 2, figsize=(8, 1 + 1.8 * len(lengths)), layout="constrained", squeeze=False
    )
    for axes, (name, sides) in zip(grid, lengths.items(), strict=True):
        plots = zip(axes, sides, ("source", "target"), COLOURS, strict=False)
        for plot, values, side, colour in plots:
            step = -(-(max(values) - min(values) + 1) // 40)  # whole, so that no bin holds more
            plot.hist(values, bins=range(min(values), max(values) + step + 1, step), color=colour)
            plot.set_title(f"{name}: {side}", fontsize="medium")
            plot.set_xlim(0)
            plot.grid(alpha=0.3)
    for plot in grid[-1]:
        plot.set_xlabel("tokens")
    figure.supylabel("examples")
    return save_figure(figure, path)
