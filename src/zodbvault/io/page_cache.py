"""Reading a large file so that the system's page cache is afterwards as it was: nothing of ours in it, nothing gone.

A backup reads all of a database of which the running site uses a part. What the site has in memory has to stay there,
and what it has not must not push that out. So before a part of the file is read the kernel is asked which pages of it
are in memory (mincore(2)), and afterwards it is told to let the others go (posix_fadvise(2)). Where it does not answer
(another system; a file that is not ours and that we may not write: Linux then says that all is in memory) nothing is
let go. Knows nothing of what is read.
"""

from __future__ import annotations

import functools
import mmap
import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WINDOW = 32 << 20
"""Bytes that are looked at together, and one window ahead: further than the kernel reads ahead of us."""

PAGE = mmap.PAGESIZE


class PageCache:
    """The pages of one open file that was not read by us before; it is read from its beginning to its end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        # Of each window that was looked at: a byte for each page, odd where it was in memory.
        self._found: dict[int, bytes] = {}
        self._mincore = _mincore() if hasattr(os, "posix_fadvise") else None

    def before_reading(self, offset: int, length: int) -> None:
        """Bytes from `offset` on are read next: look at what is there, let go what earlier reads brought in."""
        if self._mincore is None:
            return
        first, last = offset // WINDOW, (offset + max(length, 1) - 1) // WINDOW
        if first in self._found and last + 1 in self._found:
            return
        for window in range(first, last + 2):
            if window not in self._found:
                self._found[window] = self._look(window)
        for window in [old for old in self._found if old < first]:
            self._let_go(window)

    def finish(self) -> None:
        """Let go the rest of what the reads brought in."""
        for window in list(self._found):
            self._let_go(window)

    def _look(self, window: int) -> bytes:
        """What is in memory of a window; empty where that cannot be told, or the file ends before it."""
        offset = window * WINDOW
        try:
            length = min(os.fstat(self._fd).st_size - offset, WINDOW)
            if length <= 0:
                return b""
            # A private mapping may be written, which ctypes asks for; nobody reads or writes it.
            with mmap.mmap(self._fd, length, access=mmap.ACCESS_COPY, offset=offset) as mapping:
                assert self._mincore is not None
                return self._mincore(mapping, length)
        except (OSError, ValueError):
            return b""

    def _let_go(self, window: int) -> None:
        start = window * WINDOW
        # It is advice: where it is not taken, nothing is wrong.
        with suppress(OSError):
            for first, end in absent_runs(self._found.pop(window)):
                os.posix_fadvise(self._fd, start + first * PAGE, (end - first) * PAGE, os.POSIX_FADV_DONTNEED)


def absent_runs(found: bytes) -> Iterator[tuple[int, int]]:
    """The pages that were not in memory, as runs: number of the first, and of the first one behind the run.

    found: a byte for each page, odd where it was in memory.
    """
    # All but the lowest bit of each byte is undefined.
    pages = found.translate(_LOWEST_BIT)
    end = 0
    while (first := pages.find(b"\0", end)) >= 0:
        end = pages.find(b"\1", first)
        if end < 0:
            end = len(pages)
        yield first, end


_LOWEST_BIT = bytes(byte & 1 for byte in range(256))


@functools.cache
def _mincore() -> Callable[[mmap.mmap, int], bytes] | None:
    """mincore(2) for a mapping and its length in bytes: a byte for each page. None where it is missing."""
    from zodbvault.io.c_library import c_function

    native = c_function("mincore")
    if native is None:
        return None
    import ctypes

    native.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]

    def mincore(mapping: mmap.mmap, length: int) -> bytes:
        first = ctypes.c_char.from_buffer(mapping)
        pages = ctypes.create_string_buffer(-(-length // PAGE))
        if native(ctypes.addressof(first), length, pages) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        return pages.raw

    return mincore
