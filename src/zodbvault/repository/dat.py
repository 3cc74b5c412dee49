"""The `.dat` file of a chain: the one truth about which data files belong to it.

A line per data file: name, first byte, end, md5 of the uncompressed bytes (ZODB.scripts.repozo, `do_full_backup`). We
write base names; repozo writes whole paths, which may hold spaces, and joins only the base name when it reads. Plain
functions of text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from zodbvault.errors import ZodbvaultError
from zodbvault.repository.names import DataFile, data_file

if TYPE_CHECKING:
    from collections.abc import Sequence

_MD5_LENGTH = 32
_HEX_DIGITS = frozenset("0123456789abcdef")


class DamagedDat(ZodbvaultError):
    """A `.dat` file that cannot be read: nothing is built on its chain."""


class Line(NamedTuple):
    """One backup of a chain: its data file holds the bytes `start` to `end` of Data.fs.

    md5: hexadecimal, of the uncompressed bytes; None where no `.dat` tells it.
    """

    file: DataFile
    start: int
    end: int
    md5: str | None

    @property
    def timestamp(self) -> str:
        """The backup's timestamp."""
        return self.file.timestamp

    @property
    def size(self) -> int:
        """Number of uncompressed bytes."""
        return self.end - self.start


def parse_dat(content: bytes, name: str) -> tuple[Line, ...]:
    """The lines of the `.dat` file called `name`, oldest first.

    Raises DamagedDat for anything that repozo could not have written: what does not begin with the full, leaves a gap,
    goes back in time, or ends in the middle of a line.
    """
    lines: list[Line] = []
    for number, text in enumerate(content.decode("utf-8", "surrogateescape").split("\n"), start=1):
        if not text.strip():
            continue
        line = _parse_line(text)
        if line is None or not can_follow(line, lines):
            raise DamagedDat(
                f"line {number} cannot be right: {text[:200]!r}",
                path=name,
                hint="The files of this chain are still there; nothing was changed.",
            )
        lines.append(line)
    if not lines or lines[0].timestamp != name[: len(lines[0].timestamp)]:
        raise DamagedDat("does not begin with the line of its full backup", path=name)
    return tuple(lines)


def format_dat(lines: Sequence[Line]) -> bytes:
    """The content of a `.dat` file."""
    return "".join(f"{line.file.name} {line.start} {line.end} {line.md5}\n" for line in lines).encode()


def _parse_line(text: str) -> Line | None:
    """One line, read from the right because the path in front may hold spaces; None when it is not one."""
    fields = text.rsplit(maxsplit=3)
    if len(fields) != 4:
        return None
    path, start, end, md5 = fields
    file = data_file(path.rpartition("/")[2])
    if file is None or not (_is_number(start) and _is_number(end)):
        return None
    return Line(file, int(start), int(end), md5)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def can_follow(line: Line, before: Sequence[Line]) -> bool:
    """Whether `line` can stand behind the lines `before` of a `.dat` file (none for a full)."""
    if line.md5 is None or len(line.md5) != _MD5_LENGTH or not _HEX_DIGITS.issuperset(line.md5):
        return False
    if line.end < line.start:
        return False
    if not before:
        return line.file.is_full and line.start == 0
    return not line.file.is_full and line.start == before[-1].end and line.timestamp > before[-1].timestamp
