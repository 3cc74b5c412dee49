"""Imports go one way: the contracts that stand in pyproject.toml, and that they see what they are there for."""

from __future__ import annotations

import os
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
        timeout=120,
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
    shutil.copytree(PROJECT / "src" / "zodbvault", tmp_path / "zodbvault", ignore=shutil.ignore_patterns("*.pyc"))
    with (tmp_path / "zodbvault" / module).open("a") as file:
        file.write(f"\n{line}\n")
    finished = lint_imports(tmp_path)
    assert finished.returncode == 1
    assert f"{contract} BROKEN" in finished.stdout
