"""A directory of blobs: the same as the site to rsync's eyes, linked where it may be, invisible until it is whole."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.blobs.sites import blobs_in, entries, entry, key, put
from tests.leaks import no_descriptor_left
from zodbvault.blobs.directories import DirectoryContainer
from zodbvault.blobs.directory_writer import DirectoryWriter
from zodbvault.blobs.source import SourceBlobs
from zodbvault.blobs.wanted import StateList
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from zodbvault.blobs.layouts import Layout
    from zodbvault.blobs.manifest import Entry

BLOBS = {key(1): b"one", key(1, 2): b"one more", key(2): b"", key(2**40 + 5): b"x" * 2_500_000}
NAME = "blobstorage.2026-11-23-18-05-00"
MOMENT = 1_795_456_700


@pytest.fixture(params=["bushy", "lawn"])
def layout(request: pytest.FixtureRequest) -> Layout:
    found: Layout = request.param
    return found


@pytest.fixture
def source(tmp_path: Path, layout: Layout) -> SourceBlobs:
    folder = put(tmp_path / "site" / "blobstorage", layout, BLOBS)
    for number, path in enumerate(sorted(folder.rglob("*"))):
        os.utime(path, (MOMENT - 1000 * number, MOMENT - 1000 * number))
    return SourceBlobs(folder)


@pytest.fixture
def location(tmp_path: Path) -> Path:
    folder = tmp_path / "location"
    folder.mkdir()
    return folder


def known(found: list[Entry]) -> Callable[[], Generator[Entry, None, None]]:
    def generator() -> Generator[Entry, None, None]:
        yield from found

    return generator


def write(
    location: Path,
    source: SourceBlobs,
    held: DirectoryContainer | None = None,
    known_entries: list[Entry] | None = None,
    *,
    blobs: dict[bytes, bytes] | None = None,
    link_live: bool = False,
    name: str = NAME,
) -> tuple[dict[bytes, Entry | None], DirectoryWriter]:
    """Write and publish a directory; what was said of each blob."""
    blobs = BLOBS if blobs is None else blobs
    with StateList(location) as state, DirectoryWriter(location / name, "blobstorage", source) as writer:
        for each in sorted(blobs):
            state.add(each, len(blobs[each]))
        writer.begin()
        entries_ = None if known_entries is None else known(known_entries)
        with closing(writer.write(state, entries_, held, link_live=link_live)) as written:
            found = dict(written)
        writer.finish(MOMENT)
        assert os.listdir(location) == [NAME + ".part"] or held is not None
        writer.publish()
    return found, writer


def inodes(folder: Path, layout: Layout) -> dict[bytes, int]:
    container = DirectoryContainer(folder, folder)
    return {each: os.stat(container.path_of(each)).st_ino for each in blobs_in(folder / "blobstorage", layout)}


def differences(source: SourceBlobs, folder: Path) -> list[str]:
    """What `rsync -a` would do to make the directory equal to the site."""
    command = ["rsync", "-ani", "--delete", "--exclude=/tmp", f"{source.root}/", f"{folder}/blobstorage/"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_it_is_the_site_in_the_eyes_of_rsync(location: Path, source: SourceBlobs) -> None:
    with no_descriptor_left():
        found, writer = write(location, source)
    assert found == {each.key: each for each in entries(BLOBS)}
    assert (writer.copied, writer.copied_bytes) == (len(BLOBS), sum(map(len, BLOBS.values())))
    assert differences(source, location / NAME) == []
    assert os.listdir(location) == [NAME]
    assert not (location / NAME / "blobstorage" / "tmp").exists()
    assert int(os.stat(location / NAME).st_mtime) == MOMENT


def test_what_an_earlier_one_has_is_linked(location: Path, source: SourceBlobs, layout: Layout) -> None:
    write(location, source)
    earlier = DirectoryContainer(location / NAME, location)
    more = {**BLOBS, key(3): b"new"}
    put(source.root, layout, {key(3): b"new"})
    found, writer = write(location, source, earlier, entries(BLOBS), blobs=more, name="blobstorage.1")
    assert found == {each.key: each for each in entries(more)}
    assert (writer.copied, writer.copied_bytes) == (1, 3)
    old, new = inodes(location / NAME, layout), inodes(location / "blobstorage.1", layout)
    assert {each: new[each] for each in old} == old
    assert differences(source, location / "blobstorage.1") == []


def test_what_is_not_as_it_is_known_is_copied_from_the_site(location: Path, source: SourceBlobs) -> None:
    write(location, source)
    earlier = DirectoryContainer(location / NAME, location)
    cut, gone, linked, _ = (Path(earlier.path_of(each)) for each in sorted(BLOBS))
    cut.chmod(0o644)
    cut.write_bytes(b"on")
    gone.unlink()
    linked.unlink()
    linked.symlink_to("/etc/passwd")
    found, writer = write(location, source, earlier, entries(BLOBS), name="blobstorage.1")
    assert found == {each.key: each for each in entries(BLOBS)}
    assert writer.copied == 3
    assert blobs_in(location / "blobstorage.1" / "blobstorage", source.layout) == BLOBS


def test_what_the_site_has_lost_comes_from_the_earlier_one(location: Path, source: SourceBlobs) -> None:
    write(location, source)
    earlier = DirectoryContainer(location / NAME, location)
    shutil.rmtree(source.root)
    put(source.root, source.layout, {})
    found, _ = write(location, source, earlier, entries(BLOBS)[:2], name="blobstorage.1")
    assert found == {each: entry(each, BLOBS[each]) if each in sorted(BLOBS)[:2] else None for each in BLOBS}


def test_a_first_copy_may_be_linked_to_the_site(location: Path, source: SourceBlobs) -> None:
    found, writer = write(location, source, link_live=True)
    assert found == {each.key: each for each in entries(BLOBS)}
    assert writer.copied == 0
    assert inodes(location / NAME, source.layout) == {
        each: os.stat(source.path_of(each)).st_ino for each in blobs_in(source.root, source.layout)
    }


def test_what_fails_leaves_nothing(location: Path, source: SourceBlobs) -> None:
    folders = os.path.dirname(source.path_of(key(1)))[len(str(source.root)) + 1 :]
    with (
        no_descriptor_left(),
        DirectoryWriter(location / NAME, "blobstorage", source) as writer,
        StateList(location) as state,
    ):
        state.add(key(1), 3)
        writer.begin()
        (location / f"{NAME}.part" / "blobstorage" / folders.split("/")[0]).touch()
        with pytest.raises(ZodbvaultError, match="File exists"):
            list(writer.write(state, None, None, link_live=False))
    assert os.listdir(location) == []


def test_another_one_of_that_name_gives_way(location: Path, source: SourceBlobs) -> None:
    (location / NAME / "blobstorage" / "0x07").mkdir(parents=True)
    with DirectoryWriter(location / NAME, "blobstorage", source) as writer, StateList(location) as state:
        writer.begin()
        state.add(key(1), 3)
        with closing(writer.write(state, None, None, link_live=False)) as written:
            assert dict(written) == {key(1): entry(key(1), b"one")}
        writer.finish(MOMENT)
        writer.publish()
    assert os.listdir(location) == [NAME]
    assert blobs_in(location / NAME / "blobstorage", source.layout) == {key(1): b"one"}
