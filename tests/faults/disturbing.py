"""A command that is disturbed at one of its calls: killed there, or the call fails. interposer.c is what does it.

Knows processes and calls, and nothing of backups.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

CHANGE, READ, CLOSE = "change", "read", "close"
KILL, TORN, HALF, FULL, FAIL, LASTING = "kill", "torn", "half", "full", "fail", "lasting"

_WRITING = frozenset({"write", "pwrite64", "pwrite", "writev", "pwritev", "sendfile", "sendfile64", "copy_file_range"})
_READING = frozenset({"read", "pread64", "pread", "readv", "preadv"})
_TIMEOUT = 300


class Call(NamedTuple):
    """One call on a file of the site. number: in its series, from 0 on. name: of the function of the C library."""

    series: str
    number: int
    name: str
    path: str


class Point(NamedTuple):
    """Where and how a command is disturbed. error: a name in errno, for FAIL and LASTING."""

    series: str
    number: int
    act: str
    error: str = ""

    def __str__(self) -> str:
        return f"{self.series} {self.number} {self.act} {self.error}".strip()


class Outcome(NamedTuple):
    """What became of a disturbed command. hit: the call that was disturbed; None when it did not come so far."""

    exit_code: int
    stdout: str
    stderr: str
    hit: Call | None
    calls: tuple[Call, ...]

    @property
    def was_killed(self) -> bool:
        return self.exit_code < 0


def compile_interposer(folder: Path) -> Path:
    """Compile interposer.c into `folder`; the library to preload."""
    library = folder / "interposer.so"
    source = Path(__file__).with_name("interposer.c")
    command = ["gcc", "-O1", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


def disturbed(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    library: Path | None,
    root: Path,
    log: Path,
    point: Point | None = None,
) -> Outcome:
    """Run a command and disturb it at `point`; only count when that is None. root: whose files count. log: outside.

    library: None where the command itself sees to that.
    """
    log.unlink(missing_ok=True)
    variables = {**environment, "FAULTS_ROOT": str(root), "FAULTS_LOG": str(log)}
    if library is not None:
        variables["LD_PRELOAD"] = str(library)
    if point is not None:
        variables |= {"FAULTS_SERIES": point.series, "FAULTS_AT": str(point.number), "FAULTS_ACT": point.act}
        if point.error:
            variables["FAULTS_ERRNO"] = str(getattr(errno, point.error))
    finished = subprocess.run(
        command,
        env=variables,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=_TIMEOUT,
    )
    lines = [line.split("\t") for line in log.read_text(errors="surrogateescape").splitlines()]
    calls = tuple(Call(line[0], int(line[1]), line[2], line[3]) for line in lines)
    hit = next((call for call, line in zip(calls, lines, strict=True) if line[-1] == "hit"), None)
    return Outcome(finished.returncode, finished.stdout, finished.stderr, hit, calls)


def kill_points(calls: Iterable[Call]) -> list[Point]:
    """A kill before each change, and one in the middle of each write."""
    points = []
    for call in calls:
        if call.series == CHANGE:
            points.append(Point(CHANGE, call.number, KILL))
            if call.name in _WRITING:
                points.append(Point(CHANGE, call.number, TORN))
    return points


def error_points(calls: Iterable[Call]) -> list[Point]:
    """Each error that a change may meet, of the whole disk from then on (full, read-only), or of this call alone."""
    points = []
    for call in calls:
        if call.series != CHANGE:
            continue
        points += [
            Point(CHANGE, call.number, LASTING, "ENOSPC"),
            Point(CHANGE, call.number, FAIL, "EIO"),
            Point(CHANGE, call.number, FAIL, "EDQUOT"),
            Point(CHANGE, call.number, FAIL, "EACCES"),
            Point(CHANGE, call.number, FAIL, "EINTR"),
            Point(CHANGE, call.number, LASTING, "EROFS"),
        ]
        if call.name in _WRITING:
            points += [Point(CHANGE, call.number, HALF), Point(CHANGE, call.number, FULL)]
    return points


def read_points(calls: Iterable[Call]) -> list[Point]:
    """Errors on opening, listing and reading, and reads that give less than was asked for."""
    points = []
    for call in calls:
        if call.series == READ:
            points.append(Point(READ, call.number, FAIL, "EIO"))
            if call.name in _READING:
                points.append(Point(READ, call.number, HALF))
            else:
                points.append(Point(READ, call.number, FAIL, "EACCES"))
    return points


def close_points(calls: Iterable[Call]) -> list[Point]:
    """Errors on closing."""
    return [Point(CLOSE, call.number, FAIL, "EIO") for call in calls if call.series == CLOSE]


def fast_folder() -> str | None:
    """A folder in memory, where there is one: every sync is done at once there."""
    folder = "/dev/shm"
    return folder if os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 1 << 30 else None
