"""GNU tar lists, compares, extracts and continues the archives that we write, and we go on from what it made."""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.interop.history import live_through
from tests.interop.test_repozo import by_repozo
from tests.interop.upstream import START, differences_from
from tests.layouts import IS_INCREMENTAL, LAYOUTS
from tests.site import Site, State, blob_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore")

ARCHIVES = [name for name, options in LAYOUTS.items() if "archive_blob" in options and "numbered" not in name]
DAYS = 5


def tar(*arguments: str | Path) -> str:
    """Run GNU tar, which has to succeed without a word on stderr; what it prints."""
    finished = subprocess.run(["tar", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, ""), finished.stdout + finished.stderr
    return finished.stdout


def archives(site: Site) -> list[Path]:
    """The archives of a location, oldest first."""
    return sorted(site.blob_location.glob("blobstorage.*.tar*"))


def series_up_to(found: list[Path], stamp: str) -> list[Path]:
    """The full archive and the deltas up to a timestamp, as upstream looks them up."""
    upto = [path for path in found if path.name <= f"blobstorage.{stamp}~"]
    first = max(number for number, path in enumerate(upto) if ".delta." not in path.name)
    return upto[first:]


def blobs_of(paths: list[Path]) -> set[str]:
    """The names of all blobs whose content is in some archives."""
    return {name for path in paths for name in tar("-tf", path).splitlines() if name.endswith(".blob")}


def assert_extracted(folder: Path, state: State, layout: str) -> None:
    found = {key: path.read_bytes() for key, path in blob_files(folder).items()}
    assert {key: found.get(key) for key in state.needed} == state.needed
    assert not found.keys() - state.blobs.keys()
    assert (folder / ".layout").read_text() == layout


def files_said_to_be_in(path: Path) -> set[str]:
    """The names of blobs that the listings of folders in an archive have as files of this archive (`Y`)."""
    lines = tar("--list", "--incremental", "--verbose", "--verbose", "-f", path).splitlines()
    return {line[2:] for line in lines if line.startswith("Y ") and line.endswith(".blob")}


@contextlib.contextmanager
def without_temporary_folder(blob_storage: Path) -> Iterator[None]:
    """ZODB's folder for what is not finished is not backed up, and a listing of a series tells all names."""
    modified = os.stat(blob_storage).st_mtime_ns
    away = blob_storage.with_name("away")
    (blob_storage / "tmp").rename(away)
    os.utime(blob_storage, ns=(modified, modified))
    yield
    away.rename(blob_storage / "tmp")
    os.utime(blob_storage, ns=(modified, modified))


@pytest.mark.parametrize("blobs", ["bushy", "lawn"])
@pytest.mark.parametrize("layout", ARCHIVES)
def test_tar_lists_compares_and_extracts_every_date(layout: str, blobs: str, tmp_path: Path) -> None:
    site = Site(tmp_path / "site", options=LAYOUTS[layout], layout=blobs, start=START)
    site.begin_with_a_blob()
    assert site.blob_storage is not None
    states = {}
    for _ in live_through(site, 11, DAYS):
        stamp, state = site.backed_up()
        states[stamp] = state
        newest = archives(site)[-1]
        # Names, sizes, contents, modes, owners and times: all as on the site.
        with without_temporary_folder(site.blob_storage):
            assert tar("--compare", "-f", newest, "-C", site.blob_storage) == ""
        on_site = {f"./{path.relative_to(site.blob_storage)}" for path in blob_files(site.blob_storage).values()}
        if layout in IS_INCREMENTAL:
            assert files_said_to_be_in(newest) == {os.path.basename(name) for name in blobs_of([newest])}
        assert blobs_of([newest]) == on_site - blobs_of(series_up_to(archives(site), stamp)[:-1])
    site.close()
    assert len([path for path in archives(site) if ".delta." in path.name]) == (3 if layout in IS_INCREMENTAL else 0)
    for stamp, state in states.items():
        folder = tmp_path / stamp
        folder.mkdir()
        series = series_up_to(archives(site), stamp)
        for each in series:
            # As upstream does: a single archive without the option.
            tar("-xf", each, *(["--incremental"] if len(series) > 1 else []), "-C", folder)
        assert_extracted(folder, state, blobs)


@pytest.mark.parametrize("blobs", ["bushy", "lawn"])
def test_a_full_archive_of_a_series_extracts_either_way(blobs: str, tmp_path: Path) -> None:
    site = Site(tmp_path / "site", options=LAYOUTS["incremental archives"], layout=blobs, start=START)
    site.begin_with_a_blob()
    site.commit_blobs(5)
    _, state = site.backed_up()
    site.close()
    for number, options in enumerate(([], ["--incremental"])):
        folder = tmp_path / str(number)
        folder.mkdir()
        tar("-xf", archives(site)[0], *options, "-C", folder)
        assert_extracted(folder, state, blobs)


@pytest.mark.parametrize("layout", ["incremental archives", "compressed incremental archives"])
@pytest.mark.parametrize("blobs", ["bushy", "lawn"])
def test_tar_continues_our_series_and_we_go_on(layout: str, blobs: str, tmp_path: Path) -> None:
    site = Site(tmp_path / "site", options=LAYOUTS[layout], layout=blobs, start=START)
    assert site.blob_storage is not None
    site.begin_with_a_blob()
    site.commit_blobs(6)
    states = dict([site.backed_up()])
    (first,) = states
    snapshot_file = site.blob_location / f"blobstorage.{first}.snar"
    suffix = ".delta.tar.gz" if "compressed" in layout else ".delta.tar"
    for turn in range(6):
        site.commit_blobs(2)
        if turn % 2:
            stamp, state = site.backed_up()
        else:
            arguments = ("-B", "-z", "-Q", "-r", str(site.location), "-f", str(site.datafs))
            stamp, state = by_repozo(site, *arguments)
            create = "-czf" if suffix.endswith("gz") else "-cf"
            tar(
                create,
                site.blob_location / f"blobstorage.{stamp}{suffix}",
                f"--listed-incremental={snapshot_file}",
                "-C",
                site.blob_storage,
                ".",
            )
        states[stamp] = state
    site.close()
    found = archives(site)
    assert [path.name for path in found[1:]] == [f"blobstorage.{stamp}{suffix}" for stamp in list(states)[1:]]
    # None has a blob that an earlier one has: each of the two understood the snapshot file of the other.
    for number, path in enumerate(found):
        assert not blobs_of([path]) & blobs_of(found[:number]), path
        assert blobs_of([path]), path
    for number, (stamp, state) in enumerate(states.items()):
        folder = tmp_path / stamp
        folder.mkdir()
        for each in found[: number + 1]:
            tar("-xf", each, "--incremental", "-C", folder)
        assert_extracted(folder, state, blobs)
        site.restore(stamp)
        assert differences_from(site, state) == []
