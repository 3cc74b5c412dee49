"""Whether what is stored is what was backed up: names, sizes, checksums, and with `deep` every transaction.

Takes no lock: a running backup is neither disturbed nor waited for.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zodbvault.blobs.spill import SortedKeys
from zodbvault.commands.choosing import chains_to_restore, choose
from zodbvault.commands.places import usual_places
from zodbvault.commands.verify_blobs import missing_from_state, verify_chains_blobs
from zodbvault.errors import ZodbvaultError
from zodbvault.filestorage.checking import RestoredBytes, those_of_blobs
from zodbvault.io.gzip_members import read_blocks
from zodbvault.io.hashing import new_hash, sha256_of
from zodbvault.repository.store import Repository, read_repository, size_of
from zodbvault.repository.timestamps import parse_when

if TYPE_CHECKING:
    from zodbvault.commands.places import Places
    from zodbvault.filestorage.checking import CheckedRange
    from zodbvault.repository.chains import Chain
    from zodbvault.repository.dat import Line
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")


@dataclass(frozen=True)
class VerifyReport:
    """What was found. lines: for standard output. good: every backup that was asked for restores."""

    lines: tuple[str, ...]
    good: bool


@dataclass(frozen=True)
class Finding:
    """What is wrong with one backup. timestamp: of the backup; everything later in its chain needs it too."""

    timestamp: str
    what: str


def verify(settings: Settings, *, when: str | None, deep: bool) -> VerifyReport:
    """Verify all backups of a site, or those that a restore for `when` needs.

    deep: unpack everything and follow every transaction, as a restore does, without writing.
    """
    date = None if when is None else parse_when(when)
    places = usual_places(settings)
    if settings.only_blobs:
        return _verify_blobs_alone(places, date)
    repository = read_repository(places.location, places.blobs)
    if date is not None:
        chains: tuple[Chain, ...] = (choose(repository, date, with_blobs=False).chain,)
    else:
        chains = chains_to_restore(repository)
    if not chains:
        return VerifyReport((f"No backups in {places.location}.",), good=False)
    if date is None:
        known = {chain.timestamp for chain in chains}
        for listed in repository.listed:
            if listed.timestamp not in known:
                logger.warning("The chain of %s has no .dat file; it was not checked.", listed.timestamp)
    findings: list[Finding] = []
    for chain in chains:
        found = _verify_chain(settings, repository, chain, deep=deep)
        if found and _was_pruned(repository, chain):
            logger.info("The chain of %s was pruned meanwhile.", chain.timestamp)
            continue
        findings += found
    if settings.backup_blobs:
        readable = [chain for chain in chains if chain.lines]
        findings += [Finding(*each) for each in verify_chains_blobs(repository, readable)]
    return _report(chains, findings, deep=deep)


def _verify_blobs_alone(places: Places, date: str | None) -> VerifyReport:
    """The same for a site whose blobs alone are backed up."""
    from zodbvault.commands.only_blobs import verify_states

    states = verify_states(places, date)
    lines = []
    for timestamp, wrong in states:
        lines.append(f"{timestamp}: blobs checked: {'DAMAGED' if wrong else 'good'}")
        lines += [f"  {what}" for what in wrong]
    if not states:
        lines.append(f"No backups in {places.location}.")
    return VerifyReport(tuple(lines), good=bool(states) and not any(wrong for _, wrong in states))


def _verify_chain(settings: Settings, repository: Repository, chain: Chain, *, deep: bool) -> list[Finding]:
    """Everything that is wrong with one chain, but for the content of its blobs."""
    if chain.damage is not None:
        return [Finding(chain.timestamp, str(chain.damage))]
    findings = [finding for line in chain.lines for finding in _verify_line(repository, line, deep=deep)]
    if not deep or findings:
        return findings
    with SortedKeys(repository.location) as referenced:
        findings += _follow_transactions(repository, chain, referenced)
        if settings.backup_blobs and not findings:
            what = missing_from_state(repository, chain, referenced)
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
        if not deep and sha256_of(path)[1] != record.sha256:
            return [Finding(line.timestamp, f"{line.file.name} is not what was written (another sha256)")]
    except ZodbvaultError as error:
        return [Finding(line.timestamp, str(error))]
    return []


def _check_md5(repository: Repository, line: Line) -> None:
    """Unpack a data file and compare its md5; for backups without a record (repozo's). Raises ZodbvaultError."""
    digest = new_hash("md5")
    path = repository.location / line.file.name
    for block in read_blocks(path, line.size, compressed=line.file.is_compressed):
        digest.update(block)
    if digest.hexdigest() != line.md5:
        raise ZodbvaultError(f"holds md5 {digest.hexdigest()}, written was {line.md5}", path=path)


def _follow_transactions(repository: Repository, chain: Chain, referenced: SortedKeys) -> list[Finding]:
    """Unpack the chain as a restore would and compare what comes out with `.dat`, records and itself."""
    with SortedKeys(repository.location) as back_pointers:
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
    digest = new_hash("md5")
    for block in read_blocks(path, line.size, compressed=line.file.is_compressed):
        digest.update(block)
        checker.feed(block)
    if digest.hexdigest() != line.md5:
        raise ZodbvaultError(f"holds md5 {digest.hexdigest()}, written was {line.md5}", path=path)


def _compare_with_record(repository: Repository, chain: Chain, checked: CheckedRange) -> list[Finding]:
    """Whether the transactions that came out are those that the newest record tells of."""
    record = repository.record_of(chain.newest)
    if record is None:
        return []
    tail = None if checked.tail_tid is None else checked.tail_tid.hex()
    if (record.tail_tid, record.tail_header) != (tail, checked.tail_header):
        return [Finding(record.timestamp, "its last transaction is not the one that its record names")]
    return []


def _was_pruned(repository: Repository, chain: Chain) -> bool:
    """Whether a backup that ran meanwhile let the chain go."""
    now = read_repository(repository.location, repository.blob_location)
    return chain.dat_name in repository.names and chain.dat_name not in now.names


def _report(chains: tuple[Chain, ...], findings: list[Finding], *, deep: bool) -> VerifyReport:
    """A line for each chain, and one for each thing that is wrong, with what it means."""
    lines = []
    for chain in chains:
        stamps = {line.timestamp for line in chain.lines} | {chain.timestamp}
        wrong = [finding for finding in findings if finding.timestamp in stamps]
        number = len(chain.lines)
        verdict = "DAMAGED" if wrong else "good"
        what = "unpacked and followed" if deep else "checked"
        lines.append(f"{chain.timestamp}: {number} backup{'' if number == 1 else 's'} {what}: {verdict}")
        lines += [f"  {finding.timestamp}: {finding.what}" for finding in wrong]
        if wrong:
            first = min(finding.timestamp for finding in wrong)
            whole = [line.timestamp for line in chain.lines if line.timestamp < first]
            lines.append(f"  Newest date of this chain that still restores: {whole[-1] if whole else 'none'}")
    return VerifyReport(tuple(lines), good=not findings)
