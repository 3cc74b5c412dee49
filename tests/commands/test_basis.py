"""What a new directory or archive stands on: decisions on names and times."""

from __future__ import annotations

from pathlib import Path

import pytest

from zodbvault.blobs.stored import Form, Stored, stored_name
from zodbvault.commands.basis import archives_of, newest_directory, series_to_continue

FIRST, SECOND, THIRD, FOURTH = (f"2026-11-{day:02d}-18-05-00" for day in (20, 21, 22, 23))


def stored(
    *wanted: tuple[str | int, Form] | tuple[str | int, Form, str], base: str = "blobstorage"
) -> tuple[Stored, ...]:
    found = []
    for mark, form, *timestamp in wanted:
        number = mark if isinstance(mark, int) else None
        found.append(
            Stored(Path("/blobs", stored_name(base, mark, form)), base, form, number, (*timestamp, str(mark))[0])
        )
    return tuple(found)


SERIES = stored((FIRST, Form.ARCHIVE), (SECOND, Form.DELTA), (THIRD, Form.DELTA))


def test_links_come_from_the_newest_directory() -> None:
    found = stored((FIRST, Form.DIRECTORY), (0, Form.DIRECTORY, SECOND), (THIRD, Form.ARCHIVE))
    assert newest_directory(found, "blobstorage") == found[1]
    assert newest_directory(found, "other") is None
    assert newest_directory((*found, *stored((FOURTH, Form.DIRECTORY), base="other")), "blobstorage") == found[1]


@pytest.mark.parametrize(("since", "is_continued"), [(FIRST, True), ("", True), (SECOND, False)])
def test_a_series_is_continued_within_its_chain(since: str, is_continued: bool) -> None:
    assert series_to_continue(SERIES, "blobstorage", since) == (SERIES if is_continued else ())


@pytest.mark.parametrize(
    "found",
    [
        (),
        SERIES[1:],  # the full archive is gone
        stored((FIRST, Form.DIRECTORY)),
        stored((0, Form.ARCHIVE, FIRST)),  # numbered ones stand alone
        stored((FIRST, Form.SNAPSHOT_FILE)),
        stored((FIRST, Form.ARCHIVE), base="other"),
    ],
)
def test_where_there_is_none_to_continue(found: tuple[Stored, ...]) -> None:
    assert series_to_continue(found, "blobstorage", FIRST) == ()


def test_a_newer_full_archive_begins_a_series() -> None:
    found = (*SERIES, *stored((FOURTH, Form.ARCHIVE)))
    assert series_to_continue(found, "blobstorage", FIRST) == found[-1:]


def test_all_archives_of_a_date() -> None:
    found = stored((FIRST, Form.ARCHIVE), (FIRST, Form.DELTA), (0, Form.ARCHIVE, FIRST), (FIRST, Form.DIRECTORY))
    assert archives_of(found, "blobstorage", FIRST) == found[:3]
    assert archives_of(found, "blobstorage", SECOND) == ()
