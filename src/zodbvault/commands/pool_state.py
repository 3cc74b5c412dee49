"""The blobs of one backup in the pool: which manifest it writes, and what that is compared with.

Brings together what the backup of Data.fs knows (which blobs its records name, its chain) and the pool. The pool is
opened when something is written into it: a backup without changes does not. What only a full needs is imported by it.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from typing import TYPE_CHECKING

from zodbvault.blobs.intake import backup_change, backup_complete
from zodbvault.blobs.layouts import OID_SIZE, POOL_FOLDER
from zodbvault.blobs.pool import Pool, prune_pool
from zodbvault.commands.new_state import NewState, blob_record, nothing_to_settle
from zodbvault.commands.summary import plural
from zodbvault.errors import ZodbvaultError, is_disk_full
from zodbvault.io.durable import PartFile
from zodbvault.io.progress import step
from zodbvault.repository.names import (
    COMPLETE_MANIFEST_SUFFIX,
    DELTA_MANIFEST_SUFFIX,
    ORPHAN_SUFFIX,
    POOL_MANIFEST_SUFFIXES,
)
from zodbvault.repository.records import POOL
from zodbvault.repository.store import list_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from zodbvault.blobs.directories import DirectoryContainer
    from zodbvault.blobs.outcome import BlobOutcome
    from zodbvault.blobs.source import SourceBlobs
    from zodbvault.blobs.spill import SortedKeys
    from zodbvault.io.durable import Ownership
    from zodbvault.repository.chains import Chain
    from zodbvault.repository.records import BlobRecord, Record
    from zodbvault.repository.store import Repository

logger = logging.getLogger("zodbvault")


class PoolBackup:
    """Writes the states of one blobstorage into the pool of a location. A context manager."""

    def __init__(self, location: Path, ownership: Ownership, source: SourceBlobs) -> None:
        self._location = location
        self._ownership = ownership
        self._source = source
        self._opened = contextlib.ExitStack()
        self._manifests_before: tuple[Path, ...] = ()

    @functools.cached_property
    def pool(self) -> Pool:
        """The pool: made where it is missing, and without what a killed run left in it. Raises ZodbvaultError."""
        pool = self._opened.enter_context(Pool(self._location, self._ownership))
        pool.prepare()
        pool.sweep()
        self._manifests_before = manifests_in(self._location)
        return pool

    def __enter__(self) -> PoolBackup:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        with self._opened:
            if "pool" in self.__dict__ and error is not None and is_disk_full(error):
                self._make_room()

    def _make_room(self) -> None:
        """Take away what a run copied that filled the disk, unless a manifest of it is there already."""
        with contextlib.suppress(OSError, ZodbvaultError):
            if manifests_in(self._location) == self._manifests_before:
                removed = self.pool.remove_own()
                if removed:
                    logger.info("Removed %s that this run had copied: the disk is full.", plural(removed, "blob"))

    @contextlib.contextmanager
    def change(self, stamp: str, repository: Repository, chain: Chain, met: SortedKeys) -> Iterator[NewState]:
        """The blobs that the new records name, and a delta manifest."""
        newest = repository.record_of(chain.newest)
        before = None if newest is None else newest.blobs
        self._require_space_for(met)
        with PartFile(self._location / (stamp + DELTA_MANIFEST_SUFFIX), self._ownership) as part:
            with step("blobs", None) as on_progress:
                outcome = backup_change(
                    self._source,
                    self.pool,
                    part,
                    met,
                    lambda: manifests_vouched_for(self._location, repository),
                    on_progress,
                    previous_total=0 if before is None else before.total,
                )
            yield self._new(part, outcome, before)

    @contextlib.contextmanager
    def complete(
        self,
        stamp: str,
        repository: Repository,
        chain: Chain | None,
        met: SortedKeys,
        last_tid: bytes | None,
        *,
        only_met: bool,
    ) -> Iterator[NewState]:
        """Every blob of the site (only_met: that the data refer to), and a complete manifest."""
        from zodbvault.commands.chain_blobs import keys_of_chain, merged_state, newest_pool_state

        newest = newest_pool_state(repository)
        directory = None
        before = self._newest_record_in_pool(repository)
        if newest is None or before is None:
            directory = self._newest_directory()
            self.require_space_for_all(directory)
        else:
            # Nearly all are there. What came since then is told by the tids, and no folder is walked for it.
            last = bytes.fromhex(before.last_tid or "")
            self._require_space_for(key for key in met if key[OID_SIZE:] > last)
        if chain is not None:
            for key in keys_of_chain(repository, chain, self.pool.scratch):
                met.add(key)
        with (
            PartFile(self._location / (stamp + COMPLETE_MANIFEST_SUFFIX), self._ownership) as part,
            contextlib.ExitStack() as stack,
        ):
            previous = None
            if newest is not None:
                entries = merged_state(repository, newest, self.pool.scratch)
                previous = stack.enter_context(contextlib.closing(entries))
            with step("blobs", None) as on_progress:
                outcome = backup_complete(
                    self._source,
                    self.pool,
                    part,
                    previous,
                    manifests_vouched_for(self._location, repository),
                    met,
                    last_tid,
                    on_progress,
                    directory=directory,
                    only_met=only_met,
                )
            yield self._new(part, outcome, None)

    def prune(self, repository: Repository) -> None:
        """Remove the blobs that no manifest in the location names any more, where there is a pool.

        repository: has the records; where one says that a manifest is another than was written, no blob goes.
        """
        if not (self._location / POOL_FOLDER).is_dir():
            return
        from zodbvault.commands.written_manifests import believable

        manifests = manifests_in(self._location)
        if len(believable(repository, [path.name for path in manifests])) < len(manifests):
            logger.warning("No blob is removed from %s, since that manifest may need it.", self._location / POOL_FOLDER)
            return
        removed = prune_pool(manifests, self.pool)
        if removed:
            logger.info("Removed %s that no backup needs any more.", plural(removed, "blob"))

    def _new(self, part: PartFile, outcome: BlobOutcome, before: BlobRecord | None) -> NewState:
        return NewState(blob_record(outcome, before=before), outcome, part.publish, nothing_to_settle)

    def _newest_directory(self) -> DirectoryContainer | None:
        """The newest directory of blobs that stands here; nothing where it cannot be read.

        What is in it need not be copied a second time: it only gets a second name.
        """
        from zodbvault.blobs.directories import DirectoryContainer
        from zodbvault.blobs.stored import Form, find_stored

        directories = [one.path for one in find_stored(self._location) if one.form is Form.DIRECTORY]
        if not directories:
            return None
        logger.info("Blobs that are in %s too are hard-linked, not copied.", directories[-1])
        try:
            return DirectoryContainer(directories[-1], self.pool.scratch)
        except ZodbvaultError as error:
            logger.warning("%s All blobs are copied.", error.sentence)
            return None

    @staticmethod
    def _newest_record_in_pool(repository: Repository) -> Record | None:
        """The record of the newest backup where that has its blobs in the pool, so that nearly all are there."""
        chain = repository.chains[-1] if repository.chains else None
        record = repository.record_of(chain.newest) if chain is not None and chain.lines else None
        return record if record is not None and record.blobs is not None and record.blobs.layout == POOL else None

    def _require_space_for(self, keys: Iterable[bytes]) -> None:
        """Refuse to copy these blobs where they would fill the disk; what the pool has is not copied again."""
        from zodbvault.io.space import require_space

        needed = sum(self._source.size_of(key) or 0 for key in keys if self.pool.size_of(key) is None)
        require_space(self._location, needed, "for the blobs of this backup")

    def require_space_for_all(self, directory: DirectoryContainer | None = None) -> None:
        """Refuse the first copy of all blobs where it would fill the disk.

        directory: what it has need not be copied, nor what the pool has.
        """
        from zodbvault.blobs.source import BlobWalk
        from zodbvault.io.space import require_space

        walk = BlobWalk(str(self._source.root), self._source.layout, self.pool.scratch)
        with contextlib.closing(walk.blobs()) as blobs:
            needed = sum(
                size
                for key, size in blobs
                if self.pool.size_of(key) != size and (directory is None or directory.size_of(key) != size)
            )
        require_space(self._location, needed, "for the first copy of all blobs")


def manifests_in(location: Path) -> tuple[Path, ...]:
    """All manifests of the pool in a blob location, those of backups that were put aside too."""
    names = sorted(list_files(location))
    return tuple(location / name for name in names if name.removesuffix(ORPHAN_SUFFIX).endswith(POOL_MANIFEST_SUFFIXES))


def manifests_vouched_for(location: Path, repository: Repository) -> tuple[Path, ...]:
    """Those of manifests_in() that are what their records say: what they tell of blobs is taken over."""
    from zodbvault.commands.written_manifests import vouched_for

    manifests = manifests_in(location)
    good = vouched_for(repository, [path.name for path in manifests])
    return tuple(path for path in manifests if path.name in good)
