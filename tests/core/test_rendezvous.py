"""Processes connect and compare: a missing, double, stopped or different one is named in all."""

import socket
import threading
import time

import pytest

from asesjax.core import rendezvous
from asesjax.core.errors import Lost, UserError


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Quick waits; and no connection stays open."""
    monkeypatch.setattr(rendezvous, "_SAY_SECONDS", 0.1)
    monkeypatch.setattr(rendezvous, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(rendezvous, "_RETRY_SECONDS", 0.02)
    yield
    monkeypatch.setattr(rendezvous, "_LAST_SECONDS", 0.0)
    while Process.all:
        if (process := Process.all.pop()).peers is not None:
            process.peers.close()


class Process(threading.Thread):
    """One process of a run, in a thread: comes, then compares what it is given."""

    all = []

    def __init__(self, address, of, number, *facts, seconds=60.0, delay=0.0, leave=""):
        super().__init__(daemon=True)
        self.arguments, self.facts, self.delay, self.leave = (
            (address, of, number, seconds), facts, delay, leave,
        )  # fmt: skip
        self.said, self.error, self.lost, self.peers = [], None, None, None
        self.all.append(self)
        self.start()

    def run(self):
        time.sleep(self.delay)
        try:
            self.peers = rendezvous.meet(*self.arguments, say=self.said.append)
            for fact in self.facts:
                self.peers.compare(fact, 60.0, say=self.said.append)
            if self.leave == "stops":
                self.peers.close()
            if self.leave == "lost":
                for line in self.peers.lines:
                    line.close()
        except UserError as error:
            self.error, self.lost = str(error), isinstance(error, Lost)

    def end(self):
        self.join(60)
        assert not self.is_alive()
        return self.error


def test_processes_connect_in_any_order_and_agree_twice(address):
    some = [Process(address, 4, i, {"jax": "1"}, {"seed": [3]}, delay=0.05 * (4 - i))
            for i in range(4)]  # fmt: skip
    assert [process.end() for process in some] == [None] * 4
    assert some[0].peers.hosts == (socket.gethostname(),) * 4
    ends = [threading.Thread(target=process.peers.close) for process in some]
    for end in ends:
        end.start()
    for end in ends:
        end.join()
    # The port is free again at once, though connections were on it.
    socket.create_server(("", int(address.rpartition(":")[2]))).close()


def test_a_single_process_opens_no_connection(address):
    alone = Process(address, 1, 0, {"a": 1})
    assert alone.end() is None and alone.peers.lines == ()


def test_missing_processes_are_named_in_all_that_connected(address):
    zero = Process(address, 5, 0, seconds=2.0)
    two = Process(address, 5, 2)
    errors = {process.end() for process in (zero, two)}
    assert len(errors) == 1 and zero.lost and two.lost
    assert "process 0 (" in (error := errors.pop())
    assert f"waited 2 s at {address} for processes 1, 3-4 of 5" in error
    assert "of the others, 2 (" in error and "--start-timeout" in error
    assert any("waits at" in line and "processes 1, 3-4" in line for line in zero.said)
    assert any("waits at" in line and "processes 1, 3-4" in line for line in two.said)


def test_process_0_is_missing(address):
    one = Process(address, 2, 1, seconds=0.5)
    assert f"waited 0 s for process 0 at {address} (Connection refused)" in one.end()
    assert any(f"waits for process 0 at {address}" in line for line in one.said)


def test_a_host_that_does_not_exist():
    error = Process("no-such-host.invalid:1", 2, 1, seconds=0.3).end()
    assert "waited 0 s for process 0 at no-such-host.invalid:1" in error


def test_differences_name_process_and_field(address):
    some = [Process(address, 3, i, {"jax": "0.10", "seed": i // 2}) for i in range(3)]
    errors = {process.end() for process in some}
    assert len(errors) == 1
    host = socket.gethostname()
    assert f"seed is 0 in process 0 ({host}) and 1 in process 2 ({host})" in (text := errors.pop())
    assert "process 1" not in text and "jax" not in text


def test_many_differences_are_cut_short(address):
    some = [Process(address, 2, i, {f"f{k}": i for k in range(50)}) for i in range(2)]
    assert all("and 30 more" in process.end() for process in some)


def test_processes_disagree_about_their_number(address):
    some = [Process(address, 2, 0), Process(address, 3, 1)]
    assert {process.end() for process in some} == {
        f"process 0 ({socket.gethostname()}) was started as one of --processes 2 and process 1 "
        f"({socket.gethostname()}) as one of 3; start all with the same number"
    }


def test_two_of_the_same_number(address):
    some = [Process(address, 3, i) for i in (0, 1, 1)]
    assert all("there are two processes 1, on" in process.end() for process in some)


def test_the_port_is_taken(address):
    with socket.create_server(("", int(address.rpartition(":")[2]))):
        error = Process(address, 2, 0).end()
    assert "cannot listen on port" in error and "another run may be using it" in error


def other_program(address):
    """Connect to process 0, as soon as it listens."""
    host, _, port = address.rpartition(":")
    while True:
        try:
            return socket.create_connection((host, int(port)))
        except OSError:
            time.sleep(0.01)


def test_a_process_may_leave_and_connect_again(address):
    zero = Process(address, 3, 0, {})
    with other_program(address) as gone:
        rendezvous.send([rendezvous.Line(gone)], {"process": 1, "of": 3, "host": "elsewhere"})
        while not any("1 (elsewhere) came" in line for line in zero.said):
            time.sleep(0.01)
    while "processes 1-2 of 3" not in zero.said[-1]:
        time.sleep(0.01)
    others = [Process(address, 3, i, {}) for i in (1, 2)]
    assert [process.end() for process in (zero, *others)] == [None] * 3
    assert "elsewhere" not in zero.peers.hosts


def test_other_programs_on_the_port_are_disconnected(address):
    zero = Process(address, 2, 0, {})
    for words in (b"GET / HTTP/1.1\r\n", b"{}\n", b"[1]\n", b'{"process": "1"}\n', b"\xff\n", b""):
        with other_program(address) as line:
            line.sendall(words)
            line.shutdown(socket.SHUT_WR)
            assert line.recv(100) == b""
    one = Process(address, 2, 1, {})
    assert zero.end() is None and one.end() is None


def test_something_else_on_the_port_of_process_0(address):
    with socket.create_server(("", int(address.rpartition(":")[2]))) as server:

        def serve():
            with server.accept()[0] as line:
                line.sendall(b"HTTP/1.1 400 Bad Request\r\n")
                line.recv(1000)

        threading.Thread(target=serve, daemon=True).start()
        error = Process(address, 2, 1, seconds=0.4).end()
    assert f"waited 0 s for process 0 at {address}" in error


@pytest.mark.parametrize("leaves", [0, 1])
@pytest.mark.parametrize("how", ["stops", "lost"])
def test_a_process_that_ends_before_comparing_is_named(address, leaves, how):
    """A mistake that one process alone makes, such as a file that only its host lacks; a host that
    is gone.
    """
    some = [
        Process(address, 3, i, {}, *([] if i == leaves else [{}]), leave=how if i == leaves else "")
        for i in range(3)
    ]
    errors = [process.end() for process in some]
    assert errors.pop(leaves) is None
    assert {process.lost for i, process in enumerate(some) if i != leaves} == {how == "lost"}
    if how == "lost":
        name = "process 1 (" if leaves else "process 0 at localhost did not confirm: it "
        assert all(name in text and "was lost" in text for text in errors)
    elif leaves:
        assert all("process 1 (" in text and "has stopped" in text for text in errors)
    else:
        want = "process 0 did not confirm: it has stopped; what it printed says why"
        assert all(want in text for text in errors)


def test_a_late_process_is_waited_for(address):
    zero = Process(address, 2, 0, {})
    one = Process(address, 2, 1)
    while not any("waits for the settings of process 1" in line for line in zero.said):
        time.sleep(0.01)
    one.peers.compare({}, 60.0)
    assert zero.end() is None and one.end() is None


def test_no_words_of_another_program_stop_process_0(address):
    hello = '{"process": %s, "of": 2, "host": "%s"}\n'
    zero = Process(address, 2, 0, {})
    words = [hello % (2, "h"), hello % (7, "h"), hello % ("true", "h"), hello % ("1" * 5000, "h"),
             hello % (1, r"\u001b[2J"), "[" * 4000 + "\n", '{"process": ' * 300 + "\n",
             "x" * 100_000, hello % (1, "h" * 5000)]  # fmt: skip
    for own in words:
        with other_program(address) as line:
            try:
                line.sendall(own.encode())
                assert line.recv(100) == b"", own
            except ConnectionError:
                pass
    one = Process(address, 2, 1, {})
    assert zero.end() is None and one.end() is None


def test_more_connections_than_select_takes(address):
    zero = Process(address, 2, 0, {})
    lines = []
    try:
        lines.append(other_program(address))  # process 0 listens, and has raised the limit of files
        lines += [other_program(address) for _ in range(1100)]
        one = Process(address, 2, 1, {})
        assert zero.end() is None and one.end() is None
    finally:
        for line in lines:
            line.close()
