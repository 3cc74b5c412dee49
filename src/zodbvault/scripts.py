"""From a command line to one command and an exit code: what generated scripts call, and the `zodbvault` program too.

The one place where an error becomes a line of text and an exit code. Imports a command only when it is run, and nothing
of buildout: a backup that finds no change should take no longer than Python's own start.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zodbvault.arguments import parse_arguments
from zodbvault.console import ask_yes, logging_to_stderr, write_json, write_lines, write_table
from zodbvault.errors import ZodbvaultError, reason_of
from zodbvault.site_settings import ConfigurationError, settings_from_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from zodbvault.arguments import Arguments
    from zodbvault.commands.schedule import Invocation, Scheduled
    from zodbvault.commands.summary import BackupReport
    from zodbvault.commands.tables import Result
    from zodbvault.commands.watching import Thresholds
    from zodbvault.io.clock import Clock
    from zodbvault.origins import ReadSite
    from zodbvault.site_settings import PlainValue, Settings

logger = logging.getLogger("zodbvault")

UNKNOWN = 3
"""What a monitoring system is told by `check` where nothing could be found out."""

INTERRUPTED = 130
"""The exit code of a shell command that ended by Ctrl-C."""


def run(command: str, plain: Mapping[str, PlainValue], arguments: Sequence[str] | None = None) -> int:
    """Run one command of a generated script and return its exit code.

    command: a key of DESCRIPTIONS. plain: what `settings_to_plain` made. arguments: those of the command line, without
    the program's name; None takes the process's own. Leaves through SystemExit for arguments that are wrong.
    """
    given = sys.argv[1:] if arguments is None else arguments
    try:
        wanted = parse_arguments(command, sys.argv[0], given)
    except SystemExit as stop:
        tell_of_wrong_usage(command, stop, given)
        raise

    def perform() -> int:
        return run_command(command, settings_from_plain(plain, _defaults), wanted)

    level = log_level(quiet=wanted.quiet, debug=wanted.debug)
    return exit_code_of(perform, level, error_code=error_code_of(command), log_json=wanted.log_json)


def _defaults(plain: Mapping[str, PlainValue]) -> Mapping[str, PlainValue]:
    from zodbvault.options import plain_defaults

    return plain_defaults(plain)


def run_command(command: str, settings: Settings, wanted: Arguments) -> int:
    """Run a command, a key of DESCRIPTIONS, and return its exit code."""

    def perform() -> int:
        from zodbvault.io.clock import clock_from_environment

        # A script as the recipe writes it has switched it off for its start.
        gc.enable()
        with _bars(wanted):
            return _PERFORMERS[command](settings, wanted, clock_from_environment())

    return run_at_site(command, settings, wanted, perform)


def run_at_site(command: str, settings: Settings, wanted: Arguments, work: Callable[[], int]) -> int:
    """Do the work of a command and return its exit code; log lines go where the site wants them too."""
    level = log_level(quiet=wanted.quiet, debug=wanted.debug or settings.debug)
    return exit_code_of(work, level, error_code=error_code_of(command), log_json=wanted.log_json, settings=settings)


def _bars(wanted: Arguments) -> AbstractContextManager[None]:
    """Bars for what takes long, where a person looks on."""
    if wanted.quiet or wanted.log_json or sys.stderr is None or not sys.stderr.isatty():
        return nullcontext()
    from zodbvault.io.progress import listening
    from zodbvault.progress_bars import Bars

    return listening(Bars())


def error_code_of(command: str | None) -> int | None:
    """The exit code of every error of a command; None where each has its own."""
    return UNKNOWN if command == "check" else None


def log_level(*, quiet: bool, debug: bool) -> int:
    """The least level that is logged; quiet wins."""
    if quiet:
        return logging.WARNING
    return logging.DEBUG if debug else logging.INFO


def exit_code_of(
    work: Callable[[], int],
    level: int,
    *,
    error_code: int | None = None,
    log_json: bool = False,
    settings: Settings | None = None,
) -> int:
    """Do some work that returns an exit code; whatever it raises becomes one ERROR line and an exit code.

    error_code: of all errors, which then stand on standard output too, where a monitoring system reads; None: each
    has its own. log_json: log lines are JSON. settings: say where else they go, when they are known. The traceback is
    shown only when `level` is DEBUG.
    """
    with logging_to_stderr(level, as_json=log_json, **_places_of_logs(settings)):
        try:
            return work()
        except ZodbvaultError as error:
            return _report(error, error_code)
        except KeyboardInterrupt:
            logger.error("Interrupted. It is safe to run the same command again.")
            return INTERRUPTED
        except OSError as error:
            path = error.filename if isinstance(error.filename, (str, bytes)) else None
            return _report(
                ZodbvaultError(reason_of(error), path=path, hint="With --debug it says where this happened."),
                error_code,
            )
        except Exception as error:  # noqa: BLE001 - whatever is left is a mistake of ours, and cron wants one line
            return _report(
                ZodbvaultError(
                    f"this is a bug in zodbvault: {type(error).__name__}: {error}",
                    hint="Please report it, with the traceback that --debug shows.",
                ),
                error_code,
            )


def _places_of_logs(settings: Settings | None) -> Mapping[str, Any]:
    if settings is None:
        return {}
    return {"log_file": settings.log_file, "syslog": settings.syslog, "part": settings.part}


def _report(error: ZodbvaultError, error_code: int | None) -> int:
    logger.debug("Where the error comes from:", exc_info=True)
    logger.error("%s", error)
    if error_code is None:
        return error.exit_code
    _write_unknown(str(error))
    return error_code


def tell_of_wrong_usage(command: str | None, stop: SystemExit, arguments: Sequence[str]) -> None:
    """Log what a parser finds wrong with the arguments, as any other error; behind the usage where people read it.

    Where a monitoring system reads standard output it stands there too. Nothing is said where nothing is wrong.
    """
    from zodbvault.parser import WrongUsage

    if not isinstance(stop, WrongUsage):
        return
    as_json = "--log-json" in arguments
    with logging_to_stderr(logging.INFO, as_json=as_json):
        if not as_json and sys.stderr is not None:
            sys.stderr.write(stop.usage)
        error = ZodbvaultError(stop.message)
        logger.error("%s", error)
    if error_code_of(command) == UNKNOWN:
        _write_unknown(str(error))


def _write_unknown(what: str) -> None:
    # Where standard output is what fails, standard error has said it.
    with suppress(ZodbvaultError):
        write_lines((f"ZODBVAULT UNKNOWN: {what}",))


def _backup(settings: Settings, wanted: Arguments, clock: Clock) -> int:
    if settings.metrics_file is not None or settings.healthcheck_url:
        from zodbvault.commands.telling import backup_and_tell as backup
    else:
        from zodbvault.commands.backup import backup
    from zodbvault.io.locks import AlreadyRunning

    try:
        report = backup(settings, full=wanted.full, clock=clock)
    except AlreadyRunning as error:
        if not wanted.quiet:
            raise
        # Cron starts the next one soon; a mail about each that comes too early would only teach to ignore mails.
        logger.info("Skipped: %s", error)
        return error.exit_code
    logger.info("%s", report.summary)
    return 0


def _snapshot(settings: Settings, wanted: Arguments, clock: Clock) -> int:
    from zodbvault.commands.snapshot import snapshot

    report = _told(settings, lambda: snapshot(settings, clock=clock), clock)
    logger.info("%s", report.summary)
    return 0


def _zipbackup(settings: Settings, wanted: Arguments, clock: Clock) -> int:
    _require_zipbackup(settings)
    from zodbvault.commands.zipbackup import zipbackup

    report = _told(settings, lambda: zipbackup(settings, clock=clock), clock)
    logger.info("%s", report.summary)
    return 0


def _told(settings: Settings, make: Callable[[], BackupReport], clock: Clock) -> BackupReport:
    """Make a snapshot or a zip backup, and tell others of it where the site asks for that."""
    if settings.metrics_file is None and not settings.healthcheck_url:
        return make()
    from zodbvault.commands.telling import tell_of

    return tell_of(settings, make, clock=clock)


def _require_zipbackup(settings: Settings) -> None:
    if not settings.enable_zipbackup:
        raise ConfigurationError(["there are no zip backups here: enable_zipbackup is false"])


def _restore(settings: Settings, wanted: Arguments, clock: Clock) -> int:
    return _restore_from("location", settings, wanted, clock)


def _snapshotrestore(settings: Settings, wanted: Arguments, clock: Clock) -> int:
    if not settings.enable_snapshotrestore:
        raise ConfigurationError(["snapshots are not to be restored here: enable_snapshotrestore is false"])
    return _restore_from("snapshot", settings, wanted, clock)


def _ziprestore(settings: Settings, wanted: Arguments, clock: Clock) -> int:
    _require_zipbackup(settings)
    return _restore_from("zip", settings, wanted, clock)


def _altrestore(settings: Settings, wanted: Arguments, clock: Clock) -> int:
    if settings.alternative_location is None:
        raise ConfigurationError(["there is no other site to restore from: alternative_restore_source is not set"])
    return _restore_from("alternative", settings, wanted, clock)


def _restore_from(source: str, settings: Settings, wanted: Arguments, clock: Clock) -> int:
    if wanted.dry_run:
        return _plan_restore(source, settings, wanted)
    if wanted.json:
        raise ConfigurationError(["--json prints a plan: it goes with --dry-run"])
    from zodbvault.commands.restore import restore

    report = restore(
        settings,
        source=source,
        when=wanted.date,
        ask=None if wanted.no_prompt else ask_yes,
        clock=clock,
        accept_missing_blobs=wanted.accept_missing_blobs,
        checksum=wanted.checksum,
        at=wanted.at,
        to=_folder("--to", wanted.to),
        only=wanted.only,
    )
    logger.info("%s", report.summary)
    return 0


def _folder(option: str, name: str | None) -> Path | None:
    """The folder that an option names, from the current folder on."""
    return None if name is None else Path(os.path.abspath(_named(option, name, "folder")))


def _file(option: str, name: str | None) -> Path | None:
    """The file that an option names."""
    return None if name is None else Path(_named(option, name, "file"))


def _named(option: str, name: str, what: str) -> str:
    if not name:
        raise ConfigurationError([f"{option} needs the name of a {what}"])
    return name


def _plan_restore(source: str, settings: Settings, wanted: Arguments) -> int:
    from zodbvault.commands.restore_plan import plan_as_data, plan_as_text, plan_restore

    plan = plan_restore(
        settings,
        source=source,
        when=wanted.date,
        accept_missing_blobs=wanted.accept_missing_blobs,
        checksum=wanted.checksum,
        at=wanted.at,
        to=_folder("--to", wanted.to),
        only=wanted.only,
    )
    if wanted.json:
        write_json(plan_as_data(plan))
    elif plan.problems or not wanted.quiet:
        write_lines(plan_as_text(plan))
    return 1 if plan.problems else 0


def _verify(settings: Settings, wanted: Arguments, clock: Clock) -> int:
    from zodbvault.commands.verify import verify
    from zodbvault.repository.checks import DEEP, DEFAULT, QUICK

    if wanted.tmp is not None and not wanted.opens:
        raise ConfigurationError(["--tmp goes with --open"])
    report = verify(
        settings,
        when=wanted.date,
        how=DEEP if wanted.deep else QUICK if wanted.quick else DEFAULT,
        which=_location(settings, wanted),
        clock=clock,
        opens=wanted.opens,
        tmp=_folder("--tmp", wanted.tmp),
    )
    if wanted.json:
        from zodbvault.commands.verify_result import data_of

        write_json(data_of(report))
    elif not (wanted.quiet and report.good):
        write_table(report.table)
        write_lines(report.lines)
    return 0 if report.good else 1


def _list(settings: Settings, wanted: Arguments, clock: Clock) -> int:
    from zodbvault.commands.list import list_backups

    _show(list_backups(settings, when=wanted.date, which=_location(settings, wanted), clock=clock), wanted)
    return 0


def _drill(settings: Settings, wanted: Arguments, clock: Clock) -> int:
    from zodbvault.commands.drill import drill_as_data, drill_each, drills_as_data, drills_as_text

    sample = _sample(wanted.sample)
    which, tmp = _location(settings, wanted), _folder("--tmp", wanted.tmp)
    reports = drill_each(settings, when=wanted.date, which=which, sample=sample, tmp=tmp, clock=clock)
    good = all(report.good for report in reports)
    if wanted.json:
        write_json(drills_as_data(reports) if wanted.all_locations else drill_as_data(reports[0]))
    elif not (wanted.quiet and good):
        write_lines(drills_as_text(reports))
    return 0 if good else 1


def _sample(text: str | None) -> int | None:
    """How many objects a rehearsal is to read; None for all."""
    if text is None:
        return None
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    if not number:
        raise ConfigurationError([f"--sample needs a number of objects, not {text[:50]!r}"])
    return number


def _log(settings: Settings, wanted: Arguments, clock: Clock) -> int:
    from itertools import islice

    from zodbvault.commands.log import log_as_json, log_as_text, log_transactions

    entries = log_transactions(settings, between=wanted.between, which=_location(settings, wanted))
    lines = log_as_json(entries) if wanted.json else log_as_text(entries, with_location=wanted.all_locations)
    # A few first, for whoever waits; then many, for the time it takes.
    number = 20
    while some := tuple(islice(lines, number)):
        if (wanted.json or not wanted.quiet) and not write_lines(some):
            break
        number = 1000
    return 0


def _prune(settings: Settings, wanted: Arguments, clock: Clock) -> int:
    from zodbvault.commands.prune import prune

    _show(prune(settings, which=_location(settings, wanted), dry_run=wanted.dry_run, clock=clock), wanted)
    return 0


def _report_page(settings: Settings, wanted: Arguments, clock: Clock) -> int:
    from zodbvault.commands.report import report

    output = None if wanted.output == "-" else _file("--output", wanted.output)
    page = report(settings, which=_location(settings, wanted), thresholds=_thresholds(wanted), clock=clock)
    if output is None:
        write_lines((page,))
    else:
        from zodbvault.commands.report import write_page

        write_page(output, page)
        logger.info("The page about the backups is %s.", wanted.output)
    return 0


def _check(settings: Settings, wanted: Arguments, clock: Clock) -> int:
    from zodbvault.commands.check import check

    metrics = _file("--metrics", wanted.metrics)
    which, thresholds = _location(settings, wanted), _thresholds(wanted)
    report = check(settings, which=which, thresholds=thresholds, metrics=metrics, clock=clock)
    if wanted.json:
        write_json(report.data)
    elif not (wanted.quiet and report.state == 0):
        write_lines(report.lines)
    return int(report.state)


def _schedule(settings: Settings, wanted: Arguments, clock: Clock) -> int:
    from zodbvault.commands.schedule import Invocation
    from zodbvault.script_names import names_of_scripts

    folder, names = os.path.dirname(os.path.abspath(sys.argv[0])), names_of_scripts(settings.part)
    backup, verify, drill = ((os.path.join(folder, names[command]),) for command in ("backup", "verify", "drill"))
    return run_schedule(settings, Invocation(backup, verify, drill, folder), wanted)


def run_schedule(settings: Settings, invocation: Invocation, wanted: Arguments) -> int:
    """Show, install or remove the schedule of a site; return the exit code."""
    scheduled = _scheduled(settings, invocation, wanted)
    if invocation.unknown and not wanted.remove:
        logger.warning("Not set where cron or systemd runs it: %s.", ", ".join(invocation.unknown))
    write_lines(scheduled.lines)
    for note in scheduled.notes:
        logger.info("%s", note)
    return 0


def _scheduled(settings: Settings, invocation: Invocation, wanted: Arguments) -> Scheduled:
    from zodbvault.commands import schedule
    from zodbvault.commands.timetable import minutes_from

    if wanted.units is not None and not wanted.systemd:
        raise ConfigurationError(["--units names the folder of systemd's units: it goes with --systemd"])
    if wanted.remove and wanted.every is not None:
        raise ConfigurationError(["--every has no effect with --remove"])
    folder = schedule.folder_of_units(wanted.units)
    if wanted.remove and wanted.systemd:
        return schedule.remove_units(settings.part, invocation.place, folder)
    plan = schedule.plan_schedule(settings, invocation, minutes_from(wanted.every))
    if wanted.remove:
        return schedule.remove_cron(plan.name)
    if wanted.systemd:
        units = schedule.plan_units(plan, settings, invocation)
        return schedule.install_units(units, folder) if wanted.install else schedule.show_units(units, folder)
    return schedule.install_cron(plan) if wanted.install else schedule.show_cron(plan)


def run_settings(site: ReadSite, wanted: Arguments) -> int:
    """Show what holds for a site; return the exit code."""
    from zodbvault.commands.settings import show_settings
    from zodbvault.io.clock import clock_from_environment

    _show(show_settings(site, clock_from_environment()), wanted)
    return 0


def run_init(wanted: Arguments) -> int:
    """Write a toml file for what is found in a folder; return the exit code."""
    from zodbvault.commands.init import look, text_of, write_new

    folder = Path(os.path.abspath(wanted.folder or "."))
    output = None if wanted.output == "-" else _file("--output", wanted.output)
    found = look(folder)
    if wanted.output == "-":
        write_lines((text_of(found, folder).rstrip("\n"),))
        return 0
    path = Path(os.path.abspath(output or folder / "zodbvault.toml"))
    for note in write_new(found, path):
        logger.info("%s", note)
    return 0


def _thresholds(wanted: Arguments) -> Thresholds:
    from zodbvault.commands.watching import thresholds_from

    return thresholds_from(wanted.max_age, wanted.max_full_age, wanted.max_drill_age, wanted.min_free)


def _show(result: Result, wanted: Arguments) -> None:
    """Write what was found to standard output; warnings are logged."""
    if wanted.json:
        write_json(result.data)
        return
    if not wanted.quiet:
        write_table(result.table)
        write_lines(result.lines)
    for warning in result.warnings:
        logger.warning("%s", warning)


def _location(settings: Settings, wanted: Arguments) -> str:
    """Which repositories are to be looked at, in the words of places.py."""
    if wanted.zips:
        _require_zipbackup(settings)
        return "zips"
    return "all" if wanted.all_locations else "snapshots" if wanted.snapshots else "backups"


_PERFORMERS: Mapping[str, Callable[[Settings, Arguments, Clock], int]] = {
    "backup": _backup,
    "snapshot": _snapshot,
    "zipbackup": _zipbackup,
    "restore": _restore,
    "snapshotrestore": _snapshotrestore,
    "ziprestore": _ziprestore,
    "altrestore": _altrestore,
    "verify": _verify,
    "list": _list,
    "log": _log,
    "drill": _drill,
    "check": _check,
    "prune": _prune,
    "report": _report_page,
    "schedule": _schedule,
}
