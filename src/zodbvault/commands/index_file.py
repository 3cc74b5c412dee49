"""`Data.fs.index`: copied into a backup and out of it again, but only where it belongs to the data.

An index beside a Data.fs that it was not made for would be believed. So the copy is checked with the same questions
that FileStorage asks when it opens, and thrown away when one answer is wrong: without an index a site only starts
slower.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING

from zodbvault.errors import reason_of
from zodbvault.filestorage.index import index_belongs
from zodbvault.io.durable import PartFile
from zodbvault.io.stored import DamagedFile, open_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO
    from pathlib import Path

    from zodbvault.io.durable import Ownership

logger = logging.getLogger("zodbvault")

_BLOCK = 1 << 20
"""Bytes that are copied at once."""
_FRAME = 1 << 16
"""Bytes that an index may have beside its 8 for each object."""


@contextlib.contextmanager
def copied_index(
    origin: Path,
    destination: Path,
    ownership: Ownership,
    read: Callable[[int, int], bytes],
    end: int,
    *,
    nofollow: bool = False,
) -> Iterator[PartFile | None]:
    """A finished copy of the index at `origin`, to be published as `destination`; None where there is none that fits.

    read: gives bytes of the Data.fs that the index has to belong to, by offset and length; end: where that one ends.
    nofollow: refuse a symlink, as in a repository, which may stand where others can write.
    """
    try:
        file = open_stored(origin, nofollow=nofollow)
    except DamagedFile as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            _warn_of(origin, error.what)
        yield None
        return
    # It has 8 bytes for each object, and a transaction's header alone has more.
    if os.fstat(file.fileno()).st_size > end + _FRAME:
        file.close()
        _warn_of(origin, "is larger than the index of this database can be")
        yield None
        return
    with file, PartFile(destination, ownership) as part:
        is_whole = _copy(file, part, origin)
        part.finish()
        # The copy is what is checked: the live one may be renamed away at any time.
        yield part if is_whole and index_belongs(part.part, read, end) else None


def _copy(file: FileIO, part: PartFile, origin: Path) -> bool:
    """Copy an open index; False, with a warning, where the disk cannot read it. Raises OSError when writing fails."""
    while True:
        try:
            block = file.read(_BLOCK)
        except OSError as error:
            _warn_of(origin, f"cannot be read: {reason_of(error)}")
            return False
        if not block:
            return True
        part.file.write(block)


def _warn_of(origin: Path, what: str) -> None:
    logger.warning("%s %s; without it a site only starts slower.", origin, what)
