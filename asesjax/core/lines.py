"""Lines of JSON over TCP, and waiting for them with an end and now and then a word."""

import contextlib
import json
import select
import socket
import time
from collections.abc import Callable, Sequence

from asesjax.core.errors import UserError

SAY_SECONDS = 10.0  # between lines about what is waited for
POLL_SECONDS = 1.0


class Wait:
    """A wait with an end, that says now and then what for."""

    def __init__(self, seconds: float, say: Callable[[str], None]):
        """Wait ``seconds`` from now; ``say`` gets the lines."""
        self._end, self._say = time.monotonic() + seconds, say
        self._told = time.monotonic()

    def over(self, slack: float = 0.0) -> bool:
        """Tell whether the end has come, or is so many seconds ago."""
        return time.monotonic() > self._end + slack

    def left(self) -> float:
        """Return the seconds until the end, a little at least."""
        return max(self._end - time.monotonic(), 0.01)

    def tell(self, text: str, others: Sequence[socket.socket] = ()) -> None:
        """Say what is waited for, here and as ``{"waits": text}`` to others, if it is time."""
        if time.monotonic() - self._told >= SAY_SECONDS:
            self._told = time.monotonic()
            self._say(f"{text}; {self.left():.0f} s left")
            send(others, {"waits": text})

    def ready(self, lines: Sequence[socket.socket]) -> list[socket.socket]:
        """Return the lines on which something has come, or none after a moment."""
        return select.select(lines, [], [], min(POLL_SECONDS, self.left()))[0]


def listen(address: str) -> socket.socket:
    """Listen on the port of ``host:port``, as jax does on every address of this machine.

    Raises:
      UserError: the port is in use, or none.
    """
    port = int(address.rpartition(":")[2])
    both = {"family": socket.AF_INET6, "dualstack_ipv6": True}
    try:
        return socket.create_server(("", port), **(both if socket.has_dualstack_ipv6() else {}))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"process 0 cannot listen on port {port} of --coordinator {address}: "
            f"{getattr(error, 'strerror', error)}; another run may be using it: stop that, or give "
            "another port to all processes"
        ) from None


def send(lines: Sequence[socket.socket], message: dict) -> None:
    """Send a message to each; who has hung up is found out when reading."""
    for line in lines:
        with contextlib.suppress(OSError):
            line.settimeout(5.0)
            line.sendall(json.dumps(message).encode() + b"\n")


def receive(line: socket.socket) -> bytes:
    """Read what has come; nothing where the other has hung up."""
    try:
        return line.recv(1 << 16)
    except OSError:
        return b""
