"""docs/moving-over.rst: a real site goes the way that the page tells, to this recipe and back to the old one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from benchmarks.environments import THEIRS, make_buildout

from tests import test_recipe
from tests.interop.differences import rst_table
from tests.site import PretendClock, Site, State
from tests.test_docs import PROJECT, blocks
from zodbvault.options import OPTION_BY_NAME, UPSTREAM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = (PROJECT / "docs" / "moving-over.rst").read_text(encoding="utf-8")

develop_eggs = test_recipe.develop_eggs


class Mover:
    """A site with a buildout in which the recipe can be the old one or ours."""

    def __init__(self, site: Site, develop_eggs: Path) -> None:
        self.site = site
        self.folder = site.folder
        self.states: dict[str, State] = {}
        self._eggs = shutil.copytree(develop_eggs, self.folder / "our-develop-eggs", symlinks=True)
        self._options = {**site.plain_options(), "keep": "2", "enable_zipbackup": "true"}
        site.begin_with_a_blob()

    def use_theirs(self) -> None:
        self._forget_parts()
        make_buildout(THEIRS, self.folder, self._options)

    def change_the_line(self) -> None:
        """Change what the page says, in the buildout of the old recipe, and give ours its bin/buildout."""
        self._forget_parts()
        (line,) = blocks("The line that changes", PAGE)[:1]
        path = self.folder / "buildout.cfg"
        text = path.read_text()
        assert text.count("recipe = collective.recipe.backup") == 1
        text = text.replace("recipe = collective.recipe.backup", line)
        path.write_text(text.replace("[buildout]\n", f"[buildout]\ndevelop-eggs-directory = {self._eggs}\ndevelop =\n"))
        script = self.folder / "bin" / "buildout"
        script.write_text(f"#!{sys.executable}\nfrom zc.buildout.buildout import main\nmain(['-U'])\n")
        script.chmod(0o755)

    def _forget_parts(self) -> None:
        """buildout asks the recipe of a part that changes; here each recipe has an environment of its own."""
        (self.folder / ".installed.cfg").unlink(missing_ok=True)

    def run(self, commands: str) -> str:
        """Run lines of shell in the folder of the site, which is closed."""
        self.site.close()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
        finished = subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout + finished.stderr

    def change_and_back_up(self) -> str:
        self.site.commit_pages(2)
        self.site.commit_blobs(3)
        before = set(self.site.timestamps())
        time.sleep(1.1)  # the old recipe's names have seconds, and it does not wait for the next one
        self.run("bin/backup -q")
        (stamp,) = set(self.site.timestamps()) - before
        self.states[stamp] = self.site.state()
        return stamp

    def require_each_date(self) -> None:
        """bin/restore brings back each date that is still kept: the bytes, and every blob that they refer to."""
        for stamp, state in sorted(self.states.items()):
            self.run(f"bin/restore -n {stamp}")
            assert self.site.datafs.read_bytes() == state.data, stamp
            found = self.site.blobs
            assert {key: found.get(key) for key in state.needed} == state.needed, stamp


@pytest.fixture
def mover(upstream: None, tmp_path: Path, develop_eggs: Path) -> Iterator[Mover]:
    site = Site(tmp_path / "site")
    site.clock = PretendClock(time.time())
    yield Mover(site, develop_eggs)
    site.close()


def inodes(folder: Path) -> set[int]:
    return {path.stat().st_ino for path in folder.rglob("*.blob")}


def test_a_site_moves_over_and_back_and_over_again(mover: Mover) -> None:
    _, over = blocks("The line that changes", PAGE)
    make_directory, clean_up = blocks("The way back", PAGE)
    mover.use_theirs()
    mover.change_and_back_up()
    old = mover.change_and_back_up()

    mover.change_the_line()
    (layout,) = blocks("Which layout your blobs get", PAGE)
    output = mover.run(over)
    assert layout in output
    assert "2 backups checked (names, sizes and checksums): 2 restore." in output
    pool = mover.site.blob_location / "blobs"
    assert inodes(pool) == inodes(mover.site.blob_location / f"blobstorage.{old}")
    mover.change_and_back_up()
    newest = mover.change_and_back_up()
    assert len([name for name in mover.site.names() if name.endswith(".fsz")]) == 1  # theirs, continued
    mover.run("bin/zipbackup -q")

    mover.use_theirs()
    mover.run(make_directory)
    mover.require_each_date()
    theirs = mover.change_and_back_up()
    assert inodes(pool) <= inodes(mover.site.blob_location / f"blobstorage.{theirs}")
    mover.site.commit_blobs(2)
    mover.run("bin/ziprestore -n")
    assert mover.site.datafs.read_bytes() == mover.states[newest].data
    assert mover.site.state().needed == mover.states[newest].needed
    mover.run(clean_up)
    mover.require_each_date()

    mover.change_the_line()
    mover.run(over)
    mover.change_and_back_up()
    mover.require_each_date()


def test_the_old_recipe_restores_from_an_old_directory_where_the_pool_was_forgotten(mover: Mover) -> None:
    """Why the page says not to leave it out."""
    mover.use_theirs()
    mover.change_and_back_up()
    mover.change_the_line()
    mover.run("bin/buildout")
    newest = mover.change_and_back_up()
    mover.use_theirs()
    mover.run("bin/restore -n")
    state = mover.states[newest]
    assert mover.site.datafs.read_bytes() == state.data
    assert mover.site.blobs.keys() < state.needed.keys()


def test_the_table_of_options_has_them_all() -> None:
    table = PAGE[PAGE.index("Your options\n") : PAGE.index("What is different on purpose\n")]
    rows = re.findall(r"^   \* - (.*(?:\n       .*)*)", table, re.MULTILINE)
    named = [name for row in rows for name in re.findall("``([a-z_-]+)``", row)]
    theirs = [option for option in OPTION_BY_NAME.values() if option.since.startswith(UPSTREAM)]
    expected = {name for option in theirs for name in (option.name, *option.aliases)}
    assert sorted(named) == sorted(expected)


def test_the_table_of_differences_is_the_one_that_the_tests_show() -> None:
    assert rst_table() in PAGE
