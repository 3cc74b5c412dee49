"""The program `zodbvault`: for sites without buildout, configured by a toml file, the environment and its options.

It reads these; from the Settings on it goes the way of the generated scripts.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from zodbvault.arguments import (
    DESCRIPTIONS,
    EXIT_CODES,
    OF_THE_PROGRAM,
    add_arguments,
    arguments_from,
    exit_codes,
    script_parser,
    usage_exit_code,
)
from zodbvault.examples import examples_text
from zodbvault.parser import Parser
from zodbvault.scripts import (
    error_code_of,
    exit_code_of,
    log_level,
    run_at_site,
    run_command,
    run_init,
    run_schedule,
    run_settings,
    tell_of_wrong_usage,
)
from zodbvault.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zodbvault.arguments import Arguments
    from zodbvault.commands.schedule import Invocation
    from zodbvault.origins import ReadSite

DESCRIPTION = """\
Back up and restore a ZODB FileStorage (Data.fs) with its blobs.
"""

CONFIGURATION = """\
The toml file has a table for each site, with the options that a buildout part has too:

  [site.plone]
  datafs = "filestorage/Data.fs"
  blob_storage = "blobstorage"

Relative paths start from the folder of the file. Backups go to the folder var beside the file, if locationprefix does
not say otherwise: var/plones, var/plone-blobstorages, var/plone-snapshots and var/plone-blobstoragesnapshots for a site
called plone.

ZODBVAULT_KEEP in the environment is the option keep, and wins over the file; --option keep=3 wins over both. Without a
file a site may be made of these alone.
"""

COMPLETION_EXIT_CODES = """\
Exit codes: 0 good, 1 shtab is not installed, 2 wrong usage.
"""

_COMMANDS = (
    "backup",
    "snapshot",
    "zipbackup",
    "restore",
    "verify",
    "drill",
    "list",
    "log",
    "check",
    "prune",
    "report",
    "schedule",
    *OF_THE_PROGRAM,
)

_DESCRIPTIONS = {**DESCRIPTIONS, **OF_THE_PROGRAM}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code. Leaves through SystemExit for arguments that are wrong."""
    options = argparse.Namespace(command=None, options_behind=[])
    try:
        command_parser().parse_args(arguments, options)
    except SystemExit as stop:
        stop.code = usage_exit_code(options.command) if stop.code else stop.code
        tell_of_wrong_usage(options.command, stop, sys.argv[1:] if arguments is None else arguments)
        raise

    def load_and_run() -> int:
        if options.command == "completion":
            _refuse_site_options(options, "")
            return _write_completion(options.shell, options.part)
        wanted = arguments_from(options)
        if options.command == "init":
            _refuse_site_options(options, "; -o names the file to write")
            return run_init(wanted)
        from zodbvault.site_file import read_site

        site = read_site(options.config, options.site, os.environ, (*options.options_before, *options.options_behind))
        if options.command == "settings":
            return run_at_site("settings", site.settings, wanted, lambda: run_settings(site, wanted))
        if options.command == "schedule":
            return run_at_site("schedule", site.settings, wanted, lambda: _schedule(site, wanted))
        return run_command(_command(options), site.settings, wanted)

    level = log_level(quiet=options.quiet, debug=options.debug)
    return exit_code_of(load_and_run, level, error_code=error_code_of(options.command), log_json=options.log_json)


def _refuse_site_options(options: argparse.Namespace, hint: str) -> None:
    """Raise ConfigurationError for what chooses or changes a site, where none is read. hint: goes on behind that."""
    from zodbvault.site_settings import ConfigurationError

    if options.config or options.site or options.options_before:
        raise ConfigurationError([f"--config, --site and --option have no effect with {options.command}{hint}"])


def _schedule(site: ReadSite, wanted: Arguments) -> int:
    return run_schedule(site.settings, _invocation(site, is_to_run=wanted.install), wanted)


def _invocation(site: ReadSite, *, is_to_run: bool) -> Invocation:
    """How this program is to be called for a site by cron or systemd, which know neither folder nor environment.

    is_to_run: it will be installed, so that it has to work. Raises ConfigurationError where it would not.
    """
    import shutil

    from zodbvault.commands.schedule import Invocation
    from zodbvault.origins import ENVIRONMENT
    from zodbvault.site_settings import ConfigurationError

    hint = "Write these options into the file, or give them with --option."
    if site.path is None:
        raise ConfigurationError(
            ["a schedule needs a zodbvault.toml: cron and systemd know neither this folder nor this environment"],
            hint="Write the site's options into one; zodbvault init makes it from the files of a Zope or ZEO.",
        )
    variables = [origin.where for origin in site.origins.values() if origin.level == ENVIRONMENT]
    if variables and is_to_run:
        raise ConfigurationError([f"cron and systemd do not have what is set here: {', '.join(variables)}"], hint=hint)
    program = os.path.abspath(sys.argv[0])
    if not os.access(program, os.X_OK):
        program = shutil.which("zodbvault") or program
    options = (word for option in site.options for word in ("--option", option))
    words = (program, "--config", str(site.path), "--site", site.settings.part, *options)
    backup, verify, drill = ((*words, command) for command in ("backup", "verify", "drill"))
    return Invocation(backup, verify, drill, str(site.path), tuple(variables))


def _write_completion(shell: str, part: str | None) -> int:
    from zodbvault.console import write_lines
    from zodbvault.script_names import names_of_scripts
    from zodbvault.shell_completion import completion_of

    if part is None:
        parsers = [command_parser()]
    else:
        parsers = [script_parser(command, script) for command, script in names_of_scripts(part).items()]
    write_lines(completion_of(parser, shell) for parser in parsers)
    return 0


def _command(options: argparse.Namespace) -> str:
    """The command that was meant, by its name in DESCRIPTIONS."""
    if options.command == "restore" and options.snapshot:
        return "snapshotrestore"
    if options.command == "restore" and options.zip:
        return "ziprestore"
    if options.command == "restore" and options.alternative:
        return "altrestore"
    return str(options.command)


def command_parser() -> argparse.ArgumentParser:
    """The parser of the program, with all commands."""
    parser = Parser(prog="zodbvault", description=DESCRIPTION, epilog=f"{CONFIGURATION}\n{EXIT_CODES}")
    parser.add_argument("--version", action="version", version=f"zodbvault {VERSION}")
    _add_site(parser, default=None)
    _add_option(parser, "options_before")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        subparser = commands.add_parser(
            command,
            help=_DESCRIPTIONS[command],
            description=_DESCRIPTIONS[command],
            epilog=f"{examples_text(command, f'zodbvault {command}')}\n{exit_codes(command)}",
        )
        if command != "init":
            # The same as before the command; left out here they must not undo what was said there.
            _add_site(subparser, default=argparse.SUPPRESS)
            _add_option(subparser, "options_behind")
        add_arguments(subparser, command)
        if command == "restore":
            sources = subparser.add_mutually_exclusive_group()
            sources.add_argument("--snapshot", action="store_true", help="restore a snapshot, not a backup")
            sources.add_argument("--zip", action="store_true", help="restore the zip backup")
            sources.add_argument(
                "--alternative", action="store_true", help="restore from the other site of alternative_restore_source"
            )
    _add_completion(commands)
    return parser


def _add_completion(commands: argparse._SubParsersAction[Parser]) -> None:
    """The command that looks at no site: it writes what a shell reads."""
    from zodbvault.shell_completion import SHELLS

    description = "Write what a shell needs to complete commands and options; this takes zodbvault[completion]."
    parser = commands.add_parser(
        "completion",
        help=description,
        description=description,
        epilog=f"{examples_text('completion', 'zodbvault completion')}\n{COMPLETION_EXIT_CODES}",
    )
    parser.add_argument("shell", choices=SHELLS, help="bash or zsh")
    parser.add_argument(
        "--part", metavar="NAME", help="complete the scripts of this part of a buildout, such as backup"
    )
    parser.set_defaults(quiet=False, debug=False, log_json=False)


def _add_site(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", default=default, help="the toml file; without it ./zodbvault.toml"
    )
    parser.add_argument("--site", metavar="NAME", default=default, help="the site; not needed where there is only one")


def _add_option(parser: argparse.ArgumentParser, name: str) -> None:
    # One list before the command and one behind it: the second would undo the first.
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        dest=name,
        metavar="NAME=VALUE",
        help="an option of the site, whatever file and environment say; may be given several times",
    )
