"""Which files of a folder hold which split."""

import re
from pathlib import Path

from asesjax.core.errors import UserError
from asesjax.core.files import read_json
from asesjax.data.rows import FORMATS, TABLES, format_of

# Words in the name of a file or folder that tell its split, as on the hub of Hugging Face.
_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test",
          "validation": "validation", "valid": "validation", "val": "validation",
          "dev": "validation"}  # fmt: skip
# What the library datasets writes beside the data.
_NOTES = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json")


def folder_files(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each split in a folder that the library ``datasets`` saved, or in one of
    files whose names, or whose folders' names, tell the split; ``""`` for files of no split. Raises
    UserError where that is not clear.
    """
    splits: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder).parts
        known = format_of(path, "") and path.name not in _NOTES
        if path.is_file() and known and not any(part.startswith(".") for part in inner):
            state = path.with_name("state.json")
            if state.is_file() and path.name not in _saved(state):
                continue  # what datasets keeps of maps and filters
            splits.setdefault(_split_of(inner), []).append(path)
    if not splits:
        forms = ", ".join(f".{form}" for form in (*FORMATS, *TABLES))
        raise UserError(f"{folder} holds no file of records ({forms}); set data.path to one")
    if "" in splits and len(splits) > 1:
        raise UserError(
            f"{folder}: {splits[''][0].name} names no split, and other files do; move it away, or "
            "name the files by a path with {split} in it"
        )
    for split, files in splits.items():
        places = sorted({str(file.parent) for file in files})
        if len(places) > 1:
            raise UserError(
                f"{folder} holds several data sets with a split {split or 'of no name'}; set "
                f"data.path to one of {', '.join(places)}"
            )
        if len({format_of(file) for file in files}) > 1:
            raise UserError(
                f"{files[0].parent} holds {split} files of several formats, {files[0].name} and "
                f"{files[-1].name}; set data.path to one of them"
            )
    return splits


def _saved(state: Path) -> set[str]:
    """Return the names of the files that a folder of ``save_to_disk`` consists of."""
    facts = read_json(state)
    if facts.get("_indices_data_files") or facts.get("_indices_files"):
        raise UserError(
            f"{state.parent} is saved with an order of its own; save it again after "
            "dataset.flatten_indices()"
        )
    return {one["filename"] for one in facts.get("_data_files", [])}


def _split_of(parts: tuple[str, ...]) -> str:
    """Return the split that the name of a file tells, else the innermost folder's; "" for none."""
    for part in reversed(parts):
        found = {_WORDS[word] for word in re.split(r"[\W\d_]+", part.lower()) if word in _WORDS}
        if len(found) == 1:
            return found.pop()
    return ""
