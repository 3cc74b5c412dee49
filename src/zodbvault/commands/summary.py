"""What commands report: their results as values, and the words for numbers, moments and paths in it.

Part of what a backup without changes imports, so nothing heavy is imported here.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.io.sizes import size_text
from zodbvault.repository.names import split_name
from zodbvault.repository.timestamps import seconds_of

if TYPE_CHECKING:
    from pathlib import Path


class BackupReport(NamedTuple):
    """What a backup did. summary: one line. timestamp: of the backup that was made or completed; None for nothing."""

    summary: str
    timestamp: str | None


class RestoreReport(NamedTuple):
    """What a restore did. summary: one line. timestamp: of the state that was restored."""

    summary: str
    timestamp: str


def iso_time(seconds: float) -> str:
    """A moment in seconds since 1970 as ISO 8601, UTC, whole seconds."""
    moment = time.gmtime(seconds)
    # Of a year before 1000, as a file can be named, strftime writes fewer digits.
    return f"{moment.tm_year:04}{time.strftime('-%m-%dT%H:%M:%SZ', moment)}"


def seconds_of_iso(moment: str) -> int:
    """Seconds since 1970 of a time as records and checks hold it, `2026-11-23T18:05:00Z`. Raises ValueError."""
    parts = split_name(moment.replace("T", "-").replace(":", "-").replace("Z", "."))
    if parts is None:
        raise ValueError(moment)
    return seconds_of(parts[0])


def printable(path: str | Path) -> str:
    """A path as JSON can hold it: bytes that are not UTF-8 are written out."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def speed_text(size: int, seconds: float) -> str:
    """` (120.0 MB/s)`; nothing where the time is too short to say."""
    return f" ({size_text(size / seconds)}/s)" if seconds >= 0.05 else ""


def plural(number: int, thing: str) -> str:
    """`1 blob`, `1,234 blobs`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
