"""Taking blobs into the pool: what a backup of each kind copies, and the manifest that it fills.

Which blobs are copied is decided by what is known of them and by what the pool holds; looking, reading and copying are
done by several threads. Knows the source blobstorage and manifests; nothing of Data.fs, chains and records, which the
caller brings together with what is done here.
"""

from __future__ import annotations

import os
from contextlib import closing, suppress
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.ahead import pieces_of, worked_ahead
from zodbvault.blobs.copying import hash_blob
from zodbvault.blobs.known import KnownBlobs, readable
from zodbvault.blobs.manifest import Entry, ManifestWriter
from zodbvault.blobs.outcome import BlobOutcome
from zodbvault.blobs.pool import conflict
from zodbvault.blobs.wanted import SETTLED_AFTER, compared, wanted_blobs
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.closing import close_fd

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Sequence
    from pathlib import Path

    from zodbvault.blobs.directories import DirectoryContainer
    from zodbvault.blobs.pool import Pool
    from zodbvault.blobs.source import SourceBlobs
    from zodbvault.blobs.spill import SortedKeys
    from zodbvault.io.durable import PartFile

# The size of a blob of which it is not known whether the source has it.
_UNKNOWN = -1

# Blobs that a thread looks at, or copies, before it hands over what it found.
_LOOKED_AT_ONCE = 64
_COPIED_AT_ONCE = 8


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
