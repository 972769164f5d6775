"""Signals and lost processes in every stage of a run of one or several processes."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from shared.environment import xla_flags
from shared.processes import free_port

pytestmark = pytest.mark.long

TOY = Path(__file__).with_name("toy_run.py")
STAGES = ("first", "train", "measure", "last")
TOTAL = 3 * sum(range(101))
SLOW = pytest.mark.slow
STATUS = {signal.SIGTERM: 42, signal.SIGINT: 130, signal.SIGKILL: 3}


class Toys:
    """Processes of a toy run, whose output goes to files."""

    def __init__(self, folder, n, stage="", seconds=600):
        port = free_port()
        self.folder, self.outputs = folder, [folder / f"said-{i}" for i in range(n)]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "1",
                       "XLA_FLAGS": xla_flags(1)}  # fmt: skip
        self.processes = []
        for i, output in enumerate(self.outputs):
            given = map(str, (folder / "run", stage, seconds, n, i, port))
            with output.open("w") as file:
                self.processes.append(subprocess.Popen(
                    [sys.executable, str(TOY), *given], stdout=file, stderr=subprocess.STDOUT,
                    env=environment,
                ))  # fmt: skip

    def said(self, i=0):
        return self.outputs[i].read_text()

    def wait_for(self, text):
        end = time.monotonic() + 200
        while text not in self.said():
            assert time.monotonic() < end and self.processes[0].poll() is None, self.said()
            time.sleep(0.01)

    def finish(self, seconds=200):
        try:
            statuses = [process.wait(seconds) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()
        texts = [self.said(i) for i in range(len(self.outputs))]
        assert not re.search("Traceback|Error|terminat|Fatal", "".join(texts)), texts
        return statuses, [re.findall("^asesjax: .*", text, re.MULTILINE) for text in texts]



def chain(folder, n, number, to):
    """Stop or kill a run in every stage, and then let it end."""
    for stage in STAGES:
        toys = Toys(folder, n, stage)
        toys.wait_for(f"in {stage}")
        sent = time.monotonic()
        toys.processes[to].send_signal(number)
        statuses, lines = toys.finish(60)
        assert time.monotonic() - sent < 30
        want = [STATUS[number]] * n
        if number == signal.SIGKILL:
            want[to] = -number
            lines.pop(to)
            assert all(f"process {to} (" in line and "was lost" in line for line, in lines), lines
        assert statuses == want, (stage, statuses, lines)
        assert all(len(own) == 1 and "the same command resumes" in own[0] for own in lines), lines
    toys = Toys(folder, n)
    assert toys.finish() == ([0] * n, [[]] * n)
    assert (folder / "run/total").read_text() == str(TOTAL if n < 3 else TOTAL // 3 * 10)


@pytest.mark.parametrize("n, number, to", [
    (1, signal.SIGTERM, 0), (2, signal.SIGTERM, 1), (2, signal.SIGKILL, 0),
    *(pytest.param(*case, marks=SLOW) for case in [
        (1, signal.SIGINT, 0), (2, signal.SIGTERM, 0), (2, signal.SIGINT, 0),
        (2, signal.SIGINT, 1), (2, signal.SIGKILL, 1), (4, signal.SIGTERM, 2),
        (4, signal.SIGKILL, 0), (4, signal.SIGKILL, 3),
    ]),
])  # fmt: skip
def test_stopped_or_lost_in_every_stage(tmp_path, n, number, to):
    chain(tmp_path, n, number, to)


@SLOW
@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("stage", ["first", "measure", "last"])
def test_process_0_may_work_alone_for_longer_than_collectives_wait(tmp_path, n, stage):
    assert Toys(tmp_path, n, stage, 40).finish() == ([0] * n, [[]] * n)


@pytest.mark.parametrize("to", [0, 1])
def test_a_signal_while_processes_wait_for_another(tmp_path, to):
    toys = Toys(tmp_path, 3)
    missing = toys.processes.pop()
    missing.kill()
    missing.wait()
    while not all("waits" in toys.said(i) for i in (0, 1)):  # for process 2
        time.sleep(0.05)
    toys.processes[to].send_signal(signal.SIGTERM)
    assert toys.processes[to].wait(60) == 42
    if to == 0:
        assert toys.processes[1].wait(60) == 42
    toys.processes[1 - to].kill()
    toys.processes[1 - to].wait()
