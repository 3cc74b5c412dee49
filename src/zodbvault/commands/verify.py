"""Whether what is stored is what was backed up, and which dates restore: the story of a verification.

Takes no lock: a running backup is neither disturbed nor waited for. The result is kept beside the backups, where that
is possible.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from zodbvault.commands.choosing import Choice, choose, of_each_that_has_some, recorded_blob_states
from zodbvault.commands.places import ALL, chosen_places, ownership_beside
from zodbvault.commands.summary import iso_time
from zodbvault.commands.verify_blobs import BlobDate, StateVerifier
from zodbvault.commands.verify_chain import (
    Wanted,
    chains_to_verify,
    choices_of,
    groups_of,
    scratch_for,
    to_be_read,
    verify_chain,
)
from zodbvault.commands.verify_data import stamps_of, verify_files
from zodbvault.commands.verify_result import Finding, VerifiedChain, VerifiedPlace, VerifyReport
from zodbvault.commands.verify_verdicts import Verification, keep_verdicts
from zodbvault.errors import ZodbvaultError
from zodbvault.repository.chains import Chain, newest_timestamp
from zodbvault.repository.checks import DEEP, QUICK
from zodbvault.repository.names import RECORD_SUFFIX
from zodbvault.repository.store import (
    MOST_LOOKS,
    data_size,
    list_files,
    newer_format,
    read_repository,
    was_pruned,
)
from zodbvault.repository.timestamps import parse_when
from zodbvault.site_settings import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from zodbvault.commands.places import Places
    from zodbvault.io.clock import Clock
    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")


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
    repository without backups (for `when`) is left out then, if another one has some. Raises NothingThere where none
    has one for the date, and ConfigurationError for what cannot be asked together.
    """
    if opens and how != DEEP:
        raise ConfigurationError(["--open goes with --deep"])
    if opens and settings.only_blobs:
        raise ConfigurationError(["--open: there is no database to open, this site's blobs alone are backed up"])
    wanted = Wanted(parse_when(when), when is None, how, tmp)
    chosen = chosen_places(settings, which)
    if which == ALL:
        chosen = tuple(each for each in chosen if newest_timestamp(list_files(each[1].location))) or chosen

    def of_one(one: tuple[str, Places]) -> VerifiedPlace:
        place = _verify_blobs_alone(*one, wanted) if settings.only_blobs else _verify(settings, *one, wanted)
        standing = _keep(settings, place, wanted, clock)
        return _opened(settings, place, wanted, clock) if opens else _with_standing_damage(place, standing)

    found = of_each_that_has_some(chosen, of_one)
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
        chains = chains_to_verify(repository, findings)
    else:
        chains = (choose(repository, wanted.date, with_blobs=settings.backup_blobs).chain,)
    newer = {chain.timestamp: newer_format(repository, stamps_of(chain)) for chain in chains}
    for chain in chains:
        found = findings.setdefault(chain.timestamp, [])
        what = chain.damage or newer[chain.timestamp]
        if what is not None:
            found.append(Finding(tuple(stamps_of(chain)), str(what)))
    readable = [chain for chain in chains if chain.lines and not findings[chain.timestamp]]
    for timestamp, wrong in verify_files(repository, to_be_read(repository, readable, wanted), wanted.how).items():
        findings[timestamp] += wrong
    choices = {chain.timestamp: choices_of(settings, repository, chain, wanted) for chain in readable}
    unknown: dict[str, frozenset[str]] = {}
    for chain in readable:
        unknown[chain.timestamp] = verify_chain(settings, repository, chain, choices[chain.timestamp], wanted, findings)
    blobs = _verify_states(repository, readable, choices, wanted, findings) if settings.backup_blobs else {}
    verified = tuple(
        VerifiedChain(
            chain.timestamp,
            (dates := _dates(chain, choices.get(chain.timestamp))),
            tuple(stamps_of(chain)) if wanted.is_every else (chain.newest.timestamp,),
            _about(dates, findings[chain.timestamp]),
            unknown.get(chain.timestamp, frozenset()),
            data_size(repository, chain.lines),
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


def _verify_states(
    repository: Repository,
    chains: Sequence[Chain],
    choices: Mapping[str, Sequence[tuple[int, Choice]]],
    wanted: Wanted,
    findings: Mapping[str, list[Finding]],
) -> dict[str, int]:
    """Look at the blobs of some chains, the newest first; how many each date has that was looked at.

    chains: oldest first. choices, findings: by the chains' timestamps; adds to the findings.
    """
    if repository.blob_location is None:
        return {}
    scratch = scratch_for(repository.location)
    with StateVerifier(repository.blob_location, scratch, quick=wanted.how == QUICK) as verifier:
        for chain in reversed(chains):
            for group in reversed(groups_of(repository, choices[chain.timestamp], wanted)):
                findings[chain.timestamp] += verifier.look(group)
        return verifier.blobs


def _dates(chain: Chain, choices: Sequence[tuple[int, Choice]] | None) -> tuple[str, ...]:
    """The dates that were looked at; all of a chain that nothing could be said of."""
    return tuple(stamps_of(chain)) if choices is None else tuple(choice.timestamp for _, choice in choices)


def _about(dates: Sequence[str], findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """What is wrong with some dates. What was found in several ways, or for several dates, is one finding."""
    same: dict[str, list[Finding]] = {}
    for finding in findings:
        same.setdefault(finding.manifest or finding.what, []).append(finding)
    found = (
        each[0]._replace(dates=tuple(sorted({date for one in each for date in one.dates}))) for each in same.values()
    )
    return tuple(finding for finding in found if not set(dates).isdisjoint(finding.dates))


def _verify_blobs_alone(name: str, places: Places, wanted: Wanted) -> VerifiedPlace:
    """The same for a site whose blobs alone are backed up."""
    from zodbvault.commands.only_blobs_states import states_to_verify

    repository = read_repository(places.location, places.location)
    states = states_to_verify(repository, wanted.date, every=wanted.is_every)
    found = []
    with StateVerifier(places.location, scratch_for(places.location), quick=wanted.how == QUICK) as verifier:
        for timestamp, choice, what in reversed(states):
            findings = [] if what is None else [Finding((timestamp,), what)]
            if choice is not None:
                findings += verifier.look([BlobDate(timestamp, choice)])
            stamps = (timestamp,)
            is_newer = newer_format(repository, stamps) is not None
            blobs = verifier.blobs.get(timestamp)
            found.append(VerifiedChain(timestamp, stamps, stamps, tuple(findings), blobs=blobs, is_newer=is_newer))
    names = list_files(places.location) if any(state.findings for state in found) else repository.names
    gone_names = repository.names - names
    gone = {state.timestamp for state in found if state.timestamp + RECORD_SUFFIX in gone_names}
    for timestamp in sorted(gone):
        logger.info("The state of %s was pruned meanwhile.", timestamp)
    return VerifiedPlace(name, places, tuple(state for state in reversed(found) if state.timestamp not in gone))


def _still_there(
    repository: Repository, chains: Sequence[Chain], verified: tuple[VerifiedChain, ...]
) -> tuple[VerifiedChain, ...]:
    """What was verified, without the chains that a backup let go meanwhile."""
    if not any(chain.findings or chain.without_blobs for chain in verified):
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
    known = [chain for chain in place.chains if not chain.is_newer]
    verdicts = {date: verdict for chain in known for date, verdict in chain.verdicts.items()}
    if settings.only_blobs:
        # Another program's state has nothing of ours beside it.
        recorded = recorded_blob_states(list_files(place.places.location))
        verdicts = {date: verdict for date, verdict in verdicts.items() if date in recorded}
    if not verdicts:
        return {}
    ownership = ownership_beside(settings, place.places.location)
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
