"""Who listens to the progress of something, for tests."""

from __future__ import annotations


class Noted:
    """Notes what it is told, in its order."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def begin(self, what: str, total: int | None) -> None:
        self.events.append((what, total))

    def at(self, done: int) -> None:
        self.events.append(done)

    def end(self) -> None:
        self.events.append("end")
