"""A folder that is brought back to what it was, again and again: quickly, and with the same inodes where they are left.

A record says which inode Data.fs has, and hard links are part of some layouts, so a fresh copy would be another site.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

A_YEAR = 365 * 24 * 3600


class _Entry(NamedTuple):
    """A file, a folder or a symbolic link as it was; content: of a file, or where a link leads to."""

    status: os.stat_result
    content: bytes


class Rewinder:
    """Remembers all below a folder, in memory; back() makes it so again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries = {path: _entry(path, status) for path, status in _walk(str(folder))}

    def back(self) -> None:
        """Bring the folder back. Files that still have their inode keep it; names of one file are so again."""
        left: dict[str, os.stat_result] = {}
        for path, status in sorted(_walk(str(self.folder)), reverse=True):
            wanted = self._entries.get(path)
            if wanted is None or _is_another(status, wanted.status):
                os.rmdir(path) if stat.S_ISDIR(status.st_mode) else os.unlink(path)
            else:
                left[path] = status
        first_names = {self._entries[path].status.st_ino: path for path in left}
        for path in sorted(self._entries):
            if path not in left:
                self._make(path, first_names)
            elif stat.S_ISREG(left[path].st_mode) and _is_changed(left[path], self._entries[path].status):
                _rewrite(path, self._entries[path].content)
        # Times last, and of folders after all that stands in them.
        for path in sorted(self._entries, reverse=True):
            self._give_times(path)

    def _make(self, path: str, first_names: dict[int, str]) -> None:
        status, content = self._entries[path]
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(path)
        elif stat.S_ISLNK(status.st_mode):
            Path(path).symlink_to(os.fsdecode(content))
        elif status.st_nlink > 1 and status.st_ino in first_names:
            os.link(first_names[status.st_ino], path)
        else:
            with open(path, "xb") as file:
                file.write(content)
            first_names[status.st_ino] = path

    def _give_times(self, path: str) -> None:
        status, content = self._entries[path]
        now = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            return
        if stat.S_IMODE(now.st_mode) != stat.S_IMODE(status.st_mode):
            os.chmod(path, stat.S_IMODE(status.st_mode))
        if now.st_mtime_ns != status.st_mtime_ns:
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        # A file that was made anew has another inode from now on, and the change of its times is no news next time.
        self._entries[path] = _Entry(os.lstat(path), content)


def likeness(folder: Path) -> bytes:
    """A checksum of all that a command could find below a folder; the same for two folders that are alike.

    Names, contents, modes, which names are one file, and times that were set (those of the pretended clock, and not
    those of this year). What a lock holds is left out: the process that had it.
    """
    digest = hashlib.sha256()
    first_names: dict[int, str] = {}
    for path, status in sorted(_walk(str(folder))):
        is_file = stat.S_ISREG(status.st_mode)
        content = b"" if path.endswith(".lock") else _entry(path, status).content
        moment = status.st_mtime_ns if is_file and status.st_mtime > time.time() + A_YEAR else 0
        same = first_names.setdefault(status.st_ino, path)
        digest.update(repr((path, status.st_mode, moment, same, len(content))).encode(errors="surrogateescape"))
        digest.update(content)
    return digest.digest()


def _entry(path: str, status: os.stat_result) -> _Entry:
    if stat.S_ISLNK(status.st_mode):
        return _Entry(status, os.readlink(os.fsencode(path)))
    if stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            return _Entry(status, file.read())
    return _Entry(status, b"")


def _walk(folder: str) -> list[tuple[str, os.stat_result]]:
    """Everything below a folder, and its status."""
    found = []
    for where, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(where, name)
            found.append((path, os.lstat(path)))
    return found


def _is_another(status: os.stat_result, wanted: os.stat_result) -> bool:
    if stat.S_IFMT(status.st_mode) != stat.S_IFMT(wanted.st_mode):
        return True
    # What stands in a folder is looked at by itself.
    return not stat.S_ISDIR(status.st_mode) and status.st_ino != wanted.st_ino


def _is_changed(status: os.stat_result, wanted: os.stat_result) -> bool:
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns) != (
        wanted.st_size,
        wanted.st_mtime_ns,
        wanted.st_ctime_ns,
    )


def _rewrite(path: str, content: bytes) -> None:
    with open(path, "r+b") as file:
        if file.read() == content:
            return
        file.seek(0)
        file.write(content)
        file.truncate()
