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
    "zipbackup": "Make a full backup in two files, one of them an archive of all blobs; only the newest is kept.",
    "restore": "Replace the database and its blobs by the newest backup, or the newest one at or before a date.",
    "snapshotrestore": "Replace the database and its blobs by the newest snapshot, or the newest at or before a date.",
    "ziprestore": "Replace the database and its blobs by the zip backup.",
    "altrestore": "Replace the database and its blobs by a backup of another site, the newest or that for a date.",
    "verify": "Check that the files of all backups, or of what a date needs, are as they were written.",
    "drill": "Rehearse a restore: into a folder that goes again, where ZODB reads all of it.",
    "log": "List the transactions in the backups, the newest first, to find the one to restore to.",
    "list": "Say which backups there are: date, kind, size, blobs.",
}
"""The commands, and what each one does."""

EXIT_CODES = """\
Dates are UTC: YYYY-MM-DD, or more of YYYY-MM-DD-HH-MM-SS; a date alone means its midnight. With their time zone dates
may be 2026-11-23T19:05:00+01:00; the newest backup is called latest.
Exit codes: 0 good, 1 failed, 2 wrong usage or configuration, 75 another run is at work.
"""

_RESTORES = frozenset({"restore", "snapshotrestore", "ziprestore", "altrestore"})
WITH_DATE = _RESTORES | {"verify", "list", "drill"}
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
    dry_run: bool = False
    json: bool = False
    to: str | None = None
    at: str | None = None
    only: str | None = None
    sample: str | None = None
    tmp: str | None = None
    date: str | None = None
    between: str | None = None


class Flag(NamedTuple):
    """One option without a value. name: the attribute of Arguments. commands: those that know it."""

    name: str
    spellings: tuple[str, ...]
    commands: frozenset[str]
    help: str


_QUIET = Flag("quiet", ("-q", "--quiet"), _ALL, "say nothing but warnings and errors")
_DEBUG = Flag("debug", ("--debug",), _ALL, "say more, with times, and where an error comes from")

FLAGS = (
    _QUIET,
    _DEBUG,
    Flag("no_prompt", ("-n", "--no-prompt"), _ALL, "ask nothing"),
    Flag("full", ("--full",), frozenset({"backup"}), "make a full backup"),
    Flag(
        "accept_missing_blobs",
        ("--accept-missing-blobs",),
        _RESTORES,
        "restore from another program's backup even if it lacks blobs that the data refer to",
    ),
    Flag("checksum", ("--checksum",), _RESTORES, "compare the content of blobs that are there, not only their sizes"),
    Flag("dry_run", ("--dry-run",), _RESTORES, "say what would be restored, and change nothing"),
    Flag(
        "json",
        ("--json",),
        _RESTORES | {"log", "drill"},
        "print for a program to read; a restore does so with --dry-run",
    ),
    Flag("deep", ("--deep",), frozenset({"verify"}), "unpack everything and check all that a restore checks"),
)


class Valued(NamedTuple):
    """One option with a value. Fields as those of Flag; metavar: what the help calls the value."""

    name: str
    spellings: tuple[str, ...]
    metavar: str
    commands: frozenset[str]
    help: str
    choices: tuple[str, ...] | None = None


VALUED = (
    Valued("to", ("--to",), "FOLDER", _RESTORES, "restore into FOLDER, new or empty, and leave the site alone"),
    Valued(
        "only",
        ("--only",),
        "HALF",
        _RESTORES,
        "restore only the data, or only the blobs, which may not fit the other half then: data or blobs",
        choices=("data", "blobs"),
    ),
    Valued("sample", ("--sample",), "N", frozenset({"drill"}), "read N objects, chosen at random, and not all of them"),
    Valued("tmp", ("--tmp",), "FOLDER", frozenset({"drill"}), "restore below FOLDER and not beside the live data"),
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
    volume = parser.add_mutually_exclusive_group()
    for flag in FLAGS:
        if command in flag.commands:
            group = volume if flag in (_QUIET, _DEBUG) else parser
            group.add_argument(*flag.spellings, dest=flag.name, action="store_true", help=flag.help)
    for option in VALUED:
        if command in option.commands:
            parser.add_argument(
                *option.spellings, dest=option.name, metavar=option.metavar, choices=option.choices, help=option.help
            )
    if command == "log":
        parser.add_argument(
            "between",
            nargs="?",
            metavar="WHEN..WHEN",
            help="the range of time: two dates, times with their zones, or tids; one of the two may lack",
        )
    if command in WITH_DATE:
        dates = parser.add_mutually_exclusive_group()
        dates.add_argument("date", nargs="?", help="the newest state at or before this date; without it the newest one")
        dates.add_argument("--date", dest="date_option", metavar="DATE", help="the same")
        if command in _RESTORES:
            dates.add_argument(
                "--at",
                metavar="WHEN",
                help="the state after the last transaction at or before WHEN: a time with its zone, or a tid",
            )


def arguments_from(parsed: argparse.Namespace) -> Arguments:
    """What a parser found that `add_arguments` prepared."""
    found = vars(parsed)
    values = {name: found[name] for name in Arguments._fields if name in found}
    if found.get("date_option") is not None:
        values["date"] = found["date_option"]
    return Arguments(**values)


def _only_flags(command: str, arguments: Sequence[str]) -> Arguments | None:
    """What a list of flags asks for; None when it is anything else."""
    known = {spelling: flag.name for flag in FLAGS if command in flag.commands for spelling in flag.spellings}
    names = {known.get(argument) for argument in arguments}
    if None in names or {"quiet", "debug"} <= names:
        return None
    values: dict[str, Any] = {name: True for name in names if name is not None}
    return Arguments(**values)
