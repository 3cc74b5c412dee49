"""The commands for people to read: a reference page as reStructuredText, and man pages, from the parser that runs them.

Everything stands in the parser already; here it is only set. Writes no file.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.examples import EXAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from zodbvault.examples import Example

_INTRODUCTION = """\
Commands
========

.. Made from the parser by ``python tools/write_commands.py``; edit src/zodbvault/arguments.py and examples.py.

Each command with its options: for looking something up. ``-h`` says the same in the terminal, ``man zodbvault-restore``
too where zodbvault was installed with pip.

The commands are those of the program ``zodbvault``. The scripts of a buildout take the same options, but for
``--config``, ``--site`` and ``--option``: for a part ``backup`` they are ``bin/backup``, ``bin/restore``,
``bin/backup-list`` and so on, for a part ``P`` ``bin/P``, ``bin/P-restore``, ``bin/P-list``; a restore of a snapshot,
of the zip backup and of another site has a script of its own there (``snapshotrestore``, ``ziprestore``,
``altrestore``).

An option, a command or a word that is mistyped is an error, which names the nearest one. Options are never shortened.
The exit codes are explained in `Exit codes <exit-codes.rst>`_.

The shell completes commands, options and names of files, once it was told so; this takes ``zodbvault[completion]``:

.. code-block:: sh

    mkdir -p ~/.local/share/bash-completion/completions
    zodbvault completion bash > ~/.local/share/bash-completion/completions/zodbvault

For zsh it is ``zodbvault completion zsh``, into a file ``_zodbvault`` in a folder of ``fpath``. With ``--part backup``
it is the scripts of that part in any buildout that are completed: for bash, append what it writes to
``~/.bash_completion``; for zsh, write ``eval "$(zodbvault completion zsh --part backup)"`` behind ``compinit``.
"""


class Page(NamedTuple):
    """What there is to say of one command, and of the program itself.

    options: how each is written, and what it does. closing: lines that each are a paragraph.
    """

    program: str
    summary: str
    usage: str
    description: str
    options: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]
    examples: tuple[Example, ...]
    closing: tuple[str, ...]
    exit_codes: Mapping[int, str]


def pages(parser: argparse.ArgumentParser) -> tuple[Page, ...]:
    """The program first, then its commands, in the order of its help."""
    commands = _commands(parser)
    return (_page(parser, ""), *(_page(subparser, name) for name, (subparser, _) in commands.items()))


def commands_reference(parser: argparse.ArgumentParser) -> str:
    """The reference page of all commands, as reStructuredText."""
    return "\n".join([_INTRODUCTION, *(_section(page) for page in pages(parser) if not page.commands)])


def man_page(page: Page, version: str) -> str:
    """One man page, for section 1."""
    name = page.program.replace(" ", "-")
    lines = [f'.TH "{name.upper()}" "1" "" "zodbvault {version}" "zodbvault"', ".nh", ".ad l", ".SH NAME"]
    lines += [_roff(f"{name} - {page.summary}"), ".SH SYNOPSIS", ".nf", *map(_roff, page.usage.splitlines()), ".fi"]
    lines += [".SH DESCRIPTION", *_paragraphs(page.description)]
    if page.commands:
        lines += [".SH COMMANDS", *_items(page.commands)]
    lines += [".SH OPTIONS", *_items(page.options)]
    if page.examples:
        lines += [".SH EXAMPLES"]
        for example in page.examples:
            lines += [".TP", _bold(f"{page.program} {example.arguments}".rstrip()), _roff(example.purpose)]
    if page.closing:
        lines += [".SH NOTES", *_paragraphs("\n\n".join(page.closing))]
    lines += [".SH EXIT STATUS", *_items([(str(code), text) for code, text in page.exit_codes.items()])]
    also = [".BR zodbvault (1)"] if not page.commands else [f".BR zodbvault-{name} (1)" for name, _ in page.commands]
    return "\n".join([*lines, ".SH SEE ALSO", *also, ""])


def _page(parser: argparse.ArgumentParser, command: str) -> Page:
    codes, closing = _split(_epilog_behind_examples(parser.epilog or ""))
    description = parser.description or ""
    program = f"zodbvault {command}".rstrip()
    return Page(
        program=program,
        summary=_summary(description),
        usage=_usage(parser, program),
        description=description,
        options=tuple((_spellings(action), _help(action)) for action in parser._actions if _is_option(action)),
        commands=tuple((name, text) for name, (_, text) in _commands(parser).items()),
        examples=EXAMPLES.get(command, ()),
        closing=closing,
        exit_codes=codes,
    )


def _commands(parser: argparse.ArgumentParser) -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """The commands of a parser by their names, each with the line of help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {each.dest: each.help or "" for each in action._choices_actions}
            return {name: (subparser, texts[name]) for name, subparser in action.choices.items()}
    return {}


def _is_option(action: argparse.Action) -> bool:
    return not isinstance(action, argparse._SubParsersAction)


def _usage(parser: argparse.ArgumentParser, program: str) -> str:
    """How the command is written; of options between bars only one may be given. As every version of Python has it."""
    groups = {
        action: group._group_actions for group in parser._mutually_exclusive_groups for action in group._group_actions
    }
    written: dict[str, None] = {}
    for action in filter(_is_option, parser._actions):
        alternatives = " | ".join(map(_shortest, groups.get(action, [action])))
        written[alternatives if action.required else f"[{alternatives}]"] = None
    words = [program, *written, *(["COMMAND ..."] if _commands(parser) else [])]
    indent = " " * (len(program) + 1)
    # No break within what belongs together.
    unbroken = " ".join(word.replace(" ", "\0") for word in words)
    return textwrap.fill(unbroken, 76, subsequent_indent=indent, break_on_hyphens=False).replace("\0", " ")


def _shortest(action: argparse.Action) -> str:
    return _spellings(action).split(", ")[0]


def _spellings(action: argparse.Action) -> str:
    value = action.metavar if isinstance(action.metavar, str) else "|".join(map(str, action.choices or ()))
    if not action.option_strings:
        return value
    taken = f" {value}" if action.nargs != 0 and value else ""
    return ", ".join(f"{spelling}{taken}" for spelling in action.option_strings)


def _help(action: argparse.Action) -> str:
    text = (action.help or "").replace("%%", "%")
    return text[:1].upper() + text[1:] + "."


def _summary(description: str) -> str:
    first = description.strip().split(":")[0].split(";")[0].rstrip(".")
    return first[:1].lower() + first[1:]


def _epilog_behind_examples(epilog: str) -> str:
    return epilog if not epilog.startswith("Example") else epilog.partition("\n\n")[2]


def _split(epilog: str) -> tuple[dict[int, str], tuple[str, ...]]:
    """The exit codes that an epilog names in its last line, and what it says before."""
    before, _, line = epilog.partition("Exit codes: ")
    codes = re.findall(r"(\d+) (.+?)(?:, (?=\d)|\.$)", line.strip())
    return {int(code): text for code, text in codes}, tuple(
        filter(None, (each.strip("\n") for each in before.split("\n\n")))
    )


# As reStructuredText


def _section(page: Page) -> str:
    lines = [page.program, "-" * len(page.program), "", page.description, "", "::", ""]
    lines += [*(f"    {line}" for line in page.usage.splitlines()), ""]
    for spelling, text in page.options:
        lines += [f"``{spelling}``", f"    {text}", ""]
    lines += ["For example::", ""]
    for example in page.examples:
        lines += [f"    {page.program} {example.arguments}".rstrip(), f"        # {example.purpose}"]
    codes = "; ".join(f"``{code}`` {text}" for code, text in page.exit_codes.items())
    return "\n".join([*lines, "", f"Exit codes: {codes}.", ""])


# As roff


def _roff(text: str) -> str:
    """Text in which nothing means anything to roff."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("~", "\\(ti")
    return f"\\&{text}" if text.startswith(".") else text


def _bold(text: str) -> str:
    return f"\\fB{_roff(text)}\\fR"


def _items(items: Iterable[tuple[str, str]]) -> list[str]:
    return [line for name, text in items for line in (".TP", _bold(name), _roff(text))]


def _paragraphs(text: str) -> list[str]:
    """Paragraphs; those that are indented keep their lines."""
    lines = []
    for paragraph in filter(None, text.strip("\n").split("\n\n")):
        if paragraph.startswith(" "):
            lines += [".PP", ".nf", *(f"    {_roff(line.strip())}" for line in paragraph.splitlines()), ".fi"]
        else:
            lines += [".PP", *map(_roff, paragraph.splitlines())]
    return lines
