"""Signals are noted wherever they come, and looked at where work can stop."""

import gc
import os
import signal
import threading

import pytest

from asesjax.core import files, signals
from asesjax.core.errors import Preempted
from asesjax.data.vocab_training import train_vocabulary


@pytest.fixture(autouse=True)
def noticed():
    with signals.noticed():
        yield


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def test_a_signal_in_a_callback_of_the_garbage_collector_is_not_lost():
    def callback(phase, info):
        if phase == "start" and not signals.came():
            send()

    gc.callbacks.append(callback)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(callback)
    with pytest.raises(Preempted, match="stopped by SIGTERM"):
        signals.check_stop()


@pytest.mark.parametrize(
    "number, name", [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")]
)
def test_what_stopped_is_named(number, name):
    send(number)
    assert str(signals.stopped("{signal} at step 3")) == f"{name} at step 3"
    assert f"stopped by {name}; what is finished is kept" in str(signals.stopped())


def test_a_signal_while_a_vocabulary_is_trained():
    def texts():
        for number in range(2000):
            if number == 1000:
                send()
            yield f"some text of number {number}"

    with pytest.raises(Preempted):
        train_vocabulary(texts(), 100)


def test_held_work_goes_on():
    send()
    with signals.held():
        signals.check_stop()
        assert len(set(train_vocabulary(["a b c"] * 5, 50).encode("a b c").tolist())) > 1
        with pytest.raises(Preempted), signals.held(False):
            signals.check_stop()


def test_other_threads_go_on():
    send()
    raised = []
    thread = threading.Thread(target=lambda: raised.append(signals.check_stop()))
    thread.start()
    thread.join()
    assert raised == [None]


@pytest.mark.parametrize("number, error", [
    (signal.SIGTERM, Preempted), (signal.SIGINT, KeyboardInterrupt)
])  # fmt: skip
def test_a_wait_for_a_person_ends_at_once(number, error):
    timer = threading.Timer(0.2, lambda: send(number))
    reading, writing = os.pipe()
    timer.start()
    with os.fdopen(reading) as pipe, os.fdopen(writing, "w"):  # into which nobody writes
        with pytest.raises(error), signals.at_once():
            pipe.readline()


def test_a_wait_for_a_lock_ends(tmp_path):
    timer = threading.Timer(0.2, send)
    with files.locked(tmp_path):
        timer.start()
        with pytest.raises(Preempted), files.locked(tmp_path, wait=True):
            pass


def test_ignored_signals_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as nohup and & have it
    try:
        with signals.noticed():
            send(signal.SIGINT)
            signals.check_stop()
    finally:
        signal.signal(signal.SIGINT, before)
