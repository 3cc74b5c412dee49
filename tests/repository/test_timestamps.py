from __future__ import annotations

import calendar
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodbvault.errors import ZodbvaultError
from zodbvault.repository.timestamps import (
    Moment,
    NextTimestamp,
    UnreadableDate,
    meaning_of,
    nearest,
    next_timestamp,
    parse_moment,
    parse_when,
    seconds_of,
    timestamp_of,
)

NOW = calendar.timegm((2026, 11, 23, 18, 5, 0))
END_OF_TIME = calendar.timegm((9999, 12, 31, 23, 59, 59))
moments = st.integers(0, END_OF_TIME)


def test_a_timestamp_is_utc_whatever_the_zone_is(monkeypatch: pytest.MonkeyPatch) -> None:
    winter, summer = NOW, calendar.timegm((2026, 3, 29, 1, 30, 0))  # the second one does not exist in Berlin
    for zone in ("Europe/Berlin", "America/New_York", "UTC"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            assert timestamp_of(winter) == "2026-11-23-18-05-00"
            assert timestamp_of(summer) == "2026-03-29-01-30-00"
            assert seconds_of("2026-03-29-01-30-00") == summer
        finally:
            monkeypatch.undo()
            time.tzset()


@given(moments)
def test_a_timestamp_and_its_seconds_are_the_same_moment(moment: int) -> None:
    assert seconds_of(timestamp_of(moment)) == moment


@given(moments, moments)
def test_timestamps_compare_as_text_as_their_moments_do(one: int, other: int) -> None:
    assert (timestamp_of(one) < timestamp_of(other)) == (one < other)


@pytest.mark.parametrize(
    "text",
    [
        "2026-13-45-18-05-00",
        "2026-02-30-00-00-00",
        "2026-01-01-24-00-00",
        "2026-00-01-00-00-60",
        "2026-05-01-00-60-00",
        "2026-05-01-00-00-60",
    ],
)
def test_a_name_that_is_no_date_counts_as_its_years_first_second(text: str) -> None:
    assert seconds_of(text) == calendar.timegm((2026, 1, 1, 0, 0, 0))


def test_the_first_years_of_all_have_four_digits_too() -> None:
    """As text they would be later than this century's else, and a restore to one of them would be to the newest."""
    june = calendar.timegm((1, 6, 1, 0, 0, 0))
    assert timestamp_of(june) == "0001-06-01-00-00-00"
    assert seconds_of("0001-06-01-00-00-00") == june
    assert seconds_of("0000-06-01-00-00-00") == calendar.timegm((1, 1, 1, 0, 0, 0))
    assert parse_when("0001-01-02T00:00:00+01:00") == "0001-01-01-23-00-00"
    assert parse_when("0987-06-01T00:00:00Z") == "0987-06-01-00-00-00"


def test_the_first_backup_is_now() -> None:
    assert next_timestamp(None, NOW + 0.9) == NextTimestamp("2026-11-23-18-05-00", 0.0, 0)


def test_a_later_second_is_now_too() -> None:
    assert next_timestamp("2026-11-23-18-04-59", NOW) == NextTimestamp("2026-11-23-18-05-00", 0.0, 0)


def test_in_the_same_second_the_next_one_is_waited_for() -> None:
    following = next_timestamp("2026-11-23-18-05-00", NOW + 0.25)
    assert following == NextTimestamp("2026-11-23-18-05-01", 0.75, 0)


def test_a_clock_that_was_set_back_costs_no_waiting() -> None:
    assert next_timestamp("2026-11-23-19-05-00", NOW + 0.5) == NextTimestamp("2026-11-23-19-05-01", 0.0, 3600)


def test_a_clock_that_is_one_second_behind_is_one_second_behind() -> None:
    assert next_timestamp("2026-11-23-18-05-01", NOW).clock_is_behind == 1


@given(st.none() | moments.filter(lambda moment: moment < END_OF_TIME), moments)
def test_timestamps_only_grow(newest: int | None, now: int) -> None:
    before = None if newest is None else timestamp_of(newest)
    if (newest, now) == (END_OF_TIME, END_OF_TIME):
        return
    following = next_timestamp(before, now)
    assert before is None or following.timestamp > before
    assert 0 <= following.wait <= 1
    assert seconds_of(following.timestamp) >= now
    assert (following.clock_is_behind > 0) == (newest is not None and newest > now)


def test_the_end_of_year_9999_is_the_end() -> None:
    assert next_timestamp("9999-12-31-23-59-58", NOW).timestamp == "9999-12-31-23-59-59"
    with pytest.raises(ZodbvaultError, match="no timestamp is left"):
        next_timestamp("9999-12-31-23-59-59", NOW)


def test_a_clock_after_the_year_9999_names_nothing() -> None:
    with pytest.raises(ZodbvaultError) as error:
        next_timestamp(None, 253402300800)
    assert str(error.value) == "no backup can be named after the clock, which says 10000-01-01-00-00-00. Set the clock."


def test_a_name_of_the_future_that_is_no_date_is_told_instead_of_sorted_wrongly() -> None:
    with pytest.raises(ZodbvaultError) as error:
        next_timestamp("2026-12-32-00-00-00", NOW)
    assert str(error.value) == (
        "no timestamp is left after 2026-12-32-00-00-00. "
        "A file with a date of the far future stands in the repository; move it away."
    )


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23",
        "2026-11-23-18",
        "2026-11-23-18-05",
        "2026-11-23-18-05-00",
        "2024-02-29",
        "2000-02-29",
        "9999-12-31-23-59-59",
        "0001-01-01",
    ],
)
def test_a_date_is_taken_as_it_was_given(text: str) -> None:
    assert parse_when(text) == text
    assert parse_when(f" {text}\n") == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026",
        "2026-11",
        "2026-11-2",
        "2026-11-23-",
        "2026-11-23-18-05-00-00",
        "2026-11-23 18:05",
        "2026-13-01",
        "2026-00-01",
        "2026-11-31",
        "2026-11-00",
        "2025-02-29",
        "1900-02-29",
        "0000-01-01",
        "2026-11-23-24",
        "2026-11-23-18-60",
        "2026-11-23-18-05-60",
        "٢٠٢٦-11-23",
        "2026-11-23\n2026-11-24",
        "-2026-11-23",
    ],
)
def test_anything_else_is_wrong_usage(text: str) -> None:
    with pytest.raises(UnreadableDate) as error:
        parse_when(text)
    assert error.value.exit_code == 2
    assert "YYYY-MM-DD" in str(error.value)


@given(st.dates())
def test_every_day_of_the_calendar_is_a_date(day: object) -> None:
    assert parse_when(str(day)) == str(day)


def test_a_date_alone_is_before_its_midnights_backups() -> None:
    assert parse_when("2026-11-23") < "2026-11-23-00-00-00"


@pytest.mark.parametrize(
    ("text", "timestamp"),
    [
        ("2026-11-23T18:05:07Z", "2026-11-23-18-05-07"),
        ("2026-11-23 18:05:07z", "2026-11-23-18-05-07"),
        ("2026-11-23T18:05Z", "2026-11-23-18-05-00"),
        ("2026-11-23T19:05:07+01:00", "2026-11-23-18-05-07"),
        ("2026-11-23T19:05:07 +0100", "2026-11-23-18-05-07"),
        ("2026-11-24T01:05:07.999999+07", "2026-11-23-18-05-07"),
        ("2026-12-31T19:34:59,5-04:30", "2027-01-01-00-04-59"),
        ("2026-11-23T20:04:07+01:59", "2026-11-23-18-05-07"),
    ],
)
def test_a_date_of_iso_8601_counts_with_its_time_zone(text: str, timestamp: str) -> None:
    assert parse_when(text) == timestamp


@pytest.mark.parametrize("text", [None, "latest", " latest "])
def test_the_newest_has_a_word(text: str | None) -> None:
    assert parse_when(text) is None


def test_a_time_without_its_zone_is_not_guessed_at() -> None:
    with pytest.raises(UnreadableDate, match=r"has no time zone.*2026-11-23T18:05:07Z") as error:
        parse_when("2026-11-23T18:05:07")
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-31T18:05:07Z",
        "2026-11-23T24:05:07Z",
        "2026-11-23T18:05:07+24:00",
        "2026-11-23T18:05:07+01:60",
        "2026-11-23T18:05:07.Z",
        "2026-11-23Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "LATEST",
        "٢٠٢٦-11-23T18:05:07Z",
    ],
)
def test_what_is_no_moment_is_wrong_usage(text: str) -> None:
    with pytest.raises(UnreadableDate) as error:
        parse_when(text)
    assert str(error.value) == (
        f"cannot read the date {text!r}. Give it as YYYY-MM-DD or YYYY-MM-DD-HH-MM-SS, in UTC, for example "
        "2026-11-23-18-05-00; or with its time zone, 2026-11-23T19:05:00+01:00; or as latest."
    )


@given(moments, st.integers(0, 10**9 - 1))
def test_a_moment_keeps_its_nanoseconds(moment: int, nanoseconds: int) -> None:
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment)).rjust(19, "0")
    assert parse_moment(f"{text}.{nanoseconds:09}Z") == Moment(moment, nanoseconds)


@pytest.mark.parametrize(
    ("fraction", "nanoseconds"), [("", 0), (".5", 500_000_000), (",05", 50_000_000), (".1234567899", 123_456_789)]
)
def test_a_fraction_of_a_second_may_have_any_number_of_digits(fraction: str, nanoseconds: int) -> None:
    assert parse_moment(f"2026-11-23T18:05:00{fraction}Z") == Moment(NOW, nanoseconds)


@given(moments)
def test_a_date_that_is_a_beginning_means_its_first_moment(moment: int) -> None:
    stamp = timestamp_of(moment)
    assert parse_moment(stamp) == Moment(moment, 0)
    assert parse_moment(stamp[:16]).seconds == moment - moment % 60
    assert parse_moment(stamp[:13]).seconds == moment - moment % 3600
    assert parse_moment(stamp[:10]).seconds == moment - moment % 86400


def test_the_nearest_stand_on_both_sides() -> None:
    stamps = [f"2026-11-{day:02}-18-05-00" for day in (2, 1, 4, 5, 8, 9)]
    assert nearest(stamps, "2026-11-06") == tuple(sorted(stamps)[2:])
    assert nearest(stamps, "2026-10-01") == tuple(sorted(stamps)[:4])
    assert nearest(stamps, "2026-12-01", 2) == tuple(sorted(stamps)[-2:])
    assert nearest(stamps[:1], "2026-12-01") == (stamps[0],)
    many = [f"2026-11-{day:02}-18-05-00" for day in range(1, 11)]
    assert nearest(many, "2026-11-06") == tuple(many[3:7])
    assert nearest([], "2026-12-01") == ()


def test_what_a_date_without_a_second_means() -> None:
    assert meaning_of("2026-11-23") == "A date alone means its midnight, UTC"
    assert meaning_of("2026-11-23-18-05") == "A date without seconds means its first moment, UTC"
