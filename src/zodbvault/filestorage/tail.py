"""The tail proof: does the transaction that a backup ended with still end there, and does anything follow it?

A tid is never given twice and a pack swaps the whole file, so the same tid at the same offset of the same file shows
that all before it is unchanged. It takes one look at one header. What follows from it is for others to decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zodbvault.filestorage.format import (
    CLOSING_LENGTH,
    FINISHED_STATUSES,
    FIRST_TRANSACTION,
    NO_TID,
    NUMBER,
    TRANSACTION_HEADER,
    TRANSACTION_HEADER_LENGTH,
    tid_as_bytes,
)
from zodbvault.filestorage.source import DamagedDataFs
from zodbvault.filestorage.walk import NOT_FINISHED, TransactionWalk, hides_a_transaction

if TYPE_CHECKING:
    from zodbvault.filestorage.source import DataFs


class Tail(NamedTuple):
    """What a Data.fs has at an offset that a backup ended at.

    tid: of the transaction that ends there; None where the file has only its magic before it.
    header: offset of that transaction, 0 for none. size: the file's length in bytes when it was looked at.
    has_more: something follows that may be committed, or damaged; only a copy can tell. False: nothing follows, or one
    transaction that is just being written.
    """

    tid: bytes | None
    header: int
    size: int
    has_more: bool


def read_tail(source: DataFs, end: int, last_header: int | None) -> Tail | None:
    """What stands at `end`; None when the file is shorter, or no committed transaction ends there.

    last_header: the offset at which that transaction began when it was backed up, None when it is not known; it saves
    one read. An unchanged file costs one read with it, two without, and none where `end` is the end of the magic.
    """
    size = source.size()
    if end > size or end < FIRST_TRANSACTION:
        return None
    if end == FIRST_TRANSACTION:
        return Tail(None, 0, size, _has_more(source, end, size, NO_TID))
    start = _start_by_closing_length(source, end) if last_header is None else last_header
    if start is None or not FIRST_TRANSACTION <= start <= end - TRANSACTION_HEADER_LENGTH - CLOSING_LENGTH:
        return None
    header = source.read(start, TRANSACTION_HEADER_LENGTH)
    if len(header) < TRANSACTION_HEADER_LENGTH:
        return None
    number, length, status, *_ = TRANSACTION_HEADER.unpack(header)
    if start + length + CLOSING_LENGTH != end or status not in FINISHED_STATUSES:
        return None
    tid = tid_as_bytes(number)
    return Tail(tid, start, size, _has_more(source, end, size, tid))


def tid_behind(source: DataFs, end: int) -> bytes | None:
    """The tid of what begins at `end`, the end of a transaction; None where it is not written yet.

    It may belong to a transaction that is not finished, or to damage: read_tail() tells whether anything follows.
    """
    tid = source.read(end, len(NO_TID))
    return tid if len(tid) == len(NO_TID) else None


def _start_by_closing_length(source: DataFs, end: int) -> int | None:
    """Where the transaction that ends at `end` begins, going by its last 8 bytes alone."""
    if end < FIRST_TRANSACTION + CLOSING_LENGTH:
        return None
    closing = source.read(end - CLOSING_LENGTH, CLOSING_LENGTH)
    if len(closing) < CLOSING_LENGTH:
        return None
    length: int = NUMBER.unpack(closing)[0]
    return end - CLOSING_LENGTH - length


def _has_more(source: DataFs, end: int, size: int, tid: bytes) -> bool:
    """Whether what follows `end` is more than one transaction in the making; reads nothing when nothing follows."""
    if size == end:
        return False
    walk = TransactionWalk(end, size, tid, tid)
    try:
        walk.feed(source.read(end, TRANSACTION_HEADER_LENGTH), end)
    except DamagedDataFs:
        return True
    if walk.stopped == NOT_FINISHED:
        return False
    return walk.stopped is None or walk.stopped_finished or hides_a_transaction(source.read, end, size, tid)
