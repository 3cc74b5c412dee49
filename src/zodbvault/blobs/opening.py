"""Opening whatever holds the blobs of a state: the pool, a directory, or archives.

Apart from the containers themselves, since each of them is imported only where a state is in it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from zodbvault.blobs.pool import Pool
from zodbvault.blobs.stored import Form

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from zodbvault.blobs.containers import Container, StateContainer
    from zodbvault.blobs.stored import Stored


@contextlib.contextmanager
def opened_container(location: Path, stored: Sequence[Stored], scratch: Path) -> Iterator[Container]:
    """The container of a state in `location`. stored: empty for the pool. scratch: a folder for temporary files."""
    if stored:
        with opened_state(stored, scratch) as container:
            yield container
    else:
        with Pool(location) as pool:
            yield pool


@contextlib.contextmanager
def opened_state(stored: Sequence[Stored], scratch: Path) -> Iterator[StateContainer]:
    """The directory or the archives, which tell by themselves what they hold. Raises ZodbvaultError."""
    if stored[0].form is Form.DIRECTORY:
        from zodbvault.blobs.directories import DirectoryContainer

        yield DirectoryContainer(stored[0].path, scratch)
    else:
        from zodbvault.blobs.archives import ArchiveContainer

        with ArchiveContainer([one.path for one in stored], scratch) as archives:
            yield archives
