"""Time is asked for in one place, and a test can take it over."""

from __future__ import annotations

import time

import pytest

from zodbvault.io.clock import VARIABLE, PretendClock, SystemClock, clock_from_environment


def test_the_system_clock_tells_the_time_and_waits() -> None:
    clock = SystemClock()
    before = time.time()
    clock.sleep(0.02)
    clock.sleep(-1)
    assert before + 0.02 <= clock.now() <= before + 10


def test_a_pretended_year_takes_no_time() -> None:
    clock = PretendClock(1000.0)
    begun = time.monotonic()
    clock.sleep(365 * 86400)
    clock.sleep(-5)
    assert clock.now() == 1000.0 + 365 * 86400
    assert time.monotonic() - begun < 5


def test_a_child_process_gets_the_time_of_the_test_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        monkeypatch.setenv(VARIABLE, "2026-11-23-18-05-00")
        clock = clock_from_environment()
    finally:
        monkeypatch.undo()
        time.tzset()
    assert isinstance(clock, PretendClock)
    assert time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(clock.now())) == "2026-11-23 18:05:00"


def test_without_the_variable_it_is_the_real_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert isinstance(clock_from_environment(), SystemClock)


def test_a_time_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "yesterday")
    with pytest.raises(ValueError, match="yesterday"):
        clock_from_environment()
