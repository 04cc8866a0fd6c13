"""Loading ahead in threads, so that decoding overlaps with inference."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def prefetch(load: Callable[[K], V], keys: Iterable[K], threads: int) -> Generator[V, None, None]:
    """`load(key)` for each key, in order, computed up to 2 * `threads` keys ahead.

    With `threads` 0 everything happens in the caller's thread. An error of `load` is raised where
    its value would have come. Closing the iterator early drops what has not begun and waits for
    the few loads that have.
    """
    if threads < 1:
        yield from map(load, keys)
        return
    rest = iter(keys)
    pending: deque[Future[V]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="qfrewrite-data")
    try:
        pending.extend(pool.submit(load, key) for key in islice(rest, 2 * threads))
        while pending:
            value = pending.popleft().result()
            pending.extend(pool.submit(load, key) for key in islice(rest, 1))
            yield value
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
