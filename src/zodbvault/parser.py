"""The parser of all command lines: argparse, which also says what may have been meant where something is mistyped.

Knows no command and no option. Imported only where argparse has to be: for help, values and complaints.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from zodbvault.did_you_mean import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import NoReturn

AFTER = " - did you mean {}?"


class WrongUsage(SystemExit):
    """The end of wrong arguments, which the caller tells of. message: what is wrong with them; usage: what is right."""

    def __init__(self, message: str, usage: str) -> None:
        super().__init__(2)
        self.message = message
        self.usage = usage


class Parser(argparse.ArgumentParser):
    """Options are written out, help keeps its lines, and an error names the nearest word that there is."""

    def __init__(self, **keywords: Any) -> None:
        keywords = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **keywords}
        super().__init__(**keywords)
        self._given: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it. A command complains itself of what it does not know, with its own usage."""
        self._given = tuple(sys.argv[1:] if args is None else args)
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Leave by WrongUsage and say nothing yet; options that nobody knows come each with the nearest one."""
        # What stands where a value is expected was meant as one (`--max-age -5h`).
        unknown = () if "expected one argument" in message else self._unknown_options()
        meant = [nearest(word, self._option_string_actions) for word in unknown]
        message += "".join(AFTER.format(word) for word in dict.fromkeys(meant) if word)
        if self._subparsers is not None and "did you mean" not in message:
            message += f" ({self.prog} -h tells of the commands)"
        raise WrongUsage(message, self.format_usage())

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            meant = nearest(str(value), map(str, action.choices or ()))
            error.message += AFTER.format(meant) if meant else ""
            raise

    def _unknown_options(self) -> Iterable[str]:
        """The options among the arguments that this parser does not know; those behind a command are not its own."""
        for word in self._given:
            option = word.partition("=")[0]
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return
            if word.startswith("-") and len(word) > 1 and option not in self._option_string_actions:
                yield option
