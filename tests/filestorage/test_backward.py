"""Transactions from the end of a real Data.fs to its beginning, compared with ZODB's own iterator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ZODB.FileStorage.FileStorage import FileIterator

from tests.site import Site, committed_tids
from zodbvault.filestorage.backward import Later, later_than, transactions_backward
from zodbvault.filestorage.source import DamagedDataFs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, length: data[offset : offset + length]


def lived(folder: Path) -> Site:
    site = Site(folder)
    for _ in range(4):
        site.commit_pages(3)
        site.commit_blobs(1)
    site.pack()
    site.commit_pages(2)
    site.undo()
    site.close()
    return site


def test_they_are_those_of_zodb_the_last_one_first(tmp_path: Path) -> None:
    site = lived(tmp_path)
    data = site.datafs.read_bytes()
    found = list(transactions_backward(reader(data), 4, len(data)))
    iterator = FileIterator(str(site.datafs))
    expected = [(each.tid, each._tpos, each._tend + 8, ord(each.status)) for each in iterator]
    iterator.close()
    assert [(each.tid, each.start, each.end, each.status) for each in found] == expected[::-1]
    assert {bytes([each.status]) for each in found} == {b" ", b"p"}


def test_what_is_later_than_each_one_is_counted(tmp_path: Path) -> None:
    site = lived(tmp_path)
    data = site.datafs.read_bytes()
    tids = [tid for tid, _ in committed_tids(data)]
    for number, tid in enumerate(tids, start=1):
        left = len(tids) - number
        assert later_than(reader(data), len(data), tid) == Later(left, tids[-1] if left else None, is_all=True)
    assert later_than(reader(data), len(data), bytes(8)).number == len(tids)
    assert later_than(reader(data), len(data), bytes(8), most=2) == Later(2, tids[-1], is_all=False)
    assert later_than(reader(data), len(data), bytes(8), most=len(tids)).is_all
    assert later_than(reader(b"FS30"), 4, bytes(8)) == Later(0, None, is_all=True)


def test_one_that_was_voted_for_and_not_finished_is_none(tmp_path: Path) -> None:
    site = lived(tmp_path)
    before = [tid for tid, _ in committed_tids(site.data)]
    site.crash("voted")
    data = site.datafs.read_bytes()
    assert len(data) > len(site.data)
    assert [each.tid for each in transactions_backward(reader(data), 4, len(data))] == before[::-1]


@pytest.mark.parametrize("cut", [1, 7, 8, 30])
def test_a_file_that_does_not_end_in_a_whole_one_is_damaged(tmp_path: Path, cut: int) -> None:
    data = lived(tmp_path).datafs.read_bytes()[:-cut]
    with pytest.raises(DamagedDataFs, match=f"no transaction ends at offset {len(data)}"):
        list(transactions_backward(reader(data), 4, len(data)))


def test_a_boundary_that_is_none_is_noticed(tmp_path: Path) -> None:
    data = lived(tmp_path).datafs.read_bytes()
    with pytest.raises(DamagedDataFs, match="no transaction begins at offset 5"):
        list(transactions_backward(reader(data), 5, committed_tids(data)[0][1]))
    assert list(transactions_backward(reader(data), 4, 4)) == []
