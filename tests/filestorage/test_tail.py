from __future__ import annotations

import itertools
import os
import struct
from typing import TYPE_CHECKING

import pytest

from tests.filestorage.handmade import Handmade, number, three
from tests.filestorage.sites import ActingClock, KeptBytes, Site
from zodbvault.filestorage.copying import copy_range
from zodbvault.filestorage.source import DataFs, open_data_fs
from zodbvault.filestorage.tail import Tail, read_tail, tid_behind

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How long each read is."""
    lengths: list[int] = []
    pread = os.pread

    def counted(fd: int, length: int, offset: int) -> bytes:
        lengths.append(length)
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    return lengths


def test_an_unchanged_database_costs_two_reads(site: Site, reads: list[int]) -> None:
    for step in range(5):
        site.commit_page(text=f"text {step}")
    ends = site.ends()
    with open_data_fs(site.path, ActingClock()) as source:
        tail = read_tail(source, ends[-1], ends[-2])
        assert tail == Tail(site.storage.lastTransaction(), ends[-2], ends[-1], has_more=False)
        assert reads == [4, 23]
        assert read_tail(source, ends[-1], None) == tail
        assert reads == [4, 23, 8, 23]


def test_an_unchanged_empty_database_costs_one_read(opened: Callable[..., DataFs], reads: list[int]) -> None:
    assert read_tail(opened(b"FS30"), 4, None) == Tail(None, 0, 4, has_more=False)
    assert read_tail(opened(b"FS30"), 4, 0) == Tail(None, 0, 4, has_more=False)
    assert reads == [4, 4]


def test_every_transaction_boundary_is_known(site: Site, opened: Callable[..., DataFs]) -> None:
    for step in range(5):
        site.commit_page(text=f"text {step}")
    ends = [4, *site.ends()]
    source = opened(site.path)
    for start, end in itertools.pairwise(ends):
        for known in (start, None):
            tail = read_tail(source, end, known)
            assert tail is not None
            assert tail.header == start
            assert tail.tid == source.read(start, 8)
            assert tail.has_more == (end != ends[-1])
    tail = read_tail(source, 4, None)
    assert tail is not None
    assert (tail.tid, tail.has_more) == (None, True)


def test_what_stands_behind_a_transaction_has_the_tid_of_the_next_one(
    site: Site, opened: Callable[..., DataFs]
) -> None:
    tids = []
    for step in range(3):
        site.commit_page(text=f"text {step}")
        tids.append(site.storage.lastTransaction())
    data, ends = site.bytes, [4, *site.ends()]
    assert [tid_behind(opened(data), end) for end in ends[-4:]] == [*tids, None]
    for length in range(8):
        assert tid_behind(opened(data[: ends[-2] + length]), ends[-2]) is None
    assert tid_behind(opened(data[: ends[-2] + 8]), ends[-2]) == tids[-1]


def test_what_is_no_boundary_is_none(site: Site, opened: Callable[..., DataFs]) -> None:
    site.commit_page()
    site.commit_page(text="again")
    ends = site.ends()
    source = opened(site.path)
    for end in set(range(ends[-1] + 40)) - set(ends) - {4}:
        assert read_tail(source, end, None) is None
        assert read_tail(source, end, ends[0]) is None
    for header in (0, 3, 4, ends[0] + 1, ends[-1], ends[-1] + 100, -1):
        assert read_tail(source, ends[-1], header) is None


def test_what_is_cut_does_not_end_where_it_did(opened: Callable[..., DataFs]) -> None:
    made = three()
    source = opened(bytes(made.data[:-1]))
    assert read_tail(source, made.ends[2], made.starts[2]) is None
    assert read_tail(source, made.ends[2], None) is None


def test_the_shortest_transaction_is_a_tail(opened: Callable[..., DataFs]) -> None:
    made = Handmade()
    made.add(records=())
    end = made.ends[0]
    assert end == 4 + 23 + 8
    for known in (4, None):
        assert read_tail(opened(made), end, known) == Tail(number(made.tids[0]), 4, end, has_more=False)


def test_a_transaction_shorter_than_its_header_ends_nothing(opened: Callable[..., DataFs]) -> None:
    made = three()
    start = len(made.data)
    header = struct.pack(">QQcHHH", made.tids[2] + 1, 22, b" ", 0, 0, 0)
    source = opened(bytes(made.data) + header + bytes(7))
    assert read_tail(source, start + 22 + 8, start) is None


def test_a_packed_database_does_not_continue(site: Site) -> None:
    for step in range(5):
        site.commit_page(text=f"text {step}")
    ends = site.ends()
    site.pack()
    site.commit_page(text="x" * 2000)
    with open_data_fs(site.path, ActingClock()) as source:
        old = read_tail(source, ends[-1], ends[-2])
        assert old is None


def test_another_tid_in_the_same_place_shows(opened: Callable[..., DataFs]) -> None:
    made = three()
    tail = read_tail(opened(made), made.ends[2], made.starts[2])
    made.put(made.starts[2], number(made.tids[2] + 77))
    other = read_tail(opened(made), made.ends[2], made.starts[2])
    assert tail is not None
    assert other is not None
    assert other.tid == number(made.tids[2] + 77) != tail.tid


@pytest.mark.parametrize("status", [b"c", b"?"])
def test_a_transaction_that_is_not_committed_ends_nothing(opened: Callable[..., DataFs], status: bytes) -> None:
    made = three()
    made.put(made.starts[2] + 16, status)
    assert read_tail(opened(made), made.ends[2], made.starts[2]) is None
    assert read_tail(opened(made), made.ends[2], None) is None


@pytest.mark.parametrize("status", [b"p", b"u"])
def test_packed_and_undone_transactions_are_tails(opened: Callable[..., DataFs], status: bytes) -> None:
    made = three(status=status)
    tail = read_tail(opened(made), made.ends[2], None)
    assert tail is not None
    assert tail.tid == number(made.tids[2])


@pytest.mark.parametrize("closing", [(1 << 64) - 1, 1 << 63, 0, 22, 5000])
def test_a_nonsense_closing_length_ends_nothing(opened: Callable[..., DataFs], closing: int) -> None:
    made = three()
    made.put(made.ends[2] - 8, number(closing))
    assert read_tail(opened(made), made.ends[2], None) is None


def has_more(source: DataFs, end: int) -> bool:
    tail = read_tail(source, end, None)
    assert tail is not None
    return tail.has_more


def test_a_transaction_in_the_making_is_not_more(opened: Callable[..., DataFs]) -> None:
    made = three()
    end = len(made.data)
    made.add(status=b"c")
    whole = bytes(made.data)
    for size in range(end, len(whole) + 1):
        assert not has_more(opened(whole[:size]), end), size
    assert not has_more(opened(b"FS30" + whole[4:][:10]), 4)


def test_what_follows_and_may_be_damaged_is_left_to_the_copy(opened: Callable[..., DataFs]) -> None:
    made = three()
    end = made.ends[0]
    assert has_more(opened(made), end)

    def with_change(at: int, value: bytes) -> DataFs:
        changed = bytearray(made.data)
        changed[end + at : end + at + len(value)] = value
        return opened(bytes(changed))

    assert has_more(with_change(16, b"c"), end)  # something follows it
    assert has_more(with_change(16, b"?"), end)
    assert has_more(with_change(8, number(5)), end)
    assert has_more(with_change(8, number(1 << 50)), end)
    assert has_more(with_change(8, struct.pack(">QB", 1 << 50, ord("c"))), end)
    assert has_more(with_change(0, number(made.tids[0])), end)
    assert has_more(opened(bytes(made.data[:-3])), made.ends[1])  # cut, but says it is finished


def test_the_tail_of_a_copy_is_found_again(site: Site) -> None:
    """What a copy returns is what the next run asks for."""
    for step in range(3):
        site.commit_page(text=f"text {step}")
    with open_data_fs(site.path, ActingClock()) as source:
        copied = copy_range(
            source, 0, None, None, KeptBytes(), lambda *_: None, every_record=False, clock=ActingClock()
        )
        site.commit_page(text="more")
        tail = read_tail(source, copied.end, copied.tail_header)
    assert tail is not None
    assert (tail.tid, tail.has_more) == (copied.tail_tid, True)
