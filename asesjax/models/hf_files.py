"""Files of Hugging Face checkpoints: safetensors (or a pickle, on request) tensor by tensor."""

import contextlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from asesjax.core.errors import UserError
from asesjax.core.files import holding, read_json, temporary_beside
from asesjax.core.signals import check_stop

DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
TAGS = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
SAFE, PICKLE = "model.safetensors", "pytorch_model.bin"
_STRETCH = 2**22  # numbers of a tensor read at once


class TensorFiles:
    """The tensors of a checkpoint folder; ``shapes`` maps their names to their shapes."""

    def __init__(self, folder: str | Path, allow_pickle: bool = False):
        """Find the weights and read the files' headers; ``allow_pickle`` also accepts a
        ``pytorch_model.bin``, which torch reads with ``weights_only=True``.
        """
        self.folder = Path(folder)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._file_of: dict[str, Path] = {}
        self._pickled: dict[str, Any] = {}
        for file in (files := self._find(SAFE)):
            self._read_header(file)
        if files:
            return
        files = self._find(PICKLE)
        if not files:
            raise UserError(f"{folder} holds no weights: neither {SAFE} nor {PICKLE}")
        if not allow_pickle:
            raise UserError(
                f"{folder} holds its weights only as {PICKLE}, a pickle. Save it as safetensors, "
                "or allow the pickle with asesjax convert --allow-pickle (it needs torch, which "
                "reads it with weights_only=True)"
            )
        for file in files:
            self._unpickle(file)

    def fill(self, name: str, out: np.ndarray) -> None:
        """Read a tensor into float32 ``out``, which may be a view, as many rows as both have."""
        for start, stop in self._stretches(name, min(len(out), self.shapes[name][0])):
            out[start:stop] = self._rows(name, start, stop)

    def equal(self, one: str, other: str) -> bool:
        """Whether two tensors hold the same numbers."""
        if self.shapes[one] != self.shapes[other]:
            return False
        return all(
            np.array_equal(self._rows(one, *rows), self._rows(other, *rows))
            for rows in self._stretches(one, self.shapes[one][0])
        )

    def _stretches(self, name: str, n_rows: int) -> Iterator[tuple[int, int]]:
        step = max(1, _STRETCH // max(1, math.prod(self.shapes[name][1:])))
        for start in range(0, n_rows, step):
            check_stop()
            yield start, min(start + step, n_rows)

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        if name in self._pickled:
            return self._pickled[name][start:stop].float().numpy()
        # Opened each time: what was read stays in memory as long as the file is open.
        with _opened(self._file_of[name]) as file:
            return file.get_slice(name)[start:stop]

    def _find(self, name: str) -> list[Path]:
        if (self.folder / name).is_file():
            return [self.folder / name]
        index = self.folder / f"{name}.index.json"
        if not index.is_file():
            return []
        content = read_json(index)
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"{index}: field weight_map must map names of tensors to files")
        files = []
        for part in sorted(set(map(str, weight_map.values()))):
            if Path(part).name != part or not (self.folder / part).is_file():
                raise UserError(f"{index} names the file {part!r}, which {self.folder} lacks")
            files.append(self.folder / part)
        return files

    def _add(self, name: str, shape: tuple[int, ...], file: Path) -> None:
        if name in self.shapes:
            raise UserError(f"tensor {name} is in two files: {self._file_of[name]} and {file}")
        self.shapes[name], self._file_of[name] = tuple(shape), file

    def _read_header(self, path: Path) -> None:
        with _opened(path) as file:
            for name in file.keys():
                tensor = file.get_slice(name)
                if tensor.get_dtype() not in TAGS.values():
                    raise UserError(
                        f"{path}: tensor {name} is {tensor.get_dtype()}; expected one of "
                        f"{', '.join(TAGS.values())}"
                    )
                self._add(name, tuple(tensor.get_shape()), path)

    def _unpickle(self, path: Path) -> None:
        try:
            import torch
        except ImportError:
            raise UserError(f"reading {path} needs torch: pip install torch") from None
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch raises many kinds
            why = str(error).splitlines()[0][:200]
            raise UserError(f"torch cannot read {path} with weights_only=True: {why}") from None
        for name, value in content.items():
            if not isinstance(value, torch.Tensor) or not value.is_floating_point():
                raise UserError(f"{path}: {name} is no tensor of floating-point numbers")
            self._add(name, tuple(value.shape), path)
            self._pickled[name] = value


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from None


def n_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes of a tensor."""
    return math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize


def write_safetensors(
    path: Path, layout: dict[str, tuple[str, tuple[int, ...]]], value: Callable[[str], np.ndarray]
) -> None:
    """Write a file tensor by tensor; the library's own writer holds all of them in memory.
    ``layout`` maps names, in the order of the file, to dtype and shape; ``value`` gives a tensor of
    that dtype.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in layout.items():
        start, end = end, end + n_bytes(dtype, shape)
        entries[name] = {"dtype": TAGS[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in layout:
            check_stop()
            file.write(value(name).view(np.uint8).data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder, which gets the name ``path`` unless the block raises."""
    path = Path(path).absolute()
    if path.exists():
        raise UserError(f"{path} exists; nothing is overwritten, give another folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
        temporary.mkdir()
        try:
            with holding(temporary):
                yield temporary
                os.rename(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
