"""Backups of the blobs alone, for sites whose records live elsewhere (a relational database).

There is no `.dat` and no chain: a state exists when its record stands beside its manifest, and the record comes last.
No Data.fs tells which blobs belong to something, so every blob counts.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zodbvault.blobs.check import verify_blobs
from zodbvault.blobs.manifest import merge_state
from zodbvault.blobs.opening import opened_container
from zodbvault.blobs.pool import Pool, backup_only_blobs, prune_pool
from zodbvault.blobs.source import SourceBlobs
from zodbvault.blobs.state import blob_state
from zodbvault.blobs.stored import find_stored
from zodbvault.commands.blob_choices import BlobListing, choose_states_alone
from zodbvault.commands.blob_state import blob_record, manifests_in
from zodbvault.commands.choosing import NothingThere, recorded_blob_states
from zodbvault.commands.places import Places, locked, make_folders, repository_ownership, source_ownership
from zodbvault.commands.restore_blobs import entries_of
from zodbvault.commands.run import new_timestamp, printable
from zodbvault.commands.summary import BackupReport, iso_time, plural, size_text
from zodbvault.errors import ZodbvaultError, explained
from zodbvault.io.durable import PartFile, remove_durably, rename_durably, write_durably
from zodbvault.io.progress import step
from zodbvault.repository.identity import new_id, read_id
from zodbvault.repository.names import (
    CHECKS_SUFFIX,
    COMPLETE_MANIFEST_SUFFIX,
    DELTA_MANIFEST_SUFFIX,
    ID_NAME,
    POOL_MANIFEST_SUFFIXES,
    RECORD_SUFFIX,
    is_our_part,
    split_name,
)
from zodbvault.repository.publish import publish_record
from zodbvault.repository.records import BLOBS, Record
from zodbvault.repository.store import Repository, list_files, read_repository
from zodbvault.repository.timestamps import seconds_of
from zodbvault.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from zodbvault.blobs.manifest import Entry
    from zodbvault.blobs.pool import BlobOutcome
    from zodbvault.commands.blob_choices import BlobChoice
    from zodbvault.io.clock import Clock
    from zodbvault.io.durable import Ownership
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

DAY = 86400
# A record has this name while its state is being removed.
PRUNED_RECORD_SUFFIX = RECORD_SUFFIX + ".pruned"


@dataclass(frozen=True)
class State:
    """One state: its timestamp, and whether its manifest is a complete one."""

    timestamp: str
    is_complete: bool


def back_up_blobs_alone(settings: Settings, places: Places, *, full_wanted: bool, clock: Clock) -> BackupReport:
    """Back up the blobs of one site, and let old states go."""
    assert settings.blob_storage is not None
    started = clock.now()
    make_folders(places)
    ownership = repository_ownership(source_ownership(settings.blob_storage), places.location)
    with (
        explained("the backup cannot be written", hint="Earlier backups are untouched."),
        locked((places,), started),
        Pool(places.location) as pool,
    ):
        source = SourceBlobs(settings.blob_storage)
        pool.prepare()
        pool.sweep()
        repository = _swept(places, _records_elsewhere(settings, places))
        if read_id(places.location) is None:
            write_durably(places.location / ID_NAME, new_id(), ownership)
        states = recorded_states(repository)
        is_full = full_wanted or complete_is_due(states, int(started), settings.keep_blob_days)
        report = _back_up(repository, source, pool, ownership, clock, states, is_full=is_full)
        _prune(places, pool, settings, int(started), is_full=full_wanted)
    return report


def recorded_states(repository: Repository) -> tuple[State, ...]:
    """The states that the location has, oldest first: those with a record and a manifest."""
    return tuple(
        State(stamp, stamp + COMPLETE_MANIFEST_SUFFIX in repository.names)
        for stamp in recorded_blob_states(repository.names)
        if stamp + COMPLETE_MANIFEST_SUFFIX in repository.names or stamp + DELTA_MANIFEST_SUFFIX in repository.names
    )


def choose_states(repository: Repository, when: str | None) -> tuple[BlobChoice, ...]:
    """The newest state at or before `when`, and what may replace it where it cannot be read. Raises NothingThere."""
    stamps = [state.timestamp for state in recorded_states(repository)]
    listing = BlobListing(repository.location, repository.names, find_stored(repository.location))
    choices = choose_states_alone(listing, stamps, when)
    if not choices:
        what = "holds no blob backup" if when is None else f"holds no blob backup at or before {when} (UTC)"
        raise NothingThere(what, path=repository.location, hint="Nothing was changed.")
    return choices


def complete_is_due(states: Sequence[State], now: int, keep_blob_days: int) -> bool:
    """Whether the next manifest is to be a complete one: there is none, or it is older than half of keep_blob_days.

    So that old states can go: one goes only when no younger one builds on it.
    """
    newest = max((state.timestamp for state in states if state.is_complete), default=None)
    if newest is None:
        return True
    return keep_blob_days > 0 and now - seconds_of(newest) > keep_blob_days * DAY / 2


@dataclass(frozen=True)
class GroupVerdict:
    """What becomes of some states that go or stay together, oldest first, and why."""

    timestamps: tuple[str, ...]
    stays: bool
    reason: str


def judge_states(states: Sequence[State], now: int, *, keep_blob_days: int, keep: int) -> tuple[GroupVerdict, ...]:
    """What becomes of each group of states, oldest first.

    A group is a complete manifest and the changes on it. It goes when all of it is older than keep_blob_days (0: that
    does not count), or when it is not among the newest `keep` groups (0: that does not count). The newest one stays.
    """
    groups: list[list[State]] = []
    for state in states:
        if state.is_complete or not groups:
            groups.append([])
        groups[-1].append(state)
    verdicts: list[GroupVerdict] = []
    for age, group in enumerate(reversed(groups)):
        is_old = keep_blob_days > 0 and now - seconds_of(group[-1].timestamp) > keep_blob_days * DAY
        stays, reason = True, f"not older than {keep_blob_days} days" if keep_blob_days else "all are kept"
        if age == 0:
            reason = "the newest"
        elif is_old:
            stays, reason = False, f"older than {keep_blob_days} days"
        elif 0 < keep <= age:
            stays, reason = False, f"older than the newest {keep}"
        verdicts.append(GroupVerdict(tuple(state.timestamp for state in group), stays, reason))
    return tuple(reversed(verdicts))


def _records_elsewhere(settings: Settings, places: Places) -> frozenset[str] | None:
    """The files in the location of the site's backups (or snapshots) of Data.fs, from a time when it had some.

    None when the blobs here are those of a repository that does not stand there: nobody knows its records then.
    """
    is_snapshot = places.location == settings.blobsnapshotlocation
    location = settings.snapshotlocation if is_snapshot else settings.location
    return list_files(location) if read_id(location) in (None, read_id(places.location)) else None


def _swept(places: Places, elsewhere: frozenset[str] | None) -> Repository:
    """The repository without what a killed run left: part files, and manifests that never got their record.

    elsewhere: see _records_elsewhere. The manifests of these backups stand here too, and their records there; where
    these are not known no manifest is touched.
    """
    repository = read_repository(places.location, places.location)
    for name in repository.names:
        parts = split_name(name)
        if parts is not None and parts[1] == PRUNED_RECORD_SUFFIX:
            _remove_state(places.location, parts[0])
    leftovers = [places.location / name for name in repository.names if is_our_part(name) or _is_left(name, repository)]
    newest = max(recorded_blob_states(repository.names), default=None)
    for name in repository.names:
        parts = split_name(name)
        if elsewhere is None or newest is None or parts is None or parts[1] not in POOL_MANIFEST_SUFFIXES:
            continue
        # One that is older than a record of ours was left by nobody: it may be a backup's whose location is not there.
        if parts[0] > newest and parts[0] + RECORD_SUFFIX not in elsewhere:
            leftovers.append(places.location / name)
    if leftovers:
        remove_durably(*leftovers)
        repository = read_repository(places.location, places.location)
    return repository


def _is_left(name: str, repository: Repository) -> bool:
    """Whether a file holds the checks of a state that went while it was verified."""
    parts = split_name(name)
    return parts is not None and parts[1] == CHECKS_SUFFIX and parts[0] + RECORD_SUFFIX not in repository.names


def _back_up(
    repository: Repository,
    source: SourceBlobs,
    pool: Pool,
    ownership: Ownership,
    clock: Clock,
    states: Sequence[State],
    *,
    is_full: bool,
) -> BackupReport:
    """Bring the blobs into the pool and publish the state; nothing is published where nothing changed."""
    started = clock.now()
    stamp = new_timestamp(repository, clock)
    logger.info("Please wait while backing up blobs from %s to %s", source.folder, repository.location)
    suffix = COMPLETE_MANIFEST_SUFFIX if is_full else DELTA_MANIFEST_SUFFIX
    with contextlib.ExitStack() as stack:
        previous = None
        if states:
            previous = stack.enter_context(contextlib.closing(_newest_state(repository, states, pool)))
        part = stack.enter_context(PartFile(repository.location / (stamp + suffix), ownership))
        on_progress = stack.enter_context(step("blobs", None))
        manifests = manifests_in(repository.location)
        outcome = backup_only_blobs(source, pool, part, previous, manifests, is_full, clock.now(), on_progress)
        if outcome.waiting:
            logger.info("%s: too young, or being written; the next run takes them.", plural(outcome.waiting, "file"))
        if not is_full and not outcome.summary.blobs and not outcome.removed:
            return BackupReport(f"No blobs changed since {states[-1].timestamp}, nothing to do.", None)
        part.publish()
        publish_record(repository.location, _record(repository, source, outcome, stamp, started, clock), ownership)
    return BackupReport(
        f"Backup of blobs {stamp}: {plural(outcome.copied, 'new blob')} ({size_text(outcome.copied_bytes)}), "
        f"{outcome.removed:,} removed, {outcome.summary.total_blobs or 0:,} in all, {clock.now() - started:.1f} s.",
        stamp,
    )


def _newest_state(repository: Repository, states: Sequence[State], pool: Pool) -> Generator[Entry, None, None]:
    """The entries of the newest state in the pool; none where its manifests are not all there."""
    found = blob_state([state.timestamp for state in states], repository.names)
    if found is not None:
        complete, deltas = found
        paths = [repository.location / name for name in deltas]
        yield from merge_state(repository.location / complete, paths, pool.scratch)


def _record(
    repository: Repository, source: SourceBlobs, outcome: BlobOutcome, stamp: str, started: float, clock: Clock
) -> Record:
    """The record of a state: nothing in it of any Data.fs."""
    summary = outcome.summary
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
        blobs=blob_record(outcome, total=summary.total_blobs or 0, total_size=summary.bytes if summary.complete else 0),
    )


def prune_states_alone(settings: Settings, places: Places, *, clock: Clock) -> tuple[GroupVerdict, ...]:
    """Let old states go, as a backup does that made no full one; what became of each group."""
    with locked((places,), clock.now()), Pool(places.location) as pool:
        pool.prepare()
        pool.sweep()
        _swept(places, _records_elsewhere(settings, places))
        return _prune(places, pool, settings, int(clock.now()), is_full=False)


def _prune(places: Places, pool: Pool, settings: Settings, now: int, *, is_full: bool) -> tuple[GroupVerdict, ...]:
    """Remove the states that are old enough, the newest of a group first, and then the blobs that only they named.

    `keep` counts fulls, so it counts in a run that made one.
    """
    repository = read_repository(places.location, places.location)
    keep = settings.keep if is_full else 0
    verdicts = judge_states(recorded_states(repository), now, keep_blob_days=settings.keep_blob_days, keep=keep)
    # Oldest group first, and in each the newest state first.
    gone = [stamp for group in verdicts if not group.stays for stamp in reversed(group.timestamps)]
    for stamp in gone:
        # The one instant in which a state goes; what a kill leaves then is found by that name.
        rename_durably(places.location / (stamp + RECORD_SUFFIX), places.location / (stamp + PRUNED_RECORD_SUFFIX))
        _remove_state(places.location, stamp)
    if gone:
        logger.info("Removed %s of blobs.", plural(len(gone), "old state"))
        prune_pool(manifests_in(places.location), pool)
    return verdicts


def _remove_state(location: Path, stamp: str) -> None:
    """Remove what belongs to a state whose record was renamed, that record last."""
    names = (stamp + suffix for suffix in (*POOL_MANIFEST_SUFFIXES, CHECKS_SUFFIX))
    remove_durably(*(location / name for name in names))
    remove_durably(location / (stamp + PRUNED_RECORD_SUFFIX))


def verify_states(places: Places, when: str | None, scratch: Path) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What is wrong with each state of the location, or with the one for `when`: its timestamp, and texts.

    scratch: a folder for temporary files.
    """
    repository = read_repository(places.location, places.location)
    stamps = [state.timestamp for state in recorded_states(repository)]
    if when is not None:
        stamps = [choose_states(repository, when)[0].timestamp]
    return tuple((stamp, _wrong_with_state(repository, stamp, scratch)) for stamp in stamps)


def _wrong_with_state(repository: Repository, stamp: str, scratch: Path) -> tuple[str, ...]:
    try:
        choice = choose_states(repository, stamp)[0]
        with (
            opened_container(repository.location, choice.stored, scratch) as container,
            contextlib.closing(entries_of(choice, scratch)) as entries,
        ):
            return tuple(str(finding) for finding in verify_blobs(entries, container))
    except ZodbvaultError as error:
        return (str(error),)
