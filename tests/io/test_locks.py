"""Locks hold against zc.lockfile and against ourselves, in both directions, and only as long as their process lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import zc.lockfile
from tests.leaks import no_descriptor_left, open_files

from zodbvault.errors import ZodbvaultError
from zodbvault.io.durable import Ownership
from zodbvault.io.locks import AlreadyRunning, Locked, LockFile

if TYPE_CHECKING:
    from collections.abc import Iterator
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
        assert f"pid {zope.pid}" in str(caught.value)
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
        assert f"(pid {other.pid}, since 2026-11-23T18:05:00Z)" in str(caught.value)
        assert path.read_text() == f" {other.pid}\nsince 2026-11-23T18:05:00Z\n"


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
    with pytest.raises(ZodbvaultError, match="symbolic link"):
        LockFile(path).acquire()
    assert elsewhere.read_text() == "precious"
    with LockFile(path, nofollow=False), pytest.raises(zc.lockfile.LockError):
        zc.lockfile.LockFile(str(elsewhere))


def test_a_lock_on_a_file_that_was_replaced_meanwhile_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    path = tmp_path / "lock"
    path.write_text("")
    real = fcntl.flock
    replaced: list[int] = []

    def flock(fd: int, operation: int) -> None:
        real(fd, operation)
        if not replaced:
            replaced.append(os.fstat(fd).st_ino)
            path.rename(tmp_path / "the one that was locked")
            path.write_text("")

    before = open_files()
    monkeypatch.setattr(fcntl, "flock", flock)
    with LockFile(path):
        assert len(open_files() - before) == 1
        assert path.stat().st_ino != replaced[0]
        with pytest.raises(zc.lockfile.LockError):
            zc.lockfile.LockFile(str(path))


def test_a_place_without_folder_or_that_is_one_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ZodbvaultError, match="No such file"):
        LockFile(tmp_path / "nowhere" / "lock").acquire()
    (tmp_path / "folder").mkdir()
    with pytest.raises(ZodbvaultError, match="folder"):
        LockFile(tmp_path / "folder").acquire()


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


def test_a_full_disk_does_not_prevent_locking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with LockFile(tmp_path / "lock"), pytest.raises(Locked):
        LockFile(tmp_path / "lock").acquire()


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
