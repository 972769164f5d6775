"""The processes of a run find each other and compare what they are about to do, before jax starts.

jax's own start waits without a word, does not say for whom, and ends with a stack trace from C++.
So process 0 first listens on the coordinator's port itself; the others connect and say who they
are, in lines of JSON. Every ten seconds everybody says who is missing. When all have come, the
port is left to jax; the connections stay for comparing, until the first step of work together.
"""

import contextlib
import dataclasses
import json
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.lines import Wait, listen, receive, send

_RETRY_SECONDS = 0.5  # between attempts to reach process 0
_LONGEST_LINE = 1 << 24


def warn(line: str) -> None:
    """Print one line to standard error."""
    print(f"asesjax: {line}", file=sys.stderr, flush=True)


@dataclasses.dataclass(frozen=True)
class Peers:
    """Who has come, and the connections to them.

    Attributes:
      process: number of this process.
      hosts: names of the machines of all processes, in order; of process 0 alone elsewhere.
      lines: to processes 1, 2, ... in process 0; to process 0 elsewhere.
    """

    process: int
    hosts: tuple[str, ...]
    lines: tuple[socket.socket, ...]

    def compare(
        self, facts: Mapping[str, Any], seconds: float, say: Callable[[str], None] = warn
    ) -> None:
        """Compare facts with those of the other processes, all of which call this.

        Args:
          facts: JSON values by name.
          seconds: how long the others may take to come here.
          say: gets a line when there is a wait.

        Raises:
          UserError: naming processes and facts that differ, or a process that has stopped or did
            not come; in all of them.
        """
        wait = Wait(seconds, say)
        if self.process:
            send(self.lines, {"facts": dict(facts)})
            answer = _follow(self.lines[0], wait, say)
            if answer != "go":
                raise UserError(f"no word from process 0 at {self.hosts[0]} to go on: it {answer}")
            return
        told: dict[int, Mapping[str, Any]] = {}
        buffers = {line: b"" for line in self.lines}
        while len(told) < len(self.lines):
            absent = [i for i in range(1, len(self.hosts)) if i not in told]
            late = f"process 0 ({self.hosts[0]}) waits to hear what {self._names(absent)} runs"
            if wait.over():
                raise self._stop(f"{late}; {seconds:.0f} s have passed")
            wait.tell(late, self.lines)
            for line in wait.ready([self.lines[i - 1] for i in absent]):
                number = self.lines.index(line) + 1
                data = receive(line)
                buffers[line] += data
                if b"\n" in buffers[line]:
                    told[number] = json.loads(buffers[line])["facts"]
                elif not data:
                    raise self._stop(
                        f"{self._names([number])} has stopped; what it printed says why"
                    )
        rows = [json.loads(json.dumps(dict(facts))), *(told[i] for i in sorted(told))]
        if lines := differences(rows, self.hosts):
            shown = lines[:20] + [f"and {len(lines) - 20} more"] * (len(lines) > 20)
            raise self._stop(
                "the processes of this run are not alike:\n  " + "\n  ".join(shown) + "\nbring "
                "every host to the same commit, packages and command, then start again"
            )
        send(self.lines, {"go": True})

    def close(self) -> None:
        """Hang up."""
        for line in self.lines:
            line.close()

    def _names(self, numbers: Sequence[int]) -> str:
        return " and ".join(f"process {i} ({self.hosts[i]})" for i in numbers)

    def _stop(self, message: str) -> UserError:
        send(self.lines, {"stop": message})
        return UserError(message)


def meet(
    address: str,
    processes: int,
    process: int,
    seconds: float,
    say: Callable[[str], None] = warn,
) -> Peers:
    """Wait until all processes of a run have come.

    Args:
      address: ``host:port`` where process 0 listens.
      processes: how many there are.
      process: number of this one, from 0.
      seconds: after which whoever is still missing is an error.
      say: gets a line when there is a wait.

    Raises:
      UserError: processes that are missing or come twice; the same in all that have come.
    """
    host, _, port = address.rpartition(":")
    hello = {"process": process, "of": processes, "host": socket.gethostname()}
    if process:
        return _answer(host.strip("[]"), int(port), hello, seconds, say)
    if processes == 1:
        return Peers(0, (hello["host"],), ())
    return _gather(address, hello, seconds, say)


def differences(facts: Sequence[Mapping[str, Any]], hosts: Sequence[str]) -> list[str]:
    """Name the processes and fields in which they differ from process 0.

    Args:
      facts: of each process, in order.
      hosts: their names.

    Example:
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
    """Wait for all others, as process 0."""
    came: dict[int, tuple[socket.socket, str]] = {}
    unnamed: dict[socket.socket, bytes] = {}
    wait = Wait(seconds, say)

    def missing() -> str:
        absent = [i for i in range(1, mine["of"]) if i not in came]
        there = ", ".join(f"{i} ({came[i][1]})" for i in sorted(came))
        return (
            f"at {address} for process{'es' if len(absent) > 1 else ''} {_ranges(absent)} of "
            f"{mine['of']}" + (f"; of the others, {there} came" if there else "")
        )

    def stop(message: str) -> UserError:
        for line in (lines := [*unnamed, *(line for line, _ in came.values())]):
            send([line], {"stop": message})
        for line in lines:
            line.close()
        return UserError(message)

    with contextlib.closing(listen(address)) as server:
        while len(came) < mine["of"] - 1:
            lines = [line for line, _ in came.values()]
            if wait.over():
                raise stop(
                    f"process 0 ({mine['host']}) waited {seconds:.0f} s {missing()}. Look at what "
                    "the missing ones printed; --start-timeout waits longer"
                )
            wait.tell(f"process 0 ({mine['host']}) waits {missing()}", lines)
            for ready in wait.ready([server, *unnamed, *lines]):
                if ready is server:
                    unnamed[server.accept()[0]] = b""
                    continue
                data = receive(ready)
                if ready in lines:  # has nothing to say yet, so it has hung up
                    for i in [i for i, (line, _) in came.items() if line is ready]:
                        came.pop(i)[0].close()
                    continue
                unnamed[ready] += data
                theirs = _parse_hello(unnamed[ready])
                if theirs is None:
                    if not data or b"\n" in unnamed[ready] or len(unnamed[ready]) > _LONGEST_LINE:
                        del unnamed[ready]  # a stranger on our port
                        ready.close()
                elif wrong := _unfit(theirs, mine, came):
                    raise stop(wrong)
                else:
                    del unnamed[ready]
                    came[theirs["process"]] = ready, theirs["host"]
        for line in unnamed:
            line.close()
    send([line for line, _ in came.values()], {"go": True})
    numbers = sorted(came)
    return Peers(
        0, (mine["host"], *(came[i][1] for i in numbers)), tuple(came[i][0] for i in numbers)
    )


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
    """Report to process 0 and wait until all have come."""
    me, why = f"process {hello['process']} ({hello['host']})", "not tried yet"
    wait = Wait(seconds, say)
    while not wait.over():
        wait.tell(f"{me} waits for process 0 at {host}:{port} ({why})")
        with contextlib.ExitStack() as stack:
            try:
                line = socket.create_connection((host, port), min(5.0, wait.left()))
                stack.enter_context(line)
                send([line], hello)
                why = _follow(line, wait, say)
            except OSError as error:
                why = error.strerror or str(error)
            if why == "go":
                stack.pop_all()
                return Peers(hello["process"], (host,), (line,))
        time.sleep(_RETRY_SECONDS)
    raise UserError(
        f"{me} waited {seconds:.0f} s for process 0 at {host}:{port} ({why}). Look at what process "
        "0 printed, whether this host reaches that one, and whether --coordinator is the same for "
        "all; --start-timeout waits longer"
    )


def _follow(line: socket.socket, wait: Wait, say: Callable) -> str:
    """Read what process 0 says until it says go; anything else is why it did not."""
    buffer, why = b"", "is silent"
    while not wait.over(slack=2.0):  # process 0's own message at the end comes first
        if not wait.ready([line]):
            continue
        if not (data := receive(line)):
            return "has stopped; what it printed says why"
        buffer += data
        while b"\n" in buffer:
            text, _, buffer = buffer.partition(b"\n")
            try:
                (kind, what), *_ = dict(json.loads(text)).items()
            except (ValueError, TypeError):
                return "is not a run of ours"
            if kind == "go":
                return "go"
            if kind == "stop":
                raise UserError(what)
            if kind == "waits":
                say(what)
                why = f"says: {what}"
        if len(buffer) > _LONGEST_LINE:
            return "is not a run of ours"
    return why


def _parse_hello(text: bytes) -> dict | None:
    """Read who somebody is; None for anything else, or less than a line."""
    try:
        message = json.loads(text) if text.endswith(b"\n") else None
    except ValueError:
        return None
    types = {"process": int, "of": int, "host": str}
    if not isinstance(message, dict) or not all(
        isinstance(message.get(name), kind) for name, kind in types.items()
    ):
        return None
    return message if message["process"] > 0 else None


def _ranges(numbers: Sequence[int]) -> str:
    """Write numbers shortly.

    Example:
      >>> _ranges([1, 2, 3, 7, 9, 10])
      '1-3, 7, 9-10'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
