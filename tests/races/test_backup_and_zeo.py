"""A ZEO server that is stopped, killed and started again at whichever step of a backup, with a client at work.

The server is a process of its own; the steps are those of tests/races/steps.py. `make faults` takes all of them.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_zeo import CONFIGURATION, SOCKET, WRITER, wait_for
from tests.races.happenings import BIG
from tests.races.steps import BACKUP_STEPS, FULL, INCREMENTAL, Step, let_happen
from tests.site import Site, State, blob_files, committed_part, committed_tids, referenced_blobs, timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Server:
    """A ZEO server with one client that commits all the time, each a process of its own; both can be restarted."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.configuration = site.folder / "zeo.conf"
        values = {"socket": SOCKET, "datafs": site.datafs, "blobs": site.blob_storage, "keep_old": "false"}
        self.configuration.write_text(CONFIGURATION.format(**values))
        self.log = site.folder / "writer.log"
        self.stop = site.folder / "stop"
        self.output = (site.folder / "output").open("wb")
        self.before = {tid for tid, _ in committed_tids(site.data)}
        self.process = self._start("-m", "ZEO.runzeo", "-C", str(self.configuration))
        wait_for(self.process, site.folder)
        cache = site.folder / "cache"
        self.writer = self._start("-c", WRITER, SOCKET, "writer", str(cache), str(self.log), str(self.stop))
        self.wait_for_commits(3)

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, *arguments], stdout=self.output, stderr=self.output, cwd=self.site.folder
        )

    def committed(self) -> list[bytes]:
        """The tids that the client knows to be committed."""
        return [bytes.fromhex(line) for line in self.log.read_text().split()] if self.log.exists() else []

    def wait_for_commits(self, number: int) -> None:
        """Come back when the client has committed so many transactions more."""
        wanted = len(self.committed()) + number
        deadline = time.monotonic() + 120
        while len(self.committed()) < wanted:
            assert time.monotonic() < deadline, "the client does not come on"
            time.sleep(0.02)

    def restart(self, how: signal.Signals) -> None:
        """Let the server end, in the middle of what it does, and start another one; its client comes back by itself."""
        self.process.send_signal(how)
        self.process.wait(120)
        self.process = self._start("-m", "ZEO.runzeo", "-C", str(self.configuration))
        wait_for(self.process, self.site.folder)

    def end(self) -> None:
        """Everything comes to its end."""
        self.stop.touch()
        try:
            self.writer.wait(10)
        except subprocess.TimeoutExpired:
            self.writer.kill()  # it waits for a server that has forgotten its transaction
            self.writer.wait(120)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(120)
        self.output.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    site = Site(tmp_path / "site", start=timestamp(time.time()))
    site.begin_with_a_blob()
    site.commit_blobs(3)
    with site.changing() as root:
        root["big"] = site.random.randbytes(BIG)
    site.close()
    server = Server(site)
    yield server
    if not server.output.closed:
        server.end()


CELLS = [
    (step, kind, how)
    for step in BACKUP_STEPS
    for kind in (FULL, INCREMENTAL)
    if kind in step.kinds
    for how in (signal.SIGTERM, signal.SIGKILL)
]
SAMPLE = random.Random(3).sample(CELLS, 3)


def number_of_blobs(site: Site) -> int:
    assert site.blob_storage is not None
    return len(blob_files(site.blob_storage))


def require_it_holds(server: Server, step: Step, kind: str, how: signal.Signals) -> None:
    site = server.site
    first = site.backup().timestamp
    assert first is not None
    # Two blobs at least that the first backup has not, and more than a block of bytes for one that has no others.
    size, blobs = len(site.data), number_of_blobs(site)
    server.wait_for_commits(4)
    while number_of_blobs(site) < blobs + 2 or (kind == INCREMENTAL and len(site.data) < size + BIG):
        server.wait_for_commits(4)
    known = server.committed()
    with pytest.MonkeyPatch.context() as patched:
        happening = let_happen(patched, step, lambda: server.restart(how))
        report = site.backup(full=kind == FULL)
    assert happening.times == 1
    assert report.timestamp is not None
    last = site.backup().timestamp
    server.end()
    site.commit_blobs(1)
    site.close()
    assert site.verify(deep=True).good
    committed = server.before | {tid for tid, _ in committed_tids(site.data)}
    since = {first: b"", report.timestamp: known[-1], last or report.timestamp: known[-1]}
    for stamp, tid in sorted(since.items(), reverse=True):
        site.restore(stamp)
        data = site.datafs.read_bytes()
        state = State(data, site.blobs, referenced_blobs(data))
        assert committed_part(data) == data
        assert {each for each, _ in committed_tids(data)} <= committed
        assert (state.last_tid or b"") >= tid
        assert state.referenced <= set(state.blobs)
        site.read_everything()
        site.close()


@pytest.mark.parametrize(("step", "kind", "how"), SAMPLE, ids=lambda value: getattr(value, "name", value))
def test_a_restart_at_a_step(server: Server, step: Step, kind: str, how: signal.Signals) -> None:
    require_it_holds(server, step, kind, how)


@pytest.mark.slow
@pytest.mark.parametrize(("step", "kind", "how"), CELLS, ids=lambda value: getattr(value, "name", value))
def test_a_restart_at_each_step(server: Server, step: Step, kind: str, how: signal.Signals) -> None:
    require_it_holds(server, step, kind, how)


def test_backups_of_a_server_that_is_killed_again_and_again(server: Server) -> None:
    """Without any step that is chosen: whatever the instant is."""
    site = server.site
    over = threading.Event()

    def kill() -> None:
        while not over.is_set():
            server.restart(signal.SIGKILL)
            time.sleep(0.3)

    thread = threading.Thread(target=kill)
    thread.start()
    stamps = []
    try:
        for number in range(12):
            stamp = site.backup(full=number % 4 == 3).timestamp
            stamps += [stamp] if stamp else []
            time.sleep(0.1)
    finally:
        over.set()
        thread.join()
    server.end()
    site.commit_blobs(1)
    site.close()
    committed = {tid for tid, _ in committed_tids(site.data)}
    assert site.verify(deep=True).good
    for stamp in stamps:
        site.restore(stamp)
        data = site.datafs.read_bytes()
        assert committed_part(data) == data
        assert {tid for tid, _ in committed_tids(data)} <= committed
        assert referenced_blobs(data) <= set(site.blobs)
