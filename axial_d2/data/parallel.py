"""The same thing done with many items in threads, a few at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Items ahead of the one that is waited for, per worker: enough to keep all busy, few enough to stop
# soon and to hold little.
_AHEAD = 4


def in_threads(
    do: Callable[[Item], Result], items: Iterable[Item], workers: int
) -> Iterator[tuple[Item, Result | Exception]]:
    """Does something with each item, in threads, and gives the results in the items' order.

    Threads suffice for pictures: Pillow and numpy let go of the interpreter lock while they work.

    Args:
        do: what to do with an item.
        items: as many as there are; they are not held.
        workers: threads.

    Yields:
        Each item, and its result or the ValueError or OSError that `do` raised.
    """
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append((item, pool.submit(do, item)))
            if len(waiting) >= max(1, workers) * _AHEAD:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def _finished(item, future):
    try:
        return item, future.result()
    except (ValueError, OSError) as error:
        return item, error
