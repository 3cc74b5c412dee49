"""Which blob state belongs to a date, where a location may hold several kinds: pool, directories, archives.

Plain decisions: timestamps, names and listings in, choices out, the best one first. No disk is looked at here.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from zodbvault.blobs.state import blob_state
from zodbvault.blobs.stored import ARCHIVE_FORMS, Form, Stored, series_up_to
from zodbvault.repository.names import (
    ARCHIVE_MANIFEST_SUFFIX,
    CONTAINER_MANIFEST_SUFFIXES,
    DIRECTORY_MANIFEST_SUFFIX,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

# Of the later and of the earlier ones: the nearest may be damaged too, and each that is read takes its time.
_OTHER_CHAINS = 2


@dataclass(frozen=True)
class BlobChoice:
    """A blob state: what tells which blobs it has, and where they are kept.

    timestamp: of the backup whose state it is. complete, deltas: our manifests; None and empty for a state that another
    program wrote, where the container tells what it holds. stored: the directory, or the full archive and the deltas
    on it; empty for the pool. is_exact: whether it is known to be the state of the data; another one is only known to
    be good if it has every blob that the data refer to. is_of_date: whether it was made for the data, by whomever.
    is_later: it is later than the data; their state is what is left of it without the blobs with a later tid, because
    between two backups of a chain no blob goes. gone: those of its manifests that are not there, where that is known.
    lacks: why a state of blobs alone is not all there, to be read behind the name of `complete`.
    """

    timestamp: str
    complete: Path | None
    deltas: tuple[Path, ...] = ()
    stored: tuple[Stored, ...] = ()
    is_exact: bool = True
    is_of_date: bool = True
    is_later: bool = False
    gone: tuple[Path, ...] = ()
    lacks: str = ""

    @property
    def place(self) -> str:
        """Where its blobs are kept, for people."""
        return ", ".join(one.path.name for one in self.stored) or "the pool"


@dataclass(frozen=True)
class BlobListing:
    """What a blob location holds. names: of its files; stored: its directories and archives, oldest first."""

    folder: Path
    names: frozenset[str]
    stored: tuple[Stored, ...]


def choose_blob_states(
    listing: BlobListing, whole: Sequence[str], wanted: int, all_timestamps: Sequence[str]
) -> Iterator[BlobChoice]:
    """The blob states that may serve the `wanted`th backup of a chain, the best one first, looked for one by one.

    whole: timestamps of the chain's backups, oldest first. all_timestamps: of all backups in the repository: what
    another program numbered belongs to the backup before it. First what we know to be the state of the data; then what
    another program made for them; then later states of the chain; then earlier ones; then what is numbered.
    """
    date = whole[wanted - 1]
    yield from _own(listing, whole[:wanted], is_exact=True)
    foreign = _foreign(listing, all_timestamps)
    others = [one for one in foreign if one.timestamp == date]
    others += _later(listing, whole, wanted)
    others += [
        _other_date(one, is_later=True) for one in reversed(foreign) if one.timestamp > date and one.timestamp in whole
    ]
    for length in range(wanted - 1, 0, -1):
        earlier = tuple(_own(listing, whole[:length], is_exact=False, is_of_date=False))
        if earlier:
            others += earlier
            break
    others += [_other_date(one, is_later=False) for one in foreign if one.timestamp < date][:1]
    yield from others
    # Numbers whose times a copy has lost may belong to any date.
    tried = {choice.stored for choice in others}
    for one in foreign:
        if one.stored not in tried and one.stored[-1].number is not None:
            yield _other_date(one, is_later=False)


def states_of_other_chains(listing: BlobListing, own: str, chains: Sequence[Sequence[str]]) -> Iterator[BlobChoice]:
    """States of ours in other chains than that of the full at `own`: of the nearest later ones, and earlier ones.

    chains: timestamps of the backups of each, both oldest first; `own` may be among them. A pack may lie between, so
    that none of these is known to be the state of the data; but one that has every blob that they refer to serves, for
    a blob never changes.
    """
    following = [stamps for stamps in chains if stamps and stamps[0] > own]
    before = [stamps for stamps in chains if stamps and stamps[0] < own]
    # Of a later chain the first state has what the data may refer to; of an earlier one the last has most.
    later = (_first_own(listing, stamps, range(1, len(stamps) + 1), is_later=True) for stamps in following)
    earlier = (_first_own(listing, stamps, range(len(stamps), 0, -1), is_later=False) for stamps in reversed(before))
    for found in (later, earlier):
        for states in islice(filter(None, found), _OTHER_CHAINS):
            yield from states


def _first_own(
    listing: BlobListing, stamps: Sequence[str], lengths: Iterable[int], *, is_later: bool
) -> tuple[BlobChoice, ...]:
    """The states that we wrote for a chain cut off at the first of these lengths that has any."""
    states = (
        tuple(_own(listing, stamps[:length], is_exact=False, is_of_date=False, is_later=is_later)) for length in lengths
    )
    return next(filter(None, states), ())


def _later(listing: BlobListing, whole: Sequence[str], wanted: int) -> tuple[BlobChoice, ...]:
    """States of ours that are later than the `wanted`th backup of a chain: the next one, and the newest."""
    for length in range(wanted + 1, len(whole) + 1):
        later = tuple(_own(listing, whole[:length], is_exact=True, is_of_date=False, is_later=True))
        if later and length < len(whole):
            # That one may be damaged; the newest is the one by which verify vouches for the whole chain.
            return (*later, *_own(listing, whole, is_exact=True, is_of_date=False, is_later=True))
        if later:
            return later
    return ()


def choose_states_alone(listing: BlobListing, own: Sequence[str], when: str | None) -> tuple[BlobChoice, ...]:
    """The newest states at or before `when` of a site whose blobs alone are backed up: another program's, and ours.

    own: timestamps of our states, oldest first. when: None for the newest. Ours are those that hold the newest state;
    none where that is not all there. Another program's counts only where it is newer.
    """
    stamps = [stamp for stamp in own if when is None or stamp <= when]
    ours = tuple(_own(listing, stamps, is_exact=True)) if stamps else ()
    foreign = [
        BlobChoice(one.timestamp, None, stored=series, is_exact=False)
        for one, series in _not_ours(listing, own)
        if when is None or one.timestamp <= when
    ]
    newer = [one for one in foreign if not stamps or one.timestamp > stamps[-1]]
    return (*newer[:1], *ours)


def _own(
    listing: BlobListing, stamps: Sequence[str], *, is_exact: bool, is_of_date: bool = True, is_later: bool = False
) -> Iterator[BlobChoice]:
    """The states that we wrote for the last of `stamps`."""
    date = stamps[-1]
    state = blob_state(stamps, listing.names)
    found: list[tuple[str, tuple[str, ...], tuple[Stored, ...]]] = []
    if state is not None:
        found.append((*state, ()))
    for suffix, forms in (
        (DIRECTORY_MANIFEST_SUFFIX, (Form.DIRECTORY,)),
        (ARCHIVE_MANIFEST_SUFFIX, ARCHIVE_FORMS),
    ):
        if date + suffix in listing.names:
            found += [(date + suffix, (), series) for series in _holding(listing.stored, date, forms)]
    for complete, deltas, series in found:
        yield BlobChoice(
            date,
            _path(listing.folder, complete),
            tuple(_path(listing.folder, name) for name in deltas),
            series,
            is_exact=is_exact,
            is_of_date=is_of_date,
            is_later=is_later,
        )


@functools.lru_cache(maxsize=16_384)
def _path(folder: Path, name: str) -> Path:
    """A path that the states of a chain share: each names all manifests up to its own."""
    return folder / name


def _holding(stored: tuple[Stored, ...], date: str, forms: tuple[Form, ...]) -> Iterator[tuple[Stored, ...]]:
    """What may hold the state that our manifest of `date` tells of.

    A copy that lost its times has numbered ones of any time: then each of these may be it, the manifest decides.
    """
    candidates = [(one, series) for one, series in _newest_first(stored) if one.form in forms]
    fitting = [series for one, series in candidates if one.timestamp == date]
    yield from fitting or [series for one, series in candidates if one.number is not None]


def _newest_first(stored: tuple[Stored, ...]) -> Iterator[tuple[Stored, tuple[Stored, ...]]]:
    """Each directory and archive with what has to be unpacked for it, the newest first."""
    for one in reversed(stored):
        if one.form is not Form.SNAPSHOT_FILE:
            series = series_up_to(stored, one)
            if series:
                yield one, series


def _foreign(listing: BlobListing, all_timestamps: Sequence[str]) -> tuple[BlobChoice, ...]:
    """What another program made, the newest first; each belongs to the backup at or before it."""
    found = []
    for one, series in _not_ours(listing, all_timestamps):
        owner = max((stamp for stamp in all_timestamps if stamp <= one.timestamp), default=one.timestamp)
        found.append(BlobChoice(owner, None, stored=series, is_exact=False))
    return tuple(found)


def _not_ours(listing: BlobListing, backups: Sequence[str]) -> Iterator[tuple[Stored, tuple[Stored, ...]]]:
    """Of `_newest_first` those of which no manifest of ours tells what is in them, or may tell it.

    Where one does, nothing else is believed: a blob that was cut short would be taken as it is. A numbered one that
    lost its time may be that of any manifest whose own is not there; backups: timestamps of those that are, so that a
    manifest which the other recipe's prune left tells nothing.
    """
    states = tuple(_newest_first(listing.stored))
    with_their_own = {one.timestamp + manifest_suffix_of(one) for one, _ in states}
    without = {
        suffix
        for suffix in CONTAINER_MANIFEST_SUFFIXES
        if any(stamp + suffix in listing.names and stamp + suffix not in with_their_own for stamp in backups)
    }
    for one, series in states:
        suffix = manifest_suffix_of(one)
        if one.timestamp + suffix not in listing.names and (one.number is None or suffix not in without):
            yield one, series


def manifest_suffix_of(one: Stored) -> str:
    """How the name of our manifest of a directory or archive ends."""
    return DIRECTORY_MANIFEST_SUFFIX if one.form is Form.DIRECTORY else ARCHIVE_MANIFEST_SUFFIX


def _other_date(choice: BlobChoice, *, is_later: bool) -> BlobChoice:
    return BlobChoice(choice.timestamp, None, stored=choice.stored, is_exact=False, is_of_date=False, is_later=is_later)
