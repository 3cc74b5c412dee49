"""Free space, asked for before a file is begun. Knows nothing of what the files are."""

from __future__ import annotations

import logging
import os

from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.sizes import size_text

logger = logging.getLogger(__name__)

UNKNOWN = 1 << 63
"""What counts as free where a file system does not say (some network file systems answer 0 of 0)."""


class NotEnoughSpace(ZodbvaultError):
    """A file system has less free space than is needed."""


def free_bytes(path: str | os.PathLike[str]) -> int:
    """Bytes that a common user may still write where `path` stands, or would stand: its nearest parent that exists.

    Raises ZodbvaultError where even that cannot be looked at.
    """
    free, size = disk_space(path)
    return free if size else UNKNOWN


def disk_space(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Bytes that a common user may still write where `path` stands, or would stand, and all bytes of the file system.

    Both are 0 where the file system does not say. Raises ZodbvaultError as free_bytes does.
    """
    try:
        status = os.statvfs(nearest_existing(path))
    except OSError as error:
        raise ZodbvaultError(f"its free space cannot be found out: {reason_of(error)}", path=path) from error
    return status.f_bavail * status.f_frsize, status.f_blocks * status.f_frsize


def share_space(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two places are, or would be, in the same file system, so that their needs add up."""
    try:
        return os.stat(nearest_existing(one)).st_dev == os.stat(nearest_existing(other)).st_dev
    except OSError as error:
        raise ZodbvaultError(f"its file system cannot be found out: {reason_of(error)}", path=one) from error


def nearest_existing(path: str | os.PathLike[str]) -> str:
    """`path`, or its nearest parent that exists."""
    place = os.path.abspath(path)
    while not os.path.exists(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    return place


def require_space(path: str | os.PathLike[str], needed: int, what_for: str) -> None:
    """Say what is needed and what is free; raise NotEnoughSpace unless `needed` bytes are free at `path`.

    what_for: "for the copy of Data.fs". Nothing is said where nothing is needed.
    """
    free = free_bytes(path)
    if free < needed:
        raise NotEnoughSpace(
            f"not enough space {what_for}: {needed:,} bytes are needed, {free:,} are free",
            path=path,
            hint=f"Nothing was changed. Make room for {needed - free:,} bytes more, then run the same command again.",
        )
    if needed:
        there = "nobody knows what is" if free == UNKNOWN else size_text(free)
        logger.info("Space %s: about %s needed, %s free at %s.", what_for, size_text(needed), there, path)
