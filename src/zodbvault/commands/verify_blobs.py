"""The blobs' part of a verification: manifests against their records, each blob of the pool against its manifest."""

from __future__ import annotations

import contextlib
import heapq
import logging
from typing import TYPE_CHECKING

from zodbvault.blobs.check import verify_blobs
from zodbvault.blobs.layouts import OID_SIZE, bushy_path, key_of_bushy
from zodbvault.blobs.opening import opened_container
from zodbvault.commands.restore_blobs import entries_of
from zodbvault.commands.written_manifests import require_as_written, wrong_with_manifest
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from zodbvault.blobs.manifest import Entry
    from zodbvault.blobs.stored import Stored
    from zodbvault.commands.blob_choices import BlobChoice
    from zodbvault.commands.choosing import Choice
    from zodbvault.repository.chains import Chain
    from zodbvault.repository.store import Repository

logger = logging.getLogger("zodbvault")


def lacks_blob_state(choice: Choice, *, deep: bool) -> bool:
    """Whether nothing tells which blobs belong to the state: it restores only where they are there already.

    deep: what another program backed up was compared with the data, so it is known to have all that they refer to.
    """
    blobs = choice.blobs
    return blobs is None or not (blobs.is_exact or (deep and blobs.is_of_date))


def verify_chains_blobs(repository: Repository, choices: Sequence[Choice], scratch: Path) -> list[tuple[str, str]]:
    """What is wrong with the blob states of some chains: pairs of a backup's timestamp and a text.

    Between two backups of a chain no blob goes, so the newest state of a chain has all blobs of the earlier ones. A
    blob that several chains share is read once. scratch: a folder for temporary files.
    """
    assert repository.blob_location is not None
    findings: list[tuple[str, str]] = []
    states: list[Choice] = []
    for choice in choices:
        wrong = _verify_manifests(repository, choice.chain) or _verify_other_date(repository, choice)
        if not lacks_blob_state(choice, deep=True) and not wrong:
            states.append(choice)
        findings += wrong
    for stored in dict.fromkeys(_stored(choice) for choice in states):
        findings += _verify_in_one(repository, [choice for choice in states if _stored(choice) == stored], scratch)
    return findings


def _stored(choice: Choice) -> tuple[Stored, ...]:
    """Where the blobs of a chain's state are; empty for the pool."""
    return choice.blobs.stored if choice.blobs is not None else ()


def _verify_in_one(repository: Repository, states: list[Choice], scratch: Path) -> list[tuple[str, str]]:
    """What is wrong with the states whose blobs are in one container."""
    assert repository.blob_location is not None
    findings: list[tuple[str, str]] = []
    try:
        with opened_container(repository.blob_location, _stored(states[0]), scratch) as container:
            with contextlib.ExitStack() as stack:
                streams = [
                    stack.enter_context(contextlib.closing(_entries(repository, choice, scratch))) for choice in states
                ]
                wrong_blobs = {finding.path: str(finding) for finding in verify_blobs(_each_once(streams), container)}
            for choice in states if wrong_blobs else ():
                with contextlib.closing(_entries(repository, choice, scratch)) as entries:
                    paths = (container.path_of(entry.key) for entry in entries)
                    named = {path for path in paths if path in wrong_blobs}
                # Any backup of the chain may need the blob, so it is said of the full.
                findings += [(choice.chain.timestamp, wrong_blobs[path]) for path in sorted(named)]
    except ZodbvaultError as error:
        findings += [(choice.chain.newest.timestamp, str(error)) for choice in states]
    return findings


def _entries(repository: Repository, choice: Choice, scratch: Path) -> Generator[Entry, None, None]:
    """The entries of a chain's blob state; of a later one those that the chain's data may refer to."""
    blobs, record = choice.blobs, repository.record_of(choice.chain.newest)
    assert blobs is not None
    last_tid = bytes.fromhex(record.last_tid or "") if record is not None and blobs.is_later else None
    with contextlib.closing(entries_of(blobs, scratch)) as entries:
        for entry in entries:
            if last_tid is None or entry.key[OID_SIZE:] <= last_tid:
                yield entry


def missing_from_state(
    repository: Repository, chosen: Choice, referenced: Iterable[bytes], scratch: Path
) -> str | None:
    """What to say of blobs that the data of a chain refer to and its blob state lacks; None when there are none.

    referenced: keys in ascending order. Blobs that the site had lost already are warned about. scratch: a folder for
    temporary files.
    """
    chain, choice = chosen.chain, chosen.blobs
    record = repository.record_of(chain.newest)
    lost_paths = record.blobs.missing if record is not None and record.blobs is not None else ()
    lost = {key for path in lost_paths if (key := key_of_bushy(path)) is not None}
    if lost:
        logger.warning("%d blobs were lost on the site before %s.", len(lost), chain.newest.timestamp)
    if choice is None:
        return next((f"refers to the blob {bushy_path(key)}, and has no blob state" for key in referenced), None)
    # What another program made is taken by a restore only if it has all blobs; else it goes on to the next one.
    candidates = (choice,) if choice.is_exact else chosen.blob_choices
    what = _what_lacks(candidates[0], referenced, lost, scratch)
    others = (_what_lacks(each, referenced, lost, scratch) for each in candidates[1:])
    return None if what is None or None in others else what


def _what_lacks(choice: BlobChoice, referenced: Iterable[bytes], lost: set[bytes], scratch: Path) -> str | None:
    """What to say of blobs that one state lacks; None when it lacks none."""
    try:
        with contextlib.closing(entries_of(choice, scratch)) as entries:
            lacking = _lacking(referenced, (entry.key for entry in entries), lost)
            first = next(lacking, None)
            number = 1 + sum(1 for _ in lacking)
    except ZodbvaultError as error:
        return str(error)
    return None if first is None else f"refers to {number} blobs that its manifest lacks, such as {bushy_path(first)}"


def _verify_manifests(repository: Repository, chain: Chain) -> list[tuple[str, str]]:
    """Whether the manifest of each backup is there, in the size and with the sha256 that its record says."""
    found: list[tuple[str, str]] = []
    for line in chain.lines:
        record = repository.record_of(line)
        if record is not None and record.blobs is not None:
            what = wrong_with_manifest(repository, record.blobs)
            found += [(line.timestamp, what)] if what is not None else []
    return found


def _verify_other_date(repository: Repository, choice: Choice) -> list[tuple[str, str]]:
    """Whether the manifests of a state that is later than the data are what their records say."""
    try:
        if choice.blobs is not None:
            require_as_written(repository, choice.blobs)
    except ZodbvaultError as error:
        return [(choice.chain.newest.timestamp, str(error))]
    return []


def is_state_proved(repository: Repository, choice: Choice) -> bool:
    """Whether only reading the data could tell no more of a chain's blob state than is known already.

    A state that is ours is believed as it stands when the records of its manifests are there. (One that turns out to
    be another than was written is found elsewhere.)
    """
    blobs = choice.blobs
    if blobs is None or not blobs.is_exact:
        return True
    try:
        return require_as_written(repository, blobs)
    except ZodbvaultError:
        return True


def _each_once(streams: list[Generator[Entry, None, None]]) -> Iterator[Entry]:
    """The entries of several states in the order of their keys, equal ones once."""
    before: Entry | None = None
    for entry in heapq.merge(*streams):
        if entry != before:
            yield entry
        before = entry


def _lacking(referenced: Iterable[bytes], state: Iterator[bytes], lost: set[bytes]) -> Iterator[bytes]:
    """The keys of `referenced` that are neither in `state` nor in `lost`; both in ascending order."""
    in_state = next(state, None)
    for key in referenced:
        while in_state is not None and in_state < key:
            in_state = next(state, None)
        if in_state != key and key not in lost:
            yield key
