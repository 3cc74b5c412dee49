"""The generated site is one that ZODB opens, reads, changes and packs; the same plan gives the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ZODB
from benchmarks.generate import PLANS, Plan, generate
from benchmarks.live import append_blob, append_changes, pack, write_index
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage
from ZODB.FileStorage.FileStorage import FileIterator
from ZODB.fsIndex import fsIndex

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAN = Plan(objects=700, size=700_000, blobs=30, blob_sizes=(10, 3_000))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generate(tmp_path / "site", PLAN)
    return tmp_path / "site"


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Any]:
    storage = FileStorage(str(folder / "filestorage/Data.fs"), blob_dir=str(folder / "blobstorage"))
    database = ZODB.DB(storage)
    connection = database.open()
    yield connection.root()
    connection.close()
    database.close()


def walk(folder: Path) -> tuple[int, int, int]:
    """Follow references from the root, read everything: numbers of pages and blobs, bytes of blobs."""
    pages, blobs, size = 0, 0, 0
    with opened(folder) as root:
        waiting, seen = [root], set()
        while waiting:
            page = waiting.pop()
            assert page._p_oid not in seen
            seen.add(page._p_oid)
            pages += 1
            assert page["title"] == f"Page {int.from_bytes(page._p_oid, 'big'):08d}"
            assert page["text"].isascii()
            waiting += page.get("children", [])
            for key, value in page.items():
                if key.startswith("file"):
                    assert isinstance(value, Blob)
                    with value.open() as file:
                        size += len(file.read())
                    blobs += 1
    return pages, blobs, size


def transactions(folder: Path) -> list[int]:
    """The number of records of each transaction, as ZODB's iterator sees them."""
    with contextlib.closing(FileIterator(str(folder / "filestorage/Data.fs"))) as found:
        return [len(list(each)) for each in found]


def digests(folder: Path) -> dict[str, str]:
    return {
        os.path.relpath(os.path.join(where, name), folder): hashlib.sha256(Path(where, name).read_bytes()).hexdigest()
        for where, _, names in os.walk(folder)
        for name in names
    }


def test_zodb_reads_every_page_and_blob_from_the_root(folder: Path) -> None:
    pages, blobs, size = walk(folder)
    assert (pages, blobs) == (701, 30)
    on_disk = [path.stat().st_size for path in (folder / "blobstorage").rglob("*.blob")]
    assert len(on_disk) == 30
    assert size == sum(on_disk)


def test_transactions_are_those_of_the_plan(folder: Path) -> None:
    found = transactions(folder)
    assert len(found) == PLAN.transactions
    assert sum(found) == 701 + 30


def test_the_size_is_about_that_of_the_plan_and_gzip_makes_it_as_much_smaller_as_real_sites(tmp_path: Path) -> None:
    plan = PLANS["S"].scaled(0.003)
    generate(tmp_path / "site", plan)
    data = (tmp_path / "site/filestorage/Data.fs").read_bytes()
    assert len(data) == pytest.approx(plan.size, rel=0.1)
    assert 2.2 < len(data) / len(zlib.compress(data, 9)) < 2.9


def test_the_same_plan_gives_the_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again", PLAN)
    assert digests(tmp_path / "again") == digests(folder)
    generate(tmp_path / "other", Plan(objects=700, size=700_000, blobs=30, blob_sizes=(10, 3_000), seed=2))
    assert digests(tmp_path / "other") != digests(folder)


@pytest.mark.parametrize("name", PLANS)
def test_every_plan_can_be_made_small(name: str, tmp_path: Path) -> None:
    plan = PLANS[name].scaled(0.0005)
    generate(tmp_path / "site", plan)
    assert len(transactions(tmp_path / "site")) == plan.transactions
    assert walk(tmp_path / "site")[1] == plan.blobs


def test_changes_are_one_transaction_with_the_history_of_each_object(folder: Path) -> None:
    append_changes(folder, 10)
    append_changes(folder, 10)
    assert transactions(folder)[-2:] == [10, 10]
    with opened(folder) as root:
        connection = root._p_jar
        last = connection.db().storage.lastTransaction()
        changed = [page for page in map(connection.get, _oids(range(650, 701))) if page_tid(page) == last]
        assert len(changed) == 10
        for page in changed:
            assert page["text"].endswith("edited for the 00000002th time")
            assert len(connection.db().storage.history(page._p_oid, 9)) == 3


def test_a_new_blob_is_committed_with_a_page_that_refers_to_it(folder: Path) -> None:
    path = append_blob(folder, 12_345)
    assert path.stat().st_size == 12_345
    assert transactions(folder)[-1] == 2
    append_blob(folder, 10)
    append_changes(folder, 10)
    assert walk(folder)[:2] == (701, 32)


def test_the_index_is_zodbs_and_later_changes_are_not_in_it(folder: Path) -> None:
    data_fs = folder / "filestorage/Data.fs"
    write_index(folder)
    size = data_fs.stat().st_size
    assert fsIndex.load(f"{data_fs}.index")["pos"] == size
    append_changes(folder, 10)
    assert data_fs.stat().st_size > size
    assert fsIndex.load(f"{data_fs}.index")["pos"] == size
    assert walk(folder)[0] == 701


def test_a_pack_drops_old_revisions_and_keeps_every_page_and_blob(folder: Path) -> None:
    before = walk(folder)
    append_changes(folder, 10)
    data_fs = folder / "filestorage/Data.fs"
    size, inode = data_fs.stat().st_size, data_fs.stat().st_ino
    pack(folder)
    assert data_fs.stat().st_size < size
    assert data_fs.stat().st_ino != inode
    assert walk(folder) == before
    append_changes(folder, 10)
    append_blob(folder, 10)
    assert walk(folder)[:2] == (701, 31)


def _oids(numbers: range) -> Iterator[bytes]:
    return (number.to_bytes(8, "big") for number in numbers)


def page_tid(page: Any) -> bytes:
    page._p_activate()
    return bytes(page._p_serial)
