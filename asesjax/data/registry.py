"""Sources of records, each registered under its name (``data.source``) where it is defined.

A source is a function that generates records, under ``@SOURCES.register(name)``::

    def make_math(settings, split, n, seed) -> list[Record]

or a reader of files: a parse function under ``@file_source(name, files, form)``. ``settings`` is
section ``data`` of the config; modules outside the package register theirs alike.
"""

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.registry import Registry
from asesjax.core.types import Record
from asesjax.data.rows import BadRow, Row, read_rows

SPLITS = ("train", "validation", "test")
Generator = Callable[[Any, str, int, int], list[Record]]
Files = Callable[[Any], dict[str, Path]]
Parse = Callable[[Any, Row, Path, Any], tuple[Record, str]]
Rows = Callable[[Any, Path, str], Iterable[tuple[int | str, Row | BadRow]]]


class Reader:
    """How a data set is read from files; ``file_source`` explains the fields."""

    def __init__(self, files: Files, form: str, parse: Parse, rows: Rows | None = None):
        self.files, self.form, self.parse = files, form, parse
        self.rows = rows or (lambda settings, file, split: read_rows(file, form))
        # So that the registry tells readers apart.
        functools.update_wrapper(self, parse)  # type: ignore[arg-type]  # never called


SOURCES: Registry[Generator | Reader] = Registry("data source")


def file_source(name: str, files: Files, form: str, rows: Rows | None = None) -> Callable:
    """Register a reader of files under a name; decorates its parse function.

    That is ``(settings, row, file, number) -> (record, chain)``, with the chain as its author
    closed it; it raises ``BadRow`` for a row that cannot be used. ``files(settings)`` gives the
    file of each split, with the key ``""`` for one that is to be divided. ``form`` is as in
    ``rows.read_rows``, and ``rows(settings, file, split)`` replaces that function.
    """

    def register(parse: Parse) -> Parse:
        SOURCES.register(name)(Reader(files, form, parse, rows))
        return parse

    return register


def in_folder(names: dict[str, str]) -> Files:
    """Return ``files`` of ``file_source``: those of such names in the folder ``data.path``."""

    def files(settings: Any) -> dict[str, Path]:
        if not settings.path:
            listed = " and ".join(dict.fromkeys(names.values()))
            raise UserError(f"data.path is empty; set it to the folder that holds {listed}")
        return {split: Path(settings.path) / name for split, name in names.items()}

    return files


def get_reader(source: str) -> Reader:
    """Return the reader of ``data.source``; UserError where it is unknown or generates records."""
    reader = SOURCES.get(source)
    if not isinstance(reader, Reader):
        raise UserError(f"data.source {source} generates records and has no files to read")
    return reader
