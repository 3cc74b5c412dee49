"""Free space, asked for before a file is begun. Knows nothing of what the files are."""

from __future__ import annotations

import os

from zodbvault.errors import ZodbvaultError, reason_of

UNKNOWN = 1 << 63
"""What counts as free where a file system does not say (some network file systems answer 0 of 0)."""


class NotEnoughSpace(ZodbvaultError):
    """A file system has less free space than is needed."""


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes that a common user may still write where `path` stands, or would stand: its nearest parent that exists.

    Raises ZodbvaultError where even that cannot be looked at.
    """
    place = os.path.abspath(path)
    while True:
        try:
            status = os.statvfs(place)
        except (FileNotFoundError, NotADirectoryError) as error:  # noqa: PERF203 - a handful of rounds
            parent = os.path.dirname(place)
            if parent == place:
                raise ZodbvaultError("its free space cannot be found out: no such folder", path=path) from error
            place = parent
        except OSError as error:
            raise ZodbvaultError(f"its free space cannot be found out: {reason_of(error)}", path=path) from error
        else:
            return status.f_bavail * status.f_frsize if status.f_blocks else UNKNOWN


def require_space(path: str | os.PathLike[str], needed: int, what_for: str) -> None:
    """Raise NotEnoughSpace unless `needed` bytes are free at `path`. what_for: "for the copy of Data.fs"."""
    free = free_bytes(path)
    if free < needed:
        raise NotEnoughSpace(
            f"not enough space {what_for}: {needed:,} bytes are needed, {free:,} are free",
            path=path,
            hint="Nothing was changed.",
        )
