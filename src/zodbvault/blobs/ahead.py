"""Work on the pieces of a long list, where it is slow on several threads and some pieces ahead of the reader.

Threads help where a piece waits for a disk, or takes long in hashing and copying. Small files that are in memory are
the opposite: Python's lock changes hands at each system call, and the threads are slower than one alone (measured: by
a third). Which it is shows while the work is done. Knows nothing of the work.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import ExitStack
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from zodbvault.io.workers import Job, Workers

# A disk answers several at once sooner than one after the other, however few cores there are.
_THREADS = 4
_AHEAD = 2 * _THREADS
# Pieces that took longer than this (seconds), so many of them in a row, are slow: so many that follow go to threads.
_SLOW = 0.004
_SLOW_IN_A_ROW = 2
_THEN_ON_THREADS = 100

Item = TypeVar("Item")
Result = TypeVar("Result")


def pieces_of(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while piece := list(islice(iterator, size)):
        yield piece


def worked_ahead(work: Callable[[Item], Result], pieces: Iterable[Item]) -> Generator[Result, None, None]:
    """work(piece) for each piece, in their order; slow ones are worked on, or wait, before they are asked for.

    The pieces are taken in the caller's thread. Raises what the work raised; when the generator is closed the threads
    have ended.
    """
    waiting: deque[Job[Result]] = deque()
    slow = for_threads = 0
    with ExitStack() as stack:
        workers: Workers | None = None
        for piece in pieces:
            if for_threads:
                for_threads -= 1
                workers = workers or stack.enter_context(_workers())
                waiting.append(workers.submit(partial(work, piece)))
                if len(waiting) > _AHEAD:
                    yield waiting.popleft().wait()
                continue
            while waiting:
                yield waiting.popleft().wait()
            begun = time.perf_counter()
            result = work(piece)
            slow = slow + 1 if time.perf_counter() - begun > _SLOW else 0
            if slow == _SLOW_IN_A_ROW:
                slow, for_threads = 0, _THEN_ON_THREADS
            yield result
        while waiting:
            yield waiting.popleft().wait()


def _workers() -> Workers:
    from zodbvault.io.workers import Workers

    return Workers(_THREADS, "zodbvault-blobs")
