"""The blobs' part of a backup: which manifest it writes, what it compares with, and what it says of lost blobs.

Brings together what the backup of Data.fs knows (which blobs its records name, its chain) and the pool.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.folder import BlobFolder
from zodbvault.blobs.state import blob_state
from zodbvault.errors import ZodbvaultError
from zodbvault.repository.names import (
    COMPLETE_MANIFEST_SUFFIX,
    DELTA_MANIFEST_SUFFIX,
    ORPHAN_SUFFIX,
    POOL_MANIFEST_SUFFIXES,
)
from zodbvault.repository.records import BlobRecord
from zodbvault.repository.store import list_files, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from zodbvault.blobs.directories import DirectoryContainer
    from zodbvault.blobs.manifest import Entry
    from zodbvault.blobs.pool import BlobOutcome, Pool
    from zodbvault.blobs.source import SourceBlobs
    from zodbvault.blobs.spill import SortedKeys
    from zodbvault.commands.places import Places
    from zodbvault.filestorage.copying import CopiedRange
    from zodbvault.io.durable import Ownership, PartFile
    from zodbvault.repository.chains import Chain
    from zodbvault.repository.records import Record
    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

POOL = "pool"


class BlobResult(NamedTuple):
    """What a backup has of blobs, ready to be published. All are None for a site without blobs.

    depends_on_source: blobs may be missing from it when a pack swapped Data.fs meanwhile. outcome: of the copying;
    source: the blobstorage.
    """

    manifest: PartFile | None
    record: BlobRecord | None
    depends_on_source: bool
    outcome: BlobOutcome | None = None
    source: Path | None = None

    def judge_missing(self) -> None:
        """Refuse a backup that lacks so many blobs that it is the wrong blobstorage."""
        if self.outcome is None or not self.outcome.misses_most:
            return
        assert self.record is not None
        raise ZodbvaultError(
            f"{len(self.outcome.missing):,} of {self.outcome.needed:,} blobs that Data.fs refers to are not there, "
            f"such as {self.record.missing[-1]}",
            path=self.source,
            hint="Is blob_storage the right one, and is its disk mounted? Nothing was backed up.",
        )


_NO_BLOBS = BlobResult(None, None, depends_on_source=False)


class BlobBackup:
    """The blobs of one site and the pool that they are backed up into; inactive for a site without blobs.

    The pool is opened, and the blobs are looked at, when that is needed: a backup without changes does neither.
    """

    def __init__(self, location: Path, ownership: Ownership, folder: BlobFolder | None) -> None:
        self._location = location
        self._ownership = ownership
        self._folder = folder
        self._opened = contextlib.ExitStack()
        self._pool_in_use: Pool | None = None

    @classmethod
    @contextlib.contextmanager
    def opened(cls, settings: Settings, places: Places, ownership: Ownership) -> Iterator[BlobBackup]:
        """Look at the blobstorage. Raises ZodbvaultError when it is not there."""
        if settings.blob_storage is None or places.blobs is None:
            yield cls(places.location, ownership, None)
            return
        blobs = cls(places.blobs, ownership, BlobFolder(settings.blob_storage))
        with blobs._opened:
            yield blobs

    @property
    def enabled(self) -> bool:
        """Whether the site's blobs are backed up."""
        return self._folder is not None

    @functools.cached_property
    def _source(self) -> SourceBlobs:
        """The site's blobs."""
        from zodbvault.blobs.source import SourceBlobs

        assert self._folder is not None
        return SourceBlobs(self._folder.folder)

    @property
    def _pool(self) -> Pool:
        """The pool, prepared and without what a killed run left in it."""
        if self._pool_in_use is None:
            from zodbvault.blobs.pool import Pool

            pool = self._opened.enter_context(Pool(self._location))
            pool.prepare()
            pool.sweep()
            self._pool_in_use = pool
        return self._pool_in_use

    def sweep(self) -> None:
        """Remove the pool's unfinished copies, where there are any."""
        from zodbvault.blobs.layouts import POOL_FOLDER, TEMPORARY_FOLDER

        try:
            leftovers = self.enabled and os.listdir(self._location / POOL_FOLDER / TEMPORARY_FOLDER)
        except FileNotFoundError:
            return
        if leftovers:
            self._pool.sweep()

    def are_there(self, record: Record) -> bool:
        """Whether the manifest that a record names is whole and the pool has its blobs, by their sizes."""
        if record.blobs is None:
            return True
        path = self._location / record.blobs.manifest
        if not self.enabled or size_of(path) != record.blobs.stored_size:
            return False
        from zodbvault.blobs.manifest import DamagedManifest, read_manifest
        from zodbvault.blobs.pool import pool_is_whole
        from zodbvault.io.hashing import sha256_of
        from zodbvault.io.stored import DamagedFile

        try:
            if sha256_of(path)[1] != record.blobs.sha256:
                return False
            with contextlib.closing(read_manifest(path)) as entries:
                return pool_is_whole(entries, self._pool)
        except (DamagedFile, DamagedManifest) as error:
            logger.warning("%s", error)
            return False

    def refuse_if_not_mounted(self, newest: Record | None) -> None:
        """Refuse an empty blobstorage where the newest backup has blobs: its disk is not mounted."""
        if self._folder is None or newest is None or newest.blobs is None or newest.blobs.total == 0:
            return
        if self._folder.is_empty():
            raise ZodbvaultError(
                f"the blob storage is empty, but the newest backup ({newest.timestamp}) has "
                f"{newest.blobs.total:,} blobs",
                path=self._folder.folder,
                hint="Is its disk mounted? If it is empty on purpose, move the old backups away first.",
            )

    def has_state(self, repository: Repository, chain: Chain) -> bool:
        """Whether the newest backup of `chain` has a blob state, and for the layout that the source has now."""
        state = blob_state([line.timestamp for line in chain.lines], repository.blob_names)
        if state is None:
            return False
        assert self._folder is not None
        record = repository.record_of(chain.newest)
        if record is not None:
            # A manifest that the record does not know of is one that a killed run was completing.
            return record.blobs is not None and record.blobs.source_layout == self._folder.layout
        from zodbvault.blobs.manifest import manifest_layout

        return manifest_layout(repository.path(state[0])) == self._folder.layout

    @contextlib.contextmanager
    def met_blobs(self) -> Iterator[SortedKeys]:
        """A place for the keys of the blobs that the data refer to."""
        from zodbvault.blobs.spill import SortedKeys

        with SortedKeys(self._pool.scratch if self.enabled else self._location) as keys:
            yield keys

    @contextlib.contextmanager
    def back_up(
        self, stamp: str, repository: Repository, chain: Chain | None, copied: CopiedRange, met: SortedKeys
    ) -> Iterator[BlobResult]:
        """Bring the blobs of a backup into the pool, durably, and write its manifest, finished but not published.

        chain: the one that the backup continues, None for a full. A change is enough where the backup before has a
        state and the copied records can be looked into.
        """
        if not self.enabled:
            yield _NO_BLOBS
            return
        if copied.encrypted:
            logger.warning("Data.fs holds encrypted records: blobs cannot be seen in them; the blob storage is walked.")
        if chain is not None and not copied.encrypted and self.has_state(repository, chain):
            with self._change(stamp, repository, chain, met) as result:
                yield result
            return
        with self._complete(stamp, repository, chain, met, copied.last_tid) as result:
            yield result

    @contextlib.contextmanager
    def catch_up(
        self, stamp: str, repository: Repository, chain: Chain, last_tid: bytes | None
    ) -> Iterator[BlobResult]:
        """A complete manifest for the newest backup of `chain`, which has none while nothing was committed."""
        with self.met_blobs() as met, self._complete(stamp, repository, chain, met, last_tid) as result:
            yield result

    def prune(self, oldest: str) -> None:
        """Remove the blobs that no manifest in the location names any more, those put aside among them.

        oldest: timestamp of the oldest full that stays; directories and archives of an earlier time go too.
        """
        if self._folder is None:
            return
        from zodbvault.blobs.letting_go import older_than, remove_leftovers, remove_stored
        from zodbvault.blobs.stored import find_stored

        remove_leftovers(self._location)
        for one in older_than(find_stored(self._location), self._folder.folder.name, oldest):
            remove_stored(one)
            logger.info("Removed %s, which is older than the oldest backup.", one.path)
        from zodbvault.blobs.pool import prune_pool

        removed = prune_pool(self._manifests(), self._pool)
        if removed:
            logger.info("Removed %d blobs that no backup needs any more.", removed)

    @contextlib.contextmanager
    def _change(self, stamp: str, repository: Repository, chain: Chain, met: SortedKeys) -> Iterator[BlobResult]:
        """The blobs that the new records name, and a delta manifest."""
        from zodbvault.blobs.pool import backup_change
        from zodbvault.io.progress import step

        newest = repository.record_of(chain.newest)
        before = None if newest is None else newest.blobs
        with self._part(stamp + DELTA_MANIFEST_SUFFIX) as part:
            total = 0 if before is None else before.total
            with step("blobs", None) as on_progress:
                outcome = backup_change(
                    self._source, self._pool, part, met, self._manifests, on_progress, previous_total=total
                )
            record = blob_record(
                outcome,
                total=outcome.summary.total_blobs or 0,
                total_size=outcome.summary.bytes + (0 if before is None else before.total_size),
                lost_before=() if before is None else before.missing,
            )
            yield self._result(part, record, outcome, depends_on_source=bool(outcome.missing))

    @contextlib.contextmanager
    def _complete(
        self, stamp: str, repository: Repository, chain: Chain | None, met: SortedKeys, last_tid: bytes | None
    ) -> Iterator[BlobResult]:
        """Every blob of the site, and a complete manifest."""
        from zodbvault.blobs.pool import backup_complete
        from zodbvault.io.progress import step

        newest = self._newest_state(repository)
        directory = None
        if newest is None:
            directory = self._newest_directory()
            self._require_space_for_all(directory)
        if chain is not None:
            self._add_blobs_of_chain(repository, chain, met)
        with self._part(stamp + COMPLETE_MANIFEST_SUFFIX) as part, contextlib.ExitStack() as stack:
            previous = stack.enter_context(contextlib.closing(newest())) if newest is not None else None
            others = self._manifests()
            with step("blobs", None) as on_progress:
                outcome = backup_complete(
                    self._source, self._pool, part, previous, others, met, last_tid, on_progress, directory=directory
                )
            summary = outcome.summary
            record = blob_record(outcome, total=summary.blobs, total_size=summary.bytes)
            yield self._result(part, record, outcome, depends_on_source=True)

    def _newest_directory(self) -> DirectoryContainer | None:
        """The newest directory of blobs that another program left here; nothing where it cannot be read.

        What is in it need not be copied a second time: it only gets a second name.
        """
        from zodbvault.blobs.directories import DirectoryContainer
        from zodbvault.blobs.stored import Form, find_stored

        directories = [one.path for one in find_stored(self._location) if one.form is Form.DIRECTORY]
        if not directories:
            return None
        logger.info("Blobs that are in %s too are hard-linked, not copied.", directories[-1])
        try:
            return DirectoryContainer(directories[-1], self._pool.scratch)
        except ZodbvaultError as error:
            logger.warning("%s. All blobs are copied.", error)
            return None

    def _require_space_for_all(self, directory: DirectoryContainer | None) -> None:
        """Refuse the first copy of all blobs where it would fill the disk. Where a killed run left some, it goes on.

        directory: what it has need not be copied.
        """
        from zodbvault.blobs.source import BlobWalk
        from zodbvault.io.space import require_space

        if not self._pool.walk().is_empty():
            return
        walk = BlobWalk(str(self._source.root), self._source.layout, self._pool.scratch)
        with contextlib.closing(walk.blobs()) as blobs:
            needed = sum(size for key, size in blobs if directory is None or directory.size_of(key) != size)
        require_space(self._location, needed, "for the first copy of all blobs")

    def _add_blobs_of_chain(self, repository: Repository, chain: Chain, met: SortedKeys) -> None:
        """Count the blobs of an earlier state of `chain` as referred to: without a pack between, they still are.

        A manifest that is damaged is warned about, and the blobs behind the damage are found by the walk alone.
        """
        from zodbvault.blobs.known import readable

        for length in range(len(chain.lines), 0, -1):
            state = blob_state([line.timestamp for line in chain.lines[:length]], repository.blob_names)
            if state is not None:
                with contextlib.closing(self._merged(repository, state)) as entries:
                    for entry in readable(entries):
                        met.add(entry.key)
                return

    def _newest_state(self, repository: Repository) -> Callable[[], Generator[Entry, None, None]] | None:
        """How to read the newest blob state that the repository has, or None."""
        for chain in reversed(repository.chains):
            for length in range(len(chain.lines), 0, -1):
                state = blob_state([line.timestamp for line in chain.lines[:length]], repository.blob_names)
                if state is not None:
                    return lambda state=state: self._merged(repository, state)  # type: ignore[misc]
        return None

    def _merged(self, repository: Repository, state: tuple[str, tuple[str, ...]]) -> Generator[Entry, None, None]:
        from zodbvault.blobs.manifest import merge_state

        complete, deltas = state
        return merge_state(repository.path(complete), [repository.path(name) for name in deltas], self._pool.scratch)

    def _manifests(self) -> tuple[Path, ...]:
        return manifests_in(self._location)

    def _part(self, name: str) -> PartFile:
        from zodbvault.io.durable import PartFile

        return PartFile(self._location / name, self._ownership)

    def _result(
        self, part: PartFile, record: BlobRecord, outcome: BlobOutcome, *, depends_on_source: bool
    ) -> BlobResult:
        return BlobResult(part, record, depends_on_source, outcome, self._source.folder)


def manifests_in(location: Path) -> tuple[Path, ...]:
    """All manifests of the pool in a blob location, those of backups that were put aside too."""
    names = sorted(list_files(location))
    return tuple(location / name for name in names if name.removesuffix(ORPHAN_SUFFIX).endswith(POOL_MANIFEST_SUFFIXES))


def blob_record(outcome: BlobOutcome, *, total: int, total_size: int, lost_before: tuple[str, ...] = ()) -> BlobRecord:
    """What a backup's record says of its blobs. total, total_size: number and bytes of the blobs of the whole state."""
    from zodbvault.blobs.layouts import bushy_path

    summary = outcome.summary
    return BlobRecord(
        layout=POOL,
        manifest=summary.name,
        sha256=summary.sha256,
        stored_size=summary.stored_size,
        complete=summary.complete,
        source_layout=summary.layout,
        added=outcome.copied,
        added_size=outcome.copied_bytes,
        total=total,
        total_size=total_size,
        missing=(*lost_before, *(bushy_path(key) for key in outcome.missing)),
    )
