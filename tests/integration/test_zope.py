"""A real Zope, with a ZEO server and without: backed up while requests run, packed, broken, restored, read again."""

from __future__ import annotations

import hashlib
import shutil
import threading
from typing import TYPE_CHECKING

import pytest

from tests.integration.zopes import ZopeSite, make_zope

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

ROUNDS = 6


@pytest.fixture(params=["with ZEO", "without ZEO"])
def zope(request: pytest.FixtureRequest, buildout: Path, eggs: Path, tmp_path: Path) -> ZopeSite:
    return make_zope(buildout, tmp_path / "site", eggs, with_zeo=request.param == "with ZEO")


class Writer(threading.Thread):
    """Requests that write, one after the other, until it is told to stop. pages: what each page has to be now."""

    def __init__(self, zope: ZopeSite) -> None:
        super().__init__()
        self.zope = zope
        self.over = threading.Event()
        self.pages: dict[str, str] = {}
        self.number = 0

    def run(self) -> None:
        while not self.over.is_set():
            self.number += 1
            name, text = f"page{self.number % 20}", f"text {self.number} "
            self.zope.write(name, text)
            self.pages[name] = f"{text}|{text * 50}"

    def __enter__(self) -> Writer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def every_file(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): digest(path)
        for path in sorted(folder.rglob("*.blob"))
        if "tmp" not in path.parts
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
                with PackInBackground(zope):
                    zope.script("backup")
        assert writer.number > ROUNDS
        writer.over.set()
        writer.join()
        zope.script("backup")
        refused = zope.script("restore", "-n", check=False)
        assert refused.returncode == 1
        assert "Stop Zope" in refused.stderr
        assert zope.read_all() == writer.pages
    return writer.pages


class PackInBackground:
    """`bin/zeopack`, while something else is done."""

    def __init__(self, zope: ZopeSite) -> None:
        self.failure: BaseException | None = None

        def pack() -> None:
            try:
                zope.script("zeopack")
            except AssertionError as error:
                self.failure = error

        self.thread = threading.Thread(target=pack)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.thread.join()
        assert self.failure is None, self.failure


def test_a_site_is_broken_and_comes_back(zope: ZopeSite, pages: dict[str, str]) -> None:
    data, blobs = digest(zope.datafs), every_file(zope.blob_storage)
    shutil.rmtree(zope.blob_storage)
    with zope.datafs.open("r+b") as file:
        file.truncate(1000)

    zope.script("restore", "-n")
    assert digest(zope.datafs) == data
    restored = every_file(zope.blob_storage)
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


def test_the_crontab_has_our_line(zope: ZopeSite) -> None:
    text = (zope.folder / "crontab").read_text()
    assert "# the administrator's own" in text
    assert f"0 3 * * *\t{zope.folder}/bin/backup -q" in text
