"""What may stand behind a command on the command line, for generated scripts and for the `zodbvault` program.

Knows the commands by their names alone, and no settings. What cron runs, a few flags, is understood here at once;
argparse, which is slow to import, takes over for anything else, and alone makes help and complaints.
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
    "list": "Say which backups there are: date, kind, size, blobs; with a date, what a restore for it would take.",
    "report": "Write a page about the backups, one HTML file that needs nothing else.",
    "prune": "Remove the backups that keep, keep_daily, keep_weekly and keep_monthly do not hold; each backup does it.",
    "check": "Say whether the backups are as they should be, for a monitoring system (Nagios, Icinga, Prometheus).",
    "schedule": "Print what runs the backups by themselves: lines of a crontab, or units of systemd; or install it.",
}
"""The commands, and what each one does."""

OF_THE_PROGRAM: Mapping[str, str] = {
    "settings": "Show what holds for the site, option by option, and where each value comes from.",
    "init": "Look for databases in the files of a Zope or ZEO, and write a zodbvault.toml for them.",
}
"""The commands that only the program zodbvault has, and no script of a buildout."""

EXIT_CODES = """\
Dates are UTC: YYYY-MM-DD, or more of YYYY-MM-DD-HH-MM-SS; a date alone means its midnight. With their time zone dates
may be 2026-11-23T19:05:00+01:00; the newest backup is called latest.
Exit codes: 0 good, 1 failed, 2 wrong usage or configuration, 75 another run is at work.
"""

CHECK_EXIT_CODES = """\
Exit codes: 0 OK, 1 WARNING, 2 CRITICAL (no backup, too old, damaged), 3 UNKNOWN (it could not be found out).
"""

_ALL = frozenset((*DESCRIPTIONS, *OF_THE_PROGRAM))
_RESTORES = frozenset({"restore", "snapshotrestore", "ziprestore", "altrestore"})
WITH_DATE = _RESTORES | {"verify", "list", "drill"}
LOOKING = frozenset({"list", "verify", "check", "prune", "report", "drill", "log"})
"""The commands that look at one repository of the site, or at all of them."""
_JUDGING = frozenset({"check", "report"})
_SCHEDULE = frozenset({"schedule"})


class Arguments(NamedTuple):
    """What was asked for. What has a value: as it was written; None where none was given."""

    quiet: bool = False
    debug: bool = False
    log_json: bool = False
    no_prompt: bool = False
    full: bool = False
    accept_missing_blobs: bool = False
    checksum: bool = False
    quick: bool = False
    deep: bool = False
    opens: bool = False
    dry_run: bool = False
    json: bool = False
    cron: bool = False
    systemd: bool = False
    install: bool = False
    remove: bool = False
    snapshots: bool = False
    zips: bool = False
    all_locations: bool = False
    to: str | None = None
    at: str | None = None
    only: str | None = None
    sample: str | None = None
    tmp: str | None = None
    max_age: str | None = None
    max_full_age: str | None = None
    max_drill_age: str | None = None
    min_free: str | None = None
    metrics: str | None = None
    output: str | None = None
    date: str | None = None
    between: str | None = None
    every: str | None = None
    units: str | None = None
    folder: str | None = None


class Flag(NamedTuple):
    """One option. name: the attribute of Arguments. commands: those that know it.

    group: of those with the same word only one may be given. metavar: what its value is called; empty: it has none.
    choices: the values that there are; None for any.
    """

    name: str
    spellings: tuple[str, ...]
    commands: frozenset[str]
    help: str
    group: str = ""
    metavar: str = ""
    choices: tuple[str, ...] | None = None


FLAGS: tuple[Flag, ...] = (
    Flag("quiet", ("-q", "--quiet"), _ALL, "say nothing but warnings and errors", group="volume"),
    Flag("debug", ("--debug",), _ALL, "say more, with times, and where an error comes from", group="volume"),
    Flag("log_json", ("--log-json",), _ALL, "write log lines as JSON, for programs"),
    Flag("no_prompt", ("-n", "--no-prompt"), _ALL, "ask nothing"),
    Flag("full", ("--full",), frozenset({"backup"}), "make a full backup"),
    Flag(
        "accept_missing_blobs",
        ("--accept-missing-blobs",),
        _RESTORES,
        "restore without the blobs that the backup lacks or has damaged; all others come back",
    ),
    Flag("checksum", ("--checksum",), _RESTORES, "compare the content of blobs that are there, not only their sizes"),
    Flag("quick", ("--quick",), frozenset({"verify"}), "look at names and sizes only", group="depth"),
    Flag(
        "deep",
        ("--deep",),
        frozenset({"verify"}),
        "unpack everything and check all that a restore checks",
        group="depth",
    ),
    Flag(
        "opens",
        ("--open",),
        frozenset({"verify"}),
        "with --deep: rehearse a restore of the newest date of each chain too, and let ZODB read all of it",
    ),
    Flag("snapshots", ("--snapshots",), LOOKING, "look at the snapshots, not at the backups", group="location"),
    Flag("zips", ("--zips",), LOOKING, "look at the zip backup, not at the backups", group="location"),
    Flag("all_locations", ("--all",), LOOKING, "look at backups, snapshots and zip backup", group="location"),
    Flag(
        "dry_run",
        ("--dry-run",),
        _RESTORES | {"prune"},
        "change nothing, only say what would be restored, or removed and why",
    ),
    Flag(
        "json",
        ("--json",),
        _RESTORES | {"log", "drill", "list", "check", "prune", "verify", "settings"},
        "write the result as JSON, for programs; a restore does so with --dry-run",
    ),
    Flag("cron", ("--cron",), _SCHEDULE, "lines of a crontab; this is usual", group="form"),
    Flag("systemd", ("--systemd",), _SCHEDULE, "services and timers of systemd", group="form"),
    Flag("install", ("--install",), _SCHEDULE, "write it, into your crontab or the folder of units", group="deed"),
    Flag("remove", ("--remove",), _SCHEDULE, "take out again what --install has written", group="deed"),
)
"""The options without a value, which need no parser."""

VALUED = (
    Flag("to", ("--to",), _RESTORES, "restore into FOLDER, new or empty, and leave the site alone", metavar="FOLDER"),
    Flag(
        "at",
        ("--at",),
        _RESTORES,
        "the state after the last transaction at or before WHEN: a time with its zone, or a tid",
        group="date",
        metavar="WHEN",
    ),
    Flag(
        "only",
        ("--only",),
        _RESTORES,
        "restore only the data, or only the blobs, which may not fit the other half then: data or blobs",
        metavar="HALF",
        choices=("data", "blobs"),
    ),
    Flag(
        "sample",
        ("--sample",),
        frozenset({"drill"}),
        "read N objects, chosen at random, and not all of them",
        metavar="N",
    ),
    Flag(
        "tmp",
        ("--tmp",),
        frozenset({"drill", "verify"}),
        "restore below FOLDER and not beside the live data",
        metavar="FOLDER",
    ),
    Flag(
        "max_age",
        ("--max-age",),
        _JUDGING,
        "CRITICAL where a change is longer in no backup; usually 26h",
        metavar="AGE",
    ),
    Flag("max_full_age", ("--max-full-age",), _JUDGING, "WARNING where the newest full is older", metavar="AGE"),
    Flag("max_drill_age", ("--max-drill-age",), _JUDGING, "WARNING where the last drill is longer ago", metavar="AGE"),
    Flag(
        "min_free", ("--min-free",), _JUDGING, "WARNING where less is free (10%%, 5GB); usually 10%%", metavar="SPACE"
    ),
    Flag(
        "metrics",
        ("--metrics",),
        frozenset({"check"}),
        "write the numbers to this file too, as Prometheus reads them",
        metavar="FILE",
    ),
    Flag(
        "output",
        ("-o", "--output"),
        frozenset({"report", "init"}),
        "the file, - for standard output; not given: for report standard output, for init zodbvault.toml in FOLDER",
        metavar="FILE",
    ),
    Flag(
        "every",
        ("--every",),
        _SCHEDULE,
        "minutes between two backups, 1 to 1440, so that hours or days are divided evenly; usually 15",
        metavar="MINUTES",
    ),
    Flag(
        "units",
        ("--units",),
        _SCHEDULE,
        "the folder of units; usually /etc/systemd/system for root, else ~/.config/systemd/user",
        metavar="FOLDER",
    ),
    Flag("date_option", ("--date",), WITH_DATE, "the same as DATE", group="date", metavar="DATE"),
)
"""The options that take a value."""


def exit_codes(command: str) -> str:
    """What the exit codes of a command mean, for its help."""
    return CHECK_EXIT_CODES if command == "check" else EXIT_CODES


def usage_exit_code(command: str | None) -> int:
    """The exit code for wrong usage: to a monitoring system 2 would mean that the backups are broken."""
    return 3 if command == "check" else 2


def parse_arguments(command: str, program: str, arguments: Sequence[str]) -> Arguments:
    """What the arguments of a script ask for. Leaves through SystemExit where they are wrong, and after the help.

    command: a key of DESCRIPTIONS. program: the script, as it was called.
    """
    flags = _only_flags(command, arguments)
    if flags is not None:
        return flags
    parser = script_parser(command, program)
    try:
        return arguments_from(parser.parse_args(arguments))
    except SystemExit as stop:
        stop.code = usage_exit_code(command) if stop.code else stop.code
        raise


def script_parser(command: str, program: str) -> argparse.ArgumentParser:
    """The parser of a generated script, with all that its help says. Arguments as of parse_arguments."""
    import os

    from zodbvault.examples import examples_text
    from zodbvault.parser import Parser

    parser = Parser(
        prog=os.path.basename(program),
        description=DESCRIPTIONS[command],
        epilog=f"{examples_text(command, program)}\n{exit_codes(command)}",
    )
    add_arguments(parser, command)
    return parser


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Let `parser` understand the arguments of a command."""
    own = [option for option in (*FLAGS, *VALUED) if command in option.commands]
    names = dict.fromkeys(option.group for option in own if option.group)
    groups = {name: parser.add_mutually_exclusive_group() for name in names}
    for option in own:
        group = groups.get(option.group, parser)
        if option.metavar:
            value: dict[str, Any] = {"metavar": option.metavar, "choices": option.choices}
        else:
            value = {"action": "store_true"}
        group.add_argument(*option.spellings, dest=option.name, help=option.help, **value)
    if command in WITH_DATE:
        without = "all backups" if command in ("list", "verify") else "the newest one"
        what = f"the newest state at or before this date; without it {without}"
        groups["date"].add_argument("date", nargs="?", metavar="DATE", help=what)
    if command == "log":
        parser.add_argument(
            "between",
            nargs="?",
            metavar="WHEN..WHEN",
            help="the range of time: two dates, times with their zones, or tids; one of the two may lack",
        )
    if command == "init":
        parser.add_argument(
            "folder", nargs="?", metavar="FOLDER", help="a buildout, or an instance of Zope; without it the current one"
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
    known = {spelling: flag for flag in FLAGS if command in flag.commands for spelling in flag.spellings}
    flags = {known.get(argument) for argument in arguments}
    groups = [flag.group for flag in flags if flag is not None and flag.group]
    if None in flags or len(groups) != len(set(groups)):
        return None
    values: dict[str, Any] = {flag.name: True for flag in flags if flag is not None}
    return Arguments(**values)
