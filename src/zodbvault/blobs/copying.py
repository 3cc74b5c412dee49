"""Reading a blob's bytes: copied to a temporary file and hashed on the way, or hashed only.

Knows open files and temporary names; neither pools nor sites, and no keys but for a temporary file's name.
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from itertools import zip_longest
from threading import Lock
from typing import TYPE_CHECKING

from zodbvault.io.closing import close_fd
from zodbvault.io.durable import WholeFile, make_hard_link, named, ownership_of, set_times

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zodbvault.io.durable import Ownership, SyncBatch

BLOCK_SIZE = 1 << 20

# The number of that ioctl(2) on nearly all processors, where Python (before 3.12) does not know it.
_FICLONE = 0x40049409

LAYOUT_PART = "zodbvault-layout.part"
"""The name that a blobstorage's `.layout` has in the folder of temporary files until it is whole."""

_TEMPORARY_NAME = re.compile(r"zodbvault-([0-9a-f]{32}|layout)\.part\Z")


def temporary_name(key: bytes) -> str:
    """The name that a copy of the blob `key` has until it is whole. There is one writer, so one name is enough."""
    return f"zodbvault-{key.hex()}.part"


def is_temporary_name(name: str) -> bool:
    """Whether a file of this name is one of ours that was not finished."""
    return _TEMPORARY_NAME.match(name) is not None


def remove_temporaries(folder: str) -> int:
    """Remove what a crash left unfinished in `folder`; how many files. Raises OSError."""
    removed = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_temporary_name(entry.name) and entry.is_file(follow_symlinks=False):
                    os.unlink(entry.path)
                    removed += 1
    except FileNotFoundError:
        return removed
    return removed


class SharedBatch:
    """A batch of files to be synced that several threads add to.

    can_clone: whether the file system has not refused yet to let a new file share the content of another one.
    """

    def __init__(self, batch: SyncBatch) -> None:
        self.can_clone = True
        self._batch = batch
        self._lock = Lock()

    def add_file(self, fd: int) -> None:
        """An open file, completely written. Raises OSError when it cannot be synced."""
        with self._lock:
            self._batch.add_file(fd)

    def catch_up(self) -> None:
        """Make durable what was added so far. Raises OSError when something was not written."""
        with self._lock:
            self._batch.catch_up()


def copy_blob(
    fd: int, temporary: str, ownership: Ownership | None, batch: SharedBatch, *, with_time: bool = False
) -> tuple[int, str]:
    """Copy all that the open file `fd` holds into the new file `temporary`; its size in bytes and its sha256.

    ownership: None for that of `fd`. with_time: the copy gets the modification time of `fd`. Where the file system can
    share content between files (XFS, btrfs), nothing is written; the sha256 is that of what is read from `fd` in any
    case. The rest is as for copy_blocks().
    """
    ownership = ownership_of(fd) if ownership is None else ownership
    modified = os.fstat(fd).st_mtime_ns if with_time else None
    if batch.can_clone and (found := _cloned(fd, temporary, ownership, batch, modified)) is not None:
        return found
    return copy_blocks(blocks_of(fd), temporary, ownership, batch, modified=modified)


def _cloned(
    fd: int, temporary: str, ownership: Ownership, batch: SharedBatch, modified: int | None
) -> tuple[int, str] | None:
    """As copy_blob(), by sharing; None when that cannot be, or when the file changed meanwhile."""
    out = _new_file(temporary)
    try:
        batch.can_clone = _clone(fd, out)
        if batch.can_clone:
            size, sha256 = hash_blob(fd)
            if os.fstat(out).st_size == size:
                _finish(out, temporary, ownership, modified, batch)
                return size, sha256
    except BaseException:
        os.unlink(temporary)
        raise
    finally:
        close_fd(out)
    return None


def _finish(out: int, temporary: str, ownership: Ownership, modified: int | None, batch: SharedBatch) -> None:
    """Owner, mode and time of a new file that is written, which is in the batch to be synced then."""
    with named(temporary):
        ownership.apply(out)
        if modified is not None:
            set_times(out, modified)
        batch.add_file(out)


def _clone(fd: int, out: int) -> bool:
    """Let the empty file `out` share all content of the file `fd`; whether it does now."""
    try:
        import fcntl

        fcntl.ioctl(out, getattr(fcntl, "FICLONE", _FICLONE), fd)
    except (ImportError, OSError):
        return False
    return True


def copy_blocks(
    blocks: Iterable[bytes], temporary: str, ownership: Ownership, batch: SharedBatch, *, modified: int | None = None
) -> tuple[int, str]:
    """Write `blocks` into the new file `temporary`; its size in bytes and its sha256.

    modified: the time that it is given, in nanoseconds since 1970; None for the time of writing.
    The file is in the batch to be synced. A left-over of that name goes first; on an error nothing is left. Raises
    OSError, which names `temporary` when that was the one that failed, and whatever `blocks` raises.
    """
    out = _new_file(temporary)
    try:
        with WholeFile(out, temporary) as file:
            sha256 = hashlib.sha256()
            size = 0
            for block in blocks:
                sha256.update(block)
                size += file.write(block)
            _finish(out, temporary, ownership, modified, batch)
    except BaseException:
        os.unlink(temporary)
        raise
    return size, sha256.hexdigest()


def _new_file(path: str) -> int:
    """A descriptor of a new file, which only we may read yet. A left-over of that name goes."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileExistsError:
        os.unlink(path)
        return os.open(path, flags, 0o600)


def hash_blob(fd: int) -> tuple[int, str]:
    """Size in bytes and sha256 of all that the open file `fd` holds. Raises OSError."""
    return hash_blocks(blocks_of(fd))


def hash_blocks(blocks: Iterable[bytes]) -> tuple[int, str]:
    """Size in bytes and sha256 of what the blocks make together. Raises what they raise."""
    sha256 = hashlib.sha256()
    size = 0
    for block in blocks:
        sha256.update(block)
        size += len(block)
    return size, sha256.hexdigest()


def hash_if_equal(fd: int, other: int) -> str | None:
    """The sha256 of what the open file `fd` holds, where the open file `other` holds the same; else None.

    Raises OSError.
    """
    sha256 = hashlib.sha256()
    for block, same in zip_longest(blocks_of(fd), blocks_of(other)):
        if block != same:
            return None
        sha256.update(block)
    return sha256.hexdigest()


def is_unchanged(fd: int, before: os.stat_result) -> bool:
    """Whether an open file is still as it was looked at `before`, by size and modification time."""
    after = os.fstat(fd)
    return (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def give_second_name(path: str, temporary: str, expected: os.stat_result) -> bool:
    """Give just the file that was looked at a second name (a hard link); whether that could be done."""
    try:
        try:
            is_linked = make_hard_link(path, temporary)
        except FileExistsError:
            os.unlink(temporary)
            is_linked = make_hard_link(path, temporary)
    except OSError:
        return False
    if not is_linked:
        return False
    status = os.lstat(temporary)
    if (status.st_dev, status.st_ino) == (expected.st_dev, expected.st_ino):
        return True
    os.unlink(temporary)
    return False


def blocks_of(fd: int) -> Iterator[bytes]:
    """The content from the file's beginning, wherever its position is. What is appended meanwhile may be left out.

    Raises OSError, which names the file where the system knows its path.
    """
    size = os.fstat(fd).st_size
    offset = 0
    # No more is asked for than is there: memory for a whole block costs more than to read a small blob.
    while offset < size and (block := _read(fd, min(BLOCK_SIZE, size - offset), offset)):
        yield block
        offset += len(block)


def _read(fd: int, size: int, offset: int) -> bytes:
    try:
        return os.pread(fd, size, offset)
    except OSError as error:
        # Else whoever writes meanwhile would take it for an error of the copy.
        with suppress(OSError):
            error.filename = os.readlink(f"/proc/self/fd/{fd}")
        raise
