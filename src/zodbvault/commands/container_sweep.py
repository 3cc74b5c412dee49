"""Directories and archives that a killed run left: whose they are, and whether they are whole.

A manifest of ours without a backup tells that the directory or archive of its timestamp is ours, and belongs to
nothing. What another program made has no manifest, and is never touched here.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

from zodbvault.blobs.letting_go import remove_stored
from zodbvault.blobs.manifest import read_manifest
from zodbvault.blobs.opening import opened_container
from zodbvault.blobs.stored import Form, find_stored, series_up_to
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
from zodbvault.repository.store import list_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from zodbvault.blobs.stored import Stored
    from zodbvault.repository.records import Record
    from zodbvault.repository.store import Repository

logger = logging.getLogger("zodbvault")


def remove_unfinished(repository: Repository, base: str) -> None:
    """Remove the directories and archives of backups that have a manifest and neither data nor a line.

    base: name of the blobstorage. Raises ZodbvaultError.
    """
    if repository.blob_location is None or any(chain.damage for chain in repository.chains):
        return
    known = {file.timestamp for file in data_files(repository.names)}
    known.update(line.timestamp for chain in repository.chains for line in chain.lines)
    of_blobs_alone = {name for name in repository.blob_names if name.endswith(RECORD_SUFFIX)}
    unfinished = [
        (stamp, suffix)
        for stamp, suffix in _manifests(repository.blob_names)
        if stamp not in known and stamp + RECORD_SUFFIX not in of_blobs_alone
    ]
    for one in remove_made_with(unfinished, repository.blob_location, base):
        logger.info("Removed %s, which a killed run left.", one.path)


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
    for one in _made_with(manifests, find_stored(repository.blob_location), base):
        rename_durably(one.path, one.path.with_name(one.path.name + ORPHAN_SUFFIX))


def state_is_whole(record: Record, location: Path, base: str) -> bool:
    """Whether the blobs that a backup's manifest names are there in their sizes. Raises DamagedManifest."""
    assert record.blobs is not None
    stored: tuple[Stored, ...] = ()
    if record.blobs.layout != POOL:
        forms = (Form.ARCHIVE, Form.DELTA) if record.blobs.layout == ARCHIVES else (Form.DIRECTORY,)
        found = find_stored(location)
        own = [one for one in found if (one.base, one.timestamp) == (base, record.timestamp) and one.form in forms]
        if not own:
            return False
        stored = series_up_to(found, own[-1])
    with (
        opened_container(location, stored, location) as container,
        contextlib.closing(read_manifest(location / record.blobs.manifest)) as entries,
        contextlib.closing(container.sizes(entry for entry in entries if not entry.removed)) as held,
    ):
        return all(size == entry.size for entry, size in held)


def states_with_manifest(location: Path) -> frozenset[tuple[str, bool]]:
    """The states in directories and archives that our manifests in a location tell of.

    Each is a timestamp, and whether a directory holds it.
    """
    return frozenset((stamp, suffix == DIRECTORY_MANIFEST_SUFFIX) for stamp, suffix in _manifests(list_files(location)))


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
