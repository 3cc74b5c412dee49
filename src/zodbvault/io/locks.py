"""Lock files, held with flock(2) in the way of zc.lockfile, so that Zope, ZEO and we exclude one another.

A lock is the kernel's: it ends with the process, whatever the file says, and the file is never removed (between an
unlink and the next open two processes could each hold "the" lock). Knows nothing of what a lock protects.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import stat
import time
from typing import TYPE_CHECKING

from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.closing import close_fd
from zodbvault.io.durable import give_to_owner_of

if TYPE_CHECKING:
    from types import TracebackType

    from zodbvault.io.durable import Ownership

logger = logging.getLogger(__name__)

ATTEMPTS = 20
"""How often a lock file may be swapped under our hands before we give up."""

LOOK_TAKES_AT_MOST = 5.0
"""Seconds for which acquire() waits for those who only look: far more than they take, even on a busy machine."""

CONTENT_LIMIT = 200
"""Bytes of a lock file that are shown to people."""

_HELD_BY_ANOTHER = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
"""What flock(2) answers, from system to system, where it would have to wait."""

_GIVE = "Give the file and its folder to the user who runs this."
_HINTS = {
    errno.EACCES: _GIVE,
    errno.EPERM: _GIVE,
    errno.EROFS: "Mount its disk for writing.",
    errno.EISDIR: "Move the folder that has this name away: the lock is a file, and is made by the next run.",
}


class Locked(ZodbvaultError):
    """Another process holds the lock. holder: what the lock file says about it."""

    def __init__(
        self,
        what: str,
        *,
        path: str | bytes | os.PathLike[str] | None = None,
        hint: str | None = None,
        holder: str | None = None,
    ) -> None:
        super().__init__(what, path=path, hint=hint)
        self.holder = holder


class AlreadyRunning(Locked):
    """Another run of ours holds the lock."""

    exit_code = 75


class LockFile:
    """An exclusive lock on a file. A context manager, or acquire() and release().

    path: the lock file; made when missing, its content is the pid as zc.lockfile writes it.
    since: for our own locks: when the run began, for the message that another run prints (which is then AlreadyRunning,
    otherwise Locked).
    nofollow: refuse a symlink (for folders of ours); FileStorage's lock may be anything.
    ownership: given to a lock file that is made.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        since: str | None = None,
        nofollow: bool = True,
        ownership: Ownership | None = None,
    ) -> None:
        self.path = path
        self._since = since
        self._nofollow = nofollow
        self._no_link = os.O_NOFOLLOW if nofollow else 0
        self._ownership = ownership
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock or raise at once: AlreadyRunning or Locked when another holds it, else ZodbvaultError."""
        assert self._fd is None, "acquired already"
        try:
            fd = self._open_and_lock()
        except OSError as error:
            reason = "it is a symbolic link" if error.errno == errno.ELOOP else reason_of(error)
            hint = _HINTS.get(error.errno or 0)
            raise ZodbvaultError(f"the lock cannot be taken: {reason}", path=self.path, hint=hint) from error
        self._fd = fd
        self._say_who(fd)

    def release(self) -> None:
        """Give the lock back; the file stays. Nothing happens when it is not held."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            # Not left to close(): a child process that was forked may still share the descriptor.
            fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            close_fd(fd)

    def holder(self) -> str | None:
        """What the lock file says about who holds it ("pid 4711, since ..."); None when it says nothing."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | self._no_link)
        except OSError:
            return None
        try:
            content = os.read(fd, CONTENT_LIMIT)
        except OSError:
            return None
        finally:
            close_fd(fd)
        lines = [" ".join(line.split()) for line in content.decode("utf-8", "replace").splitlines()]
        said = [f"pid {line}" if line.isdecimal() else line for line in lines if line]
        return ", ".join(said) or None

    def who_holds_it(self) -> str | None:
        """Who holds the lock, for people; None when nobody does. Writes nothing, and makes no file.

        Raises ZodbvaultError where that cannot be found out.
        """
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | self._no_link)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ZodbvaultError(f"the lock cannot be looked at: {reason_of(error)}", path=self.path) from error
        try:
            # A shared one, for an instant: two who ask at the same time do not see one another, and acquire() waits.
            return None if _is_taken(fd, fcntl.LOCK_SH) else self.holder() or "another process"
        except OSError as error:
            raise ZodbvaultError(f"the lock cannot be looked at: {reason_of(error)}", path=self.path) from error
        finally:
            close_fd(fd)

    def __enter__(self) -> LockFile:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _open_and_lock(self) -> int:
        for _ in range(ATTEMPTS):
            fd = self._open()
            try:
                self._flock(fd)
                if self._is_in_place(fd):
                    return fd
            except BaseException:
                close_fd(fd)
                raise
            close_fd(fd)
        raise ZodbvaultError("the lock file is being replaced again and again", path=self.path)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | self._no_link
        try:
            return os.open(self.path, flags)
        except FileNotFoundError:
            # Not O_EXCL: of two processes that come here both open the file, and flock decides.
            fd = os.open(self.path, flags | os.O_CREAT, 0o666)
        if self._ownership is not None:
            self._ownership.apply(fd)
        elif os.geteuid() == 0:
            # Zope, and the backups of the site's own user, have to open it for writing.
            give_to_owner_of(os.path.dirname(os.fspath(self.path)) or ".", fd)
        return fd

    def _flock(self, fd: int) -> None:
        """Take the lock of an open file. Raises AlreadyRunning or Locked at once where another holds it."""
        deadline = time.monotonic() + LOOK_TAKES_AT_MOST
        while not _is_taken(fd, fcntl.LOCK_EX):
            # What is shared is held by nobody: who_holds_it() looks, and is gone in an instant.
            if not _is_taken(fd, fcntl.LOCK_SH) or time.monotonic() > deadline:
                raise self._held_by_another()
            fcntl.flock(fd, fcntl.LOCK_UN)
            time.sleep(0.001)

    def _held_by_another(self) -> Locked:
        holder = self.holder()
        who = f" ({holder})" if holder else ""
        if self._since is None:
            return Locked(f"another process holds the lock{who}", path=self.path, holder=holder)
        what = f"another run holds the lock{who}"
        return AlreadyRunning(what, path=self.path, hint="Nothing was done.", holder=holder)

    def _is_in_place(self, fd: int) -> bool:
        """Whether the file that we locked is the one that others will find."""
        try:
            status = os.stat(self.path, follow_symlinks=not self._nofollow)
        except FileNotFoundError:
            return False
        return os.path.samestat(status, os.fstat(fd))

    def _say_who(self, fd: int) -> None:
        """Write our pid. The lock holds without it, so a full disk is no reason to stop (a restore may mend that).

        Nothing is written into what is no plain file of one name: a link to another file may have been put there.
        """
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or (self._nofollow and status.st_nlink != 1):
            return
        content = f" {os.getpid()}\n"
        if self._since is not None:
            content += f"since {self._since}\n"
        try:
            length = os.pwrite(fd, content.encode(), 0)
            os.ftruncate(fd, length)
        except OSError as error:
            logger.debug("%s: the pid cannot be written: %s", self.path, reason_of(error))


def _is_taken(fd: int, kind: int) -> bool:
    """Take a lock of a kind (LOCK_EX, LOCK_SH) where that can be had at once; whether it was. Raises OSError."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD_BY_ANOTHER:
            raise
        return False
    return True
