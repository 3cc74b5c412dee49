"""What may stand behind a command on the command line, for generated scripts and for the `zodbvault` program.

Knows no command and no settings. What cron runs, a few flags, is understood here at once; argparse, which is slow to
import, takes over for anything else, and alone makes help and complaints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

DESCRIPTIONS: Mapping[str, str] = {
    "backup": "Back up what is new in the database since the last backup, or all of it when that is needed.",
    "snapshot": "Make a full backup in a place of its own, for the moment before a risky change.",
    "restore": "Replace the database and its blobs by the newest backup, or the newest one at or before a date.",
    "snapshotrestore": "Replace the database and its blobs by the newest snapshot, or the newest at or before a date.",
    "altrestore": "Replace the database and its blobs by a backup of another site, the newest or that for a date.",
    "verify": "Check that the files of all backups, or of what a date needs, are as they were written.",
    "list": "Say which backups there are: date, kind, size, blobs; with a date, what a restore for it would take.",
}
"""The commands, and what each one does."""

EXIT_CODES = """\
Dates are UTC: YYYY-MM-DD, or more of YYYY-MM-DD-HH-MM-SS; a date alone means its midnight.
Exit codes: 0 good, 1 failed, 2 wrong usage or configuration, 75 another run is at work.
"""

WITH_DATE = frozenset({"restore", "snapshotrestore", "altrestore", "verify", "list"})
LOOKING = frozenset({"list", "verify"})
"""The commands that look at one repository of the site, or at all of them."""
_WITH_JSON = frozenset({"list"})
_RESTORES = frozenset({"restore", "snapshotrestore", "altrestore"})
_ALL = frozenset(DESCRIPTIONS)


class Arguments(NamedTuple):
    """What was asked for. date: as it was written; None where none was given."""

    quiet: bool = False
    debug: bool = False
    no_prompt: bool = False
    full: bool = False
    accept_missing_blobs: bool = False
    checksum: bool = False
    deep: bool = False
    snapshots: bool = False
    all_locations: bool = False
    json: bool = False
    date: str | None = None


class Flag(NamedTuple):
    """One option without a value. name: the attribute of Arguments. commands: those that know it.

    group: of those with the same word only one may be given.
    """

    name: str
    spellings: tuple[str, ...]
    commands: frozenset[str]
    help: str
    group: str = ""


FLAGS = (
    Flag("quiet", ("-q", "--quiet"), _ALL, "say nothing but warnings and errors", group="volume"),
    Flag("debug", ("--debug",), _ALL, "say more, with times, and where an error comes from", group="volume"),
    Flag("no_prompt", ("-n", "--no-prompt"), _ALL, "ask nothing"),
    Flag("full", ("--full",), frozenset({"backup"}), "make a full backup"),
    Flag(
        "accept_missing_blobs",
        ("--accept-missing-blobs",),
        _RESTORES,
        "restore from another program's backup even if it lacks blobs that the data refer to",
    ),
    Flag("checksum", ("--checksum",), _RESTORES, "compare the content of blobs that are there, not only their sizes"),
    Flag("deep", ("--deep",), frozenset({"verify"}), "unpack everything and check all that a restore checks"),
    Flag("snapshots", ("--snapshots",), LOOKING, "look at the snapshots, not at the backups", group="location"),
    Flag("all_locations", ("--all",), LOOKING, "look at backups and snapshots", group="location"),
    Flag("json", ("--json",), _WITH_JSON, "write the result as JSON, for programs"),
)


def parse_arguments(command: str, program: str, arguments: Sequence[str]) -> Arguments:
    """What the arguments of a script ask for. Leaves through SystemExit(2) where they are wrong, (0) after the help.

    command: a key of DESCRIPTIONS. program: the script's name.
    """
    flags = _only_flags(command, arguments)
    if flags is not None:
        return flags
    import argparse

    parser = argparse.ArgumentParser(
        prog=program,
        description=DESCRIPTIONS[command],
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_arguments(parser, command)
    return arguments_from(parser.parse_args(arguments))


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Let `parser` understand the arguments of a command."""
    flags = [flag for flag in FLAGS if command in flag.commands]
    names = dict.fromkeys(flag.group for flag in flags if flag.group)
    groups = {name: parser.add_mutually_exclusive_group() for name in names}
    for flag in flags:
        group = groups.get(flag.group, parser)
        group.add_argument(*flag.spellings, dest=flag.name, action="store_true", help=flag.help)
    if command in WITH_DATE:
        dates = parser.add_mutually_exclusive_group()
        dates.add_argument("date", nargs="?", help="the newest state at or before this date; without it the newest one")
        dates.add_argument("--date", dest="date_option", metavar="DATE", help="the same")


def arguments_from(parsed: argparse.Namespace) -> Arguments:
    """What a parser found that `add_arguments` prepared."""
    found = vars(parsed)
    values = {name: found[name] for name in Arguments._fields if name in found}
    if found.get("date_option") is not None:
        values["date"] = found["date_option"]
    return Arguments(**values)


def _only_flags(command: str, arguments: Sequence[str]) -> Arguments | None:
    """What a list of flags asks for; None when it is anything else."""
    known = {spelling: flag for flag in FLAGS if command in flag.commands for spelling in flag.spellings}
    flags = {known.get(argument) for argument in arguments}
    groups = [flag.group for flag in flags if flag is not None and flag.group]
    if None in flags or len(groups) != len(set(groups)):
        return None
    values: dict[str, Any] = {flag.name: True for flag in flags if flag is not None}
    return Arguments(**values)
