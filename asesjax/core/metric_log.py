"""Metrics of a run, written to its trackers (``core.trackers``), ``metrics.jsonl`` among them.

When a run resumes from a checkpoint, what ``metrics.jsonl`` got after it is removed first, so that
a killed and resumed run leaves the lines of an uninterrupted one.
"""

import contextlib
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.files import checksum, read_jsonl, write_bytes
from asesjax.core.trackers import TRACKERS, Place, Tracker

_KEPT = "jsonl"  # the tracker whose file a run resumes with


class MetricLog:
    """Write metrics of one role, or row of the table, to its trackers."""

    def __init__(
        self, folder: str | Path, resume_step: int = 0, written: Sequence[int] = (0, 0),
        say: Callable[[str], None] = print, trackers: Sequence[str] = ("jsonl", "tensorboard"),
        **facts: Any,
    ):  # fmt: skip
        """Open the trackers, and remove what ``metrics.jsonl`` got after ``sync`` returned
        ``written``. ``facts`` are further fields of ``trackers.Place``. ``say`` gets a warning
        where that file was changed, and where a tracker fails, which is left out from then on. All
        methods raise UserError where ``metrics.jsonl`` cannot be written.
        """
        self.path, self._say = Path(folder) / "metrics.jsonl", say
        place = Place(self.path.parent, resume_step, **facts)
        self._open: dict[str, Tracker] = {}
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            if _KEPT in trackers:
                _cut(self.path, written, say)
        for name in dict.fromkeys(trackers):
            with self._failing(name):
                self._open[name] = TRACKERS.get(name)(place)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Write JSON values of a step, NaN as null."""
        plain = {name: _plain(value) for name, value in values.items()}
        self._each(lambda tracker: tracker.write(kind, int(step), plain))

    def sync(self) -> list[int]:
        """Bring out what was written, before a checkpoint that relies on it is, and return size and
        checksum of ``metrics.jsonl``.
        """
        self._each(lambda tracker: tracker.flush())
        with self._writing():
            return checksum(self.path) if _KEPT in self._open else [0, 0]

    def close(self) -> None:
        """Close the trackers."""
        with contextlib.ExitStack() as stack:  # all of them, whatever fails
            for name, tracker in self._open.items():
                stack.enter_context(self._failing(name))
                stack.callback(tracker.close)

    def _each(self, do: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            with self._failing(name):
                do(tracker)

    @contextlib.contextmanager
    def _failing(self, name: str) -> Iterator[None]:
        """Let the run continue without a tracker that fails, which is no fault of the run's."""
        if name == _KEPT:
            with self._writing():
                yield
            return
        try:
            yield
        except Exception as error:
            if tracker := self._open.pop(name, None):
                with contextlib.suppress(Exception):
                    tracker.close()
            why = (str(error).splitlines() or [""])[0]
            self._say(f"warning: tracker {name} failed and gets no more of {self.path.parent}: "
                      f"{type(error).__name__}: {why[:200]}")  # fmt: skip

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"cannot write {self.path} or the files beside it: {error.strerror}; make room or "
                "give another --workdir, then run the same command again"
            ) from error

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            self.close()
        except UserError:
            if kind is None:  # otherwise the first failure matters
                raise


def _cut(path: Path, written: Sequence[int], say: Callable[[str], None]) -> None:
    """Cut a file to what was written when it had that size and checksum, or set it aside."""
    if not path.exists():
        if written[0]:
            say(f"warning: {path} is gone; it begins anew")
        return
    with open(path, "rb") as file:
        kept = file.read(written[0])
    if zlib.crc32(kept) == written[1]:
        return write_bytes(path, kept)  # a new file: other runs may share the old one by a link
    aside = path.with_name(f"damaged_{path.name}")
    say(f"warning: {path} is not as it was written; renamed to {aside.name}, it begins anew")
    path.replace(aside)


def read_metrics(path: str | Path, kind: str = "") -> list[dict[str, Any]]:
    """Read the lines of ``metrics.jsonl`` of one kind, all when it is empty, in order."""
    return [row for _, row in read_jsonl(path) if not kind or row.get("kind") == kind]


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
