"""One live Data.fs, opened once: everything that is read of it goes through the same file descriptor.

A pack puts a new file in its place while we read; the descriptor keeps the old one, and `was_replaced` tells. Nothing
here knows what a transaction is; only the magic is looked at.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.filestorage.format import MAGIC_LENGTH, MAGICS
from zodbvault.io.closing import Closing, close_fd

if TYPE_CHECKING:
    from pathlib import Path

    from zodbvault.io.clock import Clock
    from zodbvault.io.durable import Ownership
    from zodbvault.io.page_cache import PageCache

LONGEST_WAIT = 10.0
"""Seconds that a missing Data.fs is waited for while a pack may stand between its two renames."""

PAUSE = 0.05
"""Seconds between two looks for it."""

LARGE_READ = 1 << 20
"""Bytes; who reads so many at once reads the file, not a transaction of it."""


class DamagedDataFs(ZodbvaultError):
    """The bytes of a Data.fs do not add up; the message names the offset."""


class DataFs(Closing):
    """A Data.fs that is open for reading; a context manager that closes it.

    path: the configured name, symlinks unresolved. fd: the descriptor. inode, device: of the file behind it.
    magic: its first 4 bytes, one of `MAGICS`.
    """

    def __init__(self, path: Path, fd: int, status: os.stat_result, magic: bytes) -> None:
        self.path = path
        self.fd = fd
        self.inode = status.st_ino
        self.device = status.st_dev
        self.magic = magic
        self._page_cache: PageCache | None = None

    def close(self) -> None:
        """Closes the descriptor; a second call does nothing."""
        if self.fd >= 0:
            if self._page_cache is not None:
                self._page_cache.finish()
            close_fd(self.fd)
            self.fd = -1

    @property
    def ownership(self) -> Ownership:
        """Owner, group and mode of the file."""
        from zodbvault.io.durable import ownership_of

        return ownership_of(self.fd)

    def size(self) -> int:
        """The file's length now, in bytes."""
        return os.fstat(self.fd).st_size

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fills `view` with the bytes from `offset` on; returns how many there were, fewer only at the file's end.

        Large reads leave in the system's page cache what the site has there, and nothing else.
        """
        if len(view) >= LARGE_READ:
            self._look_at_page_cache(offset, len(view))
        got = 0
        while got < len(view):
            try:
                count = _read_some(self.fd, view[got:], offset + got)
            except OSError as error:
                raise self._unreadable(offset + got, error) from error
            if count == 0:
                break
            got += count
        return got

    def _look_at_page_cache(self, offset: int, length: int) -> None:
        if self._page_cache is None:
            from zodbvault.io.page_cache import PageCache

            self._page_cache = PageCache(self.fd)
        self._page_cache.before_reading(offset, length)

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on; fewer only at the file's end."""
        try:
            data = os.pread(self.fd, length, offset)
        except OSError as error:
            raise self._unreadable(offset, error) from error
        if not data or len(data) == length:
            return data
        return data + self.read(offset + len(data), length - len(data))

    def md5_of(self, start: int, end: int) -> str:
        """The md5 of the bytes from `start` to `end`, hexadecimal; of fewer where the file ends before."""
        from zodbvault.io.hashing import new_hash

        digest = new_hash("md5")
        with memoryview(bytearray(LARGE_READ)) as buffer:
            while start < end:
                got = self.read_into(buffer[: end - start], start)
                if not got:
                    break
                digest.update(buffer[:got])
                start += got
        return digest.hexdigest()

    def was_replaced(self) -> bool:
        """Whether the configured name leads to another file by now, or to none (a pack, a restore, a swap by hand)."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise ZodbvaultError(f"the database cannot be looked at: {reason_of(error)}", path=self.path) from error
        return (status.st_ino, status.st_dev) != (self.inode, self.device)

    def _unreadable(self, offset: int, error: OSError) -> ZodbvaultError:
        return ZodbvaultError(f"the database cannot be read at offset {offset}: {reason_of(error)}", path=self.path)


def _read_some(fd: int, view: memoryview, offset: int) -> int:
    """One positioned read into `view`; returns the number of bytes, 0 at the file's end."""
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    data = os.pread(fd, len(view), offset)
    view[: len(data)] = data
    return len(data)


def open_data_fs(path: Path, clock: Clock) -> DataFs:
    """Opens the database at `path`, which may be a symlink, and reads its magic.

    Between the two renames of a pack (ZODB.FileStorage.FileStorage.pack) there is no Data.fs for an instant: while its
    `.pack` or `.old` is there a missing one is waited for, `LONGEST_WAIT` seconds at most.
    Raises ZodbvaultError when there is none, or it cannot be read, or is no FileStorage.
    """
    fd = _open_patiently(path, clock)
    try:
        status = os.fstat(fd)
        return DataFs(path, fd, status, _magic_of(path, fd, status))
    except BaseException:
        close_fd(fd)
        raise


def _open_patiently(path: Path, clock: Clock) -> int:
    """The descriptor of the file at `path`; waits out the instant in which a pack has moved it away."""
    deadline = clock.now() + LONGEST_WAIT
    is_last_try = False
    while True:
        try:
            # Without O_NONBLOCK a named pipe of that name would keep us waiting for ever.
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENOENT:
                what = f"the database cannot be opened: {reason_of(error)}"
                hint = "Check the path of the database (option datafs), and who may read it."
                raise ZodbvaultError(what, path=path, hint=hint) from error
            if is_last_try:
                hint = "Check the path of the database (option datafs), and that its disk is mounted."
                raise ZodbvaultError("there is no database file", path=path, hint=hint) from error
        if _pack_may_be_swapping(path) and clock.now() < deadline:
            clock.sleep(PAUSE)
        else:
            # A pack that ended since the try has left no trace, but a Data.fs.
            is_last_try = True


def _pack_may_be_swapping(path: Path) -> bool:
    """Whether one of the names that a pack uses is there, beside the configured name (not beside a link's target)."""
    return any(os.path.lexists(f"{path}{suffix}") for suffix in (".pack", ".old"))


def _magic_of(path: Path, fd: int, status: os.stat_result) -> bytes:
    """The first bytes of a FileStorage; an error that says what the file is instead."""
    hint = "Check the path of the database (option datafs)."
    if stat.S_ISDIR(status.st_mode):
        raise ZodbvaultError("is a folder: not a FileStorage", path=path, hint=hint)
    if not stat.S_ISREG(status.st_mode):
        raise ZodbvaultError("is not a regular file: not a FileStorage", path=path, hint=hint)
    if status.st_size == 0:
        raise ZodbvaultError("is empty: not a FileStorage (an empty database has 4 bytes)", path=path, hint=hint)
    try:
        magic = os.pread(fd, MAGIC_LENGTH, 0)
    except OSError as error:
        raise ZodbvaultError(f"the database cannot be read: {reason_of(error)}", path=path) from error
    if magic not in MAGICS:
        what = f"begins with {magic!r}, a FileStorage with {MAGICS[1]!r} or {MAGICS[0]!r}: not a FileStorage"
        raise ZodbvaultError(what, path=path, hint=hint)
    return magic
