"""Where log lines go beside standard error: a file, the system's log. Imported only where a site asks for it.

A place that cannot be written is told of once on standard error, and is no reason to stop. Knows no command.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from logging.handlers import SysLogHandler
from typing import TYPE_CHECKING

from zodbvault.errors import reason_of
from zodbvault.io.durable import give_to_owner_of

if TYPE_CHECKING:
    from io import TextIOWrapper
    from pathlib import Path


class _TellsOnce(logging.Handler):
    """A handler whose failures are one warning of another handler. terminal: that one. what, option: of the warning."""

    terminal: logging.Handler
    what: str
    option: str
    _has_told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Told of the error that is being handled."""
        error = sys.exc_info()[1]
        reason = reason_of(error) if isinstance(error, OSError) else str(error)
        self.tell(f"{self.what} cannot be written: {reason}. Check the option {self.option}.")

    def tell(self, text: str) -> None:
        """Show a warning, the first time."""
        if not self._has_told:
            self._has_told = True
            self.terminal.handle(logging.makeLogRecord({"levelname": "WARNING", "levelno": 30, "msg": text}))


class LogFile(_TellsOnce, logging.FileHandler):
    """Adds lines to a file, which is opened with the first one."""

    option = "log_file"

    def __init__(self, path: Path, terminal: logging.Handler) -> None:
        super().__init__(path, encoding="utf-8", errors="backslashreplace", delay=True)
        self.terminal, self.what = terminal, f"{path}: the log file"

    def _open(self) -> TextIOWrapper:
        # A pipe that nobody reads would keep the command waiting for ever.
        def opener(path: str, flags: int) -> int:
            _make_folder(os.path.dirname(path))
            is_new = not os.path.lexists(path)
            fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
            os.set_blocking(fd, True)
            if is_new and os.geteuid() == 0:
                # Else the site's own user, for whom root installed something, could not write to it any more.
                give_to_owner_of(os.path.dirname(path), fd)
            return fd

        return open(self.baseFilename, "a", encoding=self.encoding, errors=self.errors, opener=opener)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            super().emit(record)
        except OSError:  # it cannot be opened
            self.handleError(record)

    def close(self) -> None:
        """Close the file. What could not be written is told of already."""
        with suppress(OSError):
            super().close()


def _make_folder(folder: str) -> None:
    """Make the folder of a log file where it is missing, and nothing above it. Raises OSError.

    Made by root it belongs to the owner of the folder above it, as a log file does.
    """
    with suppress(FileExistsError, FileNotFoundError):
        os.mkdir(folder)
        if os.geteuid() == 0:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                give_to_owner_of(os.path.dirname(folder), fd)
            finally:
                os.close(fd)


class SystemLog(_TellsOnce, SysLogHandler):
    """Sends lines to the socket where syslog's daemon or journald listens. part: whose lines they are."""

    option = "syslog"

    def __init__(self, socket: Path, part: str, terminal: logging.Handler) -> None:
        self.terminal, self.what = terminal, f"{socket}: the system's log"
        super().__init__(os.fspath(socket), SysLogHandler.LOG_DAEMON)
        self.ident = f"zodbvault[{os.getpid()}]: {part}: "
        self.append_nul = False
