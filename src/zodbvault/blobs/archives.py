"""Archives of blobs: a tar file of a blobstorage, plain or compressed, and those that GNU tar made of what came later.

Reads only. `tar --listed-incremental` writes for each folder a member of type D, its dumpdir: every name in the folder,
whether the file is in this archive (Y) or was in an earlier one (N); so the newest archive's dumpdirs tell the whole
state, and what was removed is what they do not name (GNU tar manual, "Dumpdir"). Renamed folders (R, T, X) need no
attention: a blob's path holds its oid and its tid, so what ever stood at that path in the series is that blob, whereas
GNU tar may take one blob's folder for another's that has its inode now.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zlib
from contextlib import closing, contextmanager
from typing import IO, TYPE_CHECKING, cast

from zodbvault.blobs.containers import DamagedBlob
from zodbvault.blobs.layouts import BUSHY, KEY_SIZE, LAWN, LAYOUT_MARKER, key_of_bushy, key_of_lawn, path_for
from zodbvault.blobs.manifest import PACKED_SIZE, Entry, pack_entry, unpack_entry
from zodbvault.blobs.spill import SortedKeys, SortedRecords
from zodbvault.errors import reason_of
from zodbvault.io.closing import Closing, QuietFile

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from typing_extensions import Self

    from zodbvault.blobs.containers import Blocks, Result
    from zodbvault.blobs.layouts import Layout

DUMPDIR_TYPE = b"D"

_BLOCK_SIZE = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
# No deflated byte makes more than these.
_MOST_INFLATED = 1032
# No file system has longer names, and no blobstorage longer headers of other kinds than of files (of long names, say,
# which tarfile reads into memory whole).
_LONGEST_NAME = 4096
_LONGEST_EXTRA_HEADER = 1 << 16
_EXTRA_HEADERS = frozenset(
    (
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.SOLARIS_XHDTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.GNUTYPE_LONGLINK,
    )
)
# Behind a key in the index: number of the archive, of its member, and the size in bytes.
_NUMBER, _ORDINAL, _SIZE = 4, 8, 8


# What tarfile raises for one that is not as it should be: some of its numbers it converts without a look.
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, ArithmeticError, LookupError, RecursionError)


class DamagedArchive(DamagedBlob):
    """An archive that cannot be read to its end."""


class ArchiveContainer(Closing):
    """The blobs in a full archive and the ones that were made on it, oldest first.

    scratch: a folder for temporary files: the index is built by one pass over the archives when it is first needed. A
    context manager.
    """

    def __init__(self, archives: Sequence[Path], scratch: Path) -> None:
        self._archives = archives
        self._scratch = scratch
        self.folder = archives[-1]
        self._members = SortedRecords(KEY_SIZE + _NUMBER + _ORDINAL + _SIZE, scratch)
        self._listed = SortedKeys(scratch)
        self._has_listing = False
        self._layout: Layout | None = None

    @property
    def layout(self) -> Layout:
        """The layout of the blobstorage that was archived: what its marker says, else what its paths look like."""
        self._index()
        assert self._layout is not None
        return self._layout

    def path_of(self, key: bytes) -> str:
        """The name of the blob `key` in the archive."""
        return f"{self.folder}: ./{path_for(self._layout or BUSHY, key)}"

    def blobs(self) -> Generator[Entry, None, None]:
        """An entry without sha256 for each blob of the newest state, in the order of their keys."""
        for key, _, _, size in self._state():
            yield Entry(key, size, "")

    def sizes(self, entries: Iterable[Entry]) -> Generator[tuple[Entry, int | None], None, None]:
        """Each entry with the size of its blob here, as `Container.sizes`."""
        for entry, found in self._found(entries):
            yield entry, None if found is None else found[3]

    def read(
        self, entries: Iterable[Entry], take: Callable[[Entry, Blocks], Result]
    ) -> Generator[tuple[Entry, Result], None, None]:
        """Each entry with what `take` makes of its blob's content, as `Container.read`; in the archives' order."""
        with SortedRecords(_NUMBER + _ORDINAL + PACKED_SIZE, self._scratch) as wanted:
            for entry, found in self._found(entries):
                if found is None:
                    yield entry, take(entry, _Missing(self.path_of(entry.key)))
                else:
                    wanted.add(
                        found[1].to_bytes(_NUMBER, "big") + found[2].to_bytes(_ORDINAL, "big") + pack_entry(entry)
                    )
            yield from self._read_in_order(iter(wanted), take)

    def begins(self, longer: ArchiveContainer) -> bool:
        """Whether these archives are the first ones of a longer series in which no blob comes twice.

        Then each of their blobs is the same one there.
        """
        is_beginning = list(longer._archives[: len(self._archives)]) == list(self._archives)
        return is_beginning and not longer._has_repetitions()

    def _has_repetitions(self) -> bool:
        """Whether a blob is in more than one member."""
        self._index()
        before = b""
        for record in self._members:
            if record[:KEY_SIZE] == before:
                return True
            before = record[:KEY_SIZE]
        return False

    def close(self) -> None:
        """Forget the index."""
        self._members.close()
        self._listed.close()

    def _read_in_order(
        self, wanted: Iterator[bytes], take: Callable[[Entry, Blocks], Result]
    ) -> Generator[tuple[Entry, Result], None, None]:
        """One pass over each archive that has something of what is wanted."""
        record = next(wanted, None)
        for number, path in enumerate(self._archives):
            if record is None or _number_of(record) != number:
                continue
            with closing(_members_of(path)) as members:
                for ordinal, (tar, member) in enumerate(members):
                    if record is None or _number_of(record) != number:
                        break
                    if _ordinal_of(record) == ordinal:
                        entry = unpack_entry(record[_NUMBER + _ORDINAL :])
                        yield entry, take(entry, _content(tar, member, path))
                        record = next(wanted, None)

    def _found(self, entries: Iterable[Entry]) -> Iterator[tuple[Entry, tuple[bytes, int, int, int] | None]]:
        """Each entry with where its blob is: key, number of the archive, of the member, size."""
        held = self._newest_members()
        blob = next(held, None)
        for entry in entries:
            while blob is not None and blob[0] < entry.key:
                blob = next(held, None)
            yield entry, blob if blob is not None and blob[0] == entry.key else None

    def _state(self) -> Iterator[tuple[bytes, int, int, int]]:
        """The members of the newest state: without a listing all of them."""
        self._index()
        held = self._newest_members()
        if not self._has_listing:
            yield from held
            return
        listed = iter(self._listed)
        key = next(listed, None)
        for blob in held:
            while key is not None and key < blob[0]:
                key = next(listed, None)
            if key == blob[0]:
                yield blob

    def _newest_members(self) -> Iterator[tuple[bytes, int, int, int]]:
        """Of each blob the member in the newest archive that has it."""
        self._index()
        waiting: tuple[bytes, int, int, int] | None = None
        for record in self._members:
            blob = _unpacked(record)
            if waiting is not None and waiting[0] != blob[0]:
                yield waiting
            waiting = blob
        if waiting is not None:
            yield waiting

    def _index(self) -> None:
        """Read all headers, once."""
        if self._layout is not None:
            return
        layout: Layout = LAWN
        for number, path in enumerate(self._archives):
            # Only the newest tells what there is; a full alone tells it by its members.
            tells_state = number > 0 and number == len(self._archives) - 1
            with closing(_members_of(path)) as members:
                for ordinal, (tar, member) in enumerate(members):
                    name = member.name.removeprefix("./")
                    key, seems = _key_of(name)
                    if key is not None and _is_plain(member):
                        self._members.add(_packed(key, number, ordinal, member.size))
                        layout = seems if seems == BUSHY else layout
                    elif name == LAYOUT_MARKER and _is_plain(member) and member.size < 64:
                        word = b"".join(_content(tar, member, path)).decode("ascii", "replace").strip()
                        layout = BUSHY if word == BUSHY else LAWN
                    elif member.type == DUMPDIR_TYPE and tells_state:
                        self._has_listing = True
                        self._take_listing(name.rstrip("/"), tar, member, path)
        self._layout = layout

    def _take_listing(self, folder: str, tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
        """Note the blobs that a dumpdir names."""
        for name in names_in_dumpdir(_content(tar, member, path)):
            if len(name) > _LONGEST_NAME:
                raise DamagedArchive("holds a listing with a name that no file can have", path=path)
            key, _ = _key_of(f"{folder}/{os.fsdecode(name)}")
            if key is not None:
                self._listed.add(key)


class _Missing:
    """The content of a blob that is not in any archive: whoever asks for it gets the error."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        raise DamagedBlob("is missing from the archive of blobs", path=self._path)


class _Member(tarfile.TarInfo):
    """A member whose name is right where GNU tar has put times into its header, as it does for --listed-incremental.

    They stand where other formats have a first part of the name, and tarfile takes them for that.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """The member that a header tells of. Raises tarfile.EOFHeaderError at the end, tarfile.ReadError for damage."""
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            # tarfile itself takes a header that it cannot read, and a missing one, for the end of the archive.
            raise tarfile.ReadError(f"a header cannot be read: {error}") from error
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a file with holes, as no blobstorage has them")
        if member.size < 0 or (member.type in _EXTRA_HEADERS and member.size > _LONGEST_EXTRA_HEADER):
            raise tarfile.ReadError(f"a header tells of {member.size:,} bytes")
        if buf[257:265] == b"ustar  \0" and buf[345] != 0:
            member.name = bytes(buf[:100]).split(b"\0")[0].decode(encoding, errors)
        return member

    def _proc_gnusparse_10(self, *_: object) -> None:
        """Tarfile would read a list of holes into memory, however long it is."""
        raise tarfile.ReadError("a file with holes, as no blobstorage has them")


def names_in_dumpdir(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The names of the files in a dumpdir: those in this archive and those in an earlier one.

    Of a name that no file can have only the beginning: memory stays bounded.
    """
    rest = b""
    for block in blocks:
        *records, rest = (rest + block).split(b"\0")
        rest = rest[: 2 * _LONGEST_NAME]
        for record in records:
            if not record:
                return  # that is its end, whatever follows
            if record[:1] in (b"Y", b"N"):
                yield record[1:]
    if rest[:1] in (b"Y", b"N"):
        yield rest[1:]


def _members_of(path: Path) -> Generator[tuple[tarfile.TarFile, tarfile.TarInfo], None, None]:
    """The members of an archive in their order. Raises DamagedArchive where it ends too early, or is none."""
    try:
        with _opened(path) as (file, is_compressed), _tar_of(file, is_compressed=is_compressed) as tar:
            # tarfile would look for what is behind a member of any size for ever.
            largest = os.fstat(file.fileno()).st_size * (_MOST_INFLATED if is_compressed else 1) + _BLOCK_SIZE
            while (member := tar.next()) is not None:
                if not 0 <= member.size <= largest:
                    raise tarfile.ReadError(f"a member of {member.size:,} bytes cannot be in it")
                yield tar, member
                # Else each member of the archive would stay in memory.
                tar.members = []  # type: ignore[attr-defined]
                tar.pax_headers = {}
            if not is_compressed:
                _require_end(file, tar.offset, path)
    except _DAMAGE as error:
        what = reason_of(error) if isinstance(error, OSError) and error.errno is not None else str(error)
        raise DamagedArchive(f"is damaged, or was cut short: {what}", path=path) from error


def _tar_of(file: IO[bytes], *, is_compressed: bool) -> tarfile.TarFile:
    """A compressed archive is read as a stream; in a plain one the content of members is passed over."""
    if is_compressed:
        return tarfile.open(fileobj=file, mode="r|", errorlevel=2, tarinfo=_Member)
    return tarfile.open(fileobj=file, mode="r:", errorlevel=2, tarinfo=_Member)


def _require_end(file: IO[bytes], offset: int, path: Path) -> None:
    """Raise DamagedArchive unless the zeros that close an archive stand at `offset`."""
    file.seek(offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise DamagedArchive("was cut short: its end is missing", path=path)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], bool]]:
    """The archive's file, uncompressed, and whether it is compressed. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with io.BufferedReader(QuietFile(fd)) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise DamagedArchive("is no regular file", path=path)
        if file.read(2) != _GZIP_MAGIC:
            file.seek(0)
            yield file, False
            return
        file.seek(0)
        with _inflating(file) as inflated:
            yield inflated, True


def _inflating(file: IO[bytes]) -> IO[bytes]:
    from gzip import GzipFile

    return cast("IO[bytes]", GzipFile(fileobj=file))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> Generator[bytes, None, None]:
    """The content of a member. Raises DamagedArchive where it is cut short."""
    file = tar.extractfile(member)
    assert file is not None
    left = member.size
    try:
        while left > 0:
            block = file.read(min(_BLOCK_SIZE, left))
            if not block:
                raise DamagedArchive("was cut short", path=path)
            yield block
            left -= len(block)
    except _DAMAGE as error:
        raise DamagedArchive(f"is damaged, or was cut short: {error}", path=path) from error


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Whether a member is a file whose bytes stand in the archive: no link, no device, none with holes."""
    return member.isreg() and not member.issparse()


def _key_of(path: str) -> tuple[bytes | None, Layout]:
    """The key of the blob that an archive's name stands for, and the layout in which that name is one."""
    path = path.removeprefix("./")
    key = key_of_bushy(path)
    return (key, BUSHY) if key is not None else (key_of_lawn(path), LAWN)


def _packed(key: bytes, number: int, ordinal: int, size: int) -> bytes:
    return key + number.to_bytes(_NUMBER, "big") + ordinal.to_bytes(_ORDINAL, "big") + size.to_bytes(_SIZE, "big")


def _unpacked(record: bytes) -> tuple[bytes, int, int, int]:
    return (
        record[:KEY_SIZE],
        int.from_bytes(record[KEY_SIZE : KEY_SIZE + _NUMBER], "big"),
        int.from_bytes(record[KEY_SIZE + _NUMBER : -_SIZE], "big"),
        int.from_bytes(record[-_SIZE:], "big"),
    )


def _number_of(record: bytes) -> int:
    return int.from_bytes(record[:_NUMBER], "big")


def _ordinal_of(record: bytes) -> int:
    return int.from_bytes(record[_NUMBER : _NUMBER + _ORDINAL], "big")
