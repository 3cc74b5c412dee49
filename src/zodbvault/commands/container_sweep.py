"""Directories and archives that a killed run left: whose they are, and whether they are whole.

A manifest of ours without a backup tells that the directory or archive of its timestamp is ours, and belongs to
nothing. What another program made has no manifest, and is never touched here.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from zodbvault.blobs.containers import has_all
from zodbvault.blobs.letting_go import remove_stored
from zodbvault.blobs.manifest import read_manifest
from zodbvault.blobs.opening import opened_container
from zodbvault.blobs.stored import ARCHIVE_FORMS, Form, find_stored, series_up_to, stored_name
from zodbvault.io.durable import rename_durably
from zodbvault.repository.chains import data_files
from zodbvault.repository.names import (
    CONTAINER_MANIFEST_SUFFIXES,
    DIRECTORY_MANIFEST_SUFFIX,
    ORPHAN_SUFFIX,
    RECORD_SUFFIX,
    split_name,
)
from zodbvault.repository.records import ARCHIVES, POOL
from zodbvault.repository.timestamps import seconds_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from zodbvault.blobs.stored import Stored
    from zodbvault.repository.records import Record
    from zodbvault.repository.store import Repository

logger = logging.getLogger("zodbvault")

# Seconds. FAT keeps every other second.
_COARSE_TIME = 2


def remove_unfinished(repository: Repository, base: str) -> None:
    """Remove the directory or archive of the backup that a kill kept from coming to exist.

    It has a manifest, neither data nor a line, and is younger than whatever has: a kill leaves one of that kind, the
    newest. More of them mean that data are missing: these stay, with a warning. base: name of the blobstorage. Raises
    ZodbvaultError.
    """
    if repository.blob_location is None or any(chain.damage for chain in repository.chains):
        return
    aside = (name.removesuffix(ORPHAN_SUFFIX) for name in repository.names if name.endswith(ORPHAN_SUFFIX))
    known = {file.timestamp for file in data_files((*repository.names, *aside))}
    known.update(line.timestamp for chain in repository.chains for line in chain.lines)
    of_blobs_alone = {name for name in repository.blob_names if name.endswith(RECORD_SUFFIX)}
    without_data = [
        (stamp, suffix)
        for stamp, suffix in sorted(_manifests(repository.blob_names))
        if stamp not in known and stamp + RECORD_SUFFIX not in of_blobs_alone
    ]
    newest = max((stamp for stamp, _ in without_data), default="")
    unfinished = [each for each in without_data if each[0] == newest > max(known, default="")]
    for one in remove_made_with(unfinished, repository.blob_location, base):
        logger.info("Removed %s, which a killed run left.", one.path)
    for one in _made_with([each for each in without_data if each not in unfinished], _stored_in(repository), base):
        logger.warning("%s belongs to no backup in %s; it stays.", one.path, repository.location)


def _stored_in(repository: Repository) -> tuple[Stored, ...]:
    assert repository.blob_location is not None
    return find_stored(repository.blob_location)


def remove_made_with(manifests: Sequence[tuple[str, str]], location: Path, base: str) -> list[Stored]:
    """Remove the directories and archives of some manifests (timestamp and suffix); what was removed.

    Raises ZodbvaultError.
    """
    found = _made_with(manifests, find_stored(location), base)
    for one in found:
        remove_stored(one)
    return found


def put_orphans_aside(repository: Repository, base: str) -> None:
    """Rename the directories and archives of data files that were put aside. Raises OSError."""
    if repository.blob_location is None:
        return
    aside = (name.removesuffix(ORPHAN_SUFFIX) for name in repository.blob_names if name.endswith(ORPHAN_SUFFIX))
    manifests = [parts for parts in _manifests(aside) if "".join(parts) not in repository.blob_names]
    for one in _made_with(manifests, _stored_in(repository), base):
        # A number may be another one's tomorrow.
        name = stored_name(base, one.timestamp, one.form, compressed=one.path.name.endswith(".gz"))
        rename_durably(one.path, one.path.with_name(name + ORPHAN_SUFFIX))


def stored_state(found: tuple[Stored, ...], base: str, timestamp: str, layout: str) -> tuple[Stored, ...]:
    """The directory, or the archives one on the other, that hold the state of a timestamp; empty where there are none.

    found: what a location holds, oldest first. A numbered one may have got its time from a file system that keeps every
    other second only.
    """
    forms = ARCHIVE_FORMS if layout == ARCHIVES else (Form.DIRECTORY,)
    own = [one for one in found if one.base == base and one.form in forms]
    of_stamp = [one for one in own if one.timestamp == timestamp] or [
        one for one in own if one.number == 0 and abs(seconds_of(one.timestamp) - seconds_of(timestamp)) < _COARSE_TIME
    ]
    return series_up_to(found, of_stamp[-1]) if of_stamp else ()


def state_is_whole(record: Record, location: Path, base: str) -> bool:
    """Whether the blobs that a backup's manifest names are there in their sizes. Raises DamagedManifest."""
    assert record.blobs is not None
    stored: tuple[Stored, ...] = ()
    if record.blobs.layout != POOL:
        stored = stored_state(find_stored(location), base, record.timestamp, record.blobs.layout)
        if not stored:
            return False
    with (
        opened_container(location, stored, location) as container,
        contextlib.closing(read_manifest(location / record.blobs.manifest)) as entries,
    ):
        return has_all(container, entries)


def _manifests(names: Iterable[str]) -> list[tuple[str, str]]:
    """Timestamp and suffix of the manifests of directories and archives among `names`."""
    parts = (split_name(name) for name in names)
    return [part for part in parts if part is not None and part[1] in CONTAINER_MANIFEST_SUFFIXES]


def _made_with(manifests: Sequence[tuple[str, str]], stored: tuple[Stored, ...], base: str) -> list[Stored]:
    """The directories and archives of some manifests."""
    wanted = {
        (stamp, suffix == DIRECTORY_MANIFEST_SUFFIX)
        for stamp, suffix in manifests
        if suffix in CONTAINER_MANIFEST_SUFFIXES
    }
    return [one for one in stored if one.base == base and (one.timestamp, one.form is Form.DIRECTORY) in wanted]
