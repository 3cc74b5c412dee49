"""Data.fs files written field by field, for states that ZODB itself would not write."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

BLOB = b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."
PAGE = b"\x80\x03cmy.site\nPage\nq\x00.\x80\x03}q\x01X\x05\x00\x00\x00titleq\x02X\x04\x00\x00\x00homeq\x03s."


def number(value: int) -> bytes:
    return struct.pack(">Q", value)


@dataclass
class Handmade:
    """A file that grows; `starts` and `ends` of its transactions, the blobs in it."""

    data: bytearray = field(default_factory=lambda: bytearray(b"FS30"))
    starts: list[int] = field(default_factory=list)
    tids: list[int] = field(default_factory=list)
    blobs: set[tuple[bytes, bytes]] = field(default_factory=set)
    records: list[int] = field(default_factory=list)

    def add(
        self,
        tid: int | None = None,
        records: tuple[tuple[int, bytes | int], ...] = ((1, PAGE),),
        *,
        status: bytes = b" ",
        texts: tuple[bytes, bytes, bytes] = (b"", b"", b""),
        version: bytes = b"",
    ) -> int:
        """One more transaction: (oid, data or back pointer) each. Returns where it begins."""
        start = len(self.data)
        tid = self.tids[-1] + 1 if tid is None and self.tids else tid or 0x0400000000000000
        body = bytearray(b"".join(texts))
        for oid, data in records:
            here = start + 23 + len(body)
            self.records.append(here)
            length = 0 if isinstance(data, int) else len(data)
            body += struct.pack(">QQQQHQ", oid, tid, 0, start, len(version), length)
            if version:
                body += number(0) + number(0) + version
            body += number(data) if isinstance(data, int) else data
            if data == BLOB and status != b"u":
                self.blobs.add((number(oid), number(tid)))
        header = struct.pack(">QQcHHH", tid, 23 + len(body), status, *map(len, texts))
        self.data += header + body + number(23 + len(body))
        self.starts.append(start)
        self.tids.append(tid)
        return start

    def put(self, offset: int, value: bytes) -> None:
        self.data[offset : offset + len(value)] = value

    @property
    def ends(self) -> list[int]:
        return [*self.starts[1:], len(self.data)]


def three(**options: Any) -> Handmade:
    """Three transactions, each with the same `options` of Handmade.add."""
    made = Handmade()
    for _ in range(3):
        made.add(**options)
    return made
