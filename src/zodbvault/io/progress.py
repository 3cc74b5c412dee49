"""How far a long step is, told to whoever wants to show it; mostly nobody does, and then it costs nothing.

The one who listens is set for the process, as a handler of log lines is. Knows nothing of what is counted.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Listener(Protocol):
    """Somebody who shows how far a step is."""

    def begin(self, what: str, total: int | None) -> None:
        """A step begins. what: for people. total: bytes that it will take, None where nobody knows."""

    def at(self, done: int) -> None:
        """So many bytes of the step are done."""

    def end(self) -> None:
        """The step is over, if one had begun."""


_listener: Listener | None = None


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Tell `listener` of all steps in the block."""
    global _listener  # noqa: PLW0603 - one for the process
    before, _listener = _listener, listener
    try:
        yield
    finally:
        listener.end()
        _listener = before


def begin(what: str, total: int | None) -> Callable[[int], None] | None:
    """Begin a step; the function that is to be told the bytes done so far, None where nobody listens."""
    if _listener is None:
        return None
    _listener.begin(what, total)
    return _listener.at


def end() -> None:
    """End the step."""
    if _listener is not None:
        _listener.end()


@contextmanager
def step(what: str, total: int | None) -> Iterator[Callable[[int], None] | None]:
    """The block is a step; gives what `begin` does."""
    try:
        yield begin(what, total)
    finally:
        end()
