"""The base class of all errors that a user is meant to read, and how an error becomes one line of text.

Imports nothing of the project, so that no import can run in a circle. Subclasses live in the package that raises them,
and only where a caller acts on the difference.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system answers where a disk, or a user's share of it, is full."""


class ZodbvaultError(Exception):
    """Something went wrong that an administrator can understand and act on.

    what: what happened, a lower-case phrase without a full stop ("holds another md5 than its line in the .dat says").
    path: the file or folder that it happened to.
    hint: what is safe, and what to do next; a sentence.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        path: str | bytes | os.PathLike[str] | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.path = None if path is None else os.fsdecode(path)
        self.hint = hint

    def __str__(self) -> str:
        """One line: the file, what happened to it, what to do.

        Where the system's error was about another file, a temporary one, say, that one is named too.
        """
        text = self.what if self.path is None else f"{self.path}: {self.what}"
        name = _file_of(self.__cause__)
        if name is not None and name not in text:
            text = f"{text} ({name})"
        if self.hint:
            # Another program's words may have their full stop already.
            text = f"{text.rstrip('.')}. {self.hint}"
        return one_line(text)

    @property
    def sentence(self) -> str:
        """The same with a full stop, for a text that goes on behind it."""
        return f"{str(self).rstrip('.')}."


def one_line(text: str) -> str:
    """`text` as one printable line: file names may hold line breaks, commands of terminals and what is no text."""
    if text.isprintable():
        return text
    printable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in printable)


def _file_of(cause: BaseException | None) -> str | None:
    """The file that the system named in the error behind one of ours, or behind one of ours behind that."""
    cause = cause_of(cause)
    name = cause.filename if isinstance(cause, OSError) else None
    return os.fsdecode(name) if isinstance(name, (str, bytes)) else None


def cause_of(error: BaseException | None) -> BaseException | None:
    """What is behind an error of ours, such as the operating system's; another error is its own cause."""
    while isinstance(error, ZodbvaultError):
        error = error.__cause__
    return error


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a full disk, or a user's share of it, is behind an error."""
    cause = cause_of(error)
    return isinstance(cause, OSError) and cause.errno in DISK_FULL


def reason_of(error: OSError) -> str:
    """The operating system's own words for `error`, without the file name (which the caller names by its role)."""
    return error.strerror or str(error)


@contextlib.contextmanager
def explained(
    what: str, *, path: str | bytes | os.PathLike[str] | None = None, hint: str | None = None
) -> Iterator[None]:
    """Turn an OSError of the block into ours: what could not be done, why, and to which file.

    path: the file's name where the system's error has none. hint: also of an error of ours that has none.
    """
    try:
        yield
    except ZodbvaultError as error:
        if error.hint is None:
            error.hint = hint
        raise
    except OSError as error:
        name = error.filename if isinstance(error.filename, (str, bytes)) else path
        raise ZodbvaultError(f"{what}: {reason_of(error)}", path=name, hint=hint) from error
