"""The blobs' part of a backup: looked at, backed up in the layout that is wanted, pruned.

What every layout has in common stands here; what each of them writes, in pool_state.py and container_state.py, which
are imported when there is something to write.
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
from zodbvault.repository.names import CONTAINER_MANIFEST_SUFFIXES, ORPHAN_SUFFIX, PART_SUFFIX, container_states
from zodbvault.repository.records import POOL
from zodbvault.repository.store import list_files, size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zodbvault.blobs.source import SourceBlobs
    from zodbvault.blobs.spill import SortedKeys
    from zodbvault.blobs.wanted import StateList
    from zodbvault.commands.container_state import ContainerBackup
    from zodbvault.commands.new_state import NewState
    from zodbvault.commands.places import Places
    from zodbvault.commands.pool_state import PoolBackup
    from zodbvault.filestorage.copying import CopiedRange
    from zodbvault.io.durable import Ownership
    from zodbvault.repository.chains import Chain
    from zodbvault.repository.records import BlobRecord, Record
    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")


class BlobResult(NamedTuple):
    """What a backup has of blobs, durable and not published. state: None for a site without blobs.

    depends_on_source: blobs may be missing from it when a pack swapped Data.fs meanwhile. source: the blobstorage.
    """

    state: NewState | None
    depends_on_source: bool
    source: Path | None = None

    @property
    def record(self) -> BlobRecord | None:
        """What the record of the backup says of its blobs."""
        return None if self.state is None else self.state.record

    def publish(self) -> None:
        """Give what was written its names, durably, before the backup exists."""
        if self.state is not None:
            self.state.publish()

    def settle(self) -> None:
        """Do what has to wait until the backup exists."""
        if self.state is not None:
            self.state.settle()

    def judge_missing(self) -> None:
        """Refuse a backup that lacks so many blobs that it is the wrong blobstorage."""
        if self.state is None or not self.state.outcome.misses_most:
            return
        outcome = self.state.outcome
        raise ZodbvaultError(
            f"{len(outcome.missing):,} of {outcome.needed:,} blobs that Data.fs refers to are not there, "
            f"such as {self.state.record.missing[-1]}",
            path=self.source,
            hint="Is blob_storage the right one, and is its disk mounted? Nothing was backed up.",
        )


_NO_BLOBS = BlobResult(None, depends_on_source=False)


class BlobBackup:
    """The blobs of one site and the location that they are backed up into; inactive for a site without blobs.

    Blobs are looked at, and a pool is opened, when that is needed: a backup without changes does neither.
    """

    def __init__(self, settings: Settings, location: Path, ownership: Ownership, folder: BlobFolder | None) -> None:
        self._settings = settings
        self._location = location
        self._ownership = ownership
        self._folder = folder
        self._opened = contextlib.ExitStack()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, settings: Settings, places: Places, ownership: Ownership) -> Iterator[BlobBackup]:
        """Look at the blobstorage. Raises ZodbvaultError when it is not there."""
        if settings.blob_storage is None or places.blobs is None:
            yield cls(settings, places.location, ownership, None)
            return
        blobs = cls(settings, places.blobs, ownership, BlobFolder(settings.blob_storage))
        with blobs._opened:
            yield blobs

    @property
    def enabled(self) -> bool:
        """Whether the site's blobs are backed up."""
        return self._folder is not None

    @property
    def layout(self) -> str:
        """The layout that new states are written in."""
        return self._settings.blob_layout

    @functools.cached_property
    def _source(self) -> SourceBlobs:
        """The site's blobs."""
        from zodbvault.blobs.source import SourceBlobs

        assert self._folder is not None
        return SourceBlobs(self._folder.folder)

    @functools.cached_property
    def _pool(self) -> PoolBackup:
        """The pool."""
        from zodbvault.commands.pool_state import PoolBackup

        return self._opened.enter_context(PoolBackup(self._location, self._ownership, self._source))

    @functools.cached_property
    def _containers(self) -> ContainerBackup:
        """The directories or archives."""
        from zodbvault.commands.container_state import ContainerBackup

        return ContainerBackup(self._settings, self._location, self._ownership, self._source)

    def sweep(self, repository: Repository) -> None:
        """Remove what a killed run left before its backup existed. Before the repository is swept.

        That takes away the manifests by which a directory or archive that belongs to nothing is known as ours.
        """
        if self._folder is None:
            return
        if any(name.endswith(CONTAINER_MANIFEST_SUFFIXES) for name in repository.blob_names):
            from zodbvault.commands.container_sweep import remove_unfinished

            remove_unfinished(repository, self._folder.folder.name)
        if any(name.endswith(PART_SUFFIX) for name in os.listdir(self._location)):
            from zodbvault.blobs.letting_go import remove_leftovers

            remove_leftovers(self._location, self._folder.folder.name)
        self._sweep_pool()

    def _sweep_pool(self) -> None:
        """Remove the pool's unfinished copies, where there are any."""
        from zodbvault.blobs.layouts import POOL_FOLDER, TEMPORARY_FOLDER

        try:
            leftovers = os.listdir(self._location / POOL_FOLDER / TEMPORARY_FOLDER)
        except FileNotFoundError:
            return
        if leftovers:
            self._pool.pool.sweep()

    def put_orphans_aside(self, repository: Repository) -> None:
        """Let the directory or archive of a data file that the sweep has put aside follow it."""
        if self._folder is not None and any(name.endswith(ORPHAN_SUFFIX) for name in repository.blob_names):
            from zodbvault.commands.container_sweep import put_orphans_aside

            put_orphans_aside(repository, self._folder.folder.name)

    def are_there(self, record: Record) -> bool:
        """Whether the manifest that a record names is whole and its blobs are there, by their sizes."""
        if record.blobs is None:
            return True
        path = self._location / record.blobs.manifest
        if not self.enabled or size_of(path) != record.blobs.stored_size:
            return False
        from zodbvault.blobs.manifest import DamagedManifest
        from zodbvault.commands.container_sweep import state_is_whole
        from zodbvault.io.hashing import sha256_of
        from zodbvault.io.stored import DamagedFile

        assert self._folder is not None
        try:
            is_same = sha256_of(path)[1] == record.blobs.sha256
            return is_same and state_is_whole(record, self._location, self._folder.folder.name)
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
        """Whether the newest backup of `chain` has its blobs, in the layout wanted and for that of the source now."""
        assert self._folder is not None
        record = repository.record_of(chain.newest)
        if record is not None and (record.blobs is None or record.blobs.layout != self.layout):
            # A manifest that the record does not know of is one that a killed run was completing.
            return False
        if self.layout != POOL:
            return record is not None and self._has_container(repository, record)
        state = blob_state([line.timestamp for line in chain.lines], repository.blob_names)
        if state is None:
            return False
        if record is not None and record.blobs is not None:
            return record.blobs.source_layout == self._folder.layout
        from zodbvault.blobs.manifest import manifest_layout

        return manifest_layout(repository.path(state[0])) == self._folder.layout

    def _has_container(self, repository: Repository, record: Record) -> bool:
        """Whether manifest and directory or archive of a backup are there."""
        from zodbvault.blobs.stored import find_stored
        from zodbvault.commands.container_sweep import stored_state

        assert self._folder is not None
        assert record.blobs is not None
        return (
            record.blobs.source_layout == self._folder.layout
            and repository.has(record.blobs.manifest)
            and bool(stored_state(find_stored(self._location), self._folder.folder.name, record.timestamp, self.layout))
        )

    def needs_all_data(self, repository: Repository, chain: Chain) -> bool:
        """Whether nobody knows which blobs the data of `chain` refer to, and no walk can tell.

        In a shared blobstorage not every blob is this database's.
        """
        return self.enabled and self._settings.shared_blob_storage and not self.has_state(repository, chain)

    @contextlib.contextmanager
    def met_blobs(self) -> Iterator[SortedKeys]:
        """A place for the keys of the blobs that the data refer to."""
        from zodbvault.blobs.spill import SortedKeys

        is_pool = self.enabled and self.layout == POOL
        with SortedKeys(self._pool.pool.scratch if is_pool else self._location) as keys:
            yield keys

    @contextlib.contextmanager
    def back_up(
        self, stamp: str, repository: Repository, chain: Chain | None, copied: CopiedRange, met: SortedKeys
    ) -> Iterator[BlobResult]:
        """Bring the blobs of a backup to its location, durably; nothing is published yet.

        chain: the one that the backup continues, None for a full. In the pool a change is enough where the backup
        before has a state and the copied records can be looked into.
        """
        if not self.enabled:
            yield _NO_BLOBS
            return
        if copied.encrypted:
            logger.warning("Data.fs holds encrypted records: blobs cannot be seen in them; the blob storage is walked.")
        if self.layout == POOL and chain is not None and not copied.encrypted and self.has_state(repository, chain):
            with self._pool.change(stamp, repository, chain, met) as state:
                yield BlobResult(state, bool(state.outcome.missing), self._source.folder)
            return
        only_met = self._settings.shared_blob_storage and not copied.encrypted
        with self._complete(stamp, repository, chain, met, copied.last_tid, only_met=only_met) as state:
            yield BlobResult(state, depends_on_source=True, source=self._source.folder)

    @contextlib.contextmanager
    def catch_up(
        self, stamp: str, repository: Repository, chain: Chain, last_tid: bytes | None
    ) -> Iterator[BlobResult]:
        """The blobs of the newest backup of `chain`, which lacks them while nothing was committed."""
        with (
            self.met_blobs() as met,
            self._complete(stamp, repository, chain, met, last_tid, only_met=False) as state,
        ):
            yield BlobResult(state, depends_on_source=True, source=self._source.folder)

    @contextlib.contextmanager
    def _complete(
        self,
        stamp: str,
        repository: Repository,
        chain: Chain | None,
        met: SortedKeys,
        last_tid: bytes | None,
        *,
        only_met: bool,
    ) -> Iterator[NewState]:
        """Every blob of the site (only_met: that the data refer to), with a complete manifest."""
        if self.layout == POOL:
            with self._pool.complete(stamp, repository, chain, met, last_tid, only_met=only_met) as state:
                yield state
            return
        from zodbvault.blobs.wanted import list_state
        from zodbvault.commands.chain_blobs import keys_of_chain

        if chain is not None:
            for key in keys_of_chain(repository, chain, self._location):
                met.add(key)

        def list_blobs(held: Callable[[bytes], int | None]) -> StateList:
            return list_state(self._source, self._location, met, last_tid, held, only_met=only_met)

        since = None if chain is None else chain.timestamp
        with self._containers.new_state(
            stamp, repository, list_blobs, met, since=since, series_stamp=since or stamp
        ) as state:
            yield state

    def settle(self, timestamp: str) -> None:
        """See that the link to the newest directory or archive leads to that of the newest backup."""
        if self._folder is None or self.layout == POOL:
            return
        from zodbvault.commands.container_state import settle_latest

        settle_latest(self._settings, self._location, self._folder.folder.name, timestamp)

    def prune(self, repository: Repository, oldest: str, before: frozenset[tuple[str, bool]]) -> None:
        """Remove the blobs that no backup needs any more, those put aside among them.

        repository: as it is now. oldest: timestamp of the oldest full that stays; directories and archives of an
        earlier time go. before: the states in directories and archives that had a manifest before the prune; those
        that have none now go too.
        """
        if self._folder is None:
            return
        from zodbvault.blobs.letting_go import remove_leftovers, remove_of_states, remove_older

        base, needed = self._folder.folder.name, container_states(list_files(self._location))
        remove_leftovers(self._location, base)
        remove_of_states(self._location, before - needed)
        remove_older(self._location, base, oldest, needed)
        self._pool.prune(repository)
