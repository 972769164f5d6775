"""Batches prepared in the background while the device computes."""

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def prefetch(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """Iterate over items that one background thread prepares ahead, in order.

    Args:
      items: what to iterate over; only the thread touches it.
      depth: items kept ready, at most.

    Yields:
      The items. An exception of ``items`` is raised here, after the items before it. When the
      consumer stops early (``close``, or the generator is let go), the thread ends too.

    Example:
      >>> list(prefetch(range(3)))
      [0, 1, 2]
    """
    ready: queue.Queue = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def put(entry):
        while not stopped.is_set():
            try:
                return ready.put(entry, timeout=0.1)
            except queue.Full:
                pass

    def work():
        try:
            for item in items:
                put((item, None))
                if stopped.is_set():
                    return
            put((_END, None))
        except BaseException as error:
            put((_END, error))

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
