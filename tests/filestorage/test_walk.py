from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.filestorage.handmade import Handmade, number, three
from zodbvault.filestorage.source import DamagedDataFs
from zodbvault.filestorage.walk import (
    CUT_SHORT,
    MOST_REMEMBERED,
    NOT_FINISHED,
    TransactionWalk,
    hides_a_transaction,
)

if TYPE_CHECKING:
    from collections.abc import Callable

NONE = bytes(8)
TID = 0x0400000000000000


def walk_through(data: bytes, *, block: int = 1 << 20, size: int | None = None) -> TransactionWalk:
    """Walks all of `data` in blocks, as a copy does; checks what the walk says about each block on the way."""
    walk = TransactionWalk(4, len(data) if size is None else size, NONE, NONE)
    offset = 4
    whole = 0
    while offset < walk.size and not walk.stopped:
        was_open = walk.open_start
        before = walk.transactions
        limit = walk.feed(data[offset : offset + block], offset)
        whole += len(walk.starts)
        continued = was_open is not None and walk.transactions > before
        assert walk.transactions - before == len(walk.starts) + continued
        assert offset <= limit <= offset + block
        assert limit > offset or walk.stopped
        offset = limit
    return walk


@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=30),
    block=st.integers(31, 400),
    statuses=st.lists(st.sampled_from([b" ", b"p", b"u"]), min_size=30, max_size=30),
    texts=st.tuples(st.binary(max_size=9), st.binary(max_size=9), st.binary(max_size=9)),
)
def test_all_transactions_are_met_wherever_the_blocks_end(
    sizes: list[int], block: int, statuses: list[bytes], texts: tuple[bytes, bytes, bytes]
) -> None:
    made = Handmade()
    for size, status in zip(sizes, statuses, strict=False):
        made.add(records=((7, b"x" * size),), status=status, texts=texts)

    walk = walk_through(bytes(made.data), block=block)

    assert walk.position == len(made.data)
    assert walk.transactions == len(sizes)
    assert walk.first_tid == number(made.tids[0])
    assert walk.last_tid == walk.tail_tid == number(made.tids[-1])
    assert walk.tail_header == made.starts[-1]
    assert walk.stopped is None
    assert walk.open_start is None
    assert walk.went_back == ()


def test_starts_are_those_of_transactions_wholly_in_the_block() -> None:
    made = three(records=((1, b"x" * 100),))
    data = bytes(made.data)
    walk = TransactionWalk(4, len(data), NONE, NONE)

    limit = walk.feed(data[4 : made.ends[0] + 50], 4)
    assert limit == made.ends[0] + 50
    assert walk.starts == [0]
    assert walk.open_start == made.starts[1]
    assert walk.position == made.ends[0]

    offset = limit - 10  # the next block may begin earlier
    assert walk.feed(data[offset:], offset) == len(data)
    assert walk.starts == [made.starts[2] - offset]
    assert walk.transactions == 3


def test_transactions_without_anything_in_them_are_followed() -> None:
    made = Handmade()
    for texts in ((b"", b"", b""), (b"user", b"description", b"extension"), (b"", b"", b"")):
        made.add(records=(), texts=texts)
    walk = walk_through(bytes(made.data), block=31)
    assert (walk.position, walk.transactions, walk.stopped) == (len(made.data), 3, None)


def test_too_few_bytes_for_a_header_are_waited_for() -> None:
    made = three()
    data = bytes(made.data)
    walk = TransactionWalk(4, len(data), NONE, NONE)
    assert walk.starts == []
    assert walk.feed(data[4:20], 4) == 4
    end = made.ends[0]
    assert walk.feed(data[4:end], 4) == end
    assert walk.feed(data[end - 10 : end + 20], end - 10) == end  # the buffer begins earlier
    assert walk.feed(data[end:], end) == len(data)
    assert walk.feed(b"", len(data)) == len(data)
    assert (walk.transactions, walk.stopped) == (3, None)


@pytest.mark.parametrize(("missing", "status"), [(0, b"c"), (5, b" ")])
def test_what_was_unfinished_is_followed_when_it_is_finished(missing: int, status: bytes) -> None:
    made = three()
    made.add(status=status)
    before = bytes(made.data[: len(made.data) - missing])
    walk = TransactionWalk(4, len(before), NONE, NONE)
    assert walk.feed(before[4:], 4) == made.starts[3]
    assert walk.stopped
    made.put(made.starts[3] + 16, b" ")
    made.add()
    data = bytes(made.data)
    walk.look_again(len(data))
    assert (walk.stopped, walk.stopped_finished) == (None, False)
    assert walk.feed(data[made.starts[3] :], made.starts[3]) == len(data)
    assert (walk.transactions, walk.stopped) == (5, None)


def test_an_empty_database_has_no_transaction() -> None:
    walk = walk_through(b"FS30")
    assert (walk.position, walk.transactions, walk.first_tid, walk.last_tid, walk.tail_header) == (4, 0, None, NONE, 0)


@pytest.mark.parametrize("kept", range(1, 23))
def test_a_header_that_is_cut_short_ends_the_walk(kept: int) -> None:
    made = three()
    data = bytes(made.data[: made.starts[2] + kept])
    walk = walk_through(data)
    assert (walk.stopped, walk.position, walk.transactions) == (CUT_SHORT, made.starts[2], 2)
    assert walk.stopped_finished is False


@pytest.mark.parametrize("block", [1 << 20, 40])
@pytest.mark.parametrize("missing", [1, 8, 9, 60])
@pytest.mark.parametrize("status", [b" ", b"c"])
def test_a_transaction_that_is_cut_short_ends_the_walk(missing: int, status: bytes, block: int) -> None:
    made = three()
    made.add(status=status)
    walk = walk_through(bytes(made.data[:-missing]), block=block)
    assert (walk.stopped, walk.position, walk.transactions) == (CUT_SHORT, made.starts[3], 3)
    assert walk.stopped_finished == (status == b" ")
    assert walk.last_tid == walk.tail_tid == number(made.tids[2])


@pytest.mark.parametrize("block", [1 << 20, 40])
def test_a_voted_transaction_at_the_end_ends_the_walk(block: int) -> None:
    made = three()
    made.add(status=b"c")
    walk = walk_through(bytes(made.data), block=block)
    assert (walk.stopped, walk.position, walk.transactions) == (NOT_FINISHED, made.starts[3], 3)
    assert walk.tail_header == made.starts[2]


def test_a_lone_voted_transaction_leaves_an_empty_database() -> None:
    made = Handmade()
    made.add(status=b"c")
    walk = walk_through(bytes(made.data))
    assert (walk.stopped, walk.position, walk.first_tid) == (NOT_FINISHED, 4, None)


def test_a_voted_transaction_with_something_after_it_is_damage() -> None:
    made = three()
    made.put(made.starts[1] + 16, b"c")
    with pytest.raises(DamagedDataFs, match=f"offset {made.starts[1]} is not finished"):
        walk_through(bytes(made.data))


@pytest.mark.parametrize("block", [1 << 20, 40])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (16, b"x", "unknown status"),
        (16, b"\0", "unknown status"),
        (8, number(22), "less than its own header"),
        (8, number(0), "less than its own header"),
        (17, struct.pack(">H", 65535), "less than its own header"),
        (19, struct.pack(">H", 65535), "less than its own header"),
        (21, struct.pack(">H", 65535), "less than its own header"),
        (8, number(60), "ends with the length"),
        (-8, number(60), "ends with the length"),
        (-8, number(0), "ends with the length"),
    ],
)
def test_damage_is_an_error_that_names_the_offset(which: int, at: int, value: bytes, message: str, block: int) -> None:
    made = three()
    made.put((made.starts if at >= 0 else made.ends)[which] + at, value)
    with pytest.raises(DamagedDataFs, match=f"offset {made.starts[which]}.*{message}"):
        walk_through(bytes(made.data), block=block)


@pytest.mark.parametrize("block", [1 << 20, 40])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_two_lengths_that_differ_are_both_told(which: int, block: int) -> None:
    made = three()
    length = made.ends[which] - made.starts[which] - 8
    made.put(made.ends[which] - 8, number(60))
    with pytest.raises(DamagedDataFs) as error:
        walk_through(bytes(made.data), block=block)
    assert str(error.value) == (
        f"the transaction at offset {made.starts[which]} begins with the length {length} and ends with the length 60"
    )


@pytest.mark.parametrize("length", [1 << 31, 1 << 40, (1 << 63) + 5, (1 << 64) - 1])
def test_a_length_beyond_the_file_stops_the_walk_and_hides_a_transaction(length: int) -> None:
    made = three()
    data = made.data
    made.put(made.starts[1] + 8, number(length))
    walk = walk_through(bytes(data))
    assert (walk.stopped, walk.position) == (CUT_SHORT, made.starts[1])
    assert hides_a_transaction(reader(bytes(data)), walk.position, len(data), walk.tail_tid)


def test_a_transaction_of_more_than_4_gib_is_followed() -> None:
    """Only the ends of it are given; what lies between is not looked at."""
    length = (5 << 30) + 23
    size = 4 + length + 8
    walk = TransactionWalk(4, size, NONE, NONE)
    assert walk.feed(struct.pack(">QQcHHH", TID, length, b" ", 0, 0, 0) + bytes(1000), 4) == 4 + 1023
    assert walk.feed(bytes(1000) + number(length), size - 1008) == size
    assert (walk.transactions, walk.position, walk.tail_header) == (1, size, 4)


def test_zeros_at_the_end_are_damage() -> None:
    made = three()
    with pytest.raises(DamagedDataFs, match=f"offset {len(made.data)}"):
        walk_through(bytes(made.data) + bytes(4096))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_same_tid_twice_in_a_row_is_damage(which: int) -> None:
    made = Handmade()
    for tid in (TID + 1, TID + 2, TID + 3):
        made.add(tid)
    made.put(made.starts[which], number(TID + which))
    walk = TransactionWalk(4, len(made.data), number(TID), number(TID))
    with pytest.raises(DamagedDataFs, match=f"offset {made.starts[which]} has the same tid"):
        walk.feed(bytes(made.data[4:]), 4)


@pytest.mark.parametrize("block", [1 << 20, 40])
def test_a_tid_that_goes_back_is_remembered_and_the_greatest_one_counts(block: int) -> None:
    made = Handmade()
    for tid in (TID + 10, TID + 50, TID + 20, TID + 30, TID + 5):
        made.add(tid)
    walk = walk_through(bytes(made.data), block=block)
    assert walk.went_back == (made.starts[2], made.starts[4])
    assert walk.last_tid == number(TID + 50)
    assert walk.tail_tid == number(TID + 5)
    assert walk.transactions == 5


def test_a_tid_may_go_back_from_the_one_before_the_walk() -> None:
    made = Handmade()
    made.add(TID + 1)
    walk = TransactionWalk(4, len(made.data), number(TID + 5), number(TID + 9))
    walk.feed(bytes(made.data[4:]), 4)
    assert walk.went_back == (4,)
    assert walk.last_tid == number(TID + 9)


def test_a_file_that_always_goes_back_does_not_fill_the_memory() -> None:
    made = Handmade()
    for step in range(MOST_REMEMBERED * 3):
        made.add(TID - step)
    walk = walk_through(bytes(made.data))
    assert walk.went_back == tuple(made.starts[1 : MOST_REMEMBERED + 1])
    assert walk.transactions == MOST_REMEMBERED * 3


def test_a_file_that_loses_its_end_is_damage() -> None:
    made = three()
    data = bytes(made.data)
    walk = TransactionWalk(4, len(data), NONE, NONE)
    walk.feed(data[4 : made.starts[2] + 40], 4)
    walk.look_again(len(data) - 1)
    with pytest.raises(DamagedDataFs, match="became shorter"):
        walk.feed(data[made.starts[2] + 40 : -1], made.starts[2] + 40)


def test_a_walk_returns_to_a_mark_after_an_error() -> None:
    made = three()
    good = bytes(made.data)
    made.put(made.starts[2] + 16, b"?")
    walk = TransactionWalk(4, len(good), NONE, NONE)
    mark = walk.mark()
    with pytest.raises(DamagedDataFs):
        walk.feed(bytes(made.data[4:]), 4)
    walk.return_to(mark)
    assert walk.feed(good[4:], 4) == len(good)
    assert (walk.transactions, walk.tail_tid, walk.went_back) == (3, number(made.tids[2]), ())
    assert walk.starts == [start - 4 for start in made.starts]


def reader(data: bytes) -> Callable[[int, int], bytes]:
    return lambda offset, length: data[offset : offset + length]


@pytest.mark.parametrize("block", [1 << 20, 50])
@pytest.mark.parametrize("status", [b" ", b"p", b"u", b"c"])
def test_a_damaged_length_is_told_from_a_cut_record(status: bytes, block: int) -> None:
    made = three()
    made.add(status=status)
    made.put(made.starts[1] + 8, number(1 << 40))
    whole = bytes(made.data)
    assert hides_a_transaction(reader(whole), made.starts[1], len(whole), number(made.tids[0]))
    # the last one itself
    made.put(made.starts[3] + 8, number(1 << 40))
    whole = bytes(made.data)
    assert hides_a_transaction(reader(whole), made.starts[3], len(whole), number(made.tids[2]))


def test_a_cut_record_hides_nothing() -> None:
    made = three(records=((1, b"\0" * 500),))
    for missing in range(1, 500, 7):
        data = bytes(made.data[:-missing])
        assert not hides_a_transaction(reader(data), made.starts[2], len(data), number(made.tids[1]))


def test_the_smallest_transaction_can_be_hidden() -> None:
    made = three()
    made.add(records=())
    made.put(made.starts[3] + 8, number(1 << 40))
    data = bytes(made.data)
    assert hides_a_transaction(reader(data), made.starts[3], len(data), number(made.tids[2]))


@pytest.mark.parametrize("left", [3, 31])
def test_what_is_gone_by_the_time_it_is_read_hides_nothing(left: int) -> None:
    made = three()
    made.put(made.starts[2] + 8, number(1 << 40))
    data = bytes(made.data)
    shorter = data[: len(data) - 4] if left == 3 else data[: made.starts[2] + 10]

    def read(offset: int, length: int) -> bytes:
        # The closing length may have been read before the file became shorter.
        return (data if left == 31 and offset == len(data) - 8 else shorter)[offset : offset + length]

    assert not hides_a_transaction(read, made.starts[2], len(data), number(made.tids[1]))


@pytest.mark.parametrize("texts", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_a_transaction_that_is_shorter_than_its_texts_is_none_that_is_hidden(texts: tuple[int, int, int]) -> None:
    made = three()
    inner = struct.pack(">QQcHHH", made.tids[-1] + 5, 23, b" ", *texts) + number(23)
    made.add(records=((1, b"x" * 40 + inner + b"tail"),))
    data = bytes(made.data[: -8 - 4])
    assert data.endswith(inner)
    assert not hides_a_transaction(reader(data), made.starts[3], len(data), number(made.tids[2]))


@pytest.mark.parametrize("tid", [5, TID + 2])
def test_a_transaction_no_later_than_those_before_is_none_that_is_hidden(tid: int) -> None:
    """Data may hold the bytes of a whole transaction (a Data.fs in a Data.fs)."""
    made = three()
    assert made.tids[-1] == TID + 2
    inner = struct.pack(">QQcHHH", tid, 23, b" ", 0, 0, 0) + number(23)
    made.add(records=((1, b"x" * 40 + inner + b"tail"),))
    data = bytes(made.data[: -8 - 4])
    assert data.endswith(inner)
    assert not hides_a_transaction(reader(data), made.starts[3], len(data), number(made.tids[2]))


def test_an_inner_length_that_disagrees_hides_nothing() -> None:
    made = three()
    header = struct.pack(">QQcHHH", made.tids[-1] + 5, 24, b" ", 0, 0, 0)
    made.add(records=((1, b"x" * 40 + header + number(23) + b"tail"),))
    data = bytes(made.data[: -8 - 4])
    assert not hides_a_transaction(reader(data), made.starts[3], len(data), number(made.tids[2]))
