"""Writing an archive of blobs: a tar file as GNU tar makes it of a blobstorage, plain or compressed.

In a series (`--listed-incremental`) folders are members of type D with a dumpdir, and headers hold two more times.
Rename records are never written: a blob's path holds its oid and tid, so no folder of blobs ever gets another name.
Knows neither dates nor names of archives, nor what is backed up when.
"""

from __future__ import annotations

import os
import tarfile
from typing import TYPE_CHECKING, Protocol

from zodbvault.blobs.archives import DUMPDIR_TYPE
from zodbvault.blobs.copying import blocks_of, is_unchanged
from zodbvault.blobs.dumpdirs import FolderList
from zodbvault.blobs.known import with_known
from zodbvault.blobs.layouts import LAYOUT_MARKER, path_for
from zodbvault.blobs.manifest import Entry
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.closing import QuietFile
from zodbvault.io.durable import named, set_times
from zodbvault.io.gzip_members import BLOCK_SIZE, MemberWriter
from zodbvault.io.hashing import new_hash

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from zodbvault.blobs.dumpdirs import Folder
    from zodbvault.blobs.snapshot_file import SnapshotFileWriter
    from zodbvault.blobs.source import SourceBlobs
    from zodbvault.io.durable import PartFile

# Where the header of a member of a series has the times of access and of change, and each header its checksum.
_ACCESS_TIME, _CHANGE_TIME, _TIME_SIZE = 345, 357, 12
_CHECKSUM, _CHECKSUM_SIZE = 148, 8
# What fits into eleven octal digits.
_GREATEST_TIME = 0o77777777777
# From these on a user, a group, a time or a size is too large for its octal digits.
_OCTAL_LIMITS = (8**7, 8**7, 8**11, 8**11)
# Where the field behind the magic begins.
_AFTER_MAGIC = 265


class _Out(Protocol):
    """What an archive is written to: write() takes all or raises."""

    def write(self, data: bytes, /) -> int | None: ...


class ArchiveWriter:
    """Fills a part file with one archive of a site's blobs.

    snapshot: for an archive of a series, what GNU tar continues it by, filled too. copied, copied_bytes: blobs that
    were written into it.
    """

    def __init__(
        self,
        part: PartFile,
        source: SourceBlobs,
        scratch: Path,
        *,
        is_compressed: bool,
        snapshot: SnapshotFileWriter | None,
    ) -> None:
        self.copied = self.copied_bytes = 0
        self._part = part
        self._source = source
        self._scratch = scratch
        self._is_compressed = is_compressed
        self._snapshot = snapshot
        self._size = 0

    def write(
        self, blobs: Iterable[tuple[bytes, int]], known: Callable[[], Generator[Entry, None, None]] | None
    ) -> Generator[tuple[bytes, Entry | None], None, None]:
        """Write the archive; yields each key with its entry for the manifest, None for a blob that has gone.

        blobs: key and size in bytes of each, in the order of the keys; gone through twice. known: what the archives
        before this one have: these blobs are only named; None for a full archive. Raises ZodbvaultError.
        """
        try:
            if not self._is_compressed:
                plain = _Plain(self._part.file)
                yield from self._write(plain, blobs, known)
                plain.finish()
                return
            with MemberWriter(self._part.file) as members:
                out = _Compressed(members)
                yield from self._write(out, blobs, known)
                out.finish()
        except OSError as error:
            path = error.filename if isinstance(error.filename, (str, bytes)) else self._part.path
            raise ZodbvaultError(f"the archive of blobs cannot be written: {reason_of(error)}", path=path) from error

    def finish(self, moment: float) -> None:
        """Make the archive durable, under the name of its part. moment: seconds since 1970, its modification time."""
        with named(self._part.part):
            set_times(self._part.file.fileno(), int(moment * 1_000_000_000))
        self._part.finish()

    def _write(
        self,
        out: _Out,
        blobs: Iterable[tuple[bytes, int]],
        known: Callable[[], Generator[Entry, None, None]] | None,
    ) -> Generator[tuple[bytes, Entry | None], None, None]:
        marker = self._source.open_marker()
        letter = b"" if marker is None else b"Y" if known is None else b"N"
        with FolderList(self._source.layout, self._scratch) as folders:
            for key, _, before in with_known(blobs, known):
                folders.add(key, is_new=before is None)
            for folder in folders.folders(letter):
                self._write_folder(out, folder)
        if marker is not None:
            with QuietFile(marker):
                if letter == b"Y":
                    self._write_file(out, LAYOUT_MARKER, marker)
        for key, _, before in with_known(blobs, known):
            yield key, before or self._write_blob(out, key)
        # Two blocks of zeros close it, and as many more as fill a record of tar's.
        self._put(out, bytes(2 * tarfile.BLOCKSIZE))
        self._put(out, bytes(-self._size % tarfile.RECORDSIZE))

    def _write_folder(self, out: _Out, folder: Folder) -> None:
        status = self._source.folder_status(folder.path)
        name = f"./{folder.path}/" if folder.path else "./"
        if self._snapshot is None:
            self._put(out, self._header(name, status, tarfile.DIRTYPE, 0))
            return
        self._put(out, self._header(name, status, DUMPDIR_TYPE, folder.size))
        while block := folder.dumpdir.read(BLOCK_SIZE):
            self._put(out, block)
        self._put(out, bytes(-folder.size % tarfile.BLOCKSIZE))
        self._snapshot.add(folder.path, status, folder.dumpdir)

    def _write_blob(self, out: _Out, key: bytes) -> Entry | None:
        fd = self._source.open(key)
        if fd is None:
            return None
        with QuietFile(fd):
            found = self._write_file(out, path_for(self._source.layout, key), fd)
        if found is None:
            return None
        self.copied += 1
        self.copied_bytes += found[0]
        return Entry(key, *found)

    def _write_file(self, out: _Out, path: str, fd: int) -> tuple[int, str] | None:
        """One file; its size in bytes and its sha256. None when it changes meanwhile: what is written is of no use."""
        status = os.fstat(fd)
        self._put(out, self._header(f"./{path}", status, tarfile.REGTYPE, status.st_size))
        sha256, size = new_hash("sha256"), 0
        for block in blocks_of(fd):
            piece = block[: status.st_size - size]
            sha256.update(piece)
            self._put(out, piece)
            size += len(piece)
        # The header has told the size: zeros stand for what is not there any more.
        missing = status.st_size - size
        while missing > 0:
            self._put(out, bytes(min(missing, BLOCK_SIZE)))
            missing -= BLOCK_SIZE
        self._put(out, bytes(-status.st_size % tarfile.BLOCKSIZE))
        return (size, sha256.hexdigest()) if is_unchanged(fd, status) else None

    def _header(self, name: str, status: os.stat_result, kind: bytes, size: int) -> bytes:
        return header_of(name, status, kind, size, in_series=self._snapshot is not None)

    def _put(self, out: _Out, data: bytes) -> None:
        out.write(data)
        self._size += len(data)


class _Plain:
    """Writes what comes in blocks: the members of an archive are many and small."""

    def __init__(self, file: _Out) -> None:
        self._file = file
        self._waiting = bytearray()

    def write(self, data: bytes, /) -> int:
        """Take all of `data`."""
        if len(self._waiting) + len(data) > BLOCK_SIZE:
            self.finish()
        if len(data) >= BLOCK_SIZE:
            self._file.write(data)
        else:
            self._waiting += data
        return len(data)

    def finish(self) -> None:
        """Write what is left."""
        if self._waiting:
            self._file.write(bytes(self._waiting))
            self._waiting.clear()


class _Compressed:
    """Compresses what is written to it, block by block."""

    def __init__(self, members: MemberWriter) -> None:
        self._members = members
        self._buffer = members.buffer()
        self._length = 0

    def write(self, data: bytes, /) -> int:
        """Take all of `data`."""
        done = 0
        with memoryview(data) as view:
            while done < len(view):
                piece = view[done : done + BLOCK_SIZE - self._length]
                self._buffer[self._length : self._length + len(piece)] = piece
                self._length += len(piece)
                done += len(piece)
                if self._length == BLOCK_SIZE:
                    self._members.write(self._buffer, BLOCK_SIZE)
                    self._buffer, self._length = self._members.buffer(), 0
        return len(data)

    def finish(self) -> None:
        """Compress what is left."""
        self._members.write(self._buffer, self._length)
        self._members.finish()


def header_of(name: str, status: os.stat_result, kind: bytes, size: int, *, in_series: bool) -> bytes:
    """The block before a member, in GNU's format (tar manual, "Basic Tar Format").

    name: of at most 99 bytes. kind: a type of tarfile. in_series: with the times of access and of change, which GNU tar
    expects there.
    """
    numbers = (status.st_uid, status.st_gid, int(status.st_mtime), size)
    if min(numbers) < 0 or any(number >= limit for number, limit in zip(numbers, _OCTAL_LIMITS, strict=True)):
        return _header_of_large_numbers(name, status, kind, size, in_series=in_series)
    times = b""
    if in_series:
        moments = (min(max(int(moment), 0), _GREATEST_TIME) for moment in (status.st_atime, status.st_ctime))
        times = bytes(_ACCESS_TIME - _AFTER_MAGIC) + b"%011o\0%011o\0" % tuple(moments)
    before = b"%-100b%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name.encode().ljust(100, b"\0"),
        status.st_mode & 0o7777,
        status.st_uid,
        status.st_gid,
        size,
        numbers[2],
    )
    after = kind + bytes(100) + b"ustar  \0" + times
    # The sum of all bytes, its own field counted as spaces.
    checksum = sum(before) + sum(after) + 32 * _CHECKSUM_SIZE
    return (before + b"%06o\0 " % checksum + after).ljust(tarfile.BLOCKSIZE, b"\0")


def _header_of_large_numbers(name: str, status: os.stat_result, kind: bytes, size: int, *, in_series: bool) -> bytes:
    """The same where a number needs more than its octal digits."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    member.mode = status.st_mode & 0o7777
    member.uid, member.gid = status.st_uid, status.st_gid
    member.mtime = int(status.st_mtime)
    header = member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
    return _with_times(header, status) if in_series else header


def _with_times(header: bytes, status: os.stat_result) -> bytes:
    """A header with the times of access and of change, which GNU tar expects in a series."""
    block = bytearray(header)
    for offset, moment in ((_ACCESS_TIME, status.st_atime), (_CHANGE_TIME, status.st_ctime)):
        block[offset : offset + _TIME_SIZE] = b"%011o\0" % min(max(int(moment), 0), _GREATEST_TIME)
    # The sum of all bytes, its own field counted as spaces.
    block[_CHECKSUM : _CHECKSUM + _CHECKSUM_SIZE] = b" " * _CHECKSUM_SIZE
    block[_CHECKSUM : _CHECKSUM + _CHECKSUM_SIZE] = b"%06o\0 " % sum(block)
    return bytes(block)
