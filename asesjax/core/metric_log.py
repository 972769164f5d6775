"""Metrics of a run as JSON lines and, beside them, TensorBoard files.

``metrics.jsonl`` has one object a line, with at least ``step`` and ``kind``. When a run resumes
from a checkpoint, what was written after it is removed first, so that a killed and resumed run
leaves the lines of an uninterrupted one.
"""

import contextlib
import json
import math
import os
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.files import checksum, read_jsonl, write_bytes


class MetricLog:
    """Append metrics of one role to ``<folder>/metrics.jsonl`` and ``<folder>/tensorboard``."""

    def __init__(
        self, folder: str | Path, resume_step: int = 0, written: Sequence[int] = (0, 0),
        say: Callable[[str], None] = print,
    ):  # fmt: skip
        """Open the files and remove what was written after ``sync`` returned ``written``; ``say``
        gets a warning where they were changed. All methods raise UserError for files that cannot be
        written.
        """
        self.path = Path(folder) / "metrics.jsonl"
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _cut(self.path, written, say)
            self._file = open(self.path, "a", encoding="utf-8", newline="\n")
            self._board = _Board(Path(folder) / "tensorboard", resume_step)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Write a line of JSON values, NaN as null, and its numbers to TensorBoard."""
        row = {"kind": kind, "step": int(step)} | {k: _plain(v) for k, v in values.items()}
        with self._writing():
            # One write call a line: a killed process leaves at most the last line torn.
            self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._file.flush()
            numbers = {f"{kind}/{name}": value for name, value in row.items()
                       if name != "step" and isinstance(value, int | float)}  # fmt: skip
            self._board.write(int(step), numbers)

    def sync(self) -> list[int]:
        """Flush the lines to disk, before a checkpoint that relies on them is written, and return
        size and checksum of all of them.
        """
        with self._writing():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._board.flush()
            return checksum(self.path)

    def close(self) -> None:
        """Close the files."""
        with self._writing(), contextlib.closing(self._board):
            self._file.close()

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


class _Board:
    """Scalars for TensorBoard, written at once: tensorboardX's SummaryWriter has a thread, and
    waits for ever when a full disk ended it.
    """

    def __init__(self, folder: Path, resume_step: int):
        from tensorboardX.proto import event_pb2, summary_pb2  # slow to import, only needed here
        from tensorboardX.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names; the end makes quick restarts differ.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter(str(folder / f"{name}.{resume_step}"))
        self.flush, self.close = self._records.flush, self._records.close
        self._add(file_version="brain.Event:2")
        # Makes TensorBoard drop later steps of earlier files.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step=resume_step + 1, session_log=start)

    def write(self, step: int, numbers: dict[str, float]) -> None:
        values = [self._summary.Value(tag=name, simple_value=x) for name, x in numbers.items()]
        self._add(step=step, summary=self._summary(value=values))

    def _add(self, **what: Any) -> None:
        event = self._event(wall_time=time.time(), **what)
        self._records.write(event.SerializeToString())


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
