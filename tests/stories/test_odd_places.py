"""Sites whose folders have odd names, or stand where a file system is different from the usual."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from ZODB.FileStorage import FileStorage

from tests.file_systems import another_file_system, like_vfat, mounted, remount, without_links, without_synced_folders
from tests.layouts import HAS_LATEST, LAYOUTS
from tests.site import Site
from tests.tour import ALL_LAYOUTS, InProcess, as_script, good, make_tour
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.file_systems import Poor
    from tests.tour import Runner

ODD_NAMES = {
    "spaces": "  two  words ",
    "quotes": 'it\'s "quoted" `so`',
    "percent": "100%s %(x)d %%",
    "dollar": "$HOME ${HOME} $$ $nobody",
    "emoji": "bücher \U0001f4da\u200d",
    "not UTF-8": os.fsdecode(b"b\xfccher \xff\x80"),
    "dashes": "--full -rf",
    "backslash": "a\\nb\\",
    "newline": "two\nlines\ttab",
    "braces": "{0} {name} #;=[x]",
    "glob": "* ? [a-z] ~",
    "long": "x" * 255,
}


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Runs commands in this process."""
    return InProcess(monkeypatch)


RELATIVE = {
    "datafs": "var/filestorage/Data.fs",
    "blob_storage": "var/blobstorage",
    "location": "backups",
    "blobbackuplocation": "blobstoragebackups",
    "snapshotlocation": "snapshotbackups",
    "blobsnapshotlocation": "blobstoragesnapshots",
}
"""Places as most sites have them: the name of the folder that all stands in is in no option."""


def site_at(folder: Path, layout: str) -> Site:
    """A site in a folder of that name."""
    site = Site(folder, options={**RELATIVE, **(ALL_LAYOUTS.get(layout) or LAYOUTS[layout])})
    site.commit_pages(5)
    site.commit_blobs(3)
    return site


# Names


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
@pytest.mark.parametrize("name", ODD_NAMES)
def test_every_command_in_a_folder_with_an_odd_name(tmp_path: Path, name: str, layout: str, run: Runner) -> None:
    make_tour(run, site_at(tmp_path / ODD_NAMES[name], layout))


@pytest.mark.parametrize("name", ["not UTF-8", "dashes"])
def test_real_scripts_in_a_folder_with_an_odd_name(tmp_path: Path, name: str) -> None:
    make_tour(as_script, site_at(tmp_path / ODD_NAMES[name], "pool"))


def texts_in(value: object) -> Iterator[str]:
    """Every text in what was read of JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from texts_in(each)


@pytest.mark.parametrize("layout", ["pool", "directories"])
def test_what_programs_get_is_text_whatever_the_folders_are_called(tmp_path: Path, layout: str, run: Runner) -> None:
    name = ODD_NAMES["not UTF-8"]
    site = site_at(tmp_path / name, layout)
    site.close()
    assert site.blob_storage is not None
    site.blob_storage = site.blob_storage.rename(site.blob_storage.with_name(name))
    site.options["blob_storage"] = f"var/{name}"
    site.backup()
    newest = site.timestamps()[-1]
    (site.location / f"{name}.orphan").touch()
    max(site.blob_location.rglob("*.blob")).unlink()
    for command in (
        ("backup-list", newest),
        ("backup-check",),
        ("backup-verify",),
        ("backup-prune", "--dry-run"),
        ("restore", "--dry-run"),
    ):
        content = json.loads(run(site, command[0], *command[1:], "--json").out)
        for text in texts_in(content):
            text.encode("utf-8")


# Symlinks and other file systems


def moved_and_linked(path: Path, to: Path) -> None:
    """Let a folder stand elsewhere, and a symlink in its place."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        shutil.move(path, to)
    else:
        to.mkdir()
    path.symlink_to(to)


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
@pytest.mark.parametrize("linked", ["var", "backups", "blobstorage", "filestorage"])
def test_a_folder_is_a_symlink_into_another_file_system(tmp_path: Path, linked: str, layout: str, run: Runner) -> None:
    site = site_at(tmp_path / "site", layout)
    site.close()
    folders = {
        "var": ["."],
        "backups": ["backups", "blobstoragebackups", "snapshotbackups", "blobstoragesnapshots", "zipbackups"],
    }.get(linked, [linked])
    with another_file_system(tmp_path) as other:
        for name in folders:
            moved_and_linked(site.var / name if name != "." else site.var, other / name / "there")
        make_tour(run, site)


@pytest.mark.parametrize(
    ("where", "command"),
    [
        ("to", "restore --to"),
        ("to", "restore --dry-run --to"),
        ("to", "backup-drill --tmp"),
        ("datafs", "backup"),
        ("blob_storage", "backup"),
        ("blob_storage", "restore -n"),
    ],
)
def test_a_symlink_that_leads_in_a_circle_is_an_error_that_names_it(
    tmp_path: Path, where: str, command: str, run: Runner
) -> None:
    site = site_at(tmp_path / "site", "pool")
    site.backup()
    site.close()
    assert site.blob_storage is not None
    link = {"to": tmp_path / "copy", "datafs": site.datafs, "blob_storage": site.blob_storage}[where]
    if where != "to":
        link.rename(link.with_name("real"))
    link.symlink_to(link)
    name, *arguments = command.split()
    ended = run(site, name, *arguments, *([str(link)] if where == "to" else []))
    assert ended.code == 1
    assert f"ERROR: {link}" in ended.err
    assert "bug" not in ended.err
    if command == "restore -n":
        planned = run(site, "restore", "--dry-run")
        assert planned.code == 1
        assert f"PROBLEM: {link}" in planned.out


def test_a_database_that_is_open_by_the_real_name_of_a_linked_folder_is_not_restored(tmp_path: Path) -> None:
    site = site_at(tmp_path / "site", "pool")
    site.backup()
    site.close()
    moved_and_linked(site.datafs.parent, tmp_path / "real")
    with (
        contextlib.closing(FileStorage(str(tmp_path / "real" / "Data.fs"))),
        pytest.raises(ZodbvaultError, match="in use"),
    ):
        site.restore()
    site.restore()


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_the_backups_stand_in_another_file_system(tmp_path: Path, layout: str, run: Runner) -> None:
    site = site_at(tmp_path / "site", layout)
    with another_file_system(tmp_path) as disk:
        for name, place in RELATIVE.items():
            if "location" in name:
                site.options[name] = str(disk / place)
        make_tour(run, site)
        assert site.location.stat().st_dev == disk.stat().st_dev != site.datafs.stat().st_dev
        site.close()


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
@pytest.mark.parametrize(("of_source", "of_target"), [("bushy", "lawn"), ("lawn", "bushy")])
def test_blobs_go_into_a_site_of_another_layout_and_are_never_mixed(
    tmp_path: Path, of_source: str, of_target: str, layout: str
) -> None:
    site = Site(tmp_path / "site", layout=of_source, options=dict(ALL_LAYOUTS[layout]))
    states = {}
    for _ in range(3):
        site.commit_pages(2)
        site.commit_blobs(3)
        states.update([site.backed_up()])
    site.close()
    places = ("location", "blobbackuplocation")
    other = Site(tmp_path / "other", layout=of_target)
    other.options = {**ALL_LAYOUTS[layout], **{name: site.plain_options()[name] for name in places}}
    other.commit_blobs(2)
    assert other.blob_storage is not None
    for stamp, state in states.items():
        other.restore(stamp)
        other.assert_is(state)
        other.close()
        assert (other.blob_storage / ".layout").read_text().strip() == of_target
        # A lawn has a folder for each oid, a bush one for each byte of it.
        depths = {len(path.relative_to(other.blob_storage).parts) for path in other.blob_storage.rglob("*.blob")}
        assert depths == {2 if of_target == "lawn" else 9}


@pytest.mark.parametrize("layout", ALL_LAYOUTS)
def test_a_site_that_can_only_be_read_is_backed_up_and_rehearsed_elsewhere(
    tmp_path: Path, layout: str, run: Runner
) -> None:
    with mounted(tmp_path / "site") as folder:
        site = site_at(folder, layout)
        site.options["enable_zipbackup"] = "true"
        for name in ("location", "blobbackuplocation", "snapshotlocation", "blobsnapshotlocation"):
            site.options[name] = str(tmp_path / "backups" / name)
        for name in ("ziplocation", "blobziplocation"):
            site.options[name] = str(tmp_path / "backups" / name)
        site.backup()
        site.commit_blobs(2)
        site.close()
        state = site.state()
        remount(folder, "ro")
        for script in ("backup", "snapshotbackup", "zipbackup", "backup-verify", "backup-list", "backup-log"):
            good(run, site, script)
        for script in ("backup-check", "backup-report", "backup-prune"):
            good(run, site, script)
        refused = run(site, "backup-drill")
        assert refused.code == 1
        assert "Read-only file system. Name another place with --tmp." in refused.err
        good(run, site, "backup-drill", "--tmp", str(tmp_path))
        good(run, site, "restore", "--to", str(tmp_path / "copy"))
        assert (tmp_path / "copy" / "filestorage" / "Data.fs").read_bytes() == state.data
        refused = run(site, "restore", "-n")
        assert refused.code == 1
        assert "Read-only file system" in refused.err
        assert "Traceback" not in refused.err
        assert (site.data, site.blobs) == (state.data, state.blobs)


# What a file system refuses


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [without_links, without_synced_folders, like_vfat], ids=lambda kind: kind.__name__)
def test_a_file_system_that_refuses_much(
    tmp_path: Path, kind: Callable[[pytest.MonkeyPatch], Poor], layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_at(tmp_path / "site", layout)
    poor = kind(monkeypatch)
    said = make_tour(InProcess(monkeypatch, poor), site)
    device = site.location.stat().st_dev
    name = f"Device {os.major(device)}:{os.minor(device)}"
    is_linked = site.settings.blob_layout == "directories" and site.settings.use_rsync
    if kind is without_synced_folders:
        assert f"{name} cannot sync folders (Invalid argument)" in said
    if kind is without_links:
        assert (f"{name} refuses hard links (Operation not supported): done without." in said) is is_linked
        assert bool(poor.asked["link"]) is is_linked
    if kind is like_vfat:
        assert f"{name} refuses modes (Operation not permitted): done without." in said
        assert f"{name} refuses symlinks" in said or layout not in HAS_LATEST


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_takes_no_backups_and_says_so(
    tmp_path: Path, number: int, run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = site_at(tmp_path / "site", "pool")
    site.close()

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    for arguments in (("backup",), ("snapshotbackup",), ("restore", "-n")):
        ended = run(site, *arguments)
        assert ended.code == 1
        errors = [line for line in ended.err.splitlines() if line.startswith("ERROR: ")]
        assert len(errors) == 1
        assert "Traceback" not in ended.err
        if arguments[0] != "restore":
            assert f".zodbvault.lock: the lock cannot be taken: {os.strerror(number)}" in errors[0]
    assert not site.timestamps()


def test_no_two_names_differ_in_case_only_and_vfat_takes_them_all(tmp_path: Path, run: Runner) -> None:
    seen: set[tuple[str, str]] = set()
    for layout in LAYOUTS:
        site = site_at(tmp_path / layout, layout)
        make_tour(run, site)
        for folder, names, files in os.walk(site.var):
            seen |= {(os.path.relpath(folder, site.folder), name) for name in (*names, *files)}
    assert len({(folder, name.casefold()) for folder, name in seen}) == len(seen)
    assert not [name for _, name in seen if set(name) & set('"*/:<>?\\|') or name.endswith((" ", "."))]
