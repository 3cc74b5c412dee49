"""A directory of blobs: `blobstorage.2026-11-23-18-05-00/blobstorage/`, a copy of a blobstorage as rsync makes it.

Reads only, below real folders and nothing else: the directory may stand where others can write. Knows nothing of dates.
"""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from zodbvault.blobs.containers import DamagedBlob, read_one_by_one, sizes_one_by_one
from zodbvault.blobs.layouts import path_for, read_layout
from zodbvault.blobs.manifest import Entry
from zodbvault.blobs.real_folders import RealFolders
from zodbvault.blobs.source import BlobWalk, open_blob
from zodbvault.blobs.stored import parse_stored_name
from zodbvault.errors import ZodbvaultError, reason_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from zodbvault.blobs.containers import Blocks, Result
    from zodbvault.blobs.layouts import Layout


class DirectoryContainer:
    """The blobs in a directory. scratch: a folder for temporary files, when a listing is large."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self.folder = folder
        self._scratch = scratch
        self._blobstorage = blobstorage_in(folder)
        self._folders = RealFolders(str(self._blobstorage))
        self.layout: Layout = read_layout(self._blobstorage, nofollow=True)

    def path_of(self, key: bytes) -> str:
        """Where the blob `key` stands, if it is there."""
        return f"{self._blobstorage}/{path_for(self.layout, key)}"

    def blobs(self) -> Generator[Entry, None, None]:
        """An entry without sha256 for each blob, in the order of their keys; what is no blob is passed by."""
        walk = BlobWalk(str(self._blobstorage), self.layout, self._scratch, lambda _: True)
        with closing(walk.blobs()) as blobs:
            for key, size in blobs:
                yield Entry(key, size, "")

    def sizes(self, entries: Iterable[Entry]) -> Generator[tuple[Entry, int | None], None, None]:
        """Each entry with the size of its blob here, as `Container.sizes`."""
        return sizes_one_by_one(entries, self.size_of)

    def read(
        self, entries: Iterable[Entry], take: Callable[[Entry, Blocks], Result]
    ) -> Generator[tuple[Entry, Result], None, None]:
        """Each entry with what `take` makes of its blob's content, as `Container.read`; in the order of the entries."""
        return read_one_by_one(entries, self._opened, take)

    def size_of(self, key: bytes) -> int | None:
        """The size in bytes of the blob `key`; None when no regular file in real folders stands there."""
        path = self.path_of(key)
        try:
            status = self._folders.status_of_file(path)
        except OSError as error:
            raise ZodbvaultError(f"the blob cannot be read: {reason_of(error)}", path=path) from error
        return None if status is None else status.st_size

    def identity_of(self, key: bytes) -> tuple[int, int] | None:
        """Device and inode of the blob `key`, the same for hard links of it; None when it is not here."""
        try:
            status = self._folders.status_of_file(self.path_of(key))
        except OSError:
            return None
        return None if status is None else (status.st_dev, status.st_ino)

    def open(self, key: bytes) -> int | None:
        """A file descriptor for reading the blob `key`; None when it is not here. Raises ZodbvaultError."""
        path = self.path_of(key)
        return open_blob(path) if self._folders.lead_to(path) else None

    def _opened(self, key: bytes) -> int:
        fd = self.open(key)
        if fd is None:
            raise DamagedBlob("is missing from the directory of blobs", path=self.path_of(key))
        return fd


def blobstorage_in(folder: Path) -> Path:
    """The copy of the blobstorage in a directory: called as the directory says, else the only folder in it.

    Raises ZodbvaultError where there is none.
    """
    parsed = parse_stored_name(folder.name)
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise ZodbvaultError(f"the blobs cannot be read: {reason_of(error)}", path=folder) from error
    if parsed is not None and parsed[0] in names:
        return folder / parsed[0]
    if len(names) == 1:
        return folder / names[0]
    raise ZodbvaultError("holds no copy of a blob storage", path=folder)
