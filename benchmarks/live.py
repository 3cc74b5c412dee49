"""What happens to a generated site while it lives: changes, new blobs, an index as a server leaves it, a pack.

    python -m benchmarks.live FOLDER change 10 | blob 20000 | index | pack

Changes are appended to Data.fs byte by byte, as one committed transaction each. The index and the pack are ZODB's own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from benchmarks.generate import (
    BLOB_RECORD,
    DATA_HEADER,
    LENGTH,
    MAGIC,
    MINUTE,
    PAGE_CLASS,
    STATE_END,
    STATE_START,
    TRANSACTION_HEADER,
    blob_path,
    reference,
    string,
    transaction,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Record = tuple[int, int, bytes]
"""oid, offset, pickle."""


def main() -> None:
    """Let one thing happen to a site."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="that of a generated site")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("change", help="append a transaction with changed objects").add_argument("objects", type=int)
    commands.add_parser("blob", help="append a transaction with a new blob").add_argument("size", type=int)
    commands.add_parser("index", help="write Data.fs.index, as a server does when it stops")
    commands.add_parser("pack", help="drop what is not current")
    options = parser.parse_args()
    if options.command == "change":
        append_changes(options.folder, options.objects)
    elif options.command == "blob":
        append_blob(options.folder, options.size)
    elif options.command == "index":
        write_index(options.folder)
    else:
        pack(options.folder)


def append_changes(folder: Path, count: int) -> None:
    """Commit a transaction in which the `count` pages changed that were written last."""
    with open(_data_fs(folder), "r+b") as file:
        number = _count_change(folder)
        records = [(oid, at, _edited(data, number)) for oid, at, data in _newest_pages(file, count)]
        if len(records) < count:
            raise ValueError(f"the site has only {len(records)} pages")
        _append(file, records)


def append_blob(folder: Path, size: int) -> Path:
    """Commit a transaction in which a page gets a new blob; return the blob's file. size: of the blob, bytes."""
    site = json.loads((folder / "site.json").read_text())
    oid = site["next_oid"]
    (folder / "site.json").write_text(json.dumps({**site, "next_oid": oid + 1, "blobs": site["blobs"] + 1}))
    with open(_data_fs(folder), "r+b") as file:
        page, at, data = next(_newest_pages(file, 1))
        start = len(PAGE_CLASS) + len(STATE_START)
        data = data[:start] + string(b"file%d" % oid) + reference(oid, is_blob=True) + data[start:]
        tid = _append(file, [(page, at, data), (oid, 0, BLOB_RECORD)])
    path = folder / "blobstorage" / blob_path(oid, tid)
    path.parent.mkdir(parents=True)
    path.write_bytes(random.Random(oid).randbytes(size))
    return path


def write_index(folder: Path) -> None:
    """Write Data.fs.index for the whole Data.fs; transactions that come later are not in it, as on a running site."""
    _file_storage(folder).close()


def pack(folder: Path) -> None:
    """Pack the site to this moment. What a record refers to stays, so only older revisions go."""
    from ZODB.serialize import referencesf

    storage = _file_storage(folder, blob_dir=str(folder / "blobstorage"), pack_gc=False, pack_keep_old=False)
    storage.pack(time.time(), referencesf)
    storage.close()


def _file_storage(folder: Path, **options: Any) -> Any:
    from ZODB.FileStorage import FileStorage

    path = str(_data_fs(folder))
    storage = FileStorage(path, **options)
    with suppress(FileNotFoundError):
        os.unlink(f"{path}.tmp")
    return storage


def _data_fs(folder: Path) -> Path:
    return folder / "filestorage" / "Data.fs"


def _count_change(folder: Path) -> int:
    """How many changes there were, with this one."""
    site = json.loads((folder / "site.json").read_text())
    number: int = site["changes"] + 1
    (folder / "site.json").write_text(json.dumps({**site, "changes": number}))
    return number


def _append(file: BinaryIO, records: list[Record]) -> int:
    """Commit a transaction a second after the last one; return its tid. The offsets are those of older records."""
    end = file.seek(0, os.SEEK_END)
    file.seek(end - 8)
    (length,) = LENGTH.unpack(file.read(8))
    file.seek(end - 8 - length)
    tid = TRANSACTION_HEADER.unpack(file.read(TRANSACTION_HEADER.size))[0] + MINUTE // 60
    file.seek(end)
    file.write(transaction(tid, end, records))
    return int(tid)


def _newest_pages(file: BinaryIO, count: int) -> Iterator[Record]:
    """The current records of the `count` pages that were written last, from the end of the file backwards."""
    end = file.seek(0, os.SEEK_END)
    seen: set[int] = set()
    while end > len(MAGIC):
        file.seek(end - 8)
        (length,) = LENGTH.unpack(file.read(8))
        start = end - 8 - length
        file.seek(start)
        data = file.read(length)
        position = TRANSACTION_HEADER.size
        while position < length:
            oid, _, _, _, _, size = DATA_HEADER.unpack_from(data, position)
            pickle = data[position + DATA_HEADER.size : position + DATA_HEADER.size + size]
            # Another one further back is an older revision.
            if pickle.startswith(PAGE_CLASS) and oid not in seen:
                seen.add(oid)
                yield oid, start + position, pickle
                if len(seen) == count:
                    return
            position += DATA_HEADER.size + size
        end = start


def _edited(data: bytes, number: int) -> bytes:
    """A page whose text ends in another way."""
    new = b"edited for the %08dth time" % number
    return data[: -len(new) - len(STATE_END)] + new + STATE_END


if __name__ == "__main__":
    os.umask(0o022)
    main()
