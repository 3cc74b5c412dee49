"""Space: what is needed is said before a command begins, too little stops it, a disk that fills costs nothing."""

from __future__ import annotations

import os
import re
import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.file_systems import fill, mounted
from tests.layouts import LAYOUTS
from tests.site import Site, tree
from tests.tour import ALL_LAYOUTS, InProcess, good
from zodbvault.io import space
from zodbvault.io.sizes import size_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.site import State
    from tests.tour import Ended, Runner

LOCKS = (".zodbvault.lock", "Data.fs.lock")
NEEDED = re.compile(r"Space for (.*): about (.*) needed, (.*) free at (.*)\.$", re.MULTILINE)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Runs commands in this process."""
    return InProcess(monkeypatch)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    with mounted(tmp_path / "disk", "4m") as folder:
        yield folder


def site_with(tmp_path: Path, layout: str) -> Site:
    """A site with pages and blobs that do not get smaller, and every script."""
    site = Site(tmp_path / "site", options={"enable_zipbackup": "true", **(ALL_LAYOUTS.get(layout) or LAYOUTS[layout])})
    site.commit_pages(40, size=3000)
    site.commit_blobs(8, size=60_000)
    return site


def put_backups_on(disk: Path, site: Site) -> None:
    """Let all backups of a site go to a disk."""
    for name in ("location", "blobbackuplocation", "snapshotlocation", "blobsnapshotlocation"):
        site.options[name] = str(disk / name)
    site.options |= {"ziplocation": str(disk / "zip"), "blobziplocation": str(disk / "blobzip")}


def nothing_half_done(*folders: Path) -> bool:
    """Whether there is no file that a run has not finished, nor one that stands for it."""
    names = [name for folder in folders for _, below, files in os.walk(folder) for name in (*below, *files)]
    return not [name for name in names if name.endswith((".part", ".restoring", ".replaced", ".orphan", ".pruned"))]


def blobs_on(disk: Path) -> set[Path]:
    """All blobs in pools on a disk."""
    return {path for path in disk.rglob("*.blob") if "blobs" in path.parts}


def manifests_on(disk: Path) -> set[Path]:
    """All manifests on a disk."""
    return set(disk.rglob("*blobs.gz"))


def unfinished(err: str, site: Site) -> str | None:
    """The timestamp of a backup that lacked nothing but its line in the `.dat` when the disk was full."""
    return site.timestamps()[-1] if ".dat.part: the backup cannot be written" in err else None


def refused(run_: Runner, site: Site, name: str, *arguments: str) -> Ended:
    """Run a command that has to fail with one clear line."""
    ended = run_(site, name, *arguments)
    assert ended.code == 1, ended.err
    assert "Traceback" not in ended.err
    assert "bug" not in ended.err
    assert ended.err.count("ERROR: ") == 1, ended.err
    return ended


# Said before


def bytes_of(text: str) -> float:
    """The bytes that a text for people stands for."""
    number, unit = text.split()
    return float(number) * {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_what_is_needed_and_what_is_free_is_said(tmp_path: Path, layout: str, run: Runner) -> None:
    site = site_with(tmp_path, layout)
    site.close()
    for name, location in (
        ("backup", "location"),
        ("snapshotbackup", "snapshotlocation"),
        ("zipbackup", "ziplocation"),
    ):
        said = NEEDED.findall(good(run, site, name).err)
        assert said[0][0] == "the data of this backup"
        assert said[0][3] == str(getattr(site.settings, location))
        assert "blobs" in said[1][0]
        assert bytes_of(said[1][1]) >= sum(map(len, site.blobs.values()))
        free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
        assert bytes_of(said[0][2]) == pytest.approx(free, rel=0.2)
    assert not NEEDED.search(good(run, site, "backup").err)
    site.commit_blobs(1, size=60_000)
    site.close()
    assert [what for what, *_ in NEEDED.findall(good(run, site, "backup").err)] == [
        "the data of this backup",
        "the blobs of this backup",
    ]
    state = site.state()
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    said = NEEDED.findall(good(run, site, "restore", "-n").err)
    assert [(what, needed) for what, needed, *_ in said] == [
        ("a second Data.fs, Data.fs.restoring", size_text(len(state.data))),
        (
            f"{len(state.blobs)} blobs that the site lacks and the new Data.fs",
            size_text(len(state.data) + sum(map(len, state.blobs.values()))),
        ),
    ]
    for name in ("backup", "snapshotbackup", "zipbackup", "restore"):
        assert good(run, site, name, "-q", *(["-n"] if name == "restore" else [])).err == ""


# Too little


class Way(NamedTuple):
    """A command, what it needs the disk for, and what stands on the disk."""

    name: str
    arguments: tuple[str, ...] = ()


BACKUPS = [Way("backup"), Way("backup", ("--full",)), Way("snapshotbackup"), Way("zipbackup")]


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
@pytest.mark.parametrize("way", BACKUPS, ids=lambda way: "".join((way.name, *way.arguments)))
@pytest.mark.parametrize("room", [0, 30_000, 100_000])
def test_too_little_space_for_a_backup_is_told_before_anything_is_written(
    tmp_path: Path, disk: Path, way: Way, layout: str, room: int, run: Runner
) -> None:
    site = site_with(tmp_path, layout)
    put_backups_on(disk, site)
    first, state = site.backed_up()
    # So that it is known how much smaller the data get.
    site.snapshot()
    site.zipbackup()
    site.commit_pages(40, size=3000)
    site.commit_blobs(8, size=60_000, names=400)
    site.close()
    ballast = fill(disk, leave=room)
    before = tree(disk, ignore=LOCKS)
    error = refused(run, site, way.name, *way.arguments).err
    assert "not enough space for the" in error
    assert re.search(
        r": [\d,]+ bytes are needed, [\d,]+ are free\. Nothing was changed\. Make room for [\d,]+ bytes", error
    )
    assert files_of(tree(disk, ignore=LOCKS)) == files_of(before)
    good(run, site, "restore", "-n", first)
    site.assert_is(state)
    site.close()
    ballast.unlink()
    good(run, site, way.name, *way.arguments)
    good(run, site, "backup-verify", "--all")


def files_of(entries: dict[str, tuple[int, int, int]]) -> dict[str, tuple[int, int, int]]:
    """The files of a tree: a folder's time changes with what goes again."""
    return {path: status for path, status in entries.items() if not os.path.isdir(path)}


RESTORES = [
    Way("restore", ("-n",)),
    Way("snapshotrestore", ("-n",)),
    Way("ziprestore", ("-n",)),
    Way("restore", ("--to",)),
    Way("backup-drill"),
]
"""Ways to restore; the place of the last two is made when they run."""


def moved_to(disk: Path, site: Site) -> None:
    """Let the site itself stand on a disk."""
    site.close()
    shutil.copytree(site.var, disk / "var")
    shutil.rmtree(site.var)
    site.var.symlink_to(disk / "var")


def arguments_of(way: Way, disk: Path) -> tuple[str, ...]:
    """The arguments of a way to restore, with a place on the disk that is too small."""
    return (*way.arguments, str(disk / "copy")) if way.arguments == ("--to",) else way.arguments


@pytest.fixture
def restorable(tmp_path: Path, disk: Path, request: pytest.FixtureRequest) -> tuple[Site, State]:
    """A site on a small disk whose backups are elsewhere, and the state that each of them brings back.

    It has lost half of its blobs since, and a restore has to bring 300 kB.
    """
    site = site_with(tmp_path, request.param)
    put_backups_on(tmp_path / "backups", site)
    _, state = site.backed_up()
    site.snapshot()
    site.zipbackup()
    site.commit_pages(3)
    site.commit_blobs(1)
    moved_to(disk, site)
    assert site.blob_storage is not None
    for path in sorted(site.blob_storage.rglob("*.blob"))[::2]:
        path.unlink()
    return site, state


@pytest.mark.parametrize("restorable", ALL_LAYOUTS, indirect=True)
@pytest.mark.parametrize("way", RESTORES, ids=lambda way: "".join((way.name, *way.arguments)))
@pytest.mark.parametrize("room", [8_000, 150_000])
def test_too_little_space_for_a_restore_is_told_before_anything_is_changed(
    restorable: tuple[Site, State], disk: Path, way: Way, room: int, run: Runner
) -> None:
    site, state = restorable
    ballast = fill(disk, leave=room)
    before = tree(disk, ignore=LOCKS)
    error = refused(run, site, way.name, *arguments_of(way, disk)).err
    assert "not enough space for" in error
    assert re.search(
        r": [\d,]+ bytes are needed, [\d,]+ are free\. Nothing was changed\. Make room for [\d,]+ bytes", error
    )
    assert files_of(tree(disk, ignore=LOCKS)) == files_of(before)
    assert nothing_half_done(disk)
    ballast.unlink()
    good(run, site, way.name, *arguments_of(way, disk))
    if "-n" in way.arguments:
        site.assert_is(state)
        site.close()


# Full in the middle


@pytest.fixture
def unforeseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else takes the space while a command runs: what it found free is not there when it writes."""
    monkeypatch.setattr(space, "free_bytes", lambda path: space.UNKNOWN)


@pytest.mark.usefixtures("unforeseen")
@pytest.mark.parametrize("layout", ALL_LAYOUTS)
@pytest.mark.parametrize("way", BACKUPS, ids=lambda way: "".join((way.name, *way.arguments)))
def test_a_disk_that_fills_during_a_backup(tmp_path: Path, disk: Path, way: Way, layout: str, run: Runner) -> None:
    site = site_with(tmp_path, layout)
    put_backups_on(disk, site)
    first, state = site.backed_up()
    site.snapshot()
    site.zipbackup()
    stamps = site.timestamps()
    site.commit_pages(40, size=3000)
    site.commit_blobs(8, size=60_000, names=400)
    site.close()
    later = site.state()
    failed = freed = 0
    manifests, blobs = manifests_on(disk), blobs_on(disk)
    for room in range(0, 800_000, 20_000):
        ballast = fill(disk, leave=room)
        ended = run(site, way.name, *way.arguments)
        if ended.code == 0:
            break
        failed += 1
        assert ended.code == 1
        assert "No space left on device" in ended.err
        assert ended.err.count("ERROR: ") == 1, ended.err
        assert "Traceback" not in ended.err
        assert nothing_half_done(disk), ended.err
        # Where its manifest stands already only small files were lacking, and the next run sees to it.
        if manifests_on(disk) == manifests:
            assert blobs_on(disk) == blobs
            freed += "that this run had copied" in ended.err
        # One that lacks nothing but its line gets it from the next run.
        assert set(stamps) <= set(site.timestamps()) <= {*stamps, unfinished(ended.err, site)}
        ballast.unlink()
    assert failed > 3
    # An incremental has so few blobs here that none gets its name before the disk is full.
    assert freed or layout != "pool" or way.name == "zipbackup" or way == Way("backup")
    good(run, site, "backup-verify", "--all", "--deep")
    ballast.unlink()
    good(run, site, "backup")
    good(run, site, "backup-verify", "--all", "--deep")
    good(run, site, "restore", "-n", first)
    site.assert_is(state)
    site.close()
    good(run, site, "restore", "-n")
    site.assert_is(later)


@pytest.mark.usefixtures("unforeseen")
@pytest.mark.parametrize("restorable", ALL_LAYOUTS, indirect=True)
@pytest.mark.parametrize("way", RESTORES, ids=lambda way: "".join((way.name, *way.arguments)))
def test_a_disk_that_fills_during_a_restore(restorable: tuple[Site, State], disk: Path, way: Way, run: Runner) -> None:
    site, state = restorable
    live = (site.data, site.blobs)
    failed = 0
    for room in range(0, 800_000, 20_000):
        ballast = fill(disk, leave=room)
        ended = run(site, way.name, *arguments_of(way, disk))
        ballast.unlink()
        if ended.code == 0:
            break
        failed += 1
        assert ended.code == 1
        assert "No space left on device" in ended.err
        assert ended.err.count("ERROR: ") == 1, ended.err
        assert "Traceback" not in ended.err
        assert nothing_half_done(disk), ended.err
        assert site.data == live[0]
        if "-n" in way.arguments:
            assert re.search(r"Data.fs was not touched|Nothing was changed|not restored", ended.err), ended.err
        # Blobs that were added do no harm.
        assert live[1].items() <= site.blobs.items()
        assert not (disk / "copy").exists()
    assert failed > 3
    if "-n" in way.arguments:
        site.assert_is(state)
        site.close()
    good(run, site, "restore", "-n")
    site.assert_is(state)
    site.close()


@pytest.mark.usefixtures("unforeseen")
@pytest.mark.parametrize("restorable", ALL_LAYOUTS, indirect=True)
def test_a_disk_that_fills_while_blobs_are_added_to_a_site_that_had_nothing(
    restorable: tuple[Site, State], disk: Path, run: Runner
) -> None:
    site, state = restorable
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    site.datafs.unlink()
    said = set()
    for room in range(0, 800_000, 20_000):
        ballast = fill(disk, leave=room)
        ended = run(site, "restore", "-n")
        ballast.unlink()
        if ended.code == 0:
            break
        assert ended.code == 1
        assert "No space left on device" in ended.err
        assert nothing_half_done(disk), ended.err
        if site.datafs.exists():
            assert site.datafs.read_bytes() == state.data
            assert "hen this is mended, run the same restore again" in ended.err
        else:
            assert "Nothing was changed." in ended.err or "not restored" in ended.err
        said.add(site.datafs.exists())
    assert said == {False, True}
    site.assert_is(state)
    site.close()


# Blobs alone


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_blobs_alone_on_a_disk_that_is_too_small_and_on_one_that_fills(
    tmp_path: Path, disk: Path, layout: str, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_with(tmp_path, layout)
    site.options |= {"only_blobs": "true"}
    site.options.pop("enable_zipbackup")
    put_backups_on(disk, site)
    site.close()
    wait_until_settled(site)
    ballast = fill(disk, leave=100_000)
    error = refused(run, site, "backup").err
    assert "not enough space for the" in error
    monkeypatch.setattr(space, "free_bytes", lambda path: space.UNKNOWN)
    error = refused(run, site, "backup").err
    assert "No space left on device" in error
    assert nothing_half_done(disk)
    assert not blobs_on(disk)
    ballast.unlink()
    good(run, site, "backup")
    good(run, site, "backup-verify", "--deep")
    blobs = site.blobs
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    good(run, site, "restore", "-n")
    assert site.blobs == blobs


def wait_until_settled(site: Site) -> None:
    """Let a minute pass since the files of a blobstorage were written."""
    assert site.blob_storage is not None
    for path in site.blob_storage.rglob("*.blob"):
        os.utime(path, (1_700_000_000, 1_700_000_000))


# Full before


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_on_a_full_disk_all_can_be_looked_at_and_old_backups_make_room(
    tmp_path: Path, disk: Path, layout: str, run: Runner
) -> None:
    site = site_with(tmp_path, layout)
    put_backups_on(disk, site)
    site.backup(full=True)
    site.commit_pages(40, size=3000)
    site.commit_blobs(8, size=60_000)
    site.backup(full=True)
    site.commit_pages(1)
    site.commit_blobs(1)
    _, state = site.backed_up()
    site.close()
    fill(disk)
    for name in ("backup-verify", "backup-list", "backup-log", "backup-report", "backup-drill"):
        assert good(run, site, name).out
    assert run(site, "backup-check").code in (0, 1)
    good(run, site, "backup-verify", "--deep")
    site.options["keep"] = "1"
    free = os.statvfs(disk).f_bavail
    good(run, site, "backup-prune")
    assert len(site.timestamps()) == 2
    assert os.statvfs(disk).f_bavail > free
    assert nothing_half_done(disk)
    good(run, site, "restore", "-n")
    site.assert_is(state)
    site.close()
