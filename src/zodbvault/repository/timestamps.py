"""Timestamps: the names of backups, and the dates that a person gives.

All of them are UTC and compared as text, as repozo compares them. Plain functions of plain data: the clock is the
caller's.
"""

from __future__ import annotations

import re
import time
from bisect import bisect
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from collections.abc import Iterable

# What a date without hour, minute or second lacks.
_MIDNIGHT = "yyyy-mm-dd-00-00-00"
_FORMAT = "%Y-%m-%d-%H-%M-%S"
_WHEN = r"(\d{4})-(\d\d)-(\d\d)(?:-(\d\d)(?:-(\d\d)(?:-(\d\d))?)?)?\Z"
_ISO = (
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,9})\d*)?)?"
    r" ?(?:([Zz])|([+-])(\d\d):?(\d\d)?)?\Z"
)

LATEST = "latest"
"""The word for the newest backup, for who wants to say it."""


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
    # Not every C library fills the years before 1000 up to four digits.
    return time.strftime(_FORMAT, time.gmtime(now)).rjust(len(_MIDNIGHT), "0")


def seconds_of(timestamp: str) -> int:
    """Seconds since 1970 of a timestamp; one that is no real date (a file that someone named) is its year's start."""
    import calendar  # 3 ms, and most runs do not come here

    year, month, day, hour, minute, second = map(int, timestamp.split("-"))
    if not 1 <= day <= _days_of(year, month) or hour > 23 or minute > 59 or second > 59:
        month, day, hour, minute, second = 1, 1, 0, 0, 0
    return calendar.timegm((max(year, 1), month, day, hour, minute, second))


def next_timestamp(newest: str | None, now: float) -> NextTimestamp:
    """The timestamp for a backup made `now` (seconds since 1970) in a repository whose newest file has `newest`.

    Timestamps only grow: in the second of the newest one it is the next second, to be waited for; when the clock
    stands before the newest one it is that one's plus a second, without waiting. Raises ZodbvaultError where no
    timestamp can be had: the clock, or the newest one, is beyond the year 9999.
    """
    current = timestamp_of(now)
    if newest is None and len(current) != len(_MIDNIGHT):
        raise ZodbvaultError(f"no backup can be named after the clock, which says {current}", hint="Set the clock.")
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


class Moment(NamedTuple):
    """A moment in UTC, to the second and the nanoseconds in it. seconds: since 1970."""

    seconds: int
    nanoseconds: int


def parse_when(text: str | None) -> str | None:
    """Check a date that a person gave and return it in the form that timestamps are compared with; None is the newest.

    `YYYY-MM-DD`, or more of `YYYY-MM-DD-HH-MM-SS`, in UTC; ISO 8601 with a time zone; `latest`, or None. A date alone
    is before its midnight's backups, because it is shorter than their timestamps. Raises UnreadableDate for anything
    else.
    """
    if text is None or text.strip() == LATEST:
        return None
    if is_timestamp_like(text.strip()):
        return text.strip()
    moment = parse_moment(text)
    return timestamp_of(moment.seconds)


def parse_moment(text: str) -> Moment:
    """The moment that a date means, in any of its forms but `latest`; a date without a second means its first moment.

    Raises UnreadableDate.
    """
    import calendar

    stripped = text.strip()
    if is_timestamp_like(stripped):
        return Moment(seconds_of(stripped + _MIDNIGHT[len(stripped) :]), 0)
    match = re.match(_ISO, stripped, re.ASCII)
    if match is None:
        raise _unreadable(text)
    year, month, day, hour, minute, second = (int(group or 0) for group in match.groups()[:6])
    fraction, utc, sign, zone_hours, zone_minutes = match.groups()[6:]
    if utc is None and sign is None:
        hint = (
            f"Give it as {stripped}Z for UTC, with another zone as {stripped}+01:00, or as YYYY-MM-DD-HH-MM-SS (UTC)."
        )
        raise UnreadableDate(f"the date {text!r} has no time zone", hint=hint)
    beyond_the_hour = int(zone_minutes or 0)
    offset = int(zone_hours or 0) * 60 + beyond_the_hour
    if not _is_moment(year, month, day, hour, minute, second) or offset >= 24 * 60 or beyond_the_hour > 59:
        raise _unreadable(text)
    seconds = calendar.timegm((year, month, day, hour, minute, second)) - (-60 if sign == "-" else 60) * offset
    if not 1 <= time.gmtime(seconds).tm_year <= 9999:
        raise _unreadable(text)
    return Moment(seconds, int((fraction or "0").ljust(9, "0")))


def is_timestamp_like(text: str) -> bool:
    """Whether `text` is a timestamp, or a real date that is the beginning of one."""
    match = re.match(_WHEN, text, re.ASCII)
    if match is None:
        return False
    numbers = [int(group) for group in match.groups() if group is not None]
    year, month, day, hour, minute, second = numbers + [0] * (6 - len(numbers))
    return _is_moment(year, month, day, hour, minute, second)


def _is_moment(year: int, month: int, day: int, hour: int, minute: int, second: int) -> bool:
    return hour < 24 and minute < 60 and second < 60 and 1 <= day <= _days_of(year, month)


def _unreadable(text: str) -> UnreadableDate:
    return UnreadableDate(
        f"cannot read the date {text!r}",
        hint=(
            "Give it as YYYY-MM-DD or YYYY-MM-DD-HH-MM-SS, in UTC, for example 2026-11-23-18-05-00; or with its time"
            " zone, 2026-11-23T19:05:00+01:00; or as latest."
        ),
    )


def nearest(timestamps: Iterable[str], when: str, count: int = 4) -> tuple[str, ...]:
    """Those of `timestamps` that stand next to the date `when`, on both sides of it, in their order."""
    every = sorted(set(timestamps))
    place = bisect(every, when)
    first = max(0, min(place - count // 2, len(every) - count))
    return tuple(every[first : first + count])


def meaning_of(when: str) -> str:
    """What a date without a second means, in words, for somebody who may have meant its end."""
    is_day = len(when) == len("2026-11-23")
    return f"A date {'alone means its midnight' if is_day else 'without seconds means its first moment'}, UTC"


def _days_of(year: int, month: int) -> int:
    """The number of days of a month; 0 when there is no such month."""
    import calendar

    return calendar.monthrange(year, month)[1] if year and 1 <= month <= 12 else 0
