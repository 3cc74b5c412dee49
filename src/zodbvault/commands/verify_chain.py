"""One chain in a verification: what a restore for each of its dates takes, and what is wrong with data and manifests.

Its data files each for itself are verify_data.py's, the blobs themselves verify_blobs.py's.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.commands.choosing import (
    Choice,
    blobs_of_each,
    chains_known_by_listing,
    chains_to_restore,
    measured_chain,
)
from zodbvault.commands.verify_blobs import BlobDate, blob_dates, has_known_blobs, looks, part_of
from zodbvault.commands.verify_data import References, follow_transactions
from zodbvault.commands.verify_manifests import (
    DataAndBlobs,
    are_states_recorded,
    verify_manifests,
    verify_other_states,
)
from zodbvault.commands.verify_result import Finding
from zodbvault.errors import ZodbvaultError
from zodbvault.repository.chains import Chain
from zodbvault.repository.checks import DEEP, QUICK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")


class Wanted(NamedTuple):
    """What is to be verified. date: as `parse_when` gives it; is_every: all backups, whatever the date.

    how: QUICK, DEFAULT or DEEP. tmp: where the newest date of each chain is restored to, if ZODB is to open it.
    """

    date: str | None
    is_every: bool
    how: str
    tmp: Path | None


def chains_to_verify(repository: Repository, findings: dict[str, list[Finding]]) -> tuple[Chain, ...]:
    """All chains, oldest first. Adds to `findings` what is wrong with one without `.dat`.

    A restore takes such a chain too, so it is not left out.
    """
    chains = list(chains_to_restore(repository))
    for listed in chains_known_by_listing(repository, tuple(chains)):
        logger.warning("The chain of %s has no .dat file; its files are taken as they are.", listed.timestamp)
        try:
            chains.append(measured_chain(repository, listed))
        except ZodbvaultError as error:
            findings[listed.timestamp] = [Finding((listed.timestamp,), str(error))]
            chains.append(Chain(listed.timestamp, ()))
    return tuple(sorted(chains, key=lambda chain: chain.timestamp))


def to_be_read(repository: Repository, chains: Sequence[Chain], wanted: Wanted) -> list[Chain]:
    """The chains whose files are looked at each for itself."""
    if wanted.how != QUICK:
        # Where no .dat holds the md5s, only the transactions can tell.
        return [chain for chain in chains if chain.dat_name in repository.names]
    return list(chains)


def choices_of(settings: Settings, repository: Repository, chain: Chain, wanted: Wanted) -> list[tuple[int, Choice]]:
    """What a restore for each date of a chain takes, oldest first, with the number of the backup in the chain (from 0).

    Where one date is wanted only those that are seen on the way: earlier ones whose blobs are a part of its.
    """
    whole = chain
    if not wanted.is_every:
        # It is cut off at the date, and may have its blobs from a later one.
        whole = next((each for each in chains_to_restore(repository) if each.timestamp == chain.timestamp), chain)
    found: list[tuple[int, Choice]] = []
    lengths = range(1, len(chain.lines) + 1)
    states = blobs_of_each(repository, whole, lengths) if settings.backup_blobs else (iter(()) for _ in lengths)
    for number, each in enumerate(states):
        first = next(each, None)
        # Beside one that is known to be the state no other one counts; thousands of dates have long lists of them.
        blobs = () if first is None else (first,) if first.is_exact else (first, *each)
        found.append((number, Choice(Chain(chain.timestamp, chain.lines[: number + 1]), blobs)))
    newest = found[-1][1].blobs
    return [each for each in found if wanted.is_every or part_of(each[1].blobs) == part_of(newest)]


def verify_chain(
    settings: Settings,
    repository: Repository,
    chain: Chain,
    choices: Sequence[tuple[int, Choice]],
    wanted: Wanted,
    findings: dict[str, list[Finding]],
) -> frozenset[str]:
    """What is wrong with a chain beyond its single files and blobs; the dates whose blobs nobody knows.

    Adds to `findings`.
    """
    found = findings[chain.timestamp]
    known = {choice.timestamp for _, choice in choices if has_known_blobs(choice, deep=False)}
    damaged = tuple(found)
    if settings.backup_blobs:
        found += verify_manifests(repository, chain, quick=wanted.how == QUICK)
        told = {date for finding in found for date in finding.dates}
        others = [choice for _, choice in choices if choice.timestamp not in told]
        found += verify_other_states(repository, others, quick=wanted.how == QUICK)
    # Where no .dat holds the md5s, only the transactions can tell; where no record tells which manifest was written,
    # only the data.
    is_told = chain.dat_name in repository.names
    if settings.backup_blobs:
        is_told = is_told and are_states_recorded(repository, choices)
    if wanted.how == DEEP or (not is_told and wanted.how != QUICK):
        lines = chain.lines[: _first_damaged(chain, damaged)]
        while lines:
            sound = [each for each in choices if each[0] < len(lines)]
            wrong, seen = _follow(settings, repository, Chain(chain.timestamp, lines), sound)
            found += wrong
            if seen is not None:
                known |= seen if wanted.how == DEEP else set()
                break
            # What stands before the damage is a database too.
            lines = lines[: _first_damaged(chain, wrong[-1:])]
    if not settings.backup_blobs:
        return frozenset()
    return frozenset(choice.timestamp for _, choice in choices) - known


def _follow(
    settings: Settings, repository: Repository, chain: Chain, choices: Sequence[tuple[int, Choice]]
) -> tuple[list[Finding], set[str] | None]:
    """What is wrong with the data of a chain, and whether its blob states have all that these refer to.

    The dates whose states were seen to have all come with it; None where damage ended the reading, and is the last
    finding.
    """
    scratch = scratch_for(repository.location)
    with References(scratch) as references:
        wrong = follow_transactions(repository, chain, references, scratch)
        if not references.is_complete:
            return wrong, None
        if not settings.backup_blobs:
            return wrong, set()
        wrong += DataAndBlobs(repository, references, scratch).findings(choices)
        return wrong, _known_by_data(choices, references)


def _first_damaged(chain: Chain, findings: Sequence[Finding]) -> int:
    """The number of the first backup of a chain (from 0) that something is wrong with; that of all where none is."""
    first = min((finding.dates[0] for finding in findings), default=None)
    return sum(1 for line in chain.lines if first is None or line.timestamp < first)


def _known_by_data(choices: Sequence[tuple[int, Choice]], references: References) -> set[str]:
    """The dates whose states were seen to have all that the data refer to."""
    newest = len(references.last_tids) - 1
    if references.is_encrypted:
        return set()
    return {
        choice.timestamp
        for number, choice in choices
        if (number == newest or references.is_exact) and (choice.blobs is None or has_known_blobs(choice, deep=True))
    }


def groups_of(repository: Repository, choices: Sequence[tuple[int, Choice]], wanted: Wanted) -> list[list[BlobDate]]:
    """The blob states that have to be looked at, oldest first."""
    deep = wanted.how == DEEP
    known = [choice for _, choice in choices if has_known_blobs(choice, deep=deep)]
    return looks([date for choice in known for date in blob_dates(repository, choice)])


def scratch_for(location: Path) -> Path:
    """A folder for temporary files: the repository's disk has room, but it may be there for reading only."""
    if os.access(location, os.W_OK):
        return location
    from tempfile import gettempdir

    return Path(gettempdir())
