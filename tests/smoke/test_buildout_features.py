"""What buildouts of real sites use of zc.buildout: each feature in a real run, and the scripts that come of it."""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib.metadata import distributions, version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.smoke.sites import PART, VERSION, Packages, Site, build_wheel, set_version

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.smoke

NEWER = "90.2"

SITE_POLICY = """
from setuptools import find_packages, setup
setup(name="sitepolicy", version="1", package_dir={"": "src"}, packages=find_packages("src"))
"""


def pins(**more: str) -> str:
    """A section that pins everything that is in this environment."""
    found = {each.metadata["Name"]: each.version for each in distributions()} | more
    return "[versions]\n" + "".join(f"{name} = {pin}\n" for name, pin in found.items())


def used_version(site: Site) -> str:
    """The version of zodbvault that bin/backup starts."""
    (line,) = [line for line in (site.folder / "bin" / "backup").read_text().splitlines() if "/zodbvault-" in line]
    return line.partition("/zodbvault-")[2].partition("-")[0]


def record_of(site: Site, stamp: str) -> Mapping[str, object]:
    record: Mapping[str, object] = json.loads((site.folder / "var" / "backups" / f"{stamp}.json").read_text())
    return record


def assert_backs_up_and_restores(site: Site) -> None:
    state = site.write(7)
    site.script("backup")
    site.destroy()
    site.script("restore", "-n")
    assert site.state() == state


# Where packages come from


def test_offline_asks_nobody(site: Site) -> None:
    head = f"parts = backup\ndevelop = {site.packages.project}\nnewest = true"
    site.configure(head=f"{head}\noffline = true")
    site.buildout()
    site.configure(head=head)
    site.buildout("-o")
    assert site.packages.index.asked == []
    site.write(1)
    site.backup()


def test_offline_uses_what_was_fetched_before(site: Site) -> None:
    """Not with zc.buildout 5 and 6: offline they find no recipe that came as a wheel; docs/buildout.rst says so."""
    works = int(version("zc.buildout").partition(".")[0]) < 5
    site.configure(head="parts = backup\noffline = true")
    output = site.buildout(expected=0 if works else 1)
    assert ("offline (no-install) mode" in output) == (not works)
    if works:
        assert used_version(site) == VERSION
        assert site.packages.index.asked == []


def test_newest_false_keeps_what_is_there(site: Site, packages: Packages, tmp_path: Path) -> None:
    head = "parts = backup\neggs-directory = eggs\nnewest = {}"
    site.configure(head=head.format("false"))
    site.buildout()
    assert used_version(site) == VERSION

    # A newer one is published.
    project = Path(shutil.copytree(packages.project, tmp_path / "newer"))
    set_version(project, NEWER)
    wheels = Path(shutil.copytree(packages.wheels, tmp_path / "wheels"))
    build_wheel(project, wheels)
    site.packages = Packages(project, wheels, packages.eggs, packages.index)
    packages.index.asked.clear()
    site.configure(head=head.format("false"))
    site.buildout()
    assert used_version(site) == VERSION
    assert packages.index.asked == []
    site.configure(head=head.format("true"))
    site.buildout()
    assert used_version(site) == NEWER
    assert "/simple/zodbvault/" in packages.index.asked

    # A pin takes it back.
    site.configure(f"{PART}[versions]\nzodbvault = {VERSION}\n", head=head.format("true"))
    site.buildout()
    assert used_version(site) == VERSION


def test_every_version_is_pinned(site: Site) -> None:
    head = "extends = versions.cfg\nparts = backup\nallow-picked-versions = false"
    versions = site.folder / "versions.cfg"
    versions.write_text(pins(zodbvault=VERSION))
    site.configure(head=head)
    site.buildout()
    assert used_version(site) == VERSION

    versions.write_text(pins(zodbvault="89"))
    output = site.buildout(expected=1)
    assert "zodbvault==89" in output

    versions.write_text(pins())
    output = site.buildout(expected=1)
    assert "Picked: zodbvault" in output


def test_sources_below_src_are_developed(site: Site, packages: Packages) -> None:
    """As mr.developer leaves them: whatever has been checked out there."""
    sources = site.folder / "src"
    project = Path(shutil.copytree(packages.project, sources / "zodbvault"))
    set_version(project, "90.3")
    policy = sources / "sitepolicy"
    (policy / "src" / "sitepolicy").mkdir(parents=True)
    (policy / "src" / "sitepolicy" / "__init__.py").write_text("")
    (policy / "setup.py").write_text(SITE_POLICY)
    # zc.buildout 5 does not find sources that have no egg-info yet, whoever asks for them.
    has_policy = not version("zc.buildout").startswith("5.")
    eggs = "eggs =\n    zodbvault\n    sitepolicy\n" if has_policy else ""
    site.configure(f"{PART}{eggs}", head="parts = backup\ndevelop = src/*")
    site.buildout()
    text = (site.folder / "bin" / "backup").read_text()
    assert str(project / "src") in text
    assert (str(policy / "src") in text) == has_policy
    site.write(1)
    assert record_of(site, site.backup())["engine"] == "90.3"

    # A change of the source holds at once.
    set_version(project, "90.4")
    site.write(2)
    assert record_of(site, site.backup())["engine"] == "90.4"

    site.configure(head="parts = backup")
    site.buildout()
    assert used_version(site) == VERSION
    site.write(3)
    assert record_of(site, site.backup())["engine"] == VERSION


# How configurations are put together


BASE = """
[buildout]
parts =
    repozo
    backup

[defaults]
recipe = zodbvault
keep = 3
nice = 5

[backup]
<= defaults
pre_command =
    echo one >> said
    echo two >> said
datafs = var/filestorage/Data.fs
blob_storage = var/blobstorage

[repozo]
recipe = zc.recipe.egg
eggs = ZODB
scripts = repozo
"""

PRODUCTION = """
[backup]
keep = 5
pre_command -= echo one >> said
pre_command += echo three >> said

[catalog]
<= backup
datafs = var/filestorage/Catalog.fs
blob_storage = var/catalog-blobs
keep = 7
pre_command = echo catalog >> said
"""


def test_configurations_extend_add_subtract_and_inherit(site: Site) -> None:
    site.configure(PRODUCTION, head="extends = profiles/base.cfg\nparts -= repozo\nparts += catalog")
    profiles = site.folder / "profiles"
    profiles.mkdir()
    (profiles / "base.cfg").write_text(BASE)
    site.buildout()
    scripts = set(os.listdir(site.folder / "bin"))
    assert {"backup", "catalog"} <= scripts
    assert "repozo" not in scripts
    assert "'keep': 5," in (site.folder / "bin" / "backup").read_text()
    assert "'keep': 7," in (site.folder / "bin" / "catalog").read_text()
    assert "'nice': 5," in (site.folder / "bin" / "catalog").read_text()
    site.write(1)
    site.script("backup", folder=site.folder)
    assert (site.folder / "said").read_text().splitlines() == ["two", "three"]
    shutil.copytree(site.folder / "var" / "blobstorage", site.folder / "var" / "catalog-blobs")
    shutil.copy(site.folder / "var" / "filestorage" / "Data.fs", site.folder / "var" / "filestorage" / "Catalog.fs")
    site.script("catalog", folder=site.folder)
    assert (site.folder / "said").read_text().splitlines() == ["two", "three", "catalog"]

    # An option on the command line wins, and only the parts that are named are made.
    site.buildout("backup:keep=9", "install", "backup")
    assert "'keep': 9," in (site.folder / "bin" / "backup").read_text()
    assert "'keep': 7," in (site.folder / "bin" / "catalog").read_text()


# Folders


def test_folders_elsewhere(site: Site, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    site.configure(
        "[backup]\nrecipe = zodbvault\nblob_storage = var/blobstorage\n",
        head=f"""
        parts = backup
        bin-directory = {elsewhere}/programs/bin
        eggs-directory = {elsewhere}/eggs
        parts-directory = {elsewhere}/parts
        develop-eggs-directory = {elsewhere}/develop-eggs
        installed = {elsewhere}/installed.cfg
        """,
    )
    (elsewhere / "programs").mkdir(parents=True)
    site.buildout()
    assert os.listdir(site.folder) == ["buildout.cfg"]
    script = elsewhere / "programs" / "bin" / "backup"
    assert re.search(rf"'{elsewhere}/eggs/(v5/)?zodbvault-", script.read_text())
    assert "Updating backup" in site.buildout()

    # Paths start from the folder above that of the scripts.
    other = Site(script.parent.parent, site.packages)
    made = {"backups", "blobstoragebackups", "snapshotbackups", "blobstoragesnapshots"}
    assert set(os.listdir(other.folder / "var")) == made
    assert_backs_up_and_restores(other)


def test_buildout_is_called_from_another_folder(site: Site, tmp_path: Path) -> None:
    path = site.configure()
    here = tmp_path / "here"
    here.mkdir()
    site.buildout("-c", str(path), folder=here)
    site.buildout("-c", os.path.relpath(path, here), folder=here)
    assert os.listdir(here) == []
    assert_backs_up_and_restores(site)


RELATIVE = "parts = backup repozo\neggs-directory = eggs\nrelative-paths = true"


def test_a_tree_with_relative_paths_may_be_moved(site: Site, tmp_path: Path) -> None:
    outside = tmp_path / "disk" / "snapshots"
    text = f"{PART}snapshotlocation = {outside}\nlog_file = backup.log\n"
    repozo = "[repozo]\nrecipe = zc.recipe.egg\neggs = ZODB\nscripts = repozo\n"
    site.configure(text + repozo, head=RELATIVE)
    site.buildout()
    before = site.write(1)
    first = site.backup()
    old = site.folder
    for script in (old / "bin").iterdir():
        assert str(old) not in script.read_text(), script

    moved = Site(Path(shutil.move(old, tmp_path / "moved")), site.packages)
    assert "othing" in moved.script("backup").stderr
    after = moved.write(2)
    second = moved.backup()
    assert moved.timestamps() == [first, second]
    assert (moved.folder / "var" / "backups" / f"{second}.deltafsz").exists()
    moved.script("backup-verify")
    moved.script("snapshotbackup")
    assert list(outside.glob("*.fsz"))
    moved.destroy()
    moved.script("restore", "-n", first)
    assert moved.state() == before
    moved.script("restore", "-n")
    assert moved.state() == after
    assert "ncremental" in (moved.folder / "backup.log").read_text()
    assert not old.exists()

    # Buildout goes on there.
    moved.buildout()
    assert "othing" in moved.script("backup").stderr
    assert not old.exists()


def test_a_tree_behind_a_link_may_be_moved(site: Site, tmp_path: Path) -> None:
    """The scripts find themselves where they really are."""
    link = tmp_path / "current"
    link.symlink_to(site.folder)
    linked = Site(link, site.packages)
    path = linked.configure(head="parts = backup\neggs-directory = eggs\nrelative-paths = true")
    # From another folder: in its own the system would tell buildout where that really is.
    linked.buildout("-c", str(path), folder=tmp_path)
    linked.write(1)
    linked.script("backup")
    link.unlink()
    moved = Site(Path(shutil.move(site.folder, tmp_path / "moved")), site.packages)
    assert "othing" in moved.script("backup").stderr
    assert_backs_up_and_restores(moved)


def test_scripts_outside_of_a_tree_with_relative_paths(site: Site, tmp_path: Path) -> None:
    """There is nothing that paths could be relative to; they stay absolute, and buildout says so."""
    (tmp_path / "programs").mkdir()
    head = f"parts = backup\nrelative-paths = true\nbin-directory = {tmp_path}/programs/bin"
    site.configure(head=head)
    assert "relative-paths" in site.buildout()
    assert_backs_up_and_restores(Site(tmp_path / "programs", site.packages))
