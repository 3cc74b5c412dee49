"""Follows transactions through the bytes of a Data.fs as they come, and says where the committed ones end.

Headers and closing lengths only: what is in a transaction is for others. Knows no file; the bytes may come from a live
database, or from a backup that is being joined. The rules are those of ZODB.FileStorage.FileStorage.read_index, but
where it would cut a damaged file short at the first thing that is wrong, this raises: a backup must not do that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zodbvault.filestorage.format import (
    CLOSING_AND_HEADER,
    CLOSING_LENGTH,
    FINISHED_STATUSES,
    NUMBER,
    TRANSACTION_HEADER,
    TRANSACTION_HEADER_LENGTH,
    UNFINISHED_STATUS,
    tid_as_bytes,
    tid_as_number,
)
from zodbvault.filestorage.source import DamagedDataFs

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

CUT_SHORT = "the record at its end is cut short"
"""Why a walk stopped: the file ends inside a header or a transaction."""

NOT_FINISHED = "the transaction at its end is not finished"
"""Why a walk stopped: the last transaction was voted for and not finished (status c), or is being written."""

MOST_REMEMBERED = 20
"""How many of the offsets where a tid goes back are remembered."""


class TransactionWalk:
    """The walk from one transaction boundary to the end of a file; state and verdicts, no input of its own.

    size: length of the whole file as far as it is known, bytes; may be set anew (`look_again`).
    position: the end of the last whole transaction, the offset up to which all is committed and whole.
    transactions: how many were passed. first_tid: of the first of them, None before it.
    last_tid: the greatest tid, those before the walk included. tail_tid: tid of the last whole one.
    tail_header: its offset, 0 when none was passed.
    went_back: offsets of transactions with a tid smaller than that of the one before; the first few of them.
    open_start: offset of the transaction whose header was seen and whose end was not yet, or None.
    stopped: `CUT_SHORT` or `NOT_FINISHED` once the walk came to such an end, else None.
    stopped_finished: for `CUT_SHORT`, whether the cut header claims a finished transaction; FileStorage never writes
    one piecemeal, so it is damage or a copy that was cut.
    starts: where the transactions that lie wholly in the last buffer begin, counted from that buffer's first byte.
    """

    def __init__(self, start: int, size: int, previous_tid: bytes, previous_greatest: bytes) -> None:
        self.size = size
        self.position = start
        self.transactions = 0
        self.first_tid: bytes | None = None
        self.tail_header = 0
        self.went_back: tuple[int, ...] = ()
        self.stopped: str | None = None
        self.stopped_finished = False
        self.starts: list[int] = []
        self._tail = tid_as_number(previous_tid)
        self._greatest = tid_as_number(previous_greatest)
        self._tid = 0
        self._length = 0  # of the open transaction, 0 when none is

    @property
    def last_tid(self) -> bytes:
        """The greatest tid so far; NO_TID when there is none."""
        return tid_as_bytes(max(self._greatest, self._tail))

    @property
    def tail_tid(self) -> bytes:
        """The tid of the last whole transaction; what the walk was begun with when it passed none."""
        return tid_as_bytes(self._tail)

    @property
    def open_start(self) -> int | None:
        """Offset of the transaction that the bytes so far end in, None at a boundary."""
        return self.position if self._length else None

    def look_again(self, size: int) -> None:
        """Forgets that the walk stopped; the file has `size` bytes now."""
        self.size = size
        self.stopped = None
        self.stopped_finished = False

    def mark(self) -> dict[str, Any]:
        """Where the walk stands now, for `return_to`."""
        return dict(vars(self))

    def return_to(self, mark: dict[str, Any]) -> None:
        """Stands again where it stood when `mark` was made."""
        vars(self).update(mark)

    def feed(self, buffer: bytes | bytearray | memoryview, offset: int) -> int:
        """Follows the transactions in `buffer`, which begins at `offset` of the file.

        Returns the offset up to which the bytes belong to committed transactions; the next buffer begins there or
        earlier, so that a header or closing length that lies in two buffers is simply seen again. A buffer that does
        not reach the file's end has to hold at least 31 bytes from there on.
        Raises DamagedDataFs when something does not add up; the walk is then of no use but for `return_to`.
        """
        starts: list[int] = []
        self.starts = starts
        continues = self._length > 0
        if not self._open(buffer, offset):
            return self.position

        at = self.position - offset
        tid, length, tail = self._tid, self._length, self._tail
        unpack = CLOSING_AND_HEADER.unpack_from
        passed = starts.append
        limit = len(buffer) - CLOSING_AND_HEADER.size
        last_closing = self.size - offset - CLOSING_LENGTH
        # Runs once per transaction; everything unusual is left to _judge.
        while (end := at + length) <= limit:
            closing, next_tid, next_length, status, user, description, extension = unpack(buffer, end)
            if closing != length:
                raise _lengths_differ(offset + at, length, closing)
            passed(at)
            tail = tid
            at = end + CLOSING_LENGTH
            if (
                next_tid <= tid
                or status not in FINISHED_STATUSES
                or next_length < TRANSACTION_HEADER_LENGTH + user + description + extension
                or at + next_length > last_closing
            ):
                self._tail = tail
                self._judge(offset + at, (next_tid, next_length, status, user, description, extension))
                if self.stopped:
                    length = 0
                    break
            tid, length = next_tid, next_length

        if length and end + CLOSING_LENGTH <= len(buffer):
            closing = NUMBER.unpack_from(buffer, end)[0]
            if closing != length:
                raise _lengths_differ(offset + at, length, closing)
            passed(at)
            tail = tid
            at, length = end + CLOSING_LENGTH, 0
        self._tid, self._length, self._tail, self.position = tid, length, tail, offset + at
        if starts:
            self.transactions += len(starts)
            self.tail_header = offset + starts[-1]
            if continues:
                del starts[0]
        return offset + min(end, len(buffer)) if length else self.position

    def _open(self, buffer: bytes | bytearray | memoryview, offset: int) -> bool:
        """Whether there is a transaction to follow: one that is open, or one whose header is at `position` here."""
        left = self.size - self.position
        committed = self._length + CLOSING_LENGTH if self._length else 0
        if left < committed:
            raise DamagedDataFs(f"ends at offset {self.size}, inside what was committed: the file became shorter")
        if self._length:
            return True
        if 0 < left < TRANSACTION_HEADER_LENGTH:
            self.stopped = CUT_SHORT
        at = self.position - offset
        if left < TRANSACTION_HEADER_LENGTH or len(buffer) - at < TRANSACTION_HEADER_LENGTH:
            return False
        header = TRANSACTION_HEADER.unpack_from(buffer, at)
        self._judge(self.position, header)
        if self.stopped:
            return False
        self._tid, self._length = header[0], header[1]
        if self.first_tid is None:
            self.first_tid = tid_as_bytes(self._tid)
        return True

    def _judge(self, start: int, header: tuple[int, int, int, int, int, int]) -> None:
        """Looks closely at the header of the transaction at `start`, which follows the one with the tid `_tail`.

        Sets `stopped` where it is the unfinished end of the file, remembers a tid that goes back.
        Raises DamagedDataFs when it cannot be a transaction of this file.
        """
        tid, length, status, user, description, extension = header
        end = start + length + CLOSING_LENGTH
        if status not in FINISHED_STATUSES and status != UNFINISHED_STATUS:
            raise DamagedDataFs(f"the transaction at offset {start} has the unknown status {bytes([status])!r}")
        if length < TRANSACTION_HEADER_LENGTH + user + description + extension:
            raise DamagedDataFs(
                f"the transaction at offset {start} says that it is {length} bytes long, less than its own header"
            )
        if tid == self._tail:
            raise DamagedDataFs(
                f"the transaction at offset {start} has the same tid as the one before it, {tid_as_bytes(tid).hex()}"
            )
        if status == UNFINISHED_STATUS and end < self.size:
            raise DamagedDataFs(f"the transaction at offset {start} is not finished, but more follows it")
        if end > self.size:
            self.stopped = CUT_SHORT
            self.stopped_finished = status != UNFINISHED_STATUS
        elif status == UNFINISHED_STATUS:
            self.stopped = NOT_FINISHED
        elif tid < self._tail:
            self._greatest = max(self._greatest, self._tail)
            self.went_back = (*self.went_back, start)[:MOST_REMEMBERED]


def _lengths_differ(start: int, length: int, closing: int) -> DamagedDataFs:
    return DamagedDataFs(
        f"the transaction at offset {start} begins with the length {length} and ends with the length {closing}"
    )


def hides_a_transaction(read: Callable[[int, int], bytes], position: int, size: int, previous_tid: bytes) -> bool:
    """Whether the record at `position` that seems to be cut short hides a whole transaction: its length is damaged.

    The last 8 bytes of the file, whose length is `size`, are taken for a closing length: do they close a plausible
    transaction, with a tid greater than `previous_tid`, at `position` or after it? read(offset, length) gives bytes.
    """
    if size - position < TRANSACTION_HEADER_LENGTH + CLOSING_LENGTH:
        return False
    closing = read(size - CLOSING_LENGTH, CLOSING_LENGTH)
    if len(closing) < CLOSING_LENGTH:
        return False
    length = NUMBER.unpack(closing)[0]
    start = size - CLOSING_LENGTH - length
    if length < TRANSACTION_HEADER_LENGTH or start < position:
        return False
    header = read(start, TRANSACTION_HEADER_LENGTH)
    if len(header) < TRANSACTION_HEADER_LENGTH:
        return False
    tid, header_length, status, user, description, extension = TRANSACTION_HEADER.unpack(header)
    is_plausible: bool = (
        tid > tid_as_number(previous_tid)
        and (status in FINISHED_STATUSES or status == UNFINISHED_STATUS)
        and length >= TRANSACTION_HEADER_LENGTH + user + description + extension
        and (header_length == length or start == position)
    )
    return is_plausible
