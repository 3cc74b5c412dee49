"""Which data records are blobs': the class that a record's first pickle names, looked at without loading anything.

Walks the records of one transaction after the other in bytes that come in order, so that nothing has to be read again.
Knows the layout of records and pickles; where the blobs' files lie is for others. Facts: ZODB.blob.is_blob_record
(the first pickle is the class ZODB.blob.Blob, nothing else), ZODB.serialize (class first, state second),
ZODB.FileStorage.FileStorage._txn_undo_write (an undone change of a blob gets a file of its own under the new tid).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zodbvault.filestorage.format import (
    BACK_POINTER_LENGTH,
    NUMBER,
    RECORD_HEADER,
    RECORD_HEADER_LENGTH,
    TRANSACTION_HEADER,
    TRANSACTION_HEADER_LENGTH,
    UNDONE_STATUS,
    VERSION_OFFSETS_LENGTH,
)
from zodbvault.filestorage.source import DamagedDataFs

if TYPE_CHECKING:
    from collections.abc import Callable

BLOB_MODULE = b"ZODB.blob"
BLOB_CLASS = b"Blob"

_USUAL = b"\x80\x03c" + BLOB_MODULE + b"\n" + BLOB_CLASS + b"\nq\0."
"""How ZODB writes it: PROTO 3, GLOBAL, BINPUT 0, STOP."""

# SHORT_BINUNICODE, SHORT_BINSTRING, BINUNICODE, BINSTRING, BINUNICODE8: bytes of the length.
_STRINGS = {b"\x8c": 1, b"U": 1, b"X": 4, b"T": 4, b"\x8d": 8}

PREFIX_LENGTH = 64
"""So many bytes of a record's data tell whether it is a blob's, in any pickle protocol."""

ENCRYPTED_MARK = b".e"
"""Begins the data of records that cipher.encryptingstorage wrote."""

COMPRESSED_MARK = b".z"
"""Begins the data of records that zc.zlibstorage compressed with zlib; the rest of them are those bytes."""


def is_encrypted(prefix: bytes | bytearray | memoryview) -> bool:
    """Whether data that begin with `prefix` are encrypted, so that no blob can be seen in them."""
    return prefix[:2] == ENCRYPTED_MARK


def is_blob_pickle(prefix: bytes) -> bool:
    """Whether data that begin with `prefix` (`PREFIX_LENGTH` bytes, or all) are those of a ZODB.blob.Blob.

    Their first pickle must be the class alone: named by GLOBAL (protocols 0 to 3) or by two strings and STACK_GLOBAL
    (from 4 on), remembered in the memo or not. zc.zlibstorage leaves records as short as a blob's as they are.
    """
    if prefix.startswith(_USUAL):
        return True
    at = 0
    if prefix[:1] == b"\x80":  # PROTO, its number
        at = 2
    if prefix[at : at + 1] == b"\x95":  # FRAME, its length
        at += 9
    if prefix[at : at + 1] == b"c":  # GLOBAL
        name = b"c" + BLOB_MODULE + b"\n" + BLOB_CLASS + b"\n"
        if not prefix.startswith(name, at):
            return False
        at = _after_memo(prefix, at + len(name))
    else:
        module, at = _string_at(prefix, at)
        class_name, at = _string_at(prefix, at)
        if module != BLOB_MODULE or class_name != BLOB_CLASS or prefix[at : at + 1] != b"\x93":  # STACK_GLOBAL
            return False
        at = _after_memo(prefix, at + 1)
    return prefix[at : at + 1] == b"."


def _string_at(prefix: bytes, at: int) -> tuple[bytes | None, int]:
    """The string that the opcode at `at` pushes, and where the opcode after it (and its memo) begins."""
    size = _STRINGS.get(prefix[at : at + 1])
    if size is None:
        return None, at
    start = at + 1 + size
    length = int.from_bytes(prefix[at + 1 : start], "little")
    return prefix[start : start + length], _after_memo(prefix, start + length)


def _after_memo(prefix: bytes, at: int) -> int:
    """Where the next opcode that is not a memo's begins."""
    opcode = prefix[at : at + 1]
    if opcode == b"\x94":  # MEMOIZE
        return at + 1
    if opcode == b"q":  # BINPUT, one byte
        return at + 2
    if opcode == b"r":  # LONG_BINPUT, four bytes
        return at + 5
    if opcode == b"p":  # PUT, decimal digits up to a line's end
        return at + len(prefix[at:].partition(b"\n")[0]) + 1
    return at


class RecordWalk:
    """Walks the data records of one transaction after the other and reports the blobs among them.

    read(offset, length): bytes from before the transaction, for records that refer back; None when there is nothing
    to look back at. on_blob(oid, tid) is called for each blob record. on_back_pointer(oid, tid, position, back) is
    called, where `read` is None, for each record without data of its own: the offsets of the record and of the one that
    it refers to, which is 0 where the object's creation was undone.
    encrypted: whether a record was met whose data are encrypted.
    """

    def __init__(
        self,
        read: Callable[[int, int], bytes] | None,
        on_blob: Callable[[bytes, bytes], None],
        on_back_pointer: Callable[[bytes, bytes, int, int], None] | None = None,
    ) -> None:
        self.encrypted = False
        self._read = read
        self._on_blob = on_blob
        self._on_back_pointer = on_back_pointer
        self._start = self._position = self._end = 0

    @property
    def is_within(self) -> bool:
        """Whether the records of the transaction that was begun are not all seen."""
        return self._position < self._end

    def begin(self, start: int, buffer: bytes | bytearray | memoryview, offset: int) -> None:
        """Turns to the transaction at `start`, whose header is in `buffer`, which begins at `offset` of the file."""
        header = TRANSACTION_HEADER.unpack_from(buffer, start - offset)
        _, length, status, user, description, extension = header
        self._start = start
        self._end = start + length
        self._position = start + TRANSACTION_HEADER_LENGTH + user + description + extension
        if status == UNDONE_STATUS:  # its records do not count (ZODB.FileStorage.FileStorage.read_index)
            self._position = self._end

    def follow(self, buffer: bytes | bytearray | memoryview, offset: int, limit: int) -> int:
        """Looks at the records in `buffer`, which begins at `offset` of the file and counts up to the offset `limit`.

        Returns the offset at which the next buffer has to begin so that each record's header is seen in one piece:
        `limit`, or less where a header begins before it and ends after it.
        Raises DamagedDataFs when the records do not add up to their transaction.
        """
        unpack = RECORD_HEADER.unpack_from
        position, start, end = self._position, self._start, self._end
        while position < end and position < limit:
            if position + RECORD_HEADER_LENGTH > limit:
                return self._wait(position, limit)
            oid, tid, _, transaction, version, length = unpack(buffer, position - offset)
            data = position + RECORD_HEADER_LENGTH
            if version:  # as written before ZODB 3.9
                data += VERSION_OFFSETS_LENGTH + version
            following = data + (length or BACK_POINTER_LENGTH)
            if transaction != start:
                raise DamagedDataFs(
                    f"the record at offset {position} says that its transaction is at {transaction}, it is at {start}"
                )
            if following > end:
                raise DamagedDataFs(f"the record at offset {position} is longer than its transaction")
            needed = length if 0 < length < PREFIX_LENGTH else PREFIX_LENGTH if length else BACK_POINTER_LENGTH
            if data + needed > limit:
                return self._wait(position, limit)
            at = data - offset
            if length:
                prefix = bytes(buffer[at : at + needed])
                if BLOB_MODULE in prefix and is_blob_pickle(prefix):
                    self._on_blob(oid, tid)
                elif prefix[:2] == ENCRYPTED_MARK:
                    self.encrypted = True
            else:
                back = NUMBER.unpack_from(buffer, at)[0]
                self._look_back(oid, tid, position, back)
            position = following
        self._position = position
        return limit

    def _wait(self, position: int, limit: int) -> int:
        """The record at `position` goes on behind `limit`; the next buffer has to begin with it."""
        if limit >= self._end:
            raise DamagedDataFs(f"the record at offset {position} is longer than its transaction")
        self._position = position
        return position

    def _look_back(self, oid: bytes, tid: bytes, position: int, back: int) -> None:
        """Reports the record of `oid` at `position`, which has no data of its own, if those at `back` are a blob's.

        A pointer of 0 says that the object's creation was undone. The object may be found through several records;
        each has to end before the one that refers to it begins, so that this ends.
        """
        if self._read is None:
            if self._on_back_pointer:
                self._on_back_pointer(oid, tid, position, back)
            return
        while back:
            found, _, _, _, version, length = RECORD_HEADER.unpack(self._before(back, RECORD_HEADER_LENGTH, position))
            if found != oid:
                raise DamagedDataFs(f"the record at offset {position} refers to offset {back}, which has another oid")
            data = back + RECORD_HEADER_LENGTH
            if version:
                data += VERSION_OFFSETS_LENGTH + version
            if length:
                prefix = self._before(data, min(length, PREFIX_LENGTH), position)
                if is_blob_pickle(prefix):
                    self._on_blob(oid, tid)
                elif is_encrypted(prefix):
                    self.encrypted = True
                return
            position, back = back, NUMBER.unpack(self._before(data, BACK_POINTER_LENGTH, position))[0]

    def _before(self, offset: int, length: int, position: int) -> bytes:
        """`length` bytes from `offset` on, all of which lie before the record at `position`."""
        assert self._read is not None
        data = self._read(offset, length) if offset + length <= position else b""
        if len(data) < length:
            raise DamagedDataFs(f"the record at offset {position} refers to offset {offset}, which is not a record")
        return data
