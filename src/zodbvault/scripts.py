"""From a command line to one command and an exit code: what generated scripts call, and the `zodbvault` program too.

The one place where an error becomes a line of text and an exit code. Imports a command only when it is run, and nothing
of buildout: a backup that finds no change should take no longer than Python's own start.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from typing import TYPE_CHECKING

from zodbvault.console import ask_yes, logging_to_stderr, write_lines
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.settings import ConfigurationError, settings_from_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from zodbvault.io.clock import Clock
    from zodbvault.settings import PlainValue, Settings

logger = logging.getLogger("zodbvault")

DESCRIPTIONS: Mapping[str, str] = {
    "backup": "Back up what is new in the database since the last backup, or all of it when that is needed.",
    "snapshot": "Make a full backup in a place of its own, for the moment before a risky change.",
    "restore": "Replace the database and its blobs by the newest backup, or the newest one at or before a date.",
    "snapshotrestore": "Replace the database and its blobs by the newest snapshot, or the newest at or before a date.",
    "verify": "Check that the files of all backups, or of what a date needs, are as they were written.",
    "list": "Say which backups there are: date, kind, size, blobs.",
}

EXIT_CODES = """\
Dates are UTC: YYYY-MM-DD, or more of YYYY-MM-DD-HH-MM-SS; a date alone means its midnight.
Exit codes: 0 good, 1 failed, 2 wrong usage or configuration, 75 another run is at work.
"""

INTERRUPTED = 130
"""The exit code of a shell command that ended by Ctrl-C."""


def run(command: str, plain: Mapping[str, PlainValue], arguments: Sequence[str] | None = None) -> int:
    """Run one command of a generated script and return its exit code.

    command: a key of DESCRIPTIONS. plain: what `settings_to_plain` made. arguments: those of the command line, without
    the program's name; None takes the process's own. Leaves through SystemExit(2) for arguments that are wrong.
    """
    parser = argparse.ArgumentParser(
        prog=os.path.basename(sys.argv[0]),
        description=DESCRIPTIONS[command],
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_arguments(parser, command)
    options = parser.parse_args(arguments)
    return run_command(command, settings_from_plain(plain), options)


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Let `parser` understand the arguments of a command."""
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-q", "--quiet", action="store_true", help="say nothing but warnings and errors")
    volume.add_argument("--debug", action="store_true", help="say more, with times, and where an error comes from")
    parser.add_argument("-n", "--no-prompt", action="store_true", help="ask nothing")
    if command == "backup":
        parser.add_argument("--full", action="store_true", help="make a full backup")
    if command in ("restore", "snapshotrestore"):
        parser.add_argument(
            "--accept-missing-blobs",
            action="store_true",
            help="restore from another program's backup even if it lacks blobs that the data refer to",
        )
        parser.add_argument(
            "--checksum", action="store_true", help="compare the content of blobs that are there, not only their sizes"
        )
    if command == "verify":
        parser.add_argument(
            "--deep", action="store_true", help="unpack everything and check all that a restore checks, writing nothing"
        )
    if command in ("restore", "snapshotrestore", "verify", "list"):
        dates = parser.add_mutually_exclusive_group()
        dates.add_argument("date", nargs="?", help="the newest state at or before this date; without it the newest one")
        dates.add_argument("--date", dest="date_option", metavar="DATE", help="the same")


def run_command(command: str, settings: Settings, options: argparse.Namespace) -> int:
    """Run a command with arguments that `add_arguments` understood, and return its exit code."""
    level = log_level(quiet=options.quiet, debug=options.debug or settings.debug)

    def perform() -> int:
        from zodbvault.io.clock import clock_from_environment

        return _PERFORMERS[command](settings, options, clock_from_environment())

    return exit_code_of(perform, level)


def log_level(*, quiet: bool, debug: bool) -> int:
    """The least level that is logged; quiet wins."""
    if quiet:
        return logging.WARNING
    return logging.DEBUG if debug else logging.INFO


def exit_code_of(work: Callable[[], int], level: int) -> int:
    """Do some work that returns an exit code; whatever it raises becomes one ERROR line and an exit code.

    The traceback is shown only when `level` is DEBUG.
    """
    with logging_to_stderr(level):
        try:
            return work()
        except ZodbvaultError as error:
            return _report(error)
        except KeyboardInterrupt:
            logger.error("Interrupted. It is safe to run the same command again.")
            return INTERRUPTED
        except OSError as error:
            path = error.filename if isinstance(error.filename, (str, bytes)) else None
            return _report(
                ZodbvaultError(reason_of(error), path=path, hint="With --debug it says where this happened.")
            )
        except Exception as error:  # noqa: BLE001 - whatever is left is a mistake of ours, and cron wants one line
            return _report(
                ZodbvaultError(
                    f"this is a bug in zodbvault: {type(error).__name__}: {error}",
                    hint="Please report it, with the traceback that --debug shows.",
                )
            )


def _report(error: ZodbvaultError) -> int:
    logger.debug("Where the error comes from:", exc_info=True)
    logger.error("%s", error)
    return error.exit_code


def _backup(settings: Settings, options: argparse.Namespace, clock: Clock) -> int:
    from zodbvault.commands.backup import backup

    report = backup(settings, full=options.full, clock=clock)
    logger.info("%s", report.summary)
    return 0


def _snapshot(settings: Settings, options: argparse.Namespace, clock: Clock) -> int:
    from zodbvault.commands.snapshot import snapshot

    report = snapshot(settings, clock=clock)
    logger.info("%s", report.summary)
    return 0


def _restore(settings: Settings, options: argparse.Namespace, clock: Clock) -> int:
    return _restore_from("location", settings, options, clock)


def _snapshotrestore(settings: Settings, options: argparse.Namespace, clock: Clock) -> int:
    if not settings.enable_snapshotrestore:
        raise ConfigurationError(["snapshots are not to be restored here: enable_snapshotrestore is false"])
    return _restore_from("snapshot", settings, options, clock)


def _restore_from(source: str, settings: Settings, options: argparse.Namespace, clock: Clock) -> int:
    from zodbvault.commands.restore import restore

    report = restore(
        settings,
        source=source,
        when=_date(options),
        ask=None if options.no_prompt else ask_yes,
        clock=clock,
        accept_missing_blobs=options.accept_missing_blobs,
        checksum=options.checksum,
    )
    logger.info("%s", report.summary)
    return 0


def _verify(settings: Settings, options: argparse.Namespace, clock: Clock) -> int:
    from zodbvault.commands.verify import verify

    report = verify(settings, when=_date(options), deep=options.deep)
    if not (options.quiet and report.good):
        write_lines(report.lines)
    return 0 if report.good else 1


def _list(settings: Settings, options: argparse.Namespace, clock: Clock) -> int:
    from zodbvault.commands.list import list_backups

    lines = list_backups(settings, when=_date(options))
    if not options.quiet:
        write_lines(lines)
    return 0


def _date(options: argparse.Namespace) -> str | None:
    date = options.date_option if options.date_option is not None else options.date
    assert date is None or isinstance(date, str)
    return date


_PERFORMERS: Mapping[str, Callable[[Settings, argparse.Namespace, Clock], int]] = {
    "backup": _backup,
    "snapshot": _snapshot,
    "restore": _restore,
    "snapshotrestore": _snapshotrestore,
    "verify": _verify,
    "list": _list,
}
