"""Every option with values that it cannot have, and places that cannot be used: the error names option, value, way out.

A place of logs and numbers that cannot be used is a warning, for a backup is worth more than its log.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.site import Site, tree
from tests.test_bad_input import refused, unprivileged
from tests.tour import InProcess
from zodbvault.options import OPTIONS, Kind, Status
from zodbvault.settings import ConfigurationError, Surroundings, parse_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zodbvault.options import Option

BASE = Path("/srv/site")
GOOD = {"datafs": "Data.fs", "blob_storage": "blobs"}

NO_TEXT = (5, -1, True, 1.5, [1], {"a": 1}, "a\0b")
NO_PATH = (*NO_TEXT, "one\ntwo", "$NOBODY_SET_THIS/x", "~nobody-at-all/x")
BAD: dict[Kind, tuple[object, ...]] = {
    Kind.BACKUPS: NO_PATH,
    Kind.PATH: NO_PATH,
    Kind.TEXT: NO_TEXT,
    Kind.BOOLEAN: ("maybe", "tru", "-", 5, -1, 1.5, [1]),
    Kind.NUMBER: ("many", "-1", "1.5", "1e3", "1 2", "\u0661", "99999999999", 99999999999, -1, 1.5, True, [1]),
    Kind.CHOICE: ("nonsense", "pool directories", 5, True, [1]),
}
BAD_TEXTS: dict[str, tuple[str, ...]] = {
    "healthcheck_url": ("example.org/x", "ftp://example.org", "http://example.org/a b", "https://ex\u00e4mple.org"),
    "alternative_restore_source": (
        "Data",
        "Data one",
        "Data one two three",
        "Catalog one two",
        "Data 'one two",
        "a\nb",
    ),
    "rsync_options": ("--rsh='ssh",),
    "pre_command": (),
    "post_command": (),
}
WAYS_OUT = (
    "write it in quotes", "no text may have a zero byte", "write it in one line", "is in the environment",
    "where the home of", "write true or false", "a whole number from 0 to", "is not one of: ", "begins with http",
    "is not of the form", "only one line", "begins with Data", "is missing", "is not closed", "no effect with",
)  # fmt: skip

EVERY_OPTION = [option for option in OPTIONS if option.status is Status.OFFERED]


def mistakes_with(name: str, value: object) -> tuple[str, ...]:
    """What is wrong with the options of a toml file."""
    around = Surroundings("plone", "[site.plone]", BASE, BASE / "var")
    with pytest.raises(ConfigurationError) as caught:
        parse_settings({**GOOD, name: value}, around, strict=True)
    return caught.value.mistakes


def test_every_text_has_bad_values_here_or_none() -> None:
    assert {option.name for option in EVERY_OPTION if option.kind is Kind.TEXT} == BAD_TEXTS.keys()


@pytest.mark.parametrize("option", EVERY_OPTION, ids=lambda option: option.name)
def test_a_value_that_an_option_cannot_have(option: Option) -> None:
    for value in (*BAD[option.kind], *BAD_TEXTS.get(option.name, ())):
        mistakes = mistakes_with(option.name, value)
        about = [mistake for mistake in mistakes if mistake.startswith(f"[site.plone] {option.name}: ")]
        assert len(about) == 1, (value, mistakes)
        is_shown = repr(value) in about[0] or repr(str(value).split()[0]) in about[0] or "only one line" in about[0]
        assert is_shown, about
        assert any(way in about[0] for way in WAYS_OUT), about
        assert all("\n" not in mistake and "\0" not in mistake for mistake in mistakes)


@pytest.mark.parametrize("option", EVERY_OPTION, ids=lambda option: option.name)
@pytest.mark.parametrize("value", ["", " ", "\t\n "])
def test_nothing_but_blanks_is_no_value(option: Option, value: str) -> None:
    around = Surroundings("plone", "[site.plone]", BASE, BASE / "var")
    if option.name in GOOD:
        (mistake,) = mistakes_with(option.name, value)
        assert mistake.startswith(f"[site.plone] {option.name}: ")
    else:
        assert parse_settings({**GOOD, option.name: value}, around) == parse_settings(GOOD, around)


# Places


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A stopped site without backups, with all kinds of things that are no places for any."""
    site = Site(tmp_path / "site", options={"enable_zipbackup": "true"})
    site.commit_pages(3)
    site.commit_blobs(2)
    site.close()
    (site.folder / "file").write_text("mine")
    os.mkfifo(site.folder / "pipe")
    for name, mode in (("closed", 0), ("locked", 0o555)):
        (site.folder / name).mkdir()
        (site.folder / name).chmod(mode)
    yield site
    for name in ("closed", "locked"):
        (site.folder / name).chmod(0o755)


PLACES = {
    "location": "backup",
    "blobbackuplocation": "backup",
    "snapshotlocation": "snapshotbackup",
    "blobsnapshotlocation": "snapshotbackup",
    "ziplocation": "zipbackup",
    "blobziplocation": "zipbackup",
}
NO_FOLDERS = {
    "file": "it is no folder",
    "file/below": "it is no folder",
    "pipe": "it is no folder",
    "x" * 300: "File name too long",
    "/proc/nothing": "No such file or directory",
}
NO_WAY_IN = {"closed": "not writable", "closed/x": "Permission denied", "locked": "not writable", "locked/x": "denied"}


@pytest.mark.parametrize("option", PLACES)
@pytest.mark.parametrize("value", NO_FOLDERS)
def test_a_place_for_backups_that_is_no_folder(site: Site, option: str, value: str) -> None:
    site.options[option] = str(site.folder / value)
    error = refused(site, PLACES[option], code=1, says=NO_FOLDERS[value], ignore=tuple(_made(site, option))).stderr
    assert str(site.folder / value) in error
    assert f"Nothing was backed up. Check the option {option}, and who may write there." in error


@pytest.mark.parametrize("option", PLACES)
@pytest.mark.parametrize("value", NO_WAY_IN)
def test_a_place_for_backups_that_may_not_be_written(site: Site, option: str, value: str) -> None:
    site.options[option] = str(site.folder / value)
    with unprivileged() as prefix:
        says = NO_WAY_IN[value]
        error = refused(
            site, PLACES[option], code=1, says=says, prefix=prefix, ignore=tuple(_made(site, option))
        ).stderr
    assert f"option {option}" in error
    assert "Nothing was backed up." in error


def _made(site: Site, option: str) -> Iterator[str]:
    """The names of the folder that is made before the one that cannot be."""
    if option.startswith("blob"):
        yield getattr(site.settings, option.removeprefix("blob").replace("backuplocation", "location")).name


@pytest.mark.parametrize("option", ["log_file", "metrics_file", "syslog"])
@pytest.mark.parametrize("value", ["file/below", "pipe", "missing/too/x", "x" * 300, "closed", "closed/x", "locked/x"])
def test_a_place_for_logs_and_numbers_that_cannot_be_used_is_a_warning(site: Site, option: str, value: str) -> None:
    site.options[option] = str(site.folder / value)
    with unprivileged() as prefix:
        finished = site.command("backup", prefix=prefix)
    assert finished.returncode == 0, finished.stderr
    assert len(site.timestamps()) == 1
    (warning,) = [line for line in finished.stderr.splitlines() if line.startswith("WARNING: ")]
    assert str(site.folder / value) in warning
    assert warning.endswith(f"Check the option {option}.")
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("command", "begins"), [(("backup-check", "--metrics"), b"# HELP"), (("backup-report", "-o"), b"<!DOCTYPE html>")]
)
def test_a_pipe_for_numbers_and_pages_is_written_to_and_a_symlink_stays(
    site: Site, tmp_path: Path, command: tuple[str, str], begins: bytes
) -> None:
    site.backup()
    pipe, target, link = tmp_path / "pipe", tmp_path / "target", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(target)
    # As /dev/null is no file either: what is no file stays what it is.
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE) as reader:
        assert site.command(*command, str(pipe), prefix=("sh", "-c", WAIT_FOR_READER, str(pipe))).returncode == 0
        assert reader.stdout is not None
        assert reader.stdout.read().startswith(begins)
    assert pipe.is_fifo()
    assert site.command(*command, str(link)).returncode == 0
    assert link.is_symlink()
    assert target.read_bytes().startswith(begins)


WAIT_FOR_READER = 'exec 3>"$0"; "$@"'
"""Opening a pipe to write waits for its reader."""


@pytest.mark.parametrize("option", ["datafs", "blob_storage"])
@pytest.mark.parametrize("value", ["file", "file/below", "pipe", "missing", "x" * 300, "closed", "closed/x"])
def test_a_database_or_blobstorage_that_is_none(site: Site, option: str, value: str) -> None:
    site.options[option] = str(site.folder / value)
    made = ("backups", "blobstoragebackups", ".zodbvault.id")
    with unprivileged() as prefix:
        error = refused(site, "backup", code=1, says=option, prefix=prefix, ignore=made).stderr
    assert str(site.folder / value) in error
    assert not site.timestamps()


# What stands on the command line


WRONG_USAGE = [
    *(("backup-drill", "--sample", value) for value in ("", "0", "-1", "1.5", "many", "9" * 5000)),
    ("backup-drill", "--tmp", ""),
    ("restore", "--to", ""),
    ("restore", "--only", "half"),
    ("restore", "--only", ""),
    ("backup-report", "--output", ""),
    *(("backup-report", option, "x") for option in ("--max-age", "--max-full-age", "--max-drill-age", "--min-free")),
]
UNKNOWN = [
    ("backup-check", "--metrics", ""),
    *(
        ("backup-check", option, value)
        for option in ("--max-age", "--max-full-age", "--max-drill-age")
        for value in ("", "old", "0", "-1h", "nanh", "9" * 400 + "d", "1 day")
    ),
    *(("backup-check", "--min-free", value) for value in ("", "all", "200%", "-1GB", "9" * 400 + "GB", "1PB")),
]


@pytest.mark.parametrize(("code", "ways"), [(2, WRONG_USAGE), (3, UNKNOWN)], ids=["wrong usage", "unknown"])
def test_a_value_on_the_command_line_that_cannot_be(
    site: Site, code: int, ways: list[tuple[str, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    site.backup()
    run_ = InProcess(monkeypatch)
    before = tree(site.folder, ignore=(".zodbvault.lock",))
    for name, option, value in ways:
        if option == "--only":
            # A parser says it, on the real standard error.
            with pytest.raises(SystemExit) as stopped:
                run_(site, name, f"{option}={value}")
            assert stopped.value.code == code
            continue
        ended = run_(site, name, f"{option}={value}")
        assert ended.code == code, (name, option, value, ended)
        (error,) = ended.err.splitlines()
        assert error.startswith(f"ERROR: {option}")
        assert "bug" not in error
        assert value[:20] in error
    assert tree(site.folder, ignore=(".zodbvault.lock",)) == before
