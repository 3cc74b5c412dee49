"""Entries of a crontab: how they are written, how they stand between the lines of others, and the program crontab.

A crontab is bytes here: what others wrote stays as it is, whatever it is.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from typing import TYPE_CHECKING

from zodbvault.commands.timetable import ALL_DAYS, HOURS_OF_DAY, MINUTES_OF_HOUR, OTHER_DAYS, SUNDAY, spans
from zodbvault.errors import ZodbvaultError, reason_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zodbvault.commands.timetable import Times

_DAYS = {ALL_DAYS: "*", SUNDAY: "0", OTHER_DAYS: "1-6"}


def cron_times(times: Times) -> str:
    """The five fields of a line."""
    day_of_month = "*" if times.day_of_month is None else str(times.day_of_month)
    minutes, hours = _field(times.minutes, MINUTES_OF_HOUR), _field(times.hours, HOURS_OF_DAY)
    return f"{minutes} {hours} {day_of_month} * {_DAYS[times.days]}"


def _field(numbers: Sequence[int], number_of_all: int) -> str:
    if len(numbers) == number_of_all:
        return "*"
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in spans(numbers))


def cron_command(words: Sequence[str]) -> str:
    """A command for a line: quoted for the shell, and for cron, to which a percent sign is the end of a line."""
    return shlex.join(words).replace("%", "\\%")


def block_of(name: str, lines: Sequence[str]) -> bytes:
    """The entries of a site between two marks with its name."""
    return b"".join(os.fsencode(f"{line}\n") for line in (_mark("BEGIN", name), *lines, _mark("END", name)))


def _mark(word: str, name: str) -> str:
    return f"# {word} zodbvault {name}"


def with_block(crontab: bytes, name: str, block: bytes) -> bytes:
    """The crontab with this block in the place of the site's old one, or at its end; empty: without any.

    All other lines stay as they are. Raises ZodbvaultError where only one of the old one's marks is there.
    """
    lines = crontab.splitlines(keepends=True)
    begin, end = (os.fsencode(_mark(word, name)) for word in ("BEGIN", "END"))
    begins = [number for number, line in enumerate(lines) if line.rstrip(b"\r\n") == begin]
    ends = [number for number, line in enumerate(lines) if line.rstrip(b"\r\n") == end]
    if not begins and not ends:
        gap = b"\n" if crontab and block and not crontab.endswith(b"\n") else b""
        return crontab + gap + block
    if len(begins) != 1 or len(ends) != 1 or begins[0] > ends[0]:
        raise ZodbvaultError(
            f"the crontab has not one line '{begin.decode(errors='replace')}' with its END behind it",
            hint="Nothing was changed. Put it right, or take the entries out, with crontab -e.",
        )
    return b"".join((*lines[: begins[0]], block, *lines[ends[0] + 1 :]))


def read_crontab() -> bytes:
    """The crontab of this user; empty where there is none. Raises ZodbvaultError when it cannot be read."""
    finished = _run("-l")
    if finished.returncode == 0:
        return finished.stdout
    # No crontab is an error to the program, with the exit code of all others.
    if b"no crontab for" in finished.stderr or b"No such file" in finished.stderr:
        return b""
    raise _failure("the crontab cannot be read", finished)


def write_crontab(crontab: bytes) -> None:
    """Make this the crontab of this user; nothing in it: they have none then. Raises ZodbvaultError."""
    finished = _run("-", crontab) if crontab else _run("-r")
    if finished.returncode != 0:
        raise _failure("the crontab cannot be written", finished)


def _run(argument: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        return subprocess.run(  # noqa: S603 - two words of ours
            ["crontab", argument],  # noqa: S607 - where it is depends on the system
            input=given,
            capture_output=True,
            env=environment,
            check=False,
        )
    except OSError as error:
        hint = "Is cron installed? --systemd is the other way."
        raise ZodbvaultError(f"crontab cannot be started: {reason_of(error)}", hint=hint) from error


def _failure(what: str, finished: subprocess.CompletedProcess[bytes]) -> ZodbvaultError:
    said = finished.stderr.decode("utf-8", "replace").strip() or f"exit code {finished.returncode}"
    return ZodbvaultError(f"{what}: {said}", hint="Nothing was changed.")
