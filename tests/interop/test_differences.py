"""Each row of the table of intended differences, shown with both programs: a row that is not true any more fails."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import time
from typing import TYPE_CHECKING

import pytest
import zc.lockfile
from benchmarks.environments import OURS, THEIRS

from tests.interop.differences import DIFFERENCES, MORE_SCRIPTS, rst_table
from tests.interop.sides import Side, Sides
from tests.interop.upstream import LATER_BY, differences_from, run_buildout
from tests.site import Site, blob_files, seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("upstream")]

difference = pytest.mark.difference

NUMBERED = {"blob_timestamps": "false"}
SERIES = {"archive_blob": "true", "incremental_blobs": "true"}


@pytest.fixture(scope="module")
def made() -> dict[str, Sides]:
    return {}


@pytest.fixture
def sides(made: dict[str, Sides], tmp_path_factory: pytest.TempPathFactory, upstream: None) -> Callable[..., Sides]:
    """Two sites with these options; their buildouts are made once."""

    def begun(**options: str) -> Sides:
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = Sides(tmp_path_factory.mktemp("sides"), options)
            for side in made[key].both:
                assert side.made.returncode == 0, side.made.stdout
        else:
            made[key].begin()
        return made[key]

    return begun


def test_each_row_is_shown_by_a_test() -> None:
    tests = [value for name, value in vars(sys.modules[__name__]).items() if name.startswith("test_")]
    shown = [mark.args[0] for test in tests for mark in getattr(test, "pytestmark", ()) if mark.name == "difference"]
    assert sorted(shown) == sorted(DIFFERENCES)


def test_the_table_is_a_table_of_restructuredtext() -> None:
    from docutils.core import publish_doctree

    document = publish_doctree(rst_table(), settings_overrides={"report_level": 1, "halt_level": 1})
    (table,) = document.children
    rows = list(table.findall(lambda node: node.tagname == "row"))
    assert [next(cell.astext() for cell in row) for row in rows[1:]] == [
        row.when.replace("``", "").replace("*", "") for row in DIFFERENCES.values()
    ]
    assert {len(row) for row in rows} == {4}


def lose_half(side: Side, folder: Path) -> None:
    for path in list(blob_files(folder).values())[::2]:
        path.unlink()


def blob_storage(side: Side) -> Path:
    assert side.site.blob_storage is not None
    return side.site.blob_storage


def give_folders_other_inodes(folder: Path) -> None:
    """Let each folder of blobs have the inode of another one, as a restore may do that makes all of them anew."""
    files = list(folder.rglob("*.blob"))
    folders = sorted({path.parent for path in files})
    for number, path in enumerate(files):
        path.rename(folder / f"file {number}")
    for number, path in enumerate(folders):
        path.rename(folder / f"folder {number}")
    for number, path in enumerate(folders):
        (folder / f"folder {(number + 1) % len(folders)}").rename(path)
    for number, path in enumerate(files):
        (folder / f"file {number}").rename(path)


# What is there


@difference("more scripts")
def test_more_scripts(sides: Callable[..., Sides]) -> None:
    both = sides()
    assert both.ours.scripts - both.theirs.scripts == {f"backup-{name}" for name in MORE_SCRIPTS}
    assert both.theirs.scripts <= both.ours.scripts


@difference("pool")
def test_pool(sides: Callable[..., Sides]) -> None:
    both = sides()
    names = [(side.backup()[0], set(os.listdir(side.blob_location))) for side in both.both]
    assert names[0][1] == {f"blobstorage.{names[0][0]}", "latest"}
    assert names[1][1] == {f"{names[1][0]}.blobs.gz", "blobs", ".zodbvault.id", ".zodbvault.lock"}


@difference("index")
def test_index(sides: Callable[..., Sides]) -> None:
    both = sides()
    both.backups(3)
    indexes = [[name for name in side.site.names() if name.endswith(".index")] for side in both.both]
    assert [len(names) for names in indexes] == [3, 1]


# Questions, arguments and exit codes


@difference("no")
def test_no(sides: Callable[..., Sides]) -> None:
    both = sides()
    both.backups()
    before = [side.site.data for side in both.both]
    assert both.codes("restore", answer="no\n") == (0, 1)
    assert [side.site.data for side in both.both] == before
    assert both.codes("restore", answer="yes\n") == (0, 0)


@difference("unreadable date")
def test_unreadable_date(sides: Callable[..., Sides]) -> None:
    both = sides()
    both.backups()
    assert both.codes("restore", "-n", "yesterday") == (1, 2)


@difference("more arguments")
def test_more_arguments(sides: Callable[..., Sides]) -> None:
    both = sides()
    assert both.codes("backup", "2026-11-23") == (0, 2)
    assert [side.site.names() != [] for side in both.both] == [True, False]


# Several programs at one time


@difference("two at once")
def test_two_at_once(sides: Callable[..., Sides]) -> None:
    both = sides()
    both.backups()
    codes = []
    for side in both.both:
        side.site.commit_blobs()
        with (side.site.location / ".zodbvault.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            codes.append(side.code("backup"))
    assert codes == [0, 75]


@difference("running site")
def test_running_site(sides: Callable[..., Sides]) -> None:
    both = sides()
    both.backups()
    found = []
    for side in both.both:
        side.site.commit_pages()
        side.site.close()
        before = side.site.data
        lock = zc.lockfile.LockFile(f"{side.site.datafs}.lock")
        code = side.code("restore", "-n")
        lock.close()
        found.append((code, side.site.data == before))
    assert found == [(0, False), (1, True)]


# What goes wrong


@difference("blobs not copied")
def test_blobs_not_copied(sides: Callable[..., Sides]) -> None:
    both = sides()
    for side in both.both:
        blob_storage(side).rename(side.folder / "var/away")
    assert both.codes("backup") == (0, 1)
    theirs, ours = both.both
    assert len(theirs.site.timestamps()) == 1
    assert ours.site.timestamps() == []
    assert not blob_files(theirs.blob_location)


@difference("blob lost")
def test_blob_lost(sides: Callable[..., Sides]) -> None:
    both = sides()
    outputs = []
    for side in both.both:
        lost = next(iter(blob_files(blob_storage(side)).values()))
        lost.unlink()
        finished = side.run("backup", "-q")
        outputs.append((finished.returncode, lost.name in finished.stdout))
    assert outputs == [(0, False), (0, True)]


@difference("space in a path")
def test_space_in_a_path(tmp_path: Path) -> None:
    both = Sides(tmp_path, {}, blobs="blob storage")
    assert both.codes("backup") == (0, 0)
    theirs, ours = both.both
    assert blob_files(theirs.blob_location) == {}
    assert blob_files(ours.blob_location / "blobs").keys() == ours.site.blobs.keys() != set()


@difference("rsync_options")
def test_rsync_options(sides: Callable[..., Sides]) -> None:
    both = sides(rsync_options="--chmods=D700")
    theirs, ours = both.both
    assert ("--chmods" in theirs.made.stdout, "--chmods" in ours.made.stdout) == (False, True)
    assert both.codes("backup") == (0, 0)
    assert blob_files(theirs.blob_location) == {}
    assert blob_files(ours.blob_location / "blobs").keys() == ours.site.blobs.keys() != set()


@difference("half a copy")
def test_half_a_copy(sides: Callable[..., Sides]) -> None:
    both = sides(blob_layout="directories")
    both.backups()
    found = []
    for side in both.both:
        state = side.site.state()
        (directory,) = side.blob_location.glob("blobstorage.*")
        lose_half(side, directory / "blobstorage")
        codes = side.code("backup"), side.code("restore", "-n")
        found.append((codes, differences_from(side.site, state) == []))
    assert found == [((0, 0), False), ((0, 0), True)]


@difference("killed before the .dat")
def test_killed_before_the_dat(sides: Callable[..., Sides]) -> None:
    both = sides()
    found = []
    for side in both.both:
        first, _ = side.backup()
        dat = side.site.location / f"{first}.dat"
        before = dat.read_bytes()
        side.site.commit_blobs(2)
        side.backup()
        dat.write_bytes(before)
        side.site.commit_blobs(2)
        _, state = side.backup()
        found.append((side.code("restore", "-n"), side.site.datafs.read_bytes() == state.data))
    assert found == [(0, False), (0, True)]


@difference("damaged backup")
def test_damaged_backup(sides: Callable[..., Sides]) -> None:
    both = sides()
    found = []
    for side in both.both:
        stamp, state = side.backup()
        full = side.site.location / f"{stamp}.fsz"
        full.write_bytes(full.read_bytes()[:-30])
        code = side.code("restore", "-n")
        found.append((code, side.site.datafs.exists() and side.site.datafs.read_bytes() == state.data))
    assert found == [(1, False), (1, True)]


@difference("blobs not restored")
def test_blobs_not_restored(sides: Callable[..., Sides]) -> None:
    both = sides(blob_layout="directories")
    found = []
    for side in both.both:
        side.backup()
        (directory,) = side.blob_location.glob("blobstorage.*")
        shutil.rmtree(directory / "blobstorage")
        for path in blob_files(blob_storage(side)).values():
            path.unlink()
        side.site.commit_pages()
        side.site.close()
        before = side.site.data
        found.append((side.code("restore", "-n"), side.site.data == before))
    assert found == [(0, False), (1, True)]


# Restores


@difference("numbered date")
def test_numbered_date(sides: Callable[..., Sides]) -> None:
    both = sides(**NUMBERED)
    found = []
    for side in both.both:
        states = []
        for _ in range(2):
            side.site.commit_blobs(2)
            stamp, state = side.backup()
            states.append((stamp, state))
            if side.whose == THEIRS:
                moment = seconds(stamp) + LATER_BY
                os.utime(side.blob_location / "blobstorage.0", (moment, moment))
        codes, good = [], []
        for stamp, state in reversed(states):
            codes.append(side.code("restore", "-n", stamp))
            good.append(differences_from(side.site, state) == [])
        found.append((codes, good))
    assert found == [([0, 1], [False, False]), ([0, 0], [True, True])]


# What upstream gets wrong there depends on chance, so that a usual run would fail now and then.
@pytest.mark.interop_full
@difference("series after a restore")
def test_series_after_a_restore(sides: Callable[..., Sides]) -> None:
    both = sides(**SERIES)
    found = []
    for side in both.both:
        side.site.commit_blobs(8)
        side.backup()
        for _ in range(2):
            # No real restore: whether the file system gives its folders inodes of folders that went is chance.
            give_folders_other_inodes(blob_storage(side))
            side.site.commit_blobs(3)
            stamp, state = side.backup()
        code = side.code("restore", "-n", stamp)
        found.append((code, differences_from(side.site, state) == []))
    assert found == [(1, False), (0, True)]


@difference("stale index")
def test_stale_index(sides: Callable[..., Sides]) -> None:
    both = sides()
    found = []
    for side in both.both:
        stamp, _ = side.backup()
        (side.site.location / f"{stamp}.index").unlink()
        side.site.commit_pages(5)
        side.site.close()
        index = side.site.datafs.with_name("Data.fs.index")
        before = index.read_bytes()
        assert side.code("restore", "-n") == 0
        found.append(index.exists() and index.read_bytes() == before)
    assert found == [True, False]


@difference("mode of Data.fs")
def test_mode_of_data_fs(sides: Callable[..., Sides]) -> None:
    both = sides()
    both.backups()
    modes = []
    for side in both.both:
        side.site.datafs.chmod(0o600)
        assert side.code("restore", "-n") == 0
        modes.append(side.site.datafs.stat().st_mode & 0o777)
    assert modes[0] != 0o600
    assert modes[1] == 0o600


# What is removed


@difference("prune by time")
def test_prune_by_time(sides: Callable[..., Sides]) -> None:
    both = sides(full="true")
    left = []
    for side in both.both:
        for _ in range(2):
            side.site.commit_pages()
            assert side.code("backup") == 0
        # A copy, in which what is older happens to come last.
        for number, path in enumerate(sorted(side.site.location.iterdir(), reverse=True)):
            moment = time.time() - 1000 + number
            os.utime(path, (moment, moment))
        before = side.site.timestamps()
        side.site.commit_pages()
        assert side.code("backup") == 0
        left.append([number for number, stamp in enumerate(before) if stamp in side.site.timestamps()])
    assert left == [[0], [1]]


@difference("folder in a location")
def test_folder_in_a_location(sides: Callable[..., Sides]) -> None:
    both = sides(full="true")
    found = []
    for side in both.both:
        codes = []
        for _ in range(3):
            side.site.commit_pages()
            codes.append(side.code("backup"))
            folder = side.site.location / "notes"
            folder.mkdir(exist_ok=True)
            os.utime(folder, (1, 1))
        found.append((codes, folder.is_dir()))
    assert found == [([0, 0, 1], True), ([0, 0, 0], True)]


@difference("nothing new, numbered")
def test_nothing_new_numbered(sides: Callable[..., Sides]) -> None:
    both = sides(**NUMBERED)
    both.backups()
    assert both.codes("backup") == (0, 0)
    names = [{path.name for path in side.blob_location.glob("blobstorage.*")} for side in both.both]
    assert names == [{"blobstorage.0", "blobstorage.1"}, {"blobstorage.0"}]


# Buildout


@difference("retired options")
def test_retired_options(tmp_path: Path) -> None:
    options = {"additional_filestorages": "Catalog", "gzip": "true", "kepe": "3"}
    both = Sides(tmp_path, options)
    assert [side.made.returncode for side in both.both] == [0, 0]
    theirs, ours = (side.made.stdout for side in both.both)
    (unused,) = (line for line in theirs.splitlines() if "gzip" in line)
    assert "nused option" in unused
    for name, hint in (
        ("additional_filestorages", "Write a part of its own"),
        ("gzip", "Remove this option"),
        ("kepe", "keep?"),
    ):
        assert [line for line in ours.splitlines() if name in line and hint in line], ours
        assert hint not in theirs


@difference("impossible value")
def test_impossible_value(tmp_path: Path) -> None:
    both = Sides(tmp_path, {"keep": "two"})
    assert [side.made.returncode for side in both.both] == [0, 1]
    assert "NameError" in both.theirs.run("backup").stdout
    assert "keep: 'two' is not a whole number" in both.ours.made.stdout


@difference("shared places")
@pytest.mark.parametrize(
    "second",
    [
        {"datafs": "var/Catalog.fs", "blob_storage": "var/blobs2", "location": "var/backups"},
        {"datafs": "var/Catalog.fs", "blob_storage": "var/blobstorage"},
    ],
    ids=["one location", "one blob storage"],
)
def test_shared_places(second: dict[str, str], tmp_path: Path) -> None:
    first = {"datafs": "var/filestorage/Data.fs", "blob_storage": "var/blobstorage"}
    codes = []
    for whose, recipe in ((THEIRS, "collective.recipe.backup"), (OURS, "zodbvault")):
        folder = tmp_path / whose
        lines = ["[catalog]", f"recipe = {recipe}", *(f"{name} = {value}" for name, value in second.items())]
        text = "\n".join(lines).replace("var/", f"{folder}/var/")
        options = {name: value.replace("var/", f"{folder}/var/") for name, value in first.items()}
        codes.append(run_buildout(whose, folder, options, more=text, parts="catalog").returncode)
    assert codes == [0, 1]


@difference("environment")
def test_environment(sides: Callable[..., Sides]) -> None:
    both = sides(
        pre_command="env > HERE/pre",
        post_command="env > HERE/post",
    )
    both.backups()
    found = [
        {
            line.split("=")[0]
            for name in ("pre", "post")
            for line in (side.folder / name).read_text().splitlines()
            if line.startswith("ZODBVAULT_RUN_")
        }
        for side in both.both
    ]
    assert found == [
        set(),
        {"ZODBVAULT_RUN_COMMAND", "ZODBVAULT_RUN_LOCATION", "ZODBVAULT_RUN_TIMESTAMP"},
    ]


def test_what_is_compared_is_a_site(sides: Callable[..., Sides]) -> None:
    """Both sides begin with a site that ZODB reads, so that no row is true because of an empty one."""
    for side in sides().both:
        assert isinstance(side.site, Site)
        assert side.site.read_everything() > 5
        side.site.close()
        assert shutil.which("rsync")
