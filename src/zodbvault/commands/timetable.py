"""When backups, full ones, verifications and rehearsals run by themselves: plain decisions that cron and systemd take.

The minutes come from a name, so that the sites of a machine, and many machines with one backup server, do not all begin
at once, and so that a second look gives the same.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.site_settings import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKUP = "backup"
FULL = "full"
VERIFY = "verify"
DRILL = "drill"
JOBS = (BACKUP, FULL, VERIFY, DRILL)

USUAL_MINUTES = 15
MINUTES_OF_HOUR = 60
HOURS_OF_DAY = 24
EVERY = tuple(
    [minutes for minutes in range(1, MINUTES_OF_HOUR) if MINUTES_OF_HOUR % minutes == 0]
    + [hours * MINUTES_OF_HOUR for hours in range(1, HOURS_OF_DAY + 1) if HOURS_OF_DAY % hours == 0]
)
"""The distances of backups, in minutes, that divide hours or days evenly, as cron can say them."""

QUIET_MINUTES = 10
"""Before a full backup, in which no other one begins: what is still at work then would let it be skipped."""

ALL_DAYS = "all"
SUNDAY = "sunday"
OTHER_DAYS = "other"

_FIRST_HOUR = 3
"""Of the night's work: before it, where summer begins or ends, an hour of the clock is missing or comes twice."""
_SURE_DAYS = 28
"""The days that each month has."""


class Times(NamedTuple):
    """Some times, in local time: each of these minutes in each of these hours.

    days: ALL_DAYS, SUNDAY or OTHER_DAYS. day_of_month: None for all.
    """

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: str = ALL_DAYS
    day_of_month: int | None = None


class Entry(NamedTuple):
    """What runs when. job: one of JOBS."""

    job: str
    times: tuple[Times, ...]


def minutes_from(text: str | None) -> int:
    """The distance of two backups in minutes; None: the usual one. Raises ConfigurationError for one that cannot be."""
    if text is None:
        return USUAL_MINUTES
    if text.isascii() and text.isdigit() and int(text) in EVERY:
        return int(text)
    known = ", ".join(str(minutes) for minutes in EVERY)
    raise ConfigurationError([f"--every {text}: is none of the distances that divide hours or days: {known}"])


def timetable(every: int, name: str) -> tuple[Entry, ...]:
    """When everything runs. every: minutes, one of EVERY. name: of this site on this machine.

    Each Sunday a full backup takes the place of an incremental one: both at once would find each other's lock, and
    what is late would be skipped. For the same reason those shortly before it are left out.
    """
    dice = _dice(name)
    hour = _FIRST_HOUR + dice[0] % 3
    if every < MINUTES_OF_HOUR:
        minutes: tuple[int, ...] = tuple(range(dice[1] % every, MINUTES_OF_HOUR, every))
        hours: tuple[int, ...] = tuple(range(HOURS_OF_DAY))
    else:
        minutes = (dice[1] % MINUTES_OF_HOUR,)
        step = every // MINUTES_OF_HOUR
        hours = tuple(range(hour % step, HOURS_OF_DAY, step))
    late_enough = [each for each in minutes if every >= QUIET_MINUTES or each >= QUIET_MINUTES]
    minute = late_enough[dice[2] % len(late_enough)]
    others = tuple(each for each in minutes if not minute - QUIET_MINUTES < each <= minute)
    on_sunday = (Times(minutes, _without(hours, hour), SUNDAY), Times(others, (hour,), SUNDAY))
    incremental = (Times(minutes, hours, OTHER_DAYS), *(times for times in on_sunday if times.minutes and times.hours))
    return (
        Entry(BACKUP, incremental),
        Entry(FULL, (Times((minute,), (hour,), SUNDAY),)),
        Entry(VERIFY, (Times((dice[3] % MINUTES_OF_HOUR,), (hour + 1,)),)),
        Entry(DRILL, (Times((dice[4] % MINUTES_OF_HOUR,), (hour + 2,), ALL_DAYS, 1 + dice[5] % _SURE_DAYS),)),
    )


def _dice(name: str) -> tuple[int, ...]:
    """Numbers that look like chance, and are always the same for a name."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()
    return tuple(int.from_bytes(digest[4 * place : 4 * place + 4], "big") for place in range(6))


def _without(numbers: tuple[int, ...], number: int) -> tuple[int, ...]:
    return tuple(each for each in numbers if each != number)


def spans(numbers: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Growing numbers as spans, first and last each: 0, 1, 2, 5 as 0 to 2 and 5 to 5."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return tuple(found)
