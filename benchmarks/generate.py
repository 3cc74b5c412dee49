"""Writes a realistic site quickly: a Data.fs in FileStorage's format, and its blobs in bushy layout.

The file is written byte by byte, as ZODB would take an hour for a large one; ZODB opens it, reads
every object and packs it. Sizes are mixed, text compresses about 2.5 to 1, every object can be reached from the root by
references, and the same seed gives the same bytes. What happens to a site later is in `benchmarks.live`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"FS30"
TRANSACTION_HEADER = struct.Struct(">QQcHHH")
"""tid, length of the transaction without its last 8 bytes, status, lengths of user, description and extension."""
DATA_HEADER = struct.Struct(">QQQQHQ")
"""oid, tid, offset of the object's previous record, offset of the transaction, 0, length of the pickle."""
LENGTH = struct.Struct(">Q")

MINUTE = 1 << 32
"""One minute in a tid. Its upper half counts minutes, with months of 31 days; the lower one is a part of a minute."""
FIRST_TID = ((2024 - 1900) * 12 * 31) * 24 * 60 * MINUTE
"""The first of January 2024. All that is generated lies in the 30 days after it, and later changes on the 31st."""
DAYS = 30

PAGE_CLASS = b"\x80\x03cpersistent.mapping\nPersistentMapping\nq\x00."
BLOB_RECORD = b"\x80\x03cZODB.blob\nBlob\nq\x00.\x80\x03N."
STATE_START = b"\x80\x03}X\x04\x00\x00\x00data}("
"""The pickle of a page's state up to where the keys and values begin. The text is the last value."""
STATE_END = b"us."

CHILDREN = 20
"""Pages below a page. Page n is below page (n - 1) // 20, and page 0 is the root."""
SHORTEST_TEXT = 40
LONGEST_TEXT = 200_000
TEXT_POOL = 8 << 20
BLOB_POOL = 8 << 20


@dataclass(frozen=True)
class Plan:
    """What a site holds. size: of Data.fs, bytes, about. blob_sizes: of the smallest and the largest one, bytes."""

    objects: int
    size: int
    blobs: int = 0
    per_transaction: int = 20
    blob_sizes: tuple[int, int] = (2_000, 60_000)
    seed: int = 1

    def scaled(self, factor: float) -> Plan:
        """A site of the same kind, smaller or larger."""
        objects, blobs = max(round(self.objects * factor), 100), round(self.blobs * factor)
        return Plan(objects, round(self.size * factor), blobs, self.per_transaction, self.blob_sizes, self.seed)

    @property
    def transactions(self) -> int:
        """The root's, those of the pages, and one for each blob."""
        return 1 + -(-self.objects // self.per_transaction) + self.blobs

    @property
    def blob_bytes(self) -> int:
        """The bytes of all blobs together, about."""
        return self.blobs * sum(self.blob_sizes) // 2


PLANS = {
    "S": Plan(objects=400_000, size=390_000_000, blobs=5_000),
    "L": Plan(objects=4_000_000, size=1_700_000_000),
    "B": Plan(objects=100_000, size=60_000_000, blobs=100_000, blob_sizes=(2_000, 30_000)),
    "M": Plan(objects=2_000_000, size=460_000_000, per_transaction=1),
    # For the growth of cost and memory: few blobs, ten times S, ten times B (of small blobs, since it is their number).
    "K": Plan(objects=10_000, size=10_000_000, blobs=1_000, blob_sizes=(2_000, 30_000)),
    "S10": Plan(objects=4_000_000, size=3_900_000_000, blobs=50_000),
    "B10": Plan(objects=1_000_000, size=600_000_000, blobs=1_000_000, blob_sizes=(100, 1_000)),
}


def main() -> None:
    """Generate one site from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="gets filestorage/Data.fs and blobstorage/")
    parser.add_argument("--plan", choices=PLANS, default="S", help="what it is like (default: S)")
    parser.add_argument("--scale", type=float, default=1.0, help="part of that, such as 0.05 (default: 1)")
    options = parser.parse_args()
    generate(options.folder, PLANS[options.plan].scaled(options.scale))


def generate(folder: Path, plan: Plan) -> None:
    """Write a site into a folder: filestorage/Data.fs, blobstorage/, and site.json about it."""
    if plan.blobs > plan.objects:
        raise ValueError("a page has at most one blob")
    (folder / "filestorage").mkdir(parents=True)
    blobs = _BlobStorage(folder / "blobstorage", random.Random(plan.seed + 1), plan.blob_sizes)
    with open(folder / "filestorage" / "Data.fs", "wb", buffering=4 << 20) as file:
        file.write(MAGIC)
        position = len(MAGIC)
        step = DAYS * 24 * 60 * MINUTE // (plan.transactions + 1)
        tid = FIRST_TID
        for records, blob in _transactions(plan):
            tid += step
            data = transaction(tid, position, [(oid, 0, data) for oid, data in records])
            file.write(data)
            position += len(data)
            if blob:
                blobs.write(records[0][0], tid)
    about = {"objects": plan.objects, "blobs": plan.blobs, "next_oid": plan.objects + plan.blobs + 1, "changes": 0}
    (folder / "site.json").write_text(json.dumps(about))


def transaction(tid: int, position: int, records: list[tuple[int, int, bytes]]) -> bytes:
    """A committed transaction at an offset of Data.fs, of (oid, offset of the previous record, pickle) records."""
    header = DATA_HEADER.pack
    parts = [b""]
    length = TRANSACTION_HEADER.size
    for oid, previous, data in records:
        size = len(data)
        parts += (header(oid, tid, previous, position, 0, size), data)
        length += DATA_HEADER.size + size
    parts[0] = TRANSACTION_HEADER.pack(tid, length, b" ", 0, 0, 0)
    parts.append(LENGTH.pack(length))
    return b"".join(parts)


def reference(oid: int, is_blob: bool = False) -> bytes:
    """A persistent reference as ZODB.serialize writes it: the oid and the class (memo 0 holds that of a page)."""
    klass = b"cZODB.blob\nBlob\n" if is_blob else b"h\x00"
    return b"C\x08" + LENGTH.pack(oid) + klass + b"\x86Q"


def string(text: bytes) -> bytes:
    """A string of ASCII as a pickle holds it."""
    return b"X" + struct.pack("<I", len(text)) + text


def blob_path(oid: int, tid: int) -> str:
    """Where a bushy blobstorage keeps a blob."""
    folders = "/".join(f"0x{byte:02x}" for byte in LENGTH.pack(oid))
    return f"{folders}/0x{LENGTH.pack(tid).lstrip(bytes(1)).hex()}.blob"


def _transactions(plan: Plan) -> Iterator[tuple[list[tuple[int, bytes]], bool]]:
    """The records of each transaction, (oid, pickle), and whether it is that of a blob."""
    page_of_blob = {1 + made * plan.objects // plan.blobs: plan.objects + 1 + made for made in range(plan.blobs)}
    page = _Pages(plan, page_of_blob)
    yield [(0, page(0))], False
    for first in range(1, plan.objects + 1, plan.per_transaction):
        oids = range(first, min(first + plan.per_transaction, plan.objects + 1))
        yield [(oid, page(oid)) for oid in oids], False
        for oid in oids if page_of_blob else ():
            if oid in page_of_blob:
                yield [(page_of_blob[oid], BLOB_RECORD)], True


class _Pages:
    """The pickles of a site's pages, by oid."""

    def __init__(self, plan: Plan, page_of_blob: dict[int, int]) -> None:
        chance = random.Random(plan.seed)
        self._objects = plan.objects
        self._page_of_blob = page_of_blob
        bare = len(_page(1, b"", b"")) + DATA_HEADER.size + 31 / plan.per_transaction + len(reference(1)) + 2
        mean = max(plan.size / plan.objects - bare, SHORTEST_TEXT)
        # Many short texts and a few long ones; 0.726 makes `mean` the mean of that distribution.
        lengths = (int(chance.lognormvariate(0, 0.8) * 0.726 * mean) for _ in range(1 << 14))
        self._lengths = [min(max(length, SHORTEST_TEXT), LONGEST_TEXT) for length in lengths]
        self._text = _text(chance, min(TEXT_POOL, max(plan.size, 4 * LONGEST_TEXT)))
        self._span = len(self._text) - LONGEST_TEXT

    def __call__(self, oid: int) -> bytes:
        more = b""
        if oid * CHILDREN < self._objects:
            children = range(oid * CHILDREN + 1, min((oid + 1) * CHILDREN, self._objects) + 1)
            more = string(b"children") + b"](" + b"".join(map(reference, children)) + b"e"
        if oid in self._page_of_blob:
            more += string(b"file") + reference(self._page_of_blob[oid], is_blob=True)
        at = oid * 2_654_435_761 % self._span
        return _page(oid, more, self._text[at : at + self._lengths[oid & 0x3FFF]])


_KEYS = [PAGE_CLASS + STATE_START + string(b"title"), string(b"parent"), string(b"text")]


def _page(oid: int, more: bytes, text: bytes) -> bytes:
    """A page's record as ZODB writes it: the class, then its state, each a pickle of protocol 3."""
    title, parent, key = _KEYS
    return b"".join(
        (
            title,
            b"X\x0d\x00\x00\x00Page %08d" % oid,
            parent,
            reference((oid - 1) // CHILDREN if oid else 0),
            more,
            key,
            string(text),
            STATE_END,
        )
    )


class _BlobStorage:
    """Writes blobs where a bushy blobstorage has them; folders are made once."""

    def __init__(self, folder: Path, chance: random.Random, sizes: tuple[int, int]) -> None:
        (folder / "tmp").mkdir(parents=True)
        (folder / ".layout").write_text("bushy")
        self._folder = f"{folder}/"
        self._chance = chance
        self._sizes = sizes
        self._content = memoryview(chance.randbytes(BLOB_POOL))
        self._made = ""

    def write(self, oid: int, tid: int) -> None:
        path = self._folder + blob_path(oid, tid)
        own, _, _ = path.rpartition("/")
        above, _, _ = own.rpartition("/")
        if above != self._made:
            os.makedirs(above, exist_ok=True)
            self._made = above
        os.mkdir(own)
        smallest, largest = self._sizes
        length = smallest + int(self._chance.random() * (largest - smallest))
        at = int(self._chance.random() * (len(self._content) - length))
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(descriptor, self._content[at : at + length])
        os.close(descriptor)


def _text(chance: random.Random, size: int) -> bytes:
    """Prose of made-up words, in a pool from which pages are cut; gzip makes it about 2.5 times smaller."""
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 11))) for _ in range(12_000)]
    weights = [1 / (rank + 20) for rank in range(len(words))]
    # A word and its space have 7.5 letters.
    text = " ".join(chance.choices(words, weights, k=size // 7)).encode("ascii")
    return (text * (1 + size // len(text)))[:size]


if __name__ == "__main__":
    os.umask(0o022)
    main()
