"""Transactions from the end of a real Data.fs to its beginning, compared with ZODB's own iterator."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from ZODB.FileStorage.FileStorage import FileIterator

from tests.filestorage.handmade import Handmade, number
from tests.site import Site, committed_tids
from zodbvault.filestorage.backward import Later, Transaction, later_than, transactions_backward
from zodbvault.filestorage.source import DamagedDataFs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def reader(data: bytes) -> Callable[[int, int], bytes]:
    def read(offset: int, length: int) -> bytes:
        assert offset >= 0
        return data[offset : offset + length]

    return read


def found(made: Handmade) -> list[Transaction]:
    return list(transactions_backward(reader(bytes(made.data)), 4, len(made.data)))


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
    for place, tid in enumerate(tids, start=1):
        left = len(tids) - place
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


def test_each_says_how_long_what_follows_its_header_is() -> None:
    made = Handmade()
    made.add(records=())
    made.add(records=(), texts=(b"user", b"a description", b"ext"))
    made.add(texts=(b"u", b"", b"extension"))
    ends = made.ends
    assert found(made)[::-1] == [
        Transaction(number(made.tids[each]), made.starts[each], ends[each], ord(" "), *lengths)
        for each, lengths in enumerate([(0, 0, 0), (4, 13, 3), (1, 0, 9)])
    ]


def test_one_that_is_not_finished_with_another_one_behind_it_is_damage() -> None:
    made = Handmade()
    made.add()
    made.add(status=b"c")
    assert len(found(made)) == 1
    made.add()
    with pytest.raises(DamagedDataFs) as error:
        found(made)
    assert str(error.value) == f"the transaction at offset {made.starts[1]} is not finished, but more follows it"


@pytest.mark.parametrize("end", [5, 6, 10, 11, 12, 13])
def test_where_there_is_no_room_for_a_transaction_none_ends(end: int) -> None:
    with pytest.raises(DamagedDataFs, match=f"no transaction ends at offset {end}"):
        list(transactions_backward(reader(b"FS30" + bytes(20)), 4, end))


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (8, number(5)),  # its length
        (16, b"?"),  # its status
        # The lengths of user, description and extension: more than there is.
        (17, b"\1\0"),
        (19, b"\1\0"),
        (21, b"\1\0"),
        # The closing length, -8 from the end.
        (-8, number(5)),
        (-8, number(22)),
        (-8, number(1 << 40)),
    ],
)
def test_a_transaction_that_does_not_add_up_is_damage(offset: int, value: bytes) -> None:
    made = Handmade()
    made.add()
    made.add()
    made.put((made.starts[1] if offset >= 0 else len(made.data)) + offset, value)
    with pytest.raises(DamagedDataFs, match=f"no transaction ends at offset {len(made.data)}"):
        found(made)
