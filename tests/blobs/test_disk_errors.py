"""The disk fails at one place: the error says what could not be done and to which file, and nothing is taken for gone.

Only the system's call is made to fail, on one path; all else is real.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.blobs.sites import entries, key, put, write_manifest
from zodbvault.blobs.copying import blocks_of, give_second_name
from zodbvault.blobs.layouts import path_for, read_layout
from zodbvault.blobs.letting_go import remove_leftovers, remove_stored
from zodbvault.blobs.manifest import read_manifest
from zodbvault.blobs.pool import Pool, prune_pool
from zodbvault.blobs.rotation import point_latest, rotate
from zodbvault.blobs.source import open_blob
from zodbvault.blobs.stored import Form, find_stored
from zodbvault.blobs.target import open_target
from zodbvault.errors import ZodbvaultError
from zodbvault.io.space import disk_space

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zodbvault.blobs.stored import Stored
    from zodbvault.blobs.target import Target

STAMP = "2026-11-23-18-05-00"
BLOB = path_for("bushy", key(1))


def fail(monkeypatch: pytest.MonkeyPatch, name: str, place: str) -> None:
    """os.NAME has an error where the first path that it is given is `place`, or lies below it."""
    original = getattr(os, name)

    def call(path: Any, *arguments: Any, **keywords: Any) -> Any:
        if not isinstance(path, int) and f"{os.fspath(path)}/".startswith(f"{place}/"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(path))
        return original(path, *arguments, **keywords)

    monkeypatch.setattr(os, name, call)


class Case(NamedTuple):
    """make: what is there before, in the folder of the test; act: what is done with that. call: of os, that fails.

    place: where it does, below that folder.
    """

    make: Callable[[Path], Any]
    act: Callable[[Any], object]
    call: str
    place: str
    says: str


def pool(folder: Path) -> Pool:
    put(folder / "blobs", "bushy", {key(1): b"one"})
    (folder / "blobs/tmp" / f"zodbvault-{key(1).hex()}.part").write_bytes(b"half")
    return Pool(folder)


def archive(folder: Path) -> Stored:
    (folder / f"blobstorage.{STAMP}.tar").write_bytes(b"archive")
    return find_stored(folder)[0]


def left_over(folder: Path) -> Path:
    (folder / f"blobstorage.{STAMP}.tar.part").write_bytes(b"half")
    return folder


def numbered(folder: Path) -> Path:
    (folder / "blobstorage.0").mkdir()
    return folder


def manifest(folder: Path) -> Path:
    write_manifest(folder / "0000.blobs.gz", entries({key(1): b"one"}))
    return folder / "0000.blobs.gz"


def site(folder: Path) -> Path:
    return put(folder / "site", "bushy", {key(1): b"one"})


def target(folder: Path) -> Target:
    return open_target(site(folder), "bushy")


def nothing(folder: Path) -> Path:
    return folder


CASES = {
    "an archive stays": Case(archive, remove_stored, "unlink", "", "cannot be removed"),
    "left-overs stay": Case(
        left_over, lambda at: remove_leftovers(at, "blobstorage"), "unlink", "", "left-over files cannot be removed"
    ),
    "no listing": Case(nothing, find_stored, "scandir", "", "cannot be listed"),
    "no next number": Case(
        numbered, lambda at: rotate(at, "blobstorage", Form.DIRECTORY), "replace", "", "cannot be renamed to"
    ),
    "no link": Case(
        nothing, lambda at: point_latest(at, "x"), "symlink", "", "the link to the newest backup cannot be made"
    ),
    "no pool": Case(nothing, lambda at: Pool(at).prepare(), "mkdir", "", "the pool of blobs cannot be written"),
    "a temporary file stays": Case(
        pool, lambda pool: pool.sweep(), "unlink", "blobs", "left-over temporary files cannot be removed"
    ),
    "a blob stays": Case(pool, lambda pool: prune_pool([], pool), "unlink", "blobs", "the blob cannot be removed"),
    "a blob is not opened": Case(
        site, lambda at: open_blob(f"{at}/{BLOB}"), "open", "site", "the blob cannot be opened"
    ),
    "no manifest": Case(
        manifest, lambda at: list(read_manifest(at)), "open", "0000.blobs.gz", "the manifest of blobs cannot be opened"
    ),
    "no marker": Case(site, read_layout, "open", "site/.layout", "the layout of the blob storage cannot be read"),
    "no folder": Case(nothing, read_layout, "scandir", "", "the blob storage cannot be read"),
    "no target": Case(
        lambda at: open_target(at / "new", "bushy"),
        lambda target: target.prepare(),
        "mkdir",
        "new",
        "the blob storage cannot be written",
    ),
    "the site's blob": Case(
        target, lambda target: target.status_of(key(1)), "lstat", f"site/{BLOB}", "the site's blob cannot be read"
    ),
    "the site's folder": Case(
        target, lambda target: target.status_of(key(1)), "lstat", "site/0x00", "cannot be looked at"
    ),
    "free space": Case(nothing, disk_space, "statvfs", "", "its free space cannot be found out"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_error_of_the_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    made = case.make(folder)
    with monkeypatch.context() as patch:
        fail(patch, case.call, "x" if case.call == "symlink" else os.path.normpath(folder / case.place))
        with pytest.raises(ZodbvaultError) as caught:
            case.act(made)
    assert case.says in caught.value.what
    assert "Input/output error" in str(caught.value)
    assert caught.value.path is not None
    assert caught.value.path.startswith(str(folder))


def test_a_blob_that_cannot_be_read_is_named_by_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever writes a copy meanwhile would be blamed for it."""
    path = tmp_path / "blob"
    path.write_bytes(b"content")
    fd = os.open(path, os.O_RDONLY)

    def refuse(*_: object) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", refuse)
    try:
        with pytest.raises(OSError, match="Input/output") as caught:
            list(blocks_of(fd))
    finally:
        os.close(fd)
    assert caught.value.filename == str(path)


def test_a_second_name_takes_the_place_of_a_left_over(tmp_path: Path) -> None:
    blob, temporary = tmp_path / "blob", tmp_path / "temporary"
    blob.write_bytes(b"content")
    temporary.write_bytes(b"of a killed run")
    assert give_second_name(str(blob), str(temporary), blob.stat())
    assert temporary.stat().st_ino == blob.stat().st_ino


def test_another_file_that_was_put_there_meanwhile_gets_no_second_name(tmp_path: Path) -> None:
    """What was looked at is not what the name leads to now: a link to it would be another's content."""
    blob, temporary = tmp_path / "blob", tmp_path / "temporary"
    blob.write_bytes(b"content")
    looked_at = blob.stat()
    (tmp_path / "new").write_bytes(b"another")
    os.replace(tmp_path / "new", blob)
    assert not give_second_name(str(blob), str(temporary), looked_at)
    assert not temporary.exists()


def test_no_second_name_where_the_disk_gives_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob, temporary = tmp_path / "blob", tmp_path / "temporary"
    blob.write_bytes(b"content")
    fail(monkeypatch, "link", str(tmp_path))
    assert not give_second_name(str(blob), str(temporary), blob.stat())
    assert blob.read_bytes() == b"content"
    assert not temporary.exists()
