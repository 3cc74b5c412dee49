"""Mutation testing of the modules that decide: each is changed in one place at a time, and a test has to notice.

mutmut makes the changes and runs the tests; tools/mutation_worker.py calls it for one module, in a folder of its own
below .mutation, where an interrupted run goes on. Here stands which tests answer for which module, and what a
survivor, a change that no test noticed, means: where no mistake is allowed the run fails, unless
tools/mutation_survivors.toml tells why the changed code does the same.

    python tools/mutation.py [MODULE ...] [--again] [--report] [--processes N]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).resolve().parent.parent
EXPLAINED = PROJECT / "tools" / "mutation_survivors.toml"
RESULTS = PROJECT / ".mutation"

# The tests that answer for a module, below tests/; the quick ones that decide about it, no more.
TESTS: dict[str, tuple[str, ...]] = {
    "commands/decision": ("commands/test_decision.py",),
    "repository/dat": ("repository/test_dat.py",),
    "filestorage/tail": ("filestorage/test_tail.py",),
    "repository/chains": ("repository/test_chains.py", "repository/test_dat.py"),
    "commands/choosing": ("commands/test_choosing.py",),
    "commands/basis": ("commands/test_basis.py",),
    "commands/blob_choices": ("commands/test_blob_choices.py",),
    "commands/state_in_use": ("commands/test_state_in_use.py",),
    "commands/written_manifests": ("commands/test_written_manifests.py",),
    "repository/checks": ("repository/test_checks.py",),
    "repository/identity": ("repository/test_identity.py",),
    "repository/names": ("repository/test_names.py", "repository/test_chains.py", "repository/test_sweep.py"),
    "repository/prune": ("repository/test_prune.py",),
    "repository/publish": ("repository/test_publish.py",),
    "repository/records": ("repository/test_records.py",),
    "repository/store": ("repository/test_store.py",),
    "repository/sweep": ("repository/test_sweep.py", "commands/test_choosing.py"),
    "repository/timestamps": ("repository/test_timestamps.py",),
    "blobs/state": ("blobs/test_state.py",),
    "blobs/target": ("blobs/test_target.py",),
    "io/locks": ("io/test_locks.py",),
    "filestorage/backward": ("filestorage/test_backward.py",),
    "filestorage/blob_records": (
        "filestorage/test_blob_records.py",
        "filestorage/test_copying.py",
        "filestorage/test_checking.py",
    ),
    "filestorage/blob_search": (
        "filestorage/test_blob_records.py",
        "filestorage/test_copying.py",
        "filestorage/test_checking.py",
    ),
    "filestorage/checking": ("filestorage/test_checking.py",),
    "filestorage/copying": ("filestorage/test_copying.py",),
    "filestorage/details": ("filestorage/test_details.py",),
    "filestorage/format": ("filestorage/test_walk.py",),
    "filestorage/index": ("filestorage/test_index.py",),
    "filestorage/source": ("filestorage/test_data_fs.py",),
    "filestorage/tids": ("filestorage/test_tids.py",),
    "filestorage/walk": ("filestorage/test_walk.py", "filestorage/test_tail.py"),
}
# What a backup is made of, which chain a date means and which blobs belong to it, what a `.dat` says, whether a Data.fs
# goes on: no survivor.
STRICT = (
    "commands/decision",
    "repository/dat",
    "filestorage/tail",
    "repository/chains",
    "commands/choosing",
    "commands/blob_choices",
    "commands/state_in_use",
)
# Elsewhere one change in so many may go unnoticed, explained or not.
ONE_IN = 10


class Change(NamedTuple):
    """A changed place: the lines that it had and has, without indentation, in a function or `Class.method`."""

    module: str
    function: str
    was: str
    now: str


class Outcome(NamedTuple):
    """What became of the changes of one module. total: their number. survivors: those that no test noticed."""

    module: str
    total: int
    survivors: tuple[Change, ...]


class Verdict(NamedTuple):
    """What a module's outcome means. unexplained: survivors without a reason; outdated: reasons without a survivor."""

    outcome: Outcome
    unexplained: tuple[Change, ...]
    outdated: tuple[Change, ...]

    @property
    def problems(self) -> list[str]:
        """Why the run fails, in sentences; empty when all is well."""
        found = []
        if self.unexplained and self.outcome.module in STRICT:
            found.append(f"{len(self.unexplained)} survivors here, where none is allowed")
        if self.outcome.module not in STRICT and len(self.outcome.survivors) * ONE_IN > self.outcome.total:
            found.append(f"more than one in {ONE_IN} survived")
        if self.outdated:
            found.append(f"{len(self.outdated)} explanations without a survivor")
        return found


def judge(outcome: Outcome, explained: set[Change]) -> Verdict:
    """Compare what survived in a module with what is explained."""
    unexplained = tuple(change for change in outcome.survivors if change not in explained)
    outdated = explained - set(outcome.survivors)
    return Verdict(outcome, unexplained, tuple(sorted(one for one in outdated if one.module == outcome.module)))


def read_explained(text: str) -> dict[Change, str]:
    """The explained survivors, each with its reason."""
    entries = tomllib.loads(text).get("survivor", [])
    return {Change(one["module"], one["function"], one["was"], one["now"]): one["why"] for one in entries}


def state_of(module: str) -> dict[str, str]:
    """What a result rests on: if it is the same as before, the result stands."""
    parts = {
        "source": [PROJECT / "src" / "zodbvault" / f"{module}.py"],
        "tests": sorted([*(PROJECT / "tests" / name for name in TESTS[module]), *shared_by_tests()]),
        "tools": [PROJECT / "tools" / "mutation_worker.py"],
    }
    return {
        name: hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest() for name, paths in parts.items()
    }


def shared_by_tests() -> list[Path]:
    """What tests are made with."""
    return [path for path in (PROJECT / "tests").rglob("*.py") if not path.name.startswith("test_")]


def run(module: str, processes: int, *, again: bool) -> Outcome:
    """Run one module's changes, or take what an earlier run of the same files found."""
    folder = RESULTS / module.replace("/", ".")
    result, made_by = folder / "result.json", folder / "made-by"
    before = json.loads(result.read_text()) if result.exists() and not again else {}
    state = state_of(module)
    if before.get("state") != state or before["unchecked"]:
        work = {
            "project": str(PROJECT),
            "folder": str(folder),
            "module": module,
            "tests": [f"tests/{name}" for name in TESTS[module]],
            "processes": processes,
            "tools": state["tools"],
            # Of what another version of the tools has made nothing is taken over, finished or not.
            "again": again or not made_by.exists() or made_by.read_text() != state["tools"],
        }
        command = [sys.executable, str(PROJECT / "tools" / "mutation_worker.py"), json.dumps(work)]
        folder.mkdir(parents=True, exist_ok=True)
        result.unlink(missing_ok=True)
        with (folder / "log").open("wb") as log:
            code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
        if code != 0:
            sys.exit(f"{module}: the run failed; {folder / 'log'} says why.")
        before = {**json.loads((folder / "found.json").read_text()), "state": state}
        result.write_text(json.dumps(before, indent=1))
    survivors = tuple(Change(module, *one) for one in before["survivors"])
    return Outcome(module, before["total"], survivors)


def show(change: Change, mark: str) -> None:
    """One survivor, as it would stand in the file of explanations."""
    print(f"\n  {mark}: {change.module}, {change.function}\n    - {change.was}\n    + {change.now}")


def main() -> int:
    """Run the modules that are named, else all. 0 when the survivors are as they may be, else 1."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("module", nargs="*", help="repository/dat, say; without any, all of them")
    parser.add_argument("--again", action="store_true", help="forget earlier results")
    parser.add_argument("--processes", type=int, default=1, help="changes that are tried side by side")
    given = parser.parse_args()
    unknown = [name for name in given.module if name not in TESTS]
    if unknown:
        parser.error(f"no such module: {', '.join(unknown)}; there are {', '.join(TESTS)}")
    explained = read_explained(EXPLAINED.read_text(encoding="utf-8"))
    verdicts = []
    for module in given.module or TESTS:
        verdict = judge(run(module, given.processes, again=given.again), set(explained))
        verdicts.append(verdict)
        for change in verdict.unexplained:
            show(change, "SURVIVED")
        for change in verdict.outdated:
            show(change, "explained, but no longer a survivor")
        sys.stdout.flush()
    print(f"\n{'module':<30}{'changes':>9}{'noticed':>9}{'survived':>10}{'explained':>11}")
    for verdict in verdicts:
        total, survived = verdict.outcome.total, len(verdict.outcome.survivors)
        print(
            f"{verdict.outcome.module:<30}{total:>9}{total - survived:>9}{survived:>10}"
            f"{survived - len(verdict.unexplained):>11}  {'; '.join(verdict.problems)}"
        )
    return 1 if any(verdict.problems for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
