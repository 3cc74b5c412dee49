"""Commands of one site side by side, each a process of its own, again and again.

Of those that write one works and the others are turned away with 75; those that read are neither kept waiting nor led
to a wrong answer, and disturb nobody.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.races.happenings import BIG, History
from tests.races.steps import BACKUP_STEPS, FIRST_FULL, PRUNING, Step, let_happen
from tests.site import Site, blob_files, generate_script, referenced_blobs, timestamp
from zodbvault.commands.check import check
from zodbvault.commands.choosing import NothingThere
from zodbvault.commands.drill import drill
from zodbvault.commands.list import list_backups
from zodbvault.commands.log import log_transactions
from zodbvault.commands.restore import restore
from zodbvault.commands.watching import Thresholds
from zodbvault.io.locks import LockFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zodbvault.commands.verify import VerifyReport

LAYOUTS = {
    "pool": {"blob_layout": "pool"},
    "directories": {"blob_layout": "directories"},
    "archives": {"archive_blob": "true", "incremental_blobs": "true"},
}
SECONDS = 6
"""How long the commands of one test run; `make faults` has longer tests of the same kind."""

# The usual run has the layout that is the usual one; `make faults` all of them.
BY_LAYOUT = [name if name == "pool" else pytest.param(name, marks=pytest.mark.slow) for name in LAYOUTS]

NOW = {"ZODBVAULT_TEST_NOW": ""}
"""The environment in which a child process looks at the computer's clock."""

Command = tuple[str, ...]
WRITERS: tuple[Command, ...] = (("backup",), ("backup", "--full"), ("backup-prune",))
SNAPSHOTS: tuple[Command, ...] = (("snapshotbackup",), ("snapshotbackup",))
READERS: tuple[Command, ...] = (
    ("backup-verify",),
    ("backup-verify", "--deep", "--all"),
    ("backup-list",),
    ("backup-log",),
)


@dataclass
class Runs:
    """What came of the runs of some commands, by command: exit code and standard error of each."""

    site: Site
    results: dict[Command, list[tuple[int, str]]] = field(default_factory=dict)

    def of(self, *commands: Command) -> list[tuple[int, str]]:
        """The results of these commands."""
        return [result for command in commands for result in self.results[command]]

    def side_by_side(self, commands: tuple[Command, ...], duration: float) -> None:
        """Run each command again and again, all of them at the same time."""
        scripts = {command: generate_script(self.site, command[0]) for command in commands}
        until = time.monotonic() + duration
        lock = threading.Lock()

        def repeat(command: Command, number: int) -> None:
            round_ = 0
            while time.monotonic() < until:
                round_ += 1
                arguments = [each.format(number=number, round=round_) for each in command[1:]]
                finished = subprocess.run(
                    [str(scripts[command]), *arguments],
                    env={**os.environ, **NOW},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    timeout=300,
                    check=False,
                )
                with lock:
                    said = finished.stderr + (finished.stdout if command[0] == "backup-verify" else "")
                    self.results.setdefault(command, []).append((finished.returncode, said))

        threads = [threading.Thread(target=repeat, args=(each, number)) for number, each in enumerate(commands)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def writing(site: Site, history: History) -> Iterator[None]:
    """Somebody works on the site, and packs it now and then."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        rounds = 0
        try:
            while not stop.wait(0.05):
                rounds += 1
                site.commit_blobs(2)
                site.commit_pages(2)
                if rounds % 5 == 0:
                    site.delete()
                    site.undo()
                history.note()
                if rounds % 20 == 0:
                    site.pack(keep_old=False)
                    history.note()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert errors == []


@pytest.fixture(params=BY_LAYOUT)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A site that lives now: its child processes look at the computer's clock."""
    site = Site(tmp_path / "site", options={**LAYOUTS[request.param], "keep": "2"}, start=timestamp(time.time()))
    site.begin_with_a_blob()
    site.commit_blobs(4)
    site.commit_pages(4)
    yield site
    site.close()


def require_turned_away(results: list[tuple[int, str]]) -> None:
    """Whoever came second says so in one line, and did nothing."""
    assert [(code, text) for code, text in results if code not in (0, 75)] == []
    for code, text in results:
        if code == 75:
            lines = text.splitlines()
            assert len(lines) == 1, text
            assert "another run holds the lock" in lines[0]


def warnings_in(text: str) -> list[str]:
    """What readers warn of, but for what is true beside a backup: that it is at work on a chain at this moment."""
    return [line for line in text.splitlines() if "WARNING" in line and "a backup is at it, or " not in line]


def require_all_states(site: Site, history: History, *, source: str = "location", location: Path | None = None) -> int:
    """Each backup restores to a state that was; how many there are."""
    stamps = site.timestamps(location)
    for stamp in stamps:
        site.restore(stamp, source=source)
        history.require_that_it_was(site.datafs.read_bytes(), site.blobs, b"")
    site.read_everything()
    site.close()
    return len(stamps)


def let_them_run(site: Site, seconds: float) -> Runs:
    history = History(site)
    history.note()
    for name in ("backup", "snapshotbackup"):
        assert site.command(name, env=NOW).returncode == 0
    copies = site.folder / "copies"
    copies.mkdir()
    to = ("restore", "-n", "--to", f"{copies}/{{number}}-{{round}}")
    over = ("restore", "-n")
    runs = Runs(site)
    with writing(site, history):
        runs.side_by_side((*WRITERS, *SNAPSHOTS, *READERS, to, over), seconds)
        history.note()
    require_turned_away(runs.of(*WRITERS, SNAPSHOTS[0]))
    # Zope runs: nothing is restored under it, whoever holds which lock.
    assert {code for code, _ in runs.of(over)} == {1}
    assert all("in use" in text for _, text in runs.of(over))
    assert [result for result in runs.of(*READERS) if result[0] != 0 or warnings_in(result[1])] == []
    # A backup may prune what is being copied; that is said, and nothing is left of it.
    for code, text in runs.of(to):
        assert code == 0 or (code == 1 and "was pruned meanwhile" in text), text
    assert len(list(copies.iterdir())) == sum(code == 0 for code, _ in runs.of(to))
    shutil.rmtree(copies)
    assert site.command("backup", env=NOW).returncode == 0
    assert site.verify(deep=True, which="all").good
    site.close()
    snapshots = site.settings.snapshotlocation
    print({command: len(results) for command, results in runs.results.items()})
    assert require_all_states(site, history) >= 2
    assert require_all_states(site, history, source="snapshot", location=snapshots) >= 1
    return runs


def test_all_commands_while_the_site_runs(site: Site) -> None:
    runs = let_them_run(site, SECONDS)
    assert 0 in {code for code, _ in runs.of(*WRITERS)}


@pytest.mark.slow
def test_all_commands_while_the_site_runs_for_long(site: Site) -> None:
    runs = let_them_run(site, 120)
    assert {code for code, _ in runs.of(*WRITERS)} == {0, 75}


def test_restores_and_backups_of_a_site_that_is_stopped(site: Site) -> None:
    history = History(site)
    for _ in range(3):
        history.note()
        assert site.command("backup", env=NOW).returncode == 0
        site.commit_blobs(3)
        site.delete()
    history.note()
    site.close()
    first = site.timestamps()[0]
    runs = Runs(site)
    restores: tuple[Command, ...] = (("restore", "-n"), ("restore", "-n", first))
    runs.side_by_side((*restores, ("backup",), ("snapshotbackup",), *READERS), SECONDS)
    for code, text in runs.of(*restores):
        # The database's own lock comes first: the other restore holds it.
        assert code in (0, 75) or (code == 1 and "in use" in text), text
    assert 0 in {code for code, _ in runs.of(*restores)}
    require_turned_away(runs.of(("backup",), ("snapshotbackup",)))
    assert [result for result in runs.of(*READERS) if result[0] != 0] == []
    history.note()
    history.require_that_it_was(site.data, site.blobs, b"")
    assert site.command("backup", env=NOW).returncode == 0
    assert site.verify(deep=True).good
    require_all_states(site, history)


@contextlib.contextmanager
def full_pipe() -> Iterator[int]:
    """The writing end of a pipe that has no room: who writes into it waits."""
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(1 << 16))
        os.set_blocking(writing, True)
        yield writing
    finally:
        os.close(reading)
        os.close(writing)


def test_the_lock_of_a_killed_backup_blocks_nobody(site: Site) -> None:
    """The lock files stay, and say the pid of the dead one, or even of a process that lives again."""
    assert site.command("backup", env=NOW).returncode == 0
    site.commit_blobs(2)
    script = generate_script(site, "backup")
    with full_pipe() as nobody_reads:
        # It holds its lock when it has something to say, and stands still there.
        killed = subprocess.Popen([str(script), "--full"], stderr=nobody_reads, env={**os.environ, **NOW})
        lock = LockFile(site.location / ".zodbvault.lock")
        deadline = time.monotonic() + 60
        # First it has the lock, then it says so.
        while f"pid {killed.pid}," not in (lock.who_holds_it() or ""):
            assert killed.poll() is None
            assert time.monotonic() < deadline
        killed.kill()
        killed.wait()
    assert f"pid {killed.pid}," in (lock.holder() or "")
    assert lock.who_holds_it() is None
    for folder in (site.location, site.blob_location):
        (folder / ".zodbvault.lock").write_text(f" {os.getpid()}\nsince 2026-01-01T00:00:00Z\n")
    for name in ("backup", "snapshotbackup", "backup-verify", "backup-list", "backup-prune"):
        finished = site.command(name, env=NOW)
        assert finished.returncode == 0, finished.stderr
    site.close()
    assert site.command("restore", "-n", env=NOW).returncode == 0


READING: dict[str, Callable[[Site], bool]] = {
    "verify": lambda site: site.verify(which="all").good,
    "deep": lambda site: site.verify(deep=True).good,
    "verify one": lambda site: site.verify("2099-01-01", which="all").good,
    "list": lambda site: any("good" not in line and "2" in line for line in site.list()),
}
STEPS_OF_FULLS = [step for step in BACKUP_STEPS if PRUNING in step.kinds]
STEPS_OF_FIRST_FULLS = [step for step in BACKUP_STEPS if FIRST_FULL in step.kinds]


@pytest.mark.parametrize("reader", READING)
@pytest.mark.parametrize("step", STEPS_OF_FULLS, ids=lambda step: step.name)
def test_reading_at_each_step_of_a_backup(
    tmp_path: Path, reader: str, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    """verify and list see the backups that are there, all of them good, and the backup goes on."""
    site = Site(tmp_path / "site", options={"keep": "2"})
    site.begin_with_a_blob()
    site.commit_blobs(4)
    with site.changing() as root:
        root["big"] = site.random.randbytes(BIG)
    site.backup()
    stamp, state = site.backed_up(full=True)
    site.commit_blobs(5)
    seen: list[bool] = []
    with monkeypatch.context() as patched:
        happening = let_happen(patched, step, lambda: seen.append(READING[reader](site)))
        new = site.backup(full=True).timestamp
    assert happening.times == 1
    assert seen == [True]
    site.restore(new)
    site.restore(stamp)
    site.assert_is(state)


@pytest.mark.parametrize("reader", ["verify", "verify one"])
@pytest.mark.parametrize("step", STEPS_OF_FIRST_FULLS, ids=lambda step: step.name)
def test_reading_at_each_step_of_a_first_snapshot(
    tmp_path: Path, reader: str, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder has files while there is no backup in it; that makes no other backup bad."""
    site = Site(tmp_path / "site")
    site.begin_with_a_blob()
    site.commit_blobs(2)
    with site.changing() as root:
        root["big"] = site.random.randbytes(BIG)
    site.backup()
    seen: list[bool] = []
    with monkeypatch.context() as patched:
        happening = let_happen(patched, step, lambda: seen.append(READING[reader](site)))
        site.snapshot()
    assert happening.times == 1
    assert seen == [True]
    site.close()


class Opening:
    """Lets something happen when the `number`th file or folder below some folders is opened or listed for reading."""

    def __init__(self, folders: tuple[Path, ...], number: int, act: Callable[[], object]) -> None:
        self.folders = tuple(str(folder) for folder in folders)
        self.number = number
        self.act = act
        self.seen = 0
        self.has_happened = False
        self.thread: int | None = None

    def watch(self, patched: pytest.MonkeyPatch) -> None:
        """Stand in front of the functions that open and list."""
        for name in ("open", "listdir", "scandir"):
            patched.setattr(os, name, self._before(getattr(os, name)))

    def _before(self, original: Callable[..., object]) -> Callable[..., object]:
        def function(path: object, *arguments: object, **keywords: object) -> object:
            is_ours = self.thread in (None, threading.get_ident())
            if is_ours and str(path).startswith(self.folders) and not self.has_happened:
                self.seen += 1
                if self.seen == self.number:
                    self.has_happened = True
                    self.act()
            return original(path, *arguments, **keywords)

        return function


def is_good(report: VerifyReport) -> bool:
    """Whether something was verified, and found good."""
    return report.good and any(chain.dates for place in report.found for chain in place.chains)


def is_alarmed(site: Site) -> bool:
    """Whether `check` says that a backup is not whole."""
    found = check(site.settings, which="backups", thresholds=Thresholds(), metrics=None, clock=site.clock)
    return any("restores" in line or "missing" in line or "no backup" in line for line in found.lines)


def is_copied_or_said_to_be_gone(site: Site) -> bool:
    """A copy of the newest backup: whole, or nothing of it with a sentence that tells why."""
    folder = site.folder / "copy"
    restoring = functools.partial(restore, site.settings, source="location", when=None, ask=None, clock=site.clock)
    try:
        stamp = restoring(accept_missing_blobs=False, checksum=False, to=folder).timestamp
    except NothingThere as error:
        return "was pruned meanwhile" in str(error) and not folder.exists()
    data = (folder / "filestorage" / "Data.fs").read_bytes()
    found = {key: path.read_bytes() for key, path in blob_files(folder / "blobstorage").items()}
    live = site.blobs
    return site.data.startswith(data) and found == {key: live[key] for key in referenced_blobs(data)} and bool(stamp)


def is_rehearsed_or_said_to_be_gone(site: Site) -> bool:
    """The same for a rehearsal."""
    try:
        return drill(site.settings, when=None, which="backups", sample=None, tmp=None, clock=site.clock).good
    except NothingThere as error:
        return "was pruned meanwhile" in str(error)


PRUNED_WHILE_READING: dict[str, Callable[[Site], bool]] = {
    "verify": lambda site: is_good(site.verify()),
    "deep": lambda site: is_good(site.verify(deep=True)),
    "list": lambda site: not list_backups(site.settings, when=None, which="backups", clock=site.clock).warnings,
    "check": lambda site: not is_alarmed(site),
    "copy": is_copied_or_said_to_be_gone,
    "drill": is_rehearsed_or_said_to_be_gone,
    "log": lambda site: bool(list(log_transactions(site.settings, between=None, which="backups"))),
}


@pytest.mark.parametrize("layout", BY_LAYOUT)
@pytest.mark.parametrize("reader", PRUNED_WHILE_READING)
@pytest.mark.parametrize("full", [True, False], ids=["full", "incremental"])
def test_a_backup_at_any_instant_of_reading(
    layout: str, reader: str, full: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each file that is read a whole backup runs; a full removes the chain that is being read."""
    number = 0
    while True:
        number += 1
        site = Site(tmp_path / str(number), options={**LAYOUTS[layout], "keep": "1"})
        site.begin_with_a_blob()
        for _ in range(2):
            site.commit_blobs(2)
            site.backup()
        site.commit_blobs(2)
        act = functools.partial(site.backup, full=full)
        opening = Opening((site.location, site.blob_location), number, act)
        with monkeypatch.context() as patched:
            opening.watch(patched)
            good = PRUNED_WHILE_READING[reader](site)
        site.close()
        assert good, number
        if not opening.has_happened:
            break
        shutil.rmtree(site.folder)
    print(f"{number - 1} instants")
    assert number > 5


@pytest.mark.parametrize("reader", ["verify", "deep", "log"])
def test_a_backup_that_is_seen_on_its_way_and_pruned_then(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The listing has its data file and not yet its `.dat`; it gets that, and goes, before it is read."""
    (step,) = (each for each in BACKUP_STEPS if each.name == "10 before the line")
    number = 0
    while True:
        number += 1
        site = Site(tmp_path / str(number), options={"keep": "1"})
        site.begin_with_a_blob()
        site.commit_blobs(2)
        site.backup()
        site.commit_blobs(2)
        reached, go_on = threading.Event(), threading.Event()

        def wait(reached: threading.Event = reached, go_on: threading.Event = go_on) -> None:
            reached.set()
            assert go_on.wait(300)

        opening = Opening((site.location, site.blob_location), number, wait)
        opening.thread = 0  # none yet
        good: list[object] = []

        def read(
            site: Site = site,
            opening: Opening = opening,
            good: list[object] = good,
            reached: threading.Event = reached,
        ) -> None:
            opening.thread = threading.get_ident()
            try:
                good.append(PRUNED_WHILE_READING[reader](site))
            except BaseException as error:
                good.append(error)
            reached.set()

        thread = threading.Thread(target=read)

        def begin(thread: threading.Thread = thread, reached: threading.Event = reached) -> None:
            thread.start()
            assert reached.wait(300)

        with monkeypatch.context() as patched:
            opening.watch(patched)
            with pytest.MonkeyPatch.context() as inner:
                let_happen(inner, step, begin)
                site.backup(full=True)
            site.backup(full=True)
            go_on.set()
            thread.join(300)
        site.close()
        assert good == [True], number
        if not opening.has_happened:
            break
        shutil.rmtree(site.folder)
    assert number > 5
