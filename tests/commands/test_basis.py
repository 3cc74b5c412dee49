"""What a new directory or archive stands on: decisions on names and times, and what is found in what was decided on."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.blobs.sites import Blobs, entries, entry, key, put, write_manifest
from tests.leaks import open_files
from tests.site import Site
from zodbvault.blobs.directories import DirectoryContainer
from zodbvault.blobs.manifest import DamagedManifest
from zodbvault.blobs.pool import Pool
from zodbvault.blobs.source import SourceBlobs
from zodbvault.blobs.stored import Form, Stored, stored_name
from zodbvault.blobs.wanted import StateList
from zodbvault.commands.basis import (
    NO_BASIS,
    Basis,
    Unknown,
    archives_of,
    manifest_of,
    newest_directory,
    opened_basis,
    pool_basis,
    series_to_continue,
)
from zodbvault.repository.store import read_repository

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zodbvault.blobs.layouts import Layout
    from zodbvault.blobs.manifest import Entry

FIRST, SECOND, THIRD, FOURTH = (f"2026-11-{day:02d}-18-05-00" for day in (20, 21, 22, 23))


def stored(
    *wanted: tuple[str | int, Form] | tuple[str | int, Form, str], base: str = "blobstorage"
) -> tuple[Stored, ...]:
    found = []
    for mark, form, *timestamp in wanted:
        number = mark if isinstance(mark, int) else None
        found.append(
            Stored(Path("/blobs", stored_name(base, mark, form)), base, form, number, (*timestamp, str(mark))[0])
        )
    return tuple(found)


SERIES = stored((FIRST, Form.ARCHIVE), (SECOND, Form.DELTA), (THIRD, Form.DELTA))


def test_links_come_from_the_newest_directory() -> None:
    found = stored((FIRST, Form.DIRECTORY), (0, Form.DIRECTORY, SECOND), (THIRD, Form.ARCHIVE))
    assert newest_directory(found, "blobstorage") == found[1]
    newer = stored((FOURTH, Form.DIRECTORY))
    assert newest_directory((*found, *newer), "blobstorage") == newer[0]
    assert newest_directory(found, "other") is None
    assert newest_directory((*found, *stored((FOURTH, Form.DIRECTORY), base="other")), "blobstorage") == found[1]


@pytest.mark.parametrize(("since", "is_continued"), [(FIRST, True), ("", True), (SECOND, False)])
def test_a_series_is_continued_within_its_chain(since: str, is_continued: bool) -> None:
    assert series_to_continue(SERIES, "blobstorage", since) == (SERIES if is_continued else ())


@pytest.mark.parametrize(
    "found",
    [
        (),
        SERIES[1:],  # the full archive is gone
        stored((FIRST, Form.DIRECTORY)),
        stored((0, Form.ARCHIVE, FIRST)),  # numbered ones stand alone
        stored((FIRST, Form.SNAPSHOT_FILE)),
        stored((FIRST, Form.ARCHIVE), base="other"),
    ],
)
def test_where_there_is_none_to_continue(found: tuple[Stored, ...]) -> None:
    assert series_to_continue(found, "blobstorage", FIRST) == ()


def test_a_newer_full_archive_begins_a_series() -> None:
    found = (*SERIES, *stored((FOURTH, Form.ARCHIVE)))
    assert series_to_continue(found, "blobstorage", FIRST) == found[-1:]


def test_all_archives_of_a_date() -> None:
    found = stored((FIRST, Form.ARCHIVE), (FIRST, Form.DELTA), (0, Form.ARCHIVE, FIRST), (FIRST, Form.DIRECTORY))
    assert archives_of(found, "blobstorage", FIRST) == found[:3]
    assert archives_of(found, "blobstorage", SECOND) == ()


# What is found in it.

ONE, TWO, THREE, FOUR = key(1), key(1, 2), key(2), key(2**40)
LIVE = {ONE: b"one", TWO: b"one more", THREE: b"three", FOUR: b"x" * 3000}


@dataclass
class Place:
    """A site's blobs and a folder for backups of them; temporary files can stand in `scratch` only."""

    folder: Path
    layout: Layout = "bushy"

    def __post_init__(self) -> None:
        self.source = SourceBlobs(put(self.folder / "site" / "blobstorage", self.layout, LIVE))
        self.scratch = self.folder / "scratch"
        self.scratch.mkdir()

    def directory(self, blobs: Blobs, timestamp: str = FIRST) -> tuple[Stored, ...]:
        path = self.folder / stored_name("blobstorage", timestamp, Form.DIRECTORY)
        put(path / "blobstorage", self.layout, blobs)
        return (Stored(path, "blobstorage", Form.DIRECTORY, None, timestamp),)

    def archive(self, blobs: Blobs, timestamp: str = FIRST) -> tuple[Stored, ...]:
        put(self.folder / timestamp, self.layout, blobs)
        path = self.folder / stored_name("blobstorage", timestamp, Form.ARCHIVE)
        subprocess.run(["tar", "--sort=name", "-cf", path, "-C", self.folder / timestamp, "."], check=True)
        return (Stored(path, "blobstorage", Form.ARCHIVE, None, timestamp),)

    def manifest(self, blobs: Blobs) -> Path:
        write_manifest(path := self.folder / "manifest", entries(blobs), self.layout)
        return path

    @contextlib.contextmanager
    def opened(self, stored: tuple[Stored, ...], manifest: Path | None = None) -> Iterator[Basis]:
        with self.state(LIVE) as state, opened_basis(stored, manifest, state, self.source, self.scratch) as basis:
            yield basis

    @contextlib.contextmanager
    def state(self, blobs: Blobs) -> Iterator[StateList]:
        with StateList(self.scratch) as state:
            for each, content in blobs.items():
                state.add(each, len(content))
            yield state

    def unknown(self, basis: Basis, blobs: Blobs) -> Unknown:
        with self.state(blobs) as state:
            return basis.unknown_in(state)


@pytest.fixture(params=["bushy", "lawn"])
def place(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr("zodbvault.blobs.spill.SortedRecords.__init__.__kwdefaults__", {"in_memory": 2})
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    return Place(tmp_path, request.param)


def known(basis: Basis) -> list[Entry]:
    assert basis.known is not None
    with contextlib.closing(basis.known()) as found:
        return list(found)


def linked(basis: Basis) -> dict[bytes, bytes]:
    """The content of the site's blobs that can be linked from."""
    assert basis.held is not None
    found = {}
    for each in LIVE:
        fd = basis.held.open(each)
        if fd is not None:
            with open(fd, "rb") as file:
                found[each] = file.read()
            assert Path(basis.held.path_of(each)).read_bytes() == found[each]
    return found


def test_of_our_own_directory_the_manifest_tells_what_is_in_it(place: Place) -> None:
    held = {ONE: b"one", THREE: b"three"}
    stored = place.directory(held)
    with place.opened(stored, place.manifest({ONE: b"one"})) as basis:
        assert (basis.stored, basis.layout) == (stored, place.layout)
        assert known(basis) == [entry(ONE, b"one")]
        assert linked(basis) == held
        assert isinstance(basis.held, DirectoryContainer)
        assert basis.held.folder == stored[0].path
        assert place.unknown(basis, LIVE) == Unknown(3, 3013)


def test_from_our_own_archives_nothing_can_be_linked(place: Place) -> None:
    stored = place.archive({ONE: b"one"})
    with place.opened(stored, place.manifest({ONE: b"one"})) as basis:
        assert (basis.stored, basis.layout, basis.held) == (stored, place.layout, None)
        assert known(basis) == [entry(ONE, b"one")]


def test_a_directory_of_another_program_is_compared_with_the_site(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    held = {ONE: b"one", TWO: b"ONE more", THREE: b"", FOUR: b"x" * 3000}  # the same, of the same size, cut short
    stored = place.directory(held)
    with place.opened(stored) as basis:
        assert (basis.stored, basis.layout) == (stored, place.layout)
        assert known(basis) == [entry(ONE, b"one"), entry(FOUR, b"x" * 3000)]
        assert linked(basis) == held
        assert place.unknown(basis, LIVE) == Unknown(2, 13)
    assert caplog.messages == [f"{stored[0].path}: no record tells what is in it; it is compared with the site, once."]


def test_archives_of_another_program_are_compared_with_the_site(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stored = place.archive({**LIVE, TWO: b"ONE more"})
    with place.opened(stored) as basis:
        assert (basis.stored, basis.layout, basis.held) == (stored, place.layout, None)
        assert known(basis) == entries({each: LIVE[each] for each in (ONE, THREE, FOUR)})
    assert caplog.messages == [f"{stored[0].path}: no record tells what is in it; it is compared with the site, once."]


@pytest.mark.parametrize("form", [Form.DIRECTORY, Form.ARCHIVE])
@pytest.mark.parametrize("is_ours", [True, False])
def test_what_cannot_be_read_counts_as_nothing(
    place: Place, form: Form, is_ours: bool, caplog: pytest.LogCaptureFixture
) -> None:
    stored = place.directory(LIVE) if form is Form.DIRECTORY else place.archive(LIVE)
    path = stored[0].path
    manifest = None
    if is_ours:
        manifest = place.manifest(LIVE)
        manifest.write_bytes(b"no manifest")
        path = manifest
    elif form is Form.DIRECTORY:
        shutil.rmtree(path / "blobstorage")
    else:
        # In the middle of a blob, and behind enough others for a temporary file.
        os.truncate(path, path.read_bytes().index(LIVE[FOUR]) + 1000)
    with place.state(LIVE) as state:
        before = open_files()
        with opened_basis(stored, manifest, state, place.source, place.scratch) as basis:
            assert basis == NO_BASIS
            assert open_files() - before == set()
    assert caplog.messages[-1].startswith(f"{path}: ")
    assert caplog.messages[-1].endswith(". Nothing of it is used for this backup.")


def test_where_there_is_nothing_every_blob_is_unknown(place: Place) -> None:
    assert place.unknown(NO_BASIS, LIVE) == Unknown(4, 3016)
    assert place.unknown(Basis(known=lambda: (one for one in entries(LIVE))), LIVE) == Unknown(0, 0)


def test_a_manifest_that_is_damaged_in_its_middle_says_nothing_of_a_state(place: Place) -> None:
    manifest = place.manifest(LIVE)
    with place.opened(place.directory(LIVE), manifest) as basis:
        os.truncate(manifest, manifest.stat().st_size - 5)
        with pytest.raises(DamagedManifest):
            place.unknown(basis, LIVE)


def contents(found: list[Entry]) -> set[str]:
    return {one.sha256 for one in found}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site")
    site.commit_blobs(3)
    yield site
    site.close()


def test_a_first_directory_has_what_the_pool_has(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zodbvault.blobs.spill.SortedRecords.__init__.__kwdefaults__", {"in_memory": 2})
    with pool_basis(read_repository(site.location, site.blob_location), site.location) as basis:
        assert basis == NO_BASIS
    site.backup()
    site.commit_blobs(6, names=40)
    site.backup()
    repository = read_repository(site.location, site.blob_location)
    monkeypatch.setattr(tempfile, "tempdir", str(site.folder / "no such folder"))
    with pool_basis(repository, site.blob_location) as basis:
        assert contents(known(basis)) == {hashlib.sha256(content).hexdigest() for content in site.blobs.values()}
        assert (basis.stored, basis.layout) == ((), None)
        assert isinstance(basis.held, Pool)
        assert basis.held.location == site.blob_location


def test_what_a_pool_manifest_says_behind_its_damage_is_not_known(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.backup()
    repository = read_repository(site.location, site.blob_location)
    with pool_basis(repository, site.blob_location) as basis:
        manifest = next(site.blob_location.glob("*.blobs.gz"))
        os.truncate(manifest, manifest.stat().st_size - 5)
        assert len(known(basis)) <= 3
    assert caplog.messages[-1].endswith("What it says of blobs is not used.")


def test_our_manifest_of_a_directory_and_of_archives_is_found_by_its_name(tmp_path: Path) -> None:
    for name in (f"{FIRST}.directoryblobs.gz", f"{SECOND}.archiveblobs.gz"):
        (tmp_path / name).touch()
    repository = read_repository(tmp_path / "location", tmp_path)
    directory, archive = stored((FIRST, Form.DIRECTORY), (SECOND, Form.DELTA))
    assert manifest_of(repository, directory) == tmp_path / f"{FIRST}.directoryblobs.gz"
    assert manifest_of(repository, archive) == tmp_path / f"{SECOND}.archiveblobs.gz"
    assert manifest_of(repository, stored((SECOND, Form.DIRECTORY))[0]) is None
