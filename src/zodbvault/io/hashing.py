"""Checksums of files and of streams of blocks. Knows nothing of what they are compared with.

None of them protects against an attacker (md5 is repozo's choice), so they work in FIPS mode too.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from zodbvault.errors import reason_of
from zodbvault.io.closing import Closing
from zodbvault.io.stored import DamagedFile, open_stored

if TYPE_CHECKING:
    import os
    from collections.abc import Callable
    from hashlib import _Hash

    from zodbvault.io.workers import Job, Workers

BLOCK_SIZE = 1 << 20
"""Bytes that are read at once."""

MOST_WAITING = 8
"""Blocks that may wait for their thread, so that memory stays constant."""

WORTH_A_THREAD = 1 << 16
"""Bytes; smaller blocks are hashed at once while there is no thread yet."""


def new_hash(algorithm: str) -> _Hash:
    """A hash object of hashlib."""
    import hashlib

    return hashlib.new(algorithm, usedforsecurity=False)


class BackgroundHash(Closing):
    """A checksum that is computed beside the work of its owner.

    The first block is hashed at once; a thread begins with the second large one. A context manager, which ends it.
    """

    def __init__(self, algorithm: str) -> None:
        self._hash = new_hash(algorithm)
        self._begun = False
        self._thread: Workers | None = None
        self._waiting: deque[Job[None]] = deque()

    def update(self, data: bytes) -> None:
        """Add `data`, which must not change any more. Waits while many blocks are ahead of it."""
        if self._thread is None:
            if not self._begun or len(data) < WORTH_A_THREAD:
                self._begun = True
                self._hash.update(data)
                return
            from zodbvault.io.workers import Workers

            self._thread = Workers(1, self._hash.name)
        while self._waiting and (len(self._waiting) >= MOST_WAITING or self._waiting[0].is_done):
            self._waiting.popleft().wait()
        self._waiting.append(self._thread.submit(lambda: self._hash.update(data)))

    def hexdigest(self) -> str:
        """The checksum of all that was added, as hexadecimal digits."""
        while self._waiting:
            self._waiting.popleft().wait()
        return self._hash.hexdigest()

    def close(self) -> None:
        """End the thread. Blocks that still wait are dropped, so hexdigest() comes before."""
        if self._thread is not None:
            self._thread.close()
            self._thread = None
            self._waiting.clear()


def sha256_of(path: str | os.PathLike[str], on_progress: Callable[[int], None] | None = None) -> tuple[int, str]:
    """Size in bytes and sha256 (hexadecimal) of a regular file. Raises DamagedFile when it cannot be read.

    on_progress: is told the bytes read so far.
    """
    checksum = new_hash("sha256")
    buffer = bytearray(BLOCK_SIZE)
    view = memoryview(buffer)
    size = 0
    with open_stored(path) as file:
        try:
            while length := file.readinto(buffer):
                checksum.update(view[:length])
                size += length
                if on_progress is not None:
                    on_progress(size)
        except OSError as error:
            raise DamagedFile(f"cannot be read: {reason_of(error)}", path=path) from error
    return size, checksum.hexdigest()
