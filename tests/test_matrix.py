"""What tools/matrix.py makes of the matrix, of what it ran, and of a machine that lacks Pythons."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tools.matrix import (
    FAIL,
    GOOD,
    NOT_RUN,
    NOT_TO_BE_HAD,
    PYTHONS,
    Environment,
    Outcome,
    chosen,
    corners_for,
    exit_code,
    find_pythons,
    outcome_of,
    table,
    whole_matrix,
)

from tests.test_docs import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

CELL = Environment("312", "33", "58", "noisal")
HEADER = "smoke: Python=3.12.1 zc.buildout=3.3 zc.recipe.egg=2.0.7 setuptools=79.0.1 ZODB=5.8.1 isal=none"


def said(closing: str, header: str = HEADER) -> str:
    return (
        f"platform linux\n{header}\nrootdir: /site\n\n===== {closing} in 71.88s (0:01:11) =====\n  congratulations :)\n"
    )


# Which environments there are


def test_the_matrix_is_that_of_tox() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "tox", "list", "--no-desc"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout.split()
    cells = [name for name in listed if "-" in name and not name.endswith("-recipe")]
    assert [each.name for each in whole_matrix()] == cells
    assert {f"py{python}" for python in PYTHONS} == {
        name for name in listed if name.startswith("py") and "-" not in name
    }


def test_the_corners_reach_every_version() -> None:
    corners = corners_for("312")
    assert set(corners) < set(whole_matrix())
    for part in ("python", "buildout", "zodb", "codec"):
        assert {getattr(each, part) for each in corners} == {getattr(each, part) for each in whole_matrix()}


def test_a_python_of_none_of_the_corners_gets_one() -> None:
    assert {each.name for each in corners_for("314")} - {each.name for each in corners_for("312")} == {
        "py314-buildout60-zodb6-isal"
    }


def test_cells_are_chosen_by_whole_words() -> None:
    names = [each.name for each in chosen(["py312", "zodb6", "isal"], whole_matrix())]
    assert names == [f"py312-buildout{buildout}-zodb6-isal" for buildout in ("33", "41", "52", "60")]


# What is good


def test_what_passed_with_the_versions_of_its_name_is_good() -> None:
    outcome = outcome_of(CELL, 0, said("16 passed"), 71.0)
    assert (outcome.result, outcome.reason) == (GOOD, "16 passed")
    (line,) = table([outcome])
    assert line.startswith("good ")
    assert "71 s  py312-buildout33-zodb58-noisal" in line
    assert "zc.buildout 3.3" in line


@pytest.mark.parametrize(
    ("code", "output", "reason"),
    [
        (1, said("1 failed, 15 passed"), "1 failed, 15 passed"),
        (0, said("15 passed, 1 skipped"), "15 passed, 1 skipped"),
        (1, said("16 passed"), "16 passed"),
        (0, said("16 passed", header=""), "16 passed"),
        (0, "py312: skipped because could not find python interpreter", "nothing was tested"),
        (0, said("16 passed", HEADER.replace("3.12.1", "3.11.7")), "not the versions of its name: Python 3.11.7"),
        (0, said("16 passed", HEADER.replace("=3.3", "=6.0.1")), "not the versions of its name: zc.buildout 6.0.1"),
        (0, said("16 passed", HEADER.replace("5.8.1", "6.4")), "not the versions of its name: ZODB 6.4"),
        (0, said("16 passed", HEADER.replace("none", "1.9.1")), "not the versions of its name: isal 1.9.1"),
    ],
    ids=["failed", "skipped", "code", "header", "python-lacks", "python", "buildout", "zodb", "isal"],
)
def test_everything_else_is_not(code: int, output: str, reason: str) -> None:
    outcome = outcome_of(CELL, code, output, 1.0)
    assert outcome.result == FAIL
    assert outcome.reason.startswith(reason)


PIP = """\
ERROR: Ignored the following versions that require a different python version: 7.0 Requires-Python >=3.13; {}
ERROR: Could not find a version that satisfies the requirement zc.buildout==8.1 (from versions: 3.3)
ERROR: No matching distribution found for zc.buildout==8.1
"""


def test_what_the_index_has_for_other_pythons_only_is_not_to_be_had() -> None:
    outcome = outcome_of(CELL, 1, PIP.format("8.1 Requires-Python >=3.14"), 1.0)
    assert (outcome.result, outcome.reason) == (NOT_TO_BE_HAD, "zc.buildout 8.1 needs Python >=3.14")
    # What the index lacks altogether, or does not answer for, is a failure.
    assert outcome_of(CELL, 1, PIP.format("8.0 Requires-Python >=3.14"), 1.0).result == FAIL


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([GOOD, NOT_RUN, NOT_TO_BE_HAD], 0),
        ([GOOD, FAIL], 1),
        ([NOT_RUN], 1),
        ([NOT_TO_BE_HAD, NOT_RUN], 1),
        ([], 1),
    ],
)
def test_something_has_to_have_run(results: list[str], code: int) -> None:
    assert exit_code([Outcome(CELL, result) for result in results]) == code


# Which Pythons are here


def test_a_program_that_does_not_start_its_python_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("python3.10", "python3.11", "python3.12", "python3.13"):
        shim = tmp_path / name
        shim.write_text("#!/bin/sh\necho 'not found' >&2\nexit 127\n")
        shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    here = ".".join(map(str, sys.version_info[:2]))
    assert find_pythons() == {here: sys.executable}


def test_a_machine_without_the_python_says_so(tmp_path: Path) -> None:
    other = next(python for python in PYTHONS if python != "".join(map(str, sys.version_info[:2])))
    finished = subprocess.run(
        [sys.executable, PROJECT / "tools" / "matrix.py", f"py{other}", "zodb6", "isal", "buildout60"],
        env={**os.environ, "PATH": str(tmp_path), "PYENV_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 1
    assert f"not run               py{other}-buildout60-zodb6-isal" in finished.stdout
    assert f"no Python 3.{other[1:]} here" in finished.stdout
    assert "Matrix: 0 good, 0 FAIL, 0 not to be had, 1 not run." in finished.stdout
