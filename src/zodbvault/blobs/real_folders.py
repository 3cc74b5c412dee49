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
        # The last folder that was seen to be a real one, as are all between it and the root.
        self._known = ""

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
        known = self._known
        unknown = []
        folder = path.rpartition("/")[0]
        # Paths come in their order: mostly the folder above is on the way that is known.
        while not (known == folder or known.startswith(f"{folder}/")) and len(folder) >= len(self._root):
            unknown.append(folder)
            folder = folder.rpartition("/")[0]
        for folder in reversed(unknown):
            is_real = _is_real(folder)
            if is_real is None:
                # Below it nothing can be there either.
                return folder if missing_is_strange else None
            if not is_real:
                return folder
            self._known = folder
        return None


def _is_real(folder: str) -> bool | None:
    """Whether a folder, and no link to one, stands there; None where nothing does."""
    try:
        mode = os.lstat(folder).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return False
    return stat.S_ISDIR(mode)
