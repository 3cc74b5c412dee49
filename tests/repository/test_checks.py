"""The file beside a backup that says when it was last verified and rehearsed."""

from __future__ import annotations

import json
import logging
import os
import re
import resource
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.repository.made import OWNERSHIP, Made, stamp
from zodbvault.io import durable
from zodbvault.repository.checks import (
    Checks,
    LastCheck,
    carried_over,
    carry_over,
    format_checks,
    found_damaged,
    last_drilled,
    last_verified,
    parse_checks,
    read_checks,
    write_all_checks,
    write_checks,
)
from zodbvault.repository.names import is_our_part
from zodbvault.repository.prune import Retention, prune_chains

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.repository.conftest import Disk

CHECKS = Checks(
    stamp(0), "2026-11-23T18:05:00Z", True, "deep", "2026-11-24T03:00:00Z", False, 12.5
)  # fmt: skip


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert write_checks(tmp_path, CHECKS, OWNERSHIP)
    assert read_checks(tmp_path, stamp(0)) == CHECKS
    assert read_checks(tmp_path, stamp(1)) is None
    path = tmp_path / f"{stamp(0)}.checks.json"
    assert list(json.loads(path.read_bytes())) == [
        "format", "timestamp", "verified", "verified_good", "verified_how", "drilled", "drilled_good", "drill_seconds",
        "pruned_verified", "pruned_verified_good", "pruned_drilled", "pruned_drilled_good", "pruned_drill_seconds",
    ]  # fmt: skip
    # For people: a key in a line.
    assert path.read_bytes() == json.dumps(json.loads(path.read_bytes()), indent=1).encode() + b"\n"
    assert stat.S_IMODE(path.stat().st_mode) == OWNERSHIP.mode
    assert os.listdir(tmp_path) == [path.name]


def test_many_at_once_and_again(tmp_path: Path) -> None:
    for good in (True, False):
        every = [Checks(stamp(number), "2026-11-23T18:05:00Z", good, "default") for number in range(150)]
        assert write_all_checks(tmp_path, every, OWNERSHIP)
        assert [read_checks(tmp_path, checks.timestamp) for checks in every] == every
    assert len(os.listdir(tmp_path)) == 150


def test_they_are_durable_before_they_have_their_names(tmp_path: Path, disk: Disk) -> None:
    for _ in range(2):
        assert write_checks(tmp_path, CHECKS, OWNERSHIP)
    name = f"{stamp(0)}.checks.json"
    parts = [disk.events[0].removeprefix("sync "), disk.events[3].removeprefix("sync ")]
    expected = [[f"sync {part}", f"rename {part} {name}", f"sync {tmp_path.name}"] for part in parts]
    assert disk.events == [*expected[0], *expected[1]]
    # Two processes may write at once, so each part has a name of its own, by which the sweep knows it.
    assert len(set(parts)) == 2
    assert all(re.fullmatch(re.escape(name) + r"\.[0-9a-f]{8}\.part", part) and is_our_part(part) for part in parts)


def test_many_are_durable_before_the_first_has_its_name(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def syncing(_: int) -> Callable[[int], None]:
        return lambda fd: disk.events.append("sync all")

    monkeypatch.setattr(durable, "_syncfs_for", syncing)
    number = durable.SYNCED_ONE_BY_ONE + 2
    assert write_all_checks(tmp_path, [Checks(stamp(each)) for each in range(number)], OWNERSHIP)
    kinds = [event.split()[0] if event != "sync all" else event for event in disk.events]
    assert kinds == [*["sync"] * durable.SYNCED_ONE_BY_ONE, "sync all", *["rename"] * number, "sync"]


def test_there_may_be_more_of_them_than_a_process_may_open(tmp_path: Path) -> None:
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 20, most))
    try:
        assert write_all_checks(tmp_path, [Checks(stamp(each)) for each in range(60)], OWNERSHIP)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{" * 10_000,
        b'{"format": 1}',
        b"\xff",
        format_checks(CHECKS).replace(b'"format": 1', b'"format": 2'),
        format_checks(CHECKS._replace(timestamp=stamp(1))),
    ],
)
def test_what_is_no_such_file_counts_as_none(content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / f"{stamp(0)}.checks.json").write_bytes(content)
    assert read_checks(tmp_path, stamp(0)) is None
    assert caplog.messages == [
        f"{tmp_path}/{stamp(0)}.checks.json: holds no checks that this version can read; they do not count."
    ]


def test_a_link_is_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "elsewhere").write_bytes(format_checks(CHECKS))
    (tmp_path / f"{stamp(0)}.checks.json").symlink_to("elsewhere")
    assert read_checks(tmp_path, stamp(0)) is None
    name = f"{tmp_path}/{stamp(0)}.checks.json"
    reason = "cannot be read: Too many levels of symbolic links"
    assert caplog.messages == [f"{name}: {reason}. What it says of earlier checks does not count."]


def test_what_is_far_too_long_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / f"{stamp(0)}.checks.json").write_bytes(format_checks(CHECKS) + b" " * 70_000)
    assert read_checks(tmp_path, stamp(0)) is None
    assert "is not a file that a repository can hold" in caplog.text


@given(
    st.dictionaries(
        st.sampled_from(Checks._fields), st.none() | st.booleans() | st.integers() | st.text() | st.floats()
    )
)
def test_a_value_of_another_type_is_as_good_as_none(values: dict[str, object]) -> None:
    content = json.dumps({"format": 1, **values, "timestamp": stamp(0)}).encode()
    checks = parse_checks(content, stamp(0))
    assert checks is not None
    for name in ("verified", "verified_how", "drilled"):
        assert getattr(checks, name) is None or isinstance(getattr(checks, name), str)
    for name in ("verified_good", "drilled_good"):
        assert getattr(checks, name) in (None, True, False)
        assert type(getattr(checks, name)) is not int
    assert type(checks.drill_seconds) in (type(None), int, float)


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "-Infinity", "1e400", "-1", str(1 << 63), "1" + 400 * "0"])
def test_seconds_that_are_no_number_of_them_are_as_good_as_none(seconds: str) -> None:
    content = format_checks(CHECKS._replace(drill_seconds=77.5, pruned_drill_seconds=77.5))
    changed = content.replace(b"77.5", seconds.encode())
    assert changed.count(seconds.encode()) >= 2
    read = parse_checks(changed, CHECKS.timestamp)
    assert read == CHECKS._replace(drill_seconds=None, pruned_drill_seconds=None)


@pytest.mark.parametrize("seconds", [0, 0.0, 0.5, (1 << 63) - 1])
def test_any_other_seconds_are_read(seconds: float) -> None:
    checks = CHECKS._replace(drill_seconds=seconds)
    assert parse_checks(format_checks(checks), CHECKS.timestamp) == checks


def test_a_text_that_cannot_be_shown_is_as_good_as_none() -> None:
    content = json.dumps({"format": 1, "timestamp": stamp(0), "verified": "\ud800", "verified_how": "deep"}).encode()
    checks = parse_checks(content, stamp(0))
    assert checks is not None
    assert (checks.verified, checks.verified_how) == (None, "deep")


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert not write_checks(tmp_path / "missing", CHECKS, OWNERSHIP)
    assert caplog.messages == [f"{tmp_path}/missing: the checks cannot be kept: No such file or directory"]
    # Where the name is taken by a folder, nothing half done stays either.
    (tmp_path / f"{stamp(0)}.checks.json").mkdir()
    assert not write_checks(tmp_path, CHECKS, OWNERSHIP)
    assert os.listdir(tmp_path) == [f"{stamp(0)}.checks.json"]


def test_they_go_with_their_backup(tmp_path: Path) -> None:
    made = Made(tmp_path / "made")
    made.chain(stamp(0), stamp(1))
    made.chain(stamp(2))
    for number in range(3):
        write_checks(made.location, Checks(stamp(number)), OWNERSHIP)
    prune_chains(made.read(), Retention(1), with_blobs=True)
    assert {name for name in made.names() if "checks" in name} == {f"{stamp(2)}.checks.json"}


def test_a_sweep_removes_those_that_came_too_late(tmp_path: Path) -> None:
    made = Made(tmp_path / "made")
    made.chain(stamp(1))
    for number in (0, 1, 2):
        write_checks(made.location, Checks(stamp(number)), OWNERSHIP)
    part = f"{stamp(1)}.checks.json.0a1b2c3d.part"
    (made.location / part).write_bytes(b"{")
    assert is_our_part(part)
    made.sweep()
    assert {name for name in made.names() if "checks" in name} == {f"{stamp(1)}.checks.json"}
    made.assert_repozo_restores()


def test_what_is_carried_over() -> None:
    old, new = "2026-11-01T00:00:00Z", "2026-11-20T00:00:00Z"
    heir = Checks(stamp(9))
    gone = [Checks(stamp(0), verified=old, verified_good=True, drilled=old, drilled_good=False, drill_seconds=3.0)]
    kept = carried_over(gone, heir, [])
    assert (kept.pruned_verified, kept.pruned_verified_good) == (old, True)
    assert (kept.pruned_drilled, kept.pruned_drilled_good, kept.pruned_drill_seconds) == (old, False, 3.0)
    # Later knowledge of a backup that stays, or of one that went before, is not overwritten.
    assert carried_over(gone, heir._replace(verified=new), [Checks(stamp(8), drilled=new)]) == heir._replace(
        verified=new
    )
    assert carried_over(gone, heir._replace(pruned_drilled=new, pruned_verified=new), []).pruned_drilled == new
    # What was carried once is carried again.
    assert carried_over([kept], heir, []) == kept
    assert parse_checks(format_checks(kept), kept.timestamp) == kept
    # What is as old as something that stays is no news.
    assert carried_over(gone, heir._replace(verified=old, drilled=old), []) == heir._replace(verified=old, drilled=old)


def test_the_last_one_counts_whichever_backup_it_was_of() -> None:
    old, new = "2026-11-01T00:00:00Z", "2026-11-20T00:00:00Z"
    every = [
        Checks(stamp(2), verified=old, verified_good=True, drilled=old, drilled_good=True, drill_seconds=1.0),
        Checks(stamp(1), verified=new, verified_good=False, drilled=new, drilled_good=False, drill_seconds=2.0),
        Checks(stamp(0), pruned_verified=old, pruned_drilled=old),
        # Of the same moment as the one before: one run may look at many.
        Checks(stamp(3), verified=new, drilled=new),
    ]
    assert last_verified(every) == LastCheck(new, good=False)
    assert last_drilled(every) == LastCheck(new, good=False, seconds=2.0)
    assert last_verified([Checks(stamp(0))]) is None
    assert last_drilled([]) is None


def carried(made: Made, gone: list[int], stay: list[int]) -> Checks | None:
    """Let the checks of some backups be carried over to one of those that stay; what is known of the newest then."""
    stamps = [stamp(number) for number in stay]
    carry_over(made.location, made.read().names, map(stamp, gone), stamps, OWNERSHIP)
    return read_checks(made.location, stamps[-1]) if stamps else None


def test_the_newest_backup_that_stays_keeps_what_is_known_of_those_that_go(made: Made) -> None:
    moment = "2026-11-01T00:00:00Z"
    write_checks(made.location, Checks(stamp(0), verified=moment, verified_good=True), OWNERSHIP)
    heir = Checks(stamp(4), pruned_verified=moment, pruned_verified_good=True)
    assert carried(made, [1, 0], [2, 3, 4]) == heir
    assert (made.location / f"{stamp(4)}.checks.json").stat().st_mode & 0o777 == OWNERSHIP.mode
    assert {name[:19] for name in made.names()} == {stamp(0), stamp(4)}
    # It keeps what was known of itself.
    own = Checks(stamp(4), drilled=moment, drilled_good=True, drill_seconds=2.0)
    write_checks(made.location, own, OWNERSHIP)
    assert carried(made, [0], [4]) == own._replace(pruned_verified=moment, pruned_verified_good=True)


def test_where_another_backup_that_stays_was_looked_at_later_nothing_is_carried(made: Made) -> None:
    write_checks(made.location, Checks(stamp(0), verified="2026-11-01T00:00:00Z"), OWNERSHIP)
    write_checks(made.location, Checks(stamp(2), verified="2026-11-02T00:00:00Z"), OWNERSHIP)
    before = made.names()
    assert carried(made, [0], [1, 2, 3]) is None
    assert carried(made, [0], [2, 3]) is None
    assert made.names() == before


def test_where_nothing_stays_or_nothing_is_known_nothing_is_written(made: Made) -> None:
    write_checks(made.location, Checks(stamp(0), verified="2026-11-01T00:00:00Z"), OWNERSHIP)
    before = {path.name: path.stat().st_ino for path in made.location.iterdir()}
    assert carried(made, [0], []) is None
    assert carried(made, [1], [2]) is None
    assert carried(made, [1], [0]) is not None
    assert {path.name: path.stat().st_ino for path in made.location.iterdir()} == before


def test_the_first_backup_that_was_found_damaged_is_told(tmp_path: Path) -> None:
    stamps = [stamp(number) for number in range(5)]
    for number, good in ((1, True), (2, False), (3, False), (4, None)):
        write_checks(tmp_path, Checks(stamps[number], "2026-11-23T18:05:00Z", good), OWNERSHIP)
    names = frozenset(path.name for path in tmp_path.iterdir())
    assert found_damaged(tmp_path, names, stamps) == stamps[2]
    assert found_damaged(tmp_path, names, (stamps[0], stamps[1], stamps[4])) is None
    # What came after the look at the folder is not there yet.
    assert found_damaged(tmp_path, frozenset(), stamps) is None
