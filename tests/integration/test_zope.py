"""A real Zope, with a ZEO server and without: backed up while requests run, packed, broken, restored, read again."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.zopes import ZopeSite, cron_parts, is_alive, make_zope

pytestmark = pytest.mark.integration

ROUNDS = 6


@pytest.fixture(scope="module", params=["with ZEO", "without ZEO"])
def zope(
    request: pytest.FixtureRequest, buildout: Path, eggs: Path, tmp_path_factory: pytest.TempPathFactory
) -> ZopeSite:
    """A site whose buildout has run; its tests come one after the other, as days do."""
    folder = tmp_path_factory.mktemp("zope") / "site"
    return make_zope(buildout, folder, eggs, with_zeo=request.param == "with ZEO")


class Writer(threading.Thread):
    """Requests that write, one after the other, until it is told to stop. pages: what each page has to be now."""

    def __init__(self, zope: ZopeSite) -> None:
        super().__init__()
        self.zope = zope
        self.over = threading.Event()
        self.pages: dict[str, str] = {}
        self.number = 0
        self.failure: Exception | None = None

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self.number += 1
                name, text = f"page{self.number % 20}", f"text {self.number} "
                self.zope.write(name, text)
                self.pages[name] = f"{text}|{text * 50}"
        except Exception as error:
            self.failure = error

    def __enter__(self) -> Writer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """No request fails because of a backup or a pack."""
        self.over.set()
        self.join()
        assert self.failure is None, self.failure


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def every_file(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): digest(path)
        for path in sorted(folder.rglob("*.blob"))
        if "tmp" not in path.relative_to(folder).parts
    }


@pytest.fixture
def pages(zope: ZopeSite) -> dict[str, str]:
    """The site has lived: it was written to, packed and backed up at the same time. What its pages have to be."""
    zope.make_pages()
    with zope.running(), Writer(zope) as writer:
        for number in range(ROUNDS):
            finished = zope.script("backup", "-q")
            assert finished.stderr == ""
            if number == ROUNDS // 2 and zope.with_zeo:
                back_up_while_it_packs(zope)
        assert writer.number > ROUNDS
        writer.finish()
        zope.script("backup")
        refused = zope.script("restore", "-n", check=False)
        assert refused.returncode == 1
        assert "Stop Zope" in refused.stderr
        assert zope.read_all() == writer.pages
    return writer.pages


def back_up_while_it_packs(zope: ZopeSite) -> None:
    """`bin/zeopack`, and one backup after the other until it is done."""
    before, backups = zope.datafs.stat().st_ino, 0
    with ThreadPoolExecutor(1) as threads:
        pack = threads.submit(zope.script, "zeopack")
        while not pack.done():
            assert zope.script("backup", "-q").returncode == 0
            backups += 1
        pack.result()
    assert zope.datafs.stat().st_ino != before, "nothing was packed"
    assert backups > 1
    zope.script("backup")
    # A pack rewrites Data.fs, so that a full backup follows.
    assert len([name for name in os.listdir(zope.location) if name.endswith(".fsz")]) > 1


def test_a_site_is_broken_and_comes_back(zope: ZopeSite, pages: dict[str, str]) -> None:
    data, blobs = digest(zope.datafs), every_file(zope.blob_storage)
    assert blobs
    shutil.rmtree(zope.blob_storage)
    with zope.datafs.open("r+b") as file:
        file.truncate(1000)

    zope.script("restore", "-n")
    assert digest(zope.datafs) == data
    restored = every_file(zope.blob_storage)
    assert restored
    assert restored.items() <= blobs.items()
    with zope.running():
        assert zope.read_all() == pages
        zope.write("page1", "after the restore ")
        assert zope.get("pages/page1/read").startswith("after the restore |")
        finished = zope.script("backup")
        assert "ncremental backup" in finished.stderr
    assert zope.script("backup-verify", "--deep").returncode == 0
    drill = zope.script("backup-drill")
    assert "rehearsed: good" in drill.stdout


def test_the_crontab_has_the_lines_of_the_page(zope: ZopeSite) -> None:
    text = (zope.folder / "crontab").read_text()
    assert "# the administrator's own" in text
    parts = cron_parts()
    assert len(parts) > 3
    for options in parts.values():
        command = options["command"].replace("${buildout:bin-directory}", f"{zope.folder}/bin")
        assert f"{options['times']}\t{command}\n" in text
        assert Path(command.split()[0]).exists()


class _Failure(Exception):
    """Something in a test fails."""


def test_a_site_is_stopped_by_its_own_scripts_when_a_test_fails(zope: ZopeSite) -> None:
    with contextlib.suppress(_Failure), zope.running():
        pids = zope.pids()
        assert len(pids) == (2 if zope.with_zeo else 1)
        raise _Failure
    assert not [pid for pid in pids if is_alive(pid)]
    assert zope.killed == []
