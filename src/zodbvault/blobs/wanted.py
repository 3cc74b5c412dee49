"""Which blobs belong to a backup: found before any of them is copied.

A backup of Data.fs wants the blobs that the site has, up to its last transaction, and those that the data were seen to
refer to. Where blobs alone are backed up each one that is settled counts. Decides by names, sizes and times; reads no
content and writes nothing but temporary lists.
"""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from zodbvault.blobs.layouts import KEY_SIZE, OID_SIZE
from zodbvault.blobs.spill import SortedRecords
from zodbvault.io.closing import Closing, close_fd

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path

    from zodbvault.blobs.manifest import Entry
    from zodbvault.blobs.source import SourceBlobs
    from zodbvault.blobs.spill import SortedKeys

# Seconds: without a Data.fs nothing says that a blob's file is finished, but for its having been left alone so long.
SETTLED_AFTER = 5.0

_SIZE = 8


def wanted_blobs(
    source: SourceBlobs, scratch: Path, met: SortedKeys, last_tid: bytes | None, *, only_met: bool = False
) -> Generator[tuple[bytes, int | None, bool], None, None]:
    """Each blob that a backup wants, in the order of the keys: key, size in bytes, whether the data refer to it.

    The size is None where no walk has found the blob. last_tid: of the backup; later blobs may belong to nothing (None:
    an empty database, to which no blob belongs). only_met: nothing but what the data refer to, without a walk: the
    blobstorage holds another database's blobs too.
    """
    if only_met:
        for key in met:
            yield key, None, True
        return
    upto = b"" if last_tid is None else last_tid
    with closing(source.walk(scratch)) as walk:
        settled = (blob for blob in walk if blob[0][OID_SIZE:] <= upto)
        yield from _joined(settled, iter(met))


class StateList(Closing):
    """The blobs of a state, with their sizes. A context manager: close() forgets them.

    number, bytes: of these blobs. needed: how many the data refer to. missing: keys of those among them that nobody
    has. changed, removed: how many differ from the state before, or are not in it any more; waiting: how many files are
    too young (blobs alone).
    """

    def __init__(self, scratch: Path) -> None:
        self._blobs = SortedRecords(KEY_SIZE + _SIZE, scratch)
        self.number = self.bytes = self.needed = 0
        self.missing: list[bytes] = []
        self.changed = self.removed = self.waiting = 0

    def add(self, key: bytes, size: int) -> None:
        """One more blob of the state."""
        self._blobs.add(key + size.to_bytes(_SIZE, "big"))
        self.number += 1
        self.bytes += size

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Key and size in bytes of each, in the order of the keys. May be asked for more than once."""
        for record in self._blobs:
            yield record[:KEY_SIZE], int.from_bytes(record[KEY_SIZE:], "big")

    def close(self) -> None:
        """Forget the blobs."""
        self._blobs.close()


def list_state(
    source: SourceBlobs,
    scratch: Path,
    met: SortedKeys,
    last_tid: bytes | None,
    held: Callable[[bytes], int | None],
    *,
    only_met: bool = False,
) -> StateList:
    """The state of a backup of Data.fs; the rest as for wanted_blobs().

    held: the size of a blob that an earlier backup has, for one that the site has lost; asked in the order of the keys.
    """
    state = StateList(scratch)
    with closing(wanted_blobs(source, scratch, met, last_tid, only_met=only_met)) as wanted:
        for key, size, is_met in wanted:
            state.needed += is_met
            if size is None:
                size = _size_in(source, key)
            if size is None:
                size = held(key)
            if size is not None:
                state.add(key, size)
            elif is_met:
                state.missing.append(key)
    return state


def list_settled(source: SourceBlobs, scratch: Path, previous: Iterable[Entry], now: float) -> StateList:
    """The state of a blobstorage without a Data.fs: each blob that was not written within the last seconds.

    previous: the newest state, in the order of the keys. now: seconds since 1970, as files' times are.
    """
    state = StateList(scratch)
    with closing(source.walk(scratch)) as walk:
        for key, size, before in compared(walk, iter(previous)):
            if size is None:
                state.removed += 1
            elif before is not None and before.size == size:
                state.add(key, size)
            elif is_settled(source, key, now):
                state.add(key, size)
                state.changed += 1
            else:
                state.waiting += 1
    return state


def is_settled(source: SourceBlobs, key: bytes, now: float) -> bool:
    """Whether the file of a blob was left alone long enough; not when it is gone."""
    fd = source.open(key)
    if fd is None:
        return False
    try:
        return abs(now - os.fstat(fd).st_mtime) >= SETTLED_AFTER
    finally:
        close_fd(fd)


def compared(
    walk: Iterator[tuple[bytes, int]], previous: Iterator[Entry]
) -> Iterator[tuple[bytes, int | None, Entry | None]]:
    """Each key of a walk or of a state: the size (None: gone), and the entry of that state (None: new)."""
    before = next(previous, None)
    for key, size in walk:
        while before is not None and before.key < key:
            yield before.key, None, before
            before = next(previous, None)
        if before is not None and before.key == key:
            yield key, size, before
            before = next(previous, None)
        else:
            yield key, size, None
    while before is not None:
        yield before.key, None, before
        before = next(previous, None)


def _size_in(source: SourceBlobs, key: bytes) -> int | None:
    """The size of a blob that a walk did not find at its place: it may stand elsewhere."""
    fd = source.open(key)
    if fd is None:
        return None
    try:
        return os.fstat(fd).st_size
    finally:
        close_fd(fd)


def _joined(blobs: Iterator[tuple[bytes, int]], met: Iterator[bytes]) -> Iterator[tuple[bytes, int | None, bool]]:
    """Each key that one of two lists has: its size where `blobs` has it, and whether it is among the met ones."""
    wanted = next(met, None)
    for key, size in blobs:
        while wanted is not None and wanted < key:
            yield wanted, None, True
            wanted = next(met, None)
        is_met = wanted == key
        yield key, size, is_met
        if is_met:
            wanted = next(met, None)
    while wanted is not None:
        yield wanted, None, True
        wanted = next(met, None)
