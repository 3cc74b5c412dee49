"""Backups of the blobs alone, for sites whose records live elsewhere (a relational database).

There is no `.dat` and no chain: a state exists when its record stands beside its manifest, and the record comes last.
No Data.fs tells which blobs belong to something, so every blob counts.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import os
from typing import TYPE_CHECKING

from zodbvault.blobs.intake import backup_only_blobs
from zodbvault.blobs.letting_go import remove_leftovers, remove_older
from zodbvault.blobs.source import SourceBlobs
from zodbvault.blobs.stored import find_stored, timestamp_at
from zodbvault.blobs.wanted import list_settled
from zodbvault.commands.blob_choices import BlobListing, choose_states_alone
from zodbvault.commands.choosing import recorded_blob_states
from zodbvault.commands.container_state import ContainerBackup, settle_latest
from zodbvault.commands.container_sweep import remove_made_with
from zodbvault.commands.new_state import NewState, blob_record, nothing_to_settle
from zodbvault.commands.only_blobs_states import GroupVerdict, complete_is_due, judge_states, recorded_states
from zodbvault.commands.places import Places, locked, make_folders, ownership_beside
from zodbvault.commands.pool_state import PoolBackup, manifests_vouched_for
from zodbvault.commands.run import new_timestamp
from zodbvault.commands.state_in_use import entries_of
from zodbvault.commands.summary import BackupReport, iso_time, plural, printable
from zodbvault.commands.written_manifests import require_as_written
from zodbvault.errors import ZodbvaultError, explained
from zodbvault.io.clock import DAY
from zodbvault.io.durable import PartFile, remove_durably, rename_durably, write_durably
from zodbvault.io.progress import step
from zodbvault.io.sizes import size_text
from zodbvault.repository.identity import new_id, read_id
from zodbvault.repository.names import (
    CHECKS_SUFFIX,
    COMPLETE_MANIFEST_SUFFIX,
    DELTA_MANIFEST_SUFFIX,
    ID_NAME,
    MANIFEST_SUFFIXES,
    PRUNED_RECORD_SUFFIX,
    RECORD_SUFFIX,
    container_states,
    is_our_part,
    split_name,
)
from zodbvault.repository.publish import publish_record
from zodbvault.repository.records import BLOBS, POOL, Record
from zodbvault.repository.store import Repository, list_files, read_repository, refuse_newer_format
from zodbvault.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from zodbvault.blobs.manifest import Entry
    from zodbvault.commands.blob_choices import BlobChoice
    from zodbvault.io.clock import Clock
    from zodbvault.io.durable import Ownership
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")


def back_up_blobs_alone(settings: Settings, places: Places, *, full_wanted: bool, clock: Clock) -> BackupReport:
    """Back up the blobs of one site, and let old states go."""
    make_folders(settings, places)
    with (
        explained("the backup cannot be written", hint="Earlier backups are untouched."),
        _begun(settings, places, clock) as run,
    ):
        report = run.back_up(is_full=full_wanted)
        with explained("old backups cannot be removed", hint=f"All else is done: {report.summary}"):
            _prune(run, is_full=full_wanted)
    return report


@contextlib.contextmanager
def _begun(settings: Settings, places: Places, clock: Clock) -> Iterator[_Run]:
    """A run that holds the lock, and has removed what a killed one left. Raises AlreadyRunning."""
    assert settings.blob_storage is not None
    started = clock.now()
    ownership = ownership_beside(settings, places.location)
    with locked((places,), started):
        source = SourceBlobs(settings.blob_storage)
        repository = _swept(places, source.folder.name, _records_elsewhere(settings, places))
        if read_id(places.location) is None:
            write_durably(places.location / ID_NAME, new_id(), ownership)
        with PoolBackup(places.location, ownership, source) as pool:
            yield _Run(settings, repository, source, pool, ownership, clock, started)


def _records_elsewhere(settings: Settings, places: Places) -> frozenset[str] | None:
    """The files in the location of the site's backups (or snapshots) of Data.fs, from a time when it had some.

    None when the blobs here are those of a repository that does not stand there: nobody knows its records then.
    """
    is_snapshot = places.location == settings.blobsnapshotlocation
    location = settings.snapshotlocation if is_snapshot else settings.location
    return list_files(location) if read_id(location) in (None, read_id(places.location)) else None


def _swept(places: Places, base: str, elsewhere: frozenset[str] | None) -> Repository:
    """The repository without what a killed run left: part files, and manifests that never got their record.

    base: name of the blobstorage. elsewhere: see _records_elsewhere. The manifests of these backups stand here too, and
    their records there; where these are not known no manifest is touched.
    """
    repository = read_repository(places.location, places.location)
    refuse_newer_format(repository)
    for name in repository.names:
        parts = split_name(name)
        if parts is not None and parts[1] == PRUNED_RECORD_SUFFIX:
            _remove_state(places.location, base, parts[0])
    leftovers = [places.location / name for name in repository.names if is_our_part(name) or _is_left(name, repository)]
    newest = max(recorded_blob_states(repository.names), default=None)
    for name in repository.names:
        parts = split_name(name)
        if elsewhere is None or parts is None or parts[1] not in MANIFEST_SUFFIXES:
            continue
        # One that is older than a record of ours was left by nobody: it may be a backup's whose location is not there.
        is_newest = parts[0] > newest if newest is not None else not elsewhere
        if is_newest and parts[0] + RECORD_SUFFIX not in elsewhere:
            remove_made_with((parts,), places.location, base)
            leftovers.append(places.location / name)
    remove_leftovers(places.location, base)
    remove_durably(*leftovers)
    return read_repository(places.location, places.location)


def _is_left(name: str, repository: Repository) -> bool:
    """Whether a file holds the checks of a state that went while it was verified."""
    parts = split_name(name)
    return parts is not None and parts[1] == CHECKS_SUFFIX and parts[0] + RECORD_SUFFIX not in repository.names


class _Run:
    """One backup of blobs alone. started: seconds since 1970."""

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        source: SourceBlobs,
        pool: PoolBackup,
        ownership: Ownership,
        clock: Clock,
        started: float,
    ) -> None:
        self.settings = settings
        self.repository = repository
        self.source = source
        self.pool = pool
        self.started = started
        self.ownership = ownership
        self._clock = clock
        self._states = recorded_states(repository)

    @property
    def location(self) -> Path:
        """The folder of states, records and blobs."""
        return self.repository.location

    def back_up(self, *, is_full: bool) -> BackupReport:
        """Back up the blobs and publish the state; nothing is published where nothing changed.

        is_full: whether a state is asked for that stands on none before it.
        """
        # What another program left counts too: it is later than ours where the clock went back.
        others = (one.timestamp for one in find_stored(self.location) if one.number is None)
        stamp = new_timestamp(self.repository, self._clock, max(others, default=None))
        logger.info("Please wait while backing up blobs from %s to %s", self.source.folder, self.location)
        layout = self.settings.blob_layout
        is_due = complete_is_due(self._states, int(self.started), self.settings.keep_blob_days, layout)
        if self._is_newest_damaged:
            is_full = True  # what stands on a damaged state does not restore either
        is_complete = is_full or is_due
        with contextlib.ExitStack() as stack:
            if layout == POOL:
                state = stack.enter_context(self._pool_state(stamp, is_full=is_complete))
            else:
                state = stack.enter_context(self._container_state(stamp, is_full=is_complete, is_asked_for=is_full))
            if state is None:
                report = BackupReport(f"No blobs changed since {self._states[-1].timestamp}, nothing to do.", None)
            else:
                report = self._publish(stamp, state)
        if layout != POOL:
            newest = report.timestamp or self._states[-1].timestamp
            settle_latest(self.settings, self.location, self.source.folder.name, newest)
        return report

    def _publish(self, stamp: str, state: NewState) -> BackupReport:
        outcome = state.outcome
        if outcome.waiting:
            logger.info("%s: too young, or being written; the next run takes them.", plural(outcome.waiting, "file"))
        state.publish()
        record = _record(self.repository, self.source, state, stamp, self.started, self._clock)
        publish_record(self.location, record, self.ownership)
        state.settle()
        return BackupReport(
            f"Backup of blobs {stamp}: {plural(outcome.copied, 'new blob')} ({size_text(outcome.copied_bytes)}), "
            f"{outcome.removed:,} removed, {outcome.summary.total_blobs or 0:,} in all, "
            f"{self._clock.now() - self.started:.1f} s.",
            stamp,
        )

    @contextlib.contextmanager
    def _pool_state(self, stamp: str, *, is_full: bool) -> Iterator[NewState | None]:
        """The state in the pool; None where nothing changed. A complete manifest that is due is written in any case."""
        pool = self.pool.pool
        if not any(state.layout == POOL for state in self._states):
            self.pool.require_space_for_all()
        suffix = COMPLETE_MANIFEST_SUFFIX if is_full else DELTA_MANIFEST_SUFFIX
        with (
            contextlib.closing(self._newest_entries(pool.scratch)) as previous,
            PartFile(self.location / (stamp + suffix), self.ownership) as part,
        ):
            others = manifests_vouched_for(self.location, self.repository)
            with step("blobs", None) as on_progress:
                outcome = backup_only_blobs(
                    self.source, pool, part, previous, others, is_full, self._clock.now(), on_progress
                )
            self._refuse_if_empty(outcome.needed, had_blobs=outcome.removed > 0)
            if not is_full and not outcome.summary.blobs and not outcome.removed:
                yield None
                return
            yield NewState(blob_record(outcome), outcome, part.publish, nothing_to_settle)

    @contextlib.contextmanager
    def _container_state(self, stamp: str, *, is_full: bool, is_asked_for: bool) -> Iterator[NewState | None]:
        """The state as a directory or an archive; None where nothing changed."""
        with contextlib.closing(self._newest_entries(self.location)) as previous:
            found = list_settled(self.source, self.location, previous, self._clock.now())
        self._refuse_if_empty(found.number, had_blobs=found.removed > 0)
        is_other_layout = not self._states or self._states[-1].layout != self.settings.blob_layout
        if not (is_asked_for or is_other_layout or found.changed or found.removed):
            found.close()
            yield None
            return
        containers = ContainerBackup(self.settings, self.location, self.ownership, self.source)
        # A series is continued only within its group: both are kept, or go, together.
        since = None if is_full else max(one.timestamp for one in self._states if one.is_complete)
        with containers.new_state(stamp, self.repository, lambda _: found, (), since=since, series_stamp=None) as new:
            yield new

    def _refuse_if_empty(self, found: int, *, had_blobs: bool) -> None:
        """Raise ZodbvaultError where no blob was found, and the newest state has some: it would take its place.

        Of a damaged one its record tells how many.
        """
        if self._is_newest_damaged:
            record = self.repository.record(recorded_blob_states(self.repository.names)[-1])
            had_blobs = record is not None and record.blobs is not None and record.blobs.total > 0
        if had_blobs and not found:
            raise ZodbvaultError(
                "the blob storage is empty, but the newest backup has blobs",
                path=self.source.folder,
                hint="Is the disk mounted, and is blob_storage right?",
            )

    def _newest_entries(self, scratch: Path) -> Generator[Entry, None, None]:
        """The entries of our newest state, in whichever layout; none where it is damaged, or not all there."""
        if self._newest is not None and not self._is_newest_damaged:
            yield from entries_of(self._newest, scratch)

    @functools.cached_property
    def _newest(self) -> BlobChoice | None:
        """Our newest state that is all there, in whichever layout."""
        listing = BlobListing(self.location, self.repository.names, find_stored(self.location))
        choices = choose_states_alone(listing, recorded_blob_states(self.repository.names), None)
        return next((choice for choice in choices if choice.complete is not None), None)

    @functools.cached_property
    def _is_newest_damaged(self) -> bool:
        """Whether the newest state with a record is not all there, or not as it was written; that is warned about."""
        recorded = recorded_blob_states(self.repository.names)
        if not recorded:
            return False
        if self._newest is None or self.repository.record(recorded[-1]) is None:
            logger.warning("The state of %s is not all there. The new one stands on none before it.", recorded[-1])
            return True
        try:
            if not require_as_written(self.repository, self._newest):
                with contextlib.closing(entries_of(self._newest, self.location)) as entries:
                    collections.deque(entries, maxlen=0)
        except ZodbvaultError as error:
            logger.warning("%s The new state stands on none before it.", error.sentence)
            return True
        return False


def _record(
    repository: Repository, source: SourceBlobs, state: NewState, stamp: str, started: float, clock: Clock
) -> Record:
    """The record of a state: nothing in it of any Data.fs."""
    summary = state.outcome.summary
    status = os.stat(source.root)
    previous = max(recorded_blob_states(repository.names), default=None)
    before = repository.record(previous) if previous is not None and not summary.complete else None
    return Record(
        timestamp=stamp,
        kind=BLOBS,
        start=0,
        end=0,
        first_tid=None,
        last_tid=None,
        tail_tid=None,
        tail_header=0,
        magic="",
        transactions=None,
        data_name=None,
        md5=None,
        stored_size=0,
        sha256=None,
        source_path=printable(source.folder),
        source_device=status.st_dev,
        source_inode=status.st_ino,
        started=iso_time(started),
        finished=iso_time(clock.now()),
        engine=VERSION,
        chain_id=before.chain_id if before is not None else os.urandom(16).hex(),
        chain_backups=1 if before is None else before.chain_backups + 1,
        chain_stored_size=0,
        chain_manifest_size=summary.stored_size + (0 if before is None else before.chain_manifest_size),
        blobs=state.record,
    )


def prune_states_alone(settings: Settings, places: Places, *, clock: Clock) -> tuple[GroupVerdict, ...]:
    """Let old states go, as a backup does that made no full one; what became of each group."""
    with (
        explained("the old backups cannot be removed", hint="Run the same command again."),
        _begun(settings, places, clock) as run,
    ):
        return _prune(run, is_full=False)


def _prune(run: _Run, *, is_full: bool) -> tuple[GroupVerdict, ...]:
    """Remove the states that are old enough, the newest of a group first, and then the blobs that only they named.

    `keep` counts fulls, so it counts in a run that made one. What another program left goes by its age alone, once
    there is a state of ours.
    """
    location, settings, now = run.location, run.settings, int(run.started)
    base = run.source.folder.name
    repository = read_repository(location, location)
    keep = settings.keep if is_full else 0
    states = recorded_states(repository)
    verdicts = judge_states(states, now, keep_blob_days=settings.keep_blob_days, keep=keep)
    # Oldest group first, and in each the newest state first.
    gone = [stamp for group in verdicts if not group.stays for stamp in reversed(group.timestamps)]
    stay = [state.timestamp for state in states if state.timestamp not in gone]
    if gone:
        from zodbvault.repository.checks import carry_over

        carry_over(location, repository.names, gone, stay, run.ownership)
    for stamp in gone:
        # The one instant in which a state goes; what a kill leaves then is found by that name.
        rename_durably(location / (stamp + RECORD_SUFFIX), location / (stamp + PRUNED_RECORD_SUFFIX))
        _remove_state(location, base, stamp)
    if settings.keep_blob_days and stay:
        oldest = timestamp_at(now - settings.keep_blob_days * DAY)
        remove_older(location, base, min(oldest, stay[0]), container_states(list_files(location)))
    if gone:
        logger.info("Removed %s of blobs.", plural(len(gone), "old state"))
        run.pool.prune(read_repository(location, location))
    return verdicts


def _remove_state(location: Path, base: str, stamp: str) -> None:
    """Remove what belongs to a state whose record was renamed, that record last."""
    names = list_files(location)
    manifests = [(stamp, suffix) for suffix in MANIFEST_SUFFIXES if stamp + suffix in names]
    remove_made_with(manifests, location, base)
    suffixes = (*MANIFEST_SUFFIXES, CHECKS_SUFFIX)
    remove_durably(*(location / (stamp + suffix) for suffix in suffixes))
    remove_durably(location / (stamp + PRUNED_RECORD_SUFFIX))
