"""Writing a directory of blobs: `blobstorage.2026-11-23-18-05-00/blobstorage/`, a copy of the site's blobstorage.

It has the site's layout, names, modes, owners and times, so that `rsync -a` finds nothing to do between the two; what
an earlier backup has already is hard-linked. Until it is whole it stands under a name that ends with `.part`. Knows
neither dates nor what is backed up when.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

from zodbvault.blobs.copying import SharedBatch, copy_blob, give_second_name, hash_blob, is_unchanged
from zodbvault.blobs.known import with_known
from zodbvault.blobs.layouts import LAYOUT_MARKER, path_for
from zodbvault.blobs.manifest import Entry
from zodbvault.blobs.stored import REPLACED_SUFFIX
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.closing import Closing, QuietFile, close_fd
from zodbvault.io.durable import (
    PART_SUFFIX,
    FolderSyncs,
    Ownership,
    SyncBatch,
    named,
    ownership_of,
    remove_as_far_as_possible,
    remove_tree,
    rename_durably,
    set_mode,
    set_times,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable
    from pathlib import Path

    from zodbvault.blobs.source import SourceBlobs

logger = logging.getLogger("zodbvault")


class Linkable(Protocol):
    """What blobs can be hard-linked from: a directory or the pool."""

    def path_of(self, key: bytes) -> str:
        """Where the blob `key` stands, if it is there."""
        ...

    def open(self, key: bytes) -> int | None:
        """A file descriptor for reading the blob `key`, or None. Raises ZodbvaultError."""
        ...


class DirectoryWriter(Closing):
    """One new directory in a location.

    Filled by write(), made durable by finish(), named by publish(). A context manager: what was not published by the
    end of it goes.

    path: where it will stand; part: `<path>.part`, where it stands while it is made. base: name of the blobstorage.
    may_link: whether blobs are hard-linked at all. copied, copied_bytes: blobs that were copied, not linked.
    """

    def __init__(self, path: Path, base: str, source: SourceBlobs, *, may_link: bool = True) -> None:
        self.path = path
        self.part = path.with_name(path.name + PART_SUFFIX)
        self.copied = self.copied_bytes = 0
        self._source = source
        self._root = str(self.part / base)
        self._batch = SyncBatch()
        self._shared_batch = SharedBatch(self._batch)
        self._folders = FolderSyncs(self._batch)
        # Names of the folders from the root down to the one that is being filled.
        self._open: list[str] = []
        self._may_link = may_link
        self._can_link = True
        self._is_published = False

    def begin(self) -> None:
        """Make the folders that are there in any case, and the layout marker. Raises ZodbvaultError."""
        try:
            os.mkdir(self.part)
            self._folders.enter(str(self.part))
            ownership = ownership_of(self.part.parent, executable=True)
            _with_open(str(self.part), ownership.apply)
            self._make("")
            marker = self._source.open_marker()
            if marker is not None:
                with QuietFile(marker):
                    copy_blob(marker, f"{self._root}/{LAYOUT_MARKER}", None, self._shared_batch, with_time=True)
        except OSError as error:
            raise self._not_written(error) from error

    def write(
        self,
        blobs: Iterable[tuple[bytes, int]],
        known: Callable[[], Generator[Entry, None, None]] | None,
        held: Linkable | None,
        *,
        link_live: bool,
    ) -> Generator[tuple[bytes, Entry | None], None, None]:
        """Fill the directory; yields each key with its entry for the manifest.

        The entry is None for a blob that has gone, or that changed while it was copied. blobs: key and size in bytes of
        each, in the order of the keys. held: what has the `known` blobs, with just the content that their entries tell
        of: these are linked, or else copied from the site, and from there where the site has lost them. link_live: a
        blob that is not known is linked to the site's own file. Raises ZodbvaultError.
        """
        with closing(with_known(blobs, known)) as wanted:
            for key, _, entry in wanted:
                yield key, self._written(key, entry, held, link_live=link_live)

    def finish(self, moment: float) -> None:
        """Make everything durable. moment: seconds since 1970, the time that the directory gets as its own."""
        try:
            self._leave(0)
            self._finish_folder("")
            with named(self.part):
                set_times(self.part, int(moment * 1_000_000_000))
            self._folders.finish()
            self._batch.finish()
        except OSError as error:
            raise self._not_written(error) from error

    def publish(self) -> None:
        """Give the directory its name, durably. One that has that name already, and is not whole, goes.

        Where a kill leaves neither under the name, the sweep brings the old one back. Raises ZodbvaultError.
        """
        try:
            old = self.path.with_name(self.path.name + REPLACED_SUFFIX + PART_SUFFIX)
            is_there = os.path.lexists(self.path)
            if is_there:
                rename_durably(self.path, old)
            rename_durably(self.part, self.path)
            self._is_published = True
            if is_there:
                remove_tree(old)
        except OSError as error:
            raise self._not_written(error) from error

    def close(self) -> None:
        """Let go of what was not finished, and remove what was not published."""
        self._batch.__exit__(None, None, None)
        if not self._is_published:
            remove_as_far_as_possible(self.part)

    def _written(self, key: bytes, known: Entry | None, held: Linkable | None, *, link_live: bool) -> Entry | None:
        """One blob: its entry, None when it has gone."""
        try:
            self._enter(os.path.dirname(path_for(self._source.layout, key)))
            done = None if known is None or held is None else self._linked(known, held)
            return done or self._from_source(key, link_live=link_live)
        except OSError as error:
            raise self._not_written(error) from error

    def _linked(self, entry: Entry, held: Linkable) -> Entry | None:
        """The entry of a blob that was linked, or else copied, from an earlier backup; None when that lacks it."""
        fd = held.open(entry.key)
        if fd is None:
            return None
        with QuietFile(fd):
            if os.fstat(fd).st_size != entry.size:
                return None
            if self._is_linked(held.path_of(entry.key), entry.key, fd):
                return entry
            if self._source_has(entry.key):
                return None
            # The site has lost it, and the earlier backup is all that is left.
            return self._copied(entry.key, fd, entry)

    def _from_source(self, key: bytes, *, link_live: bool) -> Entry | None:
        fd = self._source.open(key)
        if fd is None:
            return None
        with QuietFile(fd):
            if link_live and self._is_linked(self._source.path_of(key), key, fd):
                before = os.fstat(fd)
                entry = Entry(key, *hash_blob(fd))
                if is_unchanged(fd, before):
                    return entry
                os.unlink(self._path(key))
                return None
            return self._copied(key, fd)

    def _source_has(self, key: bytes) -> bool:
        fd = self._source.open(key)
        if fd is not None:
            close_fd(fd)
        return fd is not None

    def _is_linked(self, path: str, key: bytes, fd: int) -> bool:
        """Whether the file at `path`, which `fd` is, could be given a second name here; it is durable then."""
        if not (self._can_link and self._may_link):
            return False
        status = os.fstat(fd)
        if not give_second_name(path, self._path(key), status):
            if os.lstat(os.path.dirname(self._path(key))).st_dev != status.st_dev:
                logger.info("%s is in another file system: blobs are copied, not linked.", path)
                self._can_link = False
            return False
        self._take_time_of_source(key, status)
        with named(path):
            self._shared_batch.add_file(fd)
        return True

    def _take_time_of_source(self, key: bytes, linked: os.stat_result) -> None:
        """Give a linked blob the time that it has on the site: in the pool it has that of its copy."""
        try:
            live = os.lstat(self._source.path_of(key))
        except OSError:
            return
        if live.st_mtime_ns != linked.st_mtime_ns:
            with named(self._path(key)):
                set_times(self._path(key), live.st_mtime_ns)

    def _copied(self, key: bytes, fd: int, expected: Entry | None = None) -> Entry | None:
        """Copy an open file; None, and no copy, where it changes meanwhile or is not what is expected."""
        before = os.fstat(fd)
        entry = Entry(key, *copy_blob(fd, self._path(key), None, self._shared_batch, with_time=True))
        if expected not in (None, entry) or not is_unchanged(fd, before):
            os.unlink(self._path(key))
            return None
        self.copied += 1
        self.copied_bytes += entry.size
        return entry

    def _path(self, key: bytes) -> str:
        return f"{self._root}/{path_for(self._source.layout, key)}"

    def _enter(self, folder: str) -> None:
        """Make the folder at a path below the root, and its parents; those that the names have left are done."""
        names = folder.split("/")
        common = 0
        while common < min(len(names), len(self._open)) and names[common] == self._open[common]:
            common += 1
        self._leave(common)
        for number in range(common, len(names)):
            self._make("/".join(names[: number + 1]))
            self._open.append(names[number])

    def _make(self, folder: str) -> None:
        """Make one folder, which may be written into until it is left."""
        path = f"{self._root}/{folder}".rstrip("/")
        os.mkdir(path, 0o700)
        self._folders.enter(path)

    def _leave(self, depth: int) -> None:
        """Nothing comes any more into the folders below `depth`: they become what they are on the site."""
        while len(self._open) > depth:
            self._finish_folder("/".join(self._open))
            self._open.pop()

    def _finish_folder(self, folder: str) -> None:
        """Give a folder the owner, all bits of the mode and the modification time that it has on the site."""
        path = f"{self._root}/{folder}".rstrip("/")
        live = self._source.folder_status(folder)
        _with_open(path, Ownership(live.st_mode & 0o777, live.st_uid, live.st_gid).apply)
        with named(path):
            set_mode(path, stat.S_IMODE(live.st_mode))
            set_times(path, live.st_mtime_ns)

    def _not_written(self, error: OSError) -> ZodbvaultError:
        path = error.filename if isinstance(error.filename, (str, bytes)) else self.part
        return ZodbvaultError(f"the directory of blobs cannot be written: {reason_of(error)}", path=path)


def _with_open(folder: str, act: Callable[[int], None]) -> None:
    """Do something with a folder that is open meanwhile."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        with named(folder):
            act(fd)
    finally:
        close_fd(fd)
