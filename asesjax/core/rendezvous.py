"""The processes of a run connect and compare their configurations before jax starts.

jax's own start waits in silence, does not say for whom, and ends with a stack trace from C++. So
process 0 first listens on the coordinator's port itself; the others introduce themselves, in lines
of JSON. Every ten seconds each process prints who is missing. When all have connected, jax takes
the port; the connections stay open, for ``compare`` and then for ``core/link.py``.
"""

import collections
import contextlib
import dataclasses
import itertools
import json
import resource
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from asesjax.core import signals
from asesjax.core.errors import Lost, UserError

_SAY_SECONDS = 10.0  # between messages about a wait
_POLL_SECONDS = 1.0
_RETRY_SECONDS = 0.5  # between attempts to connect to process 0
_LAST_SECONDS = 2.0  # for the others to read what was sent last
_HAS_STOPPED = "has stopped; what it printed says why"
_LONGEST_LINE = 1 << 24
_LONGEST_HELLO = 1 << 12
# Of a host that has vanished without closing its connections: asked after so many seconds, again
# every so many, given up after so many times.
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


def warn(line: str) -> None:
    """Print one line to standard error."""
    print(f"asesjax: {line}", file=sys.stderr, flush=True)


class Line:
    """A connection that carries JSON objects, one a line."""

    def __init__(self, connection: socket.socket, longest: int = _LONGEST_LINE):
        self.connection, self.longest, self._buffer = connection, longest, b""
        self._whole: collections.deque[dict] = collections.deque()
        self.fileno, self.close = connection.fileno, connection.close
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def receive(self) -> Iterator[dict]:
        """Read once, and return the objects that have come whole and were not taken. Raises
        ConnectionError with the reason where there are none and the connection is closed, or where
        it carries anything else.
        """
        data = b""
        with contextlib.suppress(OSError):
            data = self.connection.recv(1 << 16)
        if not data and not self._whole:
            raise ConnectionError("was lost")
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        try:
            if max(map(len, (*lines, self._buffer))) > self.longest:
                raise ValueError
            self._whole.extend(dict(json.loads(line)) for line in lines)
        except (ValueError, TypeError, RecursionError):
            raise ConnectionError("is not a run of ours") from None
        return self.whole()

    def open(self) -> bool:
        """Tell whether there is something to read, waiting for it, before the other side's end."""
        with contextlib.suppress(OSError):
            return bool(self.connection.recv(1, socket.MSG_PEEK))
        return False

    def whole(self) -> Iterator[dict]:
        """Yield the objects that were received, and that nobody has taken."""
        while self._whole:
            yield self._whole.popleft()


class _Wait:
    """A wait of so many seconds that says now and then what it is for."""

    def __init__(self, seconds: float, say: Callable[[str], None]):
        self._end, self._say = time.monotonic() + seconds, say
        self._told = time.monotonic()

    def over(self, slack: float = 0.0) -> bool:
        """Tell whether the end was more than ``slack`` seconds ago."""
        return time.monotonic() > self._end + slack

    def left(self) -> float:
        """Return the seconds until the end, at least 0.01."""
        return max(self._end - time.monotonic(), 0.01)

    def tell(self, text: str, others: Sequence[Line] = ()) -> None:
        """Say what is waited for, here and as ``{"waits": text}`` to others, if it is time."""
        if time.monotonic() - self._told >= _SAY_SECONDS:
            self._told = time.monotonic()
            self._say(f"{text}; {self.left():.0f} s left")
            send(others, {"waits": text})

    def ready(self, selector: selectors.BaseSelector) -> list[Any]:
        """Return the connections that can be read, or none after a moment."""
        signals.check_stop()
        return [key.fileobj for key, _ in selector.select(min(_POLL_SECONDS, self.left()))]


@contextlib.contextmanager
def selecting(lines: Sequence[Any]) -> Iterator[selectors.BaseSelector]:
    """Select among connections."""
    with contextlib.closing(selectors.DefaultSelector()) as selector:
        for line in lines:
            selector.register(line, selectors.EVENT_READ)
        yield selector


@dataclasses.dataclass(frozen=True)
class Peers:
    """The processes of a run."""

    process: int  # number of this process
    hosts: tuple[str, ...]  # names of the machines of all, in order; elsewhere only of process 0
    lines: tuple[Line, ...]  # connections to all others; elsewhere to process 0

    def compare(
        self, facts: Mapping[str, Any], seconds: float, say: Callable[[str], None] = warn
    ) -> None:
        """Compare JSON facts with those of the other processes, all of which call this. ``say``
        gets a line when there is a wait. Raises UserError in all processes, naming processes and
        facts that differ, or a process that stopped; Lost where one was lost or did not call this
        within ``seconds``.
        """
        wait = _Wait(seconds, say)
        if self.process:
            send(self.lines, {"facts": dict(facts)})
            try:
                return _follow(self.lines[0], wait, say)
            except ConnectionError as why:
                raise Lost(f"process 0 at {self.hosts[0]} did not confirm: it {why}") from None
        told: dict[int, Mapping[str, Any]] = {}
        numbers = {line: number for number, line in enumerate(self.lines, 1)}
        with selecting(self.lines) as selector:
            while len(told) < len(self.lines):
                absent = [i for i in range(1, len(self.hosts)) if i not in told]
                late = (
                    f"process 0 ({self.hosts[0]}) waits for the settings of {self.names(absent)}"
                )
                if wait.over():
                    raise _stop(self.lines, f"{late}; {seconds:.0f} s have passed", Lost)
                wait.tell(late, self.lines)
                for line in wait.ready(selector):
                    name = self.names([numbers[line]])
                    try:
                        for message in line.receive():
                            _stop_too(message)
                            if "ends" in message:
                                raise _stop(self.lines, f"{name} {_HAS_STOPPED}")
                            told[numbers[line]] = message["facts"]
                            selector.unregister(line)
                            break
                    except ConnectionError as why:
                        raise _stop(self.lines, f"{name} {why}", Lost) from None
        rows = [json.loads(json.dumps(dict(facts))), *(told[i] for i in sorted(told))]
        if lines := differences(rows, self.hosts):
            shown = lines[:20] + [f"and {len(lines) - 20} more"] * (len(lines) > 20)
            raise _stop(
                self.lines,
                "the processes of this run differ:\n  " + "\n  ".join(shown) + "\nbring every host "
                "to the same commit, packages and command, then start again",
            )
        send(self.lines, {"go": True})

    def close(self) -> None:
        """Say goodbye and close the connections; a signal that stops this process stops the others
        too.
        """
        _pass_on(self.lines)
        send(self.lines, {"ends": True})
        _close(self.lines)

    def names(self, numbers: Sequence[int]) -> str:
        """Name some processes and their hosts."""
        return " and ".join(f"process {i} ({self.hosts[i]})" for i in numbers)


def meet(
    address: str, processes: int, process: int, seconds: float, say: Callable[[str], None] = warn
) -> Peers:
    """Wait until all processes of a run have connected at ``address``, ``host:port`` of process 0.
    ``say`` gets a line when there is a wait. Raises the same error in all that have connected: Lost
    if a process is missing after ``seconds``, UserError if one is there twice.
    """
    host, _, port = address.rpartition(":")
    hello: dict[str, Any] = {"process": process, "of": processes, "host": socket.gethostname()}
    if process:
        return _answer(host.strip("[]"), int(port), hello, seconds, say)
    if processes == 1:
        return Peers(0, (hello["host"],), ())
    return _gather(address, hello, seconds, say)


def differences(facts: Sequence[Mapping[str, Any]], hosts: Sequence[str]) -> list[str]:
    """Name the processes, and their facts, that differ from process 0.

    >>> differences([{"jax": "1"}, {"jax": "1"}, {"jax": "2"}], ["a", "b", "c"])
    ["jax is '1' in process 0 (a) and '2' in process 2 (c)"]
    """
    lines = []
    for number, theirs in enumerate(facts):
        for name in sorted({**facts[0], **theirs}):
            mine, other = (f.get(name, "absent") for f in (facts[0], theirs))
            if mine != other:
                lines.append(
                    f"{name} is {mine!r} in process 0 ({hosts[0]}) and {other!r} in process "
                    f"{number} ({hosts[number]})"
                )
    return lines


def _gather(address: str, mine: dict, seconds: float, say: Callable) -> Peers:
    came: dict[int, tuple[Line, str]] = {}  # by number: connection and host
    unnamed: set[Line] = set()
    wait = _Wait(seconds, say)

    def missing() -> str:
        absent = [i for i in range(1, mine["of"]) if i not in came]
        there = ", ".join(f"{i} ({came[i][1]})" for i in sorted(came))
        return (
            f"at {address} for process{'es' if len(absent) > 1 else ''} {_ranges(absent)} of "
            f"{mine['of']}" + (f"; of the others, {there} came" if there else "")
        )

    def stop(message: str, kind: type[UserError] = UserError) -> UserError:
        lines = [*unnamed, *(line for line, _ in came.values())]
        error = _stop(lines, message, kind)
        _close(lines)
        return error

    with contextlib.closing(_listen(address)) as server, selecting([server]) as selector:
        while len(came) < mine["of"] - 1:
            lines = [line for line, _ in came.values()]
            if wait.over():
                raise stop(
                    f"process 0 ({mine['host']}) waited {seconds:.0f} s {missing()}. Look at what "
                    "the missing ones printed; --start-timeout waits longer", Lost
                )  # fmt: skip
            wait.tell(f"process 0 ({mine['host']}) waits {missing()}", lines)
            try:
                came_now = wait.ready(selector)
            except BaseException:
                _pass_on(lines)
                raise
            for ready in came_now:
                if ready is server:
                    with contextlib.suppress(OSError):  # gone already
                        unnamed.add(line := Line(server.accept()[0], _LONGEST_HELLO))
                        selector.register(line, selectors.EVENT_READ)
                    continue
                try:
                    for hello in ready.receive():
                        if ready not in unnamed or not _is_hello(hello):
                            raise ConnectionError
                        if wrong := _unfit(hello, mine, came):
                            raise stop(wrong)
                        unnamed.remove(ready)
                        ready.longest = _LONGEST_LINE
                        came[hello["process"]] = ready, hello["host"]
                except ConnectionError:  # another program, or a process that has ended
                    selector.unregister(ready)
                    ready.close()
                    unnamed.discard(ready)
                    came = {i: own for i, own in came.items() if own[0] is not ready}
    for line in unnamed:
        line.close()
    lines, hosts = zip(*(came[i] for i in sorted(came)), strict=True)
    send(lines, {"go": True})
    return Peers(0, (mine["host"], *hosts), lines)


def _unfit(theirs: dict, mine: dict, came: Mapping[int, tuple[Any, str]]) -> str:
    number, host = theirs["process"], theirs["host"]
    if theirs["of"] != mine["of"]:
        return (
            f"process 0 ({mine['host']}) was started as one of --processes {mine['of']} and "
            f"process {number} ({host}) as one of {theirs['of']}; start all with the same number"
        )
    if number in came:
        return (
            f"there are two processes {number}, on {came[number][1]} and {host}; give each its "
            "own --process, and look for one that was left over"
        )
    return ""


def _answer(host: str, port: int, hello: dict, seconds: float, say: Callable) -> Peers:
    me, why = f"process {hello['process']} ({hello['host']})", "not tried yet"
    wait = _Wait(seconds, say)
    while not wait.over():
        wait.tell(f"{me} waits for process 0 at {host}:{port} ({why})")
        with contextlib.ExitStack() as stack:
            try:
                connection = socket.create_connection((host, port), min(5.0, wait.left()))
                line = stack.enter_context(contextlib.closing(Line(connection)))
                send([line], hello)
                _follow(line, wait, say)
                stack.pop_all()
                return Peers(hello["process"], (host,), (line,))
            except OSError as error:
                why = error.strerror or str(error)
        time.sleep(_RETRY_SECONDS)
    raise Lost(
        f"{me} waited {seconds:.0f} s for process 0 at {host}:{port} ({why}). Look at what process "
        "0 printed, whether this host reaches that one, and whether --coordinator is the same for "
        "all; --start-timeout waits longer"
    )


def _follow(line: Line, wait: _Wait, say: Callable) -> None:
    """Read until process 0 says go. Raises ConnectionError with the reason if it does not."""
    why = "is silent"
    with selecting([line]) as selector:
        messages = line.whole()
        while not wait.over(slack=2.0):  # process 0's own message at the end comes first
            for message in messages:
                _stop_too(message)
                if "go" in message:
                    return
                if "stop" in message:
                    raise (Lost if message["lost"] else UserError)(message["stop"])
                if "ends" in message:
                    raise UserError(f"process 0 did not confirm: it {_HAS_STOPPED}")
                if "waits" in message:
                    say(message["waits"])
                    why = f"says: {message['waits']}"
            messages = line.receive() if wait.ready(selector) else iter(())
    raise ConnectionError(why)


def _stop(lines: Sequence[Line], message: str, kind: type[UserError] = UserError) -> UserError:
    """Have the others raise an error, and return it."""
    send(lines, {"stop": message, "lost": kind is Lost})
    return kind(message)


def _pass_on(lines: Sequence[Line]) -> None:
    if signals.came():
        send(lines, {"signal": signals.came()})


def _stop_too(message: dict) -> None:
    if "signal" in message:
        signals.note(message["signal"])
        raise signals.stopped()


def _is_hello(message: dict) -> bool:
    """Tell whether a message is the introduction of a process."""
    types = {"process": int, "of": int, "host": str}
    fits = all(type(message.get(name)) is kind for name, kind in types.items())
    return fits and 0 < message["process"] < message["of"] and message["host"].isprintable()


def _ranges(numbers: Sequence[int]) -> str:
    """Write [1, 2, 3, 7] as "1-3, 7"."""
    parts = []
    for _, group in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in group]
        parts.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    return ", ".join(parts)


def _listen(address: str) -> socket.socket:
    """Listen on the port of ``host:port``, as jax does on every address of this machine."""
    # A connection for each process: more than the usual limit where there are over 1,000.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    port = int(address.rpartition(":")[2])
    both: dict[str, Any] = {"family": socket.AF_INET6, "dualstack_ipv6": True}
    try:
        return socket.create_server(("", port), **(both if socket.has_dualstack_ipv6() else {}))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"process 0 cannot listen on port {port} of --coordinator {address}: "
            f"{getattr(error, 'strerror', error)}; another run may be using it: stop that, or give "
            "another port to all processes"
        ) from None


def _close(lines: Sequence[Line]) -> None:
    """Close connections, once the other side has: what was sent would be lost with one that closes
    on messages that it has not read.
    """
    end = time.monotonic() + _LAST_SECONDS
    for line in lines:
        with contextlib.suppress(OSError):
            line.connection.shutdown(socket.SHUT_WR)
    for line in lines:
        with contextlib.suppress(OSError):
            line.connection.settimeout(max(end - time.monotonic(), 0.01))
            while line.connection.recv(1 << 16) and time.monotonic() < end:
                pass
        line.close()


def send(lines: Sequence[Line], message: dict) -> None:
    """Send a JSON object to some processes; one that has gone does not get it."""
    for line in lines:
        with contextlib.suppress(OSError):
            line.connection.settimeout(5.0)
            line.connection.sendall(json.dumps(message).encode() + b"\n")
