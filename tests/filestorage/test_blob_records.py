from __future__ import annotations

import pickle
import pickletools
from io import BytesIO
from typing import Any

import pytest
import ZODB.blob
import zodbpickle.pickle
from hypothesis import given
from hypothesis import strategies as st
from ZODB.blob import Blob, is_blob_record

from tests.filestorage.handmade import BLOB, PAGE, Handmade, number
from zodbvault.filestorage.blob_records import PREFIX_LENGTH, RecordWalk, is_blob_pickle, is_encrypted
from zodbvault.filestorage.source import DamagedDataFs


class BlobLike:
    pass


def two_pickles(first: object, protocol: int, module: Any = pickle) -> bytes:
    file = BytesIO()
    pickler = module.Pickler(file, protocol)
    pickler.dump(first)
    pickler.dump(None)
    return file.getvalue()


@pytest.mark.parametrize("protocol", range(6))
def test_a_blob_is_known_in_every_protocol(protocol: int) -> None:
    data = two_pickles(Blob, protocol)
    assert is_blob_record(data) or protocol > 3  # ZODB's own pickles stop at 3
    assert is_blob_pickle(data[:PREFIX_LENGTH])
    optimized = pickletools.optimize(pickle.dumps(Blob, protocol))
    assert is_blob_pickle(optimized)


@pytest.mark.parametrize("protocol", range(4))
def test_a_blob_is_known_as_zodb_pickles_it(protocol: int) -> None:
    assert is_blob_pickle(two_pickles(Blob, protocol, zodbpickle.pickle)[:PREFIX_LENGTH])


@pytest.mark.parametrize(
    "data",
    [
        BLOB,
        b"cZODB.blob\nBlob\n.",  # Python 2, protocol 1
        b"cZODB.blob\nBlob\np0\n.N.",
        b"cZODB.blob\nBlob\np10\n.I1\n.",
        b"\x80\x02cZODB.blob\nBlob\nr\x00\x01\x00\x00.N.",
        b"\x80\x04X\x09\x00\x00\x00ZODB.blobX\x04\x00\x00\x00Blob\x93.",
        b"\x80\x04\x8d\x09\0\0\0\0\0\0\0ZODB.blob\x94\x8c\x04Blob\x94\x93\x94.",
        b"\x80\x04U\x09ZODB.blobU\x04Blob\x93.",
        b"\x80\x04T\x09\0\0\0ZODB.blobq\x00U\x04Blobq\x01\x93q\x02.",
    ],
)
def test_all_ways_to_name_the_class(data: bytes) -> None:
    assert is_blob_pickle(data)


@pytest.mark.parametrize(
    "data",
    [
        PAGE,
        b"",
        b"\x80",
        b"\x80\x03c",
        BLOB[:18],  # no STOP
        b"\x80\x03cZODB.blob\nBlobFile\nq\x00.",
        b"\x80\x03cZODB.blob\nBlo\nq\x00.",
        b"\x80\x03cmyZODB.blob\nBlob\nq\x00.",
        b"\x80\x03cZODB.blob2\nBlob\nq\x00.",
        b"\x80\x03cZODB.blob\nBlob\nq\x00N\x86.",  # (Blob, None) is not the class alone
        b"\x80\x03(cZODB.blob\nBlob\nq\x00t.",
        b"\x80\x03cZODB.blob\nBlob\np",
        b"\x80\x04\x8c\x09ZODB.blob\x94\x8c\x04Blob\x94.",
        b"\x80\x04\x8c\x09ZODB.blob\x94\x8c\x05Blob2\x94\x93.",
        b"\x80\x04\x8c\x04Blob\x94\x8c\x09ZODB.blob\x94\x93.",
        b".zx\x9cZODB.blob",
        two_pickles(BlobLike, 3),
        two_pickles((Blob, None), 3),
        two_pickles([Blob], 5),
    ],
)
def test_what_is_no_blob(data: bytes) -> None:
    assert not is_blob_pickle(data[:PREFIX_LENGTH])
    assert not is_blob_record(data)


@given(st.binary(max_size=PREFIX_LENGTH) | st.binary(max_size=6).map(lambda noise: BLOB[:18] + noise))
def test_noise_is_judged_as_zodb_judges_it(data: bytes) -> None:
    assert not is_blob_pickle(data) or is_blob_record(data)


def test_encrypted_data_are_known() -> None:
    assert is_encrypted(b".e....")
    assert not is_encrypted(b".z....")
    assert not is_encrypted(b"")
    assert not is_encrypted(PAGE)


def records_of(made: Handmade, which: int, *, block: int = 1 << 20, look_back: bool = True) -> tuple[RecordWalk, list]:
    """Walks one transaction's records in blocks; the walk and what it reported."""
    found: list[tuple[bytes, bytes]] = []
    data = bytes(made.data)
    reported = lambda oid, tid, *_: found.append((oid, tid))  # noqa: E731
    walk = RecordWalk(
        (lambda offset, length: data[offset : offset + length]) if look_back else None, reported, reported
    )
    start, end = made.starts[which], made.ends[which] - 8
    walk.begin(start, data[start : start + 23], start)
    offset = start
    while walk.is_within:
        limit = min(offset + block, end)
        begin_next = walk.follow(data[offset:limit], offset, limit)
        assert offset < begin_next <= limit
        offset = begin_next
    return walk, found


blobs_and_pages = st.lists(
    st.tuples(st.integers(1, 1 << 63), st.sampled_from([BLOB, PAGE, b"x", b"ZODB.blob" * 30, b"y" * 500])),
    max_size=12,
)


@given(records=blobs_and_pages, block=st.integers(110, 700), texts=st.tuples(*[st.binary(max_size=150)] * 3))
def test_blobs_are_found_wherever_the_blocks_end(
    records: list[tuple[int, bytes]], block: int, texts: tuple[bytes, bytes, bytes]
) -> None:
    made = Handmade()
    made.add()
    made.add(records=tuple(records), texts=texts)
    _, found = records_of(made, 1, block=block)
    assert set(found) == made.blobs
    assert len(found) == sum(data == BLOB for _, data in records)


def test_old_records_with_a_version_are_stepped_over() -> None:
    made = Handmade()
    made.add(records=((1, BLOB), (2, PAGE), (3, BLOB)), version=b"v" * 300)
    made.add(records=((1, made.records[0]), (2, made.records[1])), version=b"other")
    _, found = records_of(made, 0)
    assert set(found) == made.blobs
    assert len(found) == 2
    assert records_of(made, 0, block=500)[1] == found
    assert records_of(made, 1)[1] == [(number(1), number(made.tids[1]))]


def test_records_of_an_undone_transaction_do_not_count() -> None:
    made = Handmade()
    made.add(records=((1, BLOB),), status=b"u")
    assert records_of(made, 0)[1] == []


def test_a_transaction_without_records_has_no_blobs() -> None:
    made = Handmade()
    made.add(records=())
    assert records_of(made, 0)[1] == []


def test_back_pointers_are_followed_to_the_data() -> None:
    made = Handmade()
    made.add(records=((1, BLOB), (2, PAGE), (3, b".e" + b"x" * 50)))
    made.add(records=((1, made.records[0]), (2, made.records[1])))  # an undo
    made.add(records=((1, made.records[3]), (2, made.records[4])))  # an undo of an undo
    made.add(records=((1, 0), (2, 0)))  # an undone creation
    made.add(records=((1, made.records[-2]),))  # and back to nothing
    made.add(records=((3, made.records[2]),))
    blob = number(1)
    assert records_of(made, 1)[1] == [(blob, number(made.tids[1]))]
    assert records_of(made, 2)[1] == [(blob, number(made.tids[2]))]
    assert records_of(made, 3)[1] == []
    assert records_of(made, 4)[1] == []
    walk, found = records_of(made, 5)
    assert (walk.encrypted, found) == (True, [])


def test_a_long_chain_of_undos_is_followed() -> None:
    made = Handmade()
    made.add(records=((1, BLOB),))
    for _ in range(3000):
        made.add(records=((1, made.records[-1]),))
    assert records_of(made, 3000)[1] == [(number(1), number(made.tids[3000]))]


def test_without_anything_to_look_back_at_back_pointers_are_reported() -> None:
    made = Handmade()
    made.add(records=((1, BLOB), (2, PAGE)))
    made.add(records=((1, made.records[0]), (2, made.records[1]), (3, 0)))
    reported: list[object] = []
    walk = RecordWalk(None, lambda *_: None, lambda *record: reported.append(record))
    start, end = made.starts[1], made.ends[1] - 8
    walk.begin(start, made.data, 0)
    assert walk.follow(made.data, 0, end) == end
    tid = number(made.tids[1])
    assert reported == [
        (number(1), tid, made.records[2], made.records[0]),
        (number(2), tid, made.records[3], made.records[1]),
        (number(3), tid, made.records[4], 0),
    ]


def test_a_blob_with_a_long_state_is_one() -> None:
    made = Handmade()
    long = BLOB.removesuffix(b"\x80\x03N.") + b"\x80\x03X\x50\0\0\0" + b"x" * 80 + b"."
    assert is_blob_record(long)
    made.add(records=((1, long), (2, PAGE)))
    assert records_of(made, 0)[1] == [(number(1), number(made.tids[0]))]


def test_a_back_pointer_to_the_record_just_before_it_is_followed() -> None:
    made = Handmade()
    made.add(records=((1, BLOB), (1, 4 + 23)))
    assert made.records[0] == 4 + 23
    assert records_of(made, 0)[1] == [(number(1), number(made.tids[0]))] * 2


def test_encrypted_records_are_noticed() -> None:
    made = Handmade()
    made.add(records=((1, PAGE), (2, b".e" + bytes(40))))
    walk, _ = records_of(made, 0)
    assert walk.encrypted
    made.add()
    walk, _ = records_of(made, 1)
    assert not walk.encrypted


@pytest.mark.parametrize("block", [1 << 20, 130])
@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (24, number(4), "says that its transaction is at 4"),
        (34, number(1 << 63), "longer than its transaction"),
        (34, number(len(PAGE) + 1), "longer than its transaction"),
        (34, number(len(PAGE) - 1), "longer than its transaction"),
        (32, b"\xff\xff", "longer than its transaction"),
    ],
)
def test_records_that_do_not_add_up_are_damage(at: int, value: bytes, message: str, block: int) -> None:
    made = Handmade()
    made.add()
    made.add(records=((1, PAGE), (2, PAGE), (3, PAGE)))
    made.put(made.records[3] + at, value)
    with pytest.raises(DamagedDataFs, match=f"(?s){message}"):
        records_of(made, 1, block=block)


@pytest.mark.parametrize("block", [1 << 20, 130])
def test_a_long_last_record_that_goes_beyond_its_transaction_is_damage(block: int) -> None:
    made = Handmade()
    made.add(records=((1, PAGE), (2, b"x" * 500)))
    made.put(made.records[1] + 34, number(501))
    with pytest.raises(DamagedDataFs, match=f"offset {made.records[1]} is longer than its transaction"):
        records_of(made, 0, block=block)


@pytest.mark.parametrize("version", [b"", b"v"])
@pytest.mark.parametrize("target", [1, 3, "itself", "later", "other oid", "nowhere", 1 << 63])
def test_back_pointers_that_lead_astray_are_damage(target: int | str, version: bytes) -> None:
    made = Handmade()
    made.add(records=((1, BLOB), (2, PAGE)), version=version)
    made.add(records=((1, 1),), version=version)
    made.add(records=((1, PAGE),), version=version)
    places = {"itself": 2, "later": 3, "other oid": 1}
    offset = made.records[places[target]] if target in places else 60 if target == "nowhere" else int(target)
    made.put(made.ends[1] - 16, number(offset))
    with pytest.raises(DamagedDataFs, match=f"record at offset {made.records[2]} refers to offset {offset}"):
        records_of(made, 1)


@pytest.mark.parametrize("length", [3, len(PAGE)])
def test_a_back_pointer_to_data_of_nonsense_length_is_damage(length: int) -> None:
    made = Handmade()
    made.add(records=((1, BLOB), (2, PAGE)))
    made.add(records=((2, made.records[1]),))
    made.put(made.records[1] + 32, b"\xff\xff" + number(length))
    with pytest.raises(DamagedDataFs, match="not a record"):
        records_of(made, 1)


def test_zodb_blob_is_still_where_it_was() -> None:
    assert (Blob.__module__, Blob.__name__, ZODB.blob.Blob) == ("ZODB.blob", "Blob", Blob)
