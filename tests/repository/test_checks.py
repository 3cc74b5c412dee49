"""The file beside a backup that says when it was last verified and rehearsed."""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.repository.made import OWNERSHIP, Made, stamp
from zodbvault.repository.checks import (
    Checks,
    carried_over,
    format_checks,
    parse_checks,
    read_checks,
    write_all_checks,
    write_checks,
)
from zodbvault.repository.names import is_our_part
from zodbvault.repository.prune import Retention, prune_chains

if TYPE_CHECKING:
    from pathlib import Path

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
    assert stat.S_IMODE(path.stat().st_mode) == OWNERSHIP.mode
    assert os.listdir(tmp_path) == [path.name]


def test_many_at_once_and_again(tmp_path: Path) -> None:
    for good in (True, False):
        every = [Checks(stamp(number), "2026-11-23T18:05:00Z", good, "default") for number in range(150)]
        assert write_all_checks(tmp_path, every, OWNERSHIP)
        assert [read_checks(tmp_path, checks.timestamp) for checks in every] == every
    assert len(os.listdir(tmp_path)) == 150


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
    assert "do not count" in caplog.text


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(format_checks(CHECKS))
    (tmp_path / f"{stamp(0)}.checks.json").symlink_to("elsewhere")
    assert read_checks(tmp_path, stamp(0)) is None


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


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    assert not write_checks(tmp_path / "missing", CHECKS, OWNERSHIP)
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
