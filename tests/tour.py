"""Every command on one site, one after the other, with what each must have done: for sites in odd places.

A tour runs the commands in this process, as their scripts do, or as scripts of their own.
"""

from __future__ import annotations

import contextlib
import io
import shlex
import shutil
import sys
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tests.site import COMMANDS, Site, blob_files, timestamp
from zodbvault.scripts import run
from zodbvault.settings import settings_to_plain

if TYPE_CHECKING:
    import pytest

    from tests.file_systems import Poor

ALL_LAYOUTS = {
    "pool": {},
    "directories": {"blob_layout": "directories"},
    "archives": {"archive_blob": "true", "compress_blob": "true", "incremental_blobs": "true"},
}
"""Each layout once; tests/layouts.py has every form of each."""


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


class Runner(Protocol):
    """Runs the script of a site of this name with these arguments."""

    def __call__(self, site: Site, name: str, *arguments: str) -> Ended: ...


def as_script(site: Site, name: str, *arguments: str) -> Ended:
    """Run a real script."""
    finished = site.command(name, *arguments)
    return Ended(finished.returncode, finished.stdout, finished.stderr)


class InProcess:
    """Runs a script's commands in this process, at the site's time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, poor: Poor | None = None) -> None:
        self._monkeypatch = monkeypatch
        self._poor = poor

    def __call__(self, site: Site, name: str, *arguments: str) -> Ended:
        site.tick()
        # As Python's own: names that are no text can be written to standard error.
        out = io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n")
        err = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", newline="\n")
        with self._monkeypatch.context() as patch, contextlib.ExitStack() as stack:
            patch.setenv("ZODBVAULT_TEST_NOW", timestamp(site.clock.now()))
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            if self._poor is not None:
                stack.enter_context(self._poor.refusing())
            code = run(COMMANDS[name], settings_to_plain(site.settings), arguments)
        site.tick(3)
        written = []
        for stream in (out, err):
            stream.flush()
            stream.seek(0)
            written.append(stream.read())
        return Ended(code, *written)


def good(run_: Runner, site: Site, name: str, *arguments: str, code: int = 0) -> Ended:
    """Run a command that has to go well."""
    ended = run_(site, name, *arguments)
    assert ended.code == code, ended.err
    assert "Traceback" not in ended.err
    assert "ERROR" not in ended.err
    told = [line for line in ended.err.splitlines() if line.startswith("INFO: Device ")]
    assert len(told) == len(set(told))
    return ended


def make_tour(run_: Runner, site: Site) -> str:
    """Back up in every way, restore in every way, look in every way; all log lines of it.

    Each restore brings back just the state that it names.
    """
    site.options |= {"enable_zipbackup": "true", "log_file": "logs/our.log", "metrics_file": "logs/ours.prom"}
    (site.folder / "logs").mkdir()
    said: list[str] = []

    def do(name: str, *arguments: str, code: int = 0) -> Ended:
        ended = good(run_, site, name, *arguments, code=code)
        said.append(ended.err)
        return ended

    site.close()
    first = site.state()
    do("backup")
    do("snapshotbackup")
    do("zipbackup")
    first_stamp = site.timestamps()[-1]
    _copy_as_other_site(site)
    site.commit_pages(2)
    site.commit_blobs(2)
    site.close()
    second = site.state()
    do("backup")
    do("backup")
    assert len(site.timestamps()) == 2
    for name in ("snapshotrestore", "ziprestore", "altrestore"):
        do(name, "-n")
        site.assert_is(first)
        site.close()
        do("restore", "-n", "--checksum")
        site.assert_is(second)
        site.close()
    do("restore", "--no-prompt", "--date", first_stamp)
    site.assert_is(first)
    site.close()
    do("restore", "-n")
    site.assert_is(second)
    site.close()
    _restore_copy(do, site, second.data)
    for name in ("backup-verify", "backup-list", "backup-log"):
        assert do(name).out
    do("backup-verify", "--deep", "--all")
    assert do("backup-drill").out
    assert "OK" in do("backup-check").out
    do("backup", "--full")
    site.options["keep"] = "1"
    assert first_stamp in do("backup-prune", "--dry-run").out
    do("backup-prune")
    assert len(site.timestamps()) == 1
    page = site.folder / "page of backups.html"
    do("backup-report", "-o", str(page))
    assert site.timestamps()[-1] in page.read_text(encoding="utf-8")
    do("backup-verify", "--all")
    do("restore", "-n")
    site.assert_is(second)
    site.close()
    assert "zodbvault_state" in (site.folder / "logs/ours.prom").read_text(encoding="utf-8")
    logged = (site.folder / "logs/our.log").read_text(encoding="utf-8")
    assert all(line.split(": ", 1)[1] in logged for line in "".join(said).splitlines() if line.startswith("INFO: "))
    return "".join(said)


def _restore_copy(do: object, site: Site, data: bytes) -> None:
    folder = site.folder / "a copy of it"
    assert callable(do)
    do("restore", "--to", str(folder))
    assert (folder / "filestorage" / "Data.fs").read_bytes() == data
    assert len(blob_files(folder / "blobstorage")) == len(site.blobs)
    shutil.rmtree(folder)


def _copy_as_other_site(site: Site) -> None:
    """Give the site another one to restore from: a copy of its backups."""
    places = ("other site/its data", "other site/its blobs")
    for place, own in zip(places, (site.location, site.blob_location), strict=True):
        shutil.copytree(own, site.folder / place, symlinks=True)
    site.options["alternative_restore_source"] = shlex.join(("Data", *places))
