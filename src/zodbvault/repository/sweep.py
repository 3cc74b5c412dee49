"""Tidying up what a killed run left, before anything new is built.

The trap: repozo joins every data file that it finds by name, also one that no `.dat` names, and the restored Data.fs
is ruined. So such a file is either finished (it was one step from done) or put aside under another name; never deleted.
Blobs are looked at through a function that the caller gives.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zodbvault.io.durable import Ownership, remove_durably, rename_durably
from zodbvault.io.hashing import sha256_of
from zodbvault.repository.chains import Chain, data_files
from zodbvault.repository.dat import Line
from zodbvault.repository.names import (
    COMPANION_SUFFIXES,
    MANIFEST_SUFFIXES,
    ORPHAN_SUFFIX,
    RECORD_SUFFIX,
    DataFile,
    is_our_part,
    split_name,
)
from zodbvault.repository.prune import finish_begun_prunes
from zodbvault.repository.publish import publish_line
from zodbvault.repository.store import Repository, read_repository, size_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from zodbvault.repository.records import Record

logger = logging.getLogger("zodbvault")


@dataclass(frozen=True)
class Swept:
    """What stands there after the sweep, and the chains whose prune it finished (timestamps of their fulls)."""

    repository: Repository
    pruned: tuple[str, ...]


def sweep(repository: Repository, blobs_are_there: Callable[[Record], bool], ownership: Ownership) -> Swept:
    """Finish or put aside what a crash left in `repository`; only the holder of its lock may do that.

    blobs_are_there: whether the manifest that a record names and the blobs of that manifest are in their place.
    """
    pruned = finish_begun_prunes(repository)
    if pruned:
        repository = read_repository(repository.location, repository.blob_location)
    changed = _remove_parts(repository)
    changed |= _settle_unnamed(repository, blobs_are_there, ownership)
    changed |= _remove_dataless(repository)
    if changed:
        repository = read_repository(repository.location, repository.blob_location)
    return Swept(repository, pruned)


def unnamed_files(repository: Repository) -> tuple[DataFile, ...]:
    """The data files that no `.dat` names, oldest first, where every `.dat` that could name them can be read."""
    named = {line.file.name for chain in repository.chains for line in chain.lines}
    damaged = {chain.timestamp for chain in repository.chains if chain.damage is not None}
    files = data_files(repository.names)
    return tuple(file for file in files if file.name not in named and _owner(file, files) not in damaged)


def one_step_from_done(repository: Repository, file: DataFile) -> tuple[Line, Chain | None] | None:
    """The `.dat` line that the unnamed data file `file` was about to get, and the chain that it continues.

    None when it is not younger than every line, or its record does not say that it is the next one, or its size is
    not the one in the record. The content is not read here.
    """
    record = repository.record(file.timestamp)
    if record is None or record.data_name != file.name or any(chain.damage for chain in repository.chains):
        return None
    if any(file.timestamp <= line.timestamp for chain in repository.chains for line in chain.lines):
        return None
    if size_of(repository.location / file.name) != record.stored_size:
        return None
    line = Line(file, record.start, record.end, record.md5)
    if file.is_full:
        return (line, None) if record.start == 0 else None
    chain = repository.chains[-1] if repository.chains else None
    if (
        chain is None
        or chain.newest.end != record.start
        or _owner(file, data_files(repository.names)) != chain.timestamp
    ):
        return None
    return line, chain


def _remove_parts(repository: Repository) -> bool:
    """Remove our own files that were still being written; whether there were any."""
    parts = [repository.location / name for name in repository.names if is_our_part(name)]
    if repository.blob_location is not None:
        parts += [repository.blob_location / name for name in repository.blob_names if is_our_part(name)]
    remove_durably(*parts)
    return bool(parts)


def _settle_unnamed(repository: Repository, blobs_are_there: Callable[[Record], bool], ownership: Ownership) -> bool:
    """Give each data file without a line its line, or another name, or a warning; whether anything was changed."""
    changed = False
    files = data_files(repository.names)
    with_dat = {chain.timestamp for chain in repository.chains}
    for file in unnamed_files(repository):
        record = repository.record(file.timestamp)
        step = one_step_from_done(repository, file)
        if step is not None and record is not None and not changed and _fits(repository, record, blobs_are_there):
            line, chain = step
            publish_line(repository.location, line, chain, ownership)
            logger.warning("%s was one step from done when its run was killed; it is finished now.", file.name)
            changed = True
        elif _is_trap(repository, file, record, in_chain_with_dat=_owner(file, files) in with_dat):
            _put_aside(repository, file)
            changed = True
        else:
            logger.warning(
                "%s has no line in a .dat file. It stays as it is, and no backup is built on it.",
                repository.location / file.name,
            )
    return changed


def _fits(repository: Repository, record: Record, blobs_are_there: Callable[[Record], bool]) -> bool:
    """Whether all that a record names is there, byte for byte (the blobs by their sizes)."""
    assert record.data_name is not None
    size, digest = sha256_of(repository.location / record.data_name)
    return (size, digest) == (record.stored_size, record.sha256) and blobs_are_there(record)


def _is_trap(repository: Repository, file: DataFile, record: Record | None, *, in_chain_with_dat: bool) -> bool:
    """Whether repozo would be ruined by a data file, so that it has to be put aside.

    An incremental that its chain's `.dat` does not name; or a full of ours that is not what its record says.
    """
    if not file.is_full:
        return in_chain_with_dat
    if record is None or record.data_name != file.name:
        return False
    return size_of(repository.location / file.name) != record.stored_size


def _put_aside(repository: Repository, file: DataFile) -> None:
    """Rename a data file, then its companions, so that nobody takes them for a backup's."""
    logger.warning(
        "%s belongs to no backup (a run was killed while it was made); it is kept as %s.",
        repository.location / file.name,
        file.name + ORPHAN_SUFFIX,
    )
    # The data file first: it is the one that repozo would join.
    companions = (file.timestamp + suffix for suffix in (*MANIFEST_SUFFIXES, *COMPANION_SUFFIXES))
    present = repository.names | repository.blob_names
    for name in (file.name, *(name for name in companions if name in present)):
        path = repository.path(name)
        rename_durably(path, path.with_name(name + ORPHAN_SUFFIX))


def _remove_dataless(repository: Repository) -> bool:
    """Remove records and manifests whose data file never came; whether there were any.

    What a `.dat` names is left alone, although its data file is missing: that is a loss, not a left-over.
    """
    if any(chain.damage for chain in repository.chains):
        return False
    known = {file.timestamp for file in data_files(repository.names)}
    known.update(line.timestamp for chain in repository.chains for line in chain.lines)
    leftovers = []
    for name in sorted(repository.names | repository.blob_names):
        parts = split_name(name)
        if parts is None or parts[0] in known:
            continue
        timestamp, suffix = parts
        of_blobs_alone = timestamp + RECORD_SUFFIX in repository.blob_names
        has_record = timestamp + RECORD_SUFFIX in repository.names
        if suffix in MANIFEST_SUFFIXES and not of_blobs_alone:
            leftovers.append((0, repository.path(name)))
        elif suffix in COMPANION_SUFFIXES and has_record and name in repository.names:
            leftovers.append((1 + COMPANION_SUFFIXES.index(suffix), repository.path(name)))
    for _, path in sorted(leftovers):
        remove_durably(path)
    return bool(leftovers)


def _owner(file: DataFile, files: tuple[DataFile, ...]) -> str | None:
    """The timestamp of the full that a data file stands on by name: the newest one that is not later."""
    return max((full.timestamp for full in files if full.is_full and full.timestamp <= file.timestamp), default=None)
