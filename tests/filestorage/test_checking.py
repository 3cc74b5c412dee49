from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.filestorage.handmade import BLOB, PAGE, Handmade, number, three
from tests.filestorage.sites import blobs_as_zodb_says
from tests.listeners import Noted
from zodbvault.filestorage.checking import Boundary, CheckedRange, RestoredBytes, back_pointer, those_of_blobs
from zodbvault.filestorage.source import DamagedDataFs
from zodbvault.io import progress

if TYPE_CHECKING:
    from tests.filestorage.sites import Site

TID = 0x0400000000000000


class Check:
    """Feeds `data` in blocks; what was checked and found."""

    def __init__(
        self,
        data: bytes,
        end: int | None = None,
        *,
        block: int = 1 << 20,
        look_back: bool = True,
        every_record: bool = False,
    ) -> None:
        self.blobs: set[tuple[bytes, bytes]] = set()
        self.back_pointers: set[tuple[bytes, bytes, int, int]] = set()
        fed = bytearray()

        def read(offset: int, length: int) -> bytes:
            assert offset + length <= len(fed), "asked for what was not fed"
            return bytes(fed[offset : offset + length])

        restored = RestoredBytes(
            len(data) if end is None else end,
            read if look_back else None,
            lambda oid, tid: self.blobs.add((oid, tid)),
            every_record=every_record,
            on_back_pointer=lambda *record: self.back_pointers.add(record),
        )
        for offset in range(0, len(data), block):
            fed += data[offset : offset + block]
            restored.feed(data[offset : offset + block])
        self.result: CheckedRange = restored.finish()


@pytest.mark.parametrize("every_record", [True, False])
@pytest.mark.parametrize("block", [1 << 20, 1000, 50, 7, 1])
def test_a_sound_database_passes_in_any_blocks(site: Site, block: int, every_record: bool) -> None:
    site.commit_page(text="x" * 300)
    site.commit_blob("one", b"1")
    site.commit_blob("one", b"2")
    site.undo_last()
    site.commit_blob("two")
    site.pack()
    site.commit_blob("two", b"again")
    site.undo_last()
    check = Check(site.bytes, block=block, every_record=every_record)
    ends = site.ends()
    assert check.blobs == blobs_as_zodb_says(site.path)
    assert check.back_pointers == set()
    assert check.result == CheckedRange(
        end=len(site.bytes),
        first_tid=site.bytes[4:12],
        last_tid=site.storage.lastTransaction(),
        tail_tid=site.storage.lastTransaction(),
        tail_header=ends[-2],
        transactions=len(ends),
        encrypted=False,
        went_back=(),
    )


def test_an_empty_database_is_sound() -> None:
    for block in (4, 1):
        result = Check(b"FS30", block=block).result
        assert (result.end, result.transactions, result.first_tid, result.last_tid, result.tail_tid) == (
            4,
            0,
            None,
            None,
            None,
        )


@pytest.mark.parametrize("block", [1 << 20, 100, 3])
def test_bytes_that_are_missing_or_too_many_are_damage(block: int) -> None:
    made = three()
    data = bytes(made.data)
    for kept in range(4, len(data)):
        with pytest.raises(DamagedDataFs, match=r"it is to end at|not whole"):
            Check(data[:kept], len(data), block=block)
        if kept not in (4, *made.ends):
            with pytest.raises(DamagedDataFs, match=r"not whole|cut short"):
                Check(data[:kept], block=block)
    with pytest.raises(DamagedDataFs, match="goes on after"):
        Check(data + b"x", len(data), block=block)


def test_a_gap_and_an_overlap_are_damage() -> None:
    data = bytes(three().data)
    for cut_from, cut_to in ((50, 60), (4, 5), (200, 300)):
        with pytest.raises(DamagedDataFs):
            Check(data[:cut_from] + data[cut_to:])
        with pytest.raises(DamagedDataFs):
            Check(data[:cut_to] + data[cut_from:])


def test_a_transaction_that_is_missing_or_twice_is_damage() -> None:
    made = three()
    data = bytes(made.data)
    with pytest.raises(DamagedDataFs, match="same tid"):
        Check(data[: made.ends[1]] + data[made.starts[1] :])
    with pytest.raises(DamagedDataFs, match="says that its transaction is at"):
        Check(data[: made.ends[0]] + data[made.starts[2] :])
    with pytest.raises(DamagedDataFs, match="it is to end at"):
        Check(data[: made.ends[1]], len(data))


@pytest.mark.parametrize("status", [b"c", b"?"])
@pytest.mark.parametrize("which", [0, 2])
def test_nothing_may_be_unfinished(status: bytes, which: int) -> None:
    made = three()
    made.put(made.starts[which] + 16, status)
    with pytest.raises(DamagedDataFs, match=f"offset {made.starts[which]}"):
        Check(bytes(made.data))


@pytest.mark.parametrize("status", [b"c", b" "])
def test_an_unfinished_end_is_damage_as_soon_as_it_is_fed(status: bytes) -> None:
    made = three()
    made.add(status=status)
    data = bytes(made.data if status == b"c" else made.data[:-5])
    restored = RestoredBytes(len(data), None, lambda *_: None)
    with pytest.raises(DamagedDataFs, match=f"not whole at offset {made.starts[3]}"):
        restored.feed(data)


@pytest.mark.parametrize("magic", [b"FS31", b"\x1f\x8b\x08\0"])
def test_a_wrong_magic_is_damage(magic: bytes) -> None:
    data = magic + bytes(three().data)[4:]
    for block in (1 << 20, 1):
        with pytest.raises(DamagedDataFs, match="not a FileStorage"):
            Check(data, block=block)
    with pytest.raises(DamagedDataFs, match="0 bytes: not a FileStorage"):
        Check(b"")
    with pytest.raises(DamagedDataFs, match="not a FileStorage"):
        Check(magic)


def test_where_nothing_came_all_is_missing() -> None:
    restored = RestoredBytes(10, None, None)
    assert restored.boundary() is None
    with pytest.raises(DamagedDataFs, match="ends at offset 0, it is to end at 10"):
        restored.finish()


def test_where_nobody_asks_for_blobs_records_are_not_looked_at() -> None:
    made = Handmade()
    made.add(records=((1, BLOB), (2, b".e" + b"x" * 80)))
    made.add(records=((1, made.records[0]),))
    made.put(made.records[0] + 24, number(5))  # as if it were another transaction's
    restored = RestoredBytes(len(made.data), None, None)
    restored.feed(bytes(made.data))
    result = restored.finish()
    assert (result.transactions, result.encrypted) == (2, False)


@pytest.mark.parametrize("block", [1 << 20, 30, 1])
def test_a_boundary_is_told_where_a_transaction_ends_and_nowhere_else(block: int) -> None:
    made = Handmade()
    made.add(TID + 5, records=((1, BLOB),))
    made.add(TID + 3, records=())  # goes back
    made.add(TID + 9)
    data = bytes(made.data)
    expected = {
        4: Boundary(bytes(8), None, 0),
        made.ends[0]: Boundary(number(TID + 5), number(TID + 5), made.starts[0]),
        made.ends[1]: Boundary(number(TID + 5), number(TID + 3), made.starts[1]),
        made.ends[2]: Boundary(number(TID + 9), number(TID + 9), made.starts[2]),
    }
    for size in range(1, len(data) + 1):
        restored = RestoredBytes(len(data), None, lambda *_: None)
        for offset in range(0, size, block):
            restored.feed(data[offset : min(offset + block, size)])
        assert restored.boundary() == expected.get(size), size


def test_how_far_it_is_is_told() -> None:
    made = three()
    data = bytes(made.data)
    with progress.listening(listener := Noted()):
        restored = RestoredBytes(len(data), None, None)
        for end, start in zip(made.ends, [0, *made.ends], strict=False):
            restored.feed(data[start:end])
        assert listener.events == [("Data.fs", len(data)), *made.ends]
        restored.finish()
        assert listener.events[-1] == "end"


def test_lengths_and_records_are_checked() -> None:
    made = three()
    made.put(made.ends[1] - 8, number(5))
    with pytest.raises(DamagedDataFs, match=f"offset {made.starts[1]}"):
        Check(bytes(made.data), block=64)
    made = three()
    made.put(made.records[1] + 24, number(5))
    with pytest.raises(DamagedDataFs, match=f"offset {made.records[1]}"):
        Check(bytes(made.data), block=64)


def test_tids_that_go_back_and_encrypted_records_are_reported() -> None:
    made = Handmade()
    made.add(TID + 5)
    made.add(TID + 3, records=((1, b".e" + b"x" * 80),))
    result = Check(bytes(made.data)).result
    assert (result.went_back, result.last_tid, result.tail_tid) == (
        (made.starts[1],),
        number(TID + 5),
        number(TID + 3),
    )
    assert result.encrypted


def test_an_encrypted_record_is_seen_for_sure_only_where_all_records_are_looked_at() -> None:
    made = Handmade()
    made.add(TID + 5, records=((1, b".e" + b"x" * 80),))
    made.add()
    made.add()
    assert Check(bytes(made.data), every_record=True).result.encrypted
    made.add(records=((1, b".e" + b"x" * 80),))
    for end, is_seen in ((made.ends[2], False), (made.ends[3], True)):  # a sample: the last one
        restored = RestoredBytes(end, None, lambda *_: None)
        restored.feed(bytes(made.data[:end]))
        assert restored.finish().encrypted is is_seen


@pytest.mark.parametrize("size", [10, 300, 66_000, 140_000])
def test_an_undo_is_found_in_a_file_of_any_length(size: int) -> None:
    """The search looks for as many zeros as an offset in the file begins with."""
    made = Handmade()
    made.add(TID + 5, records=((1, b"x" * size),))
    made.add(records=((2, BLOB),))
    made.add(records=((2, made.records[1]),))
    made.add()
    assert Check(bytes(made.data)).blobs == {*made.blobs, (number(2), number(made.tids[2]))}


@pytest.mark.parametrize("block", [1 << 20, 40])
def test_without_the_file_back_pointers_are_decided_by_the_oid(site: Site, block: int) -> None:
    for content in (b"1", b"2", b"3"):
        site.commit_page(text=content.decode())
        site.commit_blob("one", content)
    site.undo_last()
    site.undo_last()
    site.commit_page(text="4")
    site.undo_last()
    check = Check(site.bytes, block=block, look_back=False)
    decided = decided_by_oid(check)
    assert decided
    assert decided < {record[:2] for record in check.back_pointers}
    assert check.blobs | decided == blobs_as_zodb_says(site.path)


@pytest.mark.parametrize("times", range(1, 6))
def test_a_creation_that_was_undone_again_and_again_is_no_blob(site: Site, times: int) -> None:
    site.commit_page(text="1")
    site.commit_blob("one", b"1")
    for _ in range(times):
        site.undo_last()
    check = Check(site.bytes, look_back=False)
    assert check.blobs | decided_by_oid(check) == blobs_as_zodb_says(site.path)


def decided_by_oid(check: Check) -> set[tuple[bytes, bytes]]:
    back_pointers = sorted(back_pointer(*record) for record in check.back_pointers)
    blobs = sorted(oid + tid for oid, tid in check.blobs)
    return {(key[:8], key[8:]) for key in those_of_blobs(back_pointers, blobs)}


@given(st.sets(st.integers(0, 99)), st.sets(st.integers(0, 99)))
def test_back_pointers_are_joined_to_blobs_by_oid(back_pointers: set[int], blobs: set[int]) -> None:
    def keys(numbers: set[int]) -> list[bytes]:
        return [number(n // 10) + number(n) for n in sorted(numbers)]

    oids = {n // 10 for n in blobs}
    expected = keys({n for n in back_pointers if n // 10 in oids})
    records = [back_pointer(number(n // 10), number(n), 100 + n, 4) for n in sorted(back_pointers)]
    assert list(those_of_blobs(records, keys(blobs))) == expected


@given(
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=20),
    cuts=st.lists(st.integers(0, 8000), max_size=12),
)
def test_any_cutting_into_blocks_gives_the_same(sizes: list[int], cuts: list[int]) -> None:
    made = Handmade()
    for step, size in enumerate(sizes):
        made.add(records=((step, b"x" * size), (step + 100, BLOB), (step + 200, PAGE)))
    data = bytes(made.data)
    found = set()
    restored = RestoredBytes(len(data), None, lambda oid, tid: found.add((oid, tid)))
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, end in itertools.pairwise(places):
        restored.feed(data[start:end])
    assert restored.finish().transactions == len(sizes)
    assert found == made.blobs
