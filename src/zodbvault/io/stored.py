"""Opening a file of a backup for reading: only a regular file counts. Knows nothing of its content."""

from __future__ import annotations

import errno
import os
import stat

from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.closing import QuietFile, close_fd


class DamagedFile(ZodbvaultError):
    """A stored file is missing, cannot be read, or does not hold what it should."""


def open_stored(path: str | os.PathLike[str], *, nofollow: bool = True) -> QuietFile:
    """Open a file for reading, unbuffered. A context manager.

    nofollow: refuse a symlink. Raises DamagedFile for one, and for what is missing, unreadable or no regular file.
    """
    # Without O_NONBLOCK a named pipe in the place of a file would make us wait for ever.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if nofollow else 0)
    try:
        fd = os.open(path, flags)
    except OSError as error:
        raise DamagedFile(_why_not(error), path=path) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DamagedFile("is not a regular file", path=path)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return QuietFile(fd, "rb")
    except BaseException:
        close_fd(fd)
        raise


def _why_not(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "is missing"
    if error.errno == errno.ELOOP:
        return "is a symbolic link, not a regular file"
    return f"cannot be read: {reason_of(error)}"
