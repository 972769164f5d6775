"""SIGTERM and Ctrl-C: their handler notes which came, and work looks where it can stop.

An exception raised by the handler itself would be lost in a callback of the garbage collector, and
become a traceback in that of a library.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from asesjax.core.errors import Preempted

_came = 0  # number of the signal that came first
_held = False
_at_once = False


def came() -> int:
    """Return the number of the signal that came, 0 for none."""
    return _came


def note(number: int) -> None:
    """Note a signal, which perhaps came to another process of the run."""
    global _came
    _came = _came or number


def _handle(number: int, frame: Any) -> None:
    again = _came
    note(number)
    if again and number == signal.SIGINT:  # the second Ctrl-C
        raise KeyboardInterrupt
    if _at_once:
        raise stopped()


def stopped(message: str = "") -> BaseException:
    """Return the exception of the signal that came: KeyboardInterrupt, or Preempted for SIGTERM,
    with a message, in which "{signal}" stands for its name.
    """
    message = message or "stopped by {signal}; what is finished is kept, the same command resumes"
    if _came == signal.SIGINT:
        return KeyboardInterrupt(message.replace("{signal}", "Ctrl-C"))
    return Preempted(message.replace("{signal}", "SIGTERM"))


def must_stop() -> bool:
    """Tell whether a signal came that is to stop this thread here."""
    return (
        _came > 0 and not _held and threading.current_thread() is threading.main_thread()
    )


def check_stop() -> None:
    """Raise the exception of a signal that came. Every loop over records or batches calls this."""
    if must_stop():
        raise stopped()


@contextlib.contextmanager
def noticed(to_the_end: bool = False) -> Iterator[None]:
    """Handle SIGTERM and Ctrl-C, where they are not ignored, in the main thread: in the block, or
    also behind it, where the interpreter ends.
    """
    global _came
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _came = 0
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        if not to_the_end:
            for number, old in before.items():
                signal.signal(number, old)
            _came = 0


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Let a signal end the block wherever it is: a wait for a person, a lock or the network."""
    global _at_once
    before, _at_once = _at_once, not _held
    try:
        check_stop()
        yield
    finally:
        _at_once = before


@contextlib.contextmanager
def held(hold: bool = True) -> Iterator[None]:
    """Make ``check_stop`` do nothing in the block: what several processes do together, they stop
    together. Or, within such, let it work again.
    """
    global _held
    before, _held = _held, hold
    try:
        yield
    finally:
        _held = before
