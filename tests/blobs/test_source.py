from __future__ import annotations

import errno
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.leaks import no_descriptor_left
from zodbvault.blobs.layouts import bushy_path, lawn_path, path_for
from zodbvault.blobs.source import BlobWalk, SourceBlobs, open_blob
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from collections.abc import Iterator


def key(oid: int, tid: int = 0x03E8000000000001) -> bytes:
    return oid.to_bytes(8, "big") + tid.to_bytes(8, "big")


def put(folder: Path, path: str, data: bytes = b"content") -> Path:
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def storage(folder: Path, layout: str, keys: list[bytes]) -> Path:
    folder.mkdir(parents=True)
    (folder / ".layout").write_text(layout)
    (folder / "tmp").mkdir()
    for number, k in enumerate(keys):
        put(folder, path_for(layout, k), b"x" * number)  # type: ignore[arg-type]
    return folder


KEYS = sorted(
    [key(1), key(1, 0x03E8000000000002), key(2), key(255), key(256), key(1 << 40), key((1 << 64) - 1), key(0)]
)


@contextmanager
def reading(fd: int | None) -> Iterator[bytes | None]:
    if fd is None:
        yield None
        return
    with os.fdopen(fd, "rb") as file:
        yield file.read()


@pytest.fixture(params=["bushy", "lawn"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_walk_gives_all_blobs_in_the_order_of_their_keys(tmp_path: Path, layout: str) -> None:
    source = SourceBlobs(storage(tmp_path / "blobs", layout, KEYS))
    assert source.layout == layout
    found = list(source.walk(tmp_path))
    assert found == [(k, number) for number, k in enumerate(KEYS)]
    assert source.strange == 0


def test_what_zodb_wrote_is_walked(tmp_path: Path, layout: str) -> None:
    import transaction
    from ZODB.blob import Blob, FilesystemHelper
    from ZODB.DB import DB
    from ZODB.FileStorage import FileStorage

    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / ".layout").write_text(layout)
    db = DB(FileStorage(str(tmp_path / "Data.fs"), blob_dir=str(tmp_path / "blobs")))
    connection = db.open()
    root = connection.root()
    for number in range(300):
        root[number] = Blob(b"b" * number)
    transaction.commit()
    with root[7].open("w") as file:
        file.write(b"second revision")
    transaction.commit()
    for blob in root.values():
        blob._p_activate()
    helper = FilesystemHelper(str(tmp_path / "blobs"))
    expected = {(b._p_oid + b._p_serial, n) for n, b in root.items() if n != 7}
    source = SourceBlobs(tmp_path / "blobs")
    found = set(source.walk(tmp_path))
    assert found >= expected
    assert len(found) == 301
    assert (root[7]._p_oid + root[7]._p_serial, len(b"second revision")) in found
    for k, _ in found:
        assert str(source.root / path_for(source.layout, k)) == helper.getBlobFilename(k[:8], k[8:])
    assert source.strange == 0
    connection.close()
    db.close()


def test_many_folders_and_revisions_are_sorted_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    import zodbvault.blobs.source as module

    monkeypatch.setattr(module, "_MOST_AT_ONCE", 3)
    monkeypatch.setattr("zodbvault.blobs.spill.SortedRecords.__init__.__kwdefaults__", {"in_memory": 4})
    keys = sorted(key(oid, 0x03E8000000000000 + tid) for oid in range(1, 2000, 97) for tid in range(11))
    source = SourceBlobs(storage(tmp_path / "blobs", layout, keys))
    assert [k for k, _ in source.walk(tmp_path)] == keys


def test_strange_files_are_skipped_counted_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, layout: str
) -> None:
    folder = storage(tmp_path / "blobs", layout, KEYS)
    outside = storage(tmp_path / "outside", layout, [key(77)])
    put(folder, "tmp/BUC123.blob")
    put(folder, ".removed")
    (folder / "lost+found").mkdir()
    leaf = folder / Path(path_for(layout, key(1))).parent  # type: ignore[arg-type]
    put(leaf, ".nfs0001")
    put(leaf, "0x03e80000000000ff.blob.tmp")
    (leaf / "0x03e80000000000fe.blob").symlink_to(leaf / ".nfs0001")
    (leaf / "0x03e80000000000fd.blob").mkdir()
    os.mkfifo(leaf / "0x03e80000000000fc.blob")
    top = Path(path_for(layout, key(77 << 56))).parts[0]  # type: ignore[arg-type]
    (folder / top).symlink_to(outside / Path(path_for(layout, key(77))).parts[0])  # type: ignore[arg-type]
    source = SourceBlobs(folder)
    assert [k for k, _ in source.walk(tmp_path)] == KEYS
    assert source.strange == 8
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "skipped 8" in caplog.text


def test_what_is_being_written_is_nothing_strange(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, layout: str
) -> None:
    """Given a client that is in the middle of a commit, as ZODB and ZEO name their files, then a backup is quiet."""
    from ZODB.blob import FilesystemHelper, LawnLayout

    folder = storage(tmp_path / "blobs", layout, KEYS)
    helper = FilesystemHelper(str(folder), layout_name=layout)
    assert isinstance(helper.layout, LawnLayout) == (layout == "lawn")
    for tid in (bytes(8), key(1)[8:]):
        descriptor, name = helper.blob_mkstemp(key(1)[:8], tid)
        os.close(descriptor)
        shutil.copy(name, f"{name}-")
    source = SourceBlobs(folder)
    assert [k for k, _ in source.walk(tmp_path)] == KEYS
    assert source.strange == 0
    assert [record for record in caplog.records if record.name.startswith("zodbvault")] == []


def test_files_of_the_other_layout_are_strange(tmp_path: Path) -> None:
    folder = storage(tmp_path / "blobs", "bushy", [key(1)])
    put(folder, lawn_path(key(300)))
    source = SourceBlobs(folder)
    assert [k for k, _ in source.walk(tmp_path)] == [key(1)]
    assert source.strange == 1


def test_a_walk_goes_on_when_a_pack_removes_folders(
    tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = storage(tmp_path / "blobs", layout, [key(1), key(2), key(3)])
    gone = folder / path_for(layout, key(2))  # type: ignore[arg-type]
    really = BlobWalk._listing

    def listing_late(walk: BlobWalk, folders: list[tuple[str, bytes]]) -> object:
        gone.unlink()
        gone.parent.rmdir()
        return really(walk, folders)

    monkeypatch.setattr(BlobWalk, "_listing", listing_late)
    source = SourceBlobs(folder)
    assert [k for k, _ in source.walk(tmp_path)] == [key(1), key(3)]
    assert source.strange == 0


@pytest.mark.parametrize("slow", [-1, 1000])
def test_a_walk_of_many_folders_on_several_threads(
    tmp_path: Path, layout: str, slow: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zodbvault.blobs.ahead._SLOW", slow)
    monkeypatch.setattr("zodbvault.blobs.source._FOLDERS_AT_ONCE", 8)
    keys = sorted(key(oid * 100, 0x03E8000000000000 + tid) for oid in range(300) for tid in range(oid % 3))
    folder = storage(tmp_path / "blobs", layout, keys)
    for k in keys[::40]:
        (folder / path_for(layout, k)).with_suffix(".strange").write_text("")  # type: ignore[arg-type]
    source = SourceBlobs(folder)
    assert [k for k, _ in source.walk(tmp_path)] == keys
    assert source.strange == len(keys[::40])


def test_a_storage_that_vanishes_is_no_empty_one(tmp_path: Path) -> None:
    folder = storage(tmp_path / "blobs", "bushy", [])
    source = SourceBlobs(folder)
    folder.rename(tmp_path / "away")
    with pytest.raises(ZodbvaultError, match="gone"):
        list(source.walk(tmp_path))


def test_an_abandoned_walk_leaves_no_open_folder(tmp_path: Path, layout: str) -> None:
    source = SourceBlobs(storage(tmp_path / "blobs", layout, KEYS))
    with no_descriptor_left():
        walk = source.walk(tmp_path)
        next(walk)
        walk.close()


def test_empty_is_what_has_no_blob(tmp_path: Path, layout: str) -> None:
    folder = storage(tmp_path / "blobs", layout, [])
    put(folder, "tmp/x.blob")
    (folder / Path(path_for(layout, key(5))).parent).mkdir(parents=True)  # type: ignore[arg-type]
    assert SourceBlobs(folder).is_empty()
    put(folder, path_for(layout, key(6)))  # type: ignore[arg-type]
    assert not SourceBlobs(folder).is_empty()


def test_an_unreadable_folder_is_an_error_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = storage(tmp_path / "blobs", "bushy", [key(1)])
    refuse_to_list(folder / "0x00", monkeypatch)
    with pytest.raises(ZodbvaultError, match=r"0x00: blobs cannot be listed: Input/output error"):
        list(SourceBlobs(folder).walk(tmp_path))


def test_an_unreadable_folder_does_not_make_a_blobstorage_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty one is refused as not mounted, with another hint."""
    folder = storage(tmp_path / "blobs", "bushy", [key(1)])
    refuse_to_list(folder / "0x00", monkeypatch)
    with pytest.raises(ZodbvaultError, match=r"the blob storage cannot be read: Input/output error"):
        SourceBlobs(folder).is_empty()


def refuse_to_list(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk cannot read this folder; root would be allowed to read any other one."""
    original = os.scandir

    def scandir(path: str) -> object:
        if os.fspath(path) == str(folder):
            raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.mark.parametrize("make", ["nothing", "file"])
def test_no_folder_is_a_clear_error(tmp_path: Path, make: str) -> None:
    if make == "file":
        (tmp_path / "blobs").write_text("")
    with pytest.raises(ZodbvaultError, match="mounted"):
        SourceBlobs(tmp_path / "blobs")


def test_a_clients_cache_is_refused(tmp_path: Path) -> None:
    folder = storage(tmp_path / "blobs", "bushy", [])
    (folder / ".layout").write_text("zeocache")
    with pytest.raises(ZodbvaultError, match="server"):
        SourceBlobs(folder)


def test_open_finds_a_blob_wherever_zodb_may_have_put_it(tmp_path: Path, layout: str) -> None:
    folder = storage(tmp_path / "blobs", layout, [])
    put(folder, bushy_path(key(1)), b"bushy")
    put(folder, lawn_path(key(2)), b"lawn")
    old = tmp_path / "blobs.old"
    put(old, bushy_path(key(3)), b"old bushy")
    put(old, lawn_path(key(4)), b"old lawn")
    source = SourceBlobs(folder)
    for number, expected in enumerate([b"bushy", b"lawn", b"old bushy", b"old lawn", None], 1):
        with reading(source.open(key(number))) as data:
            assert data == expected


def test_a_linked_storage_is_read_where_it_is_but_old_stands_beside_the_link(tmp_path: Path) -> None:
    real = storage(tmp_path / "disk" / "real", "bushy", [key(1)])
    put(tmp_path / "disk" / "real.old", bushy_path(key(2)), b"wrong")
    put(tmp_path / "blobs.old", bushy_path(key(3)), b"right")
    (tmp_path / "blobs").symlink_to(real)
    source = SourceBlobs(tmp_path / "blobs")
    assert [k for k, _ in source.walk(tmp_path)] == [key(1)]
    with reading(source.open(key(2))) as data:
        assert data is None
    with reading(source.open(key(3))) as data:
        assert data == b"right"


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    put(tmp_path, "file")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("link", "fifo", "folder", "none", "file/none"):
        assert open_blob(str(tmp_path / name)) is None
    with reading(open_blob(str(tmp_path / "file"))) as data:
        assert data == b"content"


def test_a_walk_of_nothing_counts_nothing(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    walk = BlobWalk(str(tmp_path / "blobs"), "bushy", tmp_path)
    assert list(walk.blobs()) == []
    assert walk.is_empty()
