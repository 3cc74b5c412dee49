"""What every step of one backup needs to know, and what is said of any state.

Part of what a backup without changes imports, so nothing heavy is imported here.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.commands.summary import plural
from zodbvault.filestorage.tids import nearest_tid_at
from zodbvault.io.clock import TOLERATED_SKEW

if TYPE_CHECKING:
    from pathlib import Path

    from zodbvault.commands.backup_blobs import BlobBackup
    from zodbvault.io.clock import Clock
    from zodbvault.io.durable import Ownership
    from zodbvault.repository.chains import Chain
    from zodbvault.repository.records import Record
    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

LONG_CHAIN = 5000
"""Backups; a longer chain is warned about."""


class BackupRun(NamedTuple):
    """What every step of one backup needs to know. started: seconds since 1970."""

    settings: Settings
    repository: Repository
    blobs: BlobBackup
    ownership: Ownership
    clock: Clock
    started: float

    @property
    def location(self) -> Path:
        """The folder of the repository."""
        return self.repository.location

    @property
    def chain(self) -> Chain | None:
        """The newest chain: the one that an incremental continues."""
        return self.repository.chains[-1] if self.repository.chains else None

    def newest_record(self) -> Record | None:
        """The record of the newest backup, where there is one."""
        chain = self.chain
        return self.repository.record_of(chain.newest) if chain is not None and chain.lines else None


def warn_of_state(run: BackupRun, record: Record) -> None:
    """Say what an administrator has to know about a backup that is good."""
    if record.blobs is not None and record.blobs.missing:
        logger.warning(
            "The site has lost %s that Data.fs refers to, such as %s in %s.",
            plural(len(record.blobs.missing), "blob"),
            record.blobs.missing[0],
            run.settings.blob_storage,
        )
    if record.chain_backups > LONG_CHAIN:
        logger.warning(
            "The chain has %d backups. A full one now and then (full_after_days, or --full) keeps restores fast.",
            record.chain_backups,
        )
    if record.last_tid is not None and record.last_tid > nearest_tid_at(int(run.clock.now()) + TOLERATED_SKEW).hex():
        logger.warning("The last transaction of Data.fs is later than the clock: tid %s.", record.last_tid)


def new_timestamp(repository: Repository, clock: Clock, other: str | None = None) -> str:
    """The timestamp of a new backup: now, or as soon as timestamps may grow again, which is waited for.

    other: one that it has to be later than, beside those in the repository.
    """
    from zodbvault.repository.chains import newest_timestamp
    from zodbvault.repository.timestamps import next_timestamp

    newest = max(filter(None, (newest_timestamp(repository.names | repository.blob_names), other)), default=None)
    following = next_timestamp(newest, clock.now())
    if following.clock_is_behind:
        from zodbvault.commands.tables import duration_text

        logger.warning(
            "The clock stands %s before the newest backup, %s; this one is named %s. Is the clock right? Where it was "
            "wrong then, dates count on from that backup until the clock has reached it.",
            duration_text(following.clock_is_behind),
            newest,
            following.timestamp,
        )
    if following.wait:
        clock.sleep(following.wait)
    return following.timestamp


def hex_of(tid: bytes | None) -> str | None:
    """A tid as a record holds it."""
    return None if tid is None else tid.hex()
