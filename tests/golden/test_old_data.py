"""Databases that old ZODBs wrote, on Python 2 too: they are backed up, continued, restored and verified byte by byte.

No ZODB of today opens those with the magic of Python 2, so nothing here does; `old_data/` says how they were made.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ZODB.scripts import repozo

from tests.site import BlobKey, Site, blob_files, committed_tids

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).resolve().parent / "old_data"
DATABASES = sorted(path.parent for path in HERE.glob("*/Data.fs"))
MAGICS = {"ZODB3": b"FS21", "ZODB-": b"FS30"}


class OldSite:
    """A site with such a database, which grows to each of its `ends`; the bytes and blobs of each state."""

    def __init__(self, database: Path, folder: Path, options: dict[str, str]) -> None:
        self.site = Site(folder, options=options)
        self.blob_storage = self.site.blob_storage or folder
        self.ends: list[int] = json.loads((database / "ends.json").read_text())["ends"]
        self.data = (database / "Data.fs").read_bytes()
        self.every_blob = {key: path.read_bytes() for key, path in blob_files(database / "blobs").items()}
        shutil.copytree(database / "blobs", self.blob_storage, dirs_exist_ok=True)
        (self.blob_storage / "tmp").mkdir(exist_ok=True)

    def grow_to(self, end: int) -> None:
        """More transactions, in the same file."""
        with self.site.datafs.open("ab") as file:
            file.write(self.data[file.tell() : end])

    def blobs_at(self, end: int) -> dict[BlobKey, bytes]:
        """Those that a state may have: nothing that a later transaction wrote."""
        last = max(int.from_bytes(tid, "big") for tid, _ in committed_tids(self.data[:end]))
        return {key: content for key, content in self.every_blob.items() if key[1] <= last}

    def live(self) -> dict[str, int]:
        """A backup at each end; the ends by timestamp."""
        states = {}
        for end in self.ends:
            self.grow_to(end)
            stamp = self.site.backup().timestamp
            assert stamp is not None
            states[stamp] = end
        return states


@pytest.fixture(params=DATABASES, ids=lambda path: path.name)
def database(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture(params=["pool", "directories", "archives"])
def old(request: pytest.FixtureRequest, database: Path, tmp_path: Path) -> Iterator[OldSite]:
    old = OldSite(database, tmp_path / "site", {"blob_layout": request.param})
    yield old
    old.site.close()


def test_there_are_databases_of_python_2_and_3() -> None:
    magics = {path.name: (path / "Data.fs").read_bytes()[:4] for path in DATABASES}
    assert {name: magic for name, magic in magics.items() if "converted" not in name} == {
        name: MAGICS[name[:5]] for name in magics if "converted" not in name
    }
    assert magics["ZODB3-3.10.7-converted"] == b"FS30"
    assert set(magics.values()) == {b"FS21", b"FS30"}


def test_each_state_restores(old: OldSite, tmp_path: Path) -> None:
    site = old.site
    states = old.live()
    assert [name.rpartition(".")[2] for name in site.names() if "fsz" in name] == ["fsz"] + ["deltafsz"] * 3
    assert site.verify(deep=True).good
    for stamp, end in reversed(states.items()):
        shutil.rmtree(old.blob_storage)
        old.blob_storage.mkdir()
        site.restore(stamp)
        assert site.datafs.read_bytes() == old.data[:end]
        assert site.blobs == old.blobs_at(end)
        output = tmp_path / "by-repozo.fs"
        repozo.main(["-R", "-r", str(site.location), "-D", stamp, "-o", str(output)])
        assert output.read_bytes() == old.data[:end]


def test_the_blobs_that_its_data_refer_to_are_found_in_them(database: Path, tmp_path: Path) -> None:
    """Python 2 pickled the class of a blob in another way: a lost blob has to be missed all the same."""
    old = OldSite(database, tmp_path / "site", {})
    old.grow_to(old.ends[-1])
    newest = max(blob_files(old.blob_storage), key=lambda key: key[1])
    blob_files(old.blob_storage)[newest].unlink()
    finished = old.site.command("backup")
    assert finished.returncode == 0
    assert "WARNING" in finished.stderr
    assert f"{newest[1]:016x}" in finished.stderr, finished.stderr


def test_an_incremental_takes_the_blobs_of_its_transactions(database: Path, tmp_path: Path) -> None:
    """It finds them in the records alone."""
    old = OldSite(database, tmp_path / "site", {})
    states = old.live()
    pool = blob_files(old.site.blob_location / "blobs")
    assert pool.keys() == old.blobs_at(old.ends[-1]).keys()
    assert len(states) == len(old.ends)


def test_its_transactions_are_listed(old: OldSite) -> None:
    old.live()
    finished = old.site.command("backup-log", "--json")
    assert finished.returncode == 0, finished.stderr
    listed = json.loads(finished.stdout)["transactions"]
    tids = [tid for tid, _ in committed_tids(old.data[: old.ends[-1]])]
    assert [entry["tid"] for entry in listed] == [tid.hex() for tid in tids][::-1]


def test_a_drill_opens_what_zodb_opens(database: Path, tmp_path: Path) -> None:
    old = OldSite(database, tmp_path / "site", {})
    old.live()
    finished = old.site.command("backup-drill")
    if old.data[:4] == b"FS30":
        assert finished.returncode == 0, finished.stderr + finished.stdout
        return
    assert finished.returncode == 1
    assert "Traceback" not in finished.stderr + finished.stdout
    assert "FS21" in finished.stderr + finished.stdout
