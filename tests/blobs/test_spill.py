from __future__ import annotations

from pathlib import Path
from tempfile import gettempdir

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.leaks import open_files
from zodbvault.blobs.spill import SortedKeys, SortedRecords
from zodbvault.errors import ZodbvaultError


@given(
    records=st.lists(st.binary(min_size=2, max_size=2), max_size=600),
    in_memory=st.integers(1, 40),
)
@settings(deadline=None)
def test_records_come_back_sorted_and_once(records: list[bytes], in_memory: int) -> None:
    with SortedRecords(2, Path(gettempdir()), in_memory=in_memory) as spilled:
        for record in records:
            spilled.add(record)
        expected = sorted(set(records))
        assert list(spilled) == expected
        assert list(spilled) == expected
        assert len(spilled) == len(expected)
        assert bool(spilled) == bool(expected)


def test_many_runs_are_merged_in_rounds(tmp_path: Path) -> None:
    # 5,000 runs of one record: three rounds of merging
    with SortedKeys(tmp_path, in_memory=1) as keys:
        for number in range(5000):
            keys.add((number * 7919 % 5000).to_bytes(16, "big"))
        assert list(keys) == [number.to_bytes(16, "big") for number in range(5000)]
        assert sum(len(level) for level in keys._levels) <= 64


def test_adding_goes_on_after_reading_and_while_reading(tmp_path: Path) -> None:
    with SortedRecords(1, tmp_path, in_memory=2) as records:
        for byte in b"dcb":
            records.add(bytes([byte]))
        reading = iter(records)
        assert next(reading) == b"b"
        for byte in b"aefgh":
            records.add(bytes([byte]))
        assert list(reading) == [b"c", b"d"]
        assert b"".join(records) == b"abcdefgh"
        assert len(records) == 8


def test_two_readers_do_not_disturb_each_other(tmp_path: Path) -> None:
    with SortedRecords(1, tmp_path, in_memory=2) as records:
        for byte in range(100):
            records.add(bytes([byte]))
        assert [(a, b) for a, b in zip(records, records, strict=True) if a != b] == []


def test_the_temporary_file_has_no_name_and_is_gone_at_the_end(tmp_path: Path) -> None:
    before = open_files()
    with SortedRecords(1, tmp_path, in_memory=2) as records:
        for byte in b"abcdef":
            records.add(bytes([byte]))
        assert open_files() - before
        assert list(tmp_path.iterdir()) == []
    assert not open_files() - before
    assert not records


def test_few_records_need_no_file(tmp_path: Path) -> None:
    with SortedKeys(tmp_path / "none") as keys:
        keys.add(bytes(16))
        assert list(keys) == [bytes(16)]
        assert keys._file is None


def test_a_record_of_another_length_is_refused(tmp_path: Path) -> None:
    with SortedKeys(tmp_path) as keys, pytest.raises(ValueError, match="15"):
        keys.add(bytes(15))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with SortedRecords(1, tmp_path / "none", in_memory=1) as records, pytest.raises(ZodbvaultError, match="none"):
        records.add(b"a")


def test_memory_stays_small(tmp_path: Path) -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        with SortedKeys(tmp_path) as keys:
            for number in range(150_000):
                keys.add((number * 7919 % 150_000).to_bytes(16, "big"))
            assert sum(1 for _ in keys) == 150_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12_000_000
