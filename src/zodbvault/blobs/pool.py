"""The pool: every blob of all backups once, as a plain bushy blobstorage, with manifests that say what belongs to what.

The pool only gains files until a prune. A file in it counts when a manifest (or this run's own list) names it; its
sha256 comes from the source while it is copied, or from a manifest, never from the pool's own file, where a flipped bit
would become the truth. Knows the source blobstorage and manifests; nothing of Data.fs, chains and records, which the
caller brings together with what is done here.
"""

from __future__ import annotations

import logging
import os
import stat
from contextlib import closing, suppress
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.ahead import pieces_of, worked_ahead
from zodbvault.blobs.containers import DamagedBlob, read_one_by_one, sizes_one_by_one
from zodbvault.blobs.copying import (
    LAYOUT_PART,
    SharedBatch,
    copy_blob,
    give_second_name,
    hash_blob,
    hash_if_equal,
    remove_temporaries,
    temporary_name,
)
from zodbvault.blobs.known import KnownBlobs, readable
from zodbvault.blobs.layouts import (
    BUSHY,
    LAYOUT_MARKER,
    POOL_FOLDER,
    TEMPORARY_FOLDER,
    bushy_path,
    read_marker,
)
from zodbvault.blobs.manifest import PACKED_SIZE, DamagedManifest, Entry, ManifestWriter, pack_entry, read_manifest
from zodbvault.blobs.outcome import BlobOutcome
from zodbvault.blobs.real_folders import RealFolders
from zodbvault.blobs.source import BlobWalk, open_blob
from zodbvault.blobs.spill import SortedKeys, SortedRecords
from zodbvault.blobs.wanted import SETTLED_AFTER, compared, wanted_blobs
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.closing import close_fd
from zodbvault.io.durable import FolderSyncs, Ownership, PartFile, SyncBatch, ownership_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from zodbvault.blobs.containers import Blocks, Result
    from zodbvault.blobs.directories import DirectoryContainer
    from zodbvault.blobs.source import SourceBlobs

logger = logging.getLogger(__name__)


class BlobConflict(ZodbvaultError):
    """Under the name of a blob in the backups the site has another content."""


class Pool:
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
        if not self._way.lead_to(path):
            return None
        try:
            status = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ZodbvaultError(f"the pool's blob cannot be read: {reason_of(error)}", path=path) from error
        return status.st_size if stat.S_ISREG(status.st_mode) else None

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
            os.replace(temporary, path)
            self._folders.enter(folder)
        except OSError as error:
            raise self._not_copied(entry.key, error) from error
        self._own.add(pack_entry(entry))

    def own_entries(self) -> Iterator[bytes]:
        """What this run has copied, as packed entries in the order of their keys: no manifest names it yet."""
        return iter(self._own)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def backup_complete(
    source: SourceBlobs,
    pool: Pool,
    part: PartFile,
    previous: Iterable[Entry] | None,
    other_manifests: Sequence[Path],
    met: SortedKeys,
    last_tid: bytes | None,
    on_progress: Callable[[int], None] | None = None,
    *,
    directory: DirectoryContainer | None = None,
    only_met: bool = False,
) -> BlobOutcome:
    """Bring every blob of the site into the pool and fill `part` with a complete manifest, finished, not published.

    previous: the newest state that is known, or None. other_manifests: all that are in the location. met: blobs that
    the data were seen to refer to. last_tid: of the backup; later blobs may belong to nothing (None: an empty
    database, to which no blob belongs). on_progress: is told the bytes copied so far. directory: a directory of an
    earlier time; blobs that are equal there are linked instead of copied. only_met: only the blobs that the data refer
    to are the site's.

    A blob that the data refer to stays in the manifest when the pool holds it, even where the site has lost it. What
    the pool lacks, or has in another size, is copied again. Raises BlobConflict, ZodbvaultError.
    """
    missing: list[bytes] = []
    needed = 0
    with (
        KnownBlobs(pool.own_entries(), previous, lambda: other_manifests, pool.scratch) as known,
        ManifestWriter(part, source.layout, complete=True) as writer,
        closing(wanted_blobs(source, pool.scratch, met, last_tid, only_met=only_met)) as wanted,
    ):
        intake = _Intake(source, pool, known, on_progress, directory)
        with closing(intake.taken(wanted)) as taken:
            for key, entry, is_met in taken:
                needed += is_met
                if entry is not None:
                    writer.add(entry)
                elif is_met:
                    missing.append(key)
        pool.finish()
        summary = writer.finish()
    return BlobOutcome(summary, intake.copied, intake.copied_bytes, tuple(missing), needed)


def backup_change(
    source: SourceBlobs,
    pool: Pool,
    part: PartFile,
    met: SortedKeys,
    other_manifests: Callable[[], Sequence[Path]],
    on_progress: Callable[[int], None] | None = None,
    *,
    previous_total: int | None = None,
) -> BlobOutcome:
    """Bring the blobs that an incremental backup met into the pool, and fill `part` with a delta of exactly these.

    No blob folder is listed. other_manifests: is asked only when the pool has a file under the name of one of them.
    previous_total: blobs of the state before, where known. The rest is as for backup_complete().
    """
    missing: list[bytes] = []
    needed = 0
    with (
        KnownBlobs(pool.own_entries(), None, other_manifests, pool.scratch) as known,
        ManifestWriter(part, source.layout, complete=False) as writer,
    ):
        intake = _Intake(source, pool, known, on_progress)
        with closing(intake.taken(((key, _UNKNOWN, True) for key in met), only_if_held=True)) as taken:
            for key, entry, _ in taken:
                needed += 1
                if entry is None:
                    missing.append(key)
                else:
                    writer.add(entry)
        pool.finish()
        total = None if previous_total is None else previous_total + needed - len(missing)
        summary = writer.finish(total_blobs=total)
    return BlobOutcome(summary, intake.copied, intake.copied_bytes, tuple(missing), needed)


def backup_only_blobs(
    source: SourceBlobs,
    pool: Pool,
    part: PartFile,
    previous: Iterable[Entry] | None,
    other_manifests: Sequence[Path],
    complete: bool,
    now: float,
    on_progress: Callable[[int], None] | None = None,
) -> BlobOutcome:
    """Bring every blob of a site without a filestorage backup into the pool, and fill `part` with what is there.

    complete: whether the manifest is a complete one; else a delta against `previous`, with lines for what is gone.
    now: seconds since the epoch, as files' times are. A file that was written seconds ago, or changes while it is
    copied, waits for the next run. Raises ZodbvaultError when the blobstorage is empty and `previous` was not.
    """
    total = removed = waiting = found = 0
    with (
        KnownBlobs(pool.own_entries(), None, lambda: other_manifests, pool.scratch) as known,
        ManifestWriter(part, source.layout, complete=complete) as writer,
        closing(source.walk(pool.scratch)) as walk,
    ):
        intake = _Intake(source, pool, known, on_progress)
        # A complete manifest does not need the state before; a delta does.
        state = readable(previous or ()) if complete else iter(previous or ())
        for key, size, before in compared(walk, state):
            if size is None:
                removed += 1
                if not complete:
                    writer.add(Entry(key, 0, "", removed=True))
                continue
            found += 1
            entry = intake.settled_entry_of(key, size, before, now)
            if entry is None:
                waiting += 1
                # The state before keeps what it had under that name.
                entry = before
            if entry is not None:
                total += 1
                if complete or entry != before:
                    writer.add(entry)
        if removed and not found:
            raise ZodbvaultError(
                "the blob storage is empty, but the newest backup has blobs",
                path=source.folder,
                hint="Is the disk mounted, and is blob_storage right?",
            )
        pool.finish()
        summary = writer.finish(total_blobs=total)
    return BlobOutcome(summary, intake.copied, intake.copied_bytes, needed=found, removed=removed, waiting=waiting)


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
            logger.warning("%s. No blob is removed from %s, since this manifest may need it", error, pool.folder)
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


# The size of a blob of which it is not known whether the source has it.
_UNKNOWN = -1

# Blobs that a thread looks at, or copies, before it hands over what it found.
_LOOKED_AT_ONCE = 64
_COPIED_AT_ONCE = 8


class _Wanted(NamedTuple):
    """A blob that is to be opened in the source. held: its size in the pool, or None; named: what manifests say."""

    key: bytes
    is_met: bool
    held: int | None
    named: tuple[Entry, ...]


class _Taken(NamedTuple):
    """A blob of which it is settled what the manifest says: its entry, None when nobody has it.

    copy_of: for a copy that has yet to get its name, what manifests say of the blob; else None.
    """

    key: bytes
    is_met: bool
    entry: Entry | None
    copy_of: tuple[Entry, ...] | None = None


class _Intake:
    """Takes blobs into the pool, in the order of their keys."""

    def __init__(
        self,
        source: SourceBlobs,
        pool: Pool,
        known: KnownBlobs,
        on_progress: Callable[[int], None] | None,
        directory: DirectoryContainer | None = None,
    ) -> None:
        self._source = source
        self._pool = pool
        self._known = known
        self._on_progress = on_progress
        self._directory = directory
        self.copied = 0
        self.copied_bytes = 0

    def taken(
        self, blobs: Iterable[tuple[bytes, int | None, bool]], *, only_if_held: bool = False
    ) -> Generator[tuple[bytes, Entry | None, bool], None, None]:
        """For each blob its key, its entry for the manifest (None when nobody has it) and what came as `is_met`.

        blobs: key, size in bytes in the source (None when a walk did not find it there, _UNKNOWN when there was no
        walk), is_met. only_if_held: other manifests are looked at only when the pool has a file of that name.
        What an entry tells of is in the pool. The pool is looked at, and blobs are copied, by several threads; what is
        decided, and names and folders, are this thread's. Leaves no temporary file behind.
        """
        seen = worked_ahead(self._looked_at, pieces_of(blobs, _LOOKED_AT_ONCE))
        decided = (self._decided(*blob, only_if_held=only_if_held) for piece in seen for blob in piece)
        done = worked_ahead(self._opened, pieces_of(decided, _COPIED_AT_ONCE))
        try:
            with closing(seen), closing(done):
                for piece in done:
                    for key, is_met, entry, copy_of in piece:
                        if entry is not None and copy_of is not None:
                            self._pool.place(entry, copy_of)
                            self._count(entry)
                        yield key, entry, is_met
        except BaseException:
            with suppress(ZodbvaultError):
                self._pool.sweep()
            raise

    def _looked_at(
        self, blobs: list[tuple[bytes, int | None, bool]]
    ) -> list[tuple[bytes, int | None, bool, int | None]]:
        """Each blob with its size in the pool."""
        return [(key, size, is_met, self._pool.size_of(key)) for key, size, is_met in blobs]

    def _decided(
        self, key: bytes, size: int | None, is_met: bool, held: int | None, *, only_if_held: bool
    ) -> _Taken | _Wanted:
        """What is to be done with a blob, by what is known of it and by what the pool holds."""
        own = _fitting(self._known.own(key), held)
        if own is not None:
            return _Taken(key, is_met, own)
        before = self._known.previous(key)
        entry = _fitting(before, held)
        if entry is not None and size in (None, entry.size):
            return _Taken(key, is_met, entry)
        named = before if only_if_held and held is None else before + self._known.elsewhere(key)
        if size is None and (entry := _fitting(named, held)) is not None:
            return _Taken(key, is_met, entry)
        return _Wanted(key, is_met, held, named)

    def _opened(self, blobs: list[_Taken | _Wanted]) -> list[_Taken]:
        """What has become of each: those that are wanted are copied beside their place, or compared with the pool."""
        return [self._from_source(blob) if isinstance(blob, _Wanted) else blob for blob in blobs]

    def _from_source(self, blob: _Wanted) -> _Taken:
        key, is_met, held, named = blob
        fd = self._source.open(key)
        if fd is None:
            return _Taken(key, is_met, _fitting(named, held))
        try:
            if _fitting(named, held) is None:
                entry = None if self._directory is None else self._pool.link_aside(key, fd, self._directory)
                return _Taken(key, is_met, entry or self._pool.copy_aside(key, fd), copy_of=named)
            return _Taken(key, is_met, self._compared(key, fd, held, named))
        finally:
            close_fd(fd)

    def settled_entry_of(self, key: bytes, size: int, before: Entry | None, now: float) -> Entry | None:
        """As entry_of(), where no Data.fs tells that the file is finished; None when it has to wait."""
        held = self._pool.size_of(key)
        own = _fitting(self._known.own(key), held)
        if own is not None and own.size == size:
            return own
        if before is not None and before.size == size == held:
            return before
        fd = self._source.open(key)
        if fd is None:
            return None
        try:
            status = os.fstat(fd)
            if (before is None or before.size != size) and abs(now - status.st_mtime) < SETTLED_AFTER:
                return None
            named = self._known.elsewhere(key)
            if before is not None:
                named = (before, *named)
            if _fitting(named, held) is None:
                entry = self._pool.copy_in(key, fd, named)
                self._count(entry)
            else:
                entry = self._compared(key, fd, held, named)
            after = os.fstat(fd)
        finally:
            close_fd(fd)
        unchanged = (after.st_size, after.st_mtime_ns) == (entry.size, status.st_mtime_ns)
        return entry if unchanged else None

    def _compared(self, key: bytes, fd: int, held: int | None, named: tuple[Entry, ...]) -> Entry:
        """The entry for the open file of the source, which has to be just what a manifest says of the pool's blob."""
        try:
            entry = Entry(key, *hash_blob(fd))
        except OSError as error:
            raise ZodbvaultError(
                f"the site's copy of this blob cannot be read: {reason_of(error)}", path=self._pool.path_of(key)
            ) from error
        if entry not in named or entry.size != held:
            raise conflict(self._pool, entry, named)
        return entry

    def _count(self, entry: Entry) -> None:
        """One more blob was copied."""
        self.copied += 1
        self.copied_bytes += entry.size
        if self._on_progress is not None:
            self._on_progress(self.copied_bytes)


def _fitting(entries: tuple[Entry, ...], size: int | None) -> Entry | None:
    """The first of `entries` that has this size in bytes."""
    return next((entry for entry in entries if entry.size == size), None)


def without(blobs: Iterator[tuple[bytes, int]], keys: Iterator[bytes]) -> Iterator[tuple[bytes, int]]:
    """The blobs whose keys are not among `keys`."""
    kept = next(keys, None)
    for blob in blobs:
        while kept is not None and kept < blob[0]:
            kept = next(keys, None)
        if kept != blob[0]:
            yield blob
