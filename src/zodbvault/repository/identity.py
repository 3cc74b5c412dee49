"""Which repository a blob location belongs to: a random name that stands in both folders.

Blobs of two repositories in one folder would be pruned by each other. What is decided is a plain function; reading and
writing the two files is at the edge.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.errors import ZodbvaultError
from zodbvault.io.durable import Ownership, write_durably
from zodbvault.repository.chains import data_files
from zodbvault.repository.names import ID_NAME, MANIFEST_SUFFIXES, RECORD_SUFFIX, split_name
from zodbvault.repository.store import Repository, UnreadableFile, read_small

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger("zodbvault")

_ID_LENGTH = 32
_ID_LIMIT = 4096
_HEX_DIGITS = frozenset("0123456789abcdef")


class ForeignBlobs(ZodbvaultError):
    """The blob location holds the blobs of another repository."""


class Identity(NamedTuple):
    """The repository's id, and in which of its folders it has to be written (again)."""

    name: str
    write_to_location: bool
    write_to_blobs: bool


def decide_identity(here: str | None, at_blobs: str | None, *, fresh_name: str, blobs_are_ours: bool) -> Identity:
    """Decide from what stands in the location (`here`) and in the blob location (`at_blobs`; None: no file).

    blobs_are_ours: no blob manifest is there, or one of them belongs to a backup in the location.
    Raises ForeignBlobs when the two folders do not belong together.
    """
    if here is not None and at_blobs is not None and here != at_blobs:
        raise ForeignBlobs(f"belongs to repository {at_blobs}, not to {here}")
    if (here is None or at_blobs is None) and not blobs_are_ours:
        raise ForeignBlobs("holds blob backups for which there are no backups in the location")
    name = here or at_blobs or fresh_name
    return Identity(name, here is None, at_blobs is None)


def ensure_identity(repository: Repository, ownership: Ownership) -> None:
    """Check that location and blob location belong together, and give a new repository its id.

    Raises ForeignBlobs; nothing is written then.
    """
    blob_location = repository.blob_location
    if blob_location is None:
        return
    here, at_blobs = read_id(repository.location), read_id(blob_location)
    if here is not None and here == at_blobs:
        _refuse_if_emptied(repository)
        return
    try:
        identity = decide_identity(
            here, at_blobs, fresh_name=new_id().decode().strip(), blobs_are_ours=_blobs_are_ours(repository)
        )
    except ForeignBlobs as error:
        raise ForeignBlobs(
            error.what,
            path=blob_location,
            hint=_what_to_do(repository),
        ) from error
    content = identity.name.encode() + b"\n"
    if identity.write_to_location:
        write_durably(repository.location / ID_NAME, content, ownership)
    if identity.write_to_blobs:
        write_durably(blob_location / ID_NAME, content, ownership)


def _refuse_if_emptied(repository: Repository) -> None:
    """Raise ForeignBlobs where the location has no backup and the blob location those of several.

    A first run that was killed leaves one.
    """
    stamps = {parts[0] for parts in map(split_name, repository.blob_names) if parts and parts[1] in MANIFEST_SUFFIXES}
    if len(stamps) > 1 and not _backups_in(repository):
        raise ForeignBlobs(
            "holds blob backups for which there are no backups in the location",
            path=repository.blob_location,
            hint=_what_to_do(repository),
        )


def _backups_in(repository: Repository) -> set[str]:
    """The timestamps of the data files and records in the location."""
    backups = {file.timestamp for file in data_files(repository.names)}
    backups.update(parts[0] for parts in map(split_name, repository.names) if parts and parts[1] == RECORD_SUFFIX)
    return backups


def _what_to_do(repository: Repository) -> str:
    """A sentence for somebody whose two folders do not belong together."""
    if repository.chains or repository.listed:
        return (
            f"If {repository.location} is another repository's, give it a blob location of its own. If "
            "collective.recipe.backup has removed the older backups there, move the manifests (*blobs.gz) and "
            ".zodbvault.id in the blob location away; the next backup is a full one."
        )
    return (
        f"Is the disk of the location, {repository.location}, mounted? There are no backups in it. If they are lost, "
        "move the blob backups to another place; the next backup is a new full one."
    )


def new_id() -> bytes:
    """The content of an id file for a new repository: a random name."""
    return os.urandom(16).hex().encode() + b"\n"


def read_id(folder: Path) -> str | None:
    """The id that stands in `folder`; None where there is none, or what stands there is damaged."""
    try:
        content = read_small(folder / ID_NAME, _ID_LIMIT)
    except FileNotFoundError:
        return None
    except UnreadableFile as error:
        logger.warning("%s The id counts as missing.", error.sentence)
        return None
    name = content.strip(b"\n").decode("ascii", "replace")
    if len(name) == _ID_LENGTH and _HEX_DIGITS.issuperset(name):
        return name
    logger.warning("%s: is damaged: it holds no id of a repository. The id counts as missing.", folder / ID_NAME)
    return None


def _blobs_are_ours(repository: Repository) -> bool:
    """Whether the blob location has no manifests, or at least one of a backup that the location has."""
    manifests = {
        parts[0] for parts in map(split_name, repository.blob_names) if parts and parts[1] in MANIFEST_SUFFIXES
    }
    return not manifests or bool(manifests & _backups_in(repository))
