"""Whether what is stored is what was backed up: names, sizes, checksums, and with `deep` every transaction.

Takes no lock: a running backup is neither disturbed nor waited for. The result is kept beside the backups, where that
is possible.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zodbvault.blobs.spill import SortedKeys
from zodbvault.commands.choosing import (
    Choice,
    chains_known_by_listing,
    chains_to_restore,
    choose,
    choose_blobs,
    measured_chain,
)
from zodbvault.commands.places import ALL, chosen_places, repository_ownership, source_ownership
from zodbvault.commands.recording import Verification, keep_verdicts, verdicts_of_chain
from zodbvault.commands.summary import iso_time, plural
from zodbvault.commands.verify_blobs import lacks_blob_state, missing_from_state, verify_chains_blobs
from zodbvault.errors import ZodbvaultError
from zodbvault.filestorage.checking import RestoredBytes, those_of_blobs
from zodbvault.io.gzip_members import read_blocks
from zodbvault.io.hashing import BackgroundHash, sha256_of
from zodbvault.io.progress import step
from zodbvault.repository.chains import Chain, newest_timestamp
from zodbvault.repository.store import MOST_LOOKS, Repository, list_files, read_repository, size_of, was_pruned
from zodbvault.repository.timestamps import parse_when

if TYPE_CHECKING:
    from zodbvault.commands.places import Places
    from zodbvault.filestorage.checking import CheckedRange
    from zodbvault.io.clock import Clock
    from zodbvault.repository.dat import Line
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")


@dataclass(frozen=True)
class VerifyReport:
    """What was found. lines: for standard output. good: every backup that was asked for restores.

    is_empty: there is no backup at all; it is not good then.
    """

    lines: tuple[str, ...]
    good: bool
    is_empty: bool = False


@dataclass(frozen=True)
class Finding:
    """What is wrong with one backup. timestamp: of the backup; everything later in its chain needs it too."""

    timestamp: str
    what: str


def verify(settings: Settings, *, when: str | None, deep: bool, which: str, clock: Clock) -> VerifyReport:
    """Verify all backups in the repositories that `which` names, or those that a restore for `when` needs.

    deep: unpack everything and follow every transaction, as a restore does, without writing. which: in LOCATIONS, or
    ALL; a repository without backups is left out then, if another one has some.
    """
    date, every = parse_when(when), when is None
    reports = {}
    chosen = chosen_places(settings, which)
    if which == ALL:
        chosen = tuple(each for each in chosen if newest_timestamp(list_files(each[1].location))) or chosen
    for name, places in chosen:
        if settings.only_blobs:
            reports[name] = _verify_blobs_alone(settings, places, date, every=every, deep=deep, clock=clock)
        else:
            reports[name] = _verify(settings, places, date, every=every, deep=deep, clock=clock)
    if which == ALL:
        # Files are there, but the first backup may be just on its way.
        reports = {name: report for name, report in reports.items() if not report.is_empty} or reports
    if len(reports) == 1:
        return next(iter(reports.values()))
    lines = tuple(f"{name}: {line}" for name, report in reports.items() for line in report.lines)
    return VerifyReport(lines, good=all(report.good for report in reports.values()))


def _verify(
    settings: Settings,
    places: Places,
    date: str | None,
    *,
    every: bool,
    deep: bool,
    clock: Clock,
    looks: int = MOST_LOOKS,
) -> VerifyReport:
    """The same for one repository. date: as `parse_when` gives it; every: all backups, whatever the date.

    looks: how often it may be looked at, where all that was seen is pruned before it is verified.
    """
    repository = read_repository(places.location, places.blobs)
    findings: list[Finding] = []
    if every or not (repository.chains or repository.listed):
        choices = _every_choice(settings, repository, findings)
    else:
        choices = (choose(repository, date, with_blobs=settings.backup_blobs),)
    if not choices and not findings:
        return VerifyReport((f"No backups in {places.location}.",), good=False, is_empty=True)
    scratch = _scratch(places.location)
    for choice in choices:
        # Where no .dat holds the md5s, only the transactions can tell.
        unpack = deep or choice.chain.dat_name not in repository.names
        findings += _verify_chain(repository, choice, scratch, deep=unpack)
    if settings.backup_blobs:
        readable = [choice for choice in choices if choice.chain.lines]
        findings += [Finding(*each) for each in verify_chains_blobs(repository, readable, scratch)]
    chains = _still_there(repository, tuple(choice.chain for choice in choices), findings)
    if not chains and looks > 1:
        # All of them were pruned meanwhile; nothing would have been verified.
        return _verify(settings, places, date, every=every, deep=deep, clock=clock, looks=looks - 1)
    without_blobs = {
        choice.chain.timestamp for choice in choices if settings.backup_blobs and lacks_blob_state(choice, deep=deep)
    }
    verdicts: dict[str, bool | None] = {}
    for chain in chains:
        damaged = {finding.timestamp for finding in findings} & _stamps(chain)
        verdicts |= verdicts_of_chain(sorted(_stamps(chain)), damaged, lacks_blobs=chain.timestamp in without_blobs)
    keep_verdicts(places.location, verdicts, _verification(settings.datafs, places, deep=deep, clock=clock))
    return _report(chains, findings, without_blobs, deep=deep)


def _verification(source: Path, places: Places, *, deep: bool, clock: Clock) -> Verification:
    ownership = repository_ownership(source_ownership(source), places.location)
    return Verification(iso_time(clock.now()), deep, ownership)


def _every_choice(settings: Settings, repository: Repository, findings: list[Finding]) -> tuple[Choice, ...]:
    """What a restore of the newest state of each chain takes. Adds to `findings` what is wrong with one without `.dat`.

    A restore takes such a chain too, so it is not left out.
    """
    chains = list(chains_to_restore(repository))
    for listed in chains_known_by_listing(repository, tuple(chains)):
        logger.warning("The chain of %s has no .dat file; its files are taken as they are.", listed.timestamp)
        try:
            chains.append(measured_chain(repository, listed))
        except ZodbvaultError as error:
            findings.append(Finding(listed.timestamp, str(error)))
            chains.append(Chain(listed.timestamp, ()))
    chains.sort(key=lambda chain: chain.timestamp)
    return tuple(
        Choice(chain, choose_blobs(repository, chain, chain) if settings.backup_blobs and chain.lines else ())
        for chain in chains
    )


def _scratch(location: Path) -> Path:
    """A folder for temporary files: the repository's disk has room, but it may be there for reading only."""
    if os.access(location, os.W_OK):
        return location
    from tempfile import gettempdir

    return Path(gettempdir())


def _verify_blobs_alone(
    settings: Settings, places: Places, date: str | None, *, every: bool, deep: bool, clock: Clock
) -> VerifyReport:
    """The same for a site whose blobs alone are backed up."""
    from zodbvault.commands.only_blobs import verify_states

    states = verify_states(places, date, _scratch(places.location), every=every)
    lines = []
    for timestamp, wrong in states:
        lines.append(f"{timestamp}: blobs checked: {'DAMAGED' if wrong else 'good'}")
        lines += [f"  {what}" for what in wrong]
    if not states:
        return VerifyReport((f"No backups in {places.location}.",), good=False, is_empty=True)
    assert settings.blob_storage is not None
    verdicts = {timestamp: not wrong for timestamp, wrong in states}
    keep_verdicts(places.location, verdicts, _verification(settings.blob_storage, places, deep=deep, clock=clock))
    return VerifyReport(tuple(lines), good=not any(wrong for _, wrong in states))


def _verify_chain(repository: Repository, choice: Choice, scratch: Path, *, deep: bool) -> list[Finding]:
    """Everything that is wrong with one chain, but for the content of its blobs. scratch: for temporary files."""
    chain = choice.chain
    if chain.damage is not None:
        return [Finding(chain.timestamp, str(chain.damage))]
    if not chain.lines:
        return []  # its finding is there already
    findings = [finding for line in chain.lines for finding in _verify_line(repository, line, deep=deep)]
    if not deep or findings:
        return findings
    with SortedKeys(scratch) as referenced:
        findings += _follow_transactions(repository, chain, referenced, scratch)
        if repository.blob_location is not None and not findings:
            what = missing_from_state(repository, choice, referenced, scratch)
            findings += [Finding(chain.newest.timestamp, what)] if what else []
    return findings


def _verify_line(repository: Repository, line: Line, *, deep: bool) -> list[Finding]:
    """Whether one data file is there, whole, and what its record and its `.dat` line say."""
    path = repository.location / line.file.name
    size = size_of(path)
    if size is None:
        return [Finding(line.timestamp, f"{line.file.name} is missing")]
    record = repository.record(line.timestamp)
    try:
        if record is None:
            if not deep:
                _check_md5(repository, line)
            return []
        if (record.data_name, record.start, record.end, record.md5) != (line.file.name, line.start, line.end, line.md5):
            return [Finding(line.timestamp, "its record and its line in the .dat file do not agree")]
        if size != record.stored_size:
            return [Finding(line.timestamp, f"{line.file.name} has {size} bytes, written were {record.stored_size}")]
        if not deep:
            with step(line.file.name, size) as on_progress:
                sha256 = sha256_of(path, on_progress)[1]
            if sha256 != record.sha256:
                return [Finding(line.timestamp, f"{line.file.name} is not what was written (another sha256)")]
    except ZodbvaultError as error:
        return [Finding(line.timestamp, str(error))]
    return []


def _check_md5(repository: Repository, line: Line) -> None:
    """Unpack a data file and compare its md5; for backups without a record (repozo's). Raises ZodbvaultError."""
    path = repository.location / line.file.name
    with BackgroundHash("md5") as digest:
        for block in read_blocks(path, line.size, compressed=line.file.is_compressed):
            digest.update(block)
        found = digest.hexdigest()
    if found != line.md5:
        raise ZodbvaultError(f"holds md5 {found}, written was {line.md5}", path=path)


def _follow_transactions(repository: Repository, chain: Chain, referenced: SortedKeys, scratch: Path) -> list[Finding]:
    """Unpack the chain as a restore would and compare what comes out with `.dat`, records and itself."""
    with SortedKeys(scratch) as back_pointers:
        checker = RestoredBytes(
            chain.newest.end,
            None,
            lambda oid, tid: referenced.add(oid + tid),
            on_back_pointer=lambda oid, tid: back_pointers.add(oid + tid),
        )
        line = chain.lines[0]
        try:
            for line in chain.lines:
                _feed(repository, line, checker)
            checked = checker.finish()
        except ZodbvaultError as error:
            return [Finding(line.timestamp, str(error))]
        for key in list(those_of_blobs(back_pointers, referenced)):
            referenced.add(key)
    return _compare_with_record(repository, chain, checked)


def _feed(repository: Repository, line: Line, checker: RestoredBytes) -> None:
    """Unpack one data file into the checker. Raises ZodbvaultError where it is not what was written."""
    path = repository.location / line.file.name
    record = repository.record_of(line)
    if record is not None and sha256_of(path)[1] != record.sha256:
        raise ZodbvaultError("is not what was written (another sha256)", path=path)
    with BackgroundHash("md5") as digest:
        for block in read_blocks(path, line.size, compressed=line.file.is_compressed):
            digest.update(block)
            checker.feed(block)
        found = digest.hexdigest()
    if found != line.md5:
        raise ZodbvaultError(f"holds md5 {found}, written was {line.md5}", path=path)


def _compare_with_record(repository: Repository, chain: Chain, checked: CheckedRange) -> list[Finding]:
    """Whether the transactions that came out are those that the newest record tells of."""
    record = repository.record_of(chain.newest)
    if record is None:
        return []
    tail = None if checked.tail_tid is None else checked.tail_tid.hex()
    if (record.tail_tid, record.tail_header) != (tail, checked.tail_header):
        return [Finding(record.timestamp, "its last transaction is not the one that its record names")]
    return []


def _still_there(repository: Repository, chains: tuple[Chain, ...], findings: list[Finding]) -> tuple[Chain, ...]:
    """The chains without those that a backup let go meanwhile; takes out what was found wrong with these."""
    if not findings:
        return chains
    names = read_repository(repository.location, repository.blob_location).names
    gone = [chain for chain in chains if was_pruned(chain.timestamp, repository.names, names)]
    stamps = {stamp for chain in gone for stamp in _stamps(chain)}
    findings[:] = [finding for finding in findings if finding.timestamp not in stamps]
    for chain in gone:
        logger.info("The chain of %s was pruned meanwhile.", chain.timestamp)
    return tuple(chain for chain in chains if chain not in gone)


def _stamps(chain: Chain) -> set[str]:
    """The timestamps of a chain's backups; of one whose `.dat` is damaged that of its full."""
    return {chain.timestamp, *(line.timestamp for line in chain.lines)}


def _report(chains: tuple[Chain, ...], findings: list[Finding], without_blobs: set[str], *, deep: bool) -> VerifyReport:
    """A line for each chain, and one for each thing that is wrong, with what it means.

    without_blobs: timestamps of the chains whose data may be good, but which nobody knows the blobs of.
    """
    lines: list[str] = []
    good = True
    for chain in chains:
        stamps = _stamps(chain)
        wrong = [finding for finding in findings if finding.timestamp in stamps]
        is_without_blobs = chain.timestamp in without_blobs and not wrong
        verdict = "DAMAGED" if wrong else "NO BLOBS" if is_without_blobs else "good"
        what = "unpacked and followed" if deep else "checked"
        lines.append(f"{chain.timestamp}: {plural(len(chain.lines), 'backup')} {what}: {verdict}")
        lines += [f"  {finding.timestamp}: {finding.what}" for finding in wrong]
        if wrong:
            first = min(finding.timestamp for finding in wrong)
            whole = [line.timestamp for line in chain.lines if line.timestamp < first]
            lines.append(f"  Newest date of this chain that still restores: {whole[-1] if whole else 'none'}")
        if is_without_blobs:
            lines.append("  The data are good; no blobs were backed up with them: it restores where these are there.")
            lines.append("  Of blobs that another program backed up --deep tells whether the data have all of theirs.")
        good = good and verdict == "good"
    return VerifyReport(tuple(lines), good=good)
