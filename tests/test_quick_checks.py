"""What is checked quickly: by .ci/run before a change lands, by git at each commit where pre-commit is installed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parent.parent
QUICK = ("lint", "types", "imports", "dead-code", "docs", "spelling")


def commands_of(target: str) -> set[str]:
    """What make runs for this target with .venv's programs, without the files that it names."""
    finished = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", target], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    lines = (line for line in finished.stdout.splitlines() if line.startswith(".venv/bin/") and " -m pip " not in line)
    return {re.sub(r" (\.|tools/\*\.py)$", "", line) for line in lines}


@pytest.mark.parametrize("target", QUICK)
def test_a_commit_is_checked_as_a_change_is_before_it_lands(target: str) -> None:
    assert f"stage make {target}" in (PROJECT / ".ci/run").read_text().splitlines()
    (local,) = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {re.sub(r" \.$", "", hook["entry"]) for hook in local["hooks"]}
    commands = commands_of(target)
    assert commands
    assert commands <= hooks
