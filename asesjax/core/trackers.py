"""Trackers: where the numbers and samples of a run are shown, besides its report.

A tracker is registered under its name, like ``Jsonl``, ``TensorBoard`` and ``Wandb`` below, and
chosen by ``log.trackers``. It is made for a ``Place`` when work there starts or resumes, and has
three methods:

    write(kind, step, values)   numbers and texts of a step; kinds are "train" and "validation" for
                                a role, "samples" (decoded chains) and "test" (final scores) for a
                                row of the table
    flush()                     brings out what was written, before a checkpoint
    close()

It has the folder ``place.folder`` / its name to itself. What it needs installed it may name in
``packages``, which is asked before training. Whatever it raises costs the run that tracker alone.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from asesjax.core.errors import UserError
from asesjax.core.options import NOTHING, option, section
from asesjax.core.registry import Registry


class Place(NamedTuple):
    """What a tracker follows: a role, or a row of the table."""

    folder: Path  # of the role or row, which exists
    step: int = 0  # that the work resumes from; later ones were not kept
    name: str = ""  # such as usm/main
    run: str = ""  # its workdir
    fields: Mapping[str, Any] = {}  # of the configuration, by dotted names


class Tracker(Protocol):
    """An open log."""

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write JSON values of a step."""

    def flush(self) -> None:
        """Bring out what was written."""

    def close(self) -> None:
        """End the log."""


TRACKERS: Registry[Callable[[Place], Tracker]] = Registry("tracker")


@section("log")
class LogOptions:
    """Where a run's numbers are shown."""

    trackers: tuple[str, ...] = option(
        ("jsonl", "tensorboard"), "where metrics, samples and scores go: jsonl (from which figures "
        "are drawn), tensorboard, wandb, or those of plug-ins", choices=TRACKERS, changes=NOTHING,
    )  # fmt: skip


def check_trackers(names: Iterable[str]) -> None:
    """Raise UserError for a tracker whose packages are not installed."""
    for name in names:
        packages = getattr(TRACKERS.get(name), "packages", ())
        absent = [package for package in packages if find_spec(package) is None]
        if absent:
            raise UserError(
                f"log.trackers: {name} needs {' and '.join(absent)}, not installed here: pip "
                f"install {' '.join(absent)}, or leave {name} out"
            )


@TRACKERS.register("jsonl")
class Jsonl:
    """``metrics.jsonl``: an object a line, with at least ``step`` and ``kind``."""

    def __init__(self, place: Place):
        self._file = open(place.folder / "metrics.jsonl", "a", encoding="utf-8", newline="\n")

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write a line."""
        row = {"kind": kind, "step": step, **values}
        # One write call a line: a killed process leaves at most the last line torn.
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()

    def flush(self) -> None:
        """Bring the lines to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@TRACKERS.register("tensorboard")
class TensorBoard:
    """Scalars, texts, and the configuration with the final scores under HParams. Written at once:
    tensorboardX's SummaryWriter has a thread, and waits for ever when a full disk ended it.
    """

    def __init__(self, place: Place):
        # Which it would import, in seconds, for what is not asked of it here.
        with _without("torch", "boto3", "google.cloud"):
            from tensorboardX.proto import event_pb2, summary_pb2
            from tensorboardX.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._fields, folder = place.fields, place.folder / "tensorboard"
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names; the end makes quick restarts differ.
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._records = RecordWriter(str(folder / f"{name}.{place.step}"))
        self.flush, self.close = self._records.flush, self._records.close
        self._add(file_version="brain.Event:2")
        # Makes TensorBoard drop later steps of earlier files.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._add(step=place.step + 1, session_log=start)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write numbers, texts, and of "test" also HParams."""
        from tensorboardX.summary import hparams, text

        numbers = _numbers(kind, values)
        scalars = [self._summary.Value(tag=name, simple_value=x) for name, x in numbers.items()]
        self._add(step=step, summary=self._summary(value=scalars))
        for name, value in values.items():
            if isinstance(value, str):
                self._add(step=step, summary=text(f"{kind}/{name}", value))
        if kind == "test":
            for summary in hparams(_simple(self._fields), numbers):
                self._add(step=step, summary=summary)

    def _add(self, **what: Any) -> None:
        event = self._event(wall_time=time.time(), **what)
        self._records.write(event.SerializeToString())


@TRACKERS.register("wandb")
class Wandb:
    """Weights & Biases (extra ``[wandb]``): a run for each role and row, in a group for each
    workdir. Its own variables (``WANDB_PROJECT``, ``WANDB_MODE=offline``, ...) say where to. The id
    of the run lies in the folder, so that a resumed role continues it.
    """

    packages = ("wandb",)

    def __init__(self, place: Place):
        import wandb

        self._wandb, folder = wandb, place.folder / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / "id.txt"
        if not known.exists():
            known.write_text(secrets.token_hex(8))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "asesjax"), name=place.name, dir=place.folder,
            group=place.run[-128:], id=known.read_text().strip(), resume="allow",
            config=_simple(place.fields), settings=wandb.Settings(silent=True, console="off"),
        )  # fmt: skip

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Log numbers and a table of texts; the numbers of "test" are the run's summary."""
        numbers = _numbers(kind, values)
        texts = [[name, x] for name, x in values.items() if isinstance(x, str)]
        table = self._wandb.Table(columns=["name", "text"], data=texts) if texts else None
        # W&B leaves out steps that it has, which a resumed run repeats to the same numbers.
        self._run.log(numbers | ({f"{kind}/texts": table} if table else {}), step=step)
        if kind == "test":
            self._run.summary.update(numbers)

    def flush(self) -> None:
        """Nothing to do: its own process has what was logged."""

    def close(self) -> None:
        """End the run here; W&B sends what is left."""
        self._run.finish()


@contextlib.contextmanager
def _without(*packages: str) -> Iterator[None]:
    """Let imports in the block find none of the packages, but those that were imported before."""
    hidden = {name: None for name in packages if name not in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type]  # None, as the import system has it
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _numbers(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{kind}/{name}": x for name, x in values.items() if isinstance(x, int | float)}


def _simple(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with lists as texts, which neither of the two shows otherwise."""
    return {name: ",".join(map(str, value)) if isinstance(value, list | tuple) else value
            for name, value in fields.items()}  # fmt: skip
