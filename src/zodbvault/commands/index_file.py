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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zodbvault.io.durable import Ownership

logger = logging.getLogger("zodbvault")

_BLOCK = 1 << 20


@contextlib.contextmanager
def copied_index(
    origin: Path, destination: Path, ownership: Ownership, read: Callable[[int, int], bytes], end: int
) -> Iterator[PartFile | None]:
    """A finished copy of the index at `origin`, to be published as `destination`; None where there is none that fits.

    read: gives bytes of the Data.fs that the index has to belong to, by offset and length; end: where that one ends.
    """
    try:
        descriptor = os.open(origin, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            logger.warning("%s cannot be read (%s); without it a site only starts slower.", origin, reason_of(error))
        yield None
        return
    with os.fdopen(descriptor, "rb") as file, PartFile(destination, ownership) as part:
        while block := file.read(_BLOCK):
            part.file.write(block)
        part.finish()
        # The copy is what is checked: the live one may be renamed away at any time.
        yield part if index_belongs(part.part, read, end) else None
