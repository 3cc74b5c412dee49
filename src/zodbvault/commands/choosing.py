"""Which backup a date means: the chain and the blob state that a restore would take, and why.

Shared by restore, verify and list, so that all of them mean the same. Reads the listing, never writes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from zodbvault.blobs.stored import find_stored
from zodbvault.commands.blob_choices import BlobChoice, BlobListing, choose_blob_states, states_of_other_chains
from zodbvault.errors import ZodbvaultError
from zodbvault.io.gzip_members import read_blocks
from zodbvault.io.hashing import new_hash
from zodbvault.repository.chains import Chain, ListedChain, choose_chain, data_files, newest_within
from zodbvault.repository.dat import Line
from zodbvault.repository.names import (
    COMPLETE_MANIFEST_SUFFIX,
    CONTAINER_MANIFEST_SUFFIX,
    DELTA_MANIFEST_SUFFIX,
    RECORD_SUFFIX,
    split_name,
)
from zodbvault.repository.records import POOL
from zodbvault.repository.sweep import one_step_from_done, unnamed_files
from zodbvault.repository.timestamps import meaning_of, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from zodbvault.repository.store import Repository

logger = logging.getLogger("zodbvault")

_Repository = TypeVar("_Repository")
_Found = TypeVar("_Found")


class NothingThere(ZodbvaultError):
    """The repository has no backup for the date."""


class Cut(NamedTuple):
    """Where a state ends before its backup does: at the offset `end` of Data.fs, with the transaction `tid`."""

    end: int
    tid: bytes


@dataclass(frozen=True)
class Choice:
    """What a restore takes. chain: cut off at the date. blob_choices: states that may serve, the best one first.

    cut: where the state ends within the newest line; None for all of it.
    """

    chain: Chain
    blob_choices: tuple[BlobChoice, ...] = ()
    cut: Cut | None = None

    @property
    def blobs(self) -> BlobChoice | None:
        """The blob state that is taken; None without blobs, or where no state is known."""
        return self.blob_choices[0] if self.blob_choices else None

    @property
    def timestamp(self) -> str:
        """The timestamp of the state; of one that is cut that of the backup that it is a part of."""
        return self.chain.newest.timestamp

    @property
    def end(self) -> int:
        """How many bytes of Data.fs the state has."""
        return self.chain.newest.end if self.cut is None else self.cut.end


def of_each_that_has_some(every: Iterable[_Repository], look: Callable[[_Repository], _Found]) -> list[_Found]:
    """What `look` finds in each of some repositories; one that has nothing for the date is left out.

    Raises NothingThere, that of the first one, where none has.
    """
    outcomes = [_found_or_not(look, each) for each in every]
    found = [outcome for outcome in outcomes if not isinstance(outcome, NothingThere)]
    for outcome in outcomes:
        if isinstance(outcome, NothingThere) and not found:
            raise outcome
    return found


def _found_or_not(look: Callable[[_Repository], _Found], repository: _Repository) -> _Found | NothingThere:
    try:
        return look(repository)
    except NothingThere as error:
        return error


def chains_to_restore(repository: Repository) -> tuple[Chain, ...]:
    """The chains of a repository, with the backup that was one step from done when its run was killed."""
    chains = list(repository.chains)
    for file in unnamed_files(repository):
        step = one_step_from_done(repository, file)
        if step is None:
            continue
        line, chain = step
        logger.warning("%s is one step from done: a backup is at it, or was killed; it counts as one.", file.name)
        if chain is None:
            chains.append(Chain(line.timestamp, (line,)))
        else:
            chains[-1] = Chain(chain.timestamp, (*chain.lines, line))
        break
    return tuple(chains)


def chains_known_by_listing(repository: Repository, chains: tuple[Chain, ...]) -> tuple[ListedChain, ...]:
    """The chains without a `.dat` that are not among `chains` either.

    A full with the timestamp of a backup that a `.dat` names is a stray copy: a second has one backup.
    """
    known = {chain.timestamp for chain in chains} | {line.timestamp for chain in chains for line in chain.lines}
    return tuple(chain for chain in repository.listed if chain.timestamp not in known)


def timestamps_of(chains: Iterable[Chain], listed: Iterable[ListedChain]) -> list[str]:
    """The timestamps of the backups in these chains, oldest first."""
    with_dat = [line.timestamp for chain in chains for line in chain.lines]
    return sorted(with_dat + [file.timestamp for chain in listed for file in chain.files])


def choose(repository: Repository, when: str | None, *, with_blobs: bool) -> Choice:
    """The state for `when` (a date as `parse_when` gives it; None is the newest).

    Raises NothingThere when there is none, and the error of a `.dat` that cannot be read.
    """
    chains = chains_to_restore(repository)
    listed = chains_known_by_listing(repository, chains)
    chosen = choose_chain(chains, listed, when)
    if chosen is None:
        timestamps = timestamps_of(chains, listed)
        hint = what_there_is(timestamps, when) + _meant(chains, when)
        raise NothingThere(_nothing(when), path=repository.location, hint=hint)
    if isinstance(chosen, ListedChain):
        logger.warning("The chain of %s has no .dat file; its files are taken as they are.", chosen.timestamp)
        whole = chain = measured_chain(repository, chosen)
    else:
        if chosen.damage is not None:
            raise _without_lines(repository, chosen)
        chain = chosen
        whole = next(each for each in chains if each.timestamp == chosen.timestamp)
    return Choice(chain, choose_blobs(repository, whole, chain) if with_blobs else ())


def choose_blobs(repository: Repository, whole: Chain, chain: Chain) -> tuple[BlobChoice, ...]:
    """The blob states for the newest line of `chain`, which is `whole` cut off at a date, the best one first.

    The first one is that which was written for it, also where manifests of that are missing (`gone`).
    """
    if repository.blob_location is None:
        return ()
    listing = blob_listing(repository)
    states = next(tuple(each) for each in _choose_each(repository, listing, whole, (len(chain.lines),)))
    stamps = [[line.timestamp for line in each.lines] for each in repository.chains]
    states += tuple(states_of_other_chains(listing, chain.timestamp, stamps))
    if states and states[0].is_exact and states[0].is_of_date:
        return states
    lost = _state_with_manifests_gone(repository, chain.lines)
    if lost is None and not any(each.is_of_date for each in states):
        lost = _container_with_manifest_gone(repository, chain.newest)
    return states if lost is None else (lost, *states)


def _container_with_manifest_gone(repository: Repository, line: Line) -> BlobChoice | None:
    """The state in a directory or an archive that was written for a line, where its manifest is gone, too."""
    record = repository.record_of(line)
    if record is None or record.blobs is None or record.blobs.layout not in CONTAINER_MANIFEST_SUFFIX:
        return None
    name = line.timestamp + CONTAINER_MANIFEST_SUFFIX[record.blobs.layout]
    path = repository.path(name)
    return None if repository.has(name) else BlobChoice(line.timestamp, path, gone=(path,))


def _state_with_manifests_gone(repository: Repository, lines: Sequence[Line]) -> BlobChoice | None:
    """The state in the pool that was written for the newest of these lines, where manifests of it are known to be gone.

    The records tell which manifests it had; where one has no record, a delta tells that there was one before it.
    """
    names: list[str] = []
    for line in reversed(lines):
        complete, delta = line.timestamp + COMPLETE_MANIFEST_SUFFIX, line.timestamp + DELTA_MANIFEST_SUFFIX
        record = repository.record_of(line)
        if record is not None and record.blobs is not None and record.blobs.layout == POOL:
            names.append(complete if record.blobs.complete else delta)
        elif repository.has(complete) or repository.has(delta):
            names.append(complete if repository.has(complete) else delta)
        elif names and line is lines[0]:
            names.append(complete)
        else:
            return None
        if names[-1] == complete:
            break
    paths = tuple(repository.path(name) for name in reversed(names))
    gone = tuple(path for path in paths if not repository.has(path.name))
    return BlobChoice(lines[-1].timestamp, paths[0], paths[1:], gone=gone) if gone else None


def blobs_of_each(repository: Repository, whole: Chain, lengths: Iterable[int]) -> Iterator[Iterator[BlobChoice]]:
    """The blob states for the newest line of a chain that is cut off at each of these lengths, the best one first."""
    if repository.blob_location is None:
        yield from (iter(()) for _ in lengths)
        return
    yield from _choose_each(repository, blob_listing(repository), whole, lengths)


def _choose_each(
    repository: Repository, listing: BlobListing, whole: Chain, lengths: Iterable[int]
) -> Iterator[Iterator[BlobChoice]]:
    stamps = [line.timestamp for line in whole.lines]
    all_timestamps = sorted({file.timestamp for file in data_files(repository.names)})
    for length in lengths:
        yield choose_blob_states(listing, stamps, length, all_timestamps)


def blob_listing(repository: Repository) -> BlobListing:
    """What the blob location of a repository holds."""
    assert repository.blob_location is not None
    return BlobListing(repository.blob_location, repository.blob_names, find_stored(repository.blob_location))


def _without_lines(repository: Repository, chain: Chain) -> ZodbvaultError:
    """What is wrong with a chain whose `.dat` cannot be read, and how it can be restored all the same."""
    assert chain.damage is not None
    path = repository.location / chain.dat_name
    hint = "Nothing was changed. With this file moved away the backups are taken from the other files as they are."
    return type(chain.damage)(chain.damage.what, path=path, hint=hint)


def measured_chain(repository: Repository, listed: ListedChain) -> Chain:
    """Lines for a chain without a `.dat`: from the records, else by reading the files once.

    Raises ZodbvaultError when a file cannot be read to its end.
    """
    lines: list[Line] = []
    for file in listed.files:
        start = lines[-1].end if lines else 0
        record = repository.record(file.timestamp)
        if record is not None and record.data_name == file.name and record.start == start:
            lines.append(Line(file, start, record.end, record.md5))
            continue
        digest, size = new_hash("md5"), 0
        for block in read_blocks(repository.location / file.name, None, compressed=file.is_compressed):
            digest.update(block)
            size += len(block)
        lines.append(Line(file, start, start + size, digest.hexdigest()))
    return Chain(listed.timestamp, tuple(lines))


def _nothing(when: str | None) -> str:
    return "holds no backup" if when is None else f"holds no backup at or before {when} (UTC)"


def what_there_is(timestamps: Sequence[str], when: str | None) -> str:
    """A sentence on the backups that there are, oldest first, for somebody whose date was wrong."""
    if not timestamps:
        return "Nothing was changed. Check the location, and that its disk is mounted."
    if when is None or len(timestamps) == 1:
        return f"Nothing was changed. The oldest backup is {timestamps[0]}, the newest {timestamps[-1]}."
    near = ", ".join(nearest(timestamps, when))
    return f"Nothing was changed. The nearest backups are {near}; the newest is {timestamps[-1]}."


def _meant(chains: tuple[Chain, ...], when: str | None) -> str:
    """A sentence for somebody whose date means its first moment, where backups follow that."""
    if when is None:
        return ""
    newer = newest_within(chains, when)
    return "" if newer is None else f" {meaning_of(when)}; newest of {when}: {newer}."


def recorded_blob_states(names: frozenset[str]) -> tuple[str, ...]:
    """The timestamps of the states of a site whose blobs alone are backed up: those with a record, oldest first."""
    with_data = {file.timestamp for file in data_files(names)}
    parts = (split_name(name) for name in names)
    return tuple(sorted(part[0] for part in parts if part and part[1] == RECORD_SUFFIX and part[0] not in with_data))
