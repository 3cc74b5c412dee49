"""What a backup reads does not stay in memory, and what the site had there does: seen with mincore(2), on real files.

Where the temporary folder is itself in memory nothing can be let go; then these tests see that nothing is lost.
"""

from __future__ import annotations

import mmap
import os
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodbvault.filestorage.source import open_data_fs
from zodbvault.io import page_cache
from zodbvault.io.clock import SystemClock
from zodbvault.io.durable import PartFile
from zodbvault.io.page_cache import PAGE, absent_runs

if TYPE_CHECKING:
    from pathlib import Path

MEBIBYTE = 1 << 20
SIZE = 48 * MEBIBYTE
A_FEW = 64
"""Pages that our opening of the file brought in, or that the kernel was still reading ahead when we let go."""


def pages_in_memory(path: Path) -> set[int]:
    """Numbers of the file's pages that are in the page cache."""
    mincore = page_cache._mincore()
    assert mincore is not None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapping:
        found = mincore(mapping, len(mapping))
    return {number for number, byte in enumerate(found) if byte & 1}


def drop_from_memory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file of 48 MiB and some bytes."""
    path = tmp_path_factory.mktemp("site") / "Data.fs"
    path.write_bytes(b"FS30" + os.urandom(SIZE + 5))
    return path


@pytest.fixture
def data_fs(stored: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, not in memory, that is looked at in windows of 16 MiB: more than a kernel reads ahead."""
    monkeypatch.setattr(page_cache, "WINDOW", 16 * MEBIBYTE)
    drop_from_memory(stored)
    return stored


def warm(path: Path, *places: int) -> None:
    """Let a site read 64 KiB at each of some places."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for place in places:
            os.pread(file.fileno(), 1 << 16, place)


def read_all(path: Path, step: int = MEBIBYTE) -> int:
    """Read the whole file as a copy does, blocks that overlap a little; bytes read."""
    room = memoryview(bytearray(MEBIBYTE))
    offset = 0
    with open_data_fs(path, SystemClock()) as source:
        while got := source.read_into(room, offset):
            offset += min(got, step)
    return offset


@pytest.mark.parametrize("step", [MEBIBYTE, MEBIBYTE - 37])
def test_the_sites_pages_stay_and_no_others_come(data_fs: Path, step: int) -> None:
    warm(data_fs, 0, 3 * MEBIBYTE + 5 * PAGE, 32 * MEBIBYTE - PAGE, 46 * MEBIBYTE)
    before = pages_in_memory(data_fs)
    assert len(before) >= 4 * (1 << 16) // PAGE

    assert read_all(data_fs, step) == data_fs.stat().st_size

    after = pages_in_memory(data_fs)
    # The kernel may let go of pages for reasons of its own.
    assert len(before - after) < len(before) / 10
    assert len(after - before) < A_FEW


def test_a_database_that_is_all_in_memory_stays_there(data_fs: Path) -> None:
    data_fs.read_bytes()
    before = pages_in_memory(data_fs)
    read_all(data_fs)
    assert len(before - pages_in_memory(data_fs)) < len(before) / 10


def test_a_second_reading_is_like_the_first(data_fs: Path) -> None:
    """The proof of a chain's md5s reads the file that is then copied."""
    warm(data_fs, 2 * MEBIBYTE)
    before = pages_in_memory(data_fs)
    room = memoryview(bytearray(MEBIBYTE))
    with open_data_fs(data_fs, SystemClock()) as source:
        for _ in range(2):
            for offset in range(0, SIZE, MEBIBYTE):
                source.read_into(room, offset)
    assert len(pages_in_memory(data_fs) - before) < A_FEW


def test_where_the_kernel_does_not_tell_nothing_is_let_go(data_fs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_fs.read_bytes()
    before = pages_in_memory(data_fs)
    monkeypatch.setattr(page_cache, "_mincore", lambda: None)
    read_all(data_fs)
    monkeypatch.undo()
    assert len(before - pages_in_memory(data_fs)) < len(before) / 10


def test_small_reads_ask_nothing(data_fs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An incremental backup of a few objects must not cost a look at the page cache."""

    def refuse() -> None:
        raise AssertionError("looked at the page cache")

    monkeypatch.setattr(page_cache, "_mincore", refuse)
    with open_data_fs(data_fs, SystemClock()) as source:
        assert source.read_into(memoryview(bytearray(5000)), MEBIBYTE) == 5000


def test_a_file_that_becomes_shorter_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_cache, "WINDOW", MEBIBYTE)
    path = tmp_path / "Data.fs"
    path.write_bytes(b"FS30" + bytes(4 * MEBIBYTE))
    room = memoryview(bytearray(MEBIBYTE))
    with open_data_fs(path, SystemClock()) as source:
        source.read_into(room, 0)
        os.truncate(path, MEBIBYTE)
        assert source.read_into(room, 3 * MEBIBYTE) == 0


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 127))
def test_runs_are_the_pages_that_were_not_there(pages: list[bool], noise: int) -> None:
    found = bytes(2 * noise & 0xFE | page for page in pages)
    runs = list(absent_runs(found))
    absent = [number for first, end in runs for number in range(first, end)]
    assert absent == [number for number, page in enumerate(pages) if not page]
    assert all(first < end for first, end in runs)
    assert all(end < following for (_, end), (following, _) in pairwise(runs))


def test_a_large_file_that_was_written_does_not_stay_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large"
    warmed = tmp_path / "other"
    warmed.write_bytes(bytes(MEBIBYTE))
    drop_from_memory(warmed)
    can_let_go = not pages_in_memory(warmed)
    with PartFile(path) as part:
        for _ in range(18):
            part.file.write(os.urandom(MEBIBYTE))
        part.publish()
    pages = 18 * MEBIBYTE // PAGE
    assert len(pages_in_memory(path)) < pages / 10 or not can_let_go
