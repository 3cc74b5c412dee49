"""Run the smoke suite with each Python, zc.buildout and ZODB, with isal and without, and say in a table how it went.

    matrix.py                  all of the matrix
    matrix.py --corners        a handful, which reach every version of each at least once
    matrix.py WORD...          those whose name has all these words (py312, buildout33, zodb58, noisal)
    --table FILE               the table goes there too

The environments are those of tox.ini; tox makes and keeps them. A Python that is not here, or that a version cannot be
had for, is said to be so and fails nothing; but something has to have run. The exit code is 0 when what ran is good.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

PROJECT = Path(__file__).resolve().parent.parent

PYTHONS = ("310", "311", "312", "313")
BUILDOUTS = {"33": "3.3", "41": "4.1", "52": "5.2", "60": "6.0"}
ZODBS = {"58": "5.8", "6": "6."}
CODECS = ("isal", "noisal")

GOOD, FAIL, NOT_RUN, NOT_TO_BE_HAD = "good", "FAIL", "not run", "not to be had"


@dataclass(frozen=True)
class Environment:
    """One cell of the matrix. python, buildout and zodb as tox.ini abbreviates them."""

    python: str
    buildout: str
    zodb: str
    codec: str

    @property
    def name(self) -> str:
        """What tox calls it."""
        return f"py{self.python}-buildout{self.buildout}-zodb{self.zodb}-{self.codec}"

    @property
    def version(self) -> str:
        """Of Python: 3.12."""
        return f"{self.python[0]}.{self.python[1:]}"

    def strange(self, versions: dict[str, str]) -> list[str]:
        """What is not as the name says; versions: those that the smoke suite found, by package."""
        expected = {
            "Python": f"{self.version}.",
            "zc.buildout": BUILDOUTS.get(self.buildout, self.buildout),
            "ZODB": ZODBS.get(self.zodb, self.zodb),
        }
        found = [
            f"{package} {versions.get(package)}"
            for package, start in expected.items()
            if not versions.get(package, "").startswith(start)
        ]
        if (versions.get("isal", "none") == "none") != (self.codec == "noisal"):
            found.append(f"isal {versions.get('isal')}")
        return found


CORNERS = (
    Environment("310", "33", "58", "noisal"),
    Environment("310", "60", "6", "isal"),
    Environment("311", "41", "6", "isal"),
    Environment("312", "52", "58", "isal"),
    Environment("313", "60", "6", "noisal"),
)


@dataclass(frozen=True)
class Outcome:
    """How one cell went. seconds: None where nothing was run. versions: what the suite said it found."""

    environment: Environment
    result: str
    reason: str = ""
    seconds: float | None = None
    versions: dict[str, str] | None = None


def whole_matrix() -> list[Environment]:
    """Every cell, in the order of tox.ini."""
    return list(itertools.starmap(Environment, itertools.product(PYTHONS, BUILDOUTS, ZODBS, CODECS)))


def corners_for(present: str) -> list[Environment]:
    """The corners; where the Python that runs this (`314`, say) is in none of them, one with it too."""
    corners = list(CORNERS)
    if present not in PYTHONS:
        corners.append(Environment(present, "60", "6", "isal"))
    return corners


def chosen(words: Iterable[str], environments: Iterable[Environment]) -> list[Environment]:
    """Those whose name has all the words, each as a whole factor."""
    return [each for each in environments if set(words) <= set(each.name.split("-"))]


def find_pythons() -> dict[str, str]:
    """A program for each Python that is here, by version (3.12): on the path, or one that pyenv has installed.

    Each was started once: a shim of pyenv may be there for a version that it does not start.
    """
    here = ".".join(map(str, sys.version_info[:2]))
    found = {here: sys.executable}
    versions = [Environment(python, "", "", "").version for python in PYTHONS]
    installed = Path(os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv"))) / "versions"
    for version in versions:
        candidates = [shutil.which(f"python{version}"), *map(str, sorted(installed.glob(f"{version}.*/bin/python3")))]
        for candidate in candidates:
            if version not in found and candidate is not None and _starts(candidate, version):
                found[version] = candidate
    return found


def _starts(python: str, version: str) -> bool:
    command = [python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    return finished.returncode == 0 and finished.stdout.strip() == version


def outcome_of(environment: Environment, code: int, output: str, seconds: float) -> Outcome:
    """Judge what tox ended with and said. Good is only what says which versions it ran with, and these are right."""
    line = re.search(r"^smoke: (.*)$", output, flags=re.MULTILINE)
    versions = dict(pair.split("=", 1) for pair in line[1].split()) if line else {}
    closing = re.findall(r"^=+ (.*(?:passed|failed|error).*) in [\d.]+s.*=+$", output, flags=re.MULTILINE)
    said = closing[-1] if closing else "nothing was tested: " + " ".join(output.split()[-30:])
    if code and (reason := not_to_be_had(output)):
        return Outcome(environment, NOT_TO_BE_HAD, reason, seconds)
    if code or not versions or not re.fullmatch(r"\d+ passed", said):
        return Outcome(environment, FAIL, said, seconds, versions)
    if strange := environment.strange(versions):
        return Outcome(environment, FAIL, f"not the versions of its name: {', '.join(strange)}", seconds, versions)
    return Outcome(environment, GOOD, said, seconds, versions)


def not_to_be_had(output: str) -> str | None:
    """Which version the index has, but not for this Python; None where something else is wrong, such as the network."""
    lacking = re.search(r"No matching distribution found for ([\w.-]+)==([\w.]+)", output)
    if lacking is None:
        return None
    ignored = re.findall(r"(?<=[:;] )([\w.]+) Requires-Python ([^;\n]+)", output)
    needed = dict(ignored).get(lacking[2])
    return needed and f"{lacking[1]} {lacking[2]} needs Python {needed.strip()}"


def run(environment: Environment, pythons: dict[str, str]) -> Outcome:
    """Let tox run one cell; its output is kept beside the environment."""
    python = pythons.get(environment.version)
    if python is None:
        return Outcome(environment, NOT_RUN, f"no Python {environment.version} here")
    started = time.monotonic()
    command = [sys.executable, "-m", "tox", "run", "--colored", "no", "-e", environment.name, "--discover", python]
    log = PROJECT / ".tox" / f"{environment.name}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("w+b") as file:
        code = subprocess.run(
            command, cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, check=False
        ).returncode
        file.seek(0)
        output = file.read().decode(errors="replace")
    return outcome_of(environment, code, output, time.monotonic() - started)


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """A line for each cell: how it went, in which time, with which versions, and why."""
    lines = []
    for outcome in outcomes:
        seconds = "" if outcome.seconds is None else f"{outcome.seconds:.0f} s"
        versions = ", ".join(f"{package} {version}" for package, version in (outcome.versions or {}).items())
        said = "; ".join(filter(None, [outcome.reason, versions]))
        lines.append(f"{outcome.result:<14}{seconds:>6}  {outcome.environment.name:<32}{said}")
    return lines


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 when something was run and all of it is good."""
    results = {outcome.result for outcome in outcomes}
    return 0 if GOOD in results and FAIL not in results else 1


def main() -> int:
    """Run what is asked for; the table comes line by line."""
    parser = argparse.ArgumentParser(description="Run the smoke suite in the matrix of versions.")
    parser.add_argument("words", nargs="*", metavar="WORD", help="py312, buildout33, zodb58, noisal: all have to fit")
    parser.add_argument("--corners", action="store_true", help="a handful, which reach every version at least once")
    parser.add_argument("--table", type=Path, metavar="FILE", help="the table goes there too")
    wanted = parser.parse_args()
    present = "".join(map(str, sys.version_info[:2]))
    environments = chosen(wanted.words, corners_for(present) if wanted.corners else whole_matrix())
    if not environments:
        parser.error(f"no environment has {' and '.join(wanted.words)} in its name")
    outcomes = []
    for outcome in _run_all(environments):
        outcomes.append(outcome)
        print(*table([outcome]), flush=True)
    if wanted.table is not None:
        wanted.table.write_text("\n".join([*table(outcomes), ""]), encoding="utf-8")
    results = (GOOD, FAIL, NOT_TO_BE_HAD, NOT_RUN)
    counts = {result: sum(outcome.result == result for outcome in outcomes) for result in results}
    print("Matrix: " + ", ".join(f"{number} {result}" for result, number in counts.items()) + ".", flush=True)
    if counts[NOT_RUN] == len(environments):
        print(f"Nothing was run: there is no Python {', '.join(sorted({each.version for each in environments}))} here.")
    if counts[FAIL]:
        print(f"What tox said is in {PROJECT / '.tox'}, a .log for each.")
    return exit_code(outcomes)


def _run_all(environments: Iterable[Environment]) -> Iterator[Outcome]:
    pythons = find_pythons()
    for environment in environments:
        yield run(environment, pythons)


if __name__ == "__main__":
    sys.exit(main())
