"""Checks the bytes of a database that is joined from backups, as a restore writes them or a deep verify reads them.

The same walk and the same search for blobs as a copy of the live file makes, but stricter: nothing may be unfinished,
and all has to end where the backup says that it ends. Knows neither backups nor files; bytes come in, verdicts go out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.filestorage.blob_search import BlobSearch
from zodbvault.filestorage.format import FIRST_TRANSACTION, MAGIC_LENGTH, MAGICS, NO_TID
from zodbvault.filestorage.source import DamagedDataFs
from zodbvault.filestorage.walk import TransactionWalk
from zodbvault.io import progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@dataclass(frozen=True)
class CheckedRange:
    """What a whole, sound database consists of; fields as in copying.CopiedRange, with `start` 0."""

    end: int
    first_tid: bytes | None
    last_tid: bytes | None
    tail_tid: bytes | None
    tail_header: int
    transactions: int
    encrypted: bool
    went_back: tuple[int, ...]


class Boundary(NamedTuple):
    """The end of a transaction. last_tid: the greatest up to there. tail_tid, tail_header: of the last transaction."""

    last_tid: bytes
    tail_tid: bytes | None
    tail_header: int


class RestoredBytes:
    """Takes the bytes of a database from its first one to the last, block by block, and checks that they add up.

    end: how many bytes there are to be. on_blob(oid, tid): called for each blob record met, maybe twice; None where
    nobody asks for blobs, and records are not looked at.
    read(offset, length): bytes that were fed before, for records that refer back (an undo); so a block has to be
    written before it is fed. Where there is nothing to read from, None: such records are then given to
    on_back_pointer(oid, tid, position, back), and `those_of_blobs` tells afterwards which of them are blobs'.
    every_record: look at all records; else the blocks are searched, with the same result.
    """

    def __init__(
        self,
        end: int,
        read: Callable[[int, int], bytes] | None,
        on_blob: Callable[[bytes, bytes], None] | None,
        *,
        every_record: bool = False,
        on_back_pointer: Callable[[bytes, bytes, int, int], None] | None = None,
    ) -> None:
        if end < FIRST_TRANSACTION:
            raise DamagedDataFs(f"has {end} bytes: not a FileStorage")
        self._end = end
        self._walk = TransactionWalk(FIRST_TRANSACTION, end, NO_TID, NO_TID)
        self._search = (
            None
            if on_blob is None
            else BlobSearch(self._walk, read, on_blob, every_record=every_record, on_back_pointer=on_back_pointer)
        )
        self._rest = b""
        self._on_progress = progress.begin("Data.fs", end)
        self._offset = 0  # of the first byte of _rest, and of the block after it

    def feed(self, block: bytes) -> None:
        """Takes the next bytes. Raises DamagedDataFs, naming the offset, as soon as something does not add up."""
        buffer = self._rest + block if self._rest else block
        if self._offset + len(buffer) > self._end:
            raise DamagedDataFs(f"goes on after offset {self._end}, where it is to end")
        if self._offset == 0:
            if len(buffer) < MAGIC_LENGTH:
                self._rest = buffer
                return
            if buffer[:MAGIC_LENGTH] not in MAGICS:
                raise DamagedDataFs(f"begins with {buffer[:MAGIC_LENGTH]!r}: not a FileStorage")
        limit = self._walk.feed(buffer, self._offset)
        if self._walk.stopped:
            raise DamagedDataFs(f"is not whole at offset {self._walk.position}: {self._walk.stopped}")
        if self._search is not None:
            limit = self._search.collect(buffer, self._offset, limit)
        self._rest = buffer[limit - self._offset :]
        self._offset = limit
        if self._on_progress is not None:
            self._on_progress(limit)

    def boundary(self) -> Boundary | None:
        """What the bytes so far end with; None where they do not end with the end of a transaction."""
        walk, fed = self._walk, self._offset + len(self._rest)
        if walk.position != fed:
            return None
        return Boundary(walk.last_tid, walk.tail_tid if walk.transactions else None, walk.tail_header)

    def finish(self) -> CheckedRange:
        """What all that was fed amounts to. Raises DamagedDataFs when it is not all of it."""
        progress.end()
        walk = self._walk
        fed = self._offset + len(self._rest)
        if fed != self._end:
            raise DamagedDataFs(f"ends at offset {fed}, it is to end at {self._end}")
        if walk.position != self._end:
            raise DamagedDataFs(f"the transaction at offset {walk.position} is not whole")
        return CheckedRange(
            end=self._end,
            first_tid=walk.first_tid,
            last_tid=walk.last_tid if walk.transactions else None,
            tail_tid=walk.tail_tid if walk.transactions else None,
            tail_header=walk.tail_header,
            transactions=walk.transactions,
            encrypted=self._search is not None and self._search.encrypted,
            went_back=walk.went_back,
        )


_BACK_POINTER = struct.Struct(">8sQQ8s")

BACK_POINTER_SIZE = _BACK_POINTER.size


def back_pointer(oid: bytes, tid: bytes, position: int, back: int) -> bytes:
    """A record that refers back, as `those_of_blobs` takes it (BACK_POINTER_SIZE bytes); arguments as of RecordWalk."""
    return _BACK_POINTER.pack(oid, position, back, tid)


def those_of_blobs(back_pointers: Iterable[bytes], blobs: Iterable[bytes]) -> Iterator[bytes]:
    """Which of the records that refer back are blobs', going by their oid: an object never changes its class.

    Not those that refer to nothing, or to a record that does: the object's creation was undone, and again after a redo.
    back_pointers: as `back_pointer` makes them, sorted. blobs: keys, oid and tid (16 bytes) in one, sorted, of those
    whose data were seen. Yields keys. Exact but for an object whose other records are all gone.
    """
    blob_oids = (key[:8] for key in blobs)
    blob_oid = next(blob_oids, None)
    last_oid = None
    undone: set[int] = set()
    for oid, position, back, tid in map(_BACK_POINTER.unpack, back_pointers):
        while blob_oid is not None and blob_oid < oid:
            blob_oid = next(blob_oids, None)
        if oid != last_oid:
            last_oid = oid
            undone.clear()
        if oid != blob_oid:
            continue
        if back and back not in undone:
            yield oid + tid
        else:
            undone.add(position)
