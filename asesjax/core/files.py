"""Files: atomic writes, JSON whose errors name the line, and a lock for a folder."""

import contextlib
import fcntl
import io
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.signals import check_stop

_LOCK_SECONDS = 0.2  # between looks at a lock that is waited for


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    write_bytes(path, text.encode())


def write_array(path: str | Path, values: np.ndarray) -> None:
    """Write an .npy file, whole or not at all."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    write_bytes(path, buffer.getvalue())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file through a temporary neighbour, so that a killed process leaves no half file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON document atomically, indented, tuples as lists."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read one JSON document; a file that is not JSON is a UserError naming the place."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Write one JSON object a line, atomically."""
    lines = []
    for row in rows:
        check_stop()
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict]]:
    """Yield (line number from 1, object) for each line that is not blank, or raise UserError."""
    try:
        file = open(path, encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    with file:
        for number, line in enumerate(file, 1):
            check_stop()
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path}:{number}: not JSON: {error.msg}") from None
            if not isinstance(row, dict):
                kind = type(row).__name__
                raise UserError(f"{path}:{number}: expected a JSON object, got {kind}")
            yield number, row


@contextlib.contextmanager
def locked(folder: str | Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process alone; a second process waits, or gets a UserError at once."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a+")
    except OSError as error:
        raise UserError(f"cannot write to workdir {folder}: {error.strerror}") from None
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if wait:  # not in flock itself, which would not notice SIGTERM
                    check_stop()
                    time.sleep(_LOCK_SECONDS)
                    continue
            file.seek(0)
            raise UserError(
                f"another run is using workdir {folder} (process {file.read().strip() or '?'}); "
                "wait for it or give another --workdir"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
