from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from tests.filestorage.handmade import Handmade
from tests.filestorage.sites import ActingClock
from tests.leaks import no_descriptor_left
from zodbvault.errors import ZodbvaultError
from zodbvault.filestorage import source as source_module
from zodbvault.filestorage.source import LARGE_READ, LONGEST_WAIT, PAUSE, DataFs, open_data_fs
from zodbvault.io import page_cache

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_a_database_is_read_through_one_descriptor(tmp_path: Path) -> None:
    path = tmp_path / "Data.fs"
    path.write_bytes(b"FS30" + bytes(range(100)))
    path.chmod(0o640)
    with open_data_fs(path, ActingClock()) as source:
        assert (source.path, source.magic, source.size()) == (path, b"FS30", 104)
        assert (source.inode, source.device) == (path.stat().st_ino, path.stat().st_dev)
        assert source.ownership.mode == 0o640
        path.rename(tmp_path / "Data.fs.old")
        path.write_bytes(b"another")
        assert source.read(4, 3) == b"\0\1\2"
        assert source.read(100, 50) == bytes(range(96, 100))
        assert source.read(104, 1) == b""
        room = bytearray(b"." * 10)
        assert source.read_into(memoryview(room), 98) == 6
        assert room == bytes(range(94, 100)) + b"...."
        assert source.read_into(memoryview(room)[:4], 0) == 4
        assert room[:4] == b"FS30"
        fd = source.fd
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(fd)
    source.close()


def test_short_reads_are_completed(opened: Callable[..., DataFs], monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(b"FS30" + bytes(range(100)))
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 7), offset))
    monkeypatch.setattr(os, "preadv", lambda fd, views, offset: preadv(fd, [views[0][:7]], offset))
    assert source.read(4, 100) == bytes(range(100))
    assert source.read(4, 20) == bytes(range(20))
    room = bytearray(50)
    assert source.read_into(memoryview(room), 4) == 50
    assert room == bytes(range(50))
    monkeypatch.delattr(os, "preadv")
    room = bytearray(60)
    assert source.read_into(memoryview(room), 54) == 50
    assert room == bytes(range(50, 100)) + bytes(10)


def test_a_disk_that_fails_is_named(opened: Callable[..., DataFs], monkeypatch: pytest.MonkeyPatch) -> None:
    source = opened(b"FS30")

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(ZodbvaultError, match=r"handmade\.fs: the database cannot be read at offset 77: Input/output"):
        source.read(77, 1)
    with pytest.raises(ZodbvaultError, match="cannot be read at offset 78: Input/output"):
        source.read_into(memoryview(bytearray(5)), 78)


def test_a_disk_that_fails_in_the_middle_of_a_read_is_told_with_that_offset(
    opened: Callable[..., DataFs], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = opened(b"FS30" + bytes(100))
    preadv = os.preadv

    def read(fd: int, views: list[memoryview], offset: int) -> int:
        if offset > 20:
            raise OSError(5, "Input/output error")
        return preadv(fd, [views[0][:7]], offset)

    monkeypatch.setattr(os, "preadv", read)
    with pytest.raises(ZodbvaultError, match="cannot be read at offset 24: Input/output"):
        source.read_into(memoryview(bytearray(50)), 10)


def test_it_is_closed_once_whatever_its_number_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process without a standard input it may be 0."""
    closed: list[int] = []
    monkeypatch.setattr(source_module, "close_fd", closed.append)
    source = DataFs(tmp_path, 0, tmp_path.stat(), b"FS30")
    source.close()
    source.close()
    assert closed == [0]


def test_large_reads_leave_the_page_cache_as_it_was(
    opened: Callable[..., DataFs], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []

    class Watched:
        def __init__(self, fd: int) -> None:
            told.append(("begin", fd))

        def before_reading(self, offset: int, length: int) -> None:
            told.append((offset, length))

        def finish(self) -> None:
            told.append("finish")

    monkeypatch.setattr(page_cache, "PageCache", Watched)
    source = opened(b"FS30" + bytes(1 << 21))
    fd = source.fd
    source.read_into(memoryview(bytearray(LARGE_READ - 1)), 4)
    assert told == []
    source.read_into(memoryview(bytearray(LARGE_READ)), 4)
    source.read_into(memoryview(bytearray(LARGE_READ + 1)), 5)
    source.close()
    source.close()
    assert told == [("begin", fd), (4, LARGE_READ), (5, LARGE_READ + 1), "finish"]


def test_a_range_has_the_md5_of_its_bytes(opened: Callable[..., DataFs], monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"FS30" + bytes(range(256)) * 10
    monkeypatch.setattr(source_module, "LARGE_READ", 1000)
    source = opened(data)
    for start, end in ((0, len(data)), (4, 1004), (4, 1005), (100, 2200), (7, 7)):
        assert source.md5_of(start, end) == hashlib.md5(data[start:end]).hexdigest()
    assert source.md5_of(5, len(data) + 3000) == hashlib.md5(data[5:]).hexdigest()


def test_another_file_at_the_configured_name_is_noticed(opened: Callable[..., DataFs], tmp_path: Path) -> None:
    path = tmp_path / "real.fs"
    path.write_bytes(b"FS30")
    link = tmp_path / "Data.fs"
    link.symlink_to(path)
    source = opened(link)
    assert not source.was_replaced()
    path.rename(tmp_path / "aside")
    assert source.was_replaced()  # nothing there
    path.write_bytes(b"FS30")
    assert source.was_replaced()  # another file
    path.unlink()
    (tmp_path / "aside").rename(path)
    assert not source.was_replaced()
    link.unlink()
    link.write_bytes(b"FS30")  # a pack puts a file in the place of the link
    assert source.was_replaced()


def test_a_name_that_cannot_be_looked_at_is_an_error(opened: Callable[..., DataFs], tmp_path: Path) -> None:
    path = tmp_path / "folder" / "Data.fs"
    path.parent.mkdir()
    path.write_bytes(b"FS30")
    source = opened(path)
    path.unlink()
    path.parent.rmdir()
    path.parent.write_bytes(b"")
    with pytest.raises(ZodbvaultError) as error:
        source.was_replaced()
    assert str(error.value) == f"{path}: the database cannot be looked at: Not a directory"


def test_both_magics_are_known(opened: Callable[..., DataFs]) -> None:
    assert opened(b"FS21").magic == b"FS21"
    assert opened(b"FS30").magic == b"FS30"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: not a FileStorage (an empty database has 4 bytes)"),
        (b"FS3", "begins with b'FS3', a FileStorage with b'FS30' or b'FS21': not a FileStorage"),
        (b"PK\3\4zip", "begins with b'PK\\x03\\x04', a FileStorage with b'FS30' or b'FS21': not a FileStorage"),
        (b"FS31....", "begins with b'FS31', a FileStorage with b'FS30' or b'FS21': not a FileStorage"),
    ],
)
def test_what_is_no_database_is_an_error_and_nothing_stays_open(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "Data.fs"
    path.write_bytes(content)
    with no_descriptor_left(), pytest.raises(ZodbvaultError) as raised:
        open_data_fs(path, ActingClock())
    assert str(raised.value) == f"{path}: {message}. Check the path of the database (option datafs)."


def test_a_folder_and_a_pipe_are_no_database(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "Data.fs")
    for path, what in ((tmp_path, "is a folder"), (tmp_path / "Data.fs", "is not a regular file")):
        with pytest.raises(ZodbvaultError) as error:
            open_data_fs(path, ActingClock())
        hint = "Check the path of the database (option datafs)."
        assert str(error.value) == f"{path}: {what}: not a FileStorage. {hint}"


def test_a_disk_that_fails_at_the_first_bytes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "Data.fs"
    path.write_bytes(b"FS30")

    def fail(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(ZodbvaultError) as error:
        open_data_fs(path, ActingClock())
    assert str(error.value) == f"{path}: the database cannot be read: Input/output error"


def test_a_missing_database_is_an_error_at_once(tmp_path: Path) -> None:
    clock = ActingClock()
    with pytest.raises(ZodbvaultError) as missing:
        open_data_fs(tmp_path / "Data.fs", clock)
    assert str(missing.value) == (
        f"{tmp_path}/Data.fs: there is no database file. "
        "Check the path of the database (option datafs), and that its disk is mounted."
    )
    with pytest.raises(ZodbvaultError) as error:
        open_data_fs(tmp_path / ("x" * 300), clock)
    assert str(error.value) == (
        f"{tmp_path}/{'x' * 300}: the database cannot be opened: File name too long. "
        "Check the path of the database (option datafs), and who may read it."
    )
    assert clock.sleeps == []


@pytest.mark.parametrize("suffix", [".pack", ".old"])
def test_the_instant_between_the_renames_of_a_pack_is_waited_out(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "Data.fs"
    beside = tmp_path / f"Data.fs{suffix}"
    beside.write_bytes(b"FS30packed")
    clock = ActingClock(lambda: None, lambda: beside.rename(path))
    with open_data_fs(path, clock) as source:
        assert source.size() == 10
    assert clock.sleeps == [PAUSE, PAUSE]


def test_a_pack_that_ends_between_two_looks_is_no_missing_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "Data.fs"

    def nothing_left_of_the_pack(_: object) -> bool:
        path.write_bytes(b"FS30")
        return False

    monkeypatch.setattr(os.path, "lexists", nothing_left_of_the_pack)
    with open_data_fs(path, ActingClock()) as source:
        assert source.size() == 4


def test_a_database_that_does_not_come_back_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    (tmp_path / "Data.fs.old").write_bytes(b"FS30")
    clock = ActingClock()
    with pytest.raises(ZodbvaultError, match="no database file"):
        open_data_fs(tmp_path / "Data.fs", clock)
    assert LONGEST_WAIT <= sum(clock.sleeps) < LONGEST_WAIT + 1


def test_handmade_files_open_in_zodb(tmp_path: Path) -> None:
    """Else the tests with them would prove little."""
    from ZODB.FileStorage.FileStorage import FileIterator

    made = Handmade()
    made.add(records=((0, b"data"), (1, b"more")))
    made.add(records=((0, made.records[0]),), texts=(b"user", b"undo", b""))
    path = tmp_path / "Data.fs"
    path.write_bytes(made.data)
    iterator = FileIterator(str(path))
    assert [[record.data for record in one] for one in iterator] == [[b"data", b"more"], [b"data"]]
    iterator.close()
