"""What a transaction is about, of files that ZODB wrote long ago or would not write."""

from __future__ import annotations

import pytest

from tests.filestorage.handmade import BLOB, PAGE, Handmade, number
from zodbvault.filestorage.backward import Transaction, transactions_backward
from zodbvault.filestorage.details import Details, details_of
from zodbvault.filestorage.source import DamagedDataFs


def told(file: Handmade) -> list[Details]:
    """The details of all transactions, oldest first."""
    data = bytes(file.data)

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    def details(transaction: Transaction) -> Details:
        return details_of(read, transaction)

    return [details(each) for each in transactions_backward(read, 4, len(data))][::-1]


def test_records_of_all_kinds_are_counted() -> None:
    file = Handmade()
    file.add(records=((1, PAGE), (2, BLOB), (3, b"x")), texts=(b"me", b"did this", b"ext"))
    file.add(records=((2, file.records[1]), (1, file.records[0]), (3, 0)))  # an undo, and one of a creation
    file.add(records=((2, file.records[3]),))  # refers to what refers back
    file.add(records=((2, BLOB), (4, PAGE)), version=b"old version")
    file.add(records=((2, file.records[-2]), (4, file.records[-1])), version=b"another old version")
    file.add(records=(), texts=("Jürgen".encode("latin-1"), b"", b""))
    assert told(file) == [
        Details("me", "did this", 3, 1),
        Details("", "", 3, 1),
        Details("", "", 1, 1),
        Details("", "", 2, 1),
        Details("", "", 2, 1),
        Details("J\\xfcrgen", "", 0, 0),
    ]


@pytest.mark.parametrize(
    ("offset", "value", "match"),
    [
        (24, number(77), "is not of the transaction"),
        (34, number(1 << 40), "inside a record|longer than itself"),
        (34, number(len(PAGE) + 1), "is not of the transaction|longer than itself"),
    ],
)
def test_records_that_do_not_add_up_are_damage(offset: int, value: bytes, match: str) -> None:
    file = Handmade()
    file.add(records=((1, PAGE),))
    file.put(file.records[0] + offset, value)
    with pytest.raises(DamagedDataFs, match=match):
        told(file)


def test_a_record_that_is_cut_short_by_the_files_end_is_damage() -> None:
    file = Handmade()
    file.add(records=((1, b"xyz"),))
    file.put(file.starts[0] + 19, b"\0\x14")  # a description of 20 bytes: so much later the record begins
    with pytest.raises(DamagedDataFs, match=f"ends at offset {len(file.data)}, inside a record"):
        told(file)


@pytest.mark.parametrize("back", [10**9, "itself", "another"])
def test_a_record_that_refers_to_what_it_cannot_is_damage(back: int | str) -> None:
    file = Handmade()
    file.add(records=((1, PAGE),))
    here = len(file.data) + 23
    target = {"itself": here, "another": file.records[0]}.get(str(back), back)
    assert isinstance(target, int)
    file.add(records=((2 if back == "another" else 1, target),))
    with pytest.raises(DamagedDataFs, match=r"not before it|another oid"):
        told(file)
