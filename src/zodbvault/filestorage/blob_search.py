"""Finds the blob records in bytes of a Data.fs that come in order, block by block, without looking at every record.

Most databases are millions of records that are no blobs'. So each block is searched, at the speed of memory, for the
two things that a record of interest cannot lack: the name of the blobs' module, and the run of zeros in a record that
refers back (an undo). Only the transactions with a hit are walked record by record. A transaction that lies in two
blocks or more is always walked, as it comes, so nothing is read again and a name split by a block's end is not missed.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from zodbvault.filestorage.blob_records import BLOB_MODULE, RecordWalk
from zodbvault.io.searching import Block

if TYPE_CHECKING:
    from collections.abc import Callable

    from zodbvault.filestorage.walk import TransactionWalk


class BlobSearch:
    """Collects the blob records from the blocks that `walk` was fed with; `collect` goes with each `walk.feed`.

    read, on_blob, on_back_pointer: as for RecordWalk. A blob may be reported twice.
    every_record: look at all records, do not search.
    """

    def __init__(
        self,
        walk: TransactionWalk,
        read: Callable[[int, int], bytes] | None,
        on_blob: Callable[[bytes, bytes], None],
        *,
        every_record: bool,
        on_back_pointer: Callable[[bytes, bytes, int, int], None] | None = None,
    ) -> None:
        self._walk = walk
        self._records = RecordWalk(read, on_blob, on_back_pointer)
        self._every_record = every_record

    @property
    def encrypted(self) -> bool:
        """Whether encrypted records were met. Without `every_record` it is a sample, some records of each block."""
        return self._records.encrypted

    def collect(self, buffer: bytes | bytearray, offset: int, limit: int) -> int:
        """Reports the blobs in `buffer`, which begins at `offset` of the file and was fed to the walk.

        limit: what the walk's feed returned. Returns the offset at which the next buffer has to begin: `limit`, or less
        where a record's header is split by it.
        Raises DamagedDataFs when the records that are looked at do not add up.
        """
        records = self._records
        if records.is_within:
            begin_next = records.follow(buffer, offset, limit)
            if records.is_within:
                return begin_next
        starts = self._walk.starts
        for number in self._transactions_of_interest(buffer, offset, limit):
            start = offset + starts[number]
            records.begin(start, buffer, offset)
            records.follow(buffer, offset, limit)
        open_start = self._walk.open_start
        if open_start is not None and open_start >= offset:
            records.begin(open_start, buffer, offset)
            return records.follow(buffer, offset, limit)
        return limit

    def _transactions_of_interest(self, buffer: bytes | bytearray, offset: int, limit: int) -> list[int]:
        """Which of the walk's `starts` are worth a look at their records."""
        starts = self._walk.starts
        if self._every_record or not starts:
            return list(range(len(starts)))
        end = self._walk.position - offset
        # The last one is looked at in any case, for encrypted records.
        found = {len(starts) - 1}
        block = Block(buffer)
        for sought in (BLOB_MODULE, _zeros_of_a_back_pointer(limit)):
            at = block.find(sought, starts[0], end)
            while at >= 0:
                number = bisect_right(starts, at) - 1
                found.add(number)
                if number + 1 == len(starts):
                    break
                at = block.find(sought, starts[number + 1], end)
        return sorted(found)


def _zeros_of_a_back_pointer(limit: int) -> bytes:
    """The zeros that each record which refers back has, in a file of which nothing behind the offset `limit` is known.

    2 bytes of version length, 8 of data length, then the pointer: it is smaller than `limit`, so that it begins with at
    least as many zeros. Other headers have fewer in a row, but for rare ones, which only cost a look.
    """
    return bytes(10 + 8 - (limit.bit_length() + 7) // 8)
