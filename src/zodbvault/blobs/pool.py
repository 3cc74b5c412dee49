"""The pool: every blob of all backups once, as a plain bushy blobstorage, with manifests that say what belongs to what.

The pool only gains files until a prune. A file in it counts when a manifest (or this run's own list) names it; its
sha256 comes from the source while it is copied, or from a manifest, never from the pool's own file, where a flipped bit
would become the truth. What a backup copies into it is decided in intake.py. Knows manifests; nothing of Data.fs,
chains and records.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from zodbvault.blobs.containers import DamagedBlob, read_one_by_one, sizes_one_by_one
from zodbvault.blobs.copying import (
    LAYOUT_PART,
    SharedBatch,
    copy_blob,
    give_second_name,
    hash_if_equal,
    remove_temporaries,
    temporary_name,
)
from zodbvault.blobs.layouts import (
    BUSHY,
    KEY_SIZE,
    LAYOUT_MARKER,
    POOL_FOLDER,
    TEMPORARY_FOLDER,
    bushy_path,
    read_marker,
)
from zodbvault.blobs.manifest import PACKED_SIZE, DamagedManifest, Entry, pack_entry, read_manifest
from zodbvault.blobs.real_folders import RealFolders
from zodbvault.blobs.source import BlobWalk, open_blob
from zodbvault.blobs.spill import SortedKeys, SortedRecords
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.closing import Closing, close_fd
from zodbvault.io.durable import FolderSyncs, Ownership, PartFile, SyncBatch, ownership_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from zodbvault.blobs.containers import Blocks, Result
    from zodbvault.blobs.directories import DirectoryContainer

logger = logging.getLogger(__name__)


class BlobConflict(ZodbvaultError):
    """Under the name of a blob in the backups the site has another content."""


class Pool(Closing):
    """The pool below a blob backup location, which must exist.

    One process writes, under the repository's lock. Temporary files stand in `scratch` only. What was copied in is
    durable after finish(), and not before. A context manager: close() lets go of what finish() would have synced.

    ownership: of the backup's other files: a copy belongs to the same owner, and nobody may read it who may not read
    them; None for reading only.
    """

    def __init__(self, location: Path, ownership: Ownership | None = None) -> None:
        self._ownership = ownership
        self.location = location
        self.folder = location / POOL_FOLDER
        self.scratch = self.folder / TEMPORARY_FOLDER
        self._root = str(self.folder)
        self._way = RealFolders(self._root)
        self._batch = SyncBatch()
        self._shared_batch = SharedBatch(self._batch)
        self._folders = FolderSyncs(self._batch)
        self._folder_ownership: Ownership | None = None
        self._own = SortedRecords(PACKED_SIZE, self.scratch)
        self._replaced = SortedKeys(self.scratch)

    def prepare(self) -> None:
        """Make the pool's folders and its layout marker where they are missing, durably.

        Raises ZodbvaultError when it is not a pool (another layout) or cannot be written.
        """
        self._require_real_way_to(str(self.scratch / "any"))
        try:
            self._folders.make_folders(self._root, ownership_of(self.location, executable=True))
            self._folders.make_folders(str(self.scratch), ownership_of(self.folder, executable=True))
            word = read_marker(self.folder, nofollow=True)
            if word is None:
                marker = self.folder / LAYOUT_MARKER
                with PartFile(marker, ownership_of(self.folder), part=self.scratch / LAYOUT_PART) as part:
                    part.file.write(BUSHY.encode())
                    part.publish()
            elif word != BUSHY:
                raise ZodbvaultError(
                    f"is no pool of blobs: it has the layout {word!r}",
                    path=self.folder,
                    hint=f"If only its file {LAYOUT_MARKER} is damaged, remove that: the next backup writes it anew.",
                )
            self.finish()
        except OSError as error:
            raise ZodbvaultError(
                f"the pool of blobs cannot be written: {reason_of(error)}", path=self.folder
            ) from error

    def sweep(self) -> int:
        """Remove the temporary files that a crash left; how many."""
        try:
            return remove_temporaries(str(self.scratch))
        except OSError as error:
            raise ZodbvaultError(
                f"left-over temporary files cannot be removed: {reason_of(error)}", path=self.scratch
            ) from error

    def path_of(self, key: bytes) -> str:
        """Where the blob `key` stands, if it is there."""
        return f"{self._root}/{bushy_path(key)}"

    def size_of(self, key: bytes) -> int | None:
        """The size in bytes of the blob `key`; None when the pool has no regular file of that name."""
        path = self.path_of(key)
        try:
            status = self._way.status_of_file(path)
        except OSError as error:
            raise ZodbvaultError(f"the pool's blob cannot be read: {reason_of(error)}", path=path) from error
        return None if status is None else status.st_size

    def open(self, key: bytes) -> int | None:
        """A file descriptor for reading the blob `key`, or None when the pool lacks it. Raises ZodbvaultError."""
        path = self.path_of(key)
        return open_blob(path) if self._way.lead_to(path) else None

    def sizes(self, entries: Iterable[Entry]) -> Generator[tuple[Entry, int | None], None, None]:
        """Each entry with the size of its blob here, as `Container.sizes`."""
        return sizes_one_by_one(entries, self.size_of)

    def read(
        self, entries: Iterable[Entry], take: Callable[[Entry, Blocks], Result]
    ) -> Generator[tuple[Entry, Result], None, None]:
        """Each entry with what `take` makes of its blob's content, as `Container.read`; in the order of the entries."""
        return read_one_by_one(entries, self._opened, take)

    def _opened(self, key: bytes) -> int:
        fd = self.open(key)
        if fd is None:
            raise DamagedBlob("is missing from the pool of blobs", path=self.path_of(key))
        return fd

    def walk(self) -> BlobWalk:
        """A walk over all blobs of the pool, named by a manifest or not."""
        return BlobWalk(self._root, BUSHY, self.scratch)

    def copy_in(self, key: bytes, fd: int, expected: Sequence[Entry] = ()) -> Entry:
        """Copy the open file `fd` to the place of the blob `key`, where it replaces what no manifest names.

        expected: what manifests say of that blob; a copy that is none of these is dropped and BlobConflict raised.
        Raises ZodbvaultError when the copy fails.
        """
        entry = self.copy_aside(key, fd)
        self.place(entry, expected)
        return entry

    def copy_aside(self, key: bytes, fd: int) -> Entry:
        """Copy the open file `fd` to the temporary name of the blob `key`. Several threads may do so at a time."""
        try:
            return Entry(key, *copy_blob(fd, self._temporary(key), self._ownership_for(fd), self._shared_batch))
        except OSError as error:
            raise self._not_copied(key, error) from error

    def _ownership_for(self, fd: int) -> Ownership:
        """Whose the copy of an open file of the site is: as readable as both that file and the backup's others are."""
        live = ownership_of(fd)
        limit = self._ownership
        if limit is None:
            return live
        return Ownership(
            live.mode & (limit.mode | stat.S_IRWXU),
            live.uid if limit.uid is None else limit.uid,
            live.gid if limit.gid is None else limit.gid,
        )

    def link_aside(self, key: bytes, fd: int, directory: DirectoryContainer) -> Entry | None:
        """Give a blob of a directory that is equal to the open file `fd` the temporary name, instead of a copy.

        None where the directory has another one, or no link can be made to it. A directory may share its files with
        the live site (a first copy that was hard-linked): such a one is not taken. Raises ZodbvaultError.
        """
        other = directory.open(key)
        if other is None:
            return None
        temporary = self._temporary(key)
        try:
            linked, live = os.fstat(other), os.fstat(fd)
            if linked.st_size != live.st_size or (linked.st_dev, linked.st_ino) == (live.st_dev, live.st_ino):
                return None
            sha256 = hash_if_equal(fd, other)
            if sha256 is None or not give_second_name(directory.path_of(key), temporary, linked):
                return None
            self._shared_batch.add_file(other)
        except OSError as error:
            raise self._not_copied(key, error) from error
        finally:
            close_fd(other)
        return Entry(key, linked.st_size, sha256)

    def place(self, entry: Entry, expected: Sequence[Entry] = ()) -> None:
        """Give what copy_aside() copied its name, as for copy_in(). By one thread, in the order of the keys."""
        path = self.path_of(entry.key)
        temporary = self._temporary(entry.key)
        try:
            if expected and entry not in expected:
                os.unlink(temporary)
                raise conflict(self, entry, expected)
            if self._folder_ownership is None:
                self._folder_ownership = ownership_of(self.folder, executable=True)
            folder = os.path.dirname(path)
            self._require_real_way_to(path)
            self._folders.make_folders(folder, self._folder_ownership)
            if expected or os.path.lexists(path):
                self._replaced.add(entry.key)
            os.replace(temporary, path)
            self._folders.enter(folder)
        except OSError as error:
            raise self._not_copied(entry.key, error) from error
        self._own.add(pack_entry(entry))

    def own_entries(self) -> Iterator[bytes]:
        """What this run has copied, as packed entries in the order of their keys: no manifest names it yet."""
        return iter(self._own)

    def remove_own(self) -> int:
        """Remove what this run has copied, as long as it has published no manifest that names it; how many blobs.

        A blob that a manifest was seen to name stays, and one in whose place there was another file. Raises OSError.
        """
        removed = 0
        for key, _ in without(((packed[:KEY_SIZE], 0) for packed in self._own), iter(self._replaced)):
            with suppress(FileNotFoundError):
                self.remove(key)
                removed += 1
        return removed

    def remove(self, key: bytes) -> None:
        """Remove the blob `key`, and the folders that are empty without it. Raises OSError."""
        path = self.path_of(key)
        os.unlink(path)
        remove_empty_folders(path, self._root)

    def _require_real_way_to(self, path: str) -> None:
        """Raise ZodbvaultError where a symlink, or what is no folder, would lead a new file out of the pool."""
        strange = self._way.strange_on_the_way_to(path)
        if strange is not None:
            raise ZodbvaultError(
                "stands where a folder of the pool should be, and is none",
                path=strange,
                hint="Nothing was written there. Move it away; a full backup makes the folder anew",
            )

    def _temporary(self, key: bytes) -> str:
        return f"{self.scratch}/{temporary_name(key)}"

    def _not_copied(self, key: bytes, error: OSError) -> ZodbvaultError:
        return ZodbvaultError(f"the blob cannot be copied into the pool: {reason_of(error)}", path=self.path_of(key))

    def finish(self) -> None:
        """Make everything that was copied in durable, with its folders. Raises ZodbvaultError when that fails."""
        try:
            self._folders.finish()
            self._batch.finish()
        except OSError as error:
            raise ZodbvaultError(
                f"the pool of blobs cannot be brought to the disk: {reason_of(error)}", path=self.folder
            ) from error

    def close(self) -> None:
        """Forget this run's own list, and what was not finished."""
        self._batch.__exit__(None, None, None)
        self._own.close()
        self._replaced.close()


def prune_pool(remaining_manifests: Iterable[Path], pool: Pool) -> int:
    """Remove from the pool the blobs that no remaining manifest names, and the folders left empty; how many blobs.

    When a manifest cannot be read, nothing is removed, with a warning. Raises ZodbvaultError when removing fails.
    """
    if not pool.folder.is_dir():
        return 0
    removed = 0
    with SortedKeys(pool.scratch) as named:
        try:
            for path in remaining_manifests:
                with closing(read_manifest(path)) as entries:
                    for entry in entries:
                        if not entry.removed:
                            named.add(entry.key)
        except DamagedManifest as error:
            logger.warning(
                "%s No blob is removed from %s, since this manifest may need it.", error.sentence, pool.folder
            )
            return 0
        walk = pool.walk()
        with closing(walk.blobs()) as blobs:
            for key, _ in without(blobs, iter(named)):
                try:
                    pool.remove(key)
                except OSError as error:
                    raise ZodbvaultError(
                        f"the blob cannot be removed: {reason_of(error)}", path=pool.path_of(key)
                    ) from error
                removed += 1
    if walk.strange:
        logger.warning(
            "%s: left %d files or folders alone that are not blobs of ours, such as %s",
            pool.folder,
            walk.strange,
            walk.strange_example,
        )
    return removed


def conflict(pool: Pool, found: Entry, expected: Sequence[Entry]) -> BlobConflict:
    """The error that says what the site has under a name, and what the backups have."""
    return BlobConflict(
        f"the site has this blob with {found.size} bytes and sha256 {found.sha256[:16]}..., "
        f"the backups have it with {expected[0].size} bytes and sha256 {expected[0].sha256[:16]}...",
        path=pool.path_of(found.key),
        hint="Nothing was overwritten. If the site's file is damaged, put the backup's in its place; if the database "
        "was restored and the clock set back, back up into a new blobbackuplocation and location",
    )


def remove_empty_folders(path: str, root: str) -> None:
    """Remove the folders above `path` that are empty, up to `root`, which stays."""
    folder = os.path.dirname(path)
    while len(folder) > len(root):
        try:
            os.rmdir(folder)
        except OSError:
            return
        folder = os.path.dirname(folder)


def without(blobs: Iterator[tuple[bytes, int]], keys: Iterator[bytes]) -> Iterator[tuple[bytes, int]]:
    """The blobs whose keys are not among `keys`."""
    kept = next(keys, None)
    for blob in blobs:
        while kept is not None and kept < blob[0]:
            kept = next(keys, None)
        if kept != blob[0]:
            yield blob
