"""Closing files. An error in that is of no account: what has to be on the disk was synced before, and a sync tells.

Knows nothing of what the files are, and imports as little as a small backup may.
"""

from __future__ import annotations

import io
import os
from contextlib import suppress


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
