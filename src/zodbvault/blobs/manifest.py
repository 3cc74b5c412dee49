"""Manifests: the list of the blobs that belong to a backup, as one small sorted text file.

A complete manifest (`TIMESTAMP.blobs.gz`) lists every blob of a state; a delta (`TIMESTAMP.deltablobs.gz`) what
changed since the backup before it. Knows paths as text and numbers: it never looks at a blob or at a pool.

The text, fields separated by tabs, lines ended by a line feed, in the order of the blobs' keys:

    #  format version  layout of the source        (first line)
    +  path in the pool (bushy)  size in bytes  sha256 of the content in hexadecimal digits
    -  path in the pool                            (in deltas only: that blob is gone)
    =  number of lines before this one  sha256 of all lines before this one        (last line)

It is compressed as a series of gzip members, each a small one, so that a reader unpacks a member whole and has its
checksum proved before it believes a line of it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.layouts import BUSHY, KEY_SIZE, LAWN, OID_SIZE, bushy_path, key_of_bushy, tid_of_file
from zodbvault.blobs.spill import SortedRecords
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.io.closing import Closing, close_fd
from zodbvault.io.gzip_members import MemberWriter

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from zodbvault.blobs.layouts import Layout
    from zodbvault.io.durable import PartFile

# A newer one comes with a newer format of the records: by these an older version sees that it has to leave all alone.
FORMAT_VERSION = 1

# Uncompressed bytes of a gzip member, and what a reader is ready to hold of one.
_MEMBER_SIZE = 65_536
_READ_SIZE = 65_536
# The longest line that a manifest can have is some 160 bytes.
_LINE_LIMIT = 256
_SIZE_DIGITS = 19
_HEX_DIGITS = b"0123456789abcdef"

# key, kind, size, sha256
PACKED_SIZE = KEY_SIZE + 1 + 8 + 32
_WITH_SHA256, _REMOVED, _WITHOUT_SHA256 = b"\0", b"\1", b"\2"


class DamagedManifest(ZodbvaultError):
    """A manifest that is missing, unreadable, damaged, or of a format that this version does not know."""


class Entry(NamedTuple):
    """One blob: `size` in bytes and `sha256` of its content; `removed` in a delta says that it is gone (no sha256).

    The sha256 is empty where only a directory or an archive that another program wrote tells of the blob.
    """

    key: bytes
    size: int
    sha256: str
    removed: bool = False


class ManifestSummary(NamedTuple):
    """What a record says about a manifest.

    sha256 and stored_size are those of the stored (compressed) file. blobs and bytes count its `+` lines.
    total_blobs: blobs of the whole state; None where only the change is known.
    """

    name: str
    sha256: str
    stored_size: int
    complete: bool
    layout: Layout
    blobs: int
    bytes: int
    total_blobs: int | None


class ManifestWriter(Closing):
    """Fills a part file with a manifest, line by line. A context manager; without finish() there is no closing line.

    The part file stays the caller's: to publish, or to discard.
    """

    def __init__(self, part: PartFile, layout: Layout, *, complete: bool) -> None:
        self._part = part
        self._layout: Layout = layout
        self._complete = complete
        self._members = MemberWriter(part.file)
        self._pending = bytearray()
        self._sha256 = hashlib.sha256()
        self._lines = 0
        self._last_key: bytes | None = None
        self._blobs = 0
        self._bytes = 0
        self._put(b"#\t%d\t%s\n" % (FORMAT_VERSION, layout.encode()))

    def add(self, entry: Entry) -> None:
        """Write the line of `entry`, whose key must be greater than all before it."""
        if self._last_key is not None and entry.key <= self._last_key:
            raise ValueError("blobs of a manifest out of order")
        self._last_key = entry.key
        path = bushy_path(entry.key)
        if entry.removed:
            if self._complete:
                raise ValueError("a removed blob in a complete manifest")
            self._put(f"-\t{path}\n".encode())
            return
        self._put(f"+\t{path}\t{entry.size}\t{entry.sha256}\n".encode())
        self._blobs += 1
        self._bytes += entry.size

    def finish(self, *, total_blobs: int | None = None) -> ManifestSummary:
        """Write the closing line and finish the part file (synced, not published).

        total_blobs: blobs of the whole state, where a delta's writer knows it.
        """
        # In one member with the lines before it: a small manifest needs no thread.
        self._sha256.update(self._pending)
        self._pending += b"=\t%d\t%s\n" % (self._lines, self._sha256.hexdigest().encode())
        self._flush(hashed=False)
        try:
            stored = self._members.finish()
            self._part.finish()
        except OSError as error:
            raise self._unwritable(error) from error
        return ManifestSummary(
            name=self._part.path.name,
            sha256=stored.stored_sha256,
            stored_size=stored.stored_size,
            complete=self._complete,
            layout=self._layout,
            blobs=self._blobs,
            bytes=self._bytes,
            total_blobs=self._blobs if self._complete else total_blobs,
        )

    def close(self) -> None:
        """End the compressing threads, if there are any."""
        self._members.close()

    def _put(self, line: bytes) -> None:
        self._pending += line
        self._lines += 1
        if len(self._pending) >= _MEMBER_SIZE - _LINE_LIMIT:
            self._flush()

    def _flush(self, *, hashed: bool = True) -> None:
        """Hand over what is pending as one gzip member."""
        if not self._pending:
            return
        if hashed:
            self._sha256.update(self._pending)
        length = len(self._pending)
        try:
            buffer = self._members.buffer()
            buffer[:length] = self._pending
            self._members.write(buffer, length)
        except OSError as error:
            raise self._unwritable(error) from error
        self._pending.clear()

    def _unwritable(self, error: OSError) -> ZodbvaultError:
        return ZodbvaultError(f"the manifest of blobs cannot be written: {reason_of(error)}", path=self._part.path)


def read_manifest(path: Path) -> Generator[Entry, None, None]:
    """The entries of the manifest at `path`, in the order of their keys; constant memory.

    Raises DamagedManifest for whatever is not exactly a whole manifest. A line is yielded only after the checksum of
    the gzip member that holds it was right; a manifest that was cut short shows it at its end.
    """
    sha256 = hashlib.sha256()
    count = 0
    last_key = b""
    parser = _LineParser(path)
    with closing(_texts(path)) as texts:
        for text in texts:
            lines, closing_line, after_it = _split(text)
            sha256.update(lines)
            for line in lines.split(b"\n")[:-1]:
                count += 1
                if count == 1:
                    _layout_of(line, path)
                    continue
                entry = parser.entry(line, count)
                if entry.key <= last_key:
                    raise DamagedManifest(f"line {count} is out of order", path=path)
                last_key = entry.key
                yield entry
            if closing_line:
                if count == 0 or closing_line != b"=\t%d\t%s\n" % (count, sha256.hexdigest().encode()):
                    raise DamagedManifest("has a closing line that does not fit the lines before it", path=path)
                if after_it or next(texts, None) is not None:
                    raise DamagedManifest("goes on after its closing line", path=path)
                return
    raise DamagedManifest("was cut short: it has no closing line", path=path)


def _split(text: bytes) -> tuple[bytes, bytes, bytes]:
    """Whole lines of a manifest in three: those before the closing line, that one, and what comes after it."""
    start = 0 if text.startswith(b"=") else text.find(b"\n=") + 1
    if start == 0 and not text.startswith(b"="):
        return text, b"", b""
    end = text.index(b"\n", start) + 1
    return text[:start], text[start:end], text[end:]


def manifest_layout(path: Path) -> Layout:
    """The layout of the blobstorage that the manifest at `path` was made from. Raises DamagedManifest."""
    with closing(_texts(path)) as texts:
        return _layout_of(next(texts, b"").partition(b"\n")[0], path)


def merge_state(complete: Path, deltas: Sequence[Path], scratch: Path) -> Generator[Entry, None, None]:
    """Every blob of the state that a complete manifest and its deltas, oldest first, make together.

    A later line wins over an earlier one for the same blob. Two manifests at most are open at a time; the changes are
    sorted in bounded memory, in a temporary file in `scratch` when they are many. Raises DamagedManifest.
    """
    if not deltas:
        yield from _state_entries(complete)
        return
    with SortedRecords(PACKED_SIZE + 4, scratch) as changes:
        for number, delta in enumerate(deltas):
            with closing(read_manifest(delta)) as entries:
                for entry in entries:
                    packed = pack_entry(entry)
                    changes.add(packed[:KEY_SIZE] + number.to_bytes(4, "big") + packed[KEY_SIZE:])
        with closing(_state_entries(complete)) as base:
            yield from _overlaid(base, _latest(changes))


def pack_entry(entry: Entry) -> bytes:
    """`entry` as PACKED_SIZE bytes that sort as their keys do."""
    kind = _REMOVED if entry.removed else _WITH_SHA256 if entry.sha256 else _WITHOUT_SHA256
    return entry.key + kind + entry.size.to_bytes(8, "big") + (bytes.fromhex(entry.sha256) or bytes(32))


def unpack_entry(packed: bytes) -> Entry:
    """The entry that pack_entry() made `packed` of."""
    key, kind = packed[:KEY_SIZE], packed[KEY_SIZE : KEY_SIZE + 1]
    if kind == _REMOVED:
        return Entry(key, 0, "", removed=True)
    size = int.from_bytes(packed[KEY_SIZE + 1 : KEY_SIZE + 9], "big")
    return Entry(key, size, "" if kind == _WITHOUT_SHA256 else packed[KEY_SIZE + 9 :].hex())


def _state_entries(complete: Path) -> Generator[Entry, None, None]:
    """The entries of a complete manifest, in which nothing may be gone."""
    for entry in read_manifest(complete):
        if entry.removed:
            raise DamagedManifest("is a complete manifest, but says that a blob is gone", path=complete)
        yield entry


def _latest(changes: SortedRecords) -> Iterator[Entry]:
    """Of the changes to each blob the last one."""
    waiting: bytes | None = None
    for record in changes:
        if waiting is not None and waiting[:KEY_SIZE] != record[:KEY_SIZE]:
            yield unpack_entry(waiting[:KEY_SIZE] + waiting[KEY_SIZE + 4 :])
        waiting = record
    if waiting is not None:
        yield unpack_entry(waiting[:KEY_SIZE] + waiting[KEY_SIZE + 4 :])


def _overlaid(base: Iterator[Entry], changes: Iterator[Entry]) -> Iterator[Entry]:
    """The entries of `base` with `changes` made to them. Both in the order of their keys."""
    change = next(changes, None)
    for entry in base:
        while change is not None and change.key < entry.key:
            if not change.removed:
                yield change
            change = next(changes, None)
        if change is None or change.key != entry.key:
            yield entry
            continue
        if not change.removed:
            yield change
        change = next(changes, None)
    while change is not None:
        if not change.removed:
            yield change
        change = next(changes, None)


def _layout_of(line: bytes, path: Path) -> Layout:
    """What the first line says. Raises DamagedManifest, for a newer format too."""
    fields = line.split(b"\t")
    if len(fields) < 2 or fields[0] != b"#" or not fields[1].isdigit() or len(fields[1]) > _SIZE_DIGITS:
        raise DamagedManifest("does not begin as a manifest of blobs does", path=path)
    if int(fields[1]) > FORMAT_VERSION:
        raise DamagedManifest(
            f"has format {int(fields[1])}; this version reads formats up to {FORMAT_VERSION}",
            path=path,
            hint="It was written by a newer zodbvault: use that one",
        )
    word = fields[2].decode("ascii", "replace") if len(fields) == 3 else ""
    if int(fields[1]) < 1 or word not in (BUSHY, LAWN):
        raise DamagedManifest("does not begin as a manifest of blobs does", path=path)
    return BUSHY if word == BUSHY else LAWN


class _LineParser:
    """Makes entries of the lines of the manifest at `path`; remembers the folders of the line before.

    In a sorted list of paths all but the last of them are mostly the same, so that only their names need a look.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folders = b""
        self._oid_start = b""

    def entry(self, line: bytes, number: int) -> Entry:
        """The entry in `line`, the `number`th, without its line feed. Raises DamagedManifest."""
        fields = line.split(b"\t")
        key = self._key(fields[1]) if len(fields) > 1 else None
        if key is not None:
            if len(fields) == 4 and fields[0] == b"+":
                _, _, size, sha256 = fields
                if (
                    size.isdigit()
                    and len(size) <= _SIZE_DIGITS
                    and (number_of_bytes := int(size)) < 1 << 63
                    and len(sha256) == 64
                    and not sha256.strip(_HEX_DIGITS)
                ):
                    return Entry(key, number_of_bytes, sha256.decode())
            elif len(fields) == 2 and fields[0] == b"-":
                return Entry(key, 0, "", removed=True)
        what = "is too long" if len(line) >= _LINE_LIMIT else "is not that of a blob"
        raise DamagedManifest(f"line {number} {what}", path=self._path)

    def _key(self, path: bytes) -> bytes | None:
        """The key of the blob at `path`; None when that is not exactly a blob's path."""
        if path[:_ALL_BUT_LAST] == self._folders:
            last = _BYTE_OF_FOLDER.get(path[_ALL_BUT_LAST:_OID_FOLDERS])
            tid = tid_of_file(path[_OID_FOLDERS:].decode("ascii", "replace"))
            if last is not None and tid is not None:
                return self._oid_start + last + tid
        key = key_of_bushy(path.decode("ascii", "replace"))
        if key is not None:
            self._folders, self._oid_start = path[:_ALL_BUT_LAST], key[: OID_SIZE - 1]
        return key


_FOLDER = len("0x00/")
_OID_FOLDERS = OID_SIZE * _FOLDER
_ALL_BUT_LAST = _OID_FOLDERS - _FOLDER
_BYTE_OF_FOLDER = {b"0x%02x/" % byte: bytes((byte,)) for byte in range(256)}


def _texts(path: Path) -> Generator[bytes, None, None]:
    """The text, in pieces of whole lines."""
    rest = b""
    for block in _members(path):
        text = rest + block
        end = text.rfind(b"\n") + 1
        rest = text[end:]
        if len(rest) >= _LINE_LIMIT:
            raise DamagedManifest("has a line that is too long", path=path)
        if end:
            yield text[:end]
    if rest:
        raise DamagedManifest("was cut short: its last line has no end", path=path)


def _members(path: Path) -> Generator[bytes, None, None]:
    """The text of each gzip member, unpacked whole, so that its checksum has been looked at."""
    fd = _open(path)
    try:
        stored = _read(fd, path)
        while stored:
            inflate = zlib.decompressobj(wbits=31)
            text = inflate.decompress(stored, _MEMBER_SIZE + 1)
            while not inflate.eof and len(text) <= _MEMBER_SIZE:
                stored = inflate.unconsumed_tail or _read(fd, path)
                if not stored:
                    raise DamagedManifest("was cut short", path=path)
                text += inflate.decompress(stored, _MEMBER_SIZE + 1 - len(text))
            if len(text) > _MEMBER_SIZE:
                raise DamagedManifest("is packed in another way than manifests are", path=path)
            yield text
            stored = inflate.unused_data or _read(fd, path)
    except zlib.error as error:
        raise DamagedManifest(f"is damaged: {error}", path=path) from error
    finally:
        close_fd(fd)


def _open(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise DamagedManifest("is missing: the blobs of this backup are not known", path=path) from error
    except OSError as error:
        what = "is a symlink" if path.is_symlink() else f"the manifest of blobs cannot be opened: {reason_of(error)}"
        raise DamagedManifest(what, path=path) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        close_fd(fd)
        raise DamagedManifest("is not a regular file", path=path)
    return fd


def _read(fd: int, path: Path) -> bytes:
    try:
        return os.read(fd, _READ_SIZE)
    except OSError as error:
        raise DamagedManifest(f"the manifest of blobs cannot be read: {reason_of(error)}", path=path) from error
