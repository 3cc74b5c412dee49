from __future__ import annotations

import calendar
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from persistent.timestamp import TimeStamp

from zodbvault.filestorage.tids import nearest_tid_at, seconds_of_tid, tid_at, time_of_tid
from zodbvault.repository.timestamps import parse_moment

MOMENTS = st.integers(calendar.timegm((1900, 1, 1, 0, 0, 0)), calendar.timegm((9800, 1, 1, 0, 0, 0)))
TIDS = st.integers(0, calendar.timegm((2200, 1, 1, 0, 0, 0)) << 26).map(lambda number: number.to_bytes(8, "big"))


@given(MOMENTS)
def test_the_tid_of_a_second_is_zodbs(seconds: int) -> None:
    assert tid_at(seconds) == TimeStamp(*time.gmtime(seconds)[:6]).raw()


@given(MOMENTS, st.integers(0, 10**9 - 1))
def test_the_seconds_of_a_tid_are_those_that_it_was_made_of(seconds: int, nanoseconds: int) -> None:
    found = seconds_of_tid(tid_at(seconds, nanoseconds))
    assert abs(found - seconds - nanoseconds / 10**9) < 0.001


@given(MOMENTS, st.integers(0, 10**9 - 1))
def test_a_later_moment_has_no_smaller_tid(seconds: int, nanoseconds: int) -> None:
    assert tid_at(seconds) <= tid_at(seconds, nanoseconds) <= tid_at(seconds + 1)


@given(TIDS)
def test_the_time_of_a_tid_is_zodbs_rounded_up(tid: bytes) -> None:
    stamp = TimeStamp(tid)
    text = time_of_tid(tid)
    if stamp.day() > 28:  # a tid can name the 31st of February
        assert text[:7] == f"{stamp.year():04}-{stamp.month():02}"
        return
    moment = parse_moment(text)
    # What is said of a transaction finds it again, and no transaction that is a microsecond later.
    assert tid <= tid_at(moment.seconds, moment.nanoseconds)
    if moment.nanoseconds:
        assert tid_at(moment.seconds, moment.nanoseconds - 1000) < tid


def test_an_example() -> None:
    assert time_of_tid(bytes.fromhex("040d38edadfdc033")) == "2026-11-24T03:25:40.779191Z"
    assert time_of_tid(TimeStamp(2026, 12, 31, 23, 59, 59.9999999).raw()) == "2027-01-01T00:00:00.000000Z"
    assert time_of_tid(TimeStamp(2026, 11, 30, 23, 59, 59.9999999).raw()) == "2026-12-01T00:00:00.000000Z"
    assert time_of_tid(b"\xff" * 8) == "9917-10-14T04:16:00.000000Z"


@pytest.mark.parametrize("year", [1899, 9950])
def test_a_year_without_tids(year: int) -> None:
    with pytest.raises(ValueError, match=str(year)):
        tid_at(calendar.timegm((year, 6, 1, 0, 0, 0)))


def test_the_last_minute_with_tids() -> None:
    following = calendar.timegm((9917, 10, 14, 4, 16, 0))
    assert tid_at(following - 1)[:4] == b"\xff" * 4
    with pytest.raises(ValueError, match="9917"):
        tid_at(following)


def test_a_moment_that_no_tid_stands_for_has_a_nearest_one() -> None:
    assert nearest_tid_at(calendar.timegm((1850, 6, 1, 0, 0, 0))) == bytes(8)
    assert nearest_tid_at(calendar.timegm((9999, 6, 1, 0, 0, 0))) == b"\xff" * 8
    assert nearest_tid_at(10**9) == tid_at(10**9)
