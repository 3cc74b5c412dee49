"""A repository as it stands on disk: its listing, its chains, its records.

Reads only. Knows nothing of blobs beyond the names of their manifests.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.closing import close_fd
from zodbvault.repository.chains import Chain, ListedChain, chains_with_dat, chains_without_dat
from zodbvault.repository.dat import DamagedDat, Line, parse_dat
from zodbvault.repository.names import (
    DAT_SUFFIX,
    DATA_SUFFIXES,
    MANIFEST_SUFFIXES,
    PRUNED_SUFFIX,
    RECORD_SUFFIX,
    split_name,
)
from zodbvault.repository.records import MAXIMUM_SIZE, DamagedRecord, NewerFormat, Record, parse_record

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from zodbvault.repository.records import BlobRecord

logger = logging.getLogger("zodbvault")

MOST_LOOKS = 5
"""How often a repository is looked at, while backups change it each time, before the look counts as it is."""


class UnreadableFile(ZodbvaultError):
    """A file of a repository that is there and cannot be read."""


class Repository(NamedTuple):
    """What stood in a repository when it was looked at.

    blob_location: where the manifests of the blob states are; None for a site without blobs. names, blob_names: the
    files in the two folders (none where the folder does not exist). told: the records that were warned about already.
    last_read: by its file's name the record that was read last, which is asked for by one step after the other; no
    more, since the records of a long chain would fill the memory.
    """

    location: Path
    blob_location: Path | None
    names: frozenset[str]
    blob_names: frozenset[str]
    chains: tuple[Chain, ...]
    listed: tuple[ListedChain, ...]
    told: set[str]
    last_read: dict[str, Record]

    def path(self, name: str) -> Path:
        """Where the file called `name` is: manifests in the blob location, everything else in the location."""
        if self.blob_location is not None and _is_manifest(name):
            return self.blob_location / name
        return self.location / name

    def has(self, name: str) -> bool:
        """Whether a file called `name` is where `path` says."""
        at_blobs = self.blob_location is not None and _is_manifest(name)
        return name in (self.blob_names if at_blobs else self.names)

    def record(self, timestamp: str) -> Record | None:
        """The record of the backup at `timestamp`; None when there is none or it cannot be read (with a warning).

        Raises NewerFormat when a later version wrote it.
        """
        name = timestamp + RECORD_SUFFIX
        if name not in self.names:
            return None
        try:
            record = self.read_record(name)
        except FileNotFoundError:
            return None
        except (DamagedRecord, UnreadableFile) as error:
            if name not in self.told:
                self.told.add(name)
                # As text: the error has all that was read in its tail, and a handler may keep what it is given.
                logger.warning("%s The backup is treated as one without a record.", error.sentence)
            return None
        return record if record.timestamp == timestamp else None

    def read_record(self, name: str) -> Record:
        """The content of the record called `name`.

        Raises FileNotFoundError, UnreadableFile, DamagedRecord, and NewerFormat when a later version wrote it.
        """
        record = self.last_read.get(name)
        if record is None:
            path = self.location / name
            record = parse_record(read_small(path), str(path))
            self.last_read.clear()
            self.last_read[name] = record
        return record

    def record_of(self, line: Line) -> Record | None:
        """The record that belongs to exactly this line: its data file, its start and its end."""
        record = self.record(line.timestamp)
        return record if record is not None and is_of_line(record, line) else None


def read_repository(location: Path, blob_location: Path | None) -> Repository:
    """Look at a repository. A folder that does not exist counts as an empty one.

    A backup may add to it or prune it between the listing and the reading of a `.dat`; then it is looked at again.
    """
    repository, is_of_one_moment = _look(location, blob_location)
    for _ in range(MOST_LOOKS - 1):
        if is_of_one_moment:
            break
        before = repository
        repository, is_of_one_moment = _look(location, blob_location)
        if repository.names == before.names:
            break  # it is as it is: a data file is lost
    return repository


def _look(location: Path, blob_location: Path | None) -> tuple[Repository, bool]:
    """What stands there; and whether each `.dat` in the listing was still there, and the listing has all it names."""
    names = list_files(location)
    blob_names = frozenset() if blob_location is None else list_files(blob_location)
    dats: dict[str, tuple[Line, ...] | DamagedDat] = {}
    has_all = True
    for name in names:
        parts = split_name(name)
        if parts is not None and parts[1] == DAT_SUFFIX:
            try:
                lines = dats[parts[0]] = read_dat(location / name)
            except FileNotFoundError:
                has_all = False  # pruned since the listing: the chain is gone
            except DamagedDat as error:
                dats[parts[0]] = error
            else:
                has_all = has_all and all(line.file.name in names for line in lines)
    chains, listed = chains_with_dat(dats), chains_without_dat(names)
    return Repository(location, blob_location, names, blob_names, chains, listed, set(), {}), has_all


def refuse_newer_format(repository: Repository) -> None:
    """Raises NewerFormat where a later version wrote the newest record: what else it wrote is not to be tidied up."""
    parts = (split_name(name) for name in repository.names if name.endswith(RECORD_SUFFIX))
    newest = max((part[0] for part in parts if part is not None and part[1] == RECORD_SUFFIX), default=None)
    if newest is not None:
        # What else is wrong with it is told where it is needed.
        with contextlib.suppress(FileNotFoundError, DamagedRecord, UnreadableFile):
            repository.read_record(newest + RECORD_SUFFIX)


def newer_format(repository: Repository, timestamps: Iterable[str]) -> NewerFormat | None:
    """Why this version can say nothing of backups that belong together: a later one wrote the record of one of them."""
    try:
        for timestamp in timestamps:
            repository.record(timestamp)
    except NewerFormat as error:
        return error
    return None


def was_pruned(timestamp: str, before: frozenset[str], now: frozenset[str]) -> bool:
    """Whether the chain of a full at `timestamp` that was in one listing has gone, by a later one.

    One whose full had no `.dat` yet, for its backup was about to give it one, has gone with its full.
    """
    if timestamp + DAT_SUFFIX in now:
        return False
    is_being_removed = timestamp + DAT_SUFFIX in before or timestamp + PRUNED_SUFFIX in now
    return is_being_removed or not any(timestamp + suffix in now for suffix in DATA_SUFFIXES)


def read_dat(path: Path) -> tuple[Line, ...]:
    """The lines of a `.dat` file. Raises DamagedDat, also where the disk cannot read it; FileNotFoundError."""
    try:
        return parse_dat(read_small(path), path.name)
    except UnreadableFile as error:
        raise DamagedDat(error.what, path=path.name) from error


def list_files(folder: Path) -> frozenset[str]:
    """The names of what is not a folder in `folder`; none where that does not exist. Raises ZodbvaultError."""
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if not entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise ZodbvaultError(f"cannot be listed: {reason_of(error)}", path=folder) from error


def read_small(path: Path, limit: int = MAXIMUM_SIZE) -> bytes:
    """The content of a small regular file of a repository, which may stand where others can write.

    limit: bytes that it may have. Raises FileNotFoundError when it is not there; UnreadableFile for a symlink, for a
    folder, and for more.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableFile(f"cannot be read: {reason_of(error)}", path=path) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > limit:
            raise UnreadableFile("is not a file that a repository can hold", path=path)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(status.st_size)
    except OSError as error:
        raise UnreadableFile(f"cannot be read: {reason_of(error)}", path=path) from error
    finally:
        close_fd(descriptor)


def size_of(path: Path) -> int | None:
    """Size in bytes of a regular file; None when there is none of that name. Raises ZodbvaultError."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ZodbvaultError(f"cannot be looked at: {reason_of(error)}", path=path) from error
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def chain_problem(repository: Repository, chain: Chain, *, with_blobs: bool) -> str | None:
    """Why nothing may be built on `chain`, seen without reading its files; None when all of it is there.

    The newest record holds the sums of what the chain's files measure, so that one `stat` a file is enough. Of the
    lines that repozo added since, only what `.dat` says can be checked.
    """
    if chain.damage is not None:
        return str(chain.damage)
    sizes = []
    for line in chain.lines:
        size = size_of(repository.location / line.file.name)
        if size is None or not _may_measure(line, size):
            return f"{line.file.name} is {'missing' if size is None else 'shorter or longer than it was'}"
        sizes.append(size)
    found = _newest_record(repository, chain)
    is_of_newest = found is not None and found[0] == len(chain.lines)
    if repository.has(chain.newest.timestamp + RECORD_SUFFIX) and not is_of_newest:
        return f"its newest record, {chain.newest.timestamp}{RECORD_SUFFIX}, cannot be read, or is another backup's"
    if found is None:
        return None
    number, record = found
    stored = sum(sizes[:number])
    if (record.chain_backups, record.chain_stored_size) != (number, stored):
        return (
            f"its {number} files up to {record.timestamp} have {stored} bytes, and {record.chain_stored_size} bytes in "
            f"{record.chain_backups} files were written"
        )
    if with_blobs and record.blobs is not None:
        name = record.blobs.manifest
        what = wrong_size_of_manifest(repository, record.blobs) if name in repository.blob_names else None
        if what is not None:
            return f"{name} {what}"
        manifests = manifests_size(repository, chain.lines[:number])
        if manifests != record.chain_manifest_size:
            what = f"its blob manifests have {manifests} bytes where {record.chain_manifest_size} were written"
            return _problem_of_manifest(repository, chain.lines[:number]) or what
    return None


def _problem_of_manifest(repository: Repository, lines: Iterable[Line]) -> str | None:
    """What is wrong with the first manifest of some backups, oldest first, that has another size than written."""
    for line in lines:
        record = repository.record_of(line)
        if record is None or record.blobs is None or not _is_manifest(record.blobs.manifest):
            continue
        what = wrong_size_of_manifest(repository, record.blobs)
        if what is not None:
            return f"{record.blobs.manifest} {what}"
    return None


def wrong_size_of_manifest(repository: Repository, blobs: BlobRecord) -> str | None:
    """Why the manifest of a record cannot be the one that was written, to be read behind its name; None where it may.

    It is not read.
    """
    size = size_of(repository.path(blobs.manifest))
    if size is None:
        return "is missing"
    return None if size == blobs.stored_size else f"has {size} bytes, written were {blobs.stored_size}"


def record_problem(repository: Repository, line: Line) -> str | None:
    """Why the record of a backup that may be built on is not to be believed; None for a sound one, and for none.

    A backup that repozo made has none; one that cannot be read chain_problem has told of. Raises NewerFormat.
    """
    record = repository.record_of(line)
    if record is None:
        return None
    if not tells_of(record, line):
        return f"{line.timestamp}{RECORD_SUFFIX} and its line in the .dat file do not agree"
    size = size_of(repository.location / line.file.name)
    if size != record.stored_size:
        return f"{line.file.name} has {size} bytes, written were {record.stored_size}"
    return None


def is_of_line(record: Record, line: Line) -> bool:
    """Whether a record belongs to exactly this line: to its data file, its start and its end."""
    return (record.data_name, record.start, record.end) == (line.file.name, line.start, line.end)


def tells_of(record: Record, line: Line) -> bool:
    """Whether a record says of a backup what its line in the `.dat` says."""
    return is_of_line(record, line) and record.md5 == line.md5


def _may_measure(line: Line, size: int) -> bool:
    """Whether a line's file can have `size` bytes: no gzip file is empty, a plain one has what the line says."""
    return size > 0 if line.file.is_compressed else size == line.size


def _newest_record(repository: Repository, chain: Chain) -> tuple[int, Record] | None:
    """The newest record of a line of `chain`, and the number of lines up to that one."""
    for number in range(len(chain.lines), 0, -1):
        record = repository.record_of(chain.lines[number - 1])
        if record is not None:
            return number, record
    return None


def data_size(repository: Repository, lines: Iterable[Line]) -> int:
    """Bytes of the data files of some backups, as they are stored; one that is missing has none."""
    return sum(size_of(repository.location / line.file.name) or 0 for line in lines)


def manifests_size(repository: Repository, lines: Iterable[Line]) -> int:
    """Bytes of the blob manifests of some backups, in whichever layout."""
    names = (line.timestamp + suffix for line in lines for suffix in MANIFEST_SUFFIXES)
    return sum(size_of(repository.path(name)) or 0 for name in names if name in repository.blob_names)


def _is_manifest(name: str) -> bool:
    parts = split_name(name)
    return parts is not None and parts[1] in MANIFEST_SUFFIXES
