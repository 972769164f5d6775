"""A picture of the slots of the decode engine, which question each of them writes when."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from asesjax.viz.curves import COLOURS, load_pyplot, save_figure

_COLOURS = COLOURS[:-1]  # without black


def slot_pictures(
    runs: Mapping[str, Sequence[tuple[str, Sequence[int]]]], path: str | Path
) -> Path:
    """Draw runs below each other, with decoder steps to the right and slots downwards, those of
    each role together. ``runs`` are the steps of each by its title: the role that wrote and the
    question of each slot, -1 where it was idle (``decode.predict.watched``). A question keeps its
    colour; neighbours differ.
    """
    from matplotlib.colors import ListedColormap

    pictures = {title: _picture(steps) for title, steps in runs.items()}
    height = 0.8 + sum(0.9 + 0.13 * len(cells) for cells, _ in pictures.values())
    figure, panels = load_pyplot().subplots(
        len(runs), sharex=True, squeeze=False, figsize=(7.5, height), layout="constrained",
        height_ratios=[6 + len(cells) for cells, _ in pictures.values()],
    )  # fmt: skip
    longest = max(cells.shape[1] for cells, _ in pictures.values())
    for axes, (title, (cells, roles)) in zip(panels[:, 0], pictures.items(), strict=True):
        shown = np.where(cells < 0, np.nan, cells % len(_COLOURS))
        axes.imshow(shown, ListedColormap(_COLOURS), aspect="auto", interpolation="nearest",
                    vmin=-0.5, vmax=len(_COLOURS) - 0.5)  # fmt: skip
        busy = (cells >= 0).sum() / max(sum(len(slots) for _, slots in runs[title]), 1)
        axes.set_title(f"{title}: {cells.shape[1]:,} steps, slots busy {busy:.0%}")
        each = len(cells) // len(roles)
        axes.set_yticks([each * (i + 0.5) - 0.5 for i in range(len(roles))], roles)
        for i in range(1, len(roles)):
            axes.axhline(each * i - 0.5, color="black", linewidth=0.8)
        axes.set_ylabel("slots")
        axes.set_xlim(-0.5, longest - 0.5)
    panels[-1, 0].set_xlabel("decoder steps")
    return save_figure(figure, path)


def _picture(steps: Sequence[tuple[str, Sequence[int]]]) -> tuple[np.ndarray, list[str]]:
    """Return the question of each slot at each step, int [slots of all roles, steps] (-1: none),
    and the roles.
    """
    roles = list(dict.fromkeys(role for role, _ in steps))
    each = max(len(questions) for _, questions in steps)
    cells = np.full((each * len(roles), len(steps)), -1)
    for place, (role, questions) in enumerate(steps):
        first = each * roles.index(role)
        cells[first : first + len(questions), place] = questions
    return cells, roles
