"""The blobstorage of the site, as a backup reads it.

Reads only, and believes nothing but exact names: what is not a blob of its layout is counted and left alone. Knows
nothing of manifests, pools or Data.fs. The layout on disk is ZODB.blob's; `.old` beside the configured folder is where
a pack that keeps old data moves the blobs that it removes (ZODB.FileStorage.FileStorage).
"""

from __future__ import annotations

import logging
import os
import re
import stat
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.ahead import pieces_of, worked_ahead
from zodbvault.blobs.folder import BlobFolder
from zodbvault.blobs.layouts import (
    BUSHY,
    KEY_SIZE,
    LAYOUT_MARKER,
    OID_SIZE,
    TEMPORARY_FOLDER,
    bushy_path,
    byte_of_bushy_folder,
    lawn_path,
    oid_of_lawn_folder,
    path_for,
    tid_of_file,
)
from zodbvault.blobs.spill import SortedRecords
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.closing import close_fd

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from zodbvault.blobs.layouts import Layout

logger = logging.getLogger(__name__)

# Folders of oids that a thread lists before it hands over what it found, and the files of which it holds at most.
_FOLDERS_AT_ONCE = 64
_MOST_AT_ONCE = 4096
# A blob of a transaction that is not finished yet, among those of its oid (ZODB.blob, `blob_mkstemp`; with the dash
# ZEO.ClientStorage, `storeBlob`). One that a killed client left does no harm either.
_BEING_WRITTEN = re.compile(r"0x(?:[0-9a-f]{2}){1,8}[a-z0-9_]{8}\.tmp-?\Z")
_VANISHED = (b"", 0)
_GONE = (FileNotFoundError, NotADirectoryError)


class SourceBlobs(BlobFolder):
    """The blobstorage with its blobs.

    `strange` counts what a walk skipped: files and folders that are not ZODB's, symlinks, whatever is no regular file.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.strange = 0

    def walk(self, scratch: Path) -> Generator[tuple[bytes, int], None, None]:
        """Key and size in bytes of each blob, in the order of the keys; constant memory.

        scratch: a folder for the temporary file that a large lawn folder needs. Files that vanish meanwhile are left
        out. Warns once, at the end, when something strange was skipped. Raises ZodbvaultError where a folder cannot
        be read.
        """
        self.strange = 0
        walker = BlobWalk(str(self.root), self.layout, scratch)
        with closing(walker.blobs()) as blobs:
            yield from blobs
        self.strange = walker.strange
        if self.strange:
            logger.warning(
                "%s: skipped %d files or folders that are not blobs of this storage, such as %s",
                self.folder,
                self.strange,
                walker.strange_example,
            )

    def path_of(self, key: bytes) -> str:
        """Where the blob `key` stands, if it is at its place."""
        return f"{self.root}/{path_for(self.layout, key)}"

    def size_of(self, key: bytes) -> int | None:
        """Bytes of the blob `key` where it is at its place; None where it is not."""
        try:
            return os.lstat(self.path_of(key)).st_size
        except OSError:
            return None

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

    def folder_status(self, folder: str) -> os.stat_result:
        """The status of a folder below the root (an empty path: the root); of the root where a pack took it away.

        Raises OSError.
        """
        try:
            return os.stat(f"{self.root}/{folder}")
        except FileNotFoundError:
            return os.stat(self.root)

    def open_marker(self) -> int | None:
        """A file descriptor for reading the layout marker, or None where there is none. Raises ZodbvaultError."""
        return open_blob(f"{self.root}/{LAYOUT_MARKER}")


class _Listing(NamedTuple):
    """Blobs and strange files of some folders of oids; others are those (folder, oid) that hold too many at once."""

    blobs: list[tuple[bytes, int]]
    strange: list[os.DirEntry[str]]
    others: list[tuple[str, bytes]]


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
        """Key and size in bytes of each blob. Folders are listed on several threads, a few ahead of the reader."""
        folders = self._bushy() if self._layout == BUSHY else self._lawn()
        with closing(folders), closing(worked_ahead(self._listing, pieces_of(folders, _FOLDERS_AT_ONCE))) as listings:
            for listing in listings:
                yield from listing.blobs
                for entry in listing.strange:
                    self._skip(entry)
                for folder, oid in listing.others:
                    yield from self._sorted_on_disk(folder, oid)

    def is_empty(self) -> bool:
        """Whether there is no blob at all. Reads no further than to the first, and writes nothing."""
        with closing(self._bushy() if self._layout == BUSHY else self._unsorted_lawn()) as folders:
            entries = ((entry, oid) for folder, oid in folders for entry in self._listed(folder))
            return all(_blob_of(entry, oid) in (None, _VANISHED) for entry, oid in entries)

    def _bushy(self) -> Generator[tuple[str, bytes], None, None]:
        """The folders of oids in a bushy blobstorage, each found by its way down from the root."""
        # At most 256 in each of eight folders above one another.
        to_do = [(self._root, b"")]
        while to_do:
            folder, oid = to_do.pop()
            if len(oid) == OID_SIZE:
                yield folder, oid
                continue
            found = []
            for entry in self._listed(folder):
                byte = byte_of_bushy_folder(entry.name)
                if byte is not None and entry.is_dir(follow_symlinks=False):
                    found.append((f"{folder}/{entry.name}", oid + byte))
                else:
                    self._skip(entry)
            to_do += sorted(found, reverse=True)

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

    def _listing(self, folders: list[tuple[str, bytes]]) -> _Listing:
        """What is in the folders of some oids, in their order. Touches nothing that other threads have."""
        blobs: list[tuple[bytes, int]] = []
        strange: list[os.DirEntry[str]] = []
        for number, (folder, oid) in enumerate(folders):
            found: list[tuple[bytes, int]] = []
            skipped: list[os.DirEntry[str]] = []
            for entry in self._listed(folder):
                blob = _blob_of(entry, oid)
                if blob is None:
                    skipped.append(entry)
                elif blob is not _VANISHED:
                    found.append(blob)
                if len(blobs) + len(strange) + len(found) + len(skipped) > _MOST_AT_ONCE:
                    return _Listing(blobs, strange, folders[number:])
            found.sort()
            blobs += found
            strange += skipped
        return _Listing(blobs, strange, [])

    def _sorted_on_disk(self, folder: str, oid: bytes) -> Iterator[tuple[bytes, int]]:
        """The blobs of one oid, sorted in bounded memory: nobody knows how often it was changed."""
        with SortedRecords(KEY_SIZE + 8, self._scratch, in_memory=_MOST_AT_ONCE) as records:
            for entry in self._listed(folder):
                blob = _blob_of(entry, oid)
                if blob is None:
                    self._skip(entry)
                elif blob is not _VANISHED:
                    records.add(blob[0] + blob[1].to_bytes(8, "big"))
            for record in records:
                yield record[:KEY_SIZE], int.from_bytes(record[KEY_SIZE:], "big")

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
        """Count what is not a blob, unless it is what ZODB itself puts there."""
        if entry.name in (TEMPORARY_FOLDER, LAYOUT_MARKER) and entry.path == f"{self._root}/{entry.name}":
            return
        if _BEING_WRITTEN.match(entry.name):
            return
        if self._take_strange is not None and self._take_strange(entry):
            return
        self.strange += 1
        self.strange_example = self.strange_example or entry.path


def _blob_of(entry: os.DirEntry[str], oid: bytes) -> tuple[bytes, int] | None:
    """Key and size in bytes of the blob that a file in the folder of an oid is; None for what is none.

    _VANISHED for what is gone meanwhile. Raises ZodbvaultError when it cannot be looked at.
    """
    tid = tid_of_file(entry.name)
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return _VANISHED
    except OSError as error:
        raise ZodbvaultError(f"the blob cannot be read: {reason_of(error)}", path=entry.path) from error
    return (oid + tid, status.st_size) if tid is not None and stat.S_ISREG(status.st_mode) else None


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
        close_fd(fd)
        return None
    return fd
