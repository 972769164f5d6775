"""Files: atomic writes, JSON whose errors name the line, what stages wrote, a lock for a folder.

The record of a finished stage holds size and CRC-32 of every file that it wrote (``core.stages``).
All readers here, and those of arrays, compare a file that such a record names with it, once.
"""

import contextlib
import fcntl
import io
import json
import os
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
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
    """Write a file through a temporary neighbour, so that a killed process leaves no half file.
    Raises UserError where a folder or a device lies in its place; OSErrors name the file.
    """
    path = Path(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise UserError(f"cannot write {path}: what lies there is no file; move it away")
        temporary = temporary_beside(path)
        try:
            with open(temporary, "wb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # tells it from what a killed process left
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Let OSErrors name a file; those of writing know none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def temporary_beside(path: Path) -> Path:
    """Name a file or folder that becomes ``path`` once it is whole, and that its maker holds by a
    lock (flock) till then; what killed processes left under such names is removed.
    """
    remove_leftovers(path.parent, path.name)
    return path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove what killed processes left of writing a file, or of any below a folder."""
    start = f".{name[:200]}." if name else "."
    for path in folder.iterdir() if name else folder.rglob(".*.tmp"):
        if not (path.name.startswith(start) and re.search(r"\.\d+\.tmp$", path.name)):
            continue
        with contextlib.suppress(OSError), holding(path, fcntl.LOCK_NB):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextlib.contextmanager
def holding(path: Path, how: int = 0, shared: bool = False) -> Iterator[None]:
    """Hold a file or folder that exists by a lock, perhaps shared with others that do so."""
    file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | how)
        yield
    finally:
        os.close(file)


def write_json(path: str | Path, value: Any) -> None:
    """Write one JSON document atomically, indented, tuples as lists."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path, of: type = dict) -> Any:
    """Read one JSON document, an object unless ``of`` is list. A file that is
    missing, no such JSON, or not as a finished stage wrote it is a UserError.
    """
    with _reading(path):
        content = Path(path).read_bytes()
    value = parse_json(content, path)
    if not isinstance(value, of):
        wanted = "object" if of is dict else of.__name__
        raise UserError(f"{path}:1: expected a JSON {wanted}, got {type(value).__name__}")
    return value


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> None:
    """Write one JSON object a line, atomically."""
    lines = []
    for row in rows:
        check_stop()
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict]]:
    """Yield (line number from 1, object) for each line that is not blank; UserErrors are those of
    ``read_json``.
    """
    with _reading(path), open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            check_stop()
            if not line.strip():
                continue
            row = parse_json(line.rstrip(), path, number)
            if not isinstance(row, dict):
                kind = type(row).__name__
                raise UserError(f"{path}:{number}: expected a JSON object, got {kind}")
            yield number, row


@contextlib.contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    check_output(path)
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


class BadJson(ValueError):
    """What is no JSON, or more of it than a program can hold."""

    def __init__(self, why: object, line: int):
        super().__init__(f"not JSON in UTF-8: {why}")
        self.line = line  # from 1


def load_json(text: str | bytes, **hooks: Any) -> Any:
    """Read a JSON document, with or without byte order mark; ``hooks`` are those of ``json.loads``.
    Raises BadJson.
    """
    try:
        document = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return json.loads(document, **hooks)
    except UnicodeDecodeError as error:
        raise BadJson(error, error.object[: error.start].count(b"\n") + 1) from None
    except json.JSONDecodeError as error:
        raise BadJson(error.msg, error.lineno) from None
    except RecursionError:
        raise BadJson("brackets are nested too deeply", 1) from None
    except ValueError:  # the only other one: a whole number beyond sys.get_int_max_str_digits
        before = re.split(r"\d{4301}", document, maxsplit=1)[0].count("\n")
        raise BadJson("a number of more than 4,300 digits", before + 1) from None


def parse_json(text: str | bytes, path: str | Path, line: int = 1) -> Any:
    """Read a JSON document that begins in a line of a file; UserErrors name file and line."""
    try:
        return load_json(text)
    except BadJson as error:
        raise UserError(f"{path}:{line + error.line - 1}: {error}") from None


def checksum(path: str | Path) -> list[int]:
    """Return size and CRC-32 of a file."""
    size = crc = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return [size, crc]


_same: dict[Path, tuple[list[int], int, int]] = {}  # as recorded, and its time and inode then


def changed_files(workdir: Path, files: Mapping[str, list[int]]) -> list[tuple[str, str]]:
    """Compare files below a workdir with their recorded sizes and checksums, each once as long as
    its time stays; return the names of those that differ, each with how.
    """
    wrong = []
    for name, recorded in files.items():
        path = workdir / name
        try:
            stat = path.stat()
            known = (recorded, stat.st_mtime_ns, stat.st_ino)
            if stat.st_size != recorded[0]:
                wrong.append((name, f"{name} has {stat.st_size} bytes instead of {recorded[0]}"))
            elif _same.get(path) != known and checksum(path) != recorded:
                wrong.append((name, f"{name} has other contents"))
            else:
                _same[path] = known
        except FileNotFoundError:
            wrong.append((name, f"{name} is missing"))
        except OSError as error:
            wrong.append((name, f"{name} cannot be read ({error.strerror})"))
    return wrong


def check_output(path: str | Path) -> None:
    """Raise UserError if a file, or one in a folder, is not as a finished stage of the workdir
    around it wrote it. Files that no stage's record names are not looked at.
    """
    path = Path(os.path.abspath(path))
    workdir = next((place for place in path.parents if (place / "stages").is_dir()), None)
    if workdir is None or path.parent == workdir / "stages":
        return
    own = path.relative_to(workdir).as_posix()
    for record in sorted((workdir / "stages").glob("*.json")):
        with contextlib.suppress(UserError):  # that a record is damaged, the next run says
            files = read_record(record).get("files", {})
            files = {name: sums for name, sums in files.items() if f"{name}/".startswith(f"{own}/")}
            if wrong := changed_files(workdir, files):
                break
    else:
        return
    raise UserError(
        f"{workdir}: {'; '.join(text for _, text in wrong[:5])}; stage {record.stem} wrote it: put "
        f"that back, or make it anew by asesjax run --workdir {workdir} --redo"
    )


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of a stage; UserError if it is not as it was written."""
    try:
        facts = parse_json(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if not isinstance(facts, dict) or facts.pop("sum", None) != _sum(facts):
        raise UserError(f"{path} is not as it was written")
    return facts


def write_record(path: Path, facts: dict[str, Any]) -> None:
    """Write the record of a stage, with a checksum of its own."""
    write_json(path, facts | {"sum": _sum(facts)})


def _sum(facts: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(facts, sort_keys=True, default=list).encode())


def check_writable(folder: Path) -> None:
    """Raise UserError unless a run could make this folder, or write in it; keep nothing there."""
    try:
        with tempfile.TemporaryDirectory(dir=_there(folder)):
            pass
    except OSError as error:
        raise _not_writable(folder, error) from None


def _there(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def _not_writable(folder: Path, error: OSError) -> UserError:
    if not (there := _there(folder)).is_dir():
        return UserError(f"workdir {folder}: {there} is a file; give a folder")
    return UserError(f"cannot write to workdir {folder}: {error.strerror}")


@contextlib.contextmanager
def locked(folder: str | Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process alone; a second process waits, or gets a UserError at once.
    What killed processes left half written in it is removed.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a+")
    except OSError as error:
        raise _not_writable(folder, error) from None
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
        remove_leftovers(folder)
        yield
