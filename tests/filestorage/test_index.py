from __future__ import annotations

import os
import pickle
import shutil
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ZODB.fsIndex import fsIndex

from tests.filestorage.handmade import PAGE, Handmade, number
from zodbvault.filestorage.index import index_belongs

if TYPE_CHECKING:
    from tests.filestorage.sites import Site


def belongs(index: Path, data: bytes, end: int | None = None) -> bool:
    def read(offset: int, length: int) -> bytes:
        assert offset >= 0
        return data[offset : offset + length]

    return index_belongs(index, read, len(data) if end is None else end)


def saved(site: Site, name: str = "copy.index") -> Path:
    site.storage._save_index()
    return Path(shutil.copy(f"{site.path}.index", site.folder / name))


def index_of(made: Handmade, path: Path, position: int | None = None, **changes: int) -> Path:
    """The index that ZODB would have saved for a handmade file with one record per transaction, oids counting up."""
    index = fsIndex()
    for oid, offset in enumerate(made.records, 1):
        index[number(oid)] = changes.get(f"o{oid}", offset)
    index.save(len(made.data) if position is None else position, str(path))
    return path


def five(**options: bytes) -> Handmade:
    made = Handmade()
    for oid in range(1, 6):
        made.add(records=((oid, PAGE),), **options)
    return made


def test_a_live_index_belongs_to_its_database(site: Site) -> None:
    for step in range(20):
        site.commit_page(f"page {step}")
    index = saved(site)
    assert belongs(index, site.bytes)


def test_an_index_of_an_earlier_state_belongs_to_later_ones_only(site: Site) -> None:
    for step in range(5):
        site.commit_page(f"page {step}")
    earlier = len(site.bytes)
    index = saved(site)
    for step in range(5):
        site.commit_page(f"page {step}", "changed")
    assert belongs(index, site.bytes)
    assert belongs(index, site.bytes, earlier)
    assert not belongs(index, site.bytes, earlier - 1)
    assert not belongs(index, site.bytes[: earlier - 1])


def test_the_index_from_before_a_pack_does_not_belong_after_it(site: Site) -> None:
    for step in range(20):
        site.commit_page("page", f"text {step}")
    before = saved(site, "before.index")
    site.pack()
    after = saved(site, "after.index")
    site.commit_page("other", "x" * 9000)
    assert not belongs(before, site.bytes)
    assert belongs(after, site.bytes)


def test_what_belongs_is_what_zodb_uses(site: Site) -> None:
    """Both ways: ZODB opens with an index that belongs, and makes a new one for one that does not."""
    from ZODB.FileStorage import FileStorage

    for step in range(5):
        site.commit_page(f"page {step}")
    good = saved(site)
    site.close()
    data = site.bytes
    bad = site.folder / "bad.index"
    info = fsIndex.load(str(good))
    info["index"][number(0)] += 1
    last_oids = [oid for oid, offset in info["index"].items() if offset > site.ends()[-2]]
    for oid in last_oids:
        info["index"][oid] += 1
    info["index"].save(info["pos"], str(bad))
    for index, used in ((good, True), (bad, False)):
        shutil.copy(index, f"{site.path}.index")
        storage = FileStorage(str(site.path))
        assert bool(storage._used_index) == used == belongs(index, data)
        storage.close()
    site.open()


@pytest.mark.parametrize("status", [b" ", b"p"])
def test_handmade_indexes_belong(tmp_path: Path, status: bytes) -> None:
    made = five(status=status, texts=(b"user", b"description", b"extension"))
    assert belongs(index_of(made, tmp_path / "i"), bytes(made.data))


def test_only_the_last_transaction_is_compared(tmp_path: Path) -> None:
    made = five()
    assert belongs(index_of(made, tmp_path / "i", o4=4711), bytes(made.data))
    assert not belongs(index_of(made, tmp_path / "i", o5=4711), bytes(made.data))


def test_undone_and_empty_transactions_are_passed_over(tmp_path: Path) -> None:
    made = five()
    made.add(records=((9, PAGE),), status=b"u")
    made.add(records=())
    index = fsIndex()
    index[number(5)] = made.records[4]
    index.save(len(made.data), str(tmp_path / "i"))
    assert belongs(tmp_path / "i", bytes(made.data))
    index[number(5)] = made.records[3]
    index.save(len(made.data), str(tmp_path / "i"))
    assert not belongs(tmp_path / "i", bytes(made.data))


def test_five_records_of_a_large_transaction_are_compared(tmp_path: Path) -> None:
    made = Handmade()
    made.add(records=tuple((oid, PAGE) for oid in range(1, 70_000)))
    data = bytes(made.data)
    assert belongs(index_of(made, tmp_path / "i"), data)
    assert not belongs(index_of(made, tmp_path / "i", o5=99), data)
    assert belongs(index_of(made, tmp_path / "i", o6=99), data)


def test_oids_in_all_places_of_a_bucket_are_found(tmp_path: Path) -> None:
    """Two suffixes may hold a third one across their border."""
    made = Handmade()
    oids = (0x0001, 0x0100, 0x0101, 0x10000, 0xFFFF, 0x00FF, 0xFF00, 1 << 40)
    for oid in oids:
        made.add(records=((oid, PAGE),))
        index = fsIndex()
        for each, offset in zip(oids, made.records, strict=False):
            index[number(each)] = offset
        index.save(len(made.data), str(tmp_path / "i"))
        assert belongs(tmp_path / "i", bytes(made.data)), hex(oid)


def test_an_oid_is_found_although_it_seems_to_stand_across_the_border_of_others(tmp_path: Path) -> None:
    """Of 0001 0101 0102 the second one stands before and behind its place, too."""
    made = Handmade()
    oids = (0x0001, 0x0101, 0x0102)
    for oid in (oids[0], oids[2], oids[1]):
        made.add(records=((oid, PAGE),))
    index = fsIndex()
    for oid, offset in zip((oids[0], oids[2], oids[1]), made.records, strict=True):
        index[number(oid)] = offset
    index.save(len(made.data), str(tmp_path / "i"))
    assert belongs(tmp_path / "i", bytes(made.data))


def test_an_index_without_the_object_does_not_belong(tmp_path: Path) -> None:
    made = five()
    index = fsIndex()
    for oid in range(1, 5):
        index[number(oid)] = made.records[oid - 1]
    index.save(len(made.data), str(tmp_path / "i"))
    assert not belongs(tmp_path / "i", bytes(made.data))


@pytest.mark.parametrize("position", [-5, 0, 4, 11, 99, 1 << 70])
def test_positions_that_cannot_be(tmp_path: Path, position: int) -> None:
    made = five()
    assert not belongs(index_of(made, tmp_path / "i", position), bytes(made.data))


def test_a_database_under_100_bytes_has_no_index(tmp_path: Path) -> None:
    """FileStorage calls it insane."""
    made = Handmade()
    made.add(records=((1, b"N.N."),))
    assert len(made.data) < 100
    assert not belongs(index_of(made, tmp_path / "i"), bytes(made.data))


def test_a_position_that_is_no_boundary_does_not_belong(tmp_path: Path) -> None:
    made = five()
    data = bytes(made.data)
    for position in range(100, len(data) + 20):
        index = index_of(made, tmp_path / "i", position)
        assert belongs(index, data) == (position in made.ends), position


@pytest.mark.parametrize("at", [16, 8, 17])
def test_a_damaged_last_transaction_has_no_index(tmp_path: Path, at: int) -> None:
    made = five()
    index = index_of(made, tmp_path / "i")
    made.put(made.starts[4] + at, b"\xff")
    assert not belongs(index, bytes(made.data))


@pytest.mark.parametrize(("at", "value"), [(24, number(4)), (32, b"\0\1"), (34, number(1 << 40))])
def test_damaged_last_records_have_no_index(tmp_path: Path, at: int, value: bytes) -> None:
    made = five()
    index = index_of(made, tmp_path / "i")
    made.put(made.records[4] + at, value)
    assert not belongs(index, bytes(made.data))


def test_the_same_object_twice_in_a_transaction_has_no_index(tmp_path: Path) -> None:
    """FileStorage finds only one of them in the index and calls it insane."""
    made = Handmade()
    made.add(records=((1, PAGE), (1, PAGE), (2, PAGE)))
    index = fsIndex()
    index[number(1)], index[number(2)] = made.records[1:]
    index.save(len(made.data), str(tmp_path / "i"))
    assert not belongs(tmp_path / "i", bytes(made.data))


def test_an_index_cut_short_anywhere_does_not_belong(site: Site) -> None:
    site.commit_page()
    index = saved(site)
    whole = index.read_bytes()
    for size in range(len(whole)):
        os.truncate(index, size)
        assert not belongs(index, site.bytes), size
        index.write_bytes(whole)
    assert belongs(index, site.bytes)


def test_an_index_written_by_python_2_is_read(tmp_path: Path) -> None:
    made = five()

    def text(data: bytes) -> bytes:
        return b"U" + bytes([len(data)]) + data

    suffixes = b"".join(struct.pack(">H", oid) for oid in range(1, 6))
    offsets = b"".join(number(offset)[2:] for offset in made.records)
    position = b"I%d\n." % len(made.data)
    (tmp_path / "i").write_bytes(position + b"(" + text(bytes(6)) + text(suffixes + offsets) + b"t." + b"N.")
    assert belongs(tmp_path / "i", bytes(made.data))


@pytest.mark.parametrize("position", [b"L%dL\n.", b"I%d\n."])
@pytest.mark.parametrize("end", [b"N.", b"I0\n.", b"U\0."])
def test_numbers_as_text_are_read(tmp_path: Path, position: bytes, end: bytes) -> None:
    made = five()
    content = rest_of(made, tmp_path / "i")
    (tmp_path / "i").write_bytes(position % len(made.data) + content + end)
    assert belongs(tmp_path / "i", bytes(made.data))


def rest_of(made: Handmade, path: Path) -> bytes:
    """The index of a handmade file without the position at its beginning and the None at its end."""
    content = index_of(made, path).read_bytes()
    position = pickle.dumps(len(made.data), 3)
    assert content.startswith(position)
    assert content.endswith(b"\x80\x03N.")
    return content[len(position) : -4]


@pytest.mark.parametrize(
    "end",
    [
        b"\x80\x03\x86.",  # TUPLE2 of nothing
        b"\x80\x03t.",  # TUPLE without MARK
        b"\x80\x03NN.",  # two values
        b"\x80\x03.",  # none
        b"\x80\x03h\0.",  # a memo
        b"I12x\n.",
        b"Lx\n.",
        b"\x80\x03}.",
        b"\x80\x03" + b"N" * 40 + b".",
    ],
)
def test_what_is_no_pickle_of_plain_data_is_no_index(tmp_path: Path, end: bytes) -> None:
    made = five()
    (tmp_path / "i").write_bytes(pickle.dumps(len(made.data), 3) + rest_of(made, tmp_path / "i") + end)
    assert not belongs(tmp_path / "i", bytes(made.data))


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_all_protocols_are_read(tmp_path: Path, protocol: int) -> None:
    made = five()
    suffixes = b"".join(struct.pack(">H", oid) for oid in range(1, 6))
    offsets = b"".join(number(offset)[2:] for offset in made.records)
    values = (len(made.data), (bytes(6), suffixes + offsets), None)
    (tmp_path / "i").write_bytes(b"".join(pickle.dumps(value, protocol) for value in values))
    assert belongs(tmp_path / "i", bytes(made.data))


@pytest.mark.parametrize("position", [100, 255, 256, 65_535, 65_536, (1 << 31) - 1, 1 << 31, 1 << 40, (1 << 47) + 1])
def test_positions_of_all_lengths_are_read(tmp_path: Path, position: int) -> None:
    """A number of each size has an opcode of its own."""
    (tmp_path / "i").write_bytes(pickle.dumps(position, 3))
    asked: list[int] = []

    def read(offset: int, _: int) -> bytes:
        asked.append(offset)
        return b""

    assert not index_belongs(tmp_path / "i", read, position)
    assert asked == [position - 8]  # the closing length before it


@pytest.mark.parametrize("position", [-5, -(1 << 31), -(1 << 40)])
def test_a_negative_position_is_not_looked_at(tmp_path: Path, position: int) -> None:
    (tmp_path / "i").write_bytes(pickle.dumps(position, 3))

    def read(offset: int, _: int) -> bytes:
        raise AssertionError(offset)

    assert not index_belongs(tmp_path / "i", read, 1 << 62)


def test_a_number_of_endless_digits_is_not_read(tmp_path: Path) -> None:
    made = five()
    rest = rest_of(made, tmp_path / "i")
    for zeros, is_read in ((20, True), (40, False)):
        (tmp_path / "i").write_bytes(b"I" + b"0" * zeros + b"%d\n." % len(made.data) + rest + b"N.")
        assert belongs(tmp_path / "i", bytes(made.data)) is is_read


def test_a_bucket_with_all_its_oids_is_read(tmp_path: Path) -> None:
    made = Handmade()
    made.add(records=((0xFFFF, PAGE),))
    index = fsIndex()
    for oid in range(0xFFFF):
        index[number(oid)] = 4
    index[number(0xFFFF)] = made.records[0]
    index.save(len(made.data), str(tmp_path / "i"))
    assert belongs(tmp_path / "i", bytes(made.data))
    index[number(0xFFFF)] = 4
    index.save(len(made.data), str(tmp_path / "i"))
    assert not belongs(tmp_path / "i", bytes(made.data))


def test_where_no_transaction_has_records_there_is_no_index(tmp_path: Path) -> None:
    made = Handmade()
    for _ in range(4):
        made.add(records=())
    assert not belongs(index_of(made, tmp_path / "i"), bytes(made.data))


class Trap:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.path),)


def test_no_class_is_loaded(tmp_path: Path) -> None:
    made = five()
    path = tmp_path / "i"
    good = index_of(made, path).read_bytes()
    for content in (
        pickle.dumps(Trap(tmp_path / "trap")) + good,
        pickle.dumps(len(made.data)) + pickle.dumps((bytes(6), Trap(tmp_path / "trap"))) + pickle.dumps(None),
        pickle.dumps({"pos": 5, "index": fsIndex()}),
    ):
        path.write_bytes(content)
        assert not belongs(path, bytes(made.data))
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps(True),
        pickle.dumps("500"),
        pickle.dumps(b"500", 3),
        pickle.dumps((b"500", b"500"), 3),
        pickle.dumps(None),
        pickle.dumps({"pos": 500}),
        pickle.dumps([500]),
        pickle.dumps(0),
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",  # BINBYTES8 of nearly everything
    ],
)
def test_what_is_no_index_does_not_belong(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "i").write_bytes(content)
    assert not belongs(tmp_path / "i", bytes(five().data))


@pytest.mark.parametrize(
    "bucket",
    [
        (bytes(6), b"12345678x"),
        (bytes(6), b"123456789012"),
        (bytes(6), b""),
        (bytes(5), b"12345678"),
        (bytes(6),),
        (6, b"8"),
    ],
)
def test_a_bucket_of_another_shape_is_no_index(tmp_path: Path, bucket: object) -> None:
    made = five()
    good = index_of(made, tmp_path / "i").read_bytes()
    assert good.endswith(b"\x80\x03N.")
    (tmp_path / "i").write_bytes(good[:-4] + pickle.dumps(bucket) + b"N.")
    assert not belongs(tmp_path / "i", bytes(made.data))


def test_a_missing_index_does_not_belong(tmp_path: Path) -> None:
    assert not belongs(tmp_path / "none", bytes(five().data))
    assert not belongs(tmp_path, bytes(five().data))
