"""The time, and waiting for it: the one place that looks at the system's clock.

A command gets a Clock and passes it on, so that a test can live through a year in an instant. Knows nothing of backups.
"""

from __future__ import annotations

import os
import time

DAY = 86400
"""Seconds."""

TOLERATED_SKEW = 300
"""Seconds by which the clocks of two machines may differ, and nobody is told."""

VARIABLE = "ZODBVAULT_TEST_NOW"
"""Set by tests only: the time at which a child process believes to start, as `YYYY-MM-DD-HH-MM-SS`, UTC."""


class Clock:
    """What a command may ask of time."""

    def now(self) -> float:
        """Seconds since 1970-01-01, UTC."""
        raise NotImplementedError

    def sleep(self, seconds: float) -> None:
        """Come back when `seconds` have passed; at once when they are not above 0."""
        raise NotImplementedError


class SystemClock(Clock):
    """The computer's clock."""

    def now(self) -> float:
        """Seconds since 1970-01-01, UTC."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        if seconds > 0:
            time.sleep(seconds)


class PretendClock(Clock):
    """Stands still at the time that it is given; only sleep() moves it, and waits for nothing."""

    def __init__(self, now: float) -> None:
        self._now = now

    def now(self) -> float:
        """Seconds since 1970-01-01, UTC."""
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let `seconds` have passed."""
        if seconds > 0:
            self._now += seconds


def clock_from_environment() -> Clock:
    """The system's clock, or a pretended one that starts where a test says.

    Raises ValueError for a variable that is not a time.
    """
    start = os.environ.get(VARIABLE)
    if not start:
        return SystemClock()
    from calendar import timegm

    return PretendClock(float(timegm(time.strptime(start, "%Y-%m-%d-%H-%M-%S"))))
