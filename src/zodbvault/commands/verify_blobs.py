"""The blobs' part of a verification: each blob of each state against its manifest.

What several states share is read once: the newest is looked at first, and of an older one what is not the same file.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.archives import ArchiveContainer
from zodbvault.blobs.directories import DirectoryContainer
from zodbvault.blobs.layouts import OID_SIZE
from zodbvault.blobs.opening import opened_container
from zodbvault.blobs.pool import Pool
from zodbvault.blobs.verifying import MORE, verify_blobs
from zodbvault.commands.state_in_use import entries_of
from zodbvault.commands.verify_result import Finding, finding_of
from zodbvault.errors import ZodbvaultError
from zodbvault.repository.records import ARCHIVES
from zodbvault.repository.store import size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
    from pathlib import Path

    from zodbvault.blobs.containers import Container
    from zodbvault.blobs.manifest import Entry
    from zodbvault.commands.blob_choices import BlobChoice
    from zodbvault.commands.choosing import Choice
    from zodbvault.repository.store import Repository


class BlobDate(NamedTuple):
    """A date and the blob state that a restore for it takes.

    last_tid: where the state is later than the data, the greatest tid of these; else None. archives_size: bytes that
    its archives had, where a record tells. is_in_part: the state may lack blobs, which a restore takes elsewhere then.
    """

    timestamp: str
    choice: BlobChoice
    last_tid: bytes | None = None
    archives_size: int | None = None
    is_in_part: bool = False


def blob_dates(repository: Repository, choice: Choice) -> list[BlobDate]:
    """What has to be looked at for the newest date of a chosen chain; nothing where no state is known.

    What another program made for the date is taken where it has all blobs, else a later state of ours: that has to be
    good then, and tells what the blobs of the other one have to be.
    """
    first, ours = choice.blobs, stand_in(choice)
    if first is None:
        return []
    if ours is None:
        return [_blob_date(repository, choice, first)]
    theirs = replace(first, complete=ours.complete, deltas=ours.deltas)
    return [BlobDate(choice.timestamp, theirs, is_in_part=True), _blob_date(repository, choice, ours)]


def stand_in(choice: Choice) -> BlobChoice | None:
    """The later state of ours that has to be good where a restore takes that of another program first."""
    return None if choice.blobs is None or choice.blobs.is_exact else known_later(choice)


def known_later(choice: Choice) -> BlobChoice | None:
    """The later state of ours that a restore takes where that of another program lacks blobs."""
    return next((one for one in choice.blob_choices if one.is_exact and one.is_later), None)


def has_known_blobs(choice: Choice, *, deep: bool) -> bool:
    """Whether it is known which blobs belong to a state.

    deep: what another program backed up was compared with the data, so it is known to have all that they refer to.
    """
    blobs = choice.blobs
    return blobs is not None and (blobs.is_exact or known_later(choice) is not None or (deep and blobs.is_of_date))


def _blob_date(repository: Repository, choice: Choice, blobs: BlobChoice) -> BlobDate:
    record = repository.record_of(choice.chain.newest)
    last_tid = bytes.fromhex(record.last_tid or "") if record is not None and blobs.is_later else None
    size = None
    if record is not None and record.blobs is not None and record.blobs.layout == ARCHIVES:
        is_its_own = blobs.complete is not None and blobs.complete.name == record.blobs.manifest
        size = record.blobs.archives_size if is_its_own else None
    return BlobDate(choice.timestamp, blobs, last_tid, size)


def looks(dates: Sequence[BlobDate]) -> list[list[BlobDate]]:
    """The dates of a chain in groups that one look is enough for: at the state of the last of each, oldest first.

    Between two backups of a chain no blob goes, so a state has all blobs of the earlier ones that stand on the same
    complete manifest.
    """
    groups: dict[object, list[BlobDate]] = {}
    for date in dates:
        groups.setdefault(part_of(date.choice), []).append(date)
    return [sorted(group, key=_reach) for group in groups.values()]


def part_of(choice: BlobChoice | None) -> object:
    """What is the same for states that are parts of each other."""
    return None if choice is None else (choice.complete, choice.stored)


def _reach(date: BlobDate) -> tuple[int, bool, str]:
    """What grows with the number of blobs of a state, among those on one complete manifest."""
    return len(date.choice.deltas), date.last_tid is None, date.timestamp


class _Before(NamedTuple):
    """A state that was looked at. wrong: texts by the blobs' paths."""

    container: Container
    date: BlobDate
    wrong: Mapping[str, str]


class StateVerifier:
    """Looks at the blob states of a location, one after the other, the newest first. A context manager.

    quick: names and sizes only. scratch: a folder for temporary files.
    """

    def __init__(self, location: Path, scratch: Path, *, quick: bool) -> None:
        self._location = location
        self._scratch = scratch
        self._quick = quick
        # By the kind of the container: the last one, which is open for the comparison with the next.
        self._befores: dict[type, tuple[_Before, contextlib.ExitStack]] = {}
        self.blobs: dict[str, int] = {}
        """How many blobs the states have, by the timestamp of the date that was looked at."""

    def __enter__(self) -> StateVerifier:
        return self

    def __exit__(self, *_: object) -> None:
        for _, stack in self._befores.values():
            stack.close()

    def look(self, dates: Sequence[BlobDate]) -> list[Finding]:
        """What is wrong with a group of `looks`, by the dates that need it."""
        if not dates:
            return []
        if self._quick and dates[-1].archives_size is not None:
            return self._sizes_of_archives(dates)
        try:
            return self._wrong_blobs(dates)
        except ZodbvaultError as error:
            # A manifest that cannot be read says nothing of the dates that do not need it.
            whys = [self._why_unreadable(date) for date in dates]
            readable = [date for date, why in zip(dates, whys, strict=True) if why is None]
            if len(readable) == len(dates):
                return [finding_of(error, *sorted(date.timestamp for date in dates))]
            found = [finding_of(why, date.timestamp) for date, why in zip(dates, whys, strict=True) if why is not None]
            return [*found, *self.look(readable)]

    def _sizes_of_archives(self, dates: Sequence[BlobDate]) -> list[Finding]:
        """Whether archives have the size that they had: their headers need not be read for that."""
        findings = []
        for date in dates:
            sizes = [size_of(one.path) for one in date.choice.stored]
            found = sum(size or 0 for size in sizes)
            if found != date.archives_size:
                what = f"{date.choice.place}: {found} bytes, written were {date.archives_size}"
                findings.append(Finding((date.timestamp,), what))
        return findings

    def _wrong_blobs(self, dates: Sequence[BlobDate]) -> list[Finding]:
        newest = dates[-1]
        stack = contextlib.ExitStack()
        try:
            container = stack.enter_context(opened_container(self._location, newest.choice.stored, self._scratch))
            known: dict[str, str] = {}
            with contextlib.closing(self._not_looked_at(newest, container, known)) as entries:
                found = verify_blobs(entries, container, self._quick)
            is_all = not found or found[-1].kind != MORE
            wrong = {**known, **{finding.path: str(finding) for finding in found}}
            findings = self._findings(dates, container, wrong)
            if not is_all:
                findings.append(Finding(tuple(sorted(date.timestamp for date in dates)), str(found[-1])))
        except BaseException:
            stack.close()
            raise
        self._remember(_Before(container, newest, wrong), stack, is_all=is_all)
        return findings

    def _remember(self, before: _Before, stack: contextlib.ExitStack, *, is_all: bool) -> None:
        """Let the next state of the kind be compared with this one, unless not all that is wrong with it is known."""
        _, old = self._befores.pop(type(before.container), (None, None))
        if old is not None:
            old.close()
        if is_all:
            self._befores[type(before.container)] = before, stack
        else:
            stack.close()

    def _not_looked_at(
        self, date: BlobDate, container: Container, known: dict[str, str]
    ) -> Generator[Entry, None, None]:
        """The entries of a state without those whose blobs were looked at with the state before.

        known: gets those that were found wrong there.
        """
        before = self._befores.get(type(container), (None, None))[0]
        is_same = None if before is None else same_content(container, before.container)
        number = 0
        with contextlib.ExitStack() as stack:
            entries = stack.enter_context(contextlib.closing(self._entries(date)))
            if date.is_in_part:
                entries = stack.enter_context(contextlib.closing(_those_in(container, entries)))
            others: Iterator[Entry] = iter(())
            if before is not None and is_same is not None:
                others = stack.enter_context(contextlib.closing(self._entries(before.date)))
            other = next(others, None)
            for entry, is_here in stack.enter_context(contextlib.closing(_with_presence(container, entries))):
                number += 1
                while other is not None and other.key < entry.key:
                    other = next(others, None)
                if before is None or is_same is None or other != entry or not (is_here and is_same(entry.key)):
                    yield entry
                    continue
                what = before.wrong.get(before.container.path_of(entry.key))
                if what is not None:
                    known[container.path_of(entry.key)] = what
        self.blobs[date.timestamp] = number

    def _findings(self, dates: Sequence[BlobDate], container: Container, wrong: Mapping[str, str]) -> list[Finding]:
        """What is wrong, with the dates whose states name it."""
        needed_by: dict[str, list[str]] = {path: [] for path in wrong}
        for date in dates if wrong else ():
            with contextlib.closing(self._entries(date)) as entries:
                for entry in entries:
                    path = container.path_of(entry.key)
                    if path in needed_by:
                        needed_by[path].append(date.timestamp)
        return [Finding(tuple(sorted(stamps)), wrong[path]) for path, stamps in sorted(needed_by.items()) if stamps]

    def _entries(self, date: BlobDate) -> Generator[Entry, None, None]:
        """The entries of a date's state; of a later one those that the data may refer to."""
        with contextlib.closing(entries_of(date.choice, self._scratch)) as entries:
            for entry in entries:
                if date.last_tid is None or entry.key[OID_SIZE:] <= date.last_tid:
                    yield entry

    def _why_unreadable(self, date: BlobDate) -> ZodbvaultError | None:
        try:
            with contextlib.closing(self._entries(date)) as entries:
                for _ in entries:
                    pass
        except ZodbvaultError as error:
            return error
        return None


def _with_presence(container: Container, entries: Iterator[Entry]) -> Generator[tuple[Entry, bool], None, None]:
    """Each entry and whether the container has its blob; of others than archives that is seen when it is looked at."""
    if not isinstance(container, ArchiveContainer):
        yield from ((entry, True) for entry in entries)
        return
    with contextlib.closing(container.sizes(entries)) as held:
        yield from ((entry, size is not None) for entry, size in held)


def _those_in(container: Container, entries: Iterator[Entry]) -> Generator[Entry, None, None]:
    """The entries of the blobs that a container has, in whichever size."""
    with contextlib.closing(container.sizes(entries)) as held:
        for entry, size in held:
            if size is not None:
                yield entry


def same_content(container: Container, other: Container) -> Callable[[bytes], bool] | None:
    """Tells of a blob that both containers are to have whether it is the same file; None where it never is."""
    if isinstance(container, Pool) and isinstance(other, Pool):
        return lambda _: True
    if isinstance(container, DirectoryContainer) and isinstance(other, DirectoryContainer):
        return lambda key: container.identity_of(key) == other.identity_of(key) is not None
    if isinstance(container, ArchiveContainer) and isinstance(other, ArchiveContainer) and container.begins(other):
        return lambda _: True
    return None
