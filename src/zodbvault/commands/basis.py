"""What earlier backups have of the blobs that go into a new directory or archive, so that these need not be written.

Which of them it is, is a plain decision on names and times. Of one that we wrote our manifest tells what is in it; of
another program's, once, a comparison with the site.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.directories import DirectoryContainer
from zodbvault.blobs.known import readable, with_known
from zodbvault.blobs.manifest import manifest_layout, read_manifest, unpack_entry
from zodbvault.blobs.matching import equal_blobs
from zodbvault.blobs.opening import opened_state
from zodbvault.blobs.pool import Pool
from zodbvault.blobs.stored import ARCHIVE_FORMS, Form, Stored, series_up_to
from zodbvault.commands.blob_choices import manifest_suffix_of
from zodbvault.commands.chain_blobs import merged_state, newest_pool_state
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from zodbvault.blobs.directory_writer import Linkable
    from zodbvault.blobs.layouts import Layout
    from zodbvault.blobs.manifest import Entry
    from zodbvault.blobs.source import SourceBlobs
    from zodbvault.blobs.wanted import StateList
    from zodbvault.repository.store import Repository

logger = logging.getLogger("zodbvault")


def newest_directory(stored: Sequence[Stored], base: str) -> Stored | None:
    """The newest directory of a blobstorage, by its base name. stored: oldest first."""
    directories = [one for one in stored if one.base == base and one.form is Form.DIRECTORY]
    return directories[-1] if directories else None


def series_to_continue(stored: Sequence[Stored], base: str, since: str) -> tuple[Stored, ...]:
    """The newest archive of a blobstorage and those that it stands on; nothing where there is none to be continued.

    stored: oldest first. since: timestamp of the full backup that the next one stands on: pruning takes no series
    apart only if all of it belongs to one chain.
    """
    archives = [one for one in stored if one.base == base and one.form in ARCHIVE_FORMS and one.number is None]
    if not archives:
        return ()
    series = series_up_to(tuple(stored), archives[-1])
    return series if series and series[0].form is Form.ARCHIVE and series[0].timestamp >= since else ()


def archives_of(stored: Sequence[Stored], base: str, timestamp: str) -> tuple[Stored, ...]:
    """The archives that belong to one timestamp, whatever their number and compression."""
    return tuple(one for one in stored if (one.base, one.timestamp) == (base, timestamp) and one.form in ARCHIVE_FORMS)


@dataclass(frozen=True)
class Basis:
    """What is there already. stored: the directory, or the archives of the series; empty for nothing.

    known: gives the entries of the blobs that are known to be in it with just that content. layout: of the blobstorage
    that it is a copy of. held: what blobs are linked from.
    """

    stored: tuple[Stored, ...] = ()
    known: Callable[[], Generator[Entry, None, None]] | None = None
    layout: Layout | None = None
    held: Linkable | None = None

    def unknown_in(self, state: StateList) -> Unknown:
        """What a state has beyond it. Raises DamagedManifest where our manifest is damaged anywhere."""
        if self.known is None:
            return Unknown(state.number, state.bytes)
        number = total = 0
        with contextlib.closing(with_known(state, self.known)) as blobs:
            for _, size, entry in blobs:
                if entry is None:
                    number += 1
                    total += size
        return Unknown(number, total)


class Unknown(NamedTuple):
    """Blobs of a state that earlier backups do not have. size: bytes of all of them."""

    number: int
    size: int


NO_BASIS = Basis()


def manifest_of(repository: Repository, newest: Stored) -> Path | None:
    """Our manifest of the state that is in a directory or archive, where there is one."""
    name = newest.timestamp + manifest_suffix_of(newest)
    return repository.path(name) if repository.has(name) else None


@contextlib.contextmanager
def opened_basis(
    stored: tuple[Stored, ...], manifest: Path | None, state: StateList, source: SourceBlobs, scratch: Path
) -> Iterator[Basis]:
    """What a directory or a series of archives has of a state.

    manifest: our own of it; None for another program's, which is compared with the site, byte for byte. What cannot be
    read is warned about and counts as nothing.
    """
    with contextlib.ExitStack() as stack:
        try:
            if manifest is None:
                basis = _foreign_basis(stored, state, source, scratch, stack)
            else:
                basis = _own_basis(stored, manifest, scratch)
        except ZodbvaultError as error:
            logger.warning("%s Nothing of it is used for this backup.", error.sentence)
            stack.close()
            basis = NO_BASIS
        yield basis


@contextlib.contextmanager
def pool_basis(repository: Repository, location: Path) -> Iterator[Basis]:
    """What the newest state in the pool has, for a first directory."""
    newest = newest_pool_state(repository)
    if newest is None:
        yield NO_BASIS
        return

    def known() -> Generator[Entry, None, None]:
        with contextlib.closing(merged_state(repository, newest, location)) as entries:
            yield from readable(entries)

    with Pool(location) as pool:
        yield Basis(known=known, held=pool)


def _own_basis(stored: tuple[Stored, ...], manifest: Path, scratch: Path) -> Basis:
    """What our own manifest tells of. Raises ZodbvaultError where it cannot be read."""

    def known() -> Generator[Entry, None, None]:
        return read_manifest(manifest)

    held = DirectoryContainer(stored[0].path, scratch) if stored[0].form is Form.DIRECTORY else None
    return Basis(stored, known, manifest_layout(manifest), held)


def _foreign_basis(
    stored: tuple[Stored, ...], state: StateList, source: SourceBlobs, scratch: Path, stack: contextlib.ExitStack
) -> Basis:
    """What another program's backup has of the site, byte for byte. Raises ZodbvaultError where it cannot be read."""
    container = stack.enter_context(opened_state(stored, scratch))
    logger.info("%s: no record tells what is in it; it is compared with the site, once.", container.folder)
    equal = stack.enter_context(equal_blobs(container, state, source, scratch))

    def known() -> Generator[Entry, None, None]:
        return (unpack_entry(packed) for packed in equal)

    held = container if isinstance(container, DirectoryContainer) else None
    return Basis(stored, known, container.layout, held)
