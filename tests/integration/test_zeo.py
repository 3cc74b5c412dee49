"""A ZEO server with two writers and packs, and a backup every second: each state that was reported restores."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.site import Site, State, committed_part, committed_tids, referenced_blobs, timestamp

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DURATION = float(os.environ.get("ZODBVAULT_TEST_ZEO_SECONDS", "20"))
"""Seconds for which the site is written to at least; a slow machine takes longer to come to ENOUGH."""

ENOUGH = 12
"""Backups that there are at least."""

SOCKET = "./zeo.socket"
"""Where a server listens, in the folder that all its processes run in. A port that was free may be taken by then."""

CONFIGURATION = """\
<zeo>
  address {socket}
</zeo>
<filestorage 1>
  path {datafs}
  blob-dir {blobs}
  pack-keep-old {keep_old}
</filestorage>
"""

WRITER = """\
import os, random, sys, time
import transaction, ZODB, ZEO
from persistent.mapping import PersistentMapping
from ZODB.blob import Blob
from ZODB.POSException import ConflictError, POSError

socket, name, cache, log, stop = sys.argv[1:]
rng = random.Random(name)
db = ZEO.DB(socket, blob_dir=cache, wait=True, wait_timeout=120)
log = open(log, "a", buffering=1)
connection = db.open()
while not os.path.exists(stop):
    try:
        transaction.begin()
        mine = connection.root().setdefault(name, PersistentMapping())
        kind = rng.random()
        if kind < 0.5:
            mine["page%d" % rng.randrange(30)] = PersistentMapping({"text": rng.randbytes(rng.randrange(3000))})
        elif kind < 0.9:
            blob = mine.setdefault("blob%d" % rng.randrange(10), Blob())
            with blob.open("w") as file:
                file.write(rng.randbytes(rng.randrange(200_000)))
        elif mine:
            del mine[rng.choice(sorted(mine))]
        mine._p_changed = True  # so that it bears the tid of each commit
        transaction.commit()
        log.write(mine._p_serial.hex() + "\\n")
    except (ConflictError, POSError):
        transaction.abort()
    time.sleep(rng.random() * 0.02)
db.close()
"""

# No more often than backups come: one that a pack overtakes again and again gives up, and one behind a pack is a full.
PACKER = """\
import os, random, sys, time
import ZEO
socket, cache, stop, backups = sys.argv[1:]
client = ZEO.client(socket, blob_dir=cache, wait=True, wait_timeout=120)
begun = 0
while not os.path.exists(stop):
    if os.path.getsize(backups) >= begun + 3:
        begun = os.path.getsize(backups)
        time.sleep(random.random())
        client.pack(time.time(), wait=True)
    time.sleep(0.05)
client.close()
"""


def wait_for(server: subprocess.Popen[bytes], folder: Path) -> None:
    """Come back when a server that runs in a folder answers."""
    deadline = time.monotonic() + 120
    # By way of the descriptor, because the whole path may be longer than that of a socket.
    fd = os.open(folder, os.O_RDONLY)
    try:
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(f"/proc/self/fd/{fd}/{SOCKET}") == 0:
                    return
            assert server.poll() is None, "the ZEO server has ended"
            assert time.monotonic() < deadline, "the ZEO server does not answer"
            time.sleep(0.05)
    finally:
        os.close(fd)


class LiveSite:
    """A ZEO server, two writers and a packer, each a process of its own."""

    def __init__(self, site: Site, keep_old: bool) -> None:
        self.site = site
        self.folder = site.folder
        self.stop = self.folder / "stop"
        self.backups = self.folder / "made"
        self.backups.touch()
        self.logs = [self.folder / f"writer{number}.log" for number in (1, 2)]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.before = {tid for tid, _ in committed_tids(site.data)}
        configuration = self.folder / "zeo.conf"
        configuration.write_text(
            CONFIGURATION.format(
                socket=SOCKET, datafs=site.datafs, blobs=site.blob_storage, keep_old=str(keep_old).lower()
            )
        )
        self.server = self._start("-m", "ZEO.runzeo", "-C", str(configuration))
        wait_for(self.server, self.folder)
        for number, log in enumerate(self.logs, start=1):
            cache = self.folder / f"cache{number}"
            self._start("-c", WRITER, SOCKET, f"writer{number}", str(cache), str(log), str(self.stop))
        self._start("-c", PACKER, SOCKET, str(self.folder / "cache3"), str(self.stop), str(self.backups))

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"process{len(self.processes)}.out").open("wb") as output:
            process = subprocess.Popen([sys.executable, *arguments], stdout=output, stderr=output, cwd=self.folder)
        self.processes.append(process)
        return process

    def finish(self) -> None:
        """Let writers and packer come to their end, then stop the server."""
        self.stop.touch()
        for process in self.processes[1:]:
            assert process.wait(120) == 0, self.outputs()
        self.server.send_signal(signal.SIGTERM)
        self.server.wait(120)

    def kill(self) -> None:
        """Whatever still runs after a failure ends here."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait(120)

    def outputs(self) -> str:
        """What the processes wrote."""
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob("process*.out")))

    def has_seen_enough(self) -> bool:
        """Whether there were many backups, packs between some and only commits between others, and many commits."""
        names = self.site.names()
        fulls = sum(name.endswith(".fsz") for name in names)
        deltas = sum(name.endswith(".deltafsz") for name in names)
        return fulls >= 2 and deltas >= 2 and fulls + deltas >= ENOUGH and len(self.committed()) > 50

    def committed(self) -> set[bytes]:
        """The tids that were there before, and those that the writers know to be committed."""
        return self.before | {
            bytes.fromhex(line) for log in self.logs if log.exists() for line in log.read_text().split()
        }


@pytest.fixture
def live(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[LiveSite]:
    site = Site(tmp_path / "site")
    # Two clients that make the database at once would be in each other's way.
    site.begin_with_a_blob()
    site.close()
    live = LiveSite(site, keep_old=request.param)
    yield live
    live.kill()


@pytest.mark.parametrize("live", [False, True], ids=["nothing kept old", "old kept"], indirect=True)
def test_every_backup_of_a_site_at_work_restores(live: LiveSite, tmp_path: Path) -> None:
    site = live.site
    begin = time.monotonic()
    finished: list[subprocess.CompletedProcess[str]] = []
    while time.monotonic() - begin < DURATION or not live.has_seen_enough():
        assert time.monotonic() - begin < DURATION + 600, (live.outputs(), site.names())
        now = timestamp(time.time())
        finished.append(site.command("backup", env={"ZODBVAULT_TEST_NOW": ""}))
        with live.backups.open("a") as made:
            made.write(".")
        assert all(process.poll() is None for process in live.processes), live.outputs()
        time.sleep(max(0.0, 1 - (time.time() % 1)) if timestamp(time.time()) == now else 0)
    live.finish()
    assert [each.stderr for each in finished if each.returncode != 0] == []
    # The last look, when all is quiet.
    site.command("backup", env={"ZODBVAULT_TEST_NOW": ""})
    assert site.verify(deep=True).good

    committed = live.committed()
    other = site.standby(tmp_path / "standby")
    for stamp in other.timestamps():
        assert other.restore(stamp).timestamp == stamp
        data = other.datafs.read_bytes()
        state = State(data, other.blobs, referenced_blobs(data))
        assert committed_part(data) == data
        assert state.referenced - set(state.blobs) == set()
        assert state.last_tid in committed
        other.read_everything()
        other.close()
    assert other.data == site.data
    assert other.blobs == {key: other.blobs[key] for key in site.blobs}
