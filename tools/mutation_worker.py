"""Run mutmut on one module; called by tools/mutation.py with what to do, in JSON.

Two things are added to mutmut. It leaves functions with decorators alone: in the copy that it changes, a decorator is
a line behind the function. And it knows no change for a condition without an operator, for what is returned, or for a
call whose result nobody wants: these are turned round, made None, left out. One change of each module changes nothing:
where a test fails with that too, the others say nothing.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# What pytest needs to run a few tests in a process that has run them before.
_CONFIGURATION = """\
[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/zodbvault/{module}.py"]
pytest_add_cli_args_test_selection = {tests}
pytest_add_cli_args = ["-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov", "--hypothesis-profile=mutation"]
track_dependencies = false
use_git_change_detection = false
on_dependency_change = "ignore"
timeout_multiplier = 8.0
timeout_constant = 3.0

[tool.pytest.ini_options]
addopts = "--strict-markers -m 'not slow and not interop_full and not integration'"
tmp_path_retention_policy = "failed"
markers = {markers}
"""


def undecorated(source: str) -> str:
    """The same module with the decorators of its functions and methods as assignments behind them."""
    lines = source.splitlines()
    module = ast.parse(source)
    classes = [node for node in module.body if isinstance(node, ast.ClassDef)]
    bodies = [module.body, *(node.body for node in classes)]
    functions = [node for body in bodies for node in body if isinstance(node, ast.FunctionDef) and node.decorator_list]
    for node in sorted(functions, key=lambda one: one.lineno, reverse=True):
        called = node.name
        for decorator in reversed(node.decorator_list):
            called = f"{ast.unparse(decorator)}({called})"
        assert node.end_lineno is not None
        lines.insert(node.end_lineno, f"{' ' * node.col_offset}{node.name} = {called}")
        del lines[node.decorator_list[0].lineno - 1 : node.lineno - 1]
    return "\n".join(lines) + "\n"


def add_changes() -> None:
    """Give mutmut the changes that it does not know."""
    import libcst as cst
    from mutmut.mutation.mutators import mutation_operators

    operators: Any = mutation_operators
    plain = {"None", "True", "False"}
    known = (cst.Is, cst.IsNot, cst.Equal, cst.NotEqual, cst.In, cst.NotIn)

    def turned_round(node: Any) -> Iterator[Any]:
        test = node.test
        is_not = isinstance(test, cst.UnaryOperation) and isinstance(test.operator, cst.Not)
        compares = isinstance(test, cst.Comparison) and len(test.comparisons) == 1
        if is_not or (compares and isinstance(test.comparisons[0].operator, known)):
            return  # mutmut turns these round itself
        inner = test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        space = cst.SimpleWhitespace(" ")
        changes: dict[str, Any] = {"test": cst.UnaryOperation(cst.Not(space), inner)}
        yield node.with_changes(**changes)

    def returns_none(node: Any) -> Iterator[Any]:
        # Of True and False the opposite is tried anyway.
        if node.value is not None and not (isinstance(node.value, cst.Name) and node.value.value in plain):
            yield node.with_changes(value=cst.Name("None"), whitespace_after_return=cst.SimpleWhitespace(" "))

    def left_out(node: Any) -> Iterator[Any]:
        if isinstance(node.value, cst.Call):
            yield cst.Pass()

    controls: list[Any] = []

    def unchanged(node: Any) -> Iterator[Any]:
        if not controls and (isinstance(node, cst.Return) or isinstance(node.value, cst.Call)):
            controls.append(node)
            yield node.with_changes()

    operators.extend(
        [
            (cst.Return, unchanged),
            (cst.Expr, unchanged),
            (cst.If, turned_round),
            (cst.While, turned_round),
            (cst.CompIf, turned_round),
            (cst.Return, returns_none),
            (cst.Expr, left_out),
        ]
    )


def prepare(work: dict[str, Any]) -> None:
    """Make the folder in which mutmut works: the sources, the module without decorators, the tests, a configuration."""
    project, folder = Path(work["project"]), Path(work["folder"])
    if work["again"]:
        shutil.rmtree(folder / "mutants", ignore_errors=True)
    (folder / "made-by").write_text(work["tools"], encoding="utf-8")
    for path in (project / "src").rglob("*.py"):
        content = path.read_text(encoding="utf-8")
        if path == project / "src" / "zodbvault" / f"{work['module']}.py":
            content = undecorated(content)
        copy = folder / path.relative_to(project)
        # An equal file keeps its time, by which mutmut sees that its changes are made already.
        if not copy.exists() or copy.read_text(encoding="utf-8") != content:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(content, encoding="utf-8")
    for name in ("tests", "docs", "tools"):
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(project / name)
    shutil.rmtree(folder / "mutants" / "tests", ignore_errors=True)
    # Which test runs what: mutmut finds it out for tests with a new name only, and a known one may be another now.
    (folder / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)
    markers = [f"{name}: see pyproject.toml" for name in ("slow", "integration", "plone", "interop_full", "difference")]
    text = _CONFIGURATION.format(module=work["module"], tests=json.dumps(work["tests"]), markers=json.dumps(markers))
    (folder / "pyproject.toml").write_text(text, encoding="utf-8")


def forget_survivors(path: Path) -> None:
    """What no test noticed is tried again: the tests may be others now. So is what took too long on a busy machine."""
    from mutmut.mutation.data import SourceFileMutationData
    from mutmut.stats import status_by_exit_code

    data = SourceFileMutationData(path=path)
    data.load()
    for name, code in data.exit_code_by_key.items():
        if status_by_exit_code[code] != "killed":
            data.exit_code_by_key[name] = None
    if data.exit_code_by_key:
        data.save()


def found(path: Path) -> dict[str, Any]:
    """What became of the changes: how many there were, and those that no test noticed."""
    from mutmut.mutation.data import SourceFileMutationData
    from mutmut.mutation.diff_apply import get_diff_for_mutant
    from mutmut.stats import status_by_exit_code
    from mutmut.utils.format_utils import orig_function_and_class_names_from_key

    data = SourceFileMutationData(path=path)
    data.load()
    survivors, unchecked, control = [], 0, False
    for name, code in data.exit_code_by_key.items():
        status = status_by_exit_code[code]
        if status in {"not checked", "check was interrupted by user"}:
            unchecked += 1
        if status in {"killed", "timeout"}:
            continue
        function, owner = orig_function_and_class_names_from_key(name)
        lines = get_diff_for_mutant(name, path=path).splitlines()[2:]
        was, now = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
        if (was, now) == ("", ""):
            control = status == "survived"
        else:
            survivors.append((f"{owner}.{function}" if owner else function, was, now))
    if not (control or unchecked):
        sys.exit("a test fails with the module as it is, unless it runs alone: nothing can be said")
    return {"total": len(data.exit_code_by_key) - 1, "survivors": survivors, "unchecked": unchecked}


def main() -> None:
    """Run one module as the first argument says."""
    work = json.loads(sys.argv[1])
    prepare(work)
    os.chdir(work["folder"])
    # As the tests import each other: from the copy, which mutmut puts in front.
    sys.path[0] = work["folder"]
    add_changes()
    from mutmut.__main__ import _run

    path = Path("src") / "zodbvault" / f"{work['module']}.py"
    forget_survivors(path)
    _run([], work["processes"])
    Path("found.json").write_text(json.dumps(found(path), indent=1))


if __name__ == "__main__":
    main()
