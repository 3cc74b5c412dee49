"""Transactions from the end of a Data.fs to its beginning: each one ends with its length, so that one can go back.

For those who want the newest ones and not all. Headers and closing lengths only; the bytes may come from a live
database or from a stored backup. A backup's own walk goes forward (walk.py) and is stricter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zodbvault.filestorage.format import (
    CLOSING_LENGTH,
    FINISHED_STATUSES,
    FIRST_TRANSACTION,
    NUMBER,
    TRANSACTION_HEADER,
    TRANSACTION_HEADER_LENGTH,
    UNFINISHED_STATUS,
    tid_as_bytes,
)
from zodbvault.filestorage.source import DamagedDataFs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_COUNTED = 100_000
"""Of more transactions than these nobody has to know how many they are."""


class Transaction(NamedTuple):
    """One committed transaction. start, end: its first byte and the first one behind it, offsets in the Data.fs.

    status: the byte that the header holds. user, description, extension: lengths in bytes of what follows the header.
    """

    tid: bytes
    start: int
    end: int
    status: int
    user: int
    description: int
    extension: int


def transactions_backward(read: Callable[[int, int], bytes], start: int, end: int) -> Iterator[Transaction]:
    """The committed transactions between two boundaries, the last one first.

    read(offset, length) gives bytes of the Data.fs. A transaction that was voted for and not finished is passed over;
    only the last one can be. Raises DamagedDataFs where what stands there does not add up.
    """
    position = end
    while position > max(start, FIRST_TRANSACTION):
        transaction = _ending_at(read, position)
        if transaction.status != UNFINISHED_STATUS:
            yield transaction
        elif position != end:
            raise DamagedDataFs(f"the transaction at offset {transaction.start} is not finished, but more follows it")
        position = transaction.start
    if position < start:
        raise DamagedDataFs(f"no transaction begins at offset {start}")


def _ending_at(read: Callable[[int, int], bytes], end: int) -> Transaction:
    damaged = DamagedDataFs(f"no transaction ends at offset {end}")
    if end < FIRST_TRANSACTION + CLOSING_LENGTH:
        raise damaged
    closing = read(end - CLOSING_LENGTH, CLOSING_LENGTH)
    if len(closing) < CLOSING_LENGTH:
        raise damaged
    length: int = NUMBER.unpack(closing)[0]
    start = end - CLOSING_LENGTH - length
    if start < FIRST_TRANSACTION or length < TRANSACTION_HEADER_LENGTH:
        raise damaged
    header = read(start, TRANSACTION_HEADER_LENGTH)
    if len(header) < TRANSACTION_HEADER_LENGTH:
        raise damaged
    tid, header_length, status, user, description, extension = TRANSACTION_HEADER.unpack(header)
    is_known = status in FINISHED_STATUSES or status == UNFINISHED_STATUS
    if header_length != length or not is_known or length < TRANSACTION_HEADER_LENGTH + user + description + extension:
        raise damaged
    return Transaction(tid_as_bytes(tid), start, end, status, user, description, extension)


class Later(NamedTuple):
    """Transactions that are later than some state. newest: tid of the newest of them, None where there is none.

    is_all: `number` is all of them; else there are more.
    """

    number: int
    newest: bytes | None
    is_all: bool


def later_than(read: Callable[[int, int], bytes], size: int, tid: bytes, most: int = MOST_COUNTED) -> Later:
    """The transactions with a tid greater than `tid` at the end of a Data.fs of `size` bytes; counts up to `most`.

    Raises DamagedDataFs where the file does not end in whole transactions.
    """
    number, newest = 0, None
    for transaction in transactions_backward(read, FIRST_TRANSACTION, size):
        if transaction.tid <= tid:
            break
        if number == most:
            return Later(number, newest, is_all=False)
        number += 1
        newest = newest or transaction.tid
    return Later(number, newest, is_all=True)
