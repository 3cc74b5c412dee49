"""Runs one of our scripts with one call of its sync calls taken out of the code; a program of its own.

    python without_sync.py MODULE:FUNCTION:NUMBER SCRIPT [ARGUMENT ...]

The place is that of `sync_calls()`: the NUMBERth call in FUNCTION, from 0 on, that asks for something to be made
durable. Its arguments are still computed. The code of zodbvault itself knows nothing of this.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.util
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType

SOURCE = Path(__file__).resolve().parent.parent.parent / "src"
_SYNCS = frozenset(
    {"fsync", "sync_file", "sync_folder", "full_sync", "_syncfs", "add_file", "add_folder", "enter", "catch_up"}
)
_FINISHED = frozenset({"_batch", "batch", "_folders"})
"""Whose finish() makes something durable: the batches of io/durable.py."""


class SyncCall(NamedTuple):
    """A call that asks for something to be made durable. name: of what is called. line: from 1 on."""

    place: str
    name: str
    line: int


def sync_calls(module: str) -> list[SyncCall]:
    """All of a module, such as `io.durable`, in the order of its text."""
    return [found for found, _ in _find(ast.parse(_path(module).read_text(encoding="utf-8")), module)]


def _path(module: str) -> Path:
    return SOURCE / "zodbvault" / (module.replace(".", "/") + ".py")


def _find(tree: ast.AST, module: str) -> Iterator[tuple[SyncCall, ast.Call]]:
    counts: dict[str, int] = {}
    for function, call in _calls_in_functions(tree, ""):
        name = _asks_to_sync(call)
        if name is not None:
            number = counts.setdefault(function, 0)
            counts[function] += 1
            yield SyncCall(f"{module}:{function}:{number}", name, call.lineno), call


def _calls_in_functions(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield from _calls_in_functions(child, f"{function}.{child.name}" if function else child.name)
        else:
            if isinstance(child, ast.Call):
                yield function, child
            yield from _calls_in_functions(child, function)


def _asks_to_sync(call: ast.Call) -> str | None:
    """The name of what is called, if that asks for a sync."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in _SYNCS:
        return name
    if name == "finish" and isinstance(function, ast.Attribute):
        of = function.value
        owner = of.attr if isinstance(of, ast.Attribute) else getattr(of, "id", "")
        if owner in _FINISHED:
            return f"{owner}.finish"
    return None


class _TakenOut(ast.NodeTransformer):
    """The code with one call taken out; what it was called with is still computed."""

    def __init__(self, call: ast.Call) -> None:
        self._call = call

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if node is self._call:
            return ast.copy_location(ast.Tuple([*node.args], ast.Load()), node)
        return self.generic_visit(node)


class _Loader(importlib.abc.Loader):
    def __init__(self, module: str, place: str) -> None:
        self._module = module
        self._place = place

    def exec_module(self, module: ModuleType) -> None:
        path = _path(self._module)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        (call,) = (call for found, call in _find(tree, self._module) if found.place == self._place)
        changed = ast.fix_missing_locations(_TakenOut(call).visit(tree))
        exec(compile(changed, str(path), "exec"), module.__dict__)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, place: str) -> None:
        self._module = place.split(":")[0]
        self._place = place

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> object:
        if name == f"zodbvault.{self._module}":
            return importlib.util.spec_from_loader(name, _Loader(self._module, self._place))
        return None


def main() -> None:
    place, script = sys.argv[1:3]
    del sys.argv[:2]
    sys.meta_path.insert(0, _Finder(place))  # type: ignore[arg-type]
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
