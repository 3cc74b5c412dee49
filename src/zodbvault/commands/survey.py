"""What stands in a site's repositories, as plain data: the one look that list, check, prune and report share.

From the `.dat` files, the records and the checks; no backup is read, nothing is written, no lock is taken. What others
decide from it they decide without a disk.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.commands.choosing import blobs_of_each, recorded_blob_states
from zodbvault.commands.places import chosen_places
from zodbvault.commands.summary import plural, seconds_of_iso
from zodbvault.errors import ZodbvaultError
from zodbvault.repository.checks import Checks, read_checks
from zodbvault.repository.names import (
    CHECKS_SUFFIX,
    ORPHAN_SUFFIX,
    PRUNED_SUFFIX,
    split_name,
)
from zodbvault.repository.records import BLOBS, FULL, INCREMENTAL, NewerFormat
from zodbvault.repository.store import MOST_LOOKS, chain_problem, is_of_line, newer_format, read_repository, size_of
from zodbvault.repository.sweep import one_step_from_done, unnamed_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zodbvault.commands.places import Places
    from zodbvault.repository.chains import Chain, ListedChain
    from zodbvault.repository.dat import Line
    from zodbvault.repository.names import DataFile
    from zodbvault.repository.records import BlobRecord, Record
    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")


class SeenBackup(NamedTuple):
    """One backup. Sizes are bytes; None is not known, and for `stored_size` a file that is missing.

    kind: FULL, INCREMENTAL or BLOBS. is_complete: it needs none before it. name: of the data file. size, end: of its
    part of Data.fs, and where that ends. seconds: how long it took.
    """

    timestamp: str
    kind: str
    is_complete: bool
    name: str | None = None
    size: int | None = None
    end: int | None = None
    stored_size: int | None = None
    transactions: int | None = None
    blobs: BlobRecord | None = None
    seconds: int | None = None
    checks: Checks | None = None

    @property
    def is_missing(self) -> bool:
        """Whether its data file is not there."""
        return self.name is not None and self.stored_size is None


class SeenChain(NamedTuple):
    """A chain, or a complete blob state with the changes on it. backups: oldest first.

    problem: why a restore of its newest backup is in doubt, as far as a look at the files tells; None when it is not.
    lacks_blobs: nothing tells which blobs belong to its newest backup.
    """

    timestamp: str
    backups: tuple[SeenBackup, ...]
    problem: str | None
    lacks_blobs: bool = False

    @property
    def stored_size(self) -> int:
        """Bytes that its data files take."""
        return sum(backup.stored_size or 0 for backup in self.backups)


class Survey(NamedTuple):
    """One repository of a site. name: in LOCATIONS. chains: oldest first. warnings: a sentence each."""

    name: str
    places: Places
    chains: tuple[SeenChain, ...]
    warnings: tuple[str, ...]

    @property
    def backups(self) -> tuple[SeenBackup, ...]:
        """All backups, oldest first."""
        return tuple(backup for chain in self.chains for backup in chain.backups)


def survey_site(settings: Settings, which: str) -> tuple[Survey, ...]:
    """Look at the repositories that `which` names: one of LOCATIONS, or ALL.

    Raises ZodbvaultError for one that cannot be listed. A folder that does not exist is an empty one.
    """
    return tuple(survey(settings, name, places) for name, places in chosen_places(settings, which))


def survey(settings: Settings, name: str, places: Places) -> Survey:
    """Look at one repository; again where a backup seems to prune it meanwhile, until two looks see the same."""
    seen = _look(settings, name, places)
    for _ in range(MOST_LOOKS - 1):
        if not _is_strange(seen):
            break
        before, seen = seen, _look(settings, name, places)
        if seen == before:
            break
    return seen


def _is_strange(seen: Survey) -> bool:
    """Whether something is not all there."""
    return any(backup.is_missing for backup in seen.backups) or any(
        chain.problem or chain.lacks_blobs for chain in seen.chains
    )


def _look(settings: Settings, name: str, places: Places) -> Survey:
    repository = read_repository(places.location, places.blobs)
    if settings.only_blobs:
        chains = _groups_of_states(repository)
    else:
        seen = [_seen_chain(repository, chain, with_blobs=settings.backup_blobs) for chain in repository.chains]
        seen += [_seen_listed(repository, listed) for listed in repository.listed]
        chains = tuple(sorted(seen, key=lambda chain: chain.timestamp))
    return Survey(name, places, chains, tuple(_warnings(repository, chains)))


def _seen_chain(repository: Repository, chain: Chain, *, with_blobs: bool) -> SeenChain:
    try:
        problem = chain_problem(repository, chain, with_blobs=with_blobs)
    except NewerFormat as error:
        problem = _told(repository, error)
    except ZodbvaultError as error:
        problem = str(error)
    backups = tuple(_seen_line(repository, line) for line in chain.lines)
    lacks_blobs = bool(chain.lines) and with_blobs and not _has_exact_blobs(repository, chain)
    return SeenChain(chain.timestamp, backups, problem, lacks_blobs)


def _has_exact_blobs(repository: Repository, chain: Chain) -> bool:
    (states,) = blobs_of_each(repository, chain, (len(chain.lines),))
    first = next(states, None)
    return first is not None and first.is_exact


def _seen_line(repository: Repository, line: Line) -> SeenBackup:
    record = _record(repository, line.timestamp)
    if record is not None and not is_of_line(record, line):
        record = None
    seen = _seen_file(repository, line.file)
    known = seen._replace(size=line.size, end=line.end)
    return known if record is None else _with_record(known, record)


def _seen_listed(repository: Repository, listed: ListedChain) -> SeenChain:
    """A chain without a `.dat`: its records are all that is known."""
    backups = []
    for file in listed.files:
        seen, record = _seen_file(repository, file), _record(repository, file.timestamp)
        if record is not None and record.data_name == file.name:
            seen = _with_record(seen._replace(size=record.end - record.start, end=record.end), record)
        backups.append(seen)
    return SeenChain(listed.timestamp, tuple(backups), "it has no .dat file; its files are taken as they are")


def _seen_file(repository: Repository, file: DataFile) -> SeenBackup:
    return SeenBackup(
        file.timestamp,
        FULL if file.is_full else INCREMENTAL,
        is_complete=file.is_full,
        name=file.name,
        stored_size=size_of(repository.location / file.name),
        checks=_checks(repository, file.timestamp),
    )


def _with_record(seen: SeenBackup, record: Record) -> SeenBackup:
    seconds = _seconds_between(record.started, record.finished)
    return seen._replace(transactions=record.transactions, blobs=record.blobs, seconds=seconds)


def _seconds_between(started: str, finished: str) -> int | None:
    """Whole seconds between two times of a record; None where they are not what a record holds."""
    try:
        return max(0, seconds_of_iso(finished) - seconds_of_iso(started))
    except ValueError:
        return None


def _record(repository: Repository, timestamp: str) -> Record | None:
    """The record, where it can be read: what one alone says is no reason to show nothing of the others."""
    try:
        return repository.record(timestamp)
    except NewerFormat as error:
        if error.path not in repository.told:
            logger.warning("%s", _told(repository, error))
        return None


def _told(repository: Repository, error: NewerFormat) -> str:
    """What is said of a record, once."""
    repository.told.add(str(error.path))
    return str(error)


def _checks(repository: Repository, timestamp: str) -> Checks | None:
    has_any = timestamp + CHECKS_SUFFIX in repository.names
    return read_checks(repository.location, timestamp) if has_any else None


def _groups_of_states(repository: Repository) -> tuple[SeenChain, ...]:
    """The states of a site whose blobs alone are backed up: each complete one with the changes on it."""
    # Here and below: what reads manifests takes its time to import, and a look at any other site needs none of it.
    from zodbvault.commands.only_blobs_states import recorded_states

    complete = {state.timestamp for state in recorded_states(repository) if state.is_complete}
    groups: list[list[SeenBackup]] = []
    stamps = recorded_blob_states(repository.names)
    # Of a state that a later version wrote nobody knows here whether it restores.
    error = newer_format(repository, stamps[-1:])
    newer = None if error is None else _told(repository, error)
    for stamp in stamps:
        is_complete = stamp in complete
        seen = SeenBackup(stamp, BLOBS, is_complete, checks=_checks(repository, stamp))
        record = _record(repository, stamp)
        if is_complete or not groups:
            groups.append([])
        groups[-1].append(seen if record is None else _with_record(seen, record))
    seen_groups = []
    for group in groups:
        if group is groups[-1]:
            problem = newer or _wrong_with_newest(repository, group)
        else:
            problem = _what_is_gone(repository, group)
        seen_groups.append(SeenChain(group[0].timestamp, tuple(group), problem))
    return tuple(seen_groups)


def _what_is_gone(repository: Repository, group: list[SeenBackup]) -> str | None:
    """Which manifest is missing of some older states that stand on each other. They may be many: names alone count."""
    from zodbvault.commands.only_blobs_states import named, what_is_gone

    for seen in group:
        try:
            gone = what_is_gone(repository, seen.timestamp)
        except NewerFormat as error:
            return named(error)
        if gone is not None:
            path, what = gone
            return f"{path.name} {what}"
    return None if group[0].is_complete else "no complete manifest is before it"


def _wrong_with_newest(repository: Repository, group: list[SeenBackup]) -> str | None:
    """What is wrong with the newest of some states that stand on each other, by names and sizes."""
    from zodbvault.commands.only_blobs_states import choose_states, named, wrong_with_state

    try:
        return wrong_with_state(repository, choose_states(repository, group[-1].timestamp)[0])
    except NewerFormat as error:
        return named(error)


def _warnings(repository: Repository, chains: tuple[SeenChain, ...]) -> Iterator[str]:
    """What an administrator has to know, a sentence each; the weightiest first."""
    for chain in chains:
        if chain.problem is not None:
            yield f"The chain of {chain.timestamp}: {chain.problem.rstrip('.')}."
        if chain.lacks_blobs:
            yield f"The chain of {chain.timestamp} has no blob state: it restores where its blobs are there."
    for chain in chains:
        yield from _warnings_of_checks(chain)
    newest = next((backup for chain in reversed(chains) for backup in reversed(chain.backups)), None)
    if newest is not None and newest.blobs is not None and newest.blobs.missing:
        lost, first = plural(len(newest.blobs.missing), "blob"), newest.blobs.missing[0]
        yield f"The site has lost {lost} that its data refer to, such as {first}."
    if not _is_of_blobs_alone(chains):
        for file in unnamed_files(repository):
            if not _is_of_listed(repository, file) and one_step_from_done(repository, file) is None:
                yield f"{file.name} has no line in a .dat file; it is no backup."
    yield from _warnings_of_names(repository)


def _is_of_blobs_alone(chains: tuple[SeenChain, ...]) -> bool:
    return any(backup.kind == BLOBS for chain in chains for backup in chain.backups)


def _is_of_listed(repository: Repository, file: DataFile) -> bool:
    return any(file in listed.files for listed in repository.listed)


def _warnings_of_checks(chain: SeenChain) -> Iterator[str]:
    """What went wrong when the backups of a chain were last looked at; the first one is enough."""
    unverified = _first(chain, "verified_good")
    if unverified is not None and unverified.checks is not None:
        when, what = unverified.checks.verified, unverified.timestamp
        yield f"The verification of {when} found that {what} does not restore; later backups of its chain need it."
    failed = _first(chain, "drilled_good")
    if failed is not None and failed.checks is not None:
        yield f"The drill of {failed.checks.drilled}, which rehearsed a restore of {failed.timestamp}, failed."


def _first(chain: SeenChain, good: str) -> SeenBackup | None:
    """The first backup of a chain whose last check, `verified_good` or `drilled_good`, did not go well."""
    return next((one for one in chain.backups if one.checks is not None and getattr(one.checks, good) is False), None)


def _warnings_of_names(repository: Repository) -> Iterator[str]:
    orphans = sorted(name for name in repository.names if name.endswith(ORPHAN_SUFFIX))
    if orphans:
        yield f"Put aside: {plural(len(orphans), 'file')} of killed runs, such as {orphans[0]}."
    for name in sorted(repository.names):
        parts = split_name(name)
        if parts is not None and parts[1] == PRUNED_SUFFIX:
            yield f"The removal of the chain of {parts[0]} is not finished; a backup is at it, or the next finishes it."
