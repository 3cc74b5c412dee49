"""What runs the backups by themselves: shown, written into the crontab or the folder of units, or taken out again.

When it runs is in timetable.py, how it is written in crontab.py and systemd_units.py.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.commands.crontab import block_of, cron_command, cron_times, read_crontab, with_block, write_crontab
from zodbvault.commands.places import live_place
from zodbvault.commands.summary import plural
from zodbvault.commands.systemd_units import Unit, unit_stem, units_of
from zodbvault.commands.timetable import BACKUP, DRILL, FULL, JOBS, VERIFY, Entry, timetable
from zodbvault.errors import explained
from zodbvault.io.durable import remove_durably, write_durably
from zodbvault.site_settings import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zodbvault.settings import Settings

SYSTEM_FOLDER = Path("/etc/systemd/system")
WANTED = "timers.target.wants"
"""The folder, in that of the units, where systemctl keeps links to the timers that are switched on."""


class Invocation(NamedTuple):
    """How the commands of a site are called, and where it is configured.

    backup, verify, drill: the words of each command, the program's absolute path first. place: an absolute path that
    tells sites of one name apart. unknown: variables that hold here, and not where cron and systemd run.
    """

    backup: tuple[str, ...]
    verify: tuple[str, ...]
    drill: tuple[str, ...]
    place: str
    unknown: tuple[str, ...] = ()


class Plan(NamedTuple):
    """What runs when. name: the site's, for its marks in a crontab. commands: the words of each job."""

    name: str
    entries: tuple[Entry, ...]
    commands: Mapping[str, tuple[str, ...]]
    every: int


class Scheduled(NamedTuple):
    """What there is to say. lines: the result that was asked for. notes: what was done, and what comes next."""

    lines: tuple[str, ...]
    notes: tuple[str, ...]


def plan_schedule(settings: Settings, invocation: Invocation, every: int) -> Plan:
    """What is to run for a site. every: minutes between two backups.

    Raises ConfigurationError for a path that no crontab and no unit can hold.
    """
    commands = {
        BACKUP: (*invocation.backup, "-q"),
        FULL: (*invocation.backup, "-q", "--full"),
        VERIFY: (*invocation.verify, "-q"),
        DRILL: (*invocation.drill, "-q"),
    }
    name = f"{settings.part} {invocation.place}"
    for word in (name, *(word for words in commands.values() for word in words)):
        if any(character in word for character in "\n\r\0"):
            raise ConfigurationError([f"{word!r}: a line break in it cannot stand in a schedule"])
    return Plan(name, timetable(every, name), commands, every)


# The crontab


def show_cron(plan: Plan) -> Scheduled:
    """The entries for a crontab."""
    return Scheduled(tuple(os.fsdecode(_block(plan)).splitlines()), ())


def install_cron(plan: Plan) -> Scheduled:
    """Put the entries into this user's crontab."""
    return _change_crontab(plan.name, _block(plan), "is in the crontab; crontab -l shows it", "was there already")


def remove_cron(name: str) -> Scheduled:
    """Take the entries out of this user's crontab."""
    return _change_crontab(name, b"", "is no longer in the crontab", "was not in the crontab")


def _change_crontab(name: str, block: bytes, changed: str, unchanged: str) -> Scheduled:
    old = read_crontab()
    new = with_block(old, name, block)
    if new == old:
        return Scheduled((), (f"Nothing to do: the schedule of {name} {unchanged}.",))
    write_crontab(new)
    return Scheduled((), (f"The schedule of {name} {changed}.",))


def _block(plan: Plan) -> bytes:
    lines = [
        f"{cron_times(times)} {cron_command(plan.commands[entry.job])}"
        for entry in plan.entries
        for times in entry.times
    ]
    return block_of(plan.name, lines)


# systemd


def show_units(units: Sequence[Unit], folder: Path) -> Scheduled:
    """The units, each with its file's name in front."""
    return Scheduled(tuple(line for unit in units for line in (f"# {folder / unit.name}", *unit.text.split("\n"))), ())


def plan_units(plan: Plan, settings: Settings, invocation: Invocation) -> tuple[Unit, ...]:
    """The files for systemd."""
    stem, user = unit_stem(settings.part, invocation.place), _user_of(settings)
    return tuple(
        unit
        for entry in plan.entries
        for unit in units_of(entry, stem, plan.name, plan.commands[entry.job], every=plan.every, user=user)
    )


def _user_of(settings: Settings) -> str | None:
    """Who the backups run as where root installs them: the owner of the database, or of the blobs that alone are."""
    import pwd

    if os.geteuid() != 0:
        return None
    try:
        owner = os.stat(live_place(settings)).st_uid
        return None if owner == 0 else pwd.getpwuid(owner).pw_name
    except (OSError, KeyError):
        return None


def folder_of_units(name: str | None) -> Path:
    """The folder of units: the one that was named, or that of the system for root, else that of this user."""
    if name is not None:
        return Path(os.path.abspath(name))
    return SYSTEM_FOLDER if os.geteuid() == 0 else _users_folder()


def _users_folder() -> Path:
    config = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return Path(config) / "systemd" / "user"


def _own_folders() -> tuple[Path, ...]:
    """The folders where systemd looks for units; to those elsewhere it needs links."""
    return SYSTEM_FOLDER, _users_folder()


def install_units(units: Sequence[Unit], folder: Path) -> Scheduled:
    """Write the units, those that are not there already."""
    with explained("the units cannot be written", path=folder):
        os.makedirs(folder, exist_ok=True)
        changed = [unit for unit in units if _content(folder / unit.name) != _bytes(unit)]
        for unit in changed:
            write_durably(folder / unit.name, _bytes(unit))
    if not changed:
        return Scheduled((), (f"Nothing to do: the units were in {folder} already.",))
    timers = shlex.join(unit.name for unit in units if unit.name.endswith(".timer"))
    systemctl = _systemctl(folder)
    link = (
        ""
        if folder in _own_folders()
        else f"{systemctl} link {shlex.join(str(folder / unit.name) for unit in units)} && "
    )
    notes = [
        f"{plural(len(changed), 'unit')} written to {folder}.",
        f"To switch them on: {link}{systemctl} daemon-reload && {systemctl} enable --now {timers}",
    ]
    if systemctl != "systemctl":
        notes.append("They run while you are not logged in only after: loginctl enable-linger")
    return Scheduled((), tuple(notes))


def remove_units(part: str, place: str, folder: Path) -> Scheduled:
    """Remove the units, and the links that switched them on."""
    stem = unit_stem(part, place)
    names = [f"{stem}{job}.{kind}" for job in JOBS for kind in ("timer", "service")]
    there = [name for name in names if os.path.lexists(folder / name)]
    with explained("the units cannot be removed", path=folder):
        remove_durably(*(folder / WANTED / name for name in names if os.path.islink(folder / WANTED / name)))
        remove_durably(*(folder / name for name in there))
    if not there:
        return Scheduled((), (f"Nothing to do: the units were not in {folder}.",))
    timers = shlex.join(name for name in names if name.endswith(".timer"))
    systemctl = _systemctl(folder)
    return Scheduled(
        (),
        (
            f"{plural(len(there), 'unit')} removed from {folder}.",
            f"To stop what runs still: {systemctl} stop {timers}; {systemctl} daemon-reload",
        ),
    )


def _systemctl(folder: Path) -> str:
    is_of_system = folder != _users_folder() and (folder == SYSTEM_FOLDER or os.geteuid() == 0)
    return "systemctl" if is_of_system else "systemctl --user"


def _bytes(unit: Unit) -> bytes:
    return os.fsencode(unit.text)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
