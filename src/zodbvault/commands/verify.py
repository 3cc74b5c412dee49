"""Whether what is stored is what was backed up, and which dates restore: the story of a verification.

Takes no lock: a running backup is neither disturbed nor waited for. The result is kept beside the backups, where that
is possible.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.commands.choosing import (
    Choice,
    blobs_of_each,
    chains_known_by_listing,
    chains_to_restore,
    choose,
    measured_chain,
)
from zodbvault.commands.places import ALL, chosen_places, repository_ownership, source_ownership
from zodbvault.commands.recording import Verification, keep_verdicts
from zodbvault.commands.summary import iso_time
from zodbvault.commands.verify_blobs import (
    BlobDate,
    DataAndBlobs,
    StateVerifier,
    are_states_recorded,
    blob_dates,
    has_known_blobs,
    looks,
    part_of,
    verify_manifests,
    verify_other_states,
)
from zodbvault.commands.verify_data import References, follow_transactions, stamps_of, verify_files
from zodbvault.commands.verify_result import Finding, VerifiedChain, VerifiedPlace, VerifyReport
from zodbvault.errors import ZodbvaultError
from zodbvault.repository.chains import Chain, newest_timestamp
from zodbvault.repository.checks import DEEP, QUICK
from zodbvault.repository.names import RECORD_SUFFIX
from zodbvault.repository.records import NewerFormat
from zodbvault.repository.store import MOST_LOOKS, list_files, read_repository, size_of, was_pruned
from zodbvault.repository.timestamps import parse_when
from zodbvault.site_settings import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from zodbvault.commands.places import Places
    from zodbvault.io.clock import Clock
    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")


class Wanted(NamedTuple):
    """What is to be verified. date: as `parse_when` gives it; is_every: all backups, whatever the date.

    how: QUICK, DEFAULT or DEEP. opens: rehearse a restore of the newest date of each chain too, in a folder below tmp.
    """

    date: str | None
    is_every: bool
    how: str
    opens: bool
    tmp: Path | None


def verify(
    settings: Settings,
    *,
    when: str | None,
    how: str,
    which: str,
    clock: Clock,
    opens: bool = False,
    tmp: Path | None = None,
) -> VerifyReport:
    """Verify all backups in the repositories that `which` names, or those that a restore for `when` needs.

    how: QUICK looks at names and sizes; DEFAULT reads all that is stored and compares checksums; DEEP unpacks it and
    follows every transaction, as a restore does, without writing. opens: with DEEP, let ZODB read the newest date of
    each chain too. tmp: where that is restored to; None for beside the live data. which: in LOCATIONS, or ALL; a
    repository without backups is left out then, if another one has some.
    """
    if opens and how != DEEP:
        raise ConfigurationError(["--open goes with --deep"])
    if opens and settings.only_blobs:
        raise ConfigurationError(["--open: there is no database to open, this site's blobs alone are backed up"])
    wanted = Wanted(parse_when(when), when is None, how, opens, tmp)
    chosen = chosen_places(settings, which)
    if which == ALL:
        chosen = tuple(each for each in chosen if newest_timestamp(list_files(each[1].location))) or chosen
    found = []
    for name, places in chosen:
        look = _verify_blobs_alone if settings.only_blobs else _verify
        place = look(settings, name, places, wanted)
        standing = _keep(settings, place, wanted, clock)
        found.append(_opened(settings, place, wanted, clock) if opens else _with_standing_damage(place, standing))
    if which == ALL:
        # Files are there, but the first backup may be just on its way.
        found = [place for place in found if place.chains or place.problems] or found
    return VerifyReport(settings.part, iso_time(clock.now()), how, opens, tuple(found))


def _verify(settings: Settings, name: str, places: Places, wanted: Wanted, *, tries: int = MOST_LOOKS) -> VerifiedPlace:
    """The same for one repository.

    tries: how often it may be looked at, where all that was seen is pruned before it is verified.
    """
    repository = read_repository(places.location, places.blobs)
    findings: dict[str, list[Finding]] = {}
    if wanted.is_every or not (repository.chains or repository.listed):
        chains = _every_chain(repository, findings)
    else:
        chains = (choose(repository, wanted.date, with_blobs=settings.backup_blobs).chain,)
    newer = {chain.timestamp: _newer_format(repository, stamps_of(chain)) for chain in chains}
    for chain in chains:
        found = findings.setdefault(chain.timestamp, [])
        what = chain.damage or newer[chain.timestamp]
        if what is not None:
            found.append(Finding(tuple(stamps_of(chain)), str(what)))
    readable = [chain for chain in chains if chain.lines and not findings[chain.timestamp]]
    scratch = _scratch(places.location)
    for timestamp, wrong in verify_files(repository, _to_be_read(repository, readable, wanted), wanted.how).items():
        findings[timestamp] += wrong
    choices = {chain.timestamp: _choices(settings, repository, chain, wanted) for chain in readable}
    unknown: dict[str, frozenset[str]] = {}
    for chain in readable:
        unknown[chain.timestamp] = _verify_chain(
            settings, repository, chain, choices[chain.timestamp], wanted, findings
        )
    blobs: dict[str, int] = {}
    if settings.backup_blobs and repository.blob_location is not None:
        with StateVerifier(repository.blob_location, scratch, quick=wanted.how == QUICK) as verifier:
            for chain in reversed(readable):
                for group in reversed(_groups(repository, choices[chain.timestamp], wanted)):
                    findings[chain.timestamp] += verifier.look(group)
            blobs = verifier.blobs
    verified = tuple(
        VerifiedChain(
            chain.timestamp,
            (dates := _dates(chain, choices.get(chain.timestamp))),
            tuple(stamps_of(chain)) if wanted.is_every else (chain.newest.timestamp,),
            _about(dates, findings[chain.timestamp]),
            unknown.get(chain.timestamp, frozenset()),
            sum(size_of(repository.location / line.file.name) or 0 for line in chain.lines),
            blobs.get(chain.newest.timestamp) if chain.lines else None,
            newer[chain.timestamp] is not None,
        )
        for chain in chains
    )
    still_there = _still_there(repository, chains, verified)
    if verified and not still_there and tries > 1:
        # All of them were pruned meanwhile; nothing would have been verified.
        return _verify(settings, name, places, wanted, tries=tries - 1)
    return VerifiedPlace(name, places, still_there)


def _dates(chain: Chain, choices: Sequence[tuple[int, Choice]] | None) -> tuple[str, ...]:
    """The dates that were looked at; all of a chain that nothing could be said of."""
    return tuple(stamps_of(chain)) if choices is None else tuple(choice.timestamp for _, choice in choices)


def _about(dates: Sequence[str], findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """What is wrong with some dates, each finding once."""
    return tuple(finding for finding in dict.fromkeys(findings) if not set(dates).isdisjoint(finding.dates))


def _every_chain(repository: Repository, findings: dict[str, list[Finding]]) -> tuple[Chain, ...]:
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


def _newer_format(repository: Repository, timestamps: Iterable[str]) -> NewerFormat | None:
    """Why this version can say nothing of backups that belong together: a later one wrote their records."""
    try:
        for timestamp in timestamps:
            repository.record(timestamp)
    except NewerFormat as error:
        return error
    return None


def _to_be_read(repository: Repository, chains: Sequence[Chain], wanted: Wanted) -> list[Chain]:
    """The chains whose files are looked at each for itself."""
    if wanted.how != QUICK:
        # Where no .dat holds the md5s, only the transactions can tell.
        return [chain for chain in chains if chain.dat_name in repository.names]
    return list(chains)


def _choices(settings: Settings, repository: Repository, chain: Chain, wanted: Wanted) -> list[tuple[int, Choice]]:
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


def _verify_chain(
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
    scratch = _scratch(repository.location)
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


def _groups(repository: Repository, choices: Sequence[tuple[int, Choice]], wanted: Wanted) -> list[list[BlobDate]]:
    """The blob states that have to be looked at, oldest first."""
    deep = wanted.how == DEEP
    known = [choice for _, choice in choices if has_known_blobs(choice, deep=deep)]
    return looks([date for choice in known for date in blob_dates(repository, choice)])


def _scratch(location: Path) -> Path:
    """A folder for temporary files: the repository's disk has room, but it may be there for reading only."""
    if os.access(location, os.W_OK):
        return location
    from tempfile import gettempdir

    return Path(gettempdir())


def _verify_blobs_alone(settings: Settings, name: str, places: Places, wanted: Wanted) -> VerifiedPlace:
    """The same for a site whose blobs alone are backed up."""
    from zodbvault.commands.only_blobs import states_to_verify

    repository = read_repository(places.location, places.location)
    states = states_to_verify(repository, wanted.date, every=wanted.is_every)
    found = []
    with StateVerifier(places.location, _scratch(places.location), quick=wanted.how == QUICK) as verifier:
        for timestamp, choice, what in reversed(states):
            findings = [] if what is None else [Finding((timestamp,), what)]
            if choice is not None:
                findings += verifier.look([BlobDate(timestamp, choice)])
            stamps = (timestamp,)
            is_newer = _newer_format(repository, stamps) is not None
            blobs = verifier.blobs.get(timestamp)
            found.append(VerifiedChain(timestamp, stamps, stamps, tuple(findings), blobs=blobs, is_newer=is_newer))
    names = list_files(places.location) if any(state.findings for state in found) else repository.names
    gone = {state.timestamp for state in found if state.timestamp + RECORD_SUFFIX not in names}
    for timestamp in sorted(gone):
        logger.info("The state of %s was pruned meanwhile.", timestamp)
    return VerifiedPlace(name, places, tuple(state for state in reversed(found) if state.timestamp not in gone))


def _still_there(
    repository: Repository, chains: Sequence[Chain], verified: tuple[VerifiedChain, ...]
) -> tuple[VerifiedChain, ...]:
    """What was verified, without the chains that a backup let go meanwhile."""
    if not any(chain.findings for chain in verified):
        return verified
    names = read_repository(repository.location, repository.blob_location).names
    gone = {chain.timestamp for chain in chains if was_pruned(chain.timestamp, repository.names, names)}
    for timestamp in sorted(gone):
        logger.info("The chain of %s was pruned meanwhile.", timestamp)
    return tuple(chain for chain in verified if chain.timestamp not in gone)


def _with_standing_damage(place: VerifiedPlace, standing: Mapping[str, str]) -> VerifiedPlace:
    """With what an earlier verification found, where this one did not look deep enough to say that it is mended.

    standing: as keep_verdicts gives it.
    """
    chains = []
    for chain in place.chains:
        findings = list(chain.findings)
        for depth in dict.fromkeys(standing[date] for date in chain.dates if date in standing):
            dates = tuple(date for date in chain.dates if standing.get(date) == depth)
            findings.append(Finding(dates, f"was found to be damaged by a more thorough verification ({depth})"))
        chains.append(replace(chain, findings=tuple(findings)))
    return replace(place, chains=tuple(chains))


def _keep(settings: Settings, place: VerifiedPlace, wanted: Wanted, clock: Clock) -> dict[str, str]:
    """Keep what was found beside the backups; what stands of earlier findings, as keep_verdicts gives it."""
    source = settings.blob_storage if settings.only_blobs and settings.blob_storage is not None else settings.datafs
    known = [chain for chain in place.chains if not chain.is_newer]
    verdicts = {date: verdict for chain in known for date, verdict in chain.verdicts.items()}
    ownership = repository_ownership(source_ownership(source), place.places.location) if verdicts else None
    if ownership is None:
        return {}
    return keep_verdicts(place.places.location, verdicts, Verification(iso_time(clock.now()), wanted.how, ownership))


def _opened(settings: Settings, place: VerifiedPlace, wanted: Wanted, clock: Clock) -> VerifiedPlace:
    """The same with what ZODB finds in the newest date of each chain, as a rehearsal does."""
    problems: list[str] = []
    chains = tuple(_read_by_zodb(settings, place, chain, wanted, clock, problems) for chain in place.chains)
    return replace(place, chains=chains, problems=tuple(problems))


def _read_by_zodb(
    settings: Settings,
    place: VerifiedPlace,
    chain: VerifiedChain,
    wanted: Wanted,
    clock: Clock,
    problems: list[str],
) -> VerifiedChain:
    from zodbvault.commands.drill import drill

    newest = max(chain.requested, default=None)
    if newest is None or chain.verdicts[newest] is False:
        return chain
    try:
        report = drill(settings, when=newest, which=place.name, sample=None, tmp=wanted.tmp, clock=clock)
    except ZodbvaultError as error:
        problems.append(f"{newest}: not opened: {error}")
        return chain
    found = tuple(Finding((newest,), what) for what in report.failures)
    return replace(chain, findings=chain.findings + found)
