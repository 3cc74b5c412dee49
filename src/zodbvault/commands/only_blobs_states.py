"""The states of a site whose blobs alone are backed up: which there are, which one a date means, which go.

How long a state stays is a plain decision on states and a moment. Reads the listing and records; writes nothing.
"""

from __future__ import annotations

import collections
import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zodbvault.blobs.manifest import DamagedManifest
from zodbvault.blobs.stored import find_stored
from zodbvault.commands.blob_choices import BlobChoice, BlobListing, choose_states_alone
from zodbvault.commands.choosing import NothingThere, recorded_blob_states, what_there_is
from zodbvault.commands.written_manifests import require_as_written
from zodbvault.errors import ZodbvaultError
from zodbvault.io.clock import DAY
from zodbvault.repository.names import (
    ARCHIVE_MANIFEST_SUFFIX,
    COMPLETE_MANIFEST_SUFFIX,
    DELTA_MANIFEST_SUFFIX,
    DIRECTORY_MANIFEST_SUFFIX,
    MANIFEST_SUFFIXES,
    RECORD_SUFFIX,
)
from zodbvault.repository.records import ARCHIVES, DIRECTORIES, POOL, NewerFormat
from zodbvault.repository.store import read_repository
from zodbvault.repository.timestamps import seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from zodbvault.repository.store import Repository

_CONTAINERS = {
    DIRECTORY_MANIFEST_SUFFIX: "its directory",
    ARCHIVE_MANIFEST_SUFFIX: "its archive, or one that it stands on,",
}


@dataclass(frozen=True)
class State:
    """One state: its timestamp, its layout, and whether it stands on none before it."""

    timestamp: str
    is_complete: bool
    layout: str = POOL


def recorded_states(repository: Repository) -> tuple[State, ...]:
    """The states that the location has, oldest first: those with a record, also where their manifest is gone."""
    return tuple(_state_of(stamp, repository) for stamp in recorded_blob_states(repository.names))


def _state_of(stamp: str, repository: Repository) -> State:
    """The state with this timestamp. Of one that a later version wrote nobody knows here whether it stands alone."""
    if stamp + DELTA_MANIFEST_SUFFIX in repository.names:
        return State(stamp, is_complete=False)
    if stamp + COMPLETE_MANIFEST_SUFFIX in repository.names:
        return State(stamp, is_complete=True)
    if stamp + DIRECTORY_MANIFEST_SUFFIX in repository.names:
        return State(stamp, is_complete=True, layout=DIRECTORIES)
    if stamp + ARCHIVE_MANIFEST_SUFFIX in repository.names:
        is_delta = any(name.endswith((f".{stamp}.delta.tar", f".{stamp}.delta.tar.gz")) for name in repository.names)
        return State(stamp, is_complete=not is_delta, layout=ARCHIVES)
    try:
        record = repository.record(stamp)
    except NewerFormat:
        record = None
    if record is None or record.blobs is None:
        return State(stamp, is_complete=False)
    return State(stamp, is_complete=record.blobs.complete, layout=record.blobs.layout)


def choose_states(repository: Repository, when: str | None) -> tuple[BlobChoice, ...]:
    """The newest state at or before `when`, in each layout that holds it.

    Where it is not all there, it says what it lacks. No older one stands in for it: a restore would remove the blobs
    that this one lacks, and no data tell which are needed. Raises NothingThere, and NewerFormat where a manifest is not
    there under a name that this version knows, and a later one wrote its record.
    """
    # Those whose manifest is gone too: what stands on it lacks it.
    stamps = recorded_blob_states(repository.names)
    listing = BlobListing(repository.location, repository.names, find_stored(repository.location))
    choices = choose_states_alone(listing, stamps, when)
    up_to = [stamp for stamp in stamps if when is None or stamp <= when]
    if not choices and up_to:
        return (_what_is_left(repository, up_to),)
    if not choices:
        what = "holds no blob backup" if when is None else f"holds no blob backup at or before {when} (UTC)"
        known = sorted({*stamps, *(one.timestamp for one in listing.stored)})
        raise NothingThere(what, path=repository.location, hint=what_there_is(known, when))
    return tuple(choice for choice in choices if choice.timestamp == choices[0].timestamp)


def _what_is_left(repository: Repository, stamps: Sequence[str]) -> BlobChoice:
    """The state of the last of these timestamps, which is not all there, with what it lacks."""
    stamp = stamps[-1]
    for suffix, what in _CONTAINERS.items():
        if stamp + suffix in repository.names:
            return BlobChoice(stamp, repository.location / (stamp + suffix), lacks=f"{what} is missing")
    # It is one in the pool, or nobody knows: of those that it stands on the newest that is not there.
    newest = next((each for each in reversed(stamps) if each + DELTA_MANIFEST_SUFFIX not in repository.names), None)
    gone = None if newest is None else what_is_gone(repository, newest)
    if gone is None:
        path = repository.location / (stamp + DELTA_MANIFEST_SUFFIX)
        return BlobChoice(stamp, path, lacks="stands on a state that is not there")
    path, lacks = gone
    return BlobChoice(stamp, path, lacks=lacks if newest == stamp else f"{lacks}, and {stamp} stands on it")


def what_is_gone(repository: Repository, stamp: str) -> tuple[Path, str] | None:
    """The name of a file, and what to say behind it, of a state that has a record and no manifest; None with one.

    Raises NewerFormat where a later version wrote the record: its manifest may have a name that nobody knows here.
    """
    if any(stamp + suffix in repository.names for suffix in MANIFEST_SUFFIXES):
        return None
    record = repository.record(stamp)
    if record is None or record.blobs is None:
        return repository.location / (stamp + RECORD_SUFFIX), "cannot be read, and no manifest of this state is there"
    return repository.location / record.blobs.manifest, "is missing"


def wrong_with_state(repository: Repository, choice: BlobChoice) -> str | None:
    """Why a state does not restore, as far as names and sizes tell: a file, and what is wrong with it; else None."""
    try:
        require_as_written(repository, choice, quick=True)
    except ZodbvaultError as error:
        return named(error)
    return None


def named(error: ZodbvaultError) -> str:
    """What an error says, behind the name of its file."""
    return f"{os.path.basename(error.path or '')} {error.what}"


@contextlib.contextmanager
def other_dates_named(location: Path, timestamp: str) -> Iterator[None]:
    """Tell whoever reads an error of the block what to do; where a manifest is not whole, which states are.

    location: the folder of states, records and blobs. timestamp: of the state that is restored.
    """
    try:
        yield
    except ZodbvaultError as error:
        if error.hint is None:
            error.hint = "Nothing was changed. Choose another date."
            if isinstance(error, DamagedManifest):
                damaged = {error.path or ""}
                error.hint = _which_are_whole(read_repository(location, location), timestamp, damaged)
        raise


def _which_are_whole(repository: Repository, timestamp: str, damaged: set[str]) -> str:
    """What to do where the manifests of a state are not whole. damaged: paths of those that are known not to be."""
    stamps = recorded_blob_states(repository.names)
    before = (stamp for stamp in reversed(stamps) if stamp < timestamp)
    behind = (stamp for stamp in stamps if stamp > timestamp)
    whole = ((stamp for stamp in each if _is_whole(repository, stamp, damaged)) for each in (before, behind))
    dates = ", ".join(filter(None, (next(nearest, None) for nearest in whole)))
    others = f"the nearest states with whole manifests: {dates}" if dates else "no other state has a whole manifest"
    return f"Nothing was changed. Choose another date, or fetch it from another copy of the backups; {others}."


def _is_whole(repository: Repository, stamp: str, damaged: set[str]) -> bool:
    """Whether the manifests of a state are all there, and as they were written, as far as that is known.

    Adds to `damaged`, and reads nothing of what stands on one of these: many states may stand on a large one.
    """
    try:
        choices = choose_states(repository, stamp)
    except NewerFormat:
        return False
    for choice in choices:
        if damaged.isdisjoint(str(path) for path in (choice.complete, *choice.deltas)):
            error = _wrong_with(repository, choice)
            if error is None:
                return True
            damaged.add(error.path or "")
    return False


def _wrong_with(repository: Repository, choice: BlobChoice) -> ZodbvaultError | None:
    """Why the manifests of a state are not what their records say or, without one, cannot be read to their end."""
    # Whoever lists or prunes reads no blobs, and is not to wait for the import of what does.
    from pathlib import Path
    from tempfile import gettempdir

    from zodbvault.commands.state_in_use import entries_of

    try:
        if not require_as_written(repository, choice):
            with contextlib.closing(entries_of(choice, Path(gettempdir()))) as entries:
                collections.deque(entries, maxlen=0)
    except ZodbvaultError as error:
        return error
    return None


def complete_is_due(states: Sequence[State], now: int, keep_blob_days: int, layout: str) -> bool:
    """Whether the next state is to stand on none before it.

    So it is where the newest one has another layout than `layout`, or where the newest one that stands alone is older
    than half of keep_blob_days: an old state goes only when no younger one builds on it.
    """
    newest = max((state.timestamp for state in states if state.is_complete and state.layout == layout), default=None)
    if newest is None or states[-1].layout != layout:
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
    for newer_groups, group in enumerate(reversed(groups)):
        is_old = keep_blob_days > 0 and now - seconds_of(group[-1].timestamp) > keep_blob_days * DAY
        stays, reason = True, f"not older than {keep_blob_days} days" if keep_blob_days else "all are kept"
        if not newer_groups:
            reason = "the newest"
        elif is_old:
            stays, reason = False, f"older than {keep_blob_days} days"
        elif 0 < keep <= newer_groups:
            stays, reason = False, f"older than the newest {keep}"
        verdicts.append(GroupVerdict(tuple(state.timestamp for state in group), stays, reason))
    return tuple(reversed(verdicts))


def states_to_verify(
    repository: Repository, date: str | None, *, every: bool
) -> tuple[tuple[str, BlobChoice | None, str | None], ...]:
    """Each state (every), or the one for a date: its timestamp, what a restore takes, and what is wrong with that.

    date: as `parse_when` gives it. Oldest first.
    """
    stamps = recorded_blob_states(repository.names) if every else (choose_states(repository, date)[0].timestamp,)
    known: dict[str, tuple[bool, str | None]] = {}
    return tuple(_to_verify(repository, stamp, known) for stamp in stamps)


def _to_verify(
    repository: Repository, stamp: str, known: dict[str, tuple[bool, str | None]]
) -> tuple[str, BlobChoice | None, str | None]:
    """The same for one. known: as in require_as_written()."""
    try:
        choice = choose_states(repository, stamp)[0]
        require_as_written(repository, choice, known=known)
    except ZodbvaultError as error:
        return stamp, None, str(error)
    if choice.complete is None:
        return stamp, None, f"another program wrote {choice.place}, so nobody knows whether its blobs are all there"
    return stamp, choice, None
