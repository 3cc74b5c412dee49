"""Repositories made by hand, and a disk that writes down what is done to names, and stops before a change."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from tests.repository.made import Made

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


class Killed(BaseException):
    """What a test raises where a run is killed."""


@dataclass
class Disk:
    """What happens to names on the disk, in order. kill_before: number of the removal or rename that never happens."""

    events: list[str] = field(default_factory=list)
    kill_before: int | None = None
    changes: int = 0
    has_killed: bool = False

    @contextlib.contextmanager
    def killing_before(self, number: int) -> Iterator[None]:
        """Let the code of the block die before its change number `number` (0 is the first), if it makes that many."""
        self.changes, self.kill_before, self.has_killed = 0, number, False
        try:
            yield
        except Killed:
            self.has_killed = True
        finally:
            self.kill_before = None

    def change(self, event: str) -> None:
        if self.changes == self.kill_before:
            raise Killed(event)
        self.changes += 1
        self.events.append(event)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """Writes down each rename, removal and sync; an event is `remove NAME`, `rename OLD NEW` or `sync NAME`."""
    disk = Disk()
    unlink, replace, fsync = os.unlink, os.replace, os.fsync

    def removed(path: Any, **keywords: Any) -> None:
        if os.path.lexists(path) and not keywords:
            disk.change(f"remove {os.path.basename(path)}")
        unlink(path, **keywords)

    def renamed(old: Any, new: Any, **keywords: Any) -> None:
        disk.change(f"rename {os.path.basename(old)} {os.path.basename(new)}")
        replace(old, new, **keywords)

    def synced(fd: int) -> None:
        disk.events.append(f"sync {os.path.basename(os.readlink(f'/proc/self/fd/{fd}'))}")
        fsync(fd)

    actions: dict[str, Callable[..., Any]] = {"unlink": removed, "replace": renamed, "fsync": synced}
    for name, action in actions.items():
        monkeypatch.setattr(os, name, action)
    return disk
