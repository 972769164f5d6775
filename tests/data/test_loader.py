"""The prefetching iterator: order, errors, and no thread left behind."""

import threading

import pytest

from asesjax.data.batching import prefetch


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_order_and_end():
    assert list(prefetch(iter(range(100)), depth=3)) == list(range(100))
    assert list(prefetch([])) == []
    assert list(prefetch([None, 0, False])) == [None, 0, False]
    assert not threads()


def test_an_exception_comes_after_the_items_before_it():
    def items():
        yield 1
        yield 2
        raise ZeroDivisionError("bad row")

    got = []
    with pytest.raises(ZeroDivisionError, match="bad row"):
        for item in prefetch(items()):
            got.append(item)
    assert got == [1, 2]
    assert not threads()


def test_at_most_depth_items_are_prepared_ahead():
    made, enough = [], threading.Event()

    def items():
        for i in range(50):
            made.append(i)
            if i == 2:
                enough.set()
            yield i

    ready = prefetch(items(), depth=2)
    assert next(ready) == 0
    assert enough.wait(10)
    assert not threading.Event().wait(0.3)
    assert made == [0, 1, 2]
    ready.close()
    assert not threads()


def test_work_happens_in_one_other_thread():
    names = set(prefetch(threading.current_thread().name for _ in range(5)))
    assert names == {"prefetch_0"}
