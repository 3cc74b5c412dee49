from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from zodbvault.blobs.rotation import newest_link_target, point_latest, rotate
from zodbvault.blobs.stored import Form
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from pathlib import Path

STAMP = "2026-11-23-18-05-00"


def test_numbers_grow_and_0_is_free(tmp_path: Path) -> None:
    for name in (
        "blobstorage.0",
        "blobstorage.1",
        "blobstorage.9",
        "blobstorage.10",
        "other.0",
        f"blobstorage.{STAMP}",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "what").write_text(name)
    (tmp_path / "blobstorage.0.tar").touch()
    rotate(tmp_path, "blobstorage", Form.DIRECTORY)
    found = {path.name: (path / "what").read_text() for path in tmp_path.iterdir() if path.is_dir()}
    assert found == {
        "blobstorage.1": "blobstorage.0",
        "blobstorage.2": "blobstorage.1",
        "blobstorage.10": "blobstorage.9",
        "blobstorage.11": "blobstorage.10",
        "other.0": "other.0",
        f"blobstorage.{STAMP}": f"blobstorage.{STAMP}",
    }
    assert (tmp_path / "blobstorage.0.tar").exists()


def test_archives_keep_their_compression(tmp_path: Path) -> None:
    for name in ("blobstorage.0.tar", "blobstorage.1.tar.gz"):
        (tmp_path / name).write_text(name)
    rotate(tmp_path, "blobstorage", Form.ARCHIVE)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "blobstorage.1.tar": "blobstorage.0.tar",
        "blobstorage.2.tar.gz": "blobstorage.1.tar.gz",
    }


def test_times_stay_when_numbers_change(tmp_path: Path) -> None:
    (tmp_path / "blobstorage.0").mkdir()
    os.utime(tmp_path / "blobstorage.0", (1_000_000, 1_000_000))
    rotate(tmp_path, "blobstorage", Form.DIRECTORY)
    assert (tmp_path / "blobstorage.1").stat().st_mtime == 1_000_000


def test_the_link_leads_to_the_newest(tmp_path: Path) -> None:
    (tmp_path / f"blobstorage.{STAMP}").mkdir()
    (tmp_path / f"elsewhere.{STAMP}").mkdir()
    (tmp_path / f"blobstorage.{STAMP}.delta.tar").touch()
    name = newest_link_target(tmp_path, "blobstorage", STAMP, Form.DIRECTORY)
    assert name == f"blobstorage.{STAMP}"
    point_latest(tmp_path, "blobstorage.of-yesterday")
    point_latest(tmp_path, name)
    assert os.readlink(tmp_path / "latest") == name
    before = os.lstat(tmp_path / "latest").st_ino
    point_latest(tmp_path, name)
    assert os.lstat(tmp_path / "latest").st_ino == before
    point_latest(tmp_path, None)
    assert not os.path.lexists(tmp_path / "latest")
    assert newest_link_target(tmp_path, "blobstorage", STAMP, Form.ARCHIVE) is None


def test_what_is_no_link_stays(tmp_path: Path) -> None:
    (tmp_path / "latest").write_text("mine")
    point_latest(tmp_path, "blobstorage.0")
    point_latest(tmp_path, None)
    assert (tmp_path / "latest").read_text() == "mine"


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    """Names with leading zeros are nobody's numbers; one that is in the way stops the rotation."""
    for name in ("blobstorage.00", "blobstorage.0", "blobstorage.1"):
        (tmp_path / name).mkdir()
    rotate(tmp_path, "blobstorage", Form.DIRECTORY)
    assert sorted(os.listdir(tmp_path)) == ["blobstorage.00", "blobstorage.1", "blobstorage.2"]
    (tmp_path / "blobstorage.3").write_text("in the way")
    with pytest.raises(ZodbvaultError, match="exists"):
        rotate(tmp_path, "blobstorage", Form.DIRECTORY)
    assert (tmp_path / "blobstorage.3").read_text() == "in the way"
