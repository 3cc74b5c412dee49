"""Writing so that it survives a crash: the one module that makes files, names and folders durable.

A file is written beside its place, synced, renamed, and its folder synced; what has its final name is whole. This
cannot promise more than the disk does: a drive that lies about its cache is beyond us. Knows nothing of what the files
are.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
import stat
from typing import TYPE_CHECKING, Any, NamedTuple

from zodbvault.io.closing import QuietFile, close_fd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Buffer

logger = logging.getLogger(__name__)

PART_SUFFIX = ".part"

FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

NOT_SUPPORTED = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM})
"""What file systems answer (CIFS, vfat, some of FUSE) that cannot sync a folder, or keep the mode, the time or the link
that is asked for. EIO or ENOSPC are never among them."""

WRITE_BEHIND = 16 << 20
"""Bytes after which the kernel is asked to begin writing to the disk, so that the sync at the end finds little left."""

SYNCED_ONE_BY_ONE = 64
"""Files and folders that a SyncBatch syncs each by itself; one syncfs(2) is cheaper than thousands of fsync(2)."""

SYNCFS_IS_ENOUGH = frozenset({0xEF53, 0x58465342, 0x9123683E, 0x2FC12FC1, 0xF2F52010, 0x01021994})
"""f_type (statfs(2)) of ext2/3/4, XFS, btrfs, ZFS, F2FS and tmpfs, where syncfs(2) does all that fsync(2) does. FUSE
and CIFS, say, do not pass it on to their servers."""


class Ownership(NamedTuple):
    """Who may use a new file. mode: permission bits; uid, gid: None leaves what the system gives."""

    mode: int
    uid: int | None
    gid: int | None

    def apply(self, fd: int) -> None:
        """Give an open file or folder this owner, group and mode, as far as we may.

        Only root can give files away, and other users choose among their groups; failing in that is no error. Nor is a
        file system that knows no modes: there it is the mount that says who may read.
        """
        status = os.fstat(fd)
        uid = -1 if self.uid in (None, status.st_uid) else self.uid
        gid = -1 if self.gid in (None, status.st_gid) else self.gid
        assert uid is not None
        assert gid is not None
        if (uid, gid) != (-1, -1) and not _chown(fd, uid, gid) and uid != -1 and gid != -1:
            _chown(fd, -1, gid)
        wanted = self._mode_for(status)
        if stat.S_IMODE(status.st_mode) != wanted:
            set_mode(fd, wanted)

    def is_that_of(self, status: os.stat_result) -> bool:
        """Whether apply() has nothing to do at a file or folder with this status."""
        return (
            self.uid in (None, status.st_uid)
            and self.gid in (None, status.st_gid)
            and stat.S_IMODE(status.st_mode) == self._mode_for(status)
        )

    def _mode_for(self, status: os.stat_result) -> int:
        """The permission bits for a file or folder with this status."""
        wanted = self.mode & 0o777
        if stat.S_ISDIR(status.st_mode):
            # The set-group-id bit that a folder got from its parent makes its files belong to the same group.
            wanted = _with_search_bits(wanted) | (status.st_mode & stat.S_ISGID)
        return wanted


def _chown(fd: int, uid: int, gid: int) -> bool:
    try:
        os.fchown(fd, uid, gid)
    except OSError as error:
        logger.debug("owner %d and group %d cannot be given: %s", uid, gid, error)
        return False
    return True


def set_mode(path_or_fd: str | int | os.PathLike[str], mode: int) -> None:
    """Give a file or folder these permission bits; where the file system knows none that is logged, once."""
    _set(path_or_fd, "modes", lambda: os.chmod(path_or_fd, mode))


def set_times(path_or_fd: str | int | os.PathLike[str], nanoseconds: int) -> None:
    """Give a file or folder a time of modification, since 1970; where the file system keeps none that is logged, once.

    Some let only the owner whom they made up set it.
    """
    _set(path_or_fd, "times", lambda: os.utime(path_or_fd, ns=(nanoseconds, nanoseconds)))


def _set(path_or_fd: str | int | os.PathLike[str], what: str, call: Callable[[], None]) -> None:
    try:
        call()
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
        _log_unset(os.stat(path_or_fd).st_dev, what, str(error.strerror))


def make_symlink(path: Path, target: str) -> bool:
    """Let a new symlink at `path` lead to `target`; False, and logged once, where the file system knows none."""
    try:
        os.symlink(target, path)  # noqa: PTH211 - as the others
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            raise
        _log_unset(os.stat(path.parent).st_dev, "symlinks", str(error.strerror))
        return False
    return True


def make_hard_link(path: str, new: str) -> bool:
    """Give a file a second name; False where the file system allows none, or no more of them.

    Where it knows none at all that is logged, once; two file systems are no surprise. Raises FileExistsError.
    """
    try:
        os.link(path, new, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as error:
        device = os.stat(os.path.dirname(new)).st_dev
        # Two mounts of one device refuse links between them too.
        if error.errno in NOT_SUPPORTED or (error.errno == errno.EXDEV and os.lstat(path).st_dev == device):
            _log_unset(device, "hard links", str(error.strerror))
        return False
    return True


@functools.lru_cache(maxsize=64)
def _log_unset(device: int, what: str, reason: str) -> None:
    """Once per device and what it lacks (that is what the cache is for)."""
    logger.info("Device %d:%d refuses %s (%s): done without.", os.major(device), os.minor(device), what, reason)


def _with_search_bits(mode: int) -> int:
    """`mode` with an x for each r: who may list a folder may enter it."""
    return mode | ((mode & 0o444) >> 2)


def ownership_of(path_or_fd: str | int | os.PathLike[str], *, executable: bool = False) -> Ownership:
    """Owner, group and permission bits by which a new file goes (executable=True: a new folder).

    A file's bits are taken as they are, a folder's for a file without x; for a folder each r brings its x.
    """
    status = os.stat(path_or_fd)
    mode = status.st_mode & 0o777
    if executable:
        mode = _with_search_bits(mode)
    elif stat.S_ISDIR(status.st_mode):
        mode &= 0o666
    return Ownership(mode, status.st_uid, status.st_gid)


def current_umask() -> int:
    """The umask of this process. Not beside other threads that make files: it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def make_folder(folder: str | os.PathLike[str]) -> None:
    """Make a folder and its missing parents, durably. What root makes belongs to the owner of the folder around it.

    A site's user could not write there otherwise, after root once ran a command for them. Raises OSError.
    """
    path = os.fspath(folder)
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    if parent not in ("", path):
        make_folder(parent)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
        return
    if os.geteuid() == 0:
        fd = os.open(path, FOLDER_FLAGS | os.O_NOFOLLOW)
        try:
            give_to_owner_of(parent or ".", fd)
        finally:
            close_fd(fd)
    # Whatever is synced in the folder later is lost with its name.
    sync_folder(parent or ".")


def give_to_owner_of(folder: str, fd: int) -> None:
    """Let an open file or folder belong to the owner and group of `folder`; failing in that is no error."""
    status = os.stat(folder)
    _chown(fd, status.st_uid, status.st_gid)


def sync_file(fd: int) -> None:
    """Bring content and size of an open file to the disk. Raises OSError when that fails: the content is then lost."""
    full_sync = _full_sync()
    if full_sync is None:
        os.fsync(fd)
    else:
        full_sync(fd)


def _full_sync() -> Callable[[int], None] | None:
    """macOS: fsync there leaves the data in the drive's cache."""
    import fcntl

    command = getattr(fcntl, "F_FULLFSYNC", None)
    if command is None:
        return None

    def full_sync(fd: int) -> None:
        try:
            fcntl.fcntl(fd, command)
        except OSError as error:
            if error.errno not in NOT_SUPPORTED:
                raise
            os.fsync(fd)

    return full_sync


def sync_folder(path: str | int | os.PathLike[str]) -> None:
    """Bring the names in a folder (path or descriptor) to the disk.

    A file system that cannot do that is tolerated and logged once; every other error raises OSError.
    """
    fd = path if isinstance(path, int) else os.open(path, FOLDER_FLAGS)
    try:
        sync_file(fd)
    except OSError as error:
        if error.errno not in NOT_SUPPORTED:
            if not isinstance(path, int):
                error.filename = os.fspath(path)
            raise
        _log_unsupported(os.fstat(fd).st_dev, str(error.strerror))
    finally:
        if fd is not path:
            close_fd(fd)


@functools.lru_cache(maxsize=64)
def _log_unsupported(device: int, reason: str) -> None:
    """Once per device (that is what the cache is for)."""
    logger.info(
        "Device %d:%d cannot sync folders (%s): the newest names there may be lost when the power fails.",
        os.major(device),
        os.minor(device),
        reason,
    )


@contextlib.contextmanager
def named(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let an OSError of the block that names no file (as those of open files do) name this one."""
    try:
        yield
    except OSError as error:
        # Some calls name an open file by its number.
        if not isinstance(error.filename, (str, bytes)):
            error.filename = os.fspath(path)
        raise


def forget_refusals() -> None:
    """Log anew what file systems cannot do, as a new process does. For tests."""
    _log_unsupported.cache_clear()
    _log_unset.cache_clear()


class WholeFile(QuietFile):
    """An unbuffered binary file whose write() writes everything or raises, and that keeps the disk busy meanwhile."""

    def __init__(self, fd: int, path: str) -> None:
        super().__init__(fd, "w+b")
        self._path = path
        self._written = 0
        self._passed_on = 0

    def write(self, data: Buffer, /) -> int:
        """Write all of `data`; returns its length in bytes. Raises OSError that names the file."""
        view = memoryview(data).cast("B")
        done = 0
        with named(self._path):
            while done < len(view):
                done += super().write(view[done:] if done else view) or 0
        self._written += done
        if self._written - self._passed_on >= WRITE_BEHIND:
            self._begin_writing()
        return done

    def let_go(self) -> None:
        """After a sync: a large file is not kept in the page cache, where the database has its pages."""
        if self._passed_on:
            self._begin_writing()

    def _begin_writing(self) -> None:
        if hasattr(os, "posix_fadvise"):
            # On Linux this starts the writing of dirty pages and drops clean ones: a backup should not push the
            # database out of the page cache either.
            os.posix_fadvise(self.fileno(), 0, self.tell(), os.POSIX_FADV_DONTNEED)
        self._passed_on = self._written


class PartFile:
    """A new file that gets its name when it is whole and durable.

    Written as `<path>.part` (or `part`, in the same file system); a left-over of that name is removed first. Leaving
    the context without publish() removes what was written.

    ownership: None for the system's usual one.
    """

    def __init__(self, path: Path, ownership: Ownership | None = None, *, part: Path | None = None) -> None:
        self.path = path
        self.part = path.with_name(path.name + PART_SUFFIX) if part is None else part
        _unlink(self.part)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self.part, flags, 0o666 if ownership is None else 0o600)
        try:
            if ownership is not None:
                with named(self.part):
                    ownership.apply(fd)
            self.file = WholeFile(fd, os.fspath(self.part))
        except BaseException:
            close_fd(fd)
            _unlink(self.part)
            raise
        self._finished = False
        self._gone = False

    def finish(self) -> None:
        """Make the content durable, still under the name of the part; nothing can be written any more."""
        if self._finished:
            return
        with named(self.part):
            sync_file(self.file.fileno())
        self.file.let_go()
        self.file.close()
        self._finished = True

    def publish(self) -> None:
        """Give the file its name, durably. Raises OSError; the name then stands for the old file or the new one."""
        self.finish()
        try:
            os.replace(self.part, self.path)
        except OSError as error:
            error.filename = os.fspath(self.path)
            raise
        self._gone = True
        # The name of a part in another folder may come back after a crash: a left-over like those of a kill.
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove what was written. Nothing happens after publish()."""
        self.file.close()
        if not self._gone:
            self._gone = True
            _unlink(self.part)

    def __enter__(self) -> PartFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.discard()
        except OSError as second:
            if error is None:
                raise
            # The first error is the one to be read; the next run removes the part.
            logger.debug("%s: cannot be removed: %s", self.part, second)


def write_durably(path: Path, data: bytes, ownership: Ownership | None = None) -> None:
    """Put a small file in place: the old content or the new one stands there at every instant, then durably the new."""
    with PartFile(path, ownership) as part:
        part.file.write(data)
        part.publish()


def write_where_told(path: Path, data: bytes) -> None:
    """Put a small file where a person wants it: as write_durably() does, where the name stands for a file or nothing.

    A symlink stays, and what it leads to is replaced. A device or a pipe is written to and not replaced: /dev/null has
    to stay what it is. Raises OSError, for a pipe that nobody reads too.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISREG(mode):
        write_durably(type(path)(os.path.realpath(path)), data)
        return
    fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "wb") as file:
        os.set_blocking(fd, True)
        file.write(data)


def rename_durably(old: Path, new: Path) -> None:
    """Rename a file within its folder, replacing what stands at `new`, and bring the folder's names to the disk."""
    assert old.parent == new.parent, "only within a folder a rename is one change"
    os.replace(old, new)
    sync_folder(new.parent)


def remove_durably(*paths: Path) -> None:
    """Remove files, in this order; missing ones are good. Then each folder is synced once.

    Only the whole is durable: where an order must survive a crash, call once per step.
    """
    folders = dict.fromkeys(path.parent for path in paths if _unlink(path))
    for folder in folders:
        sync_folder(folder)


def remove_tree(folder: Path) -> None:
    """Remove a folder and all below it, following no symlink. Raises OSError with the whole path of what stays."""
    import shutil
    import sys

    def fail(_: object, path: str | Path, error: Any) -> None:
        # shutil's own has the last part of the name only.
        failed = error[1] if isinstance(error, tuple) else error
        failed.filename = os.fspath(path)
        raise failed

    if sys.version_info >= (3, 12):
        shutil.rmtree(folder, onexc=fail)
    else:
        shutil.rmtree(folder, onerror=fail)


def remove_as_far_as_possible(folder: Path) -> None:
    """Remove a folder that nobody needs and all below it, following no symlink; what cannot be removed stays."""
    import shutil

    # Beside the errors that it ignores, rmtree raises those of closing a folder.
    with contextlib.suppress(OSError):
        shutil.rmtree(folder, ignore_errors=True)


def _unlink(path: Path) -> bool:
    """Whether there was a file to remove."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


class SyncBatch:
    """Makes many files and folders of one file system durable: few each by itself, many with one syncfs(2).

    Whatever was added is durable when finish() has returned, and not before. A context manager; finish() is up to the
    caller, for what was not finished does not count.
    """

    def __init__(self) -> None:
        self._added = 0
        self._device: int | None = None
        # The first file that was left to syncfs, kept open: an error in writing back is told to those who opened a file
        # of the file system before it came up.
        self._kept: int | None = None
        self._syncfs: Callable[[int], None] | None = None

    def add_file(self, fd: int) -> None:
        """An open file, completely written. Raises OSError when it cannot be synced."""
        if not self._may_wait(fd):
            sync_file(fd)

    def add_folder(self, path: str | os.PathLike[str]) -> None:
        """A folder that got or lost entries. One that is gone is good."""
        try:
            if not self._may_wait(path):
                sync_folder(path)
        except FileNotFoundError:
            logger.debug("%s: gone before it was synced", os.fspath(path))

    def catch_up(self) -> None:
        """Make durable what was left so far; more may come. Raises OSError when something was not written."""
        if self._kept is not None:
            assert self._syncfs is not None
            self._syncfs(self._kept)

    def finish(self) -> None:
        """Make durable what was left. Raises OSError when something was not written."""
        kept, self._kept = self._kept, None
        if kept is not None:
            assert self._syncfs is not None
            try:
                self._syncfs(kept)
            finally:
                close_fd(kept)
        self._added, self._device = 0, None

    def __enter__(self) -> SyncBatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._kept is not None:
            close_fd(self._kept)
            self._kept = None

    def _may_wait(self, entry: int | str | os.PathLike[str]) -> bool:
        """Whether the sync of an open file or of a folder may be left to finish()."""
        self._added += 1
        if self._added <= SYNCED_ONE_BY_ONE:
            return False
        device = os.stat(entry).st_dev
        if self._device is None:
            # One look: where syncfs is of no use it stays so.
            self._device = device
            fd = os.dup(entry) if isinstance(entry, int) else os.open(entry, FOLDER_FLAGS)
            self._syncfs = _syncfs_for(fd)
            if self._syncfs is None:
                close_fd(fd)
            else:
                self._kept = fd
        return self._kept is not None and device == self._device


def _syncfs_for(fd: int) -> Callable[[int], None] | None:
    """syncfs(2), or None where the system lacks it or it promises less than fsync(2) does.

    ctypes is imported only here: most runs have few files.
    """
    if not _syncfs_tells_errors():
        return None
    from zodbvault.io.c_library import c_function

    native_syncfs, native_fstatfs = c_function("syncfs"), c_function("fstatfs")
    if native_syncfs is None or native_fstatfs is None:
        return None
    import ctypes

    status = ctypes.create_string_buffer(512)
    if native_fstatfs(fd, status) != 0:
        return None
    # The first field of struct statfs is f_type, a long wherever Python's wheels are used.
    if ctypes.c_long.from_buffer(status).value & 0xFFFFFFFF not in SYNCFS_IS_ENOUGH:
        return None
    # An impossible descriptor tells whether the call exists (EBADF) or is unknown or forbidden (ENOSYS, EPERM).
    native_syncfs(-1)
    if ctypes.get_errno() != errno.EBADF:
        return None

    def syncfs(descriptor: int) -> None:
        if native_syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return syncfs


def _syncfs_tells_errors() -> bool:
    """Before Linux 5.8 syncfs(2) says nothing of content that could not be written."""
    system = os.uname()
    try:
        major, minor = (int(number) for number in system.release.split(".")[:2])
    except ValueError:
        return False
    return system.sysname == "Linux" and (major, minor) >= (5, 8)


class FolderSyncs:
    """Remembers the folders that got entries, while names come in path order, and makes them durable.

    A folder that the names have left behind is synced (or left to the batch) and forgotten, so memory is as deep as the
    tree. Names in another order cost more syncs, never less.

    batch: shared with the files; it is finished by its owner, after finish() of this.
    """

    def __init__(self, batch: SyncBatch) -> None:
        self._batch = batch
        self._open: list[str] = []

    def enter(self, folder: str) -> None:
        """`folder` gets, got or lost an entry; it must not be entered before the entry is there if others follow."""
        stack = self._open
        if stack and stack[-1] == folder:
            return
        while stack and not _is_within(folder, stack[-1]):
            self._batch.add_folder(stack.pop())
        if not stack or stack[-1] != folder:
            stack.append(folder)

    def make_folders(self, folder: str, ownership: Ownership | None) -> None:
        """Make `folder` and its missing parents, and remember whose entries changed; not `folder` itself yet.

        ownership: of the new folders; None for the system's usual one. Raises OSError.
        """
        if self._open and self._open[-1] == folder:
            return
        mode = 0o777 if ownership is None else _with_search_bits(ownership.mode & 0o777)
        try:
            # Mostly it is not there, but the folder above it is.
            os.mkdir(folder, mode)
        except FileNotFoundError:
            parent = os.path.dirname(folder)
            if parent in ("", folder) or os.path.isdir(parent):
                raise
            self.make_folders(parent, ownership)
            self.make_folders(folder, ownership)
            return
        except FileExistsError:
            if not os.path.isdir(folder):
                raise
            return
        if ownership is not None and not ownership.is_that_of(os.lstat(folder)):
            fd = os.open(folder, FOLDER_FLAGS | os.O_NOFOLLOW)
            try:
                with named(folder):
                    ownership.apply(fd)
            finally:
                close_fd(fd)
        self.enter(os.path.dirname(folder) or ".")

    def finish(self) -> None:
        """Sync what is left, or leave it to the batch."""
        while self._open:
            self._batch.add_folder(self._open.pop())


def _is_within(path: str, folder: str) -> bool:
    return path.startswith(folder) and (len(path) == len(folder) or folder.endswith("/") or path[len(folder)] == "/")
