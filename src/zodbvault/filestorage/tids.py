"""A tid as a moment, and a moment as a tid. All times are UTC.

The first half of a tid counts minutes since 1900, in months of 31 days; the second half is the part of that minute that
has passed, in 2 ** -32 of it (persistent.timestamp). So a tid is exact to 14 nanoseconds. Knows no file.
"""

from __future__ import annotations

import struct
import time

_HALVES = struct.Struct(">LL")
_FRACTIONS = 1 << 32
_NANOSECONDS = 60 * 10**9
_MICROSECONDS = 60 * 10**6


def tid_at(seconds: int, nanoseconds: int = 0) -> bytes:
    """The greatest tid that is not later than a moment: seconds since 1970, and the nanoseconds of that second.

    Raises ValueError for a moment that no tid can stand for: before 1900, or after October 9917.
    """
    year, month, day, hour, minute, second = time.gmtime(seconds)[:6]
    minutes = ((((year - 1900) * 12 + month - 1) * 31 + day - 1) * 24 + hour) * 60 + minute
    if not 0 <= minutes < _FRACTIONS:
        raise ValueError(f"no tid is of the year {year}")
    fraction = (second * 10**9 + nanoseconds) * _FRACTIONS // _NANOSECONDS
    return _HALVES.pack(minutes, fraction)


def nearest_tid_at(seconds: int) -> bytes:
    """As tid_at(); the first or the last of all tids for a moment that is before or after all of them."""
    try:
        return tid_at(seconds)
    except ValueError:
        return (b"\0" if seconds < 0 else b"\xff") * 8


def time_of_tid(tid: bytes) -> str:
    """The moment of a tid as ISO 8601, `2026-11-23T18:05:00.123456Z`.

    Rounded up to microseconds: no transaction is later than the time that is said of it.
    """
    minutes, fraction = _HALVES.unpack(tid)
    microseconds = -(-fraction * _MICROSECONDS // _FRACTIONS)
    year, month, day, hour, minute = _fields(minutes)
    if microseconds == _MICROSECONDS:
        # Into the next minute, which may be in the next month; most of these have no 31 days.
        from calendar import timegm

        following = timegm((year, month, day, hour, minute, 60))
        year, month, day, hour, minute = time.gmtime(following)[:5]
        microseconds = 0
    second, microsecond = divmod(microseconds, 10**6)
    return f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{microsecond:06}Z"


def seconds_of_tid(tid: bytes) -> float:
    """The moment of a tid as seconds since 1970."""
    from calendar import timegm

    minutes, fraction = _HALVES.unpack(tid)
    seconds: float = timegm((*_fields(minutes), 0)) + fraction * 60 / _FRACTIONS
    return seconds


def _fields(minutes: int) -> tuple[int, int, int, int, int]:
    """Year, month, day, hour and minute that the first half of a tid stands for."""
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    months, day = divmod(days, 31)
    years, month = divmod(months, 12)
    return years + 1900, month + 1, day + 1, hour, minute
