"""What the processes of a run tell each other while it runs: values, signals, and their end.

A thread in each process reads the connections of ``rendezvous.Peers``. So it knows at once when a
process is lost, and ends this one too: the main thread may be inside a collective, which would wait
for the lost one, and jax itself would abort, or wait for minutes.

How all stop at the same place: each process counts the places where it could stop. When a signal
came to one, process 0 asks all for their counts, and all stop at the place after the largest.
"""

import contextlib
import math
import os
import selectors
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from asesjax.core import signals
from asesjax.core.errors import EXIT_LOST
from asesjax.core.rendezvous import Line, Peers, selecting, send

_POLL_SECONDS = 0.2
# For this process to come to its own end when another has failed: they often fail alike.
_OWN_END_SECONDS = 20.0
_SAVE_SECONDS = 300.0  # the same after a signal, where one may still write


class Link:
    """The connections of a running process to the others; process 0 has one to each."""

    def __init__(self, peers: Peers):
        self.peers = peers
        self._changed = threading.Condition()
        self._values: deque[Any] = deque()  # of process 0, for ``value``
        self._places = 0  # where this process could have stopped
        self._asked = False  # whether all are to stop
        self._counts: dict[int, int] = {}  # places of each process, in process 0
        self._stop_at: int | None = None
        self._arrived: dict[int, int] = {}  # how often each process has, in process 0
        self._waited = 0  # how often that has waited for all
        self._ended: dict[int, int] = {}  # exit status of each process that has said goodbye
        self._forced: tuple[float, str] | None = None  # when and why to end, come what may
        self._told = self._leaving = False
        threading.Thread(target=self._read, name="link", daemon=True).start()

    def tell(self, value: Any) -> None:
        """Give the others, who wait in ``value``, a JSON value, from process 0."""
        self._send({"value": value})

    def value(self, seconds: float = math.inf) -> Any:
        """Wait for the next value of process 0. Raises EOFError with its exit status as argument
        if that ends instead. After so many seconds, this process ends.
        """
        end = time.monotonic() + seconds
        with self._changed:
            # In turns, so that signals are handled in between.
            while not self._changed.wait_for(lambda: self._values or self._ended, _POLL_SECONDS):
                if time.monotonic() > end:
                    self._end(f"process 0 ({self.peers.hosts[0]}) was waited for {seconds:.0f} s")
            if not self._values:
                raise EOFError(self._ended[0])
            return self._values.popleft()

    def arrive(self) -> None:
        """Tell process 0, which does ``wait_for_all``, that this process is where it waits."""
        self._send({"arrives": True})

    def wait_for_all(self, seconds: float) -> None:
        """Wait in process 0 until all others have come once more; signals stop that. After so many
        seconds, the run ends.
        """
        end = time.monotonic() + seconds
        with self._changed:
            self._waited += 1
            while late := [number for number, _ in self._numbered()
                           if self._arrived.get(number, 0) < self._waited]:  # fmt: skip
                signals.check_stop()
                if time.monotonic() > end:
                    self._end(f"{self.peers.names(late)} was waited for {seconds:.0f} s")
                self._changed.wait(_POLL_SECONDS)

    def all_stop(self) -> bool:
        """Tell whether all processes stop here. All call this at the same places."""
        with self._changed:
            self._places += 1
            if not self._asked:
                return False
            while not self._changed.wait_for(lambda: self._stop_at is not None, _POLL_SECONDS):
                pass
            return self._stop_at is not None and self._places >= self._stop_at

    def leave(self, status: int) -> None:
        """Say goodbye with the exit status."""
        if not self._leaving:
            self._leaving = True
            self._send({"ends": status})

    def end(self) -> int:
        """Wait until process 0 has ended, and return its exit status; in that itself, 0."""
        with self._changed:
            while self.peers.process and not self._ended:
                self._changed.wait(_POLL_SECONDS)
            return self._ended.get(0, 0)

    def _send(self, message: dict) -> None:
        with self._changed:
            send(self.peers.lines, message)

    def _read(self) -> None:
        with selecting(self.peers.lines) as selector:
            for number, line in self._numbered():
                self._take(number, line.whole())
            while True:
                ready = {key.fileobj for key, _ in selector.select(_POLL_SECONDS)}
                for number, line in self._numbered():
                    if line not in ready:
                        continue
                    try:
                        self._take(number, line.receive())
                    except ConnectionError:
                        selector.unregister(line)
                        if number not in self._ended:
                            self._end(f"{self.peers.names([number])} was lost")
                if signals.came() and not self._told:
                    self._told = True
                    self._ask() if self.peers.process == 0 else self._send(
                        {"signal": signals.came()}
                    )
                if self._forced and time.monotonic() > self._forced[0]:
                    self._end(self._forced[1])

    def _numbered(self) -> list[tuple[int, Line]]:
        first = 1 if self.peers.process == 0 else 0
        return list(enumerate(self.peers.lines, first))

    def _take(self, number: int, messages: Any) -> None:
        for message in messages:
            with self._changed:
                self._one(number, message)
                self._changed.notify_all()

    def _one(self, number: int, message: dict) -> None:
        match message:
            case {"value": value}:
                self._values.append(value)
            case {"arrives": _}:
                self._arrived[number] = self._arrived.get(number, 0) + 1
            case {"signal": came}:  # to process 0, whose next look finds it
                signals.note(came)
            case {"stop": came}:
                signals.note(came)
                self._asked = True
                send(self.peers.lines, {"places": self._places})
            case {"places": places}:
                self._counts[number] = places
                self._decide()
            case {"stop_at": place}:
                self._stop_at = place
            case {"lost": text}:
                self._end(text)
            case {"ends": status}:
                self._ended[number] = status
                if status:
                    who = self.peers.names([number])
                    text = f"{who} has ended with status {status}; what it printed says why"
                    seconds = _SAVE_SECONDS if signals.came() else _OWN_END_SECONDS
                    self._forced = self._forced or (time.monotonic() + seconds, text)

    def _ask(self) -> None:
        with self._changed:
            self._asked, self._counts[0] = True, self._places
            send(self.peers.lines, {"stop": signals.came()})
            self._decide()
            self._changed.notify_all()

    def _decide(self) -> None:
        if len(self._counts) == len(self.peers.lines) + 1:
            self._stop_at = max(self._counts.values()) + 1
            send(self.peers.lines, {"stop_at": self._stop_at})

    def _end(self, text: str) -> None:
        """End this process at once, and have process 0 tell the others why."""
        if self.peers.process == 0:
            send(self.peers.lines, {"lost": text})
        _exit_lost(text)


def _exit_lost(text: str) -> None:
    line = f"asesjax: {text}; this process ends too, the same command resumes\n"
    os.write(2, line.encode())
    sys.stdout.flush()
    os._exit(EXIT_LOST)


@contextlib.contextmanager
def watched(peers: Peers) -> Iterator[None]:
    """End this process at once where another is lost in the block, before there is a Link."""
    over = threading.Event()

    def watch() -> None:
        with selecting(peers.lines) as selector:
            while not over.is_set():
                for key, _ in selector.select(_POLL_SECONDS):
                    assert isinstance(key.fileobj, Line)
                    if over.is_set() or key.fileobj.open():
                        selector.unregister(key.fileobj)  # it has sent what is read after the block
                    else:
                        number = 0 if peers.process else peers.lines.index(key.fileobj) + 1
                        _exit_lost(f"{peers.names([number])} was lost")

    thread = threading.Thread(target=watch, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def relay(address: str) -> str:
    """Pass on connections to ``host:port``, and return the address here that does. When the other
    side closes one, this side stays open: jax aborts the process when its connection to process 0
    closes, and ``Link`` is to end it.
    """
    host, _, port = address.rpartition(":")
    server = socket.create_server(("127.0.0.1", 0))

    def forward() -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(server, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is server:
                        near = server.accept()[0]
                        try:
                            far = socket.create_connection((host.strip("[]"), int(port)), 10.0)
                        except OSError:
                            near.close()  # jax tries again
                            continue
                        far.settimeout(None)
                        selector.register(near, selectors.EVENT_READ, far)
                        selector.register(far, selectors.EVENT_READ, near)
                        continue
                    assert isinstance(key.fileobj, socket.socket)
                    try:
                        if data := key.fileobj.recv(1 << 16):
                            key.data.sendall(data)
                            continue
                    except OSError:
                        pass
                    selector.unregister(key.fileobj)

    threading.Thread(target=forward, name="relay", daemon=True).start()
    return f"127.0.0.1:{server.getsockname()[1]}"
