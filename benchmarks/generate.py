"""Writes a realistic site quickly: a Data.fs in FileStorage's format, and its blobs in bushy layout.

The file is written byte by byte rather than through ZODB, which would take an hour for a large one; ZODB opens it and
reads every object. Sizes are mixed, the text compresses about 2.5 to 1, and the same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import struct
from pathlib import Path

MAGIC = b"FS30"
TRANSACTION_HEADER = struct.Struct(">8sQcHHH")
DATA_HEADER = struct.Struct(">8s8sQQHQ")
# The first tid: 2024-01-01 in ZODB's reckoning of minutes; each transaction is a minute later.
FIRST_MINUTE = ((2024 - 1900) * 12 * 31) * 24 * 60
TEXT_POOL_SIZE = 8 << 20


def main() -> None:
    """Generate one site from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="gets filestorage/Data.fs and blobstorage/")
    parser.add_argument("--objects", type=int, default=400_000)
    parser.add_argument("--megabytes", type=int, default=390, help="size of Data.fs")
    parser.add_argument("--blobs", type=int, default=5_000)
    parser.add_argument("--per-transaction", type=int, default=20, help="objects in a transaction")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    generate(
        options.folder,
        objects=options.objects,
        size=options.megabytes * 1_000_000,
        blobs=options.blobs,
        per_transaction=options.per_transaction,
        seed=options.seed,
    )


def generate(folder: Path, *, objects: int, size: int, blobs: int, per_transaction: int, seed: int) -> None:
    """Write the site. size: of Data.fs, bytes, about. blobs: each its own transaction, 2 to 60 kB."""
    chance = random.Random(seed)
    text = _text(chance)
    (folder / "filestorage").mkdir(parents=True)
    mean = max(size // max(objects, 1) - 150, 20)
    writer = _Writer(folder)
    with open(folder / "filestorage" / "Data.fs", "wb", buffering=1 << 20) as file:
        file.write(MAGIC)
        writer.file = file
        writer.transaction([(0, _pickle("persistent.mapping", "PersistentMapping", {"data": {}}))])
        blob_every = max(objects // max(blobs, 1), 1)
        oid, next_blob, made = 1, blob_every, 0
        while oid <= objects:
            records = []
            for _ in range(min(per_transaction, objects - oid + 1)):
                length = min(int(chance.lognormvariate(0, 0.8) * mean * 0.73), 200_000)
                at = chance.randrange(len(text) - length - 1)
                state = {"data": {"title": f"Page {oid}", "parent": oid // 20, "text": text[at : at + length]}}
                records.append((oid, _pickle("persistent.mapping", "PersistentMapping", state)))
                oid += 1
            writer.transaction(records)
            if oid >= next_blob and made < blobs:
                writer.blob(objects + 1 + made, chance.randbytes(chance.randrange(2_000, 60_000)))
                next_blob += blob_every
                made += 1
        while made < blobs:
            writer.blob(objects + 1 + made, chance.randbytes(chance.randrange(2_000, 60_000)))
            made += 1


class _Writer:
    """Appends transactions to a Data.fs and puts blobs where a bushy blobstorage has them."""

    def __init__(self, folder: Path) -> None:
        self.file: io.BufferedIOBase = io.BytesIO()
        self._position = len(MAGIC)
        self._minute = FIRST_MINUTE
        self._blobstorage = folder / "blobstorage"
        (self._blobstorage / "tmp").mkdir(parents=True)
        (self._blobstorage / ".layout").write_text("bushy")

    def transaction(self, records: list[tuple[int, bytes]]) -> bytes:
        """Append one transaction of (oid, pickle) records; return its tid."""
        self._minute += 1
        tid = struct.pack(">II", self._minute, 0)
        start = self._position
        parts = [b""]
        for oid, data in records:
            header = DATA_HEADER.pack(struct.pack(">Q", oid), tid, 0, start, 0, len(data))
            parts.append(header + data)
        length = TRANSACTION_HEADER.size + sum(map(len, parts))
        parts[0] = TRANSACTION_HEADER.pack(tid, length, b" ", 0, 0, 0)
        parts.append(struct.pack(">Q", length))
        self.file.write(b"".join(parts))
        self._position = start + length + 8
        return tid

    def blob(self, oid: int, content: bytes) -> None:
        """Append a transaction with one blob and write its file."""
        tid = self.transaction([(oid, _pickle("ZODB.blob", "Blob", None))])
        digits = f"{oid:016x}"
        folder = self._blobstorage.joinpath(*(f"0x{digits[at : at + 2]}" for at in range(0, 16, 2)))
        folder.mkdir(parents=True)
        (folder / f"0x{tid.lstrip(bytes(1)).hex()}.blob").write_bytes(content)


def _pickle(module: str, name: str, state: object) -> bytes:
    """A record as ZODB writes it: the class, then its state, each a pickle of protocol 3."""
    return b"\x80\x03c" + f"{module}\n{name}\n".encode() + b"q\x00." + pickle.dumps(state, 3)


def _text(chance: random.Random) -> str:
    """Prose of made-up words, in a pool from which pages are cut; gzip makes it about 2.5 times smaller."""
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 11))) for _ in range(12_000)]
    weights = [1 / (rank + 20) for rank in range(len(words))]
    return " ".join(chance.choices(words, weights, k=TEXT_POOL_SIZE // 7))


if __name__ == "__main__":
    os.umask(0o022)
    main()
