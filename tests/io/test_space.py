"""Free space is looked at before a file is begun."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from zodbvault.io.space import UNKNOWN, NotEnoughSpace, free_bytes, require_space

if TYPE_CHECKING:
    from pathlib import Path


def test_free_space_is_what_a_common_user_may_write(tmp_path: Path) -> None:
    status = os.statvfs(tmp_path)
    assert abs(free_bytes(tmp_path) - status.f_bavail * status.f_frsize) < 1 << 30


def test_a_folder_that_is_not_there_yet_counts_as_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    asked: list[str] = []
    real = os.statvfs

    def statvfs(path: str) -> os.statvfs_result:
        asked.append(path)
        return real(path)

    monkeypatch.setattr(os, "statvfs", statvfs)
    assert free_bytes(tmp_path / "to" / "be" / "made") > 0
    assert asked[-1] == str(tmp_path)
    assert free_bytes(tmp_path / "file" / "below") > 0
    assert asked[-1] == str(tmp_path / "file")


def test_what_is_needed_and_what_is_free_is_said_and_too_little_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=10, f_frsize=4096, f_blocks=100))
    with caplog.at_level("INFO"):
        require_space(tmp_path, 40960, "for Data.fs")
        require_space(tmp_path, 0, "for no blobs")
    (said,) = caplog.messages
    assert said == f"Space for Data.fs: about 41.0 kB needed, 41.0 kB free at {tmp_path}."
    with pytest.raises(NotEnoughSpace) as caught:
        require_space(tmp_path, 40961, "for Data.fs")
    assert str(tmp_path) in str(caught.value)
    assert "for Data.fs: 40,961 bytes are needed, 40,960 are free" in str(caught.value)
    assert "Nothing was changed. Make room for 1 bytes more" in str(caught.value)
    assert caught.value.exit_code == 1


def test_a_file_system_that_does_not_say_is_believed_to_have_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=0, f_frsize=4096, f_blocks=0))
    assert free_bytes(tmp_path) == UNKNOWN
    require_space(tmp_path, 1 << 50, "for Data.fs")


def test_two_places_share_space_when_they_are_in_one_file_system(tmp_path: Path) -> None:
    from zodbvault.io.space import share_space

    assert share_space(tmp_path / "not" / "there", tmp_path)
    if os.stat("/dev/shm").st_dev != os.stat(tmp_path).st_dev:
        assert not share_space(tmp_path, "/dev/shm/not-there")
