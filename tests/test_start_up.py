"""What a generated script imports: its start is most of the cost of a backup that finds no change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import transaction
import ZODB.DB
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage

import zodbvault
from tests.site import without_coverage
from zodbvault.settings import Surroundings, parse_settings, settings_to_plain

# What no script of a site has any business with, whatever it does.
FOREIGN = frozenset(
    {
        "BTrees", "ZConfig", "ZODB", "asyncio", "multiprocessing", "persistent", "pkg_resources", "rich", "setuptools",
        "tomli", "tomllib", "transaction", "zc", "zodbpickle", "zodbvault.cli", "zodbvault.options", "zodbvault.recipe",
        "zodbvault.settings", "zodbvault.site_file", "zope",
    }
)  # fmt: skip

# What is slow to import, and not needed as long as a backup has little to do.
SLOW = frozenset(
    {
        "argparse", "concurrent.futures", "ctypes", "dataclasses", "difflib", "email", "gzip", "importlib.metadata",
        "pickle", "shtab", "shutil", "socket", "subprocess", "tempfile", "zodbvault.examples", "zodbvault.manual",
        "zodbvault.parser", "zodbvault.reference", "zodbvault.shell_completion",
    }
)  # fmt: skip

SCRIPT = """
import sys
before = set(sys.modules)
sys.path[0:0] = [{source!r}]
settings = {plain!r}

import zodbvault.scripts

if __name__ == "__main__":
    code = zodbvault.scripts.run({command!r}, settings)
    import json
    print(json.dumps(sorted(set(sys.modules) - before)))
    sys.exit(code)
"""


class Site:
    """A database with blobs, and a script as the recipe writes it that also says what it imported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        around = Surroundings("backup", "[backup]", folder, folder / "var", "Data.fs", "blobs")
        self.plain = settings_to_plain(parse_settings({"enable_zipbackup": True}, around).settings)

    def commit(self, name: str) -> None:
        database = ZODB.DB(FileStorage(str(self.folder / "Data.fs"), blob_dir=str(self.folder / "blobs")))
        with database.transaction() as connection:
            connection.root()[name] = Blob(b"x" * 100)
        database.close()
        transaction.abort()

    def imported(self, command: str, *arguments: str) -> set[str]:
        """Run the script; the modules that it imported beyond those of Python's own start."""
        script = self.folder / command
        source = str(Path(zodbvault.__file__).parent.parent)
        script.write_text(SCRIPT.format(source=source, plain=self.plain, command=command))
        finished = subprocess.run(
            [sys.executable, str(script), "-q", *arguments],
            env=without_coverage(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert finished.returncode == 0, finished.stderr
        return set(json.loads(finished.stdout.splitlines()[-1]))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.commit("one")
    return site


def found(forbidden: frozenset[str], modules: set[str]) -> set[str]:
    """The modules that are forbidden, or lie in a package that is."""
    return {name for name in modules if any(name == other or name.startswith(f"{other}.") for other in forbidden)}


def test_the_start_alone_imports_little() -> None:
    code = "import sys; before = set(sys.modules); import zodbvault.scripts; print(*(set(sys.modules) - before))"
    finished = subprocess.run(
        [sys.executable, "-c", code], env=without_coverage(), capture_output=True, text=True, timeout=300, check=True
    )
    ours = {module for module in finished.stdout.split() if module.startswith("zodbvault.")}
    assert ours == {
        "zodbvault.arguments",
        "zodbvault.console",
        "zodbvault.errors",
        "zodbvault.scripts",
        "zodbvault.site_settings",
    }
    assert found(FOREIGN | SLOW, set(finished.stdout.split())) == set()


def test_naming_a_backup_imports_no_calendar() -> None:
    code = (
        "import sys; from zodbvault.repository.timestamps import next_timestamp, timestamp_of; "
        "timestamp_of(0); next_timestamp('2026-11-23-18-05-00', 2_000_000_000); "
        "print(sorted({'calendar', '_strptime', 'datetime', 'locale'} & set(sys.modules)))"
    )
    environment = {**without_coverage(), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_an_incremental_and_no_change_import_nothing_slow(site: Site) -> None:
    assert found(FOREIGN, site.imported("backup")) == set()
    site.commit("two")
    incremental = site.imported("backup")
    assert found(FOREIGN | SLOW, incremental) == set()
    unchanged = site.imported("backup")
    assert found(FOREIGN | SLOW, unchanged) == set()
    assert unchanged <= incremental


@pytest.mark.parametrize(
    "command",
    [
        "snapshot",
        "list",
        "log",
        "check",
        "verify",
        "verify --deep",
        "restore -n",
        "restore --dry-run",
        "snapshotrestore -n",
        "ziprestore -n",
        "schedule",
        "schedule --systemd",
    ],
)
def test_no_command_needs_zodb_or_buildout(command: str, site: Site) -> None:
    site.imported("backup")
    site.imported("snapshot")
    assert found(FOREIGN, site.imported("zipbackup")) == set()
    assert found(FOREIGN, site.imported(*command.split())) == set()


def test_what_looks_at_names_and_records_waits_for_nothing_that_restores(site: Site) -> None:
    site.imported("backup")
    for command in ("list", "check"):
        heavy = {"tempfile", "zodbvault.blobs.target", "zodbvault.commands.state_in_use"}
        assert site.imported(command) & heavy == set(), command
