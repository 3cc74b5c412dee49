"""Work on the pieces of a long list, some pieces ahead of the reader on other threads.

Several threads help where the work waits for the system: folders to be listed, files to be read, written and hashed.
A piece holds many items, since to hand over each by itself would cost as much as the work. Knows nothing of the work.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from zodbvault.io.workers import Job

# A disk answers several at once sooner than one after the other, however few cores there are.
_THREADS = 4
_AHEAD = 2 * _THREADS

Item = TypeVar("Item")
Result = TypeVar("Result")


def pieces_of(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one shorter."""
    iterator = iter(items)
    while piece := list(islice(iterator, size)):
        yield piece


def worked_ahead(work: Callable[[Item], Result], pieces: Iterable[Item]) -> Generator[Result, None, None]:
    """work(piece) for each piece, in their order; a few pieces are worked on, or wait, before they are asked for.

    The pieces are taken in the caller's thread; a single one is worked on there too. Raises what the work raised;
    when the generator is closed the threads have ended.
    """
    iterator = iter(pieces)
    first = list(islice(iterator, 2))
    if len(first) < 2:
        for piece in first:
            yield work(piece)
        return
    from zodbvault.io.workers import Workers

    waiting: deque[Job[Result]] = deque()
    with Workers(_THREADS, "zodbvault-blobs") as workers:
        for piece in chain(first, iterator):
            waiting.append(workers.submit(partial(work, piece)))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().wait()
        while waiting:
            yield waiting.popleft().wait()
