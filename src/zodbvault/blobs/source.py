"""The blobstorage of the site, as a backup reads it.

Reads only, and believes nothing but exact names: what is not a blob of its layout is counted and left alone. Knows
nothing of manifests, pools or Data.fs. The layout on disk is ZODB.blob's; `.old` beside the configured folder is where
a pack that keeps old data moves the blobs that it removes (ZODB.FileStorage.FileStorage).
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING

from zodbvault.errors import ZodbvaultError, reason_of

from .layouts import (
    BUSHY,
    LAYOUT_MARKER,
    OID_SIZE,
    TEMPORARY_FOLDER,
    bushy_path,
    byte_of_bushy_folder,
    lawn_path,
    oid_of_lawn_folder,
    path_for,
    read_layout,
    tid_of_file,
)
from .spill import SortedRecords

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from .layouts import Layout

logger = logging.getLogger(__name__)

# Revisions of one blob that are sorted in memory as they are listed.
_REVISIONS_IN_MEMORY = 4096
_GONE = (FileNotFoundError, NotADirectoryError)


class SourceBlobs:
    """The blobstorage at the configured `folder`, which may be a symlink to the real one.

    `strange` counts what a walk skipped: files and folders that are not ZODB's, symlinks, whatever is no regular file.
    Raises ZodbvaultError when the folder is missing or unreadable, or is the cache of a ZEO client.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.root = folder.resolve(strict=True)
            os.scandir(self.root).close()
        except OSError as error:
            raise ZodbvaultError(
                f"the blob storage cannot be read: {reason_of(error)}",
                path=folder,
                hint="Is the disk mounted, and is blob_storage right?",
            ) from error
        self.layout: Layout = read_layout(self.root)
        self.strange = 0

    def walk(self, scratch: Path) -> Generator[tuple[bytes, int, str], None, None]:
        """(key, size in bytes, path below the folder) of each blob, in the order of the keys; constant memory.

        scratch: a folder for the temporary file that a large lawn folder needs. Files that vanish meanwhile are left
        out. Warns once, at the end, when something strange was skipped. Raises ZodbvaultError where a folder cannot
        be read.
        """
        self.strange = 0
        walker = BlobWalk(str(self.root), self.layout, scratch)
        with closing(walker.blobs()) as blobs:
            for key, size in blobs:
                yield key, size, path_for(self.layout, key)
        self.strange = walker.strange
        if self.strange:
            logger.warning(
                "%s: skipped %d files or folders that are not blobs of this storage, such as %s",
                self.folder,
                self.strange,
                walker.strange_example,
            )

    def is_empty(self) -> bool:
        """Whether there is not one blob. Reads no further than to the first."""
        return BlobWalk(str(self.root), self.layout, self.root).is_empty()

    def open(self, key: bytes) -> int | None:
        """A file descriptor for reading the blob `key`, or None when it is gone.

        Looks at its place, at the place that it has in the other layout, and in `<folder>.old`. Raises ZodbvaultError
        when the blob is there but cannot be opened.
        """
        paths = (bushy_path(key), lawn_path(key)) if self.layout == BUSHY else (lawn_path(key), bushy_path(key))
        for place in (str(self.root), f"{os.path.abspath(self.folder)}.old"):
            for path in paths:
                fd = open_blob(f"{place}/{path}")
                if fd is not None:
                    return fd
        return None


class BlobWalk:
    """A walk over the blobs in a folder of one layout, in the order of their keys.

    Folders and files that are not exactly the layout's are skipped and counted in `strange`; the temporary folder and
    the layout marker at the top are passed by. scratch: a folder for a temporary file, when a listing is large.
    take_strange: is asked for each file or folder that is none of the layout's; what it takes (True) does not count.
    """

    def __init__(
        self,
        root: str,
        layout: Layout,
        scratch: Path,
        take_strange: Callable[[os.DirEntry[str]], bool] | None = None,
    ) -> None:
        self._root = root
        self._layout = layout
        self._scratch = scratch
        self._take_strange = take_strange
        self.strange = 0
        self.strange_example = ""

    def blobs(self) -> Generator[tuple[bytes, int], None, None]:
        """Key and size in bytes of each blob."""
        folders = self._bushy(self._root, b"") if self._layout == BUSHY else self._lawn()
        with closing(folders):
            for folder, oid in folders:
                yield from self._sorted_blobs(folder, oid)

    def is_empty(self) -> bool:
        """Whether there is no blob at all. Reads no further than to the first, and writes nothing."""
        folders = self._bushy(self._root, b"") if self._layout == BUSHY else self._unsorted_lawn()
        with closing(folders):
            return not any(True for folder, _ in folders for _ in self._revisions(folder))

    def _bushy(self, folder: str, oid: bytes) -> Generator[tuple[str, bytes], None, None]:
        """The folders of oids below one whose way down from the root has given the first bytes of the oid."""
        if len(oid) == OID_SIZE:
            yield folder, oid
            return
        # At most 256 of them count.
        found = []
        for entry in self._listed(folder):
            byte = byte_of_bushy_folder(entry.name)
            if byte is not None and entry.is_dir(follow_symlinks=False):
                found.append((byte, entry.name))
            else:
                self._skip(entry)
        for byte, name in sorted(found):
            yield from self._bushy(f"{folder}/{name}", oid + byte)

    def _lawn(self) -> Generator[tuple[str, bytes], None, None]:
        """The folders of oids in a lawn, which may be many: sorted in bounded memory first."""
        with SortedRecords(OID_SIZE, self._scratch) as oids:
            for _, oid in self._unsorted_lawn():
                oids.add(oid)
            for oid in oids:
                name = lawn_path(oid + bytes(OID_SIZE)).partition("/")[0]
                yield f"{self._root}/{name}", oid

    def _unsorted_lawn(self) -> Generator[tuple[str, bytes], None, None]:
        for entry in self._listed(self._root):
            oid = oid_of_lawn_folder(entry.name)
            if oid is not None and entry.is_dir(follow_symlinks=False):
                yield entry.path, oid
            else:
                self._skip(entry)

    def _sorted_blobs(self, folder: str, oid: bytes) -> Iterator[tuple[bytes, int]]:
        """The blobs of one oid. Sorted in bounded memory: nobody knows how often it was changed."""
        with SortedRecords(2 * OID_SIZE, self._scratch, in_memory=_REVISIONS_IN_MEMORY) as revisions:
            for tid, size in self._revisions(folder):
                revisions.add(tid + size.to_bytes(8, "big"))
            for record in revisions:
                yield oid + record[:OID_SIZE], int.from_bytes(record[OID_SIZE:], "big")

    def _revisions(self, folder: str) -> Iterator[tuple[bytes, int]]:
        """The tid and size in bytes of each blob in the folder of an oid, as the system lists them."""
        for entry in self._listed(folder):
            tid = tid_of_file(entry.name)
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ZodbvaultError(f"the blob cannot be read: {reason_of(error)}", path=entry.path) from error
            if tid is not None and stat.S_ISREG(status.st_mode):
                yield tid, status.st_size
            else:
                self._skip(entry)

    def _listed(self, folder: str) -> Iterator[os.DirEntry[str]]:
        """What is in `folder`; nothing when it is gone, as a pack removes folders. The top folder must be there."""
        try:
            with os.scandir(folder) as entries:
                yield from entries
        except _GONE as error:
            if folder == self._root:
                raise ZodbvaultError("the blob storage is gone", path=folder) from error
        except OSError as error:
            raise ZodbvaultError(f"blobs cannot be listed: {reason_of(error)}", path=folder) from error

    def _skip(self, entry: os.DirEntry[str]) -> None:
        """Count what is not a blob, unless it is what ZODB itself puts at the top."""
        if entry.name in (TEMPORARY_FOLDER, LAYOUT_MARKER) and entry.path == f"{self._root}/{entry.name}":
            return
        if self._take_strange is not None and self._take_strange(entry):
            return
        self.strange += 1
        self.strange_example = self.strange_example or entry.path


def open_blob(path: str) -> int | None:
    """A file descriptor for reading the blob at `path`; None when no regular file stands there, a symlink included.

    Raises ZodbvaultError when it cannot be opened for another reason.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except _GONE:
        return None
    except OSError as error:
        if os.path.islink(path):
            return None
        raise ZodbvaultError(f"the blob cannot be opened: {reason_of(error)}", path=path) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    return fd
