"""Names of scripts, folders and exit codes are theirs, for any part and each option that offers something.

What differs on purpose stands in differences.py.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from benchmarks.environments import OURS, THEIRS

from tests.interop.differences import MORE_SCRIPTS
from tests.interop.sides import Side, Sides
from tests.interop.upstream import run_buildout

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("upstream")]

full = pytest.mark.interop_full

SOURCE = "Data HERE/var/{location} HERE/var/{blobs}"
OPTIONS: dict[str, dict[str, str]] = {
    "nothing": {},
    "zip backups": {"enable_zipbackup": "true"},
    "no restore of snapshots": {"enable_snapshotrestore": "false"},
    "another source": {"alternative_restore_source": "SOURCE"},
    "everything": {"enable_zipbackup": "on", "alternative_restore_sources": "SOURCE", "enable_snapshotrestore": "Yes"},
    "no blobs": {"backup_blobs": "false", "blob_storage": ""},
    "blobs alone": {"only_blobs": "true"},
    "elsewhere": {"locationprefix": "HERE/elsewhere", "enable_zipbackup": "1"},
    "each folder": {
        "enable_zipbackup": "true",
        "location": "a",
        "blobbackuplocation": "b",
        "snapshotlocation": "HERE/c",
        "blobsnapshotlocation": "d/e",
        "ziplocation": "f",
        "blobziplocation": "g",
    },
    "archives": {"archive_blob": "true", "compress_blob": "true", "enable_zipbackup": "true"},
    "numbers": {"blob_timestamps": "false", "full": "true"},
}
SCRIPTS = ("backup", "snapshotbackup", "zipbackup", "restore", "snapshotrestore", "ziprestore", "altrestore")
BY_DEFAULT = {("backup", "everything"), ("plone", "no restore of snapshots")}


def in_part(part: str, options: dict[str, str]) -> dict[str, str]:
    """Options whose other source is what the part itself backs up."""
    names = {"location": "backups", "blobs": "blobstoragebackups"}
    if part != "backup":
        names = {"location": f"{part}s", "blobs": f"{part}-blobstorages"}
    return {name: value.replace("SOURCE", SOURCE.format(**names)) for name, value in options.items()}


def folders_of(side: Side) -> set[str]:
    """The folders that hold backups, below that of the buildout."""
    found = set()
    for place, _, names in os.walk(side.folder):
        path = os.path.relpath(place, side.folder)
        if any(name[:2] == "20" or name.startswith("blobstorage.") for name in names):
            found.add(path)
        if os.path.basename(path).startswith("blobstorage."):
            found.add(os.path.dirname(path))
    return {path for path in found if "blobstorage." not in path}


@pytest.mark.parametrize(
    ("part", "name"),
    [
        pytest.param(part, name, marks=() if (part, name) in BY_DEFAULT else full)
        for part in ("backup", "plone")
        for name in OPTIONS
    ],
)
def test_scripts_folders_and_codes_are_theirs(part: str, name: str, tmp_path: Path) -> None:
    options = in_part(part, OPTIONS[name])
    if "archive_blob" not in options:
        options = {"blob_layout": "directories", **options} if "backup_blobs" not in options else options
    both = Sides(tmp_path, options, part=part)
    theirs, ours = both.both
    assert [side.made.returncode for side in both.both] == [0, 0], [side.made.stdout for side in both.both]
    more = {f"{part}-{name}" for name in MORE_SCRIPTS}
    assert more <= ours.scripts
    assert ours.scripts - more == theirs.scripts
    offered = [script for script in SCRIPTS if theirs.script_name(script) in theirs.scripts]
    codes: dict[str, tuple[int, int]] = {}
    for script in [script for script in offered if "restore" not in script]:
        codes[script] = both.codes(script)
    for side in both.both:
        side.site.commit_blobs(2)
    codes["backup again"] = both.codes("backup", "-q")
    codes["backup without changes"] = both.codes("backup", "--quiet")
    for script in [script for script in offered if "restore" in script]:
        codes[script] = both.codes(script, "-n")
        codes[f"{script} asked"] = both.codes(script, answer="yes\n")
    # Nothing fails here, and both agree.
    assert set(codes.values()) == {(0, 0)}, codes
    assert folders_of(ours) == folders_of(theirs) != set()


WHEN_IT_FAILS: dict[str, Callable[[Side], int]] = {
    "help": lambda side: side.code("backup", "--help"),
    "help of restore": lambda side: side.code("restore", "-h"),
    "an unknown option": lambda side: side.code("backup", "--qiuet"),
    "a date before all": lambda side: side.code("restore", "-n", "2001-01-01"),
    "a date alone, before": lambda side: side.code("restore", "-n", "2024-02-26"),
    "a date alone, after": lambda side: side.code("restore", "-n", "2024-02-27"),
    "the end of the input for an answer": lambda side: side.code("restore"),
    "a snapshot that is not there": lambda side: side.code("snapshotrestore", "-n"),
}


@pytest.fixture(scope="module")
def backed_up(tmp_path_factory: pytest.TempPathFactory, upstream: None) -> Sides:
    both = Sides(tmp_path_factory.mktemp("sides"), {"blob_layout": "directories"})
    both.backups(2)
    return both


EXPECTED = {"help": 0, "help of restore": 0, "an unknown option": 2, "a date alone, after": 0}


@pytest.mark.parametrize("what", WHEN_IT_FAILS)
def test_exit_codes_are_equal(what: str, backed_up: Sides) -> None:
    theirs, ours = (WHEN_IT_FAILS[what](side) for side in backed_up.both)
    assert theirs == ours == EXPECTED.get(what, 1)


@pytest.mark.parametrize(
    ("options", "backup", "restore"),
    [
        ({"pre_command": "exit 3"}, 1, 1),
        ({"post_command": "true\n  exit 3"}, 1, 1),
        ({"datafs": "HERE/var/filestorage/Missing.fs"}, 1, 1),
    ],
    ids=["pre_command", "post_command", "no Data.fs"],
)
def test_failures_have_their_exit_codes(options: dict[str, str], backup: int, restore: int, tmp_path: Path) -> None:
    both = Sides(tmp_path, options)
    assert both.codes("backup") == (backup, backup)
    assert both.codes("restore", "-n") == (restore, restore)


@full
@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"blob_storage": "a", "blob-storage": "b"}, 1),
        ({"blob_storage": "a", "blob-storage": "a"}, 0),
        ({"blob-storage": "a"}, 0),
        ({}, 1),
        ({"backup_blobs": "false"}, 0),
        ({"backup_blobs": "false", "only_blobs": "true"}, 1),
        ({"backup_blobs": "false", "enable_zipbackup": "true"}, 1),
        ({"blob_storage": "a", "location": "/tmp/one", "snapshotlocation": "/tmp/one"}, 1),
        ({"blob_storage": "a", "blob_timestamps": "false", "incremental_blobs": "true"}, 1),
        ({"blob_storage": "a", "alternative_restore_source": "Data /tmp/one"}, 1),
        ({"blob_storage": "a", "alternative_restore_source": "1 /tmp/one /tmp/two"}, 0),
        ({"blob_storage": "a", "alternative_restore_source": "other /tmp/one /tmp/two"}, 1),
        ({"backup_blobs": "false", "alternative_restore_source": "Data /tmp/one /tmp/two"}, 1),
    ],
)
def test_buildout_accepts_and_refuses_the_same(options: dict[str, str], code: int, tmp_path: Path) -> None:
    made = [run_buildout(whose, tmp_path / whose, options) for whose in (THEIRS, OURS)]
    assert [each.returncode for each in made] == [code, code], [each.stdout for each in made]
