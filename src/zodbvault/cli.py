"""The program `zodbvault`: for sites without buildout, configured by a toml file.

It reads the arguments and the file; from the Settings on it goes the way of the generated scripts.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zodbvault.arguments import (
    DESCRIPTIONS,
    EXIT_CODES,
    add_arguments,
    arguments_from,
    exit_codes,
    script_parser,
    usage_exit_code,
)
from zodbvault.examples import examples_text
from zodbvault.parser import Parser
from zodbvault.scripts import error_code_of, exit_code_of, log_level, run_command
from zodbvault.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

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
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit code. Leaves through SystemExit for arguments that are wrong."""
    options = argparse.Namespace(command=None)
    try:
        command_parser().parse_args(arguments, options)
    except SystemExit as stop:
        raise SystemExit(usage_exit_code(options.command) if stop.code else stop.code) from None

    def load_and_run() -> int:
        if options.command == "completion":
            return _write_completion(options.shell, options.part)
        from zodbvault.site_file import DEFAULT_FILE, read_site_file

        settings = read_site_file(options.config or DEFAULT_FILE, options.site)
        return run_command(_command(options), settings, arguments_from(options))

    level = log_level(quiet=options.quiet, debug=options.debug)
    return exit_code_of(load_and_run, level, error_code=error_code_of(options.command), log_json=options.log_json)


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
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        subparser = commands.add_parser(
            command,
            help=DESCRIPTIONS[command],
            description=DESCRIPTIONS[command],
            epilog=f"{examples_text(command, f'zodbvault {command}')}\n{exit_codes(command)}",
        )
        # The same two as before the command; left out here they must not undo what was said there.
        _add_site(subparser, default=argparse.SUPPRESS)
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
