"""Whether only real folders are on the way to a file of a backup: a symlink would lead out of the backup.

Backups may stand where others can write. Knows paths, nothing of blobs.
"""

from __future__ import annotations

import os
import stat


class RealFolders:
    """The folders below a root that is itself to be a real one.

    What the last path had on its way is not looked at again. Several threads may ask at a time.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        # The folders on the way to the last path that was asked for, all of them real ones.
        self._known: list[str] | None = None

    def lead_to(self, path: str) -> bool:
        """Whether the root and all folders on the way from it to the file at `path` are there, and real ones."""
        return self._first_strange(path, missing_is_strange=True) is None

    def status_of_file(self, path: str) -> os.stat_result | None:
        """The status of the regular file at `path`; None where none is, or not in real folders. Raises OSError."""
        if not self.lead_to(path):
            return None
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status if stat.S_ISREG(status.st_mode) else None

    def strange_on_the_way_to(self, path: str) -> str | None:
        """What stands where a folder on the way to `path` should be, and is none; those not there yet are good."""
        return self._first_strange(path, missing_is_strange=False)

    def _first_strange(self, path: str, *, missing_is_strange: bool) -> str | None:
        names = os.path.dirname(path)[len(self._root) + 1 :].split("/")
        known = self._known
        number = 0
        if known is None:
            if not _is_real(self._root, missing_is_strange=missing_is_strange):
                return self._root
        else:
            while number < min(len(names), len(known)) and names[number] == known[number]:
                number += 1
        for length in range(number + 1, len(names) + 1):
            folder = "/".join((self._root, *names[:length])).rstrip("/")
            if not _is_real(folder, missing_is_strange=missing_is_strange):
                return folder
        if missing_is_strange:
            self._known = names
        return None


def _is_real(folder: str, *, missing_is_strange: bool) -> bool:
    try:
        mode = os.lstat(folder).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return not missing_is_strange
    except OSError:
        return False
    return stat.S_ISDIR(mode)
