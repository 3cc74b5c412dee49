"""Stand-ins for the commands, to test the faces alone: they note how they are called and do nothing."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from zodbvault.commands.tables import Result, Table

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

REPORTS = {
    "backup": SimpleNamespace(summary="backed up"),
    "snapshot": SimpleNamespace(summary="snapshot made"),
    "restore": SimpleNamespace(summary="restored"),
    "verify": SimpleNamespace(lines=("all is well",), good=True),
    "list_backups": Result(Table((), ()), ("one", "two"), (), {"format": 1}),
    "report": "<!DOCTYPE html>",
    "prune": Result(Table((), ()), ("one goes",), (), {"format": 1}),
    "check": SimpleNamespace(state=0, lines=("ZODBVAULT OK: fine",), data={"format": 1}),
}


@dataclass
class Calls:
    """What was called, with what; what is to come back or to be raised can be changed."""

    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=lambda: dict(REPORTS))

    @property
    def only(self) -> SimpleNamespace:
        """The one call."""
        ((name, (settings, *more), keywords),) = self.calls
        assert not more
        return SimpleNamespace(name=name, settings=settings, **keywords)

    def stand_in(self, name: str) -> Callable[..., Any]:
        def command(*arguments: Any, **keywords: Any) -> Any:
            self.calls.append((name, arguments, keywords))
            result = self.results[name]
            if isinstance(result, BaseException):
                raise result
            return result(*arguments, **keywords) if callable(result) else result

        return command


def install_stand_ins(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Put stand-ins in the place of all commands."""
    calls = Calls()
    for name in REPORTS:
        module = ModuleType(f"zodbvault.commands.{name.partition('_')[0]}")
        setattr(module, name, calls.stand_in(name))
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls
