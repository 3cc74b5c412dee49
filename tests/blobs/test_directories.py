from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.blobs.sites import key, refuse_to_look_at
from zodbvault.blobs.containers import DamagedBlob
from zodbvault.blobs.directories import DirectoryContainer
from zodbvault.blobs.layouts import BUSHY, LAWN, path_for
from zodbvault.blobs.manifest import Entry
from zodbvault.errors import ZodbvaultError

CONTENT = {key(1): b"one", key(2): b"", key(2**40): b"x" * 3_000_000}


@pytest.fixture(params=[BUSHY, LAWN])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path / "blobstorage.2026-11-23-18-05-00"
    copy = folder / "blobstorage"
    (copy / "tmp").mkdir(parents=True)
    (copy / ".layout").write_text(request.param)
    (copy / ".removed").write_text("whatever")
    for each, content in CONTENT.items():
        path = copy / path_for(request.param, each)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def entries() -> list[Entry]:
    return [Entry(each, len(content), "") for each, content in sorted(CONTENT.items())]


def test_it_tells_what_it_holds_and_gives_it(folder: Path, tmp_path: Path) -> None:
    container = DirectoryContainer(folder, tmp_path)
    assert list(container.blobs()) == entries()
    assert list(container.sizes(entries())) == [(entry, entry.size) for entry in entries()]
    found = dict(container.read(entries(), lambda _, blocks: b"".join(blocks)))
    assert {entry.key: content for entry, content in found.items()} == CONTENT


def test_what_is_not_there_has_no_size_and_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    container = DirectoryContainer(folder, tmp_path)
    other = Entry(key(77), 1, "")
    assert list(container.sizes([other])) == [(other, None)]
    with pytest.raises(DamagedBlob, match="missing"):
        list(container.read([other], lambda _, blocks: b"".join(blocks)))


def test_a_symlink_never_leads_out_of_it(folder: Path, tmp_path: Path) -> None:
    container = DirectoryContainer(folder, tmp_path)
    secret = Path(container.path_of(key(1)))
    outside = tmp_path / "outside"
    shutil.move(secret.parent, outside)
    secret.parent.symlink_to(outside)
    assert secret.read_bytes() == b"one"
    assert next(container.sizes(entries())) == (entries()[0], None)
    with pytest.raises(DamagedBlob):
        next(container.read(entries(), lambda _, blocks: b"".join(blocks)))
    assert key(1) not in [entry.key for entry in container.blobs()]


def test_the_only_folder_is_taken_whatever_its_name(folder: Path, tmp_path: Path) -> None:
    os.rename(folder / "blobstorage", folder / "blobs of another site")
    assert list(DirectoryContainer(folder, tmp_path).blobs()) == entries()
    (folder / "second").mkdir()
    with pytest.raises(ZodbvaultError, match="holds no copy"):
        DirectoryContainer(folder, tmp_path)


def test_hard_links_have_one_identity_and_what_is_not_there_has_none(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "blobstorage.2026-11-23-19-05-00"
    shutil.copytree(folder, other, copy_function=os.link)
    one, two = DirectoryContainer(folder, tmp_path), DirectoryContainer(other, tmp_path)
    assert one.identity_of(key(1)) == two.identity_of(key(1)) is not None
    assert one.identity_of(key(1)) != one.identity_of(key(2))
    assert one.identity_of(key(77)) is None


def test_a_blob_that_the_disk_cannot_look_at_is_an_error_and_the_same_as_no_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = DirectoryContainer(folder, tmp_path)
    refuse_to_look_at(container.path_of(key(1)), monkeypatch)
    with pytest.raises(ZodbvaultError, match="the blob cannot be read: Input/output error"):
        list(container.sizes(entries()))
    assert container.identity_of(key(1)) is None
