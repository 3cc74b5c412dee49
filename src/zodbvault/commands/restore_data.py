"""Data.fs's part of a restore: checked before, written beside the old one, swapped in one instant.

Knows nothing of blobs but that the data refer to them, and nothing of locks and questions.
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zodbvault.blobs.spill import SortedRecords
from zodbvault.commands.places import source_ownership
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.filestorage.checking import BACK_POINTER_SIZE, RestoredBytes, back_pointer, those_of_blobs
from zodbvault.io.closing import close_fd
from zodbvault.io.durable import Ownership, PartFile, remove_durably
from zodbvault.io.gzip_members import read_blocks
from zodbvault.io.hashing import BackgroundHash
from zodbvault.repository.store import size_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from zodbvault.blobs.spill import SortedKeys
    from zodbvault.filestorage.checking import CheckedRange
    from zodbvault.repository.dat import Line
    from zodbvault.repository.store import Repository

logger = logging.getLogger("zodbvault")

RESTORING_SUFFIX = ".restoring"


class DamagedBackup(ZodbvaultError):
    """The stored bytes are not the ones that were backed up."""


@dataclass(frozen=True)
class Target:
    """Where the database is restored to.

    configured: the name that Zope knows, where `.lock` and `.index` stand. resolved: the file behind it, where a
    symlink leads to; bytes are written beside that one.
    """

    configured: Path
    resolved: Path

    @property
    def restoring(self) -> Path:
        """The new bytes, until the rename."""
        return self.resolved.with_name(self.resolved.name + RESTORING_SUFFIX)

    @property
    def locks(self) -> tuple[Path, ...]:
        """FileStorage's lock, at each name that somebody may open the database by.

        Where a folder above is a symlink both names are those of one file, which can be locked only once.
        """
        names = (self.configured, self.resolved)
        files = {os.path.join(os.path.realpath(name.parent), name.name): name for name in reversed(names)}
        return tuple(Path(f"{name}.lock") for name in reversed(files.values()))


def target_of(datafs: Path) -> Target:
    """The target for a configured name; follows symlinks."""
    return Target(datafs, Path(os.path.realpath(datafs)))


def check_files(repository: Repository, lines: tuple[Line, ...]) -> None:
    """See that every file of the chain is there in its size, before anything is touched."""
    for line in lines:
        path = repository.location / line.file.name
        size = size_of(path)
        record = repository.record_of(line)
        expected = record.stored_size if record is not None else None if line.file.is_compressed else line.size
        if size is None:
            raise DamagedBackup("is missing", path=path, hint="Nothing was changed. Choose an earlier date.")
        if expected is not None and size != expected:
            raise DamagedBackup(
                f"has {size} bytes, written were {expected}",
                path=path,
                hint="Nothing was changed. Choose an earlier date.",
            )


def ownership_for(target: Target, stored: Path) -> Ownership:
    """Owner, group and mode of the file that is replaced; else of its folder, but for nobody who cannot read `stored`.

    stored: a data file of the backup, which has the mode of the database that it was made from.
    """
    if size_of(target.resolved) is not None:
        return source_ownership(target.resolved)
    folder = source_ownership(target.resolved.parent)
    return folder._replace(mode=folder.mode & (source_ownership(stored).mode | 0o600) & 0o666)


def write_data(
    repository: Repository,
    lines: tuple[Line, ...],
    end: int,
    new: PartFile,
    read: Callable[[int, int], bytes],
    on_blob: Callable[[bytes, bytes], None] | None,
) -> CheckedRange:
    """Write the joined bytes of the chain, checking the md5 of each line and every transaction on the way.

    end: how many of them; the end of a transaction in the last line. read: gives back what was written, by offset and
    length.
    """
    checker = RestoredBytes(end, read, on_blob)
    with contextlib.closing(_joined(repository, lines, end)) as parts:
        for part in parts:
            new.file.write(part)
            checker.feed(part)
    checked = checker.finish()
    new.finish()
    return checked


def read_data(
    repository: Repository, lines: tuple[Line, ...], end: int, referenced: SortedKeys, scratch: Path
) -> CheckedRange:
    """Read and check what write_data() would write. referenced: gets the blobs that the data refer to.

    scratch: a folder for temporary files.
    """
    with SortedRecords(BACK_POINTER_SIZE, scratch) as back_pointers:
        checker = RestoredBytes(
            end,
            None,
            lambda oid, tid: referenced.add(oid + tid),
            on_back_pointer=lambda *record: back_pointers.add(back_pointer(*record)),
        )
        with contextlib.closing(_joined(repository, lines, end)) as parts:
            for part in parts:
                checker.feed(part)
        checked = checker.finish()
        for key in list(those_of_blobs(back_pointers, referenced)):
            referenced.add(key)
    return checked


def _joined(repository: Repository, lines: tuple[Line, ...], end: int) -> Generator[bytes, None, None]:
    """The first `end` bytes that the lines of a chain hold together. Raises DamagedBackup behind those of a line."""
    left = end
    for line in lines:
        with contextlib.closing(BackgroundHash("md5")) as digest:
            path = repository.location / line.file.name
            for block in read_blocks(path, line.size, compressed=line.file.is_compressed):
                digest.update(block)
                # What stands behind the end is read for its md5 only.
                part = block if len(block) <= left else block[:left]
                if part:
                    yield part
                    left -= len(part)
            found = digest.hexdigest()
        if found != line.md5:
            raise DamagedBackup(
                f"holds md5 {found}, written was {line.md5}",
                path=path,
                hint="Data.fs was not touched. Choose an earlier date.",
            )


@contextlib.contextmanager
def readable(new: PartFile) -> Iterator[Callable[[int, int], bytes]]:
    """Reads bytes of the new file, by offset and length, also when its mode would not let us open it."""
    descriptor = os.dup(new.file.fileno())
    try:
        yield lambda offset, length: os.pread(descriptor, length, offset)
    finally:
        close_fd(descriptor)


def swap(target: Target, new: PartFile, index: PartFile | None) -> None:
    """The one instant of change. No index of the old database may stand beside the new one, not for a moment."""
    remove_durably(Path(f"{target.configured}.index"))
    new.publish()
    if index is not None:
        try:
            index.publish()
        except OSError as error:
            logger.warning("%s: cannot be written: %s; the site only starts slower.", index.path, reason_of(error))
