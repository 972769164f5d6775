"""Batches prepared in the background while the device computes."""

import collections
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def prefetch(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """Yield items that a background thread prepares ahead, in order, at most ``depth``. An
    exception of ``items`` is raised here in its place. The thread ends when the consumer stops.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(1, "prefetch")
    try:
        ready = collections.deque(pool.submit(next, source, _END) for _ in range(depth))
        while (item := ready.popleft().result()) is not _END:
            ready.append(pool.submit(next, source, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
