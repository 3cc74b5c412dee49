"""Where the blobs of backups are kept, as whoever reads them sees it: the pool, a directory, an archive.

A manifest says what a state consists of, a container gives the bytes. Knows neither how a container keeps its blobs
nor what is done with them.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Protocol, TypeVar

from zodbvault.blobs.ahead import pieces_of, worked_ahead
from zodbvault.blobs.copying import blocks_of
from zodbvault.errors import ZodbvaultError
from zodbvault.io.closing import close_fd

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path

    from zodbvault.blobs.layouts import Layout
    from zodbvault.blobs.manifest import Entry

    Blocks = Iterator[bytes]
    """The content of one blob. Raises ZodbvaultError or OSError where it is missing or cannot be read."""

Result = TypeVar("Result")

# Blobs that a thread looks at, or reads, before it hands over what it found.
_LOOKED_AT_ONCE = 64
_READ_AT_ONCE = 8


class DamagedBlob(ZodbvaultError):
    """A blob of a backup is missing or is not what its manifest says. The site was not harmed."""


class Container(Protocol):
    """A place that holds blobs of backups, opened for reading."""

    @property
    def folder(self) -> Path:
        """What it is, for messages: a folder or an archive."""
        ...

    def path_of(self, key: bytes) -> str:
        """Where the blob `key` is, or would be, for messages."""
        ...

    def sizes(self, entries: Iterable[Entry]) -> Generator[tuple[Entry, int | None], None, None]:
        """Each entry with the size in bytes of its blob here, None when it is not here.

        entries: in the order of their keys.
        """
        ...

    def read(
        self, entries: Iterable[Entry], take: Callable[[Entry, Blocks], Result]
    ) -> Generator[tuple[Entry, Result], None, None]:
        """Each entry with what `take` makes of the content of its blob; in any order.

        entries: in the order of their keys. take: is called once for each entry, also for one that is not here, and
        by several threads at a time.
        """
        ...


class StateContainer(Container, Protocol):
    """A container that tells by itself which state it holds: a directory, or an archive with its deltas."""

    @property
    def layout(self) -> Layout:
        """The layout of the blobstorage that was backed up."""
        ...

    def blobs(self) -> Generator[Entry, None, None]:
        """An entry without sha256 for each blob, in the order of their keys."""
        ...


def has_all(container: Container, entries: Iterable[Entry]) -> bool:
    """Whether the blobs of a state are in a container, by names and sizes. Stops at the first that is not.

    entries: in the order of their keys; what they say is gone does not count. Raises what reading them raises.
    """
    with closing(container.sizes(entry for entry in entries if not entry.removed)) as held:
        return all(size == entry.size for entry, size in held)


def sizes_one_by_one(
    entries: Iterable[Entry], size_of: Callable[[bytes], int | None]
) -> Generator[tuple[Entry, int | None], None, None]:
    """`Container.sizes` where each blob is a file: size_of(key) is asked, by several threads where that is slow."""

    def looked_at(piece: list[Entry]) -> list[tuple[Entry, int | None]]:
        return [(entry, size_of(entry.key)) for entry in piece]

    with closing(worked_ahead(looked_at, pieces_of(entries, _LOOKED_AT_ONCE))) as pieces:
        for piece in pieces:
            yield from piece


def read_one_by_one(
    entries: Iterable[Entry], open_blob: Callable[[bytes], int], take: Callable[[Entry, Blocks], Result]
) -> Generator[tuple[Entry, Result], None, None]:
    """`Container.read` where each blob is a file: open_blob(key) gives a descriptor, or raises ZodbvaultError."""

    def taken(piece: list[Entry]) -> list[tuple[Entry, Result]]:
        return [(entry, _taken(entry, open_blob, take)) for entry in piece]

    with closing(worked_ahead(taken, pieces_of(entries, _READ_AT_ONCE))) as pieces:
        for piece in pieces:
            yield from piece


def _taken(entry: Entry, open_blob: Callable[[bytes], int], take: Callable[[Entry, Blocks], Result]) -> Result:
    """What `take` makes of one blob, also of one that cannot be opened: its blocks raise the error then."""
    try:
        fd = open_blob(entry.key)
    except ZodbvaultError as error:
        return take(entry, _failing(error))
    try:
        return take(entry, blocks_of(fd))
    finally:
        close_fd(fd)


def _failing(error: ZodbvaultError) -> Generator[bytes, None, None]:
    yield from ()
    raise error
