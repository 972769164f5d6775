"""Data sets by name: of the hub of Hugging Face, of TensorFlow Datasets, and tasks of seqio, with
fields as in files. What imports TensorFlow is loaded when such a data set is read.
"""

import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.hub import from_hub
from asesjax.core.types import Record
from asesjax.data.folders import folder_files
from asesjax.data.readers.plain import named_splits, parse_fields, split_rows
from asesjax.data.registry import file_source
from asesjax.data.rows import Row
from asesjax.data.vocab import Vocabulary


def _hub_files(settings) -> dict[str, Path]:
    """Return the folder of ``owner/name`` or ``owner/name/config``, as the hub keeps every data set
    in Parquet; a folder of this machine as it is.
    """
    folder, parts = Path(settings.path), settings.path.split("/")
    if not (settings.path and folder.is_dir()):
        if not all(re.fullmatch(r"\w[\w.-]*", part) for part in parts) or not 2 <= len(parts) <= 3:
            raise UserError(
                f"data.path is {settings.path!r}, which is no folder and no name on the hub; give "
                "owner/name, or owner/name/config"
            )
        config = parts[2] if len(parts) == 3 else "*"
        folder = from_hub("/".join(parts[:2]), [f"{config}/*.parquet"], repo_type="dataset",
                          revision="refs/convert/parquet")  # fmt: skip
        folder = folder / config if len(parts) == 3 else folder
    return named_splits(settings, folder, folder_files(folder))


def task_vocabulary(settings, extra_ids: int) -> Vocabulary:
    """Return the vocabulary of ``data.task``, with ``extra_ids`` sentinels if it has none."""
    return _tensorflow("task_vocabulary", settings, extra_ids)


def _tensorflow(name: str, settings, *more) -> Any:
    """Call what imports TensorFlow. Readers return their ``splits`` and their ``rows(split)``."""
    return getattr(importlib.import_module("asesjax.tasks.records"), name)(settings, *more)


def _files(source: str, field: str, settings) -> dict[str, Path]:
    name = getattr(settings, field)
    if not name:
        raise UserError(f"data.{field} is empty; set it to the name of what data.source reads")
    return named_splits(settings, Path(name), _tensorflow(f"read_{source}", settings).splits)


def _rows(source: str, settings, file: Path, split: str) -> Iterator[tuple[int, Row]]:
    yield from enumerate(_tensorflow(f"read_{source}", settings).rows(split or settings.split), 1)


def parse_named(settings, row: Row, file: Path, number: int) -> tuple[Record, str]:
    """Parse a row by the names of its fields."""
    return parse_fields(settings, row, file, number)


file_source("huggingface", _hub_files, "", functools.partial(split_rows, ""))(parse_named)
for _name, _field in (("tfds", "path"), ("seqio", "task")):
    file_source(_name, functools.partial(_files, _name, _field), "",
                functools.partial(_rows, _name))(parse_named)  # fmt: skip
