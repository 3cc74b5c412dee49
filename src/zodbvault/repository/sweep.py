"""Tidying up what a killed run left, before anything new is built.

The trap: repozo joins every data file that it finds by name, also one that no `.dat` names, and the restored Data.fs
is ruined. So such a file is either finished (it was one step from done) or put aside under another name; never deleted.
Blobs are looked at through a function that the caller gives.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.io.durable import Ownership, remove_durably, rename_durably
from zodbvault.io.hashing import sha256_of
from zodbvault.io.stored import DamagedFile
from zodbvault.repository.chains import Chain, data_files
from zodbvault.repository.dat import Line, can_follow
from zodbvault.repository.names import (
    CHECKS_SUFFIX,
    COMPANION_SUFFIXES,
    COMPLETE_MANIFEST_SUFFIX,
    CONTAINER_MANIFEST_SUFFIX,
    DELTA_MANIFEST_SUFFIX,
    MANIFEST_SUFFIXES,
    ORPHAN_SUFFIX,
    PRUNED_SUFFIX,
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
    from pathlib import Path

    from zodbvault.repository.records import Record

logger = logging.getLogger("zodbvault")

# What stands beside a data file. Manifests go before records: a record tells that what stands beside it is ours.
_IN_ORDER_OF_REMOVAL = (*MANIFEST_SUFFIXES, *COMPANION_SUFFIXES)


class Swept(NamedTuple):
    """What stands there after the sweep, and the chains whose prune it finished (timestamps of their fulls)."""

    repository: Repository
    pruned: tuple[str, ...]


def sweep(repository: Repository, blobs_are_there: Callable[[Record], bool], ownership: Ownership) -> Swept:
    """Finish or put aside what a crash left in `repository`; only the holder of its lock may do that.

    blobs_are_there: whether the manifest that a record names and the blobs of that manifest are in their place.
    """
    pruned = finish_begun_prunes(repository)
    if pruned:
        repository = _looked_at_again(repository)
    if _remove_parts(repository):
        repository = _looked_at_again(repository)
    repository = _settle_unnamed(repository, blobs_are_there, ownership)
    if _settle_dataless(repository):
        repository = _looked_at_again(repository)
    return Swept(repository, pruned)


def _looked_at_again(repository: Repository) -> Repository:
    return read_repository(repository.location, repository.blob_location)


def unnamed_files(repository: Repository) -> tuple[DataFile, ...]:
    """The data files that no `.dat` names, oldest first, where every `.dat` that could name them can be read."""
    named = {line.file.name for chain in repository.chains for line in chain.lines}
    damaged = {chain.timestamp for chain in repository.chains if chain.damage is not None}
    files = data_files(repository.names)
    return tuple(file for file in files if file.name not in named and _owner(file, files) not in damaged)


def one_step_from_done(repository: Repository, file: DataFile) -> tuple[Line, Chain | None] | None:
    """The `.dat` line that the unnamed data file `file` was about to get, and the chain that it continues.

    None when it is not younger than every line, or its record does not say that it is the next one, or its size is
    not the one in the record, or its chain is being pruned. The content is not read here.
    """
    record = repository.record(file.timestamp)
    if record is None or record.data_name != file.name or file.timestamp + PRUNED_SUFFIX in repository.names:
        return None
    if file.timestamp <= max(map(_newest_known, repository.chains), default=""):
        return None
    if size_of(repository.location / file.name) != record.stored_size or not _names_its_own_manifest(record):
        return None
    files = data_files(repository.names)
    if file.is_full and file.timestamp != files[-1].timestamp:
        return None  # a killed run leaves the newest file; with incrementals on it, it is a chain that lost its `.dat`
    line = Line(file, record.start, record.end, record.md5)
    chain = repository.chains[-1] if repository.chains and not file.is_full else None
    if chain is not None and (chain.damage is not None or _owner(file, files) != chain.timestamp):
        return None
    # A line that could not be read again would take the whole chain with it.
    return (line, chain) if can_follow(line, () if chain is None else chain.lines) else None


def _newest_known(chain: Chain) -> str:
    """The greatest timestamp that a chain is known to have."""
    return max((line.timestamp for line in chain.lines), default=chain.timestamp)


def _names_its_own_manifest(record: Record) -> bool:
    """Whether the manifest that a record names is the one that its timestamp leads to."""
    if record.blobs is None:
        return True
    in_pool = COMPLETE_MANIFEST_SUFFIX if record.blobs.complete else DELTA_MANIFEST_SUFFIX
    suffix = CONTAINER_MANIFEST_SUFFIX.get(record.blobs.layout, in_pool)
    return record.blobs.manifest == record.timestamp + suffix


def _remove_parts(repository: Repository) -> bool:
    """Remove our own files that were still being written; whether there were any."""
    parts = [repository.location / name for name in repository.names if is_our_part(name)]
    if repository.blob_location is not None:
        parts += [repository.blob_location / name for name in repository.blob_names if is_our_part(name)]
    remove_durably(*parts)
    return bool(parts)


def _settle_unnamed(
    repository: Repository, blobs_are_there: Callable[[Record], bool], ownership: Ownership
) -> Repository:
    """Give each data file without a line its line, or another name, or a warning; the repository as it is then.

    Oldest first, each with a new look: what one file gets may decide about the next.
    """
    for file in unnamed_files(repository):
        record = repository.record(file.timestamp)
        step = one_step_from_done(repository, file)
        is_whole = step is not None and record is not None and _is_as_recorded(repository, file, record)
        if step is not None and record is not None and is_whole and blobs_are_there(record):
            line, chain = step
            publish_line(repository.location, line, chain, ownership)
            logger.warning("%s was one step from done when its run was killed; it is finished now.", file.name)
        elif _is_trap(repository, file, record, is_damaged=step is not None and not is_whole):
            _put_aside(repository, file)
        else:
            logger.warning(
                "%s has no line in a .dat file. It stays as it is, and no backup is built on it.",
                repository.location / file.name,
            )
            continue
        repository = _looked_at_again(repository)
    return repository


def _is_as_recorded(repository: Repository, file: DataFile, record: Record) -> bool:
    """Whether a data file is byte for byte what its record tells of; not when the disk cannot read it."""
    try:
        return sha256_of(repository.location / file.name) == (record.stored_size, record.sha256)
    except DamagedFile as error:
        logger.warning("%s", error)
        return False


def _is_trap(repository: Repository, file: DataFile, record: Record | None, *, is_damaged: bool) -> bool:
    """Whether repozo would be ruined by a data file, so that it has to be put aside.

    An incremental that its chain's `.dat` does not name; or a full of ours that is not what its record says.
    is_damaged: whether its content was seen to be another one.
    """
    if not file.is_full:
        with_dat = {chain.timestamp for chain in repository.chains}
        return _owner(file, data_files(repository.names)) in with_dat
    if record is None or record.data_name != file.name:
        return False
    return is_damaged or size_of(repository.location / file.name) != record.stored_size


def _put_aside(repository: Repository, file: DataFile) -> None:
    """Rename a data file, then its companions, so that nobody takes them for a backup's."""
    logger.warning(
        "%s belongs to no backup (a run was killed while it was made); it is kept as %s.",
        repository.location / file.name,
        file.name + ORPHAN_SUFFIX,
    )
    # The data file first: it is the one that repozo would join.
    _rename_aside(repository.location / file.name)
    of_same_second = [other for other in data_files(repository.names) if other.timestamp == file.timestamp]
    if of_same_second == [file]:
        _put_companions_aside(repository, file.timestamp)


def _put_companions_aside(repository: Repository, timestamp: str) -> bool:
    """Rename the manifest, index and record of a data file that was put aside; whether there were any."""
    names = [timestamp + suffix for suffix in _IN_ORDER_OF_REMOVAL]
    present = [repository.path(name) for name in names if repository.has(name)]
    for path in present:
        _rename_aside(path)
    return bool(present)


def _rename_aside(path: Path) -> None:
    rename_durably(path, path.with_name(path.name + ORPHAN_SUFFIX))


def _settle_dataless(repository: Repository) -> bool:
    """Remove records and manifests whose data file never came; whether there were any.

    What a `.dat` names is left alone, although its data file is missing: that is a loss, not a left-over. Where the
    data file was put aside, they follow it.
    """
    if any(chain.damage for chain in repository.chains):
        return False
    known = {file.timestamp for file in data_files(repository.names)}
    known.update(line.timestamp for chain in repository.chains for line in chain.lines)
    aside = data_files(name.removesuffix(ORPHAN_SUFFIX) for name in repository.names if name.endswith(ORPHAN_SUFFIX))
    unfinished = {file.timestamp for file in aside} - known
    changed = [_put_companions_aside(repository, timestamp) for timestamp in sorted(unfinished)]
    leftovers = _dataless(repository, known | unfinished)
    for path in leftovers:
        remove_durably(path)
    return bool(leftovers) or any(changed)


def _dataless(repository: Repository, known: set[str]) -> list[Path]:
    """Our files beside data files that do not exist, in the order of removal. known: the timestamps that do.

    Checks may come alone: a verify holds no lock, and its backup may have been pruned meanwhile.
    """
    found: list[tuple[int, Path]] = []
    for name in repository.names | repository.blob_names:
        parts = split_name(name)
        if parts is None or parts[0] in known or not repository.has(name):
            continue
        timestamp, suffix = parts
        of_blobs_alone = timestamp + RECORD_SUFFIX in repository.blob_names
        has_record = timestamp + RECORD_SUFFIX in repository.names
        if suffix in MANIFEST_SUFFIXES:
            is_ours = not of_blobs_alone
        else:
            is_ours = suffix == CHECKS_SUFFIX or (suffix in COMPANION_SUFFIXES and has_record)
        if is_ours:
            found.append((_IN_ORDER_OF_REMOVAL.index(suffix), repository.path(name)))
    return [path for _, path in sorted(found)]


def _owner(file: DataFile, files: tuple[DataFile, ...]) -> str | None:
    """The timestamp of the full that a data file stands on by name: the newest one that is not later."""
    return max((full.timestamp for full in files if full.is_full and full.timestamp <= file.timestamp), default=None)
