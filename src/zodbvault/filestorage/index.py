"""Whether a Data.fs.index belongs to a database, by the checks that FileStorage itself makes when it opens one.

A wrong index is worse than none: FileStorage would start from it. The file is read as a stream, one bucket at a time,
and no class is loaded for it. Facts: ZODB.fsIndex.fsIndex.save (a pickled position, then pairs of a 6-byte oid prefix
and a bucket, then None), BTrees' fsBucket.toString (all 2-byte oid suffixes, then all 6-byte offsets) and
ZODB.FileStorage.FileStorage._check_sanity.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from zodbvault.filestorage.format import (
    BACK_POINTER_LENGTH,
    CLOSING_LENGTH,
    FINISHED_STATUSES,
    FIRST_TRANSACTION,
    NUMBER,
    RECORD_HEADER,
    RECORD_HEADER_LENGTH,
    TRANSACTION_HEADER,
    TRANSACTION_HEADER_LENGTH,
    UNDONE_STATUS,
)
from zodbvault.io.closing import QuietFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

SMALLEST_POSITION = 100
"""FileStorage takes an index of a smaller database for insane."""

MOST_CHECKED = 5
"""So many records are compared."""

_PREFIX_LENGTH = 6
_SUFFIX_LENGTH = 2
_OFFSET_LENGTH = 6

# A bucket has all oids with one prefix, 65,536 at most.
_LONGEST_STRING = 65_536 * (_SUFFIX_LENGTH + _OFFSET_LENGTH)
_LONGEST_LINE = 32
_MOST_OPCODES = 32
_MARK = object()
# PROTO, FRAME, BINPUT, LONG_BINPUT, MEMOIZE: bytes of their arguments. What was put into the memo nobody gets again.
_PASSED_OVER = {b"\x80": 1, b"\x95": 8, b"q": 1, b"r": 4, b"\x94": 0}
# BININT, BININT1, BININT2: bytes, and whether there is a sign.
_NUMBERS = {b"J": (4, True), b"K": (1, False), b"M": (2, False)}
# SHORT_BINSTRING, BINSTRING, SHORT_BINBYTES, BINBYTES, BINBYTES8: bytes of the length.
_STRINGS = {b"U": 1, b"T": 4, b"C": 1, b"B": 4, b"\x8e": 8}


def index_belongs(index: Path, read: Callable[[int, int], bytes], end: int) -> bool:
    """Whether the index at `index` fits the database that has `end` bytes, or an earlier state of it.

    read(offset, length): bytes of the database. The last transaction with records before the index's position is read,
    and up to `MOST_CHECKED` of its records have to be where the index says. False for a damaged index or none, and for
    an old one that is one pickled object with its class: FileStorage makes a new one in its stead.
    """
    try:
        with io.BufferedReader(QuietFile(index)) as file:
            pickles = _pickles(file)
            position = _position(pickles)
            if position is None or not SMALLEST_POSITION <= position <= end:
                return False
            expected = _last_records(read, position)
            return _offsets_of(expected.keys(), pickles) == expected
    except (OSError, _NotAnIndexError):
        return False


class _NotAnIndexError(Exception):
    """What was read is not an index, or not of this database. Nobody is told why: ZODB makes a new one."""


def _pickles(file: BinaryIO) -> Iterator[object]:
    """The pickles in `file` one after the other, of plain data only; ends with the first that is not true.

    Raises _NotAnIndexError where that is missing, or a pickle is damaged or has anything but a number, None, or a pair
    of byte strings. An index may come from a place where others can write: nothing is believed of lengths, and Python's
    own unpickler would reserve as much memory as a memo's number asks for.
    """
    while True:
        value = _unpickled(file)
        if not value:
            return
        yield value


def _unpickled(file: BinaryIO) -> object:
    """One pickle of plain data, in the protocols 0 to 5."""
    stack: list[object] = []
    for _ in range(_MOST_OPCODES):
        opcode = _taken(file, 1)
        if opcode == b"." and len(stack) == 1:  # STOP
            return stack[0]
        if opcode in _PASSED_OVER:
            _taken(file, _PASSED_OVER[opcode])
        elif opcode in (b"t", b"\x86"):  # TUPLE, TUPLE2
            _make_pair(stack, has_mark=opcode == b"t")
        else:
            stack.append(_pushed(opcode, file))
    raise _NotAnIndexError


def _pushed(opcode: bytes, file: BinaryIO) -> object:
    """What an opcode that needs no other value puts on the stack. Raises _NotAnIndexError for all others."""
    if opcode in _NUMBERS:
        length, is_signed = _NUMBERS[opcode]
        return int.from_bytes(_taken(file, length), "little", signed=is_signed)
    if opcode in _STRINGS:
        return _taken(file, int.from_bytes(_taken(file, _STRINGS[opcode]), "little"))
    if opcode == b"\x8a":  # LONG1
        return int.from_bytes(_taken(file, _taken(file, 1)[0]), "little", signed=True)
    if opcode in (b"I", b"L"):  # INT, LONG: decimal digits in a line
        return _decimal(file.readline(_LONGEST_LINE))
    if opcode == b"(":  # MARK
        return _MARK
    if opcode == b"N":  # NONE
        return None
    raise _NotAnIndexError


def _taken(file: BinaryIO, length: int) -> bytes:
    """Exactly so many bytes. Raises _NotAnIndexError."""
    if length > _LONGEST_STRING:
        raise _NotAnIndexError
    data = file.read(length)
    if len(data) < length:
        raise _NotAnIndexError
    return data


def _decimal(line: bytes) -> int:
    try:
        return int(line.removesuffix(b"L\n"))
    except ValueError as error:
        raise _NotAnIndexError from error


def _make_pair(stack: list[object], *, has_mark: bool) -> None:
    """Put the last two of the stack into a tuple. Raises _NotAnIndexError."""
    pair = tuple(stack[-2:])
    del stack[-2:]
    if len(pair) != 2 or _MARK in pair or (has_mark and (not stack or stack.pop() is not _MARK)):
        raise _NotAnIndexError
    stack.append(pair)


def _position(pickles: Iterator[object]) -> int | None:
    position = next(pickles, None)
    return position if type(position) is int else None


def _last_records(read: Callable[[int, int], bytes], position: int) -> dict[bytes, int]:
    """Offsets by oid of the first records in the last transaction before `position` that has any and counts.

    Raises _NotAnIndexError when there is none, or none ends at `position`, or one of those looked at does not add up.
    """
    while position >= FIRST_TRANSACTION + CLOSING_LENGTH:
        length: int = NUMBER.unpack(_exactly(read, position - CLOSING_LENGTH, CLOSING_LENGTH))[0]
        end = position - CLOSING_LENGTH
        start = end - length
        if start < FIRST_TRANSACTION:
            raise _NotAnIndexError  # no transaction ends at its position
        header = TRANSACTION_HEADER.unpack(_exactly(read, start, TRANSACTION_HEADER_LENGTH))
        _, header_length, status, user, description, extension = header
        first_record = start + TRANSACTION_HEADER_LENGTH + user + description + extension
        if header_length != length or status not in FINISHED_STATUSES or first_record > end:
            raise _NotAnIndexError  # as above
        if status != UNDONE_STATUS and first_record < end:
            return _records_of(read, start, first_record, end)
        position = start
    raise _NotAnIndexError


def _records_of(read: Callable[[int, int], bytes], start: int, first: int, end: int) -> dict[bytes, int]:
    """Offsets by oid of the first records of the transaction at `start`, whose records lie from `first` to `end`."""
    offsets: dict[bytes, int] = {}
    at = first
    for _ in range(MOST_CHECKED):
        if at >= end:
            break
        header = RECORD_HEADER.unpack(_exactly(read, at, RECORD_HEADER_LENGTH))
        oid, _, _, transaction, version, length = header
        following = at + RECORD_HEADER_LENGTH + (length or BACK_POINTER_LENGTH)
        if version or transaction != start or following > end or oid in offsets:
            raise _NotAnIndexError
        offsets[oid] = at
        at = following
    return offsets


def _exactly(read: Callable[[int, int], bytes], offset: int, length: int) -> bytes:
    data = read(offset, length)
    if len(data) < length:
        raise _NotAnIndexError
    return data


def _offsets_of(oids: Iterable[bytes], pickles: Iterator[object]) -> dict[bytes, int]:
    """The offsets that an index has for `oids`. Reads it to its end. Raises _NotAnIndexError when it is damaged."""
    wanted: dict[bytes, list[bytes]] = {}
    for oid in oids:
        wanted.setdefault(oid[:_PREFIX_LENGTH], []).append(oid)
    offsets: dict[bytes, int] = {}
    for pair in pickles:
        prefix, bucket = _bucket(pair)
        count = len(bucket) // (_SUFFIX_LENGTH + _OFFSET_LENGTH)
        suffixes = bucket[: count * _SUFFIX_LENGTH]
        for oid in wanted.get(prefix, ()):
            suffix = oid[_PREFIX_LENGTH:]
            at = suffixes.find(suffix)
            while at > 0 and at % _SUFFIX_LENGTH:
                at = suffixes.find(suffix, at + 1)
            if at >= 0:
                offset_at = len(suffixes) + at // _SUFFIX_LENGTH * _OFFSET_LENGTH
                offsets[oid] = int.from_bytes(bucket[offset_at : offset_at + _OFFSET_LENGTH], "big")
    return offsets


def _bucket(pair: object) -> tuple[bytes, bytes]:
    """An oid prefix and its bucket; raises _NotAnIndexError for anything else."""
    match pair:
        case (bytes() as prefix, bytes() as bucket):
            if len(prefix) == _PREFIX_LENGTH and bucket and len(bucket) % (_SUFFIX_LENGTH + _OFFSET_LENGTH) == 0:
                return prefix, bucket
    raise _NotAnIndexError
