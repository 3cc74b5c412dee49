"""Closing: of files, and of what holds some.

An error in closing a file is of no account: what has to be on the disk was synced before, and a sync tells. Knows
nothing of what the files are, and imports as little as a small backup may.
"""

from __future__ import annotations

import io
import os
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self


def close_fd(fd: int) -> None:
    """Close a descriptor."""
    with suppress(OSError):
        os.close(fd)


class QuietFile(io.FileIO):
    """An unbuffered binary file, for reading unless told otherwise."""

    def close(self) -> None:
        """Close it; nothing happens when it is closed."""
        with suppress(OSError):
            super().close()


class Closing:
    """A context manager that gives itself and ends with close(), whatever happened."""

    def close(self) -> None:
        """Let go of what is held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
