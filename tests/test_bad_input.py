"""Bad input: an exit code, one clear line, nothing changed, and never a traceback. Through real scripts."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.site import Site, tree
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A stopped site with one backup, one snapshot and a change since."""
    site = Site(tmp_path / "site")
    site.commit_pages(5)
    site.commit_blobs(3)
    site.backup()
    site.snapshot()
    site.commit_blobs(1)
    site.close()
    yield site
    for folder in (site.folder, site.var, site.location, site.blob_location):
        if folder.is_dir() and not folder.is_symlink():
            os.chmod(folder, 0o755)


def refused(
    site: Site,
    *command: str,
    code: int,
    says: str,
    lines: int = 1,
    ignore: tuple[str, ...] = (),
    **keywords: object,
) -> subprocess.CompletedProcess[str]:
    """Run a script that has to fail in one line, without changing anything."""
    ignored = (".zodbvault.lock", "Data.fs.lock", command[0], *ignore)
    before = tree(site.folder, ignore=ignored)
    finished = site.command(*command, **keywords)
    assert finished.returncode == code, finished.stderr
    assert finished.stdout == ""
    assert "Traceback" not in finished.stderr
    assert "bug" not in finished.stderr
    errors = [line for line in finished.stderr.splitlines() if line.startswith("ERROR: ")]
    assert len(errors) == lines, finished.stderr
    assert says in finished.stderr
    assert tree(site.folder, ignore=ignored) == before
    return finished


# Data.fs


def no_data_fs(site: Site) -> str:
    site.datafs.unlink()
    return "Data.fs"


def empty(site: Site) -> str:
    site.datafs.write_bytes(b"")
    return "empty"


def a_folder(site: Site) -> str:
    site.datafs.unlink()
    site.datafs.mkdir()
    return "Data.fs"


def something_else(site: Site) -> str:
    site.datafs.write_bytes(b"SQLite format 3\0" + bytes(500))
    return "FileStorage"


def damaged_in_the_middle(site: Site) -> str:
    data = bytearray(site.datafs.read_bytes())
    data[len(data) // 2 :] = os.urandom(len(data) - len(data) // 2)
    site.datafs.write_bytes(data)
    return "Data.fs"


def zeros_at_the_end(site: Site) -> str:
    with site.datafs.open("ab") as file:
        file.write(bytes(4096))
    return "Data.fs"


def a_pipe(site: Site) -> str:
    site.datafs.unlink()
    os.mkfifo(site.datafs)
    return "Data.fs"


@pytest.mark.parametrize(
    "harm",
    [no_data_fs, empty, a_folder, something_else, damaged_in_the_middle, zeros_at_the_end, a_pipe],
    ids=lambda harm: harm.__name__,
)
@pytest.mark.parametrize("arguments", [("backup",), ("backup", "--full"), ("snapshotbackup",)], ids="-".join)
def test_a_database_that_is_none(site: Site, harm: Callable[[Site], str], arguments: tuple[str, ...]) -> None:
    says = harm(site)
    refused(site, *arguments, code=1, says=says)


# Places


def location_is_a_file(site: Site) -> str:
    site.options["location"] = str(site.folder / "file")
    (site.folder / "file").write_text("mine")
    return "file"


def location_below_a_file(site: Site) -> str:
    site.options["location"] = str(site.folder / "file" / "backups")
    (site.folder / "file").write_text("mine")
    return "file"


def blob_location_is_a_file(site: Site) -> str:
    site.options["blobbackuplocation"] = str(site.folder / "file")
    (site.folder / "file").write_text("mine")
    return "file"


def location_is_a_dead_link(site: Site) -> str:
    site.options["location"] = str(site.folder / "link")
    (site.folder / "link").symlink_to("/nowhere/at/all")
    return "link"


def blob_storage_is_missing(site: Site) -> str:
    assert site.blob_storage is not None
    os.rename(site.blob_storage, site.folder / "away")
    return "blobstorage"


def blob_storage_is_a_file(site: Site) -> str:
    blob_storage_is_missing(site)
    assert site.blob_storage is not None
    site.blob_storage.write_text("mine")
    return "blobstorage"


def blobs_of_another_repository(site: Site) -> str:
    other = Site(site.folder / "other")
    other.commit_blobs(1)
    other.backup()
    other.close()
    site.options["blobbackuplocation"] = str(other.blob_location)
    return "another"


@pytest.mark.parametrize(
    "harm",
    [
        location_is_a_file,
        location_below_a_file,
        blob_location_is_a_file,
        location_is_a_dead_link,
        blob_storage_is_missing,
        blob_storage_is_a_file,
    ],
    ids=lambda harm: harm.__name__,
)
def test_places_that_are_not_usable(site: Site, harm: Callable[[Site], str]) -> None:
    says = harm(site)
    refused(site, "backup", code=1, says=says)


def test_the_blob_location_of_another_repository(site: Site) -> None:
    blobs_of_another_repository(site)
    refused(site, "backup", code=1, says="repository")


@pytest.mark.parametrize("which", ["location", "blobbackuplocation"])
def test_a_place_that_is_not_writable(site: Site, which: str) -> None:
    folder = Path(site.plain_options()[which])
    os.chmod(folder, 0o555)
    with unprivileged() as prefix:
        refused(site, "backup", code=1, says=folder.name, prefix=prefix)


def test_a_database_that_is_not_readable(site: Site) -> None:
    os.chmod(site.datafs, 0)
    with unprivileged() as prefix:
        refused(site, "backup", code=1, says="Data.fs", prefix=prefix)


def test_a_site_that_is_not_writable_is_not_restored(site: Site) -> None:
    os.chmod(site.datafs.parent, 0o555)
    with unprivileged() as prefix:
        refused(site, "restore", "-n", code=1, says="filestorage", prefix=prefix)
    os.chmod(site.datafs.parent, 0o755)


@contextlib.contextmanager
def unprivileged() -> Iterator[tuple[str, ...]]:
    """Run commands as somebody who is bound by the permissions of files, also where the tests run as root."""
    if os.geteuid() != 0:
        yield ()
        return
    overriding = "-dac_override,-dac_read_search"
    yield ("setpriv", f"--bounding-set={overriding}", f"--inh-caps={overriding}")


# Dates


@pytest.mark.parametrize(
    "date", ["tomorrow", "2026-13-01", "2026-02-30", "2076-11-23-25", "23.11.2026", "", "-5", "2026"]
)
@pytest.mark.parametrize("script", ["restore", "snapshotrestore", "backup-verify", "backup-list"])
def test_a_nonsense_date_is_wrong_usage(site: Site, script: str, date: str) -> None:
    arguments = ("--date", date) if not date.startswith("-") else (f"--date={date}",)
    refused(site, script, *arguments, code=2, says=repr(date))


@pytest.mark.parametrize("script", ["restore", "snapshotrestore"])
def test_a_date_before_the_first_backup(site: Site, script: str) -> None:
    finished = refused(site, script, "-n", "2001-01-01", code=1, says="no backup at or before 2001-01-01")
    # What to do: it says which dates there are.
    assert "2076-11-23" in finished.stderr


def test_two_dates_are_wrong_usage(site: Site) -> None:
    for arguments in (("2026-01-01", "2026-01-02"), ("2026-01-01", "--date", "2026-01-02")):
        finished = site.command("restore", "-n", *arguments)
        assert finished.returncode == 2
        assert "Traceback" not in finished.stderr


def test_an_unknown_argument_is_wrong_usage(site: Site) -> None:
    for script in ("backup", "restore", "snapshotbackup", "snapshotrestore", "backup-verify", "backup-list"):
        before = tree(site.folder, ignore=(script,))
        finished = site.command(script, "--fulll")
        assert finished.returncode == 2
        assert "usage" in finished.stderr
        assert tree(site.folder, ignore=(script,)) == before


# Questions


@pytest.mark.parametrize("script", ["restore", "snapshotrestore"])
@pytest.mark.parametrize("answer", ["", "no\n", "y\n", "YES\n", "yes please\n", "\xff\n", "\n"])
def test_anything_but_yes_restores_nothing(site: Site, script: str, answer: str) -> None:
    file = site.folder.parent / "answer"
    file.write_bytes(answer.encode("latin-1"))
    with file.open("rb") as stdin:
        finished = refused(site, script, code=1, says="not restored", stdin=stdin)
    assert "--no-prompt" in finished.stderr


def test_yes_restores(site: Site) -> None:
    file = site.folder.parent / "answer"
    file.write_text("yes\n")
    with file.open("rb") as stdin:
        finished = site.command("restore", stdin=stdin)
    assert finished.returncode == 0, finished.stderr
    assert "(yes/no)" in finished.stderr


def test_a_closed_standard_input_is_a_no(site: Site) -> None:
    before = tree(site.folder, ignore=("restore", "Data.fs.lock", ".zodbvault.lock"))
    finished = site.command("restore", prefix=("sh", "-c", 'exec "$0" "$@" <&-'))
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr
    assert tree(site.folder, ignore=("restore", "Data.fs.lock", ".zodbvault.lock")) == before


def test_nothing_to_restore(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    site.commit_pages()
    site.close()
    refused(site, "restore", "-n", code=1, says="backups")


def test_nothing_to_verify_is_a_failure_and_an_empty_list_is_not(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    site.commit_pages()
    site.close()
    finished = site.command("backup-verify")
    assert finished.returncode == 1
    assert "No backups" in finished.stdout + finished.stderr
    finished = site.command("backup-list")
    assert finished.returncode == 0
    assert "No backups" in finished.stdout


# Users' commands


def test_a_failing_pre_command_stops_everything(site: Site) -> None:
    site.options["pre_command"] = "echo oh no; exit 3"
    for arguments in (("backup",), ("snapshotbackup",), ("restore", "-n"), ("snapshotrestore", "-n")):
        finished = refused(site, *arguments, code=1, says="pre_command")
        assert "oh no" in finished.stderr


def test_a_failing_post_command_is_a_failure(site: Site) -> None:
    site.options["post_command"] = "exit 4"
    finished = site.command("backup")
    assert finished.returncode == 1
    assert "post_command" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert len(site.timestamps()) == 2


# The streams


def test_quiet_says_nothing_about_a_success(site: Site) -> None:
    for arguments in (
        ("backup", "-q"),
        ("backup", "-q"),
        ("backup", "-q", "--full"),
        ("snapshotbackup", "--quiet"),
        ("restore", "-q", "-n"),
        ("snapshotrestore", "-q", "--no-prompt"),
        ("backup-verify", "-q"),
        ("backup-list", "-q"),
    ):
        finished = site.command(*arguments)
        assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", ""), arguments


def test_log_lines_go_to_standard_error_and_results_to_standard_output(site: Site) -> None:
    for name in ("backup", "snapshotbackup", "restore", "snapshotrestore"):
        finished = site.command(name, *(["-n"] if "restore" in name else []))
        assert finished.stdout == ""
        assert all(line.startswith(("INFO: ", "WARNING: ")) for line in finished.stderr.splitlines())
    for name in ("backup-verify", "backup-list"):
        finished = site.command(name)
        assert finished.returncode == 0
        assert finished.stdout.count("\n") >= 1
        assert finished.stderr == ""


def test_a_reader_that_goes_away_is_no_traceback(site: Site) -> None:
    finished = site.command("backup-list", prefix=("sh", "-c", '"$0" "$@" | true'))
    assert finished.returncode == 0
    assert finished.stderr == ""


# What may not be read, and what may not be removed


@pytest.mark.parametrize("layout", ["pool", "directories", "archives"])
@pytest.mark.parametrize("arguments", [("backup",), ("backup", "--full"), ("snapshotbackup",)], ids="-".join)
def test_a_blob_that_may_not_be_read_is_named_and_nothing_is_lost(
    site: Site, layout: str, arguments: tuple[str, ...]
) -> None:
    assert site.blob_storage is not None
    site.options["blob_layout"] = layout
    newest = max(site.blob_storage.rglob("*.blob"), key=lambda path: path.name)
    os.chmod(newest, 0)
    stamps = site.timestamps()
    with unprivileged() as prefix:
        finished = site.command(*arguments, prefix=prefix)
    assert finished.returncode == 1
    (error,) = [line for line in finished.stderr.splitlines() if not line.startswith("INFO: ")]
    assert error == f"ERROR: {newest}: the blob cannot be opened: Permission denied. Earlier backups are untouched."
    assert site.timestamps() == stamps
    assert not list(site.var.rglob("*.part"))
    assert site.command("backup-verify", "--all").returncode == 0
    os.chmod(newest, 0o444)
    assert site.command(*arguments).returncode == 0
    assert site.command("backup-verify", "--all").returncode == 0


def test_a_backup_whose_old_ones_cannot_be_removed_says_that_it_is_there(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.options["keep"] = "1"
    (old,) = site.location.glob("*.fsz")
    state = site.state()
    site.close()
    unlink = os.unlink

    def refuse(path: str | os.PathLike[str], **keywords: int) -> None:
        if os.fspath(path) == os.fspath(old):
            raise PermissionError(errno.EPERM, "Operation not permitted", os.fspath(path))
        unlink(path, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        with pytest.raises(ZodbvaultError) as caught:
            site.backup(full=True)
    assert str(caught.value).startswith(
        f"{old}: old backups cannot be removed: Operation not permitted. All else is done"
    )
    assert "Full backup 2076-11-23-18-0" in str(caught.value)
    site.backup()  # finishes what was begun
    assert len(site.timestamps()) == 1
    site.restore()
    site.assert_is(state)
    site.close()
