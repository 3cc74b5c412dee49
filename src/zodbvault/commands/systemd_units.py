"""Units of systemd for a timetable: their names and their text. Writes no file.

The syntax is that of systemd.syntax(7), systemd.service(5), systemd.timer(5) and systemd.time(7).
"""

from __future__ import annotations

import hashlib
import string
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.commands.timetable import (
    ALL_DAYS,
    BACKUP,
    DRILL,
    FULL,
    HOURS_OF_DAY,
    OTHER_DAYS,
    SUNDAY,
    VERIFY,
    spans,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zodbvault.commands.timetable import Entry, Times

_NAME_CHARACTERS = frozenset(string.ascii_letters + string.digits + "_.")
_DAYS = {ALL_DAYS: "", SUNDAY: "Sun ", OTHER_DAYS: "Mon..Sat "}
_MOST_DELAY = 300
"""Seconds that a run may be put off by chance, beside the minutes that come from the site's name."""

DESCRIPTIONS = {
    BACKUP: "Incremental backup of",
    FULL: "Full backup of",
    VERIFY: "Verification of the backups of",
    DRILL: "Rehearsal of a restore of",
}

_SKIPPED = """\
# Another run was at work: this one is skipped, and that is no failure.
SuccessExitStatus=75
"""

_TRIED_AGAIN = """\
# Another run was at work: there is no other full one this week, so it is tried again.
Restart=on-failure
RestartSec=5min
RestartPreventExitStatus=1 2
"""


class Unit(NamedTuple):
    """One file."""

    name: str
    text: str


def unit_stem(part: str, place: str) -> str:
    """What the names of a site's units begin with. place: tells sites of one name apart, for a machine may have two."""
    digest = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()
    return f"zodbvault-{''.join(_in_name(character) for character in part)}-{digest[:6]}-"


def _in_name(character: str) -> str:
    """A character as it may stand in a unit's name."""
    if character in _NAME_CHARACTERS:
        return character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def units_of(
    entry: Entry, stem: str, site: str, command: Sequence[str], *, every: int, user: str | None
) -> tuple[Unit, Unit]:
    """The service and the timer of one entry.

    site: how people call it. command: its words. every: minutes between two backups. user: who it runs as; None: as
    whoever's systemd it is.
    """
    description = f"{DESCRIPTIONS[entry.job]} {_escaped(site)} (zodbvault)"
    run_as = f"User={user}\n" if user else ""
    service = (
        f"[Unit]\nDescription={description}\n\n[Service]\nType=oneshot\n"
        f"ExecStart=:{' '.join(_quoted(word) for word in _startable(command))}\n"
        f"{run_as}{_TRIED_AGAIN if entry.job == FULL else _SKIPPED}"
    )
    # So short that a full backup and the incremental ones beside it stay apart.
    delay = min(every * 60 // 5, _MOST_DELAY)
    calendar = "".join(f"OnCalendar={on_calendar(times)}\n" for times in entry.times)
    timer = (
        f"[Unit]\nDescription={description}\n\n[Timer]\n{calendar}RandomizedDelaySec={delay}\nAccuracySec=1\n"
        f"# What was due while the machine was off is done when it is on again.\nPersistent=true\n\n"
        f"[Install]\nWantedBy=timers.target\n"
    )
    return Unit(f"{stem}{entry.job}.service", service), Unit(f"{stem}{entry.job}.timer", timer)


def on_calendar(times: Times) -> str:
    """Times as systemd.time(7) writes them."""
    day = "*" if times.day_of_month is None else f"{times.day_of_month:02}"
    hours = "*" if len(times.hours) == HOURS_OF_DAY else _field(times.hours)
    return f"{_DAYS[times.days]}*-*-{day} {hours}:{_field(times.minutes)}:00"


def _field(numbers: Sequence[int]) -> str:
    return ",".join(f"{first:02}" if first == last else f"{first:02}..{last:02}" for first, last in spans(numbers))


def _escaped(text: str) -> str:
    """Text in which systemd replaces nothing."""
    return text.replace("%", "%%")


def _startable(command: Sequence[str]) -> Sequence[str]:
    """A command whose program systemd takes; it refuses a name with quotes or backslashes in it, however quoted."""
    if not any(character in command[0] for character in "\"'\\"):
        return command
    return ("/bin/sh", "-c", 'exec "$0" "$@"', *command)


def _quoted(word: str) -> str:
    """A word of a command line. Variables are left alone there, for it begins with a colon."""
    return '"' + _escaped(word.replace("\\", "\\\\").replace('"', '\\"')) + '"'
