"""An archive of blobs: GNU tar lists it, extracts it and continues it; what was there before is named, not written."""

from __future__ import annotations

import os
import subprocess
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

from tests.blobs.sites import blobs_in, entries, entry, key, no_descriptor_left, put
from zodbvault.blobs.archive_writer import ArchiveWriter
from zodbvault.blobs.archives import ArchiveContainer
from zodbvault.blobs.snapshot_file import SnapshotFileWriter
from zodbvault.blobs.source import SourceBlobs
from zodbvault.blobs.wanted import StateList
from zodbvault.io.durable import PartFile

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from zodbvault.blobs.manifest import Entry

BLOBS = {key(1): b"one", key(1, 2): b"one more", key(2): b"", key(2**40 + 5): b"x" * 2_500_000}
MOMENT = 1_795_456_700


@pytest.fixture(params=["bushy", "lawn"])
def source(tmp_path: Path, request: pytest.FixtureRequest) -> SourceBlobs:
    return SourceBlobs(put(tmp_path / "site" / "blobstorage", request.param, BLOBS))


def write(
    path: Path,
    source: SourceBlobs,
    blobs: dict[bytes, bytes],
    before: list[Entry] | None = None,
    *,
    series: Path | None = None,
    is_compressed: bool = False,
) -> tuple[dict[bytes, Entry | None], ArchiveWriter]:
    """Write an archive; what was said of each blob. series: the snapshot file, which is written too."""

    def known() -> Generator[Entry, None, None]:
        yield from before or ()

    moment = os.stat(source.root).st_mtime_ns + 10_000_000_000
    with no_descriptor_left(), ExitStack() as stack:
        state = stack.enter_context(StateList(path.parent))
        for each in sorted(blobs):
            state.add(each, len(blobs[each]))
        part = stack.enter_context(PartFile(path))
        snapshot = None if series is None else stack.enter_context(PartFile(series))
        writer = ArchiveWriter(
            part,
            source,
            path.parent,
            is_compressed=is_compressed,
            snapshot=None if snapshot is None else SnapshotFileWriter(snapshot, moment),
        )
        with closing(writer.write(state, None if before is None else known)) as written:
            found = dict(written)
        writer.finish(MOMENT)
        part.publish()
        if snapshot is not None:
            snapshot.publish()
    return found, writer


def tar(*arguments: str) -> str:
    finished = subprocess.run(["tar", *arguments], capture_output=True, text=True, check=True)
    assert finished.stderr == ""
    return finished.stdout


def extracted(folder: Path, *archives: Path, incremental: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    for archive in archives:
        tar("-x", *(["--incremental"] if incremental else []), "-f", str(archive), "-C", str(folder))
    return folder


@pytest.mark.parametrize("is_compressed", [False, True])
@pytest.mark.parametrize("is_series", [False, True])
def test_tar_extracts_what_the_site_has(
    tmp_path: Path, source: SourceBlobs, is_compressed: bool, is_series: bool
) -> None:
    path, series = tmp_path / "a.tar", tmp_path / "a.snar" if is_series else None
    found, writer = write(path, source, BLOBS, series=series, is_compressed=is_compressed)
    assert found == {each.key: each for each in entries(BLOBS)}
    assert (writer.copied, writer.copied_bytes) == (len(BLOBS), sum(map(len, BLOBS.values())))
    folder = extracted(tmp_path / "out", path)
    assert blobs_in(folder, source.layout) == BLOBS
    assert (folder / ".layout").read_text() == source.layout
    for each in BLOBS:
        live = os.stat(source.path_of(each))
        copy = os.stat(str(folder) + source.path_of(each)[len(str(source.root)) :])
        assert (copy.st_mode, int(copy.st_mtime), copy.st_uid) == (live.st_mode, int(live.st_mtime), live.st_uid)
    assert int(path.stat().st_mtime) == MOMENT
    with ArchiveContainer([path], tmp_path) as container:
        assert [one._replace(sha256="") for one in entries(BLOBS)] == list(container.blobs())
        assert container.layout == source.layout


def test_plain_tar_has_files_of_whole_records(tmp_path: Path, source: SourceBlobs) -> None:
    path = tmp_path / "a.tar"
    write(path, source, {})
    assert path.stat().st_size == 10240
    assert tar("-tf", str(path)).splitlines() == ["./", "./.layout"]


def test_a_series_brings_additions_and_deletions(tmp_path: Path, source: SourceBlobs) -> None:
    series = tmp_path / "a.snar"
    write(tmp_path / "0.tar", source, BLOBS, series=series)
    later = {**BLOBS, key(1, 3): b"new", key(9): b"in a new folder"}
    del later[key(1)], later[key(2**40 + 5)]
    put(source.root, source.layout, later)
    found, writer = write(tmp_path / "1.tar", source, later, entries(BLOBS), series=series)
    assert found == {each.key: each for each in entries(later)}
    assert writer.copied == 2
    names = tar("-tf", str(tmp_path / "1.tar")).splitlines()
    assert len([name for name in names if name.endswith(".blob")]) == 2
    assert "./.layout" not in names
    folder = extracted(tmp_path / "out", tmp_path / "0.tar", tmp_path / "1.tar", incremental=True)
    assert blobs_in(folder, source.layout) == later
    assert (folder / ".layout").exists()
    with ArchiveContainer([tmp_path / "0.tar", tmp_path / "1.tar"], tmp_path) as container:
        assert [one._replace(sha256="") for one in entries(later)] == list(container.blobs())


def test_tar_goes_on_with_a_series_of_ours(tmp_path: Path, source: SourceBlobs) -> None:
    series = tmp_path / "a.snar"
    write(tmp_path / "0.tar", source, BLOBS, series=series)
    later = {**BLOBS, key(1, 2**20): b"new", key(2**30): b"in a new folder"}
    put(source.root, source.layout, {each: later[each] for each in (key(1, 2**20), key(2**30))})
    os.unlink(source.path_of(key(2)))
    del later[key(2)]
    tar("-c", "-f", str(tmp_path / "1.tar"), f"--listed-incremental={series}", "-C", str(source.root), ".")
    names = tar("-tf", str(tmp_path / "1.tar")).splitlines()
    assert len([name for name in names if name.endswith(".blob")]) == 2
    folder = extracted(tmp_path / "out", tmp_path / "0.tar", tmp_path / "1.tar", incremental=True)
    assert blobs_in(folder, source.layout) == later


def test_we_go_on_with_a_series_of_tar(tmp_path: Path, source: SourceBlobs) -> None:
    series = tmp_path / "a.snar"
    tar("-c", "-f", str(tmp_path / "0.tar"), f"--listed-incremental={series}", "-C", str(source.root), ".")
    later = {**BLOBS, key(4): b"new"}
    put(source.root, source.layout, {key(4): b"new"})
    write(tmp_path / "1.tar", source, later, entries(BLOBS), series=series)
    put(source.root, source.layout, {key(5): b"newer"})
    os.unlink(source.path_of(key(4)))
    tar("-c", "-f", str(tmp_path / "2.tar"), f"--listed-incremental={series}", "-C", str(source.root), ".")
    archives = [tmp_path / f"{number}.tar" for number in range(3)]
    folder = extracted(tmp_path / "out", *archives, incremental=True)
    assert blobs_in(folder, source.layout) == {**BLOBS, key(5): b"newer"}
    with ArchiveContainer(archives, tmp_path) as container:
        assert [one.key for one in container.blobs()] == sorted({*BLOBS, key(5)})


def test_a_blob_that_is_not_listed_yet_is_new_to_tar(tmp_path: Path, source: SourceBlobs) -> None:
    """It lay there already when the archive was made, but its transaction came later."""
    series = tmp_path / "a.snar"
    before = {each: content for each, content in BLOBS.items() if each != key(1, 2)}
    write(tmp_path / "0.tar", source, before, series=series)
    tar("-c", "-f", str(tmp_path / "1.tar"), f"--listed-incremental={series}", "-C", str(source.root), ".")
    folder = extracted(tmp_path / "out", tmp_path / "0.tar", tmp_path / "1.tar", incremental=True)
    assert blobs_in(folder, source.layout) == BLOBS


def test_what_goes_away_meanwhile_is_told(tmp_path: Path, source: SourceBlobs) -> None:
    found, _ = write(tmp_path / "a.tar", source, {**BLOBS, key(77): b"gone"})
    assert found == {**{each.key: each for each in entries(BLOBS)}, key(77): None}
    assert blobs_in(extracted(tmp_path / "out", tmp_path / "a.tar"), source.layout) == BLOBS


def test_a_known_blob_of_another_size_is_written(tmp_path: Path, source: SourceBlobs) -> None:
    known = [*entries(BLOBS)[1:], entry(key(1), b"other")]
    found, writer = write(tmp_path / "a.tar", source, BLOBS, sorted(known))
    assert found == {each.key: each for each in entries(BLOBS)}
    assert writer.copied == 1
