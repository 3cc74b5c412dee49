"""What a person sees: log lines, the question before a restore, results as lines, JSON and tables.

Log lines and the question go to standard error, results to standard output. Knows no command and no option.
"""

from __future__ import annotations

import logging
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from zodbvault.errors import ZodbvaultError, one_line, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from zodbvault.commands.tables import Table

LOGGER_NAME = "zodbvault"


@contextmanager
def logging_to_stderr(
    level: int, *, as_json: bool = False, log_file: Path | None = None, syslog: Path | None = None, part: str = ""
) -> Iterator[logging.Logger]:
    """Write the project's log lines from `level` on to standard error; with times (UTC) when it is DEBUG.

    as_json: each as a JSON object. log_file: a file that the lines, those of INFO at least, are added to, with times.
    syslog: the socket of the system's log, which gets the same. One that cannot be written is a warning. part: of the
    buildout, whose name the system's log gets. May be nested: the innermost one counts.
    """
    logger = logging.getLogger(LOGGER_NAME)
    handler = logging.StreamHandler()
    handler.setFormatter(_json_formatter() if as_json else _formatter(with_times=level <= logging.DEBUG))
    old_level, old_propagate, old_handlers = logger.level, logger.propagate, logger.handlers
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
    try:
        if log_file is not None or syslog is not None:
            handler.setLevel(level)
            logger.setLevel(min(level, logging.INFO))
            _add_further(logger, log_file, syslog, part)
        yield logger
    finally:
        for further in logger.handlers[1:]:
            further.close()
        logger.handlers = old_handlers
        logger.setLevel(old_level)
        logger.propagate = old_propagate


def _add_further(logger: logging.Logger, log_file: Path | None, syslog: Path | None, part: str) -> None:
    """Let a logger write to a file and to the system's log too."""
    from zodbvault.further_logs import LogFile, SystemLog

    terminal = logger.handlers[0]
    if log_file is not None:
        file = LogFile(log_file, terminal)
        file.setFormatter(_formatter(with_times=True))
        logger.addHandler(file)
    if syslog is not None:
        system = SystemLog(syslog, part, terminal)
        system.setFormatter(_formatter(with_times=False))
        logger.addHandler(system)


def _json_formatter() -> logging.Formatter:
    """Lines for programs: a JSON object each, in ASCII."""
    import json
    import time

    class JsonFormatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            line = {
                "time": f"{moment}.{int(record.msecs):03}Z",
                "level": record.levelname,
                "message": record.getMessage(),
            }
            if record.exc_info:
                line["traceback"] = self.formatException(record.exc_info)
            return json.dumps(line)

    return JsonFormatter()


class _OneLine(logging.Formatter):
    """A line for each message; a traceback has lines of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        return one_line(super().formatMessage(record))


def _formatter(*, with_times: bool) -> logging.Formatter:
    if not with_times:
        return _OneLine("%(levelname)s: %(message)s")
    import time

    formatter = _OneLine("%(asctime)s.%(msecs)03dZ %(levelname)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    return formatter


def ask_yes(question: str) -> bool:
    """Put a question and wait for one line. Only a literal `yes` is a yes; the end of standard input is a no."""
    if sys.stdin is None or sys.stderr is None:
        return False
    sys.stderr.write(f"{question} (yes/no) ")
    sys.stderr.flush()
    answer, is_echoed = "", False
    try:
        answer = sys.stdin.readline()
        is_echoed = answer.endswith("\n") and sys.stdin.isatty()
    except (OSError, ValueError):  # closed, or bytes that are no text
        pass
    if not is_echoed:
        # Nobody pressed Enter on a terminal, so the cursor still stands behind the question.
        sys.stderr.write("\n")
    return answer.strip() == "yes"


def write_lines(lines: Iterable[str]) -> bool:
    """Write results to standard output, a line each; whether there is somebody who reads.

    A reader that went away (`| head`) has seen enough. Raises ZodbvaultError for any other failure.
    """
    out = sys.stdout
    if out is None:
        return False
    text = "".join(f"{line}\n" for line in lines)
    encoding = getattr(out, "encoding", None) or "utf-8"
    # A name may hold bytes that are no text, and the terminal may know less than Unicode.
    text = text.encode(encoding, "backslashreplace").decode(encoding)
    try:
        out.write(text)
        out.flush()
    except BrokenPipeError:
        # What is left in the buffer must not be tried again when Python ends.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, out.fileno())
            os.close(nowhere)
        return False
    except OSError as error:
        raise ZodbvaultError(f"the result cannot be written to standard output: {reason_of(error)}") from error
    return True


def write_json(data: Mapping[str, object]) -> None:
    """Write a result for programs to standard output, in ASCII. Raises ZodbvaultError as write_lines does."""
    import json

    write_lines((json.dumps(data, indent=1),))


def write_table(table: Table) -> None:
    """Write a table to standard output: drawn where that is a terminal and rich is installed, else plain text.

    Nothing is written of a table without rows. Raises ZodbvaultError as write_lines does.
    """
    from zodbvault.commands.tables import aligned

    if table.rows and sys.stdout is not None and sys.stdout.isatty():
        with suppress(ImportError):
            if _draw(table):
                return
    write_lines(aligned(table))


def _draw(table: Table) -> bool:
    """Draw a table with rich, on a narrow terminal without the columns to spare; False where it is too wide even so.

    Raises ImportError where rich is not installed.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Drawn
    from rich.text import Text

    from zodbvault.commands.tables import ALARMS, fitting, width_of

    console = Console(highlight=False)
    # Three characters stand between two columns, and one on each side.
    fitted = fitting(table, console.width - 2, between=3)
    if width_of(fitted, between=3) > console.width - 2:
        return False
    drawn = Drawn(box=SIMPLE_HEAD, pad_edge=False)
    for column in fitted.columns:
        drawn.add_column(column.heading, justify="right" if column.is_number else "left", no_wrap=True)
    for row in fitted.rows:
        drawn.add_row(*(Text(cell, "bold red" if any(word in cell for word in ALARMS) else "") for cell in row))
    console.print(drawn)
    return True
