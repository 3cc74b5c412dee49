from __future__ import annotations

import gzip
import hashlib
import os
import random
import struct
from typing import TYPE_CHECKING, Any

import pytest
import zc.zlibstorage
from hypothesis import given
from hypothesis import strategies as st

from tests.filestorage.handmade import BLOB, PAGE, Handmade, number, three
from tests.filestorage.sites import ActingClock, KeptBytes, Site, blobs_as_zodb_says
from zodbvault.filestorage.copying import LOOKS, PAUSE, CopiedRange, copy_range
from zodbvault.filestorage.source import DamagedDataFs, DataFs, open_data_fs
from zodbvault.filestorage.walk import CUT_SHORT, NOT_FINISHED
from zodbvault.io.gzip_members import MemberWriter

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TID = 0x0400000000000000
BLOCKS = [1 << 20, 137]


class Copy:
    """A copy with all that came out of it."""

    def __init__(
        self,
        source: DataFs,
        start: int = 0,
        tail: bytes | None = None,
        greatest: bytes | None = None,
        *,
        every_record: bool = False,
        clock: ActingClock | None = None,
        block: int = 1 << 20,
    ) -> None:
        self.blobs: set[tuple[bytes, bytes]] = set()
        self.progress: list[int] = []
        self.clock = clock or ActingClock()
        writer = KeptBytes(block)
        self.result: CopiedRange = copy_range(
            source,
            start,
            tail,
            greatest,
            writer,
            lambda oid, tid: self.blobs.add((oid, tid)),
            every_record=every_record,
            clock=self.clock,
            on_progress=self.progress.append,
        )
        self.data = bytes(writer.data)
        assert self.result.stored.size == len(self.data) == self.result.end - start
        assert self.progress == sorted(self.progress)
        assert self.progress[-1:] == [len(self.data)] or not self.data


def copy_site(site: Site, **options: Any) -> Copy:
    with open_data_fs(site.path, ActingClock()) as source:
        return Copy(source, **options)


def live_through(site: Site) -> None:
    """A life with all that writes records: changes, blobs, undos, an undone creation, packs, an abort."""
    for step in range(4):
        site.commit_page(f"page {step}")
        site.commit_blob(f"blob {step % 2}", b"content %d" % step)
    site.undo_last()
    site.undo_last()
    site.commit_page("big", "x" * 3000)
    site.pack()
    site.commit_blob("blob 9")
    site.undo_last()  # its creation
    site.undo_last()  # the undo
    site.root["page 1"]["text"] = "never"
    site.connection.transaction_manager.abort()
    site.commit_blob("blob 1", b"last")


@pytest.mark.parametrize("every_record", [True, False])
@pytest.mark.parametrize("block", [*BLOCKS, 500, 1000])
def test_a_full_has_all_bytes_and_knows_all_blobs(site: Site, every_record: bool, block: int) -> None:
    live_through(site)
    copy = copy_site(site, every_record=every_record, block=block)
    assert copy.data == site.bytes
    assert copy.blobs == blobs_as_zodb_says(site.path)
    assert len(copy.blobs) >= 5
    ends = site.ends()
    result = copy.result
    assert (result.start, result.end, result.transactions) == (0, len(copy.data), len(ends))
    assert result.first_tid == copy.data[4:12]
    assert result.last_tid == result.tail_tid == site.storage.lastTransaction()
    assert result.tail_header == ends[-2]
    assert (result.encrypted, result.unfinished, result.went_back) == (False, None, ())
    assert result.stored.md5 == hashlib.md5(site.bytes).hexdigest()


def test_every_blob_met_has_its_file(site: Site) -> None:
    """The key is the name: oid and tid of each blob record lead to a file of the blobstorage."""
    site.commit_blob("a")
    site.commit_blob("a", b"changed")
    site.undo_last()
    for oid, tid in copy_site(site).blobs:
        assert os.path.exists(site.storage.fshelper.getBlobFilename(oid, tid))


@pytest.mark.parametrize("block", BLOCKS)
def test_incrementals_add_up_to_the_file(site: Site, block: int) -> None:
    data, blobs, tail, greatest = b"", set(), None, None
    for step in range(6):
        if step % 2:
            site.commit_blob("blob", b"content %d" % step)
        site.commit_page(text=f"text {step}")
        if step == 4:
            site.undo_last()
            site.undo_last()
        copy = copy_site(site, start=len(data), tail=tail, greatest=greatest, every_record=step > 0, block=block)
        assert copy.result.first_tid == copy.data[4 if step == 0 else 0 :][:8]
        data += copy.data
        blobs |= copy.blobs
        tail, greatest = copy.result.tail_tid, copy.result.last_tid
    assert data == site.bytes
    assert blobs == blobs_as_zodb_says(site.path)


def test_an_undo_of_a_blob_is_seen_by_the_search(site: Site) -> None:
    """The undo's record has neither data nor the class's name, only a pointer back."""
    site.commit_blob("blob", b"one")
    site.commit_blob("blob", b"two")
    site.undo_last()
    oid = site.root["blob"]._p_oid
    assert (oid, site.storage.lastTransaction()) in copy_site(site).blobs


@given(seed=st.integers(0, 10**6), block=st.integers(110, 900), every_record=st.booleans())
def test_blobs_and_bytes_of_any_file(tmp_path_factory: Any, seed: int, block: int, every_record: bool) -> None:
    chance = random.Random(seed)
    made = Handmade()
    made.add(TID)
    blob_records: list[tuple[int, int]] = []
    for _ in range(chance.randrange(1, 40)):
        records: list[tuple[int, bytes | int]] = []
        from_here = len(made.records)
        for _ in range(chance.randrange(0, 5)):
            kind = chance.randrange(5)
            if kind == 0:
                records.append((chance.randrange(1 << chance.randrange(1, 63)), BLOB))
            elif kind == 1 and blob_records:
                records.append(chance.choice(blob_records))
            else:
                records.append(
                    (7, chance.choice([PAGE, bytes(200), b"ZODB.blob" * 9, b"x" * chance.randrange(1, 400)]))
                )
        texts = (b"u" * chance.randrange(3), b"d" * chance.randrange(90), b"")
        status = chance.choice([b" ", b" ", b"p"])
        made.add(made.tids[-1] + chance.randrange(1, 1 << 20), tuple(records), texts=texts, status=status)
        for (oid, data), offset in zip(records, made.records[from_here:], strict=True):
            if data == BLOB or isinstance(data, int):
                blob_records.append((oid, offset))
                made.blobs.add((number(oid), number(made.tids[-1])))
    path = tmp_path_factory.getbasetemp() / "any.fs"
    path.write_bytes(made.data)
    with open_data_fs(path, ActingClock()) as source:
        copy = Copy(source, block=block, every_record=every_record)
    assert copy.data == made.data
    assert copy.blobs == made.blobs
    assert copy.result.transactions == len(made.starts)
    assert copy.clock.sleeps == []


def test_the_search_leaves_most_records_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from zodbvault.filestorage.blob_records import RecordWalk

    for step in range(30):
        site.commit_page(text=f"text {step}")
    site.commit_blob()
    for step in range(30):
        site.commit_page(text=f"text {step}")
    begun = []
    begin = RecordWalk.begin
    monkeypatch.setattr(
        RecordWalk, "begin", lambda self, start, *rest: (begun.append(start), begin(self, start, *rest))
    )
    assert copy_site(site).blobs == blobs_as_zodb_says(site.path)
    assert len(begun) < 5


def test_a_database_behind_zlibstorage_shows_its_blobs(tmp_path: Path) -> None:
    site = Site(tmp_path, zc.zlibstorage.ZlibStorage)
    try:
        site.commit_page(text="long " * 500)
        site.commit_blob("one")
        site.commit_blob("two", b"changed")
        site.commit_blob("two", b"changed again")
        site.undo_last()
        assert b"\x80" not in site.bytes[:4]
        assert b".zx" in site.bytes
        oids = {site.root[name]._p_oid for name in ("one", "two")}
        for every_record in (True, False):
            copy = copy_site(site, every_record=every_record)
            assert {oid for oid, _ in copy.blobs} == oids
            assert len(copy.blobs) == 4
            assert not copy.result.encrypted
    finally:
        site.close()


@pytest.mark.parametrize("every_record", [True, False])
def test_encrypted_records_are_noticed(opened: Callable[..., DataFs], every_record: bool) -> None:
    made = Handmade()
    for _ in range(50):
        made.add(records=((1, b".e" + b"x" * 60), (2, b".e" + b"x" * 60)))
    assert Copy(opened(made), every_record=every_record).result.encrypted
    made = Handmade()
    for _ in range(50):
        made.add()
    assert not Copy(opened(made), every_record=every_record).result.encrypted


def test_an_empty_database_is_its_magic(opened: Callable[..., DataFs]) -> None:
    copy = Copy(opened(b"FS30"))
    result = copy.result
    assert copy.data == b"FS30"
    assert (result.end, result.transactions, result.tail_header) == (4, 0, 0)
    assert (result.first_tid, result.last_tid, result.tail_tid) == (None, None, None)
    nothing = Copy(opened(b"FS30"), 4)
    assert (nothing.data, nothing.result.start, nothing.result.end) == (b"", 4, 4)


def test_nothing_new_is_nothing(site: Site) -> None:
    site.commit_page()
    first = copy_site(site).result
    again = copy_site(site, start=first.end, tail=first.tail_tid, greatest=first.last_tid)
    assert (again.data, again.result.transactions, again.result.first_tid) == (b"", 0, None)
    assert (again.result.tail_tid, again.result.last_tid) == (first.tail_tid, first.last_tid)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_vote_that_is_not_finished_is_left_out(site: Site, block: int) -> None:
    site.commit_page()
    committed = site.bytes
    site.root["page"]["text"] = "voted"
    current = site.connection.transaction_manager.get()
    site.connection.tpc_begin(current)
    site.connection.commit(current)
    site.connection.tpc_vote(current)
    assert len(site.bytes) > len(committed)
    copy = copy_site(site, block=block)
    assert (copy.data, copy.result.unfinished, copy.clock.sleeps) == (committed, NOT_FINISHED, [])
    site.connection.tpc_finish(current)
    assert copy_site(site, block=block).data == site.bytes != committed


@pytest.mark.parametrize("block", BLOCKS)
def test_a_vote_cut_short_anywhere_is_left_out(opened: Callable[..., DataFs], block: int) -> None:
    made = three()
    committed = bytes(made.data)
    made.add(records=((1, PAGE), (2, b"x" * 300)), status=b"c")
    for size in range(len(committed) + 1, len(made.data), 11):
        copy = Copy(opened(bytes(made.data[:size])), block=block)
        assert (copy.data, copy.result.unfinished) == (committed, CUT_SHORT)
        assert (copy.result.transactions, copy.clock.sleeps) == (3, [])


def test_a_finished_record_that_is_cut_short_is_believed_after_some_looks(site: Site) -> None:
    site.commit_page()
    site.commit_page(text="x" * 500)
    ends = site.ends()
    os.truncate(site.path, ends[-1] - 5)
    copy = copy_site(site)
    assert (copy.data, copy.result.unfinished) == (site.bytes[: ends[-2]], CUT_SHORT)
    assert copy.clock.sleeps == [PAUSE] * LOOKS


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("last", [b" ", b"c"])
@pytest.mark.parametrize("which", [0, 5, 9])
def test_a_damaged_length_is_not_taken_for_the_end(
    opened: Callable[..., DataFs], which: int, last: bytes, block: int
) -> None:
    made = Handmade()
    for step in range(10):
        made.add(status=last if step == 9 else b" ")
    for length in (1 << 20, 1 << 40, (1 << 64) - 1):
        made.put(made.starts[which] + 8, number(length))
        source = opened(made)
        with pytest.raises(DamagedDataFs) as raised:
            Copy(source, block=block)
        assert str(raised.value) == (
            f"{source.path}: the transaction at offset {made.starts[which]} has a damaged length: it goes beyond the "
            "file's end, which closes another transaction. No backup was made of it, older backups are untouched. See "
            "ZODB's script fsrecover"
        )


def test_every_damaged_byte_of_a_header_is_noticed(opened: Callable[..., DataFs]) -> None:
    """Never a shorter backup that looks good. The tid's own bytes may change: no length depends on them."""
    made = Handmade()
    for _ in range(6):
        made.add(records=((1, PAGE),), texts=(b"user", b"what was done", b"more"))
    good = bytes(made.data)
    places = [made.starts[2] + at for at in range(8, 23)] + [made.ends[2] - 8 + at for at in range(8)]
    for place in places:
        for flip in (0x01, 0x10, 0x80):
            changed = bytearray(good)
            changed[place] ^= flip
            try:
                copy = Copy(opened(bytes(changed)), every_record=True)
            except DamagedDataFs:
                continue
            assert copy.data == changed, place


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("every_record", [True, False])
def test_records_that_do_not_add_up_are_damage(opened: Callable[..., DataFs], every_record: bool, block: int) -> None:
    made = Handmade()
    for _ in range(3):
        made.add(records=((1, BLOB), (2, PAGE)))
    made.put(made.records[2] + 24, number(4))
    with pytest.raises(DamagedDataFs, match=f"offset {made.records[2]} ") as raised:
        Copy(opened(made), every_record=every_record, block=block)
    assert raised.value.path is not None


def test_tids_that_go_back_are_reported(opened: Callable[..., DataFs]) -> None:
    made = Handmade()
    for tid in (TID + 9, TID + 3, TID + 5):
        made.add(tid)
    result = Copy(opened(made)).result
    assert result.went_back == (made.starts[1],)
    assert (result.last_tid, result.tail_tid) == (number(TID + 9), number(TID + 5))
    rest = Copy(opened(made), made.ends[0], number(TID + 9), number(TID + 70)).result
    assert (rest.last_tid, rest.went_back) == (number(TID + 70), (made.starts[1],))


# A writer at work while the end is looked at: what the clock's sleep stands for.


def test_a_record_that_was_finished_meanwhile_is_taken(opened: Callable[..., DataFs]) -> None:
    made = Handmade()
    for _ in range(3):
        made.add()
    whole = bytes(made.data)
    source = opened(whole[:-7])
    copy = Copy(source, clock=ActingClock(lambda: source.path.write_bytes(whole)))
    assert (copy.data, copy.result.unfinished, copy.clock.sleeps) == (whole, None, [PAUSE])


@pytest.mark.parametrize("block", BLOCKS)
def test_an_abort_and_another_vote_are_no_damage(opened: Callable[..., DataFs], block: int) -> None:
    """A vote is cut off and a smaller one written while we look: for an instant the length does not fit the size."""
    made = three()
    committed = bytes(made.data)
    made.add(status=b"c", records=((1, PAGE * 5),))
    second = bytes(made.data)
    source = opened(second + b"left over from a longer vote")
    copy = Copy(source, block=block, clock=ActingClock(lambda: os.truncate(source.path, len(second))))
    assert (copy.data, copy.result.unfinished) == (committed, NOT_FINISHED)
    assert copy.clock.sleeps == [PAUSE]


def test_an_abort_that_truncates_while_we_read_is_no_damage(
    opened: Callable[..., DataFs], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = three()
    committed = bytes(made.data)
    made.add(status=b"c")
    source = opened(made)
    sizes = [len(made.data)]
    monkeypatch.setattr(source, "size", lambda: sizes.pop() if sizes else source.path.stat().st_size)
    os.truncate(source.path, len(committed))
    copy = Copy(source)
    assert (copy.data, copy.result.unfinished, copy.clock.sleeps) == (committed, None, [])


def test_an_abort_between_two_blocks_is_no_damage(opened: Callable[..., DataFs]) -> None:
    made = three()
    committed = bytes(made.data)
    made.add(status=b"c")
    source = opened(made)

    class Aborting(KeptBytes):
        def write(self, buffer: bytearray, length: int) -> None:
            super().write(buffer, length)
            os.truncate(source.path, len(committed))

    writer = Aborting(len(committed))
    copied = copy_range(source, 0, None, None, writer, None, every_record=False, clock=ActingClock())
    assert (writer.data, copied.end, copied.unfinished) == (committed, len(committed), None)


def test_a_disk_that_gives_less_than_it_says_is_told_as_damage(
    opened: Callable[..., DataFs], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Handmade()
    for _ in range(30):
        made.add()
    source = opened(made)
    monkeypatch.setattr(source, "size", lambda: len(made.data))
    os.truncate(source.path, 1000)
    with pytest.raises(DamagedDataFs, match="ends at offset 1000: the file became shorter while it was read"):
        Copy(source, block=300)


def test_where_nobody_asks_for_blobs_records_are_not_looked_at(opened: Callable[..., DataFs]) -> None:
    made = Handmade()
    made.add(records=((1, BLOB), (2, b".e" + b"x" * 80)))
    made.add(records=((1, made.records[0]),))
    made.put(made.records[0] + 24, number(5))  # as if it were another transaction's
    writer = KeptBytes()
    copied = copy_range(opened(made), 0, None, None, writer, None, every_record=True, clock=ActingClock())
    assert (writer.data, copied.transactions, copied.encrypted) == (made.data, 2, False)


def test_an_encrypted_record_is_seen_for_sure_only_where_all_records_are_looked_at(
    opened: Callable[..., DataFs],
) -> None:
    made = Handmade()
    made.add(TID + 5, records=((1, b".e" + b"x" * 80),))
    made.add()
    made.add()
    assert Copy(opened(made), every_record=True).result.encrypted
    assert not Copy(opened(made), every_record=False).result.encrypted  # a sample


def test_what_stood_in_a_buffer_before_is_never_taken_for_the_file(
    opened: Callable[..., DataFs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buffers are used again, so one may hold a whole transaction where the file ends meanwhile."""
    made = three()
    committed = bytes(made.data)
    made.add()
    source = opened(made)

    class Used(KeptBytes):
        def buffer(self) -> bytearray:
            return bytearray(made.data) + bytes(100)

    sizes = [len(made.data)]
    monkeypatch.setattr(source, "size", lambda: sizes.pop() if sizes else source.path.stat().st_size)
    os.truncate(source.path, len(committed))
    writer = Used()
    copy_range(source, 0, None, None, writer, lambda *_: None, every_record=True, clock=ActingClock())
    assert writer.data == committed


def test_a_file_that_lost_what_was_committed_is_damage(opened: Callable[..., DataFs]) -> None:
    made = Handmade()
    for _ in range(100):
        made.add(records=((1, b"x" * 100),))
    source = opened(made)

    class Shrinking(KeptBytes):
        def write(self, buffer: bytearray, length: int) -> None:
            super().write(buffer, length)
            if len(self.data) > 3000:
                os.truncate(source.path, 1000)

    clock = ActingClock()
    with pytest.raises(DamagedDataFs, match="became shorter"):
        copy_range(source, 0, None, None, Shrinking(1000), lambda *_: None, every_record=False, clock=clock)
    assert len(clock.sleeps) <= LOOKS


def test_damage_that_stays_is_looked_at_some_times_only(opened: Callable[..., DataFs]) -> None:
    made = Handmade()
    for _ in range(3):
        made.add()
    made.put(made.starts[2] + 16, b"?")
    clock = ActingClock()
    with pytest.raises(DamagedDataFs, match="unknown status"):
        Copy(opened(made), clock=clock)
    assert clock.sleeps == [PAUSE] * LOOKS


def test_damage_that_goes_away_does_not_lose_blobs(opened: Callable[..., DataFs]) -> None:
    made = Handmade()
    for _ in range(5):
        made.add(records=((1, BLOB),))
    whole = bytes(made.data)
    made.put(made.starts[4] + 16, b"?")
    source = opened(made)
    copy = Copy(source, clock=ActingClock(lambda: source.path.write_bytes(whole)))
    assert copy.data == whole
    assert copy.blobs == made.blobs
    assert len(copy.blobs) == 5
    assert copy.result.transactions == 5


def test_a_file_that_grows_while_it_is_copied_is_copied_to_a_boundary(site: Site) -> None:
    for step in range(20):
        site.commit_page(text="x" * 100 * step)

    class Growing(KeptBytes):
        def write(self, buffer: bytearray, length: int) -> None:
            super().write(buffer, length)
            site.commit_page(text="y" * 50)

    writer = Growing(700)
    with open_data_fs(site.path, ActingClock()) as source:
        result = copy_range(source, 0, None, None, writer, lambda *_: None, every_record=False, clock=ActingClock())
    assert writer.data == site.bytes[: result.end]
    assert result.end in site.ends()


def test_a_pack_during_the_copy_does_not_mix_two_files(site: Site) -> None:
    for step in range(20):
        site.commit_page(text="x" * 100 * step)
    before = site.bytes

    class Packing(KeptBytes):
        def write(self, buffer: bytearray, length: int) -> None:
            super().write(buffer, length)
            if len(self.lengths) == 5:
                site.pack()

    writer = Packing(700)
    with open_data_fs(site.path, ActingClock()) as source:
        copy_range(source, 0, None, None, writer, lambda *_: None, every_record=False, clock=ActingClock())
        assert source.was_replaced()
    assert writer.data == before != site.bytes


def test_a_huge_transaction_is_copied_in_blocks_without_reading_twice(
    opened: Callable[..., DataFs], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Handmade()
    made.add()
    records = tuple((n, BLOB if n % 50 == 0 else PAGE) for n in range(1, 40000))
    made.add(records=records)
    source = opened(made)
    read = []
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda *args: (read.append(preadv(*args)), read[-1])[1])
    copy = Copy(source)
    assert copy.data == made.data
    assert copy.blobs == made.blobs
    assert len(copy.blobs) == 799
    assert len(read) > 3
    assert sum(read) < len(made.data) + 200 * len(read)


def test_the_members_written_are_the_file(site: Site, opened: Callable[..., DataFs], tmp_path: Path) -> None:
    """With the writer that a backup uses."""
    live_through(site)
    site.commit_page("big", random.Random(1).randbytes(3 << 20).hex())
    part = tmp_path / "full.fsz"
    with (
        open(part, "wb", buffering=0) as file,
        MemberWriter(file) as writer,
        open_data_fs(site.path, ActingClock()) as source,
    ):
        result = copy_range(source, 0, None, None, writer, lambda *_: None, every_record=False, clock=ActingClock())
    assert gzip.decompress(part.read_bytes()) == site.bytes
    assert result.stored.md5 == hashlib.md5(site.bytes).hexdigest()
    assert result.stored.size == len(site.bytes)


def test_headers_of_this_length_are_what_zodb_writes() -> None:
    from ZODB.FileStorage import format as zodb_format

    from zodbvault.filestorage import format as ours

    assert struct.calcsize(zodb_format.TRANS_HDR) == ours.TRANSACTION_HEADER_LENGTH
    assert struct.calcsize(zodb_format.DATA_HDR) == ours.RECORD_HEADER_LENGTH
