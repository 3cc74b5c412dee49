"""The word that was probably meant by a mistyped one. Knows neither options nor commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one of some words, in lower case, that is most like another one; None where none is near."""
    import difflib

    close = difflib.get_close_matches(word.lower(), list(known), 1)
    return close[0] if close else None
