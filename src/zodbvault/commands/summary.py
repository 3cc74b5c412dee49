"""What commands report: their results as values, and the words for numbers in one line of text."""

from __future__ import annotations

import time
from typing import NamedTuple

from zodbvault.io.sizes import size_text


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
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def speed_text(size: int, seconds: float) -> str:
    """` (120.0 MB/s)`; nothing where the time is too short to say."""
    return f" ({size_text(size / seconds)}/s)" if seconds >= 0.05 else ""


def plural(number: int, thing: str) -> str:
    """`1 blob`, `1,234 blobs`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
