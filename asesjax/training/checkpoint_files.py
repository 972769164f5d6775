"""The folders of checkpoints: which there are, and whether their files are as they were written."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from asesjax.core.errors import UserError
from asesjax.core.files import changed_files, checksum, read_json, write_json

PREFIX = "step"
_CHECKSUMS = "files.json"
_ITEMS = ("params", "opt_state", "cursor", "model.json", "vocab")
OF_WEIGHTS = ("params", "model.json", "vocab")  # the items that decoding needs


def steps(folder: str | Path) -> list[int]:
    """List the steps of the finished checkpoints in a folder, in increasing order."""
    names = (entry.name for entry in Path(folder).glob(f"{PREFIX}_*") if entry.is_dir())
    return sorted(int(m[1]) for name in names if (m := re.fullmatch(rf"{PREFIX}_(\d+)", name)))


def step_folder(folder: str | Path, step: int) -> Path:
    """Return where the checkpoint of a step lies."""
    return Path(folder) / f"{PREFIX}_{step}"


def find_checkpoint(path: str | Path, step: int | None = None) -> Path:
    """Return the folder of one checkpoint, or raise a UserError. ``path`` is a role, its
    ``checkpoints``, the output of ``asesjax convert``, or a checkpoint; ``step`` None stands for
    the selected one of a finished role (``best_step`` in ``result.json``), else the newest.
    """
    path = Path(path).absolute()
    if (path / "params").is_dir():
        return path
    if step is None and (path / "result.json").is_file():
        step = read_json(path / "result.json").get("best_step")
    for folder in (path / "checkpoints", path):
        if there := steps(folder):
            if step is None or step in there:
                return step_folder(folder, there[-1] if step is None else step)
            raise UserError(
                f"{folder} has no checkpoint of step {step}; it has those of steps "
                f"{', '.join(map(str, there))}"
            )
    where = f"{path}" if path.exists() else f"{path}, which does not exist"
    raise UserError(
        f"no checkpoint in {where}; expected a role's folder with checkpoints/{PREFIX}_<n>, or "
        f"one folder {PREFIX}_<n>; model.init_from also takes a folder of Hugging Face "
        "(config.json and safetensors)"
    )


def write_checksums(place: Path) -> None:
    """Write the size and CRC-32 of every file of a checkpoint into its ``files.json``."""
    write_json(place / _CHECKSUMS, {name: checksum(place / name) for name in _files(place)})


def find_damage(place: Path, items: Sequence[str] = _ITEMS) -> str:
    """Compare files of a checkpoint with its checksums; return what is wrong or ""."""
    try:
        expected = {name: sums for name, sums in read_json(place / _CHECKSUMS).items()
                    if name.split("/")[0] in items}  # fmt: skip
    except UserError as error:
        return str(error)
    unknown = [name for name in _files(place, items) if name not in expected]
    if unknown or not expected:
        return f"{_CHECKSUMS} does not name {unknown[0] if unknown else 'its files'}"
    wrong = changed_files(place, expected)
    return wrong[0][1] if wrong else ""


def _files(place: Path, items: Sequence[str] = _ITEMS) -> list[str]:
    # Orbax writes marks of its own beside the items, and into them, when ours is done.
    paths = sorted(path for item in items for path in (place / item, *(place / item).rglob("*")))
    return [path.relative_to(place).as_posix() for path in paths
            if path.is_file() and path.name != "commit_success.txt"]  # fmt: skip


_AGAIN = (
    "asesjax run trains it again once the record of its training, stages/train-*.json, is removed"
)


def find_whole(
    path: str | Path, step: int | None = None, say: Callable[[str], None] = print
) -> Path:
    """Return what ``find_checkpoint`` finds if its parameters are as they were written. Where they
    are not and no step was asked for, it is the newest before it that is whole, and ``say`` gets a
    warning; otherwise that is a UserError.
    """
    place = find_checkpoint(path, step)
    damage = find_damage(place, OF_WEIGHTS)
    if not damage:
        return place
    if step is None and place != Path(path).absolute():
        own = int(place.name.removeprefix(f"{PREFIX}_"))
        for earlier in reversed([n for n in steps(place.parent) if n < own]):
            other = step_folder(place.parent, earlier)
            if not find_damage(other, OF_WEIGHTS):
                say(f"warning: checkpoint {place} is damaged ({damage}); {other.name} before it is "
                    f"used; {_AGAIN}")  # fmt: skip
                return other
    raise UserError(
        f"checkpoint {place} is damaged ({damage}); put back what was written, or give an earlier "
        f"one; {_AGAIN}"
    )


def drop_damaged(folder: str | Path, kept: Iterable[int]) -> str:
    """Rename the first checkpoint with damaged parameters and all after it; return what was wrong
    with it, or "". Process 0 calls this, while the others wait.
    """
    places = (step_folder(folder, step) for step in sorted(kept))
    damage, first = next(((found, place) for place in places
                          if (found := find_damage(place, OF_WEIGHTS))), ("", None))  # fmt: skip
    if first is None:
        return ""
    for step in steps(folder):
        place = step_folder(folder, step)
        if place == first or step > int(first.name.removeprefix(f"{PREFIX}_")):
            place.rename(_aside(place))
    return f"checkpoint {first} is damaged ({damage})"


def set_aside(place: Path) -> Path:
    """Rename a damaged checkpoint, once for all processes; returns where it lies then."""
    aside = _aside(place)
    # Every process finds the same damage; one renames, when all have looked.
    _meet(f"found {place.name}")
    if jax.process_index() == 0:
        place.rename(aside)
    _meet(f"renamed {place.name}")
    return aside


def _aside(place: Path) -> Path:
    number, aside = 1, place.with_name(f"damaged_{place.name}")
    while aside.exists():
        number += 1
        aside = place.with_name(f"damaged_{place.name}_{number}")
    return aside


def _meet(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
