"""What is already known of blobs that backups hold: by this run's copies, by the newest state, by all other manifests.

Keys are asked for in ascending order, so that every list is read once, from its beginning to its end.
"""

from __future__ import annotations

import logging
from contextlib import closing
from typing import TYPE_CHECKING

from zodbvault.blobs.manifest import PACKED_SIZE, DamagedManifest, pack_entry, read_manifest, unpack_entry
from zodbvault.blobs.spill import SortedRecords

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

    from zodbvault.blobs.manifest import Entry

logger = logging.getLogger(__name__)


class InOrder:
    """Looks keys up, asked for in ascending order and once each, in entries that come in that order."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = iter(entries)
        self._next = next(self._entries, None)

    def at(self, key: bytes) -> tuple[Entry, ...]:
        """All entries for `key`."""
        while self._next is not None and self._next.key < key:
            self._next = next(self._entries, None)
        found: tuple[Entry, ...] = ()
        while self._next is not None and self._next.key == key:
            found += (self._next,)
            self._next = next(self._entries, None)
        return found


class KnownBlobs:
    """The entries by which blobs are known.

    own: packed entries of what this run has copied. previous: the newest state, or None. other_manifests: is called
    when a blob comes up that `previous` does not explain; what it names is then read once.
    A manifest that cannot be read is warned about and left out: its blobs count as not known.
    """

    def __init__(
        self,
        own: Iterable[bytes],
        previous: Iterable[Entry] | None,
        other_manifests: Callable[[], Iterable[Path]],
        scratch: Path,
    ) -> None:
        self._own = InOrder(map(unpack_entry, own))
        self._previous = InOrder(readable(previous or ()))
        self._other_manifests = other_manifests
        self._others = SortedRecords(PACKED_SIZE, scratch)
        self._elsewhere: InOrder | None = None

    def own(self, key: bytes) -> tuple[Entry, ...]:
        """What this run has copied under that name."""
        return self._own.at(key)

    def previous(self, key: bytes) -> tuple[Entry, ...]:
        """What the newest state says."""
        return self._previous.at(key)

    def elsewhere(self, key: bytes) -> tuple[Entry, ...]:
        """What any of the other manifests says, once for each content."""
        if self._elsewhere is None:
            for path in self._other_manifests():
                self._gather(path)
            self._elsewhere = InOrder(map(unpack_entry, self._others))
        return self._elsewhere.at(key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._others.close()

    def _gather(self, path: Path) -> None:
        with closing(read_manifest(path)) as entries:
            for entry in readable(entries):
                if not entry.removed:
                    self._others.add(pack_entry(entry))


def with_known(
    blobs: Iterable[tuple[bytes, int]], known: Callable[[], Generator[Entry, None, None]] | None
) -> Generator[tuple[bytes, int, Entry | None], None, None]:
    """Each blob, given as key and size, with the entry by which it is known in that size, or None.

    known: gives entries in the order of their keys, as the blobs come; None where nothing is known.
    """
    if known is None:
        for key, size in blobs:
            yield key, size, None
        return
    with closing(known()) as entries:
        in_order = InOrder(entries)
        for key, size in blobs:
            yield key, size, next((one for one in in_order.at(key) if one.size == size), None)


def readable(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries up to where a manifest is damaged, which is warned about."""
    try:
        yield from entries
    except DamagedManifest as error:
        logger.warning("%s What it says of blobs is not used.", error.sentence)
