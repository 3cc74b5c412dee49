"""Where a blob's file stands below a blobstorage's folder: the bushy and the lawn layout, and how to tell them apart.

A blob is named by its key: the 8 bytes of its oid and the 8 bytes of its tid, 16 bytes together. Everything that lists
blobs lists them in the order of their keys; for bushy paths that is the order of the paths too.

The facts are those of ZODB.blob (`BushyLayout`, `LawnLayout`, `auto_layout_select`) and ZODB.utils (`oid_repr`,
`tid_repr`): in a bushy storage each byte of the oid is a folder, in a lawn the oid without its leading zero bytes is
one; the file is called after the tid without its leading zero bytes. Knows names and the marker only, no blob.
"""

from __future__ import annotations

import io
import os
import stat
from typing import TYPE_CHECKING

from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.closing import QuietFile

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Literal

    Layout = Literal["bushy", "lawn"]

OID_SIZE = 8
KEY_SIZE = 16

BUSHY: Layout = "bushy"
LAWN: Layout = "lawn"

BLOB_SUFFIX = ".blob"
LAYOUT_MARKER = ".layout"
TEMPORARY_FOLDER = "tmp"
POOL_FOLDER = "blobs"

# A marker holds one word; more than this is not one.
_MARKER_LIMIT = 64

_LONGEST_FILE_NAME = len("0x") + 2 * OID_SIZE + len(BLOB_SUFFIX)
_BYTE_OF_FOLDER = {f"0x{byte:02x}": bytes((byte,)) for byte in range(256)}


def bushy_path(key: bytes) -> str:
    """The path of the blob `key` in a bushy blobstorage: eight folders and a file."""
    folders = key[:OID_SIZE].hex("/").replace("/", "/0x")
    return f"0x{folders}/0x{_short(key[OID_SIZE:].hex())}.blob"


def lawn_path(key: bytes) -> str:
    """The path of the blob `key` in a lawn blobstorage: one folder and a file."""
    digits = key.hex()
    return f"0x{_short(digits[:16])}/0x{_short(digits[16:])}.blob"


def path_for(layout: Layout, key: bytes) -> str:
    """The path of the blob `key` below a blobstorage with this layout."""
    return bushy_path(key) if layout == BUSHY else lawn_path(key)


def key_of_bushy(path: str) -> bytes | None:
    """The key of the blob at `path` below a bushy blobstorage; None when that is not exactly a blob's path."""
    oid, _, name = path.rpartition("/")
    key = _key(oid[2:].replace("/0x", ""), name)
    return key if key is not None and bushy_path(key) == path else None


def key_of_lawn(path: str) -> bytes | None:
    """The key of the blob at `path` below a lawn blobstorage; None when that is not exactly a blob's path."""
    oid, _, name = path.rpartition("/")
    key = _key(oid.removeprefix("0x").rjust(2 * OID_SIZE, "0"), name)
    return key if key is not None and lawn_path(key) == path else None


def key_for(layout: Layout, path: str) -> bytes | None:
    """The key of the blob at `path` below a blobstorage with this layout; None for any other path."""
    return key_of_bushy(path) if layout == BUSHY else key_of_lawn(path)


def oid_of_lawn_folder(name: str) -> bytes | None:
    """The oid of which the folder `name` of a lawn holds the blobs, or None for another folder."""
    oid = _bytes(name.removeprefix("0x").rjust(2 * OID_SIZE, "0"))
    return oid if oid is not None and len(oid) == OID_SIZE and f"0x{_short(oid.hex())}" == name else None


def byte_of_bushy_folder(name: str) -> bytes | None:
    """The byte of an oid that the folder `name` of a bushy blobstorage stands for, or None for another folder."""
    return _BYTE_OF_FOLDER.get(name)


def tid_of_file(name: str) -> bytes | None:
    """The tid in the name of a blob's file, or None when `name` is not exactly that of a blob's file."""
    digits = name[2:18]
    if len(name) == _LONGEST_FILE_NAME and f"0x{digits}.blob" == name and digits[:2] != "00":
        # Eight bytes without a leading zero, as nearly all tids are.
        tid = _bytes(digits)
        return tid if tid is not None and tid.hex() == digits else None
    tid = _bytes(name[2 : -len(BLOB_SUFFIX)].rjust(2 * OID_SIZE, "0"))
    return tid if tid is not None and len(tid) == OID_SIZE and f"0x{_short(tid.hex())}.blob" == name else None


def read_layout(folder: Path, *, nofollow: bool = False) -> Layout:
    """The layout of the blobstorage at `folder`, chosen as ZODB does (ZODB.blob.auto_layout_select).

    The marker says it; a folder that holds anything visible and no marker is a lawn; an empty or missing one is bushy.
    nofollow: as for read_marker(). Raises ZodbvaultError for the cache of a ZEO client, for a word that no layout is
    called by, and for a folder that cannot be read.
    """
    word = read_marker(folder, nofollow=nofollow)
    if word is None:
        return LAWN if _holds_anything_visible(folder) else BUSHY
    if word == BUSHY:
        return BUSHY
    if word == LAWN:
        return LAWN
    if word == "zeocache":
        raise ZodbvaultError(
            "is the blob cache of a ZEO client, which does not hold all blobs",
            path=folder,
            hint="Run this on the server, with the server's blob storage",
        )
    raise ZodbvaultError(f"names an unknown layout of a blob storage, {word!r}", path=folder / LAYOUT_MARKER)


def read_marker(folder: Path, *, nofollow: bool = False) -> str | None:
    """The word in the layout marker of the blobstorage at `folder`; None where there is no marker.

    nofollow: refuse a symlink, as in a backup, which may stand where others can write. Raises ZodbvaultError.
    """
    marker = folder / LAYOUT_MARKER
    # Without O_NONBLOCK a named pipe in its place would make us wait for ever.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if nofollow else 0)
    try:
        with io.BufferedReader(QuietFile(os.open(marker, flags))) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ZodbvaultError("is not a regular file", path=marker)
            return file.read(_MARKER_LIMIT).decode("ascii", "replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ZodbvaultError(
            f"the layout of the blob storage cannot be read: {reason_of(error)}", path=marker
        ) from error


def _holds_anything_visible(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(not entry.name.startswith(".") for entry in entries)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ZodbvaultError(f"the blob storage cannot be read: {reason_of(error)}", path=folder) from error


def _short(digits: str) -> str:
    """`digits` of 8 bytes without the leading zero bytes; one byte at least stays."""
    if digits[:2] != "00":
        return digits
    stripped = digits.lstrip("0")
    return "0" * (len(stripped) % 2) + stripped if stripped else "00"


def _key(oid_digits: str, name: str) -> bytes | None:
    if not (name.startswith("0x") and name.endswith(BLOB_SUFFIX)):
        return None
    tid = name[2 : -len(BLOB_SUFFIX)]
    key = _bytes(oid_digits + tid.rjust(2 * OID_SIZE, "0"))
    return key if key is not None and len(key) == KEY_SIZE else None


def _bytes(digits: str) -> bytes | None:
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return None
