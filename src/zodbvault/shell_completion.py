"""What a shell needs to complete the arguments of the program. Knows no command, and imports shtab only when asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

SHELLS = ("bash", "zsh")


def completion_of(parser: argparse.ArgumentParser, shell: str) -> str:
    """The text that a shell reads to complete what `parser` understands.

    shell: one of SHELLS. Raises ZodbvaultError where shtab, which writes it, is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise ZodbvaultError(
            "completion is written by the Python package shtab, which is not installed",
            hint="Install zodbvault[completion].",
        ) from None
    _complete_paths(parser, {"FILE": shtab.FILE, "FOLDER": shtab.DIRECTORY})
    return str(shtab.complete(parser, shell))


def _complete_paths(parser: argparse.ArgumentParser, kinds: Mapping[str, object]) -> None:
    """Let names of files and folders be completed, by the word that stands for them in the help."""
    for action in parser._actions:
        if isinstance(action.metavar, str) and action.metavar in kinds:
            action.complete = kinds[action.metavar]  # type: ignore[attr-defined]
        if isinstance(action.choices, dict):
            for subparser in action.choices.values():
                _complete_paths(subparser, kinds)
