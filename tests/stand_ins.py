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
    "zipbackup": SimpleNamespace(summary="zip backup made"),
    "restore": SimpleNamespace(summary="restored"),
    "plan_restore": SimpleNamespace(problems=()),
    "verify": SimpleNamespace(table=Table((), ()), lines=("all is well",), good=True),
    "list_backups": Result(Table((), ()), ("one", "two"), (), {"format": 1}),
    "log_transactions": ("an entry",),
    "drill_each": (SimpleNamespace(good=True),),
    "report": "<!DOCTYPE html>",
    "prune": Result(Table((), ()), ("one goes",), (), {"format": 1}),
    "check": SimpleNamespace(state=0, lines=("ZODBVAULT OK: fine",), data={"format": 1}),
}

MODULES = {"plan_restore": "restore_plan"}
"""Where a command is whose module is not named after it."""


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
        module = ModuleType(f"zodbvault.commands.{MODULES.get(name, name.partition('_')[0])}")
        setattr(module, name, calls.stand_in(name))
        if name == "log_transactions":
            module.log_as_text = lambda entries, **_: iter(entries)  # type: ignore[attr-defined]
            module.log_as_json = lambda entries: iter(f"json of {entry}" for entry in entries)  # type: ignore[attr-defined]
        if name == "drill_each":
            module.drills_as_text = lambda _: ("rehearsed",)  # type: ignore[attr-defined]
            module.drills_as_data = lambda _: {"all": "rehearsed"}  # type: ignore[attr-defined]
            module.drill_as_data = lambda _: {"re": "hearsed"}  # type: ignore[attr-defined]
        if name == "plan_restore":
            module.plan_as_text = lambda _: ("the plan",)  # type: ignore[attr-defined]
            module.plan_as_data = lambda _: {"the": "plan"}  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls
