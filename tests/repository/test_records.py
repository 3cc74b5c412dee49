from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.repository.made import BLOBS, RECORD
from zodbvault.repository.records import (
    FORMAT_VERSION,
    BlobRecord,
    DamagedRecord,
    NewerFormat,
    Record,
    format_record,
    parse_record,
)

NAME = "2026-11-23-18-05-00.json"
COMPLETE = RECORD._replace(blobs=BLOBS._replace(missing=("0x00/0x01.blob", "0x00/0x02.blob")))

counts = st.integers(0, 2**63)
names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)


def digits(count: int) -> st.SearchStrategy[str]:
    return st.text("0123456789abcdef", min_size=count, max_size=count)


blob_records = st.builds(
    BlobRecord,
    layout=names,
    manifest=names,
    sha256=digits(64),
    stored_size=counts,
    complete=st.booleans(),
    source_layout=names,
    added=counts,
    added_size=counts,
    total=counts,
    total_size=counts,
    archives_size=st.none() | counts,
    missing=st.lists(names, max_size=3).map(tuple),
)
records = st.builds(
    Record,
    format=st.just(FORMAT_VERSION),
    timestamp=names,
    kind=names,
    start=counts,
    end=counts,
    first_tid=st.none() | digits(16),
    last_tid=st.none() | digits(16),
    tail_tid=st.none() | digits(16),
    tail_header=counts,
    magic=names,
    transactions=st.none() | counts,
    data_name=st.none() | names,
    md5=st.none() | digits(32),
    stored_size=counts,
    sha256=st.none() | digits(64),
    source_path=names,
    source_device=counts,
    source_inode=counts,
    started=names,
    finished=names,
    engine=names,
    chain_id=names,
    chain_backups=counts,
    chain_stored_size=counts,
    chain_manifest_size=counts,
    encrypted=st.booleans(),
    blobs=st.none() | blob_records,
)


@given(records)
def test_what_is_written_is_read_again(record: Record) -> None:
    content = format_record(record)
    assert parse_record(content, NAME) == record
    assert content.isascii()
    assert next(iter(json.loads(content))) == "format"
    # For people: a key in a line.
    assert content == json.dumps(json.loads(content), indent=1).encode() + b"\n"


def values_of(record: Record) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(format_record(record))
    return values


def test_keys_of_a_later_writer_of_the_same_format_are_left_out() -> None:
    values = {**values_of(COMPLETE), "colour": "blue"}
    values["blobs"]["colour"] = "red"
    assert parse_record(json.dumps(values).encode(), NAME) == COMPLETE


def test_a_newer_format_is_not_guessed_at() -> None:
    values = {"format": FORMAT_VERSION + 1, "everything": "else"}
    with pytest.raises(NewerFormat) as error:
        parse_record(json.dumps(values).encode(), NAME)
    assert str(error.value) == (
        f"{NAME}: has format 2, and this version of zodbvault knows up to 1. "
        "Use the version of zodbvault that wrote it, or a later one."
    )


@pytest.mark.parametrize("key", sorted(values_of(COMPLETE)))
def test_a_record_that_lacks_something_is_none(key: str) -> None:
    values = values_of(COMPLETE)
    del values[key]
    with pytest.raises(DamagedRecord):
        parse_record(json.dumps(values).encode(), NAME)


def test_a_record_of_the_time_before_a_field_came_is_read() -> None:
    values = values_of(COMPLETE)
    del values["blobs"]["archives_size"]
    assert parse_record(json.dumps(values).encode(), NAME) == COMPLETE


@pytest.mark.parametrize("key", sorted(values_of(COMPLETE)["blobs"].keys() - {"archives_size"}))
def test_a_blob_record_that_lacks_something_is_none(key: str) -> None:
    values = values_of(COMPLETE)
    del values["blobs"][key]
    with pytest.raises(DamagedRecord):
        parse_record(json.dumps(values).encode(), NAME)


def without_key(key: str) -> bytes:
    values = values_of(COMPLETE)
    del values[key]
    return json.dumps(values).encode()


def with_value(key: str, value: Any) -> bytes:
    return json.dumps({**values_of(COMPLETE), key: value}).encode()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "it cannot be read as JSON"),
        (b"[]", "it has no format version"),
        (without_key("format"), "it has no format version"),
        (without_key("end"), "it has no 'end'"),
        (with_value("end", -1), "its 'end' is '-1'"),
        (with_value("blobs", {"layout": "pool"}), "it has no 'manifest'"),
        (with_value("data_name", list(range(40))), f"its 'data_name' is '{str(list(range(40)))[:80]}'"),
    ],
)
def test_damage_is_told_with_the_files_name(content: bytes, told: str) -> None:
    with pytest.raises(DamagedRecord) as error:
        parse_record(content, NAME)
    assert str(error.value) == f"{NAME}: is not a record: {told}"


@pytest.mark.parametrize("value", ["", "0" * 31, "0" * 33, "A" * 32, "g" * 32, "x" * 16])
def test_a_checksum_is_so_many_hexadecimal_digits_and_nothing_else(value: str) -> None:
    with pytest.raises(DamagedRecord, match="md5"):
        parse_record(with_value("md5", value), NAME)


def test_a_number_is_one_of_64_bits() -> None:
    assert parse_record(with_value("source_inode", (1 << 64) - 1), NAME).source_inode == (1 << 64) - 1
    with pytest.raises(DamagedRecord, match="source_inode"):
        parse_record(with_value("source_inode", 1 << 64), NAME)


@pytest.mark.parametrize("value", [-1, 1.5, True, "7", [], {}, ["a"], [1], float("nan")])
@pytest.mark.parametrize("key", ["start", "end", "stored_size", "chain_backups", "transactions"])
def test_a_number_is_a_whole_one_that_is_not_negative(key: str, value: Any) -> None:
    values = {**values_of(COMPLETE), key: value}
    with pytest.raises(DamagedRecord) as error:
        parse_record(json.dumps(values).encode(), NAME)
    assert key in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", True),
        ("format", 0),
        ("format", -1),
        ("format", "1"),
        ("format", None),
        ("encrypted", 1),
        ("encrypted", None),
        ("timestamp", None),
        ("data_name", 3),
        ("data_name", []),
        ("blobs", []),
        ("blobs", "pool"),
        ("blobs", {}),
    ],
)
def test_a_value_of_another_type_is_damage(key: str, value: Any) -> None:
    with pytest.raises(DamagedRecord):
        parse_record(json.dumps({**values_of(COMPLETE), key: value}).encode(), NAME)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\0", "a\0b"])
def test_a_text_that_no_file_can_be_called_is_damage(text: str) -> None:
    values = values_of(COMPLETE)
    for holder, key in ((values, "data_name"), (values, "source_path"), (values["blobs"], "manifest")):
        kept = holder[key]
        holder[key] = text
        with pytest.raises(DamagedRecord, match=key):
            parse_record(json.dumps(values).encode(), NAME)
        holder[key] = kept
    assert parse_record(json.dumps(values).encode(), NAME) == COMPLETE


def test_a_path_whose_bytes_are_not_utf_8_is_kept() -> None:
    values = {**values_of(COMPLETE), "source_path": os.fsdecode(b"/var/\xfc\xff/Data.fs")}
    assert os.fsencode(parse_record(json.dumps(values).encode(), NAME).source_path) == b"/var/\xfc\xff/Data.fs"


@pytest.mark.parametrize("missing", ["0x00", [1], [None], None, {}, ["\ud800"]])
def test_missing_blobs_are_a_list_of_names(missing: Any) -> None:
    values = values_of(COMPLETE)
    values["blobs"]["missing"] = missing
    with pytest.raises(DamagedRecord):
        parse_record(json.dumps(values).encode(), NAME)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"7",
        b'"x"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": ' + b"1" * 5000 + b"}",
        b"\0" * 500,
    ],
)
def test_what_is_not_json_of_a_record_is_damage(content: bytes) -> None:
    with pytest.raises(DamagedRecord):
        parse_record(content, NAME)


@given(st.integers(0, len(format_record(COMPLETE)) - 2))
def test_a_shortened_record_is_damage(length: int) -> None:
    with pytest.raises(DamagedRecord):
        parse_record(format_record(COMPLETE)[:length], NAME)
