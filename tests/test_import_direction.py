"""Imports go one way: the contracts that stand in pyproject.toml, and that they see what they are there for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent


def lint_imports(source: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the package below `source`, with the project's contracts."""
    run = "from importlinter.cli import lint_imports_command as lint; lint()"
    options = ("--no-cache", "--no-logo", "--config", str(PROJECT / "pyproject.toml"))
    return subprocess.run(
        [sys.executable, "-c", run, *options],
        cwd=source,
        env={**os.environ, "PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_imports_go_one_way() -> None:
    finished = lint_imports(PROJECT / "src")
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("io/clock.py", "import zodbvault.blobs.layouts", "Imports point downwards"),
        ("blobs/state.py", "import zodbvault.filestorage.format", "Imports point downwards"),
        ("commands/list.py", "import zodbvault.console", "Imports point downwards"),
        ("commands/list.py", "import zodbvault.settings, zodbvault.scripts", "Imports point downwards"),
        ("a_new_one.py", "", "Imports point downwards"),
        ("repository/names.py", "import zodbvault.repository.chains", "No circles within a package"),
        ("scripts.py", "import zc.buildout", "Only the recipe knows buildout"),
    ],
)
def test_an_import_that_goes_up_or_in_a_circle_is_seen(tmp_path: Path, module: str, line: str, contract: str) -> None:
    shutil.copytree(PROJECT / "src" / "zodbvault", tmp_path / "zodbvault", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "zodbvault" / module).open("a") as file:
        file.write(f"\n{line}\n")
    finished = lint_imports(tmp_path)
    assert finished.returncode == 1
    assert f"{contract} BROKEN" in finished.stdout


def test_the_architecture_page_names_every_module_from_the_top_down() -> None:
    page = (PROJECT / "docs" / "architecture.rst").read_text(encoding="utf-8")
    rows = re.findall(r"^``([a-z_]+)(?:\.py|/)``", page, flags=re.MULTILINE)
    package = PROJECT / "src" / "zodbvault"
    assert sorted(rows) == sorted(
        path.stem for path in package.iterdir() if not path.name.startswith("__") and path.name != "py.typed"
    )
    looked_at = 0
    for path in package.rglob("*.py"):
        own = path.relative_to(package).parts[0].removesuffix(".py")
        for imported in re.findall(r"from zodbvault\.([a-z_]+)", path.read_text(encoding="utf-8")):
            looked_at += 1
            assert rows.index(own) <= rows.index(imported), f"{path} imports {imported}"
    assert looked_at > 500


@pytest.mark.parametrize("page", ["CONTRIBUTING.rst", "docs/architecture.rst"])
def test_what_developers_are_told_of_is_there(page: str) -> None:
    text = (PROJECT / page).read_text(encoding="utf-8")
    package = PROJECT / "src" / "zodbvault"
    files = set(re.findall(r"(?<![\w/.-])((?:[a-z_]+/)*[a-z_]+\.(?:py|rst))\b", text))
    assert len(files) > 20
    for name in files:
        places = (PROJECT / name, PROJECT / "docs" / name, package / name, *package.glob(f"*/{name}"))
        assert any(place.exists() for place in places), name
    code = "".join(path.read_text(encoding="utf-8") for path in (*package.rglob("*.py"), *PROJECT.glob("tools/*.py")))
    for name in re.findall(r"``(_?[A-Z][A-Z_]+)``", text):
        assert re.search(rf"^{name}\b.* = ", code, flags=re.MULTILINE), name
