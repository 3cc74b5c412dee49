from __future__ import annotations

import os
from pathlib import Path  # noqa: TC003 - what fixtures are annotated with

import pytest

from zodbvault.blobs.letting_go import older_than, remove_leftovers, remove_of_states, remove_older, remove_stored
from zodbvault.blobs.stored import Form, find_stored, is_part_of_stored, parse_stored_name, series_up_to, stored_name

FIRST, SECOND, THIRD, FOURTH = (f"2026-11-{day:02d}-18-05-00" for day in (20, 21, 22, 23))


def make(location: Path, *names: str) -> None:
    for name in names:
        if name.endswith("/"):
            (location / name / "blobstorage").mkdir(parents=True)
            (location / name / "blobstorage/a.blob").write_text("a")
        else:
            (location / name).write_text("x")


def gone(location: Path, timestamp: str, base: str = "blobstorage") -> list[str]:
    return [one.path.name for one in older_than(find_stored(location), base, timestamp)]


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("base", ["blobstorage", "my blobs.2", "2026"])
def test_a_name_says_what_it_was_made_of(form: Form, base: str) -> None:
    assert parse_stored_name(stored_name(base, FIRST, form)) == (base, FIRST, form)
    if form in (Form.DIRECTORY, Form.ARCHIVE):
        assert parse_stored_name(stored_name(base, 12, form)) == (base, "12", form)
    if form in (Form.ARCHIVE, Form.DELTA):
        assert parse_stored_name(stored_name(base, FIRST, form, compressed=True)) == (base, FIRST, form)


@pytest.mark.parametrize(
    "name",
    [
        "blobs",
        "latest",
        "blobstorage",
        f"{FIRST}.blobs.gz",
        f"{FIRST}.directoryblobs.gz",
        f"blobstorage.{FIRST}.part",
        f"blobstorage.{FIRST}.tar.part",
        f"blobstorage.{FIRST}.pruned.part",
        "blobstorage.0.snar",
        "blobstorage.0.delta.tar",
        "blobstorage.2026-11",
        "blobstorage.\u0661",
        f".{FIRST}",
        f"blobstorage.{FIRST}\n",
    ],
)
def test_other_names_say_nothing(name: str) -> None:
    assert parse_stored_name(name) is None


def test_only_real_folders_and_files_count(tmp_path: Path) -> None:
    make(tmp_path, f"blobstorage.{FIRST}/", f"blobstorage.{SECOND}", f"blobstorage.{THIRD}.tar/")
    (tmp_path / f"blobstorage.{FOURTH}").symlink_to(f"blobstorage.{FIRST}")
    (tmp_path / "latest").symlink_to(f"blobstorage.{FIRST}")
    assert [one.path.name for one in find_stored(tmp_path)] == [f"blobstorage.{FIRST}"]
    assert find_stored(tmp_path / "nothing") == ()


def test_numbered_ones_are_dated_by_their_time(tmp_path: Path) -> None:
    make(tmp_path, "blobstorage.0/", "blobstorage.1/", "blobstorage.10/")
    os.utime(tmp_path / "blobstorage.10", (0, 0))
    os.utime(tmp_path / "blobstorage.1", (86400, 86400))
    os.utime(tmp_path / "blobstorage.0", (86400, 86400))
    found = find_stored(tmp_path)
    assert [one.number for one in found] == [10, 1, 0]
    assert found[0].timestamp == "1970-01-01-00-00-00"


def test_what_is_older_goes_and_nothing_else(tmp_path: Path) -> None:
    names = [f"blobstorage.{each}{suffix}" for each in (FIRST, SECOND, THIRD) for suffix in ("/", ".tar.gz")]
    make(tmp_path, *names, f"other.{FIRST}/", f"blobstorage.{FIRST}.orphan", "blobstorage.note", f"{FIRST}.blobs.gz")
    assert sorted(gone(tmp_path, THIRD)) == sorted(name.rstrip("/") for name in names if THIRD not in name)
    assert gone(tmp_path, FIRST) == []
    assert gone(tmp_path, "") == []
    assert gone(tmp_path, THIRD, "other") == [f"other.{FIRST}"]


def test_a_series_of_archives_goes_as_a_whole_its_full_one_last(tmp_path: Path) -> None:
    series = [f"blobstorage.{FIRST}.snar", f"blobstorage.{FIRST}.tar", f"blobstorage.{SECOND}.delta.tar"]
    make(tmp_path, *series, f"blobstorage.{THIRD}.snar", f"blobstorage.{THIRD}.tar")
    assert gone(tmp_path, SECOND) == []
    found = gone(tmp_path, THIRD)
    assert sorted(found) == sorted(series)
    assert found[0] == series[2]
    assert [one.path.name for one in series_up_to(find_stored(tmp_path), find_stored(tmp_path)[2])] == series[1:]


def test_removed_is_removed_with_the_link_that_led_to_it(tmp_path: Path) -> None:
    make(tmp_path, f"blobstorage.{FIRST}/", f"blobstorage.{SECOND}/", "stays/")
    (tmp_path / f"blobstorage.{FIRST}" / "blobstorage" / "link").symlink_to(tmp_path / "stays")
    (tmp_path / "latest").symlink_to(f"blobstorage.{FIRST}")
    for one in older_than(find_stored(tmp_path), "blobstorage", SECOND):
        remove_stored(one)
    assert sorted(os.listdir(tmp_path)) == [f"blobstorage.{SECOND}", "stays"]
    assert (tmp_path / "stays/blobstorage/a.blob").exists()


def test_what_a_killed_run_left_goes(tmp_path: Path) -> None:
    make(tmp_path, f"blobstorage.{FIRST}.pruned.part/", f"blobstorage.{SECOND}.tar.part", f"blobstorage.{THIRD}/")
    make(tmp_path, "mine.part", "blobstorage.part/")
    assert is_part_of_stored(f"blobstorage.{FIRST}.pruned.part", "blobstorage")
    remove_leftovers(tmp_path, "blobstorage")
    assert sorted(os.listdir(tmp_path)) == [f"blobstorage.{THIRD}", "blobstorage.part", "mine.part"]


def test_numbered_ones_that_lost_their_times_stay(tmp_path: Path) -> None:
    """A copy without times: their dates tell nothing, and our manifests say that they are needed."""
    make(tmp_path, "blobstorage.0/", "blobstorage.1/", "blobstorage.0.tar", f"blobstorage.{FIRST}/")
    for path in tmp_path.iterdir():
        os.utime(path, (1_000_000_000, 1_000_000_000))
    stored = find_stored(tmp_path)
    needed = {(THIRD, True), (FOURTH, True)}
    names = [one.path.name for one in older_than(stored, "blobstorage", FOURTH, needed)]
    assert sorted(names) == ["blobstorage.0.tar", f"blobstorage.{FIRST}"]
    assert len(older_than(stored, "blobstorage", FOURTH, {(FIRST, True)})) == 4


def test_one_whose_place_another_should_have_taken_comes_back(tmp_path: Path) -> None:
    make(tmp_path, f"blobstorage.{FIRST}.replaced.part/", f"blobstorage.{FIRST}.part/")
    make(tmp_path, f"blobstorage.{SECOND}.replaced.part/", f"blobstorage.{SECOND}/", f"blobstorage.{THIRD}.orphan/")
    remove_leftovers(tmp_path, "blobstorage")
    assert sorted(os.listdir(tmp_path)) == [
        f"blobstorage.{FIRST}",
        f"blobstorage.{SECOND}",
        f"blobstorage.{THIRD}.orphan",
    ]


def test_what_was_put_aside_goes_with_its_time(tmp_path: Path) -> None:
    make(tmp_path, f"blobstorage.{FIRST}.orphan/", f"blobstorage.{SECOND}.tar.orphan", f"blobstorage.{THIRD}.orphan/")
    make(tmp_path, f"other.{FIRST}.orphan/")
    remove_older(tmp_path, "blobstorage", THIRD, ())
    assert sorted(os.listdir(tmp_path)) == [f"blobstorage.{THIRD}.orphan", f"other.{FIRST}.orphan"]


def test_what_belongs_to_another_blobstorage_is_left_alone(tmp_path: Path) -> None:
    make(tmp_path, "photos.2.part/", f"other.{FIRST}.part/")
    (tmp_path / "holiday.1.part").write_text("mine")
    remove_leftovers(tmp_path, "blobstorage")
    assert len(os.listdir(tmp_path)) == 3


def test_states_whose_manifests_went_go_under_any_name(tmp_path: Path) -> None:
    make(tmp_path, f"blobstorage.{FIRST}/", f"renamed.{FIRST}/", f"blobstorage.{SECOND}/", f"blobstorage.{FIRST}.tar")
    make(tmp_path, f"blobstorage.{THIRD}.tar", f"blobstorage.{FOURTH}.delta.tar")
    remove_of_states(tmp_path, {(FIRST, True), (THIRD, False)})
    assert sorted(os.listdir(tmp_path)) == [
        f"blobstorage.{FIRST}.tar",
        f"blobstorage.{SECOND}",
        # The delta stands on it.
        f"blobstorage.{THIRD}.tar",
        f"blobstorage.{FOURTH}.delta.tar",
    ]
