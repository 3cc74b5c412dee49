"""The manifests' part of a verification: against the records that tell of them, and against what the data refer to.

The blobs themselves are verify_blobs.py's.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from zodbvault.blobs.layouts import bushy_path, key_of_bushy
from zodbvault.blobs.manifest import read_manifest
from zodbvault.commands.state_in_use import entries_of
from zodbvault.commands.summary import plural
from zodbvault.commands.verify_blobs import part_of, stand_in
from zodbvault.commands.verify_data import lacking
from zodbvault.commands.verify_result import Finding, finding_of
from zodbvault.commands.written_manifests import is_recorded, require_as_written, wrong_with_manifest
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zodbvault.commands.blob_choices import BlobChoice
    from zodbvault.commands.choosing import Choice
    from zodbvault.commands.verify_data import References
    from zodbvault.repository.chains import Chain
    from zodbvault.repository.records import BlobRecord
    from zodbvault.repository.store import Repository


def verify_manifests(repository: Repository, chain: Chain, *, quick: bool) -> list[Finding]:
    """Whether the manifest of each backup is there, in the size and with the sha256 that its record says."""
    found: list[Finding] = []
    blobs = [None if (record := repository.record_of(line)) is None else record.blobs for line in chain.lines]
    for number, one in enumerate(blobs):
        what = None if one is None else wrong_with_manifest(repository, one, quick=quick)
        if one is not None and what is not None:
            # The states that stand on it: those up to the next complete one.
            following = next(
                (later for later in range(number + 1, len(blobs)) if _is_complete(blobs[later])), len(blobs)
            )
            dates = tuple(line.timestamp for line in chain.lines[number:following])
            found.append(Finding(dates, f"{one.manifest} {what}", one.manifest))
    return found


def _is_complete(blobs: BlobRecord | None) -> bool:
    return blobs is not None and blobs.complete


def verify_other_states(repository: Repository, choices: Sequence[Choice], *, quick: bool) -> list[Finding]:
    """Whether states that no record of their own date tells of are as they were written.

    Those that are later than the data, and directories and archives of ours whose manifest is gone.
    """
    found = []
    for choice in choices:
        for blobs in (choice.blobs, stand_in(choice)):
            if blobs is None or not (blobs.is_later or blobs.complete is None):
                continue
            try:
                require_as_written(repository, blobs, quick=quick)
            except ZodbvaultError as error:
                found.append(finding_of(error, choice.timestamp))
    return found


def are_states_recorded(repository: Repository, choices: Sequence[tuple[int, Choice]]) -> bool:
    """Whether records tell of all manifests of the states that are ours, so that what was written is known.

    Where it is not, only the data can tell whether a state has all that they refer to.
    """
    newest = {part_of(blobs): blobs for _, choice in choices for blobs in (choice.blobs, stand_in(choice))}
    return all(blobs is None or not blobs.is_exact or is_recorded(repository, blobs) for blobs in newest.values())


class DataAndBlobs:
    """Compares what the data of a chain refer to with the blob states of its dates. scratch: for temporary files."""

    def __init__(self, repository: Repository, references: References, scratch: Path) -> None:
        self._repository = repository
        self._references = references
        self._scratch = scratch

    def findings(self, numbered: Sequence[tuple[int, Choice]]) -> list[Finding]:
        """What the states of some dates lack. numbered: the chain's backup (from 0) and the choice, oldest first."""
        found = []
        before: BlobChoice | None = None
        for number, choice in numbered:
            newest = number + 1 == len(self._references.last_tids)
            if not (newest or self._references.is_exact):
                continue  # nobody knows which backup came with a blob
            wrong = None if self._adds_what_it_needs(number, choice, before) else self._what_lacks(number, choice)
            before = choice.blobs if wrong is None else None
            if wrong is not None:
                found.append(wrong)
        return found

    def _adds_what_it_needs(self, number: int, choice: Choice, before: BlobChoice | None) -> bool:
        """Whether a state is one that had all, and a delta with all that the data refer to since.

        before: the state of the backup before, where that has all.
        """
        blobs = choice.blobs
        if before is None or blobs is None or not (blobs.is_exact and before.is_exact and blobs.deltas):
            return False
        if blobs.is_later or (before.complete, before.deltas) != (blobs.complete, blobs.deltas[:-1]):
            return False
        new = (key for key in self._references.keys if self._references.number_of(key) == number)
        try:
            with contextlib.closing(read_manifest(blobs.deltas[-1])) as entries:
                lacks = lacking(new, (entry.key for entry in entries if not entry.removed), self._lost(choice))
                return next(lacks, None) is None
        except ZodbvaultError:
            return False

    def _what_lacks(self, number: int, choice: Choice) -> Finding | None:
        """What is wrong with the state of a date; None where it has all."""
        if choice.blobs is None:
            first = next(self._references.up_to(number), None)
            if first is None:
                return None
            return Finding((choice.timestamp,), f"refers to the blob {bushy_path(first)}, and has no blob state")
        # What another program made is taken by a restore only if it has all blobs; else it goes on to the next one.
        candidates = (choice.blobs,) if choice.blobs.is_exact else choice.blob_choices
        wrong = None
        for candidate in candidates:
            lacks = self._what_one_lacks(number, candidate, choice)
            if lacks is None:
                return None
            wrong = wrong or lacks
        return wrong

    def _what_one_lacks(self, number: int, candidate: BlobChoice, choice: Choice) -> Finding | None:
        """What to say of blobs that one of the states for a date lacks; None when it lacks none."""
        lost = self._lost(choice)
        try:
            with contextlib.closing(entries_of(candidate, self._scratch)) as entries:
                lacks = lacking(self._references.up_to(number), (entry.key for entry in entries), lost)
                first = next(lacks, None)
                count = 1 + sum(1 for _ in lacks)
        except ZodbvaultError as error:
            return finding_of(error, choice.timestamp)
        if first is None:
            return None
        what = f"refers to {plural(count, 'blob')} that its manifest lacks, such as {bushy_path(first)}"
        return Finding((choice.timestamp,), what)

    def _lost(self, choice: Choice) -> frozenset[bytes]:
        """The blobs that the site had lost when the backup was made."""
        record = self._repository.record_of(choice.chain.newest)
        paths = record.blobs.missing if record is not None and record.blobs is not None else ()
        return frozenset(key for path in paths if (key := key_of_bushy(path)) is not None)
