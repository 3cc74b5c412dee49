"""Copies the committed transactions of a live Data.fs in one pass: read once, checked, searched for blobs, handed on.

The story of the copy and nothing else: how bytes are compressed and hashed is the writer's business, what becomes of
the blobs the caller's, whether to copy at all was decided before. Constant memory.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.filestorage.blob_search import BlobSearch
from zodbvault.filestorage.format import FIRST_TRANSACTION, NO_TID
from zodbvault.filestorage.source import DamagedDataFs
from zodbvault.filestorage.walk import CUT_SHORT, TransactionWalk, hides_a_transaction

if TYPE_CHECKING:
    from collections.abc import Callable

    from zodbvault.filestorage.source import DataFs
    from zodbvault.io.clock import Clock
    from zodbvault.io.gzip_members import MemberWriter, Stored

LOOKS = 3
"""How often the end of the file is looked at again before what does not add up counts as damage."""

PAUSE = 0.2
"""Seconds before each of these looks."""


class CopiedRange(NamedTuple):
    """What was copied of a Data.fs: whole committed transactions, bytes `start` to `end`.

    first_tid: of the first transaction in it, None where there is none. last_tid: the greatest tid of the whole state,
    None for an empty database. tail_tid, tail_header: tid and offset of the transaction that ends at `end`; where none
    was copied the tid that was given and 0, None for an empty database.
    transactions: how many. encrypted: records were met in which blobs cannot be seen.
    unfinished: why the file has bytes after `end`, None when it had none when the copy began.
    went_back: offsets of transactions whose tid is smaller than the one before; ZODB opens such files, with a warning.
    stored: size and checksums of what was written.
    """

    start: int
    end: int
    first_tid: bytes | None
    last_tid: bytes | None
    tail_tid: bytes | None
    tail_header: int
    transactions: int
    encrypted: bool
    unfinished: str | None
    went_back: tuple[int, ...]
    stored: Stored


def copy_range(
    source: DataFs,
    start: int,
    previous_tail: bytes | None,
    previous_greatest: bytes | None,
    writer: MemberWriter,
    on_blob: Callable[[bytes, bytes], None] | None,
    *,
    every_record: bool,
    clock: Clock,
    on_progress: Callable[[int], None] | None = None,
) -> CopiedRange:
    """Copies from `start`, a transaction boundary or 0 for a full, to the end of the last committed transaction.

    previous_tail, previous_greatest: tid of the transaction that ends at `start`, and the greatest one up to there;
    None where there is none. on_blob(oid, tid) is called for each blob record met, maybe twice; None where nobody asks
    for blobs, and records are not looked at. With `every_record` all records are looked at, else the blocks are
    searched (same result, see blob_search). on_progress gets the number of bytes copied so far. Finishes the writer.
    Raises DamagedDataFs, naming the offset, when the file does not add up.
    """
    walk = TransactionWalk(
        max(start, FIRST_TRANSACTION), source.size(), previous_tail or NO_TID, previous_greatest or NO_TID
    )
    search = None if on_blob is None else BlobSearch(walk, source.read, on_blob, every_record=every_record)
    try:
        offset = start
        while offset < walk.size and walk.stopped is None:
            buffer = writer.buffer()
            limit = _fill_and_follow(source, walk, buffer, offset, clock)
            if search is not None:
                limit = search.collect(buffer, offset, limit)
            if limit > offset:
                writer.write(buffer, limit - offset)
                offset = limit
            else:
                assert walk.stopped or offset >= walk.size  # a block is longer than any header
            if on_progress is not None:
                on_progress(offset - start)
    except DamagedDataFs as error:
        error.path = os.fspath(source.path)
        error.hint = "No backup was made of it, older backups are untouched. See ZODB's script fsrecover"
        raise
    return CopiedRange(
        start=start,
        end=walk.position,
        first_tid=walk.first_tid,
        last_tid=_none_for_no_tid(walk.last_tid),
        tail_tid=_none_for_no_tid(walk.tail_tid),
        tail_header=walk.tail_header,
        transactions=walk.transactions,
        encrypted=search is not None and search.encrypted,
        unfinished=walk.stopped,
        went_back=walk.went_back,
        stored=writer.finish(),
    )


def _fill_and_follow(source: DataFs, walk: TransactionWalk, buffer: bytearray, offset: int, clock: Clock) -> int:
    """Reads the bytes from `offset` on into `buffer` and follows the transactions in them.

    Returns what the walk's feed does. A writer that is just voting, aborting or finishing can make the end of the file
    look damaged for an instant: what does not add up is looked at again, `LOOKS` times, before it is raised.
    """
    mark = walk.mark()
    looks = 0
    while True:
        try:
            with memoryview(buffer)[: max(walk.size - offset, 0)] as view:
                got = source.read_into(view, offset)
                if got < len(view):
                    raise DamagedDataFs(f"ends at offset {offset + got}: the file became shorter while it was read")
                limit = walk.feed(view, offset)
            if _end_is_settled(source, walk) or looks == LOOKS:
                return limit
        except DamagedDataFs:
            if looks == LOOKS:
                raise
        looks += 1
        if source.size() == walk.size:
            clock.sleep(PAUSE)
        walk.return_to(mark)
        walk.look_again(source.size())


def _end_is_settled(source: DataFs, walk: TransactionWalk) -> bool:
    """Whether the walk may end where it stopped, if it did; False asks for another look.

    Raises DamagedDataFs when what seems to be cut short is a transaction with a damaged length.
    """
    if walk.stopped != CUT_SHORT:
        return True
    if hides_a_transaction(source.read, walk.position, walk.size, walk.tail_tid):
        raise DamagedDataFs(
            f"the transaction at offset {walk.position} has a damaged length: it goes beyond the file's end, "
            "which closes another transaction"
        )
    return not walk.stopped_finished


def _none_for_no_tid(tid: bytes) -> bytes | None:
    return None if tid == NO_TID else tid
