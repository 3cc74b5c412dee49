"""An archive of blobs: GNU tar lists it, extracts it and continues it; what was there before is named, not written."""

from __future__ import annotations

import errno
import os
import subprocess
import tarfile
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

from tests.blobs.sites import blobs_in, entries, entry, key, put
from tests.leaks import no_descriptor_left
from zodbvault.blobs import archive_writer
from zodbvault.blobs.archive_writer import ArchiveWriter, header_of
from zodbvault.blobs.archives import ArchiveContainer
from zodbvault.blobs.snapshot_file import SnapshotFileWriter
from zodbvault.blobs.source import SourceBlobs
from zodbvault.blobs.wanted import StateList
from zodbvault.errors import ZodbvaultError
from zodbvault.io.durable import PartFile, WholeFile

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
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


def extracted(folder: Path, *archives: Path, incremental: bool = False, more: tuple[str, ...] = ()) -> Path:
    folder.mkdir(exist_ok=True)
    for archive in archives:
        tar("-x", *(["--incremental"] if incremental else []), "-f", str(archive), "-C", str(folder), *more)
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


@pytest.mark.parametrize("is_series", [False, True])
def test_times_that_no_octal_digits_hold_come_back_from_tar(
    tmp_path: Path, source: SourceBlobs, is_series: bool
) -> None:
    """A clock that was set back to before 1970, and one that stood far ahead."""
    moments = dict(zip(sorted(BLOBS), (-86_400, 8**11 + 5, 0, 1), strict=True))
    for blob, moment in moments.items():
        os.utime(source.path_of(blob), (moment, moment))
    path, series = tmp_path / "a.tar", tmp_path / "a.snar" if is_series else None
    found, _ = write(path, source, BLOBS, series=series)
    assert found == {each.key: each for each in entries(BLOBS)}
    folder = extracted(tmp_path / "out", path, incremental=is_series, more=("--warning=no-timestamp",))
    assert blobs_in(folder, source.layout) == BLOBS
    copies = {blob: str(folder) + source.path_of(blob)[len(str(source.root)) :] for blob in BLOBS}
    assert {blob: int(os.stat(copy).st_mtime) for blob, copy in copies.items()} == moments
    with ArchiveContainer([path], tmp_path) as container:
        assert [one._replace(sha256="") for one in entries(BLOBS)] == list(container.blobs())


@pytest.mark.parametrize("in_series", [False, True])
@pytest.mark.parametrize(("uid", "gid"), [(3_000_000, 100), (1000, 4_000_000_000)])
def test_users_of_a_directory_service_have_large_numbers(tmp_path: Path, uid: int, gid: int, in_series: bool) -> None:
    path = tmp_path / "a.tar"
    status, usual = (
        os.stat_result((0o100444, 1, 1, 1, *owner, 3, MOMENT, MOMENT, MOMENT)) for owner in ((uid, gid), (1000, 1000))
    )
    name = "./0x00/0x03e8000000000001.blob"
    header = header_of(name, status, tarfile.REGTYPE, 3, in_series=in_series)
    # The times of access and of change, which GNU tar looks for in a series.
    assert header[345:369] == header_of(name, usual, tarfile.REGTYPE, 3, in_series=in_series)[345:369]
    path.write_bytes(header + b"abc".ljust(512, b"\0") + bytes(1024))
    listed = tar("--numeric-owner", "-tvf", str(path)).split()
    assert listed[0] == "-r--r--r--"
    assert listed[1:3] == [f"{uid}/{gid}", "3"]
    assert listed[-1] == name


def test_a_blob_that_becomes_shorter_while_it_is_archived_is_not_taken(
    tmp_path: Path, source: SourceBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header has told its size; what follows it has to stand where tar looks for it all the same."""
    large = key(2**40 + 5)
    original = archive_writer.blocks_of

    def cut_before_reading(fd: int) -> Iterator[bytes]:
        if os.fstat(fd).st_size == len(BLOBS[large]):
            os.truncate(source.path_of(large), 1_200_000)
        return original(fd)

    monkeypatch.setattr(archive_writer, "blocks_of", cut_before_reading)
    path = tmp_path / "a.tar"
    found, writer = write(path, source, BLOBS)
    assert found == {each.key: None if each.key == large else each for each in entries(BLOBS)}
    assert writer.copied == len(BLOBS) - 1
    folder = extracted(tmp_path / "out", path)
    assert blobs_in(folder, source.layout).keys() == BLOBS.keys()


def test_a_disk_that_is_full_is_told_with_the_name_of_the_archive(
    tmp_path: Path, source: SourceBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: WholeFile, data: bytes, /) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.name))

    # The manifest is written to the same disk, and is not what is looked at here.
    monkeypatch.setattr(WholeFile, "write", refuse)
    with pytest.raises(ZodbvaultError, match="the archive of blobs cannot be written: No space left") as caught:
        write(tmp_path / "a.tar", source, BLOBS)
    assert caught.value.path is not None
    assert not (tmp_path / "a.tar").exists()
    assert not (tmp_path / "a.tar.part").exists()
