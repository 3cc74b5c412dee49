"""Which blobs of the site another program's directory or archive has, byte for byte.

Its names and sizes are believed for nothing: content is compared with the site's, so the sha256 that comes of it is the
site's. Reads only.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from zodbvault.blobs.copying import hash_blob, hash_blocks
from zodbvault.blobs.manifest import PACKED_SIZE, Entry, pack_entry
from zodbvault.blobs.spill import SortedRecords
from zodbvault.errors import ZodbvaultError
from zodbvault.io.closing import close_fd

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from zodbvault.blobs.containers import Blocks, Container
    from zodbvault.blobs.source import SourceBlobs


def equal_blobs(
    container: Container, blobs: Iterable[tuple[bytes, int]], source: SourceBlobs, scratch: Path
) -> SortedRecords:
    """The entries of the blobs that container and site have with the same content, packed, in the order of the keys.

    blobs: key and size in bytes of the site's blobs, in the order of the keys. scratch: a folder for temporary files.
    The caller closes what is returned. Raises ZodbvaultError where the container cannot be read at all.
    """
    found = SortedRecords(PACKED_SIZE, scratch)

    def in_their_size() -> Iterator[Entry]:
        with closing(container.sizes(Entry(key, size, "") for key, size in blobs)) as held:
            for entry, size in held:
                if size == entry.size:
                    yield entry

    def same(entry: Entry, blocks: Blocks) -> Entry | None:
        return _same(entry, blocks, source)

    try:
        with closing(container.read(in_their_size(), same)) as compared:
            for _, entry in compared:
                if entry is not None:
                    found.add(pack_entry(entry))
    except BaseException:
        found.close()
        raise
    return found


def _same(entry: Entry, blocks: Blocks, source: SourceBlobs) -> Entry | None:
    """The entry of a blob with its sha256 where both have the same content; None where one of them cannot be read."""
    try:
        held = hash_blocks(blocks)
        fd = source.open(entry.key)
        if fd is None:
            return None
        try:
            live = hash_blob(fd)
        finally:
            close_fd(fd)
    except (ZodbvaultError, OSError):
        return None
    return Entry(entry.key, *live) if held == live else None
