"""Whether a pool holds what a state's manifests say: each blob, its size and, unless in a hurry, its content.

Reads only. Several blobs are read at the same time, in constant memory.
"""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.ahead import pieces_of, worked_ahead
from zodbvault.blobs.copying import hash_blob
from zodbvault.errors import ZodbvaultError, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zodbvault.blobs.manifest import Entry
    from zodbvault.blobs.pool import Pool

# Of more than these a person learns nothing new; that there are more is the last finding.
MOST_FINDINGS = 1000

# Blobs that a thread reads before it hands over what it found.
_READ_AT_ONCE = 8


class Finding(NamedTuple):
    """Something that is wrong with one blob. kind: missing, size, sha256, unreadable, or more (findings not listed)."""

    kind: str
    path: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def verify_blobs(entries: Iterable[Entry], pool: Pool, quick: bool = False) -> list[Finding]:
    """What is wrong with the blobs of a state, in the order of their keys; an empty list when nothing is.

    quick: names and sizes only. The list ends after MOST_FINDINGS, with one that says how many more there are. Raises
    what reading the entries raises (DamagedManifest).
    """
    found: list[Finding] = []
    more = 0

    def note(finding: Finding | None) -> None:
        nonlocal more
        if finding is None:
            return
        if len(found) < MOST_FINDINGS:
            found.append(finding)
        else:
            more += 1

    if quick:
        for entry in entries:
            note(_wrong_size(entry, pool))
    else:

        def wrong(piece: list[Entry]) -> list[Finding | None]:
            return [_wrong_content(entry, pool) for entry in piece]

        with closing(worked_ahead(wrong, pieces_of(entries, _READ_AT_ONCE))) as pieces:
            for piece in pieces:
                for finding in piece:
                    note(finding)
    if more:
        found.append(Finding("more", str(pool.folder), f"{more} more blobs are missing or damaged"))
    return found


def _wrong_size(entry: Entry, pool: Pool) -> Finding | None:
    path = pool.path_of(entry.key)
    try:
        size = pool.size_of(entry.key)
    except ZodbvaultError as error:
        return Finding("unreadable", path, error.what)
    if size is None:
        return Finding("missing", path, "is missing from the pool of blobs")
    if size != entry.size:
        return _other_size(path, size, entry)
    return None


def _other_size(path: str, size: int, entry: Entry) -> Finding:
    return Finding("size", path, f"holds {size} bytes instead of {entry.size}")


def _wrong_content(entry: Entry, pool: Pool) -> Finding | None:
    path = pool.path_of(entry.key)
    try:
        fd = pool.open(entry.key)
        if fd is None:
            return Finding("missing", path, "is missing from the pool of blobs")
        try:
            held = os.fstat(fd).st_size
            if held != entry.size:
                return _other_size(path, held, entry)
            size, sha256 = hash_blob(fd)
        finally:
            os.close(fd)
    except ZodbvaultError as error:
        return Finding("unreadable", path, error.what)
    except OSError as error:
        return Finding("unreadable", path, f"cannot be read: {reason_of(error)}")
    if (size, sha256) != (entry.size, entry.sha256):
        return Finding("sha256", path, f"has sha256 {sha256}, backed up was {entry.sha256}")
    return None
