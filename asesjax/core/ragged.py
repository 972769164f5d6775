"""Rows of different lengths as one flat array, alone or several in a file."""

import io
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.files import check_output, write_bytes


class Ragged(NamedTuple):
    """R rows; row i is ``values[ends[i - 1]:ends[i]]``."""

    values: np.ndarray  # [N]
    ends: np.ndarray  # [R] int64

    @classmethod
    def of(
        cls, rows: np.ndarray | Sequence[np.ndarray | Sequence[float]], dtype: type
    ) -> "Ragged":
        """Join rows."""
        values = np.concatenate([np.zeros(0, dtype), *(np.asarray(row, dtype) for row in rows)])
        return cls(values, np.cumsum([len(row) for row in rows], dtype=np.int64))

    def rows(self) -> Iterator[np.ndarray]:
        """Yield the rows, which are views."""
        start = 0
        for end in self.ends.tolist():
            yield self.values[start:end]
            start = end


def write_annotations(path: str | Path, ids: Sequence[str], **arrays: Ragged) -> None:
    """Write named arrays with a row for each record, atomically."""
    flat: dict[str, Any] = {"ids": np.array("\n".join(ids))}
    for name, ragged in arrays.items():
        flat |= {f"{name}.values": ragged.values, f"{name}.ends": ragged.ends}
    buffer = io.BytesIO()
    np.savez(buffer, **flat)
    write_bytes(path, buffer.getvalue())


def read_annotations(path: str | Path, ids: Sequence[str]) -> Mapping[str, Ragged]:
    """Read what ``write_annotations`` wrote; UserError if it is damaged or of other records."""
    check_output(path)
    try:
        with open(path, "rb") as opened, np.load(opened) as file:
            if str(file["ids"]) != "\n".join(ids):
                raise UserError(f"{path} is of other records; run again with --redo")
            names = [name.removesuffix(".ends") for name in file.files if name.endswith(".ends")]
            return {name: Ragged(file[f"{name}.values"], file[f"{name}.ends"]) for name in names}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the stage that writes it") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}); remove it and run again") from None
