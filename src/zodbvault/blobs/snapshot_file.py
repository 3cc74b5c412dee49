"""Writing the snapshot file of GNU tar (`--listed-incremental`), by which tar continues a series of archives.

Format 2 (GNU tar manual, "Format of the Incremental Snapshot Files"): a first line that ends with the format's number;
then, each ended by a zero byte, seconds and nanoseconds of the moment at which the archive was begun; then a record for
each folder: `0` (no network file system), seconds and nanoseconds of its modification time, number of its device, its
inode, its name; its dumpdir; one more zero byte. Nobody of ours reads it.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import os
    from typing import IO

    from zodbvault.io.durable import PartFile

_FIRST_LINE = b"GNU tar-1.34-2\n"
_BILLION = 1_000_000_000


class SnapshotFileWriter:
    """Fills a part file, folder by folder. moment: nanoseconds since 1970, before anything was looked at."""

    def __init__(self, part: PartFile, moment: int) -> None:
        self._part = part
        part.file.write(_FIRST_LINE + b"%d\0%d\0" % divmod(moment, _BILLION))

    def add(self, path: str, status: os.stat_result, dumpdir: IO[bytes]) -> None:
        """One more folder. path: below the blobstorage, empty for itself. status: of the site's folder."""
        seconds, nanoseconds = divmod(status.st_mtime_ns, _BILLION)
        name = f"./{path}" if path else "."
        numbers = b"0\0%d\0%d\0%d\0%d\0" % (seconds, nanoseconds, status.st_dev, status.st_ino)
        self._part.file.write(numbers + name.encode() + b"\0")
        dumpdir.seek(0)
        shutil.copyfileobj(dumpdir, cast("IO[bytes]", self._part.file))
        self._part.file.write(b"\0")

    def finish(self) -> None:
        """Make the file durable, still under the name of the part."""
        self._part.finish()
