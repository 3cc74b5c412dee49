"""A copy of a blob is what the source holds, whether it was written or shares the source's place on the disk.

Whether the temporary folder's file system can share is its own affair; what stands in for sharing here copies.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from zodbvault.blobs import copying
from zodbvault.blobs.copying import LAYOUT_PART, SharedBatch, copy_blob, remove_temporaries, temporary_name
from zodbvault.io.durable import Ownership, SyncBatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def shared(fd: int, out: int) -> bool:
    """What a file system does that can share content."""
    os.pwrite(out, os.pread(fd, 10_000_000, 0), 0)
    return True


@pytest.fixture
def batch() -> Iterator[SharedBatch]:
    with SyncBatch() as files:
        yield SharedBatch(files)


@pytest.mark.parametrize("can_share", ["as it is", "shares"])
@pytest.mark.parametrize("size", [0, 5, 3_000_007])
def test_a_copy_is_what_the_source_holds(
    tmp_path: Path, batch: SharedBatch, monkeypatch: pytest.MonkeyPatch, can_share: str, size: int
) -> None:
    if can_share == "shares":
        monkeypatch.setattr(copying, "_clone", shared)
    content = os.urandom(size)
    (tmp_path / "blob").write_bytes(content)
    (tmp_path / "copy").write_bytes(b"what a crash left")
    with opened(tmp_path / "blob") as fd:
        found = copy_blob(fd, str(tmp_path / "copy"), Ownership(0o440, None, None), batch)
    assert found == (size, hashlib.sha256(content).hexdigest())
    assert (tmp_path / "copy").read_bytes() == content
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o440


def test_the_file_system_is_asked_until_it_refuses(
    tmp_path: Path, batch: SharedBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[bool] = []
    really_clone = copying._clone

    def clone(fd: int, out: int) -> bool:
        answers.append(really_clone(fd, out))
        return answers[-1]

    monkeypatch.setattr(copying, "_clone", clone)
    (tmp_path / "blob").write_bytes(b"content")
    with opened(tmp_path / "blob") as fd:
        for number in range(5):
            copy_blob(fd, str(tmp_path / f"copy{number}"), None, batch)
            assert (tmp_path / f"copy{number}").read_bytes() == b"content"
    assert answers in ([True] * 5, [False])


def test_a_blob_that_grew_meanwhile_is_copied_anew(
    tmp_path: Path, batch: SharedBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was shared is the file as it was an instant before; the checksum would be of more than that."""

    def shared_too_early(fd: int, out: int) -> bool:
        shared(fd, out)
        with (tmp_path / "blob").open("ab") as file:
            file.write(b" and more")
        return True

    monkeypatch.setattr(copying, "_clone", shared_too_early)
    (tmp_path / "blob").write_bytes(b"content")
    with opened(tmp_path / "blob") as fd:
        found = copy_blob(fd, str(tmp_path / "copy"), None, batch)
    assert (tmp_path / "copy").read_bytes() == b"content and more"
    assert found == (16, hashlib.sha256(b"content and more").hexdigest())


@pytest.mark.parametrize("can_share", [True, False])
def test_nothing_is_left_of_a_blob_that_cannot_be_read(
    tmp_path: Path, batch: SharedBatch, monkeypatch: pytest.MonkeyPatch, can_share: bool
) -> None:
    def unreadable(fd: int) -> Iterator[bytes]:
        yield b"some"
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(copying, "_clone", lambda fd, out: can_share)
    monkeypatch.setattr(copying, "blocks_of", unreadable)
    (tmp_path / "blob").write_bytes(b"content")
    with opened(tmp_path / "blob") as fd, pytest.raises(OSError, match="Input/output"):
        copy_blob(fd, str(tmp_path / "copy"), None, batch)
    assert not (tmp_path / "copy").exists()


def test_only_what_a_crash_left_goes(tmp_path: Path) -> None:
    for name in (temporary_name(bytes(16)), LAYOUT_PART, "zodbvault-other.part", "tmp4711"):
        (tmp_path / name).touch()
    assert remove_temporaries(str(tmp_path)) == 2
    assert sorted(os.listdir(tmp_path)) == ["tmp4711", "zodbvault-other.part"]
