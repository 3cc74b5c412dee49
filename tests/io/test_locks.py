"""Locks hold against zc.lockfile and against ourselves, in both directions, and only as long as their process lives."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
import zc.lockfile
from tests.leaks import no_descriptor_left, open_files

from zodbvault.errors import ZodbvaultError
from zodbvault.io.durable import Ownership, current_umask
from zodbvault.io.locks import ATTEMPTS, AlreadyRunning, Locked, LockFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOLD_AS_ZOPE = """
import sys, zc.lockfile
lock = zc.lockfile.LockFile(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""

HOLD_AS_WE_DO = """
import sys
from zodbvault.io.locks import LockFile
with LockFile(sys.argv[1], since="2026-11-23T18:05:00Z"):
    print("held", flush=True)
    sys.stdin.read()
"""

LOOK_ALL_THE_TIME = """
import os, sys
from zodbvault.io.locks import LockFile
lock, parent = LockFile(sys.argv[1]), os.getppid()
print("held", flush=True)
while os.getppid() == parent and not os.path.exists(sys.argv[1] + ".end"):
    lock.who_holds_it()
"""


@contextlib.contextmanager
def child_that_holds(program: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A real process that holds the lock until the end of the block."""
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.communicate()


def test_a_running_zope_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "Data.fs.lock"
    with child_that_holds(HOLD_AS_ZOPE, path) as zope:
        with pytest.raises(Locked) as caught:
            LockFile(path, nofollow=False).acquire()
        assert str(caught.value) == f"{path}: another process holds the lock (pid {zope.pid})"
        assert caught.value.holder == f"pid {zope.pid}"
        assert caught.value.exit_code == 1
        assert path.read_text().strip() == str(zope.pid)
    with LockFile(path, nofollow=False):
        pass


def test_zope_cannot_start_while_we_hold_its_lock(tmp_path: Path) -> None:
    path = tmp_path / "Data.fs.lock"
    with LockFile(path, nofollow=False), pytest.raises(zc.lockfile.LockError):
        zc.lockfile.LockFile(str(path))
    zc.lockfile.LockFile(str(path)).close()


def test_a_second_run_is_told_who_runs_and_since_when(tmp_path: Path) -> None:
    path = tmp_path / ".zodbvault.lock"
    with child_that_holds(HOLD_AS_WE_DO, path) as other:
        with pytest.raises(AlreadyRunning) as caught:
            LockFile(path, since="2026-11-23T19:00:00Z").acquire()
        assert caught.value.exit_code == 75
        said = f"pid {other.pid}, since 2026-11-23T18:05:00Z"
        assert str(caught.value) == f"{path}: another run holds the lock ({said}). Nothing was done."
        assert caught.value.holder == said
        assert path.read_text() == f" {other.pid}\nsince 2026-11-23T18:05:00Z\n"


def test_a_holder_that_says_nothing_is_another_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert LockFile(path).who_holds_it() == "another process"
        with pytest.raises(Locked) as caught:
            LockFile(path).acquire()
        assert (str(caught.value), caught.value.holder) == (f"{path}: another process holds the lock", None)
        with pytest.raises(AlreadyRunning) as run:
            LockFile(path, since="now").acquire()
        assert str(run.value) == f"{path}: another run holds the lock. Nothing was done."


def test_two_locks_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    with LockFile(tmp_path / "lock"), pytest.raises(Locked):
        LockFile(tmp_path / "lock").acquire()


@pytest.mark.parametrize("program", [HOLD_AS_ZOPE, HOLD_AS_WE_DO])
def test_the_file_of_a_killed_process_blocks_nobody(tmp_path: Path, program: str) -> None:
    path = tmp_path / "lock"
    with child_that_holds(program, path) as child:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        assert path.read_text().split()[0] == str(child.pid)
        with LockFile(path, since="now"):
            assert path.read_text() == f" {os.getpid()}\nsince now\n"
    assert path.exists()


def test_a_shorter_content_leaves_nothing_of_a_longer_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(" 123456789\nsince a very long time ago, before anyone can remember\n")
    with LockFile(path):
        assert path.read_text() == f" {os.getpid()}\n"


def test_a_symlink_is_refused_in_our_folders_only(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    path = tmp_path / "lock"
    path.symlink_to(elsewhere)
    with pytest.raises(ZodbvaultError) as error:
        LockFile(path).acquire()
    assert str(error.value) == f"{path}: the lock cannot be taken: it is a symbolic link"
    assert elsewhere.read_text() == "precious"
    assert (LockFile(path).holder(), LockFile(path, nofollow=False).holder()) == (None, "precious")
    with pytest.raises(ZodbvaultError) as error:
        LockFile(path).who_holds_it()
    assert error.value.path == str(path)
    assert LockFile(path, nofollow=False).who_holds_it() is None
    with LockFile(path, nofollow=False), pytest.raises(zc.lockfile.LockError):
        zc.lockfile.LockFile(str(elsewhere))


def test_nothing_is_written_into_another_file_whose_second_name_was_put_there(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    os.link(precious, tmp_path / "lock")
    with LockFile(tmp_path / "lock"), pytest.raises(zc.lockfile.LockError):
        zc.lockfile.LockFile(str(precious))
    assert precious.read_text() == "precious"
    # Zope's own may be anything.
    with LockFile(tmp_path / "lock", nofollow=False):
        assert precious.read_text() == f" {os.getpid()}\n"


@pytest.fixture
def after_flock(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens, one after the other, right after each locking of a file."""
    real = fcntl.flock
    events: list[Callable[[], object]] = []

    def flock(fd: int, operation: int) -> None:
        real(fd, operation)
        if events:
            events.pop(0)()

    monkeypatch.setattr(fcntl, "flock", flock)
    return events


def test_a_lock_on_a_file_that_was_replaced_meanwhile_does_not_count(
    tmp_path: Path, after_flock: list[Callable[[], object]]
) -> None:
    path, locked = tmp_path / "lock", tmp_path / "the one that was locked"
    path.write_text("")
    before = open_files()

    def replace() -> None:
        path.rename(locked)
        path.write_text("")

    after_flock += [replace, path.unlink]
    with LockFile(path) as lock:
        assert after_flock == []
        assert lock.path == path
        assert len(open_files() - before) == 1
        assert not path.samefile(locked)
        with pytest.raises(zc.lockfile.LockError):
            zc.lockfile.LockFile(str(path))


def test_a_lock_on_a_file_that_became_the_target_of_a_link_does_not_count(
    tmp_path: Path, after_flock: list[Callable[[], object]]
) -> None:
    path, locked = tmp_path / "lock", tmp_path / "the one that was locked"

    def replace() -> None:
        path.rename(locked)
        path.symlink_to(locked)

    after_flock.append(replace)
    with pytest.raises(ZodbvaultError, match="it is a symbolic link"):
        LockFile(path).acquire()
    assert locked.read_text() == ""


def test_a_lock_file_that_is_replaced_again_and_again_is_given_up(
    tmp_path: Path, after_flock: list[Callable[[], object]]
) -> None:
    path = tmp_path / "lock"
    after_flock += [path.unlink] * ATTEMPTS
    with no_descriptor_left(), pytest.raises(ZodbvaultError) as error:
        LockFile(path).acquire()
    assert str(error.value) == f"{path}: the lock file is being replaced again and again"
    assert after_flock == []


def test_a_place_without_folder_or_that_is_one_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ZodbvaultError, match="No such file"):
        LockFile(tmp_path / "nowhere" / "lock").acquire()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ZodbvaultError, match="folder"):
        LockFile(tmp_path / "folder").acquire()


def test_a_lock_is_taken_once(tmp_path: Path) -> None:
    with LockFile(tmp_path / "lock") as lock, pytest.raises(AssertionError, match=r"^acquired already$"):
        lock.acquire()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    with no_descriptor_left():
        for _ in range(5):
            with LockFile(tmp_path / "lock"), contextlib.suppress(Locked):
                LockFile(tmp_path / "lock").acquire()


@pytest.mark.parametrize("shared", [False, True])
def test_a_child_does_not_keep_the_lock(tmp_path: Path, shared: bool) -> None:
    """Neither one that was started in the usual way nor one that got a copy of the descriptor."""
    lock = LockFile(tmp_path / "lock")
    lock.acquire()
    assert lock._fd is not None
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        close_fds=shared,
        pass_fds=[lock._fd] if shared else [],
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        lock.release()
        lock.release()
        with LockFile(tmp_path / "lock"):
            pass
    finally:
        child.communicate()


def test_a_full_disk_does_not_prevent_locking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with LockFile(tmp_path / "lock"), pytest.raises(Locked):
        LockFile(tmp_path / "lock").acquire()
    assert caplog.messages == [f"{tmp_path / 'lock'}: the pid cannot be written: No space left on device"]


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    path.touch()

    def flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with no_descriptor_left():
        with pytest.raises(ZodbvaultError) as error:
            LockFile(path).who_holds_it()
        assert str(error.value) == f"{path}: the lock cannot be looked at: No locks available"
        with pytest.raises(ZodbvaultError) as error:
            LockFile(path).acquire()
        assert str(error.value) == f"{path}: the lock cannot be taken: No locks available"


def test_a_pipe_in_the_place_of_a_lock_keeps_nobody_waiting(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    os.mkfifo(path)
    assert LockFile(path).holder() is None
    assert LockFile(path).who_holds_it() is None
    with LockFile(path):
        assert LockFile(path).who_holds_it() == "another process"


def test_what_a_lock_file_says_is_shown_as_one_printable_line(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert LockFile(path).holder() is None
    path.write_bytes(b"")
    assert LockFile(path).holder() is None
    with LockFile(path):
        path.write_bytes(b" 12;host\x1b[0m\r\n\n\xff" + b"x" * 1000)
        with pytest.raises(Locked) as caught:
            LockFile(path).acquire()
    assert "12;host" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_lock_file_that_is_made_gets_its_owner_and_mode(tmp_path: Path) -> None:
    with LockFile(tmp_path / "lock", ownership=Ownership(0o660, None, None)):
        assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o660
    with LockFile(tmp_path / "another"):
        assert (tmp_path / "another").stat().st_mode & 0o777 == 0o666 & ~current_umask()


@pytest.mark.parametrize("user", [0, 1, 1000])
def test_a_lock_file_that_root_makes_belongs_to_the_owner_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "fchown", lambda fd, owner, group: given.append((owner, group)))
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (folder / "lock", "lock", folder / "lock"):
        with LockFile(path):
            pass
    status = tmp_path.stat()
    # The third time it is there.
    assert given == ([(status.st_uid, status.st_gid)] * 2 if user == 0 else [])


@pytest.mark.parametrize("program", [HOLD_AS_ZOPE, HOLD_AS_WE_DO])
def test_one_may_ask_who_holds_a_lock_without_taking_it(tmp_path: Path, program: str) -> None:
    path = tmp_path / "Data.fs.lock"
    assert LockFile(path).who_holds_it() is None
    assert not path.exists()
    with child_that_holds(program, path) as holder:
        before = path.stat()
        assert f"pid {holder.pid}" in (LockFile(path).who_holds_it() or "")
    assert LockFile(path).who_holds_it() is None
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)
    with LockFile(path):
        assert LockFile(path).who_holds_it() is not None


@pytest.mark.parametrize("since", [None, "2026-11-23T18:05:00Z"])
def test_who_only_looks_turns_nobody_away(tmp_path: Path, since: str | None) -> None:
    """Given one who asks all the time who holds a lock, when runs take it, then each of them gets it."""
    path = tmp_path / "lock"
    path.touch()
    with child_that_holds(LOOK_ALL_THE_TIME, path):
        try:
            for _ in range(300):
                with LockFile(path, since=since):
                    pass
        finally:
            (tmp_path / "lock.end").touch()


def test_who_waits_for_a_look_to_end_holds_nothing_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two who wait at a time would keep one another waiting."""
    path = tmp_path / "lock"
    path.touch()
    waited: list[float] = []
    with path.open() as looks, path.open() as other:
        fcntl.flock(looks, fcntl.LOCK_SH)

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            fcntl.flock(looks, fcntl.LOCK_UN)
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(other, fcntl.LOCK_UN)

        monkeypatch.setattr(time, "sleep", sleep)
        with LockFile(path):
            assert waited == [0.001]


def test_a_lock_that_others_share_for_long_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is not ours may do so: there is an end to the waiting."""
    monkeypatch.setattr("zodbvault.io.locks.LOOK_TAKES_AT_MOST", 0.2)
    path = tmp_path / "lock"
    path.write_text(" 4711\n")
    with path.open() as shared:
        fcntl.flock(shared, fcntl.LOCK_SH)
        with pytest.raises(AlreadyRunning, match="pid 4711"):
            LockFile(path, since="2026-11-23T18:05:00Z").acquire()
    with LockFile(path):
        pass


def test_a_lock_that_is_no_file_cannot_be_asked(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ZodbvaultError, match="cannot be looked at"):
        LockFile(tmp_path / "file" / "lock").who_holds_it()


def test_a_folder_in_the_place_of_a_lock_is_told_how_to_mend(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(ZodbvaultError, match=r"Is a directory\. Move the folder that has this name away"):
        LockFile(tmp_path / "lock").acquire()
