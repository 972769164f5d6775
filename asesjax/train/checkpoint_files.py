"""The folders of checkpoints: which there are, and whether their files are as they were written."""

import re
import zlib
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from asesjax.core.errors import UserError
from asesjax.core.files import read_json, write_json

PREFIX = "step"
_CHECKSUMS = "files.json"
_ITEMS = ("params", "opt_state", "cursor", "model.json", "vocab")


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
    raise UserError(
        f"no checkpoint in {path}; expected a role's folder with checkpoints/{PREFIX}_<n>, or "
        f"one folder {PREFIX}_<n>; model.init_from also takes a folder of Hugging Face "
        "(config.json and safetensors)"
    )


def write_checksums(place: Path) -> None:
    """Write the size and CRC-32 of every file of a checkpoint into its ``files.json``."""
    write_json(place / _CHECKSUMS, _checksums(place))


def has_checksums(place: Path) -> bool:
    """Return whether ``find_damage`` can find any."""
    return (place / _CHECKSUMS).exists()


def find_damage(place: Path) -> str:
    """Compare the files of a checkpoint with its checksums, if any; return what is wrong or ""."""
    if not has_checksums(place):
        return ""
    try:
        expected = read_json(place / _CHECKSUMS)
        found = _checksums(place)
    except (UserError, UnicodeDecodeError, OSError) as error:
        return str(error)
    for name, (size, crc) in expected.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != [size, crc]:
            return f"{name} has {found[name][0]} bytes, {size} were written; contents differ"
    return ""


def _checksums(place: Path) -> dict[str, list[int]]:
    sums = {}
    # Orbax writes marks of its own beside the items, and into them, when ours is done.
    items = [place / item for item in _ITEMS]
    for path in sorted(path for item in items for path in (item, *item.rglob("*"))):
        if path.is_file() and path.name != "commit_success.txt":
            size = crc = 0
            with open(path, "rb") as file:
                while block := file.read(1 << 22):
                    size, crc = size + len(block), zlib.crc32(block, crc)
            sums[path.relative_to(place).as_posix()] = [size, crc]
    return sums


def set_aside(place: Path) -> Path:
    """Rename a damaged checkpoint, once for all processes; returns where it lies then."""
    number, aside = 1, place.with_name(f"damaged_{place.name}")
    while aside.exists():
        number += 1
        aside = place.with_name(f"damaged_{place.name}_{number}")
    # Every process finds the same damage; one renames, when all have looked.
    _meet(f"found {place.name}")
    if jax.process_index() == 0:
        place.rename(aside)
    _meet(f"renamed {place.name}")
    return aside


def _meet(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
