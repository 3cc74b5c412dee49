"""gzip files made of members of at most 1 MiB, which several threads write and read.

A member is a gzip file of its own (RFC 1952), so any gzip reads the whole. Ours begin with the same 20 bytes:

    offset  length  content
    0       4       1f 8b, method 8 (deflate), flags 4 (an extra field follows)
    4       4       modification time: 0
    8       2       extra flags 0, operating system 255 (unknown)
    10      2       length of the extra field: 8
    12      2       subfield id "ZV"
    14      2       length of the subfield: 4
    16      4       length in bytes of the whole member, header and trailer included

then the deflate stream, the crc32 and the length of the uncompressed bytes (4 bytes each). All numbers are little
endian. Who knows the length of a member can go to the next one without inflating it.

Compressed with isal where it is installed, else with zlib. Neither these nor threads are imported before they are
needed: a small incremental backup is one member, made without any thread. Knows nothing of what the bytes are.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.errors import reason_of
from zodbvault.io.closing import Closing
from zodbvault.io.hashing import new_hash
from zodbvault.io.stored import DamagedFile, open_stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType
    from typing import Protocol

    from zodbvault.io.workers import Job, Workers

    class Writable(Protocol):
        """What a MemberWriter writes to."""

        def write(self, data: bytes, /) -> int | None:
            """Take all of `data` or raise."""


BLOCK_SIZE = 1 << 20
"""Bytes of uncompressed data in a member, at most."""

IN_WORK = 8
"""Blocks that are between the threads at a time, so that memory stays constant."""

HEADER_START = b"\x1f\x8b\x08\x04" + b"\0\0\0\0" + b"\0\xff" + struct.pack("<H2sH", 8, b"ZV", 4)
HEADER_SIZE = 20
MEMBER_LENGTH = struct.Struct("<I")
TRAILER = struct.Struct("<II")
assert len(HEADER_START) + MEMBER_LENGTH.size == HEADER_SIZE
assert TRAILER.size == 8

SHORTEST_MEMBER = HEADER_SIZE + 2 + TRAILER.size
LONGEST_MEMBER = 2 * BLOCK_SIZE
"""More than any block can take: what does not shrink is stored by deflate with 5 bytes for each 64 KiB or less."""

RAW_DEFLATE = -15
"""wbits of zlib: no header, no trailer, a window of 32 KiB."""

GZIP = 31
"""wbits of zlib: gzip's header and trailer, which are checked."""

ZLIB_LEVEL = 6


class Stored(NamedTuple):
    """What was written. size (bytes) and md5 are those of the uncompressed bytes, the others those of the file."""

    size: int
    md5: str
    stored_size: int
    stored_sha256: str


def _codec() -> ModuleType:
    """The module zlib, or isal's faster one of the same face."""
    codec: ModuleType
    try:
        from isal import isal_zlib as codec
    except ImportError:
        import zlib as codec
    return codec


def _compress_member(codec: ModuleType, level: int, data: memoryview) -> bytes:
    """One whole member."""
    deflate = codec.compressobj(level, codec.DEFLATED, RAW_DEFLATE)
    body = deflate.compress(data)
    rest = deflate.flush()
    length = HEADER_SIZE + len(body) + len(rest) + TRAILER.size
    trailer = TRAILER.pack(codec.crc32(data), len(data))
    return b"".join((HEADER_START, MEMBER_LENGTH.pack(length), body, rest, trailer))


class MemberWriter(Closing):
    """Compresses blocks into members of a file, in order, and computes the checksums on the way.

    Get a buffer(), fill it, hand it over with write(), and so on; finish() in the end. A context manager: leaving it
    ends the threads. The file stays open, and is its owner's to make durable.

    level: of isal; zlib, in its place, uses its own usual one.
    """

    def __init__(self, file: Writable, *, level: int = 2) -> None:
        self._file = file
        self._codec = _codec()
        self._level = ZLIB_LEVEL if self._codec.__name__ == "zlib" else level
        self._md5 = new_hash("md5")
        self._sha256 = new_hash("sha256")
        self._size = 0
        self._stored_size = 0
        self._made = 0
        self._free: list[bytearray] = []
        # Nothing threaded starts for one block alone.
        self._first: tuple[bytearray, int] | None = None
        self._compressors: Workers | None = None
        self._hasher: Workers | None = None
        self._in_work: deque[tuple[bytearray, Job[bytes], Job[None]]] = deque()
        self._error: BaseException | None = None

    def buffer(self) -> bytearray:
        """A buffer of BLOCK_SIZE bytes to fill, of any content. Waits while all are in work; raises their errors."""
        self._raise_error()
        while not self._free and self._made >= IN_WORK:
            self._store_oldest()
        if self._free:
            return self._free.pop()
        self._made += 1
        return bytearray(BLOCK_SIZE)

    def write(self, buffer: bytearray, length: int) -> None:
        """Take back a buffer of ours with `length` bytes in it: the next member, none for 0 bytes.

        Raises what went wrong with earlier ones (OSError of the file).
        """
        assert 0 <= length <= len(buffer) == BLOCK_SIZE
        self._raise_error()
        if length == 0:
            self._free.append(buffer)
            return
        self._size += length
        if self._compressors is None:
            if self._first is None:
                self._first = (buffer, length)
                return
            self._start_threads()
        self._hand_over(buffer, length)
        while self._in_work and self._in_work[0][1].is_done and self._in_work[0][2].is_done:
            self._store_oldest()

    def finish(self) -> Stored:
        """Write what is still in work and end the threads. Raises what went wrong with any block."""
        self._raise_error()
        if self._compressors is None:
            buffer, length = self._first or (bytearray(), 0)
            data = memoryview(buffer)[:length]
            self._md5.update(data)
            self._store(_compress_member(self._codec, self._level, data))
        while self._in_work:
            self._store_oldest()
        self.close()
        return Stored(self._size, self._md5.hexdigest(), self._stored_size, self._sha256.hexdigest())

    def close(self) -> None:
        """End the threads; what is still in work is dropped. Only finish() makes the file whole."""
        for workers in (self._compressors, self._hasher):
            if workers is not None:
                workers.close()

    def _start_threads(self) -> None:
        from zodbvault.io.workers import Workers, thread_count

        # md5 can't be divided, so it has a thread; the compressors share what is left to the cores.
        self._hasher = Workers(1, "md5")
        self._compressors = Workers(thread_count(), "compress")
        assert self._first is not None
        self._hand_over(*self._first)
        self._first = None

    def _hand_over(self, buffer: bytearray, length: int) -> None:
        assert self._compressors is not None
        assert self._hasher is not None
        data = memoryview(buffer)[:length]
        compressing = self._compressors.submit(lambda: _compress_member(self._codec, self._level, data))
        hashing = self._hasher.submit(lambda: self._md5.update(data))
        self._in_work.append((buffer, compressing, hashing))

    def _store_oldest(self) -> None:
        """Write the member whose turn it is, when it is ready; its buffer is free then."""
        buffer, compressing, hashing = self._in_work.popleft()
        try:
            member = compressing.wait()
            hashing.wait()
        except BaseException as error:
            self._error = error
            raise
        self._store(member)
        self._free.append(buffer)

    def _store(self, member: bytes) -> None:
        try:
            self._file.write(member)
        except BaseException as error:
            self._error = error
            raise
        self._sha256.update(member)
        self._stored_size += len(member)

    def _raise_error(self) -> None:
        """After an error the file has a hole: nobody may finish it."""
        if self._error is not None:
            raise self._error


def read_blocks(path: str | Path, size: int | None, *, compressed: bool, nofollow: bool = True) -> Iterator[bytes]:
    """The uncompressed bytes of a stored file, in blocks of 1 to BLOCK_SIZE bytes; exactly `size` bytes in all.

    size: None where nothing tells it; then only what a gzip file says of itself is checked.
    compressed: gzip, ours (inflated ahead by threads if it has several members) or anyone's.
    nofollow: refuse a symlink.
    Raises DamagedFile, at the latest at the end, for all that is not whole: do not believe the bytes before the end.
    """
    with open_stored(path, nofollow=nofollow) as file:
        try:
            fd = file.fileno()
            stored_size = os.fstat(fd).st_size
            if not compressed and size is not None and stored_size != size:
                raise DamagedFile(f"holds {stored_size:,} bytes instead of {size:,}", path=path)
            total = 0
            for block in _inflate(fd, path, stored_size) if compressed else _read_plain(fd):
                total += len(block)
                if size is not None and total > size:
                    raise DamagedFile(f"holds more than the {size:,} bytes that were backed up", path=path)
                if block:
                    yield block
            if size is not None and total < size:
                raise DamagedFile(f"holds {total:,} bytes instead of {size:,}", path=path)
        except OSError as error:
            raise DamagedFile(f"cannot be read: {reason_of(error)}", path=path) from error


def _read_plain(fd: int) -> Iterator[bytes]:
    while block := os.read(fd, BLOCK_SIZE):
        yield block


def _inflate(fd: int, path: str | Path, stored_size: int) -> Iterator[bytes]:
    """Members of ours as long as there are any, the rest (of another's making: all) as a stream."""
    codec = _codec()
    members = _OwnMembers(fd, path, stored_size)
    first, second = members.read_next(), members.read_next()
    if first is not None:
        if second is None:
            yield _inflate_member(codec, path, first)
        else:
            yield from _inflate_in_threads(codec, path, members, first, second)
    if members.position < stored_size or stored_size == 0:
        yield from _inflate_stream(codec, fd, path, members.position)


class _OwnMembers:
    """Goes through a file from member to member, as long as they are ours. position: of the next one, in bytes."""

    def __init__(self, fd: int, path: str | Path, stored_size: int) -> None:
        self._fd = fd
        self._path = path
        self._stored_size = stored_size
        self.position = 0

    def read_next(self) -> bytes | None:
        """The next whole member; None when something else comes, or nothing."""
        header = os.pread(self._fd, HEADER_SIZE, self.position)
        if len(header) < HEADER_SIZE or not header.startswith(HEADER_START):
            return None
        (length,) = MEMBER_LENGTH.unpack_from(header, len(HEADER_START))
        if not SHORTEST_MEMBER <= length <= LONGEST_MEMBER:
            raise DamagedFile(f"is damaged at byte {self.position:,}: a member of impossible length", path=self._path)
        if self.position + length > self._stored_size:
            raise DamagedFile(f"is cut short: the member at byte {self.position:,} is not whole", path=self._path)
        member = os.pread(self._fd, length, self.position)
        if len(member) != length:
            raise DamagedFile("became shorter while it was read", path=self._path)
        self.position += length
        return member


class MemberTable:
    """Where the members of a file of ours begin, so that any of them can be inflated without those before it.

    fd: open for reading; it stays the caller's. size: of the uncompressed bytes. 16 bytes of memory for each member.
    is_ours: False where the file has anything but members of ours; the table is of no use then.
    Raises DamagedFile where a member is cut short.
    """

    def __init__(self, fd: int, path: str | Path) -> None:
        from array import array

        self._fd = fd
        self._path = path
        self._stored_size = os.fstat(fd).st_size
        self._codec = _codec()
        # Offsets of the members, in the file and in the uncompressed bytes.
        self._stored, self._starts = array("Q"), array("Q")
        position = self.size = 0
        while position < self._stored_size:
            header = os.pread(fd, HEADER_SIZE, position)
            if len(header) < HEADER_SIZE or not header.startswith(HEADER_START):
                break
            (length,) = MEMBER_LENGTH.unpack_from(header, len(HEADER_START))
            trailer = os.pread(fd, TRAILER.size, position + length - TRAILER.size) if length > TRAILER.size else b""
            if len(trailer) < TRAILER.size:
                raise DamagedFile(f"is cut short: the member at byte {position:,} is not whole", path=path)
            self._stored.append(position)
            self._starts.append(self.size)
            self.size += TRAILER.unpack(trailer)[1]
            position += length
        self.is_ours = position == self._stored_size and position > 0

    def number_of(self, offset: int) -> int:
        """The number of the member that has the uncompressed byte at `offset`."""
        from bisect import bisect_right

        return bisect_right(self._starts, offset) - 1

    def inflate(self, number: int) -> tuple[int, bytes]:
        """The offset of a member's first uncompressed byte, and all its bytes. Raises DamagedFile."""
        members = _OwnMembers(self._fd, self._path, self._stored_size)
        members.position = self._stored[number]
        member = members.read_next()
        if member is None:
            raise DamagedFile("was changed while it was read", path=self._path)
        return self._starts[number], _inflate_member(self._codec, self._path, member)


def _inflate_in_threads(
    codec: ModuleType, path: str | Path, members: _OwnMembers, *first_ones: bytes
) -> Iterator[bytes]:
    from zodbvault.io.workers import Workers, thread_count

    with Workers(thread_count(), "inflate") as inflaters:
        ahead: deque[Job[bytes]] = deque()

        def submit(member: bytes) -> None:
            ahead.append(inflaters.submit(lambda: _inflate_member(codec, path, member)))

        for member in first_ones:
            submit(member)
        while (following := members.read_next()) is not None:
            submit(following)
            if len(ahead) >= IN_WORK:
                yield ahead.popleft().wait()
        while ahead:
            yield ahead.popleft().wait()


def _inflate_member(codec: ModuleType, path: str | Path, member: bytes) -> bytes:
    """The bytes of one member of ours. Everything about it must be right: stream, length, crc, nothing between."""
    crc, length = TRAILER.unpack_from(member, len(member) - TRAILER.size)
    if length > BLOCK_SIZE:
        raise DamagedFile("is damaged: a member of impossible size", path=path)
    inflater = codec.decompressobj(RAW_DEFLATE)
    try:
        # One byte more than there should be, to see that there is none.
        data: bytes = inflater.decompress(memoryview(member)[HEADER_SIZE:], length + 1)
    except codec.error as error:
        raise DamagedFile("is damaged: a member cannot be inflated", path=path) from error
    if not inflater.eof or len(inflater.unused_data) != TRAILER.size or len(data) != length:
        raise DamagedFile("is damaged: a member does not have the length that it names", path=path)
    if codec.crc32(data) != crc:
        raise DamagedFile("is damaged: a member's crc is wrong", path=path)
    return data


def _inflate_stream(codec: ModuleType, fd: int, path: str | Path, position: int) -> Iterator[bytes]:
    """Any gzip file from `position` on: one member or several, to the very end of the file."""
    begun_at = position
    inflater = None
    chunk = b""
    while True:
        if not chunk:
            chunk = os.pread(fd, BLOCK_SIZE // 4, position)
            position += len(chunk)
        if inflater is None:
            if not chunk:
                break
            begun_at = position - len(chunk)
            inflater = codec.decompressobj(GZIP)
        try:
            data = inflater.decompress(chunk, BLOCK_SIZE)
        except codec.error as error:
            raise DamagedFile(f"is no gzip file, or damaged, in the member at byte {begun_at:,}", path=path) from error
        if not chunk and not data and not inflater.eof:
            raise DamagedFile("is cut short", path=path)
        yield data
        if inflater.eof:
            chunk, inflater = inflater.unused_data, None
        else:
            chunk = inflater.unconsumed_tail
    if position == 0:
        raise DamagedFile("is empty: no gzip file", path=path)
