"""Workdirs and inputs in buckets: ``gs://``, ``s3://`` and whatever else fsspec opens.

A run works in a folder of this machine, its mirror (``core.mirror``), which is fetched from the
bucket first and published to it while the run works, so that everything else here deals with plain
files. Each process of a run has a mirror of its own: process 0 publishes, and the others take what
it has published where they continue together (``core.processes``).
"""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from asesjax.core.errors import UserError
from asesjax.core.files import locked
from asesjax.core.mirror import Mirror

_open: dict[str, Mirror] = {}  # by address


_ONE_SLASH = re.compile(r"(gs|gcs|s3|s3a|abfs|az|hdfs|memory):/(?!/)")


def is_address(path: str | Path) -> bool:
    """Tell whether a path is that of an object or folder in a bucket. Raises UserError for one that
    has lost a slash, which would be a folder here.
    """
    if lost := _ONE_SLASH.match(str(path)):
        scheme = lost[1]
        right = f"{scheme}:/{str(path).removeprefix(f'{scheme}:')}"
        raise UserError(f"{path} is no address; did you mean {right}?")
    return "://" in str(path) and not str(path).startswith(("http://", "https://"))


def workdir(path: str | Path) -> Path:
    """Return the folder of a workdir; of one in a bucket it is a mirror, brought up to date unless
    a run on this machine is at work in it. Raises UserError where the bucket cannot be read.
    """
    if not is_address(path):
        if "://" in str(path):
            raise UserError(
                f"--workdir {path} is no address of a bucket (gs://, s3://) and no folder"
            )
        return Path(path)
    if "/" not in str(path).partition("://")[2].strip("/"):
        raise UserError(f"--workdir {path} names no folder in a bucket; give one, such as "
                        f"{str(path).rstrip('/')}/NAME")  # fmt: skip
    return _mirror(str(path)).fetched()


def local(path: str | Path) -> Path:
    """Return where an input file or folder lies; what lies in a bucket is fetched first."""
    if not is_address(path):
        return Path(path)
    start, varies, end = str(path).partition("{split}")
    if varies:
        place, _, name = start.rpartition("/")
        return local(place) / f"{name}{varies}{end}"
    mirror = _mirror(str(path))
    folder = mirror.fetched()
    if not any(folder.iterdir()):
        raise UserError(f"{path} does not exist")
    return folder / mirror.store.alone


def address(path: str | Path) -> str:
    """Return the address of what a mirror holds at a path, which others stay."""
    mirror = _around(Path(path))
    if mirror is None:
        return str(path)
    below = Path(path).relative_to(mirror.folder).as_posix()
    url = mirror.store.url
    return url if below == "." or mirror.store.alone else f"{url}/{below}"


@contextlib.contextmanager
def owned(folder: str | Path, wait: bool = False) -> Iterator[None]:
    """Hold a folder for this process alone (``files.locked``), in its bucket too where it is part
    of a mirror. What the block writes is published while it runs, and at its end.
    """
    with locked(folder, wait):
        mirror = _around(Path(folder))
        if mirror is None:
            yield
            return
        with mirror.owning(Path(folder).relative_to(mirror.folder).as_posix(), wait):
            yield


def publish() -> None:
    """Bring what this process has written to its buckets. Called by the main thread where a stage
    begins or ends. Raises UserError where a bucket cannot be written, or is held by another run.
    """
    for mirror in _open.values():
        mirror.publish()


def changes() -> dict[str, tuple[list[str], list[str]]]:
    """Publish; return, by address, the tokens of the locks held and the names of what has changed
    since the last call.
    """
    publish()
    return {url: mirror.told() for url, mirror in _open.items() if mirror.scopes}


def take(changed: Mapping[str, Sequence[list[str]]]) -> None:
    """Fetch what another process has published (``changes``)."""
    for url, told in changed.items():
        _mirror(url).take(*told)


def named(text: str) -> str:
    """Write the addresses of mirrors instead of their folders here."""
    for url, mirror in _open.items():
        text = text.replace(str(mirror.folder), url)
    return text


def mirrored(folder: str | Path) -> bool:
    """Tell whether a folder is that of a mirror, which other processes of the run do not see."""
    return _around(Path(folder)) is not None


def _around(path: Path) -> Mirror | None:
    path = Path(os.path.abspath(path))
    return next((m for m in _open.values() if path.is_relative_to(m.folder)), None)


def _mirror(url: str) -> Mirror:
    url = url.rstrip("/")
    if url not in _open:
        _open[url] = Mirror(url)
    return _open[url]
