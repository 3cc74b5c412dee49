"""Runs a command and says what it cost: time, memory, bytes read and written."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class CommandFailed(Exception):
    """A measured command did not succeed; its time would mean nothing."""


@dataclass(frozen=True)
class Run:
    """One run of a command, with all processes that it started.

    cpu: seconds of processor time. peak_memory: the largest resident set of one of its processes, bytes. read, written:
    what they asked of the system in read and write calls, bytes, whether or not a disk was needed.
    """

    seconds: float
    cpu: float
    peak_memory: int
    read: int
    written: int


@dataclass
class Runs:
    """Several runs of the same work; the best counts."""

    runs: list[Run] = field(default_factory=list)

    @property
    def best(self) -> Run:
        return min(self.runs, key=lambda run: run.seconds)

    def plain(self) -> dict[str, Any]:
        """As it stands in the results."""
        return {
            "seconds": round(self.best.seconds, 5),
            "all_seconds": [round(run.seconds, 5) for run in self.runs],
            "cpu": round(min(run.cpu for run in self.runs), 5),
            "peak_memory": max(run.peak_memory for run in self.runs),
            "read": min(run.read for run in self.runs),
            "written": min(run.written for run in self.runs),
        }


def run(command: Sequence[str], *, sync: Path | None = None) -> Run:
    """Run a command to its end. Raises CommandFailed with what it said.

    sync: a folder whose file system is brought to disk before and, as part of the time, after the command.
    """
    with tempfile.TemporaryFile() as said:
        if sync:
            sync_file_system(sync)
        before = _transferred()
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        # Of this child and those that it waited for; this process is small, so its own size at the fork is not seen.
        _, status, usage = os.wait4(process.pid, 0)
        if sync:
            sync_file_system(sync)
        seconds = time.perf_counter() - started
        read, written = (after - start for start, after in zip(before, _transferred(), strict=True))
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            said.seek(0)
            raise CommandFailed(f"{' '.join(command)}: exit {process.returncode}\n{said.read().decode()[-4000:]}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, read, written)


def sync_file_system(folder: Path) -> None:
    """Bring all of a folder's file system to disk."""
    import ctypes

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(descriptor) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(descriptor)


def _transferred() -> tuple[int, int]:
    """Bytes that this process and the children that it waited for have read and written so far."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0, 0
    found = dict(line.split(": ") for line in lines)
    return int(found["rchar"]), int(found["wchar"])


@dataclass(frozen=True)
class Footprint:
    """What lies in some folders. size: bytes of the files, of one with several names once; folders: their number."""

    size: int
    files: int
    folders: int


def footprint(*folders: Path) -> Footprint:
    """Look at everything in these folders."""
    seen: set[tuple[int, int]] = set()
    size = files = below = 0
    waiting = [str(folder) for folder in folders if folder.exists()]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                    below += 1
                    continue
                status = entry.stat(follow_symlinks=False)
                if status.st_nlink == 1 or (status.st_dev, status.st_ino) not in seen:
                    size += status.st_size
                    files += 1
                if status.st_nlink > 1:
                    seen.add((status.st_dev, status.st_ino))
    return Footprint(size, files, below)
