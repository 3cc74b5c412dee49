"""The blobstorage as a folder: whether it is there, its layout, whether it holds any blob at all.

Apart from source.py because each backup looks at this much, and one without changes at no more; so it imports little.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from zodbvault.blobs.layouts import (
    BUSHY,
    OID_SIZE,
    byte_of_bushy_folder,
    oid_of_lawn_folder,
    read_layout,
    tid_of_file,
)
from zodbvault.errors import ZodbvaultError, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from zodbvault.blobs.layouts import Layout


class BlobFolder:
    """The blobstorage at the configured `folder`, which may be a symlink to the real one, `root`.

    Raises ZodbvaultError when the folder is missing or unreadable, or is the cache of a ZEO client.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            os.scandir(folder).close()
            self.root = Path(os.path.realpath(folder))
        except OSError as error:
            raise ZodbvaultError(
                f"the blob storage cannot be read: {reason_of(error)}",
                path=folder,
                hint="Is the disk mounted, and is blob_storage right?",
            ) from error
        self.layout: Layout = read_layout(self.root)

    def is_empty(self) -> bool:
        """Whether there is not one blob. Reads no further than to the first. Raises ZodbvaultError."""
        is_bushy = self.layout == BUSHY
        try:
            return not _holds_blob(
                str(self.root),
                OID_SIZE if is_bushy else 1,
                byte_of_bushy_folder if is_bushy else oid_of_lawn_folder,
            )
        except OSError as error:
            raise ZodbvaultError(f"the blob storage cannot be read: {reason_of(error)}", path=self.folder) from error


def _holds_blob(folder: str, levels: int, bytes_of_folder: Callable[[str], bytes | None]) -> bool:
    """Whether there is a blob below `folder`, which has `levels` levels of folders above the files."""
    try:
        with os.scandir(folder) as entries:
            if levels == 0:
                return any(tid_of_file(entry.name) and entry.is_file(follow_symlinks=False) for entry in entries)
            return any(
                bytes_of_folder(entry.name) is not None
                and entry.is_dir(follow_symlinks=False)
                and _holds_blob(entry.path, levels - 1, bytes_of_folder)
                for entry in entries
            )
    except (FileNotFoundError, NotADirectoryError):
        return False  # a pack took it away meanwhile
