"""Metrics of a run as JSON lines and, beside them, TensorBoard files.

``metrics.jsonl`` is the record: one object a line, with at least ``step`` and ``kind``. When a run
goes on from a checkpoint, lines of later steps are removed first, in one atomic replacement, so
that a killed and resumed run leaves the lines of an uninterrupted one.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.files import read_jsonl, write_text


class MetricLog:
    """Append metrics of one role to ``<folder>/metrics.jsonl`` and ``<folder>/tensorboard``."""

    def __init__(self, folder: str | Path, resume_step: int = 0, tensorboard: bool = True):
        """Open the files, forgetting what is later than ``resume_step``.

        Args:
          folder: of the role; made if absent.
          resume_step: lines with a larger ``step`` are removed; 0 keeps only lines of step 0.
          tensorboard: also write TensorBoard files.

        Raises:
          UserError: a line other than the last is not a metrics line.
        """
        self.path = Path(folder) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        truncate(self.path, resume_step)
        self._file = open(self.path, "a", encoding="utf-8", newline="\n")
        self._board = None
        if tensorboard:
            from tensorboardX import SummaryWriter  # slow to import, and only needed here

            self._board = SummaryWriter(
                str(Path(folder) / "tensorboard"),
                purge_step=resume_step + 1,
                # Its file names count whole seconds: without this, a quick restart overwrites.
                filename_suffix=f".{os.getpid()}.{resume_step}",
            )

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Write one line, and its numbers to TensorBoard as ``kind/name``.

        Args:
          kind: ``"train"``, ``"validation"``, ...
          step: optimizer steps finished.
          **values: JSON values; numbers that are not finite are written as null.
        """
        row = {"kind": kind, "step": int(step)} | {k: _plain(v) for k, v in values.items()}
        # One write call a line: a killed process leaves at most the last line torn.
        self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in row.items():
                if name != "step" and isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, int(step))

    def sync(self) -> None:
        """Have the lines on disk before a checkpoint that relies on them is written."""
        self._file.flush()
        os.fsync(self._file.fileno())
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> "MetricLog":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def truncate(path: str | Path, last_step: int) -> None:
    """Remove the lines of a metrics file whose step is larger than ``last_step``, atomically.

    A last line that was torn by a killed process is removed as well.

    Args:
      path: the file; nothing happens where it is absent.
      last_step: the last step that is kept.

    Raises:
      UserError: a line other than the last is not a metrics line.
    """
    path = Path(path)
    if not path.exists():
        return
    text = path.read_bytes().decode("utf-8", errors="replace")
    lines = text.split("\n")
    kept = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        # A whole line ends in a newline, so what follows the last newline is torn.
        if number == len(lines):
            break
        try:
            step = json.loads(line)["step"]
        except (json.JSONDecodeError, KeyError, TypeError):
            raise UserError(
                f"{path}:{number}: not a metrics line, got {line[:80]!r}; "
                "mend or remove that line, then run again"
            ) from None
        if step <= last_step:
            kept.append(line + "\n")
    if "".join(kept) != text:
        write_text(path, "".join(kept))


def read_metrics(path: str | Path, kind: str = "") -> list[dict[str, Any]]:
    """Read a metrics file.

    Args:
      path: of ``metrics.jsonl``.
      kind: return only the lines of this kind; all when empty.

    Returns:
      The lines in the order of the file.

    Raises:
      UserError: no such file, or a line that is not JSON.
    """
    return [row for _, row in read_jsonl(path) if not kind or row.get("kind") == kind]


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
