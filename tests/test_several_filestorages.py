"""docs/several-filestorages.rst: its buildouts are built, its commands are run, its messages are those that come."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests import test_recipe
from tests.site import Site
from tests.test_docs import PROJECT, blocks

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (PROJECT / "docs" / "several-filestorages.rst").read_text(encoding="utf-8")

develop_eggs = test_recipe.develop_eggs


class Buildout:
    """The folder of the page, with a real buildout and two real databases."""

    def __init__(self, folder: Path, develop_eggs: Path) -> None:
        self.folder = folder
        self._eggs = shutil.copytree(develop_eggs, folder / "develop-eggs", symlinks=True)
        (folder / "bin").mkdir()
        script = folder / "bin" / "buildout"
        script.write_text(f"#!{sys.executable}\nfrom zc.buildout.buildout import main\nmain(['-U'])\n")
        script.chmod(0o755)
        self.plone, self.catalog = (Site(folder / name, seed=seed) for seed, name in enumerate(("one", "two")))

    def configure(self, text: str) -> None:
        """Write what stands on the page as buildout.cfg, and add what lets it run without a network."""
        section, eggs = "[buildout]\n", f"develop =\ndevelop-eggs-directory = {self._eggs}\noffline = true\n"
        assert text.startswith(section)
        (self.folder / "buildout.cfg").write_text(f"{section}{eggs}{text.removeprefix(section)}\n")

    def put_databases_at(self, blobs_of_catalog: str) -> None:
        """Let the two databases stand where the page has them, and open them."""
        names = {self.plone: ("Data.fs", "blobstorage"), self.catalog: ("Catalog.fs", blobs_of_catalog)}
        for site, (data, blobs) in names.items():
            site.datafs, site.blob_storage = self.folder / "var/filestorage" / data, self.folder / "var" / blobs
            site.datafs.parent.mkdir(parents=True, exist_ok=True)
            site.blob_storage.mkdir(exist_ok=True)
            assert site.db
        for site in names:
            self.change(site)

    def change(self, site: Site) -> None:
        site.begin_with_a_blob()
        site.commit_pages(3)
        site.commit_blobs(4)

    def close(self) -> None:
        self.plone.close()
        self.catalog.close()

    def run(self, commands: str) -> subprocess.CompletedProcess[str]:
        """Run lines of shell in the folder, with both databases closed."""
        self.close()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
        return subprocess.run(
            ["bash", "-e", "-c", commands],
            cwd=self.folder,
            env=environment,
            input="yes\n",
            capture_output=True,
            text=True,
            timeout=300,
        )

    def run_well(self, commands: str) -> str:
        finished = self.run(commands)
        assert finished.returncode == 0, finished.stdout + finished.stderr
        return finished.stdout + finished.stderr

    def newest(self, location: str) -> str:
        """The timestamp of the newest backup of Data.fs."""
        return max(path.name for path in (self.folder / "var" / location).glob("*.*fsz"))[:19]


@pytest.fixture
def site(tmp_path: Path, develop_eggs: Path) -> Buildout:
    return Buildout(tmp_path, develop_eggs)


def test_a_part_for_each(site: Buildout) -> None:
    text, commands, cron = blocks("A part for each", PAGE)
    restore = blocks("One of them back", PAGE)[0]
    site.configure(text)
    site.put_databases_at("blobstorage-catalog")
    site.run_well(commands)
    folders = {path.name for path in (site.folder / "var").iterdir()}
    table = PAGE[PAGE.index("=====", PAGE.index("These are the folders")) :].split("\n\n")[0]
    assert {word.strip("`") for word in table.split() if "``" in word} - {"plone", "catalog"} <= folders
    stamp, then = site.newest("catalogs"), site.catalog.state()

    for each in (site.plone, site.catalog):
        site.change(each)
    assert site.run_well(cron.partition(" * * * ")[2].replace("/srv/site", str(site.folder))) == ""
    for each in (site.plone, site.catalog):
        site.change(each)
    site.close()
    other = site.plone.state()
    assert restore.endswith("2026-11-23-18-05-00")
    assert stamp in site.run_well(restore.replace("2026-11-23-18-05-00", stamp))
    site.catalog.assert_is(then)
    assert (site.plone.data, site.plone.blobs) == (other.data, other.blobs)
    assert site.plone.read_everything() > 0
    site.close()


def test_a_cron_job_goes_on_with_the_next_part(site: Buildout) -> None:
    text, commands, cron = blocks("A part for each", PAGE)
    site.configure(text)
    site.put_databases_at("blobstorage-catalog")
    site.run_well(commands)
    before = site.newest("catalogs")
    for each in (site.plone, site.catalog):
        site.change(each)
    site.close()
    site.plone.datafs.write_bytes(b"not a database")
    command = cron.partition(" * * * ")[2].replace("/srv/site", str(site.folder))
    finished = site.run(f"set +e\n{command}")
    assert "Data.fs" in finished.stderr
    assert site.newest("catalogs") > before


def test_two_databases_with_one_blob_storage(site: Buildout) -> None:
    (text,) = blocks("When two databases share a blob storage", PAGE)
    site.configure(text)
    site.put_databases_at("blobstorage")
    site.run_well("bin/buildout\nbin/plone\nbin/catalog")
    then = site.catalog.state()
    copied = sum(len(files) for _, _, files in os.walk(site.folder / "var/catalog-blobstorages/blobs"))
    assert copied == len(then.needed) + 1  # and .layout
    for each in (site.plone, site.catalog):
        site.change(each)
    site.close()
    other = site.plone.state()
    site.run_well("bin/catalog-restore -n")
    assert (site.catalog.data, site.catalog.state().needed) == (then.data, then.needed)
    assert (site.plone.data, site.plone.state().needed) == (other.data, other.needed)
    for each in (site.plone, site.catalog):
        assert each.read_everything() > 0
    site.close()


def test_a_pack_of_one_takes_blobs_of_the_other(site: Buildout) -> None:
    """Not ours to mend: it is why the page says that each should have its own."""
    site.put_databases_at("blobstorage")
    before = set(site.catalog.state().needed)
    while site.plone.delete():
        pass
    site.plone.pack()
    assert set(site.catalog.state().needed) < before
    site.close()


def test_the_messages_are_those_that_buildout_has(site: Buildout) -> None:
    shown = [" ".join(block.split()) for block in blocks("What buildout may say", PAGE)]
    text = blocks("A part for each", PAGE)[0]
    shared = blocks("When two databases share a blob storage", PAGE)[0]
    configurations = (
        text.replace("[catalog]\n", "[catalog]\nlocation = backups\n").replace(
            "[plone]\n", "[plone]\nlocation = backups\n"
        ),
        shared.replace("shared_blob_storage = true", "", 1),
        text.replace("[plone]\n", "[plone]\nadditional_filestorages = Catalog\n"),
    )
    for configuration, message in zip(configurations, shown, strict=True):
        site.configure(configuration)
        finished = site.run("bin/buildout")
        output = (finished.stdout + finished.stderr).replace(str(site.folder), "/srv/site")
        assert message in " ".join(output.split())
        assert (finished.returncode == 0) == ("additional" in message)
        assert ("Error: " in output) == ("additional" not in message)
        assert (site.folder / "bin" / "plone").exists() == ("additional" in message)
