from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from tests.blobs.sites import key
from zodbvault.blobs.archives import ArchiveContainer, DamagedArchive
from zodbvault.blobs.containers import DamagedBlob
from zodbvault.blobs.layouts import BUSHY, LAWN, path_for
from zodbvault.blobs.manifest import Entry

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = {key(1): b"one", key(2): b"", key(3): b"three", key(2**40): os.urandom(300_000) * 8}


class Site:
    """A blobstorage, and GNU tar as collective.recipe.backup calls it."""

    def __init__(self, folder: Path, layout: str) -> None:
        self.folder, self.layout = folder, layout
        self.source = folder / "blobstorage"
        (self.source / "tmp").mkdir(parents=True)
        (self.source / ".layout").write_text(layout)
        for each, content in CONTENT.items():
            self.add(each, content)

    def path(self, each: bytes) -> Path:
        return self.source / path_for(self.layout, each)

    def add(self, each: bytes, content: bytes) -> None:
        self.path(each).parent.mkdir(parents=True, exist_ok=True)
        self.path(each).write_bytes(content)

    def tar(self, name: str, *options: str) -> Path:
        archive = self.folder / name
        create = "czf" if name.endswith("gz") else "cf"
        subprocess.run(["tar", create, archive, *options, "-C", self.source, "."], check=True)
        return archive

    def incremental(self, name: str) -> Path:
        return self.tar(name, f"--listed-incremental={self.folder / 'blobstorage.snar'}")

    def content(self) -> dict[bytes, bytes]:
        every = [*CONTENT, *(key(number) for number in range(50, 70))]
        return {each: self.path(each).read_bytes() for each in every if self.path(each).exists()}


@pytest.fixture(params=[BUSHY, LAWN])
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Site:
    return Site(tmp_path, request.param)


def entries(content: dict[bytes, bytes]) -> list[Entry]:
    return [Entry(each, len(one), "") for each, one in sorted(content.items())]


def read(container: ArchiveContainer, wanted: list[Entry]) -> dict[bytes, bytes]:
    return {entry.key: content for entry, content in container.read(wanted, lambda _, blocks: b"".join(blocks))}


def require(archives: list[Path], content: dict[bytes, bytes], layout: str) -> None:
    with ArchiveContainer(archives, archives[0].parent) as container:
        assert list(container.blobs()) == entries(content)
        assert list(container.sizes(entries(content))) == [(entry, entry.size) for entry in entries(content)]
        assert read(container, entries(content)) == content
        assert container.layout == layout


@pytest.mark.parametrize("name", ["blobstorage.0.tar", "blobstorage.2026-11-23-18-05-00.tar.gz"])
def test_what_tar_wrote_is_read(site: Site, name: str) -> None:
    require([site.tar(name)], CONTENT, site.layout)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_increments_of_tar_add_and_remove(site: Site, suffix: str) -> None:
    full = site.incremental(f"full.{suffix}")
    require([full], CONTENT, site.layout)
    site.add(key(50), b"new")
    site.path(key(3)).unlink()
    site.path(key(3)).parent.rmdir()
    first = site.incremental(f"first.{suffix}")
    after_first = site.content()
    assert key(3) not in after_first
    site.add(key(51), b"newer")
    site.path(key(1)).unlink()
    second = site.incremental(f"second.{suffix}")
    require([full, first, second], site.content(), site.layout)
    require([full, first], after_first, site.layout)
    require([full], CONTENT, site.layout)


def test_folders_that_tar_takes_for_renamed_keep_their_own_blobs(site: Site) -> None:
    full = site.incremental("full.tar")
    # As after a restore: the same tree, other inodes, so that a folder has the inode that another one had.
    aside = site.folder / "aside"
    one, two = site.path(key(1)).parent, site.path(key(3)).parent
    os.rename(one, aside)
    os.rename(two, one)
    os.rename(aside, two)
    for each in (key(1), key(3)):
        shutil.copy(site.path(key(1 if each == key(3) else 3)), site.folder / each.hex())
    for each in (key(1), key(3)):
        site.path(each).write_bytes(CONTENT[each])
    site.add(key(52), b"after")
    delta = site.incremental("delta.tar")
    with tarfile.open(delta) as tar:
        dumpdirs = b"".join(tar.extractfile(each).read() for each in tar if each.type == b"D")  # type: ignore[union-attr]
    assert b"\0T" in dumpdirs or b"\0R" in dumpdirs
    require([full, delta], site.content(), site.layout)


def test_a_blob_that_is_not_there(site: Site) -> None:
    other = Entry(key(999), 5, "")
    with ArchiveContainer([site.tar("a.tar")], site.folder) as container:
        assert list(container.sizes([other])) == [(other, None)]
        with pytest.raises(DamagedBlob, match="missing"):
            read(container, [other])


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("part", [0, 0.3, 0.9, 0.999])
def test_an_archive_that_was_cut_short_is_damaged(site: Site, name: str, part: float) -> None:
    archive = site.tar(name, "-b", "1")
    size = archive.stat().st_size
    os.truncate(archive, max(int(size * part), size - 1100) if part == 0.999 else int(size * part))
    with ArchiveContainer([archive], site.folder) as container, pytest.raises(DamagedArchive):
        read(container, list(container.blobs()))


def test_names_that_are_not_those_of_blobs_are_passed_by(site: Site, tmp_path: Path) -> None:
    archive = tmp_path / "hostile.tar"
    path = path_for(site.layout, key(1))
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for name in (f"/{path}", f"../{path}", f"./x/../{path}", f"./{path}/more", "./0x00/0x01"):
            tar.addfile(tarfile.TarInfo(name))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            info = tarfile.TarInfo(f"./{path}")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    with ArchiveContainer([archive], tmp_path) as container:
        assert list(container.blobs()) == []


def test_a_symlink_is_no_archive(site: Site) -> None:
    (site.folder / "b.tar").symlink_to(site.tar("a.tar"))
    with ArchiveContainer([site.folder / "b.tar"], site.folder) as container, pytest.raises(DamagedArchive):
        list(container.blobs())
