"""Timestamps: the names of backups, and the dates that a person gives.

All of them are UTC and compared as text, as repozo compares them. Plain functions of plain data: the clock is the
caller's.
"""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from zodbvault.errors import ZodbvaultError

_FORMAT = "%Y-%m-%d-%H-%M-%S"
_WHEN = r"(\d{4})-(\d\d)-(\d\d)(?:-(\d\d)(?:-(\d\d)(?:-(\d\d))?)?)?\Z"


class UnreadableDate(ZodbvaultError):
    """A date that cannot be understood: wrong usage, not a failure."""

    exit_code = 2


class NextTimestamp(NamedTuple):
    """The timestamp of the next backup. `wait`: seconds until it begins. `clock_is_behind`: seconds, 0 for none."""

    timestamp: str
    wait: float
    clock_is_behind: int


def timestamp_of(now: float) -> str:
    """The timestamp of a moment given in seconds since 1970 (UTC)."""
    return time.strftime(_FORMAT, time.gmtime(now))


def seconds_of(timestamp: str) -> int:
    """Seconds since 1970 of a timestamp; one that is no real date (a file that someone named) counts as the year's."""
    import calendar  # 3 ms, and most runs do not come here

    year, month, day, hour, minute, second = map(int, timestamp.split("-"))
    if not 1 <= day <= _days_of(year, month) or hour > 23 or minute > 59 or second > 59:
        month, day, hour, minute, second = 1, 1, 0, 0, 0
    return calendar.timegm((max(year, 1), month, day, hour, minute, second))


def next_timestamp(newest: str | None, now: float) -> NextTimestamp:
    """The timestamp for a backup made `now` (seconds since 1970) in a repository whose newest file has `newest`.

    Timestamps only grow: in the second of the newest one it is the next second, to be waited for; when the clock
    stands before the newest one it is that one's plus a second, without waiting.
    """
    current = timestamp_of(now)
    if newest is None or current > newest:
        return NextTimestamp(current, 0.0, 0)
    if current == newest:
        following = int(now) + 1
        return NextTimestamp(timestamp_of(following), following - now, 0)
    following = seconds_of(newest) + 1
    after = timestamp_of(following)
    if after <= newest or len(after) != len(newest):
        raise ZodbvaultError(
            f"no timestamp is left after {newest}",
            hint="A file with a date of the far future stands in the repository; move it away.",
        )
    return NextTimestamp(after, 0.0, seconds_of(newest) - int(now))


def parse_when(text: str) -> str:
    """Check a date that a person gave and return it in the form that timestamps are compared with.

    `YYYY-MM-DD`, or more of `YYYY-MM-DD-HH-MM-SS`, in UTC. A date alone is before its midnight's backups, because it
    is shorter than their timestamps. Raises UnreadableDate for anything else.
    """
    match = re.match(_WHEN, text.strip(), re.ASCII)
    if match:
        numbers = [int(group) for group in match.groups() if group is not None]
        year, month, day, hour, minute, second = numbers + [0] * (6 - len(numbers))
        if hour < 24 and minute < 60 and second < 60 and 1 <= day <= _days_of(year, month):
            return text.strip()
    raise UnreadableDate(
        f"cannot read the date {text!r}",
        hint="Give it as YYYY-MM-DD or YYYY-MM-DD-HH-MM-SS, in UTC, for example 2026-11-23-18-05-00.",
    )


def meaning_of(when: str) -> str:
    """What a date without a second means, in words, for somebody who may have meant its end."""
    is_day = len(when) == len("2026-11-23")
    return f"A date {'alone means its midnight' if is_day else 'without seconds means its first moment'}, UTC"


def _days_of(year: int, month: int) -> int:
    """The number of days of a month; 0 when there is no such month."""
    import calendar

    return calendar.monthrange(year, month)[1] if year and 1 <= month <= 12 else 0
