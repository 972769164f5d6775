"""Progress on standard error: a bar on a terminal, a line now and then elsewhere."""

import math
import sys
import time

from tqdm import tqdm

from asesjax.core.errors import harmless

_LINE_SECONDS = 10.0  # between plain lines


class Progress:
    """Shows how many of a total are done."""

    def __init__(self, name: str, total: int, done: int, unit: str, quiet: bool = False):
        self._stream = sys.stderr
        self._name, self._total, self._unit, self._quiet = name, total, unit, quiet
        self._last = -math.inf
        self._bar = None
        if self._stream.isatty() and not quiet:
            self._bar = tqdm(total=total, initial=done, desc=name, unit=unit, file=self._stream)

    def show(self, done: int, note: str = "") -> None:
        """Show the number that is done, and a note."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            self._bar.set_postfix_str(note)
        elif time.perf_counter() - self._last >= _LINE_SECONDS or done == self._total:
            self._last = time.perf_counter()
            self.say(f"{self._unit} {done}/{self._total}" + (f": {note}" if note else ""))

    def say(self, line: str) -> None:
        """Print one line, above the bar where there is one."""
        if self._quiet:
            return
        line = harmless(line)
        if self._bar is not None:
            self._bar.write(f"[{self._name}] {line}", file=self._stream)
        else:
            print(f"[{self._name}] {line}", file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the bar where it is."""
        if self._bar is not None:
            self._bar.close()
