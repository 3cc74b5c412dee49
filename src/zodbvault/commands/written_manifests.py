"""Whether the manifests of a blob state are those that their records tell of, byte for byte.

A manifest proves by its closing line that it is whole, not that it is the one that was written: that is known by its
record alone. Reads only.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING

from zodbvault.blobs.manifest import DamagedManifest
from zodbvault.blobs.stored import Form
from zodbvault.errors import ZodbvaultError
from zodbvault.io.hashing import sha256_of
from zodbvault.repository.names import RECORD_SUFFIX, split_name
from zodbvault.repository.records import ARCHIVES, BLOBS, DIRECTORIES
from zodbvault.repository.store import wrong_size_of_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from zodbvault.commands.blob_choices import BlobChoice
    from zodbvault.repository.records import BlobRecord
    from zodbvault.repository.store import Repository

logger = logging.getLogger("zodbvault")


def require_as_written(
    repository: Repository,
    choice: BlobChoice,
    *,
    quick: bool = False,
    known: dict[str, tuple[bool, str | None]] | None = None,
) -> bool:
    """Whether the records tell of every manifest of a state, and each is what its record says.

    quick: look at their sizes only. known: by name, whether a record tells of a manifest, and what is wrong with it; it
    is added to, so that of states that stand on each other each manifest is looked at once. Returns False where a
    record is missing, so that nobody knows; also for a state without manifests of ours. Raises DamagedManifest for a
    manifest that is another one than was written, for one that is gone from beside a directory or an archive that we
    wrote, and where blobs alone are backed up for a state between that nobody knows any more.
    """
    require_all_there(choice)
    if choice.complete is None:
        _require_that_none_is_gone(repository, choice)
        return False
    _require_that_none_is_between(repository, choice)
    known = {} if known is None else known
    is_proved = True
    for path in (choice.complete, *choice.deltas):
        if path.name not in known:
            blobs = recorded(repository, path.name)
            what = None if blobs is None else wrong_with_manifest(repository, blobs, quick=quick)
            known[path.name] = (blobs is not None, what)
        is_proof, what = known[path.name]
        if what is not None:
            raise DamagedManifest(what, path=path)
        is_proved = is_proved and is_proof
    return is_proved


def require_all_there(choice: BlobChoice) -> None:
    """Raise DamagedManifest for a state of blobs alone of which it is known, without a look, that something is gone."""
    if choice.lacks:
        raise DamagedManifest(choice.lacks, path=choice.complete)


def _require_that_none_is_between(repository: Repository, choice: BlobChoice) -> None:
    """Raise DamagedManifest where a state of blobs alone stands on more states than are there; no `.dat` names them."""
    record = repository.record(choice.timestamp)
    if record is None or record.kind != BLOBS or choice.stored or record.chain_backups == 1 + len(choice.deltas):
        return
    raise DamagedManifest(
        f"stands on {record.chain_backups - 1} states before it, and there are {len(choice.deltas)}",
        path=(choice.complete, *choice.deltas)[-1],
    )


def _require_that_none_is_gone(repository: Repository, choice: BlobChoice) -> None:
    """Raise DamagedManifest where a directory or archive had a manifest: without it nobody knows what was in a blob."""
    record = repository.record(choice.timestamp)
    if record is None or record.blobs is None or not choice.stored:
        return
    is_directory = choice.stored[-1].form is Form.DIRECTORY
    is_ours = record.blobs.layout == (DIRECTORIES if is_directory else ARCHIVES)
    if is_ours and choice.stored[-1].timestamp == choice.timestamp:
        name = record.timestamp + RECORD_SUFFIX
        raise DamagedManifest(
            f"{record.blobs.manifest} is missing, so nobody knows whether its blobs are as they were written",
            path=choice.stored[-1].path,
            hint=f"To take them as they are, move {name} out of the location",
        )


def believable(repository: Repository, names: Iterable[str]) -> frozenset[str]:
    """Those of some manifests that no record says to be others than were written; the others are warned about, once."""
    found = set()
    for name in names:
        blobs = recorded(repository, name)
        what = None if blobs is None else wrong_with_manifest(repository, blobs)
        if what is None:
            found.add(name)
        else:
            _warn_of(repository.path(name), what)
    return frozenset(found)


def vouched_for(repository: Repository, names: Iterable[str]) -> frozenset[str]:
    """Those of some manifests that are what their records say, byte for byte.

    Only of these a checksum may be taken over for a blob that is not read again: one whose record is gone may say
    anything, and still close well.
    """
    return believable(repository, [name for name in names if recorded(repository, name) is not None])


@functools.lru_cache(maxsize=64)
def _warn_of(path: Path, what: str) -> None:
    """Once in a run, which looks at a manifest more than once (that is what the cache is for)."""
    logger.warning("%s: %s. What it says of blobs is not used.", path, what)


def recorded(repository: Repository, name: str) -> BlobRecord | None:
    """What the record of its backup says of a manifest; None where none does."""
    parts = split_name(name)
    record = repository.record(parts[0]) if parts is not None else None
    return record.blobs if record is not None and record.blobs is not None and record.blobs.manifest == name else None


def is_recorded(repository: Repository, choice: BlobChoice) -> bool:
    """Whether records tell of every manifest of a state. No manifest is read."""
    if choice.complete is None:
        return False
    return all(recorded(repository, path.name) is not None for path in (choice.complete, *choice.deltas))


def wrong_with_manifest(repository: Repository, blobs: BlobRecord, *, quick: bool = False) -> str | None:
    """Why the manifest of a record is not the one that was written, to be read behind its name; None when it is.

    quick: look at its size only.
    """
    what = wrong_size_of_manifest(repository, blobs)
    if what is not None or quick:
        return what
    try:
        sha256 = sha256_of(repository.path(blobs.manifest))[1]
    except ZodbvaultError as error:
        return error.what
    return None if sha256 == blobs.sha256 else "is not what was written"
