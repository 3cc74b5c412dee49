"""Sorted lists that may grow with a site, held in bounded memory.

What does not fit into memory is written as sorted runs into an unnamed temporary file, and read back as a merge of
those runs. Knows bytes only: neither blobs nor manifests. Nothing here survives the process, so nothing is synced.
"""

from __future__ import annotations

import os
from contextlib import suppress
from heapq import merge
from typing import TYPE_CHECKING

from zodbvault.blobs.layouts import KEY_SIZE
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import IO


# Records in memory before a run is written: a few megabytes, as each costs some 100 bytes.
IN_MEMORY = 32_768
# So many runs of one size are merged into one of the next. Three sizes of at most 15 runs are merged at a time for
# more than a hundred million records: never more than 64.
_FAN_IN = 16
_READ_SIZE = 32_768
_WRITE_SIZE = 262_144


class SortedRecords(Closing):
    """Byte strings of one length, unique and in ascending order, in bounded memory.

    Records may be added at any time; an iteration sees those that were there when it began. Any number of iterations
    may run at the same time, but none beyond close(). `folder` takes the temporary file, once there is one.
    """

    def __init__(self, record_size: int, folder: Path, *, in_memory: int = IN_MEMORY) -> None:
        self._record_size = record_size
        self._folder = folder
        self._in_memory = in_memory
        self._recent: set[bytes] = set()
        # Runs, as (offset, length) in bytes in the one temporary file. Those of a level have about the same length.
        self._levels: list[list[tuple[int, int]]] = []
        self._file: IO[bytes] | None = None
        self._end = 0
        self._unique: int | None = None

    def add(self, record: bytes) -> None:
        """Take in `record`. Raises ZodbvaultError when the temporary file cannot be written."""
        if len(record) != self._record_size:
            raise ValueError(f"a record of {len(record)} bytes among those of {self._record_size}")
        self._recent.add(record)
        self._unique = None
        if len(self._recent) >= self._in_memory:
            self._spill()

    def __iter__(self) -> Iterator[bytes]:
        recent = sorted(self._recent)
        if not self._levels:
            return iter(recent)
        streams: list[Iterable[bytes]] = [self._read(run) for level in self._levels for run in level]
        return _unique(merge(*streams, recent))

    def __len__(self) -> int:
        """How many different records there are; costs a merge when they are in the temporary file."""
        if not self._levels:
            return len(self._recent)
        if self._unique is None:
            self._unique = sum(1 for _ in self)
        return self._unique

    def __bool__(self) -> bool:
        return bool(self._recent or self._levels)

    def close(self) -> None:
        """Forget everything; the temporary file is gone."""
        self._recent = set()
        self._levels = []
        if self._file is not None:
            # It has no name any more, and nobody reads it again.
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _spill(self) -> None:
        """Write what is in memory as a run; merge runs where a level is full."""
        try:
            run = self._write(sorted(self._recent))
            for level in self._levels:
                level.append(run)
                if len(level) < _FAN_IN:
                    break
                run = self._write(_unique(merge(*[self._read(full) for full in level])))
                level.clear()
            else:
                self._levels.append([run])
        except OSError as error:
            raise ZodbvaultError(
                f"a temporary list of blobs cannot be written: {reason_of(error)}", path=self._folder
            ) from error
        self._recent = set()

    def _write(self, records: Iterable[bytes]) -> tuple[int, int]:
        start = self._end
        pending = bytearray()
        for record in records:
            pending += record
            if len(pending) >= _WRITE_SIZE:
                self._append(pending)
                pending.clear()
        self._append(pending)
        return start, self._end - start

    def _append(self, data: bytearray) -> None:
        if self._file is None:
            from tempfile import TemporaryFile

            self._file = TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115 - lives until close()
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                done += os.pwrite(self._file.fileno(), view[done:], self._end + done)
        self._end += done

    def _read(self, run: tuple[int, int]) -> Iterator[bytes]:
        assert self._file is not None
        fd = self._file.fileno()
        size = self._record_size
        chunk_size = max(1, _READ_SIZE // size) * size
        offset, length = run
        end = offset + length
        while offset < end:
            wanted = min(chunk_size, end - offset)
            chunk = os.pread(fd, wanted, offset)
            if len(chunk) != wanted:
                raise ZodbvaultError("a temporary list of blobs was cut short", path=self._folder)
            offset += wanted
            for position in range(0, wanted, size):
                yield chunk[position : position + size]


class SortedKeys(SortedRecords):
    """The keys of blobs (16 bytes each), unique and in ascending order, in bounded memory."""

    def __init__(self, folder: Path, *, in_memory: int = IN_MEMORY) -> None:
        super().__init__(KEY_SIZE, folder, in_memory=in_memory)


def _unique(records: Iterable[bytes]) -> Iterator[bytes]:
    previous: bytes | None = None
    for record in records:
        if record != previous:
            yield record
            previous = record
