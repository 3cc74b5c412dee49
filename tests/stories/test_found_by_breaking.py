"""What an administrator ran into at night: each of these once went wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.site import SOURCE
from zodbvault.errors import ZodbvaultError
from zodbvault.settings import settings_to_plain

if TYPE_CHECKING:
    from pathlib import Path

    from tests.site import Site

SOMEBODY = 12345
"""A user who is not root."""

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of others")


def give_away(folder: Path) -> None:
    """Let everything in `folder` belong to somebody."""
    for where, _, names in os.walk(folder):
        for path in (where, *(os.path.join(where, name) for name in names)):
            os.lchown(path, SOMEBODY, SOMEBODY)


def owners(folder: Path) -> dict[str, int]:
    """What in `folder` belongs to others than somebody."""
    found = {}
    for where, _, names in os.walk(folder):
        for path in (where, *(os.path.join(where, name) for name in names)):
            if os.lstat(path).st_uid != SOMEBODY:
                found[path] = os.lstat(path).st_uid
    return found


# Root helps somebody


@only_root
def test_what_root_backs_up_for_somebody_is_theirs_so_that_their_cron_goes_on(site: Site) -> None:
    site.close()
    give_away(site.var)
    site.backup()
    site.snapshot()
    assert owners(site.var) == {}


@only_root
@pytest.mark.parametrize("lost", [(), ("filestorage",), ("filestorage", "blobstorage")])
def test_what_root_restores_for_somebody_is_theirs_so_that_zope_starts(site: Site, lost: tuple[str, ...]) -> None:
    site.backup()
    site.close()
    for name in os.listdir(site.datafs.parent):
        if name != "Data.fs":
            os.unlink(site.datafs.parent / name)
    for name in lost:
        shutil.rmtree(site.var / name)
    site.options["snapshotlocation"] = str(site.var / "snapshots")
    (site.var / "snapshots").mkdir()
    give_away(site.var)
    site.restore()
    assert owners(site.var) == {}
    assert (site.datafs.parent / "Data.fs.lock").exists()


def test_a_database_that_only_its_owner_could_read_is_not_restored_for_all(site: Site) -> None:
    site.close()
    os.chmod(site.datafs, 0o600)
    site.backup()
    shutil.rmtree(site.datafs.parent)
    site.restore()
    assert site.datafs.stat().st_mode & 0o777 == 0o600


# Dates


def test_somebody_whose_minute_was_too_early_is_told_of_the_backup_in_that_minute(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = site.backed_up()
    site.commit_pages()
    site.tick(70)
    second, _ = site.backed_up()
    caplog.clear()
    assert site.restore(second[: len("2026-11-23-18-05")]).timestamp == first
    assert second in caplog.text
    with pytest.raises(ZodbvaultError, match=f"newest of {first[:13]}: "):
        site.restore(first[:13])


# Folders that are not mounted


def test_a_location_that_is_not_mounted_is_asked_after(site: Site) -> None:
    site.backup()
    os.rename(site.location, site.var / "elsewhere")
    with pytest.raises(ZodbvaultError, match="mounted") as caught:
        site.backup()
    assert str(site.location) in str(caught.value)


def test_a_warning_says_what_is_wrong_first(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    stamp, _ = site.backed_up()
    os.unlink(site.location / f"{stamp}.fsz")
    caplog.clear()
    site.backup()
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "Please wait" not in warnings[0]
    assert f"{stamp}.fsz is missing" in warnings[0]


# A new version of the engine under the scripts of the old one


def run_script(site: Site, plain: dict[str, object], command: str = "backup") -> subprocess.CompletedProcess[str]:
    """Run a generated script that has these settings."""
    source = f"import sys; from zodbvault.scripts import run; sys.exit(run({command!r}, {plain!r}))"
    return subprocess.run(
        [sys.executable, "-c", source, "-q"],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_script_that_an_older_version_made_goes_on(site: Site) -> None:
    site.close()
    plain = settings_to_plain(site.settings)
    for later in ("keep", "full_after_incrementals", "post_command"):
        del plain[later]
    finished = run_script(site, plain)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert len(site.timestamps()) == 1


@pytest.mark.parametrize("change", ["unknown", "missing"])
def test_a_script_that_does_not_fit_is_told_in_one_line(site: Site, change: str) -> None:
    site.close()
    plain = settings_to_plain(site.settings)
    if change == "unknown":
        plain["encrypt_to"] = "somebody"
    else:
        del plain["location"]
    finished = run_script(site, plain)
    assert finished.returncode == 2
    assert len(finished.stderr.splitlines()) == 1
    assert "Run buildout again" in finished.stderr
    assert not site.location.exists()


# Commands of the administrator


def test_a_post_command_that_fails_does_not_hide_that_the_backup_is_there(site: Site) -> None:
    site.options["post_command"] = "false"
    with pytest.raises(ZodbvaultError, match=r"post_command.*Full backup 2076") as caught:
        site.backup()
    assert site.timestamps()[0] in str(caught.value)
    with pytest.raises(ZodbvaultError, match=r"post_command.*Restored "):
        site.restore()
    site.options["pre_command"] = "kill -9 $$"
    with pytest.raises(ZodbvaultError, match=r"pre_command was ended by signal 9.*Nothing was done"):
        site.backup()


def test_a_restore_lets_pre_command_mount_a_disk_on_an_empty_folder(site: Site) -> None:
    stamp, state = site.backed_up()
    site.commit_pages()
    disk = site.var / "disk"
    os.rename(site.location, disk)
    site.location.mkdir()
    site.options["pre_command"] = f"rmdir {site.location} && mv {disk} {site.location}"
    assert site.restore().timestamp == stamp
    site.assert_is(state)


# What an error leaves open


def test_damage_that_a_restore_meets_says_that_nothing_was_changed(site: Site) -> None:
    stamp, _ = site.backed_up()
    path = site.location / f"{stamp}.fsz"
    good = path.read_bytes()
    path.write_bytes(good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    with pytest.raises(ZodbvaultError, match="Nothing was changed"):
        site.restore()


def test_a_dat_that_cannot_be_read_names_the_way_round_it_and_that_way_works(site: Site) -> None:
    stamp, state = site.backed_up()
    dat = site.location / f"{stamp}.dat"
    dat.write_bytes(b"")
    with pytest.raises(ZodbvaultError, match="moved away") as caught:
        site.restore()
    assert str(dat) in str(caught.value)
    os.rename(dat, site.var / dat.name)
    site.restore()
    site.assert_is(state)


def test_a_database_that_goes_back_is_warned_about_since_keep_removes_the_old_backups(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = site.backed_up()
    site.commit_pages()
    site.backup(full=True)
    site.restore(first)
    caplog.clear()
    site.backup()
    assert "earlier transaction" in caplog.text
    caplog.clear()
    site.backup(full=True)
    site.commit_pages()
    site.backup()
    site.close()
    site.pack()
    site.backup()
    assert "earlier transaction" not in caplog.text


# Undo of undo


@pytest.mark.parametrize("times", [1, 2, 3, 4])
def test_the_creation_of_a_blob_undone_again_and_again_is_no_damage(site: Site, times: int) -> None:
    site.commit_blobs(1)
    states = dict([site.backed_up()])
    for _ in range(times):
        assert site.undo()
        states.update([site.backed_up()])
    assert site.verify(deep=True).good
    for stamp, state in states.items():
        site.restore(stamp)
        site.assert_is(state)
