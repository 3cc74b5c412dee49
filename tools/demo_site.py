"""What the application of the demo does with its database, in a process of its own, through ZODB alone.

zodb-python demo_site.py write SEED   commits new and changed pages and files to the site in the current folder
zodb-python demo_site.py read         reads every object and blob of it, prints a checksum of each as JSON
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import transaction
import ZODB
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA_FS = "var/filestorage/Data.fs"
BLOB_STORAGE = "var/blobstorage"

TRANSACTIONS = 25
PAGES = 40
FILES = 2


def write(seed: int) -> None:
    """Commit TRANSACTIONS transactions, each with PAGES pages and FILES files, some of them new ones of old names."""
    chance = random.Random(seed)
    os.makedirs(os.path.dirname(DATA_FS), exist_ok=True)
    with closing(ZODB.DB(FileStorage(DATA_FS, blob_dir=BLOB_STORAGE))) as db:
        root = db.open().root()
        for _ in range(TRANSACTIONS):
            for _ in range(PAGES):
                text = " ".join(f"{chance.randrange(5000)}" for _ in range(chance.randrange(500)))
                root[f"page {chance.randrange(3 * TRANSACTIONS * PAGES)}"] = PersistentMapping(text=text)
            for _ in range(FILES):
                name = f"file {chance.randrange(3 * TRANSACTIONS * FILES)}"
                blob = root.setdefault(name, Blob())
                with blob.open("w") as file:
                    file.write(chance.randbytes(chance.randrange(100_000)))
            transaction.commit()


def checksums() -> Iterator[tuple[str, str]]:
    """The oid and a checksum of every object: of its record and, of a blob, of what is in the file."""
    with (
        closing(ZODB.DB(FileStorage(DATA_FS, blob_dir=BLOB_STORAGE, read_only=True))) as db,
        db.transaction() as connection,
    ):
        following = None
        while True:
            oid, _, record, following = db.storage.record_iternext(following)
            digest = hashlib.sha256(record)
            found = connection.get(oid)
            found._p_activate()
            if isinstance(found, Blob):
                with found.open() as file:
                    digest.update(file.read())
            yield oid.hex(), digest.hexdigest()
            if following is None:
                return


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(int(sys.argv[2]))
    else:
        json.dump(dict(checksums()), sys.stdout)
