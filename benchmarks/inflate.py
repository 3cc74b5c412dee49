"""Inflates a full backup of ours on two cores and throws the bytes away: the least that a restore has to do.

    python inflate.py FILE          (with an environment that has isal)

Written without zodbvault, so that the limit it sets does not move with the code that is measured.
"""

from __future__ import annotations

import os
import struct
import sys
import threading

from isal import isal_zlib

WORKERS = 2


def main() -> None:
    descriptor = os.open(sys.argv[1], os.O_RDONLY)
    members, position, end = [], 0, os.fstat(descriptor).st_size
    while position < end:
        head = os.pread(descriptor, 24, position)
        # The header's extra field holds one subfield, ZV: the length of the whole member.
        (length,) = struct.unpack_from("<I", head, 16)
        if head[:3] != b"\x1f\x8b\x08" or head[12:14] != b"ZV":
            raise SystemExit(f"{sys.argv[1]}: not a file of ours")
        members.append((position, length))
        position += length

    def inflate(number: int) -> None:
        for start, length in members[number::WORKERS]:
            isal_zlib.decompress(os.pread(descriptor, length, start), 31)

    threads = [threading.Thread(target=inflate, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
