"""What has its final name is whole and on the disk, in the order that was promised."""

from __future__ import annotations

import errno
import logging
import os
import signal
import stat
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.leaks import no_descriptor_left

from zodbvault.io import durable
from zodbvault.io.durable import (
    FolderSyncs,
    Ownership,
    PartFile,
    SyncBatch,
    make_folder,
    make_hard_link,
    make_symlink,
    named,
    ownership_of,
    remove_durably,
    rename_durably,
    set_mode,
    set_times,
    sync_folder,
    write_durably,
)

if TYPE_CHECKING:
    from collections.abc import Callable

IS_ROOT = os.geteuid() == 0


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class Journal:
    """What was synced, renamed and removed, in order, by names relative to a folder."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self.steps: list[tuple[str, ...]] = []

    def add(self, step: str, *paths: str | os.PathLike[str]) -> None:
        self.steps.append((step, *(os.path.relpath(path, self._top) for path in paths)))

    def synced(self) -> list[str]:
        return [step[1] for step in self.steps if step[0] == "sync"]


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """The real calls happen, and are written down."""
    journal = Journal(tmp_path)

    def spy(name: str, note: Callable[..., None]) -> None:
        real = getattr(os, name)

        def call(*arguments: Any) -> Any:
            result = real(*arguments)
            note(*arguments)
            return result

        monkeypatch.setattr(os, name, call)

    spy("fsync", lambda fd: journal.add("sync", os.readlink(f"/proc/self/fd/{fd}")))
    spy("replace", lambda old, new: journal.add("rename", old, new))
    spy("unlink", lambda path: journal.add("remove", path))
    return journal


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are named by /proc")


class TestOwnership:
    def test_a_file_goes_by_a_file_as_it_is(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "file").chmod(0o754)
        assert ownership_of(tmp_path / "file").mode == 0o754
        with open(tmp_path / "file") as file:
            assert ownership_of(file.fileno()) == Ownership(0o754, os.geteuid(), os.getegid())

    def test_a_file_goes_by_a_folder_without_its_x(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o2750)
        assert ownership_of(tmp_path).mode == 0o640

    def test_a_folder_goes_by_a_file_with_an_x_for_each_r(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "file").chmod(0o640)
        assert ownership_of(tmp_path / "file", executable=True).mode == 0o750
        tmp_path.chmod(0o2770)
        assert ownership_of(tmp_path, executable=True).mode == 0o770

    @pytest.mark.skipif(not IS_ROOT, reason="only root gives files away")
    def test_root_gives_a_file_away(self, tmp_path: Path) -> None:
        write_durably(tmp_path / "file", b"x", Ownership(0o640, 4711, 4712))
        status = (tmp_path / "file").stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (4711, 4712, 0o640)

    @pytest.mark.skipif(not IS_ROOT, reason="needs to become another user")
    @pytest.mark.parametrize(("groups", "gid"), [("[4712]", 4712), ("[]", 65534)])
    def test_another_user_chooses_among_the_own_groups_and_fails_in_nothing(
        self, tmp_path: Path, groups: str, gid: int
    ) -> None:
        path = tmp_path / "file"
        path.touch()
        os.chown(path, 65534, 65534)
        program = (
            "import os, sys\n"
            "from zodbvault.io.durable import Ownership\n"
            "fd = os.open(sys.argv[1], os.O_RDWR)\n"
            f"os.setgroups({groups}); os.setgid(65534); os.setuid(65534)\n"
            "Ownership(0o640, 0, 4712).apply(fd)\n"
        )
        subprocess.run([sys.executable, "-c", program, str(path)], check=True)
        assert (path.stat().st_uid, path.stat().st_gid, mode_of(path)) == (65534, gid, 0o640)

    def test_umask_takes_nothing_away(self, tmp_path: Path) -> None:
        old = os.umask(0o077)
        try:
            write_durably(tmp_path / "ours", b"", Ownership(0o664, None, None))
            write_durably(tmp_path / "usual", b"")
        finally:
            os.umask(old)
        assert mode_of(tmp_path / "ours") == 0o664
        assert mode_of(tmp_path / "usual") == 0o600


class TestPartFile:
    @needs_proc
    def test_content_then_name_then_folder(self, tmp_path: Path, journal: Journal) -> None:
        with PartFile(tmp_path / "a") as part:
            assert part.path == tmp_path / "a"
            assert part.part == tmp_path / "a.part"
            part.file.write(b"content")
            assert not (tmp_path / "a").exists()
            part.publish()
        assert (tmp_path / "a").read_bytes() == b"content"
        assert journal.steps == [("sync", "a.part"), ("rename", "a.part", "a"), ("sync", ".")]

    @needs_proc
    def test_finish_makes_the_content_durable_and_publish_only_names_it(self, tmp_path: Path, journal: Journal) -> None:
        with PartFile(tmp_path / "a") as part:
            part.file.write(b"content")
            part.finish()
            part.finish()
            assert journal.steps == [("sync", "a.part")]
            assert part.file.closed
            part.publish()
        assert journal.steps[1:] == [("rename", "a.part", "a"), ("sync", ".")]

    @pytest.mark.parametrize("finished", [False, True])
    def test_leaving_without_publish_removes_what_was_written(self, tmp_path: Path, finished: bool) -> None:
        (tmp_path / "a").write_bytes(b"old")
        with PartFile(tmp_path / "a") as part:
            part.file.write(b"new")
            if finished:
                part.finish()
        assert os.listdir(tmp_path) == ["a"]
        assert (tmp_path / "a").read_bytes() == b"old"
        part.discard()

    def test_a_left_over_is_replaced_and_a_symlink_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "precious").write_bytes(b"precious")
        (tmp_path / "a.part").symlink_to(tmp_path / "precious")
        write_durably(tmp_path / "a", b"new")
        assert (tmp_path / "precious").read_bytes() == b"precious"
        assert (tmp_path / "a").read_bytes() == b"new"
        assert not (tmp_path / "a").is_symlink()

    def test_a_part_that_another_process_makes_meanwhile_is_not_shared(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.part").write_bytes(b"another's")
        monkeypatch.setattr(durable, "_unlink", lambda path: False)
        with pytest.raises(FileExistsError):
            PartFile(tmp_path / "a")
        assert (tmp_path / "a.part").read_bytes() == b"another's"

    def test_nobody_else_reads_it_before_it_has_its_owner(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        modes = []
        real = Ownership.apply

        def apply(self: Ownership, fd: int) -> None:
            modes.append(stat.S_IMODE(os.fstat(fd).st_mode))
            real(self, fd)

        monkeypatch.setattr(Ownership, "apply", apply)
        with PartFile(tmp_path / "a", Ownership(0o644, None, None)) as part:
            assert stat.S_IMODE(os.fstat(part.file.fileno()).st_mode) == 0o644
        assert modes == [0o600]

    @needs_proc
    def test_the_part_may_have_another_name(self, tmp_path: Path, journal: Journal) -> None:
        (tmp_path / "folder").mkdir()
        with PartFile(tmp_path / "folder" / "Data.fs", part=tmp_path / "Data.fs.restoring") as part:
            part.file.write(b"x")
            part.publish()
        assert (tmp_path / "folder" / "Data.fs").read_bytes() == b"x"
        assert journal.synced() == ["Data.fs.restoring", "folder"]

    def test_what_was_written_can_be_read_back(self, tmp_path: Path) -> None:
        with PartFile(tmp_path / "a") as part:
            part.file.write(b"0123456789")
            assert os.pread(part.file.fileno(), 4, 3) == b"3456"

    def test_a_failed_sync_publishes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fsync(fd: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        (tmp_path / "a").write_bytes(b"old")
        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="Input/output"):
            write_durably(tmp_path / "a", b"new")
        assert (tmp_path / "a").read_bytes() == b"old"
        assert os.listdir(tmp_path) == ["a"]

    def test_writes_that_the_system_cuts_short_are_completed(self, tmp_path: Path) -> None:
        """A real file-size limit: the kernel writes what fits, and then fails."""
        program = (
            "import resource, signal, sys, errno\n"
            "from pathlib import Path\n"
            "from zodbvault.io.durable import PartFile\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
            "part = PartFile(Path(sys.argv[1]))\n"
            "assert part.file.write(bytes(4000)) == 4000\n"
            "try:\n"
            "    part.file.write(bytes(4000))\n"
            "except OSError as error:\n"
            "    print(error.errno == errno.EFBIG, error.filename)\n"
            "print(part.part.stat().st_size)\n"
        )
        path = tmp_path / "a"
        run = subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True)
        assert run.stdout.split() == ["True", f"{path}.part", "5000"]

    @pytest.mark.parametrize("call", ["fsync", "replace"])
    def test_a_kill_leaves_the_old_file(self, tmp_path: Path, call: str) -> None:
        path = tmp_path / "a"
        path.write_bytes(b"old")
        program = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from zodbvault.io.durable import write_durably\n"
            f"os.{call} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
            "write_durably(Path(sys.argv[1]), b'new')\n"
        )
        assert subprocess.run([sys.executable, "-c", program, str(path)]).returncode == -signal.SIGKILL
        assert path.read_bytes() == b"old"
        write_durably(path, b"newer")
        assert path.read_bytes() == b"newer"
        assert os.listdir(tmp_path) == ["a"]

    def test_large_files_are_written_behind_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(durable, "WRITE_BEHIND", 10_000)
        asked = []
        if hasattr(os, "posix_fadvise"):
            monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: asked.append(arguments[1:3]))
        with PartFile(tmp_path / "a") as part:
            for number in range(100):
                part.file.write(bytes([number]) * 999)
            part.publish()
        assert (tmp_path / "a").read_bytes() == b"".join(bytes([number]) * 999 for number in range(100))
        if hasattr(os, "posix_fadvise"):
            # Once more at the end: after the sync nothing of it has to stay in memory.
            assert asked == [(0, end * 999) for end in (*range(11, 100, 11), 100)]


class TestFolders:
    @needs_proc
    def test_rename_syncs_the_folder(self, tmp_path: Path, journal: Journal) -> None:
        (tmp_path / "a").write_bytes(b"new")
        (tmp_path / "b").write_bytes(b"old")
        rename_durably(tmp_path / "a", tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == b"new"
        assert journal.steps == [("rename", "a", "b"), ("sync", ".")]

    @needs_proc
    def test_remove_in_order_and_sync_each_folder_once(self, tmp_path: Path, journal: Journal) -> None:
        (tmp_path / "x").mkdir()
        paths = [tmp_path / "b", tmp_path / "x" / "c", tmp_path / "a"]
        for path in paths:
            path.touch()
        remove_durably(paths[0], tmp_path / "missing", *paths[1:])
        assert journal.steps == [("remove", "b"), ("remove", "x/c"), ("remove", "a"), ("sync", "."), ("sync", "x")]
        assert os.listdir(tmp_path) == ["x"]
        remove_durably(tmp_path / "missing")
        assert len(journal.steps) == 5

    def test_a_new_folder_is_named_durably_in_its_parent(self, tmp_path: Path, journal: Journal) -> None:
        make_folder(tmp_path / "a/b")
        assert journal.synced() == [".", "a"]
        make_folder(tmp_path / "a/b")
        assert journal.synced() == [".", "a"]

    def test_a_file_system_that_cannot_sync_folders_is_logged_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fsync(fd: int) -> None:
            raise OSError(errno.EINVAL, "Invalid argument")

        durable._log_unsupported.cache_clear()
        monkeypatch.setattr(os, "fsync", fsync)
        with caplog.at_level(logging.INFO):
            sync_folder(tmp_path)
            sync_folder(tmp_path)
        assert [record.levelname for record in caplog.records] == ["INFO"]
        assert "cannot sync folders" in caplog.text

    @pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EIO, errno.ENOSPC, errno.EROFS])
    @pytest.mark.parametrize("name", ["chmod", "utime", "symlink", "link"])
    def test_what_a_file_system_does_not_know_is_logged_once_and_other_errors_are_errors(
        self, tmp_path: Path, name: str, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        path = tmp_path / "file"
        path.touch()
        act = {
            "chmod": lambda: set_mode(path, 0o600),
            "utime": lambda: set_times(path, 5),
            "symlink": lambda: make_symlink(tmp_path / "new", "file"),
            "link": lambda: make_hard_link(str(path), str(tmp_path / "new")),
        }[name]
        durable.forget_refusals()
        monkeypatch.setattr(os, name, refuse)
        is_refusal = number in (errno.EPERM, errno.EOPNOTSUPP)
        with caplog.at_level(logging.INFO):
            for _ in range(2):
                # Nothing is lost with a hard link that cannot be made: there is a copy instead.
                with nullcontext() if is_refusal or name == "link" else pytest.raises(OSError, match="Errno"):
                    assert not act()
        assert len(caplog.records) == is_refusal

    def test_modes_times_and_links_are_given(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.touch()
        set_mode(path, 0o640)
        set_times(path, 5)
        assert make_symlink(tmp_path / "symlink", "file")
        assert make_hard_link(str(path), str(tmp_path / "link"))
        assert mode_of(path) == 0o640
        assert path.stat().st_mtime_ns == 5
        assert os.readlink(tmp_path / "symlink") == "file"
        assert (tmp_path / "link").samefile(path)
        with pytest.raises(FileExistsError):
            make_hard_link(str(path), str(tmp_path / "link"))

    @pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
    def test_a_folder_that_could_not_be_written_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        def fsync(fd: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)
        with no_descriptor_left(), pytest.raises(OSError, match=r"Errno") as caught:
            sync_folder(tmp_path)
        assert caught.value.errno == number

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(NotADirectoryError):
            sync_folder(tmp_path / "file")

    def test_an_open_folder_stays_open(self, tmp_path: Path) -> None:
        fd = os.open(tmp_path, os.O_RDONLY)
        try:
            sync_folder(fd)
            os.fstat(fd)
        finally:
            os.close(fd)


def add_files(batch: SyncBatch, folder: Path, count: int) -> None:
    for number in range(count):
        with open(folder / f"{number:04}", "wb") as file:
            file.write(b"x")
            file.flush()
            batch.add_file(file.fileno())


@needs_proc
class TestSyncBatch:
    def test_few_files_are_synced_each(self, tmp_path: Path, journal: Journal) -> None:
        batch = SyncBatch()
        add_files(batch, tmp_path, 64)
        assert journal.synced() == [f"{number:04}" for number in range(64)]
        batch.finish()
        assert len(journal.synced()) == 64

    def test_many_are_left_to_one_call_on_a_file_that_stayed_open(
        self, tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []
        monkeypatch.setattr(
            durable, "_syncfs_for", lambda fd: lambda kept: calls.append(os.readlink(f"/proc/self/fd/{kept}"))
        )
        with no_descriptor_left(), SyncBatch() as batch:
            add_files(batch, tmp_path, 300)
            batch.add_folder(tmp_path)
            assert len(journal.synced()) == 64
            assert calls == []
            batch.finish()
            assert calls == [str(tmp_path / "0064")]
            batch.finish()
            assert len(calls) == 1
            add_files(batch, tmp_path, 70)
        assert len(journal.synced()) == 128

    def test_without_syncfs_each_is_synced(
        self, tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks: list[int] = []
        monkeypatch.setattr(durable, "_syncfs_for", looks.append)
        batch = SyncBatch()
        add_files(batch, tmp_path, 100)
        batch.finish()
        assert journal.synced() == [f"{number:04}" for number in range(100)]
        assert len(looks) == 1

    def test_a_file_of_another_file_system_is_synced_by_itself(
        self, tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(durable, "_syncfs_for", lambda fd: lambda kept: None)
        batch = SyncBatch()
        add_files(batch, tmp_path, 70)
        batch._device = -1
        add_files(batch, tmp_path, 1)
        assert journal.synced()[64:] == ["0000"]
        batch.finish()

    def test_an_error_of_syncfs_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(fd: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(durable, "_syncfs_for", lambda fd: fail)
        batch = SyncBatch()
        add_files(batch, tmp_path, 65)
        with pytest.raises(OSError, match="Input/output"):
            batch.finish()

    def test_an_old_kernel_that_hides_errors_is_not_trusted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for sysname, release, trusted in [
            ("Linux", "5.7.19-1", False),
            ("Linux", "4.18.0-553.el8_10.x86_64", False),
            ("Linux", "5.8.0", True),
            ("Linux", "6.18.44-fc", True),
            ("Linux", "weird", False),
            ("Darwin", "23.1.0", False),
        ]:
            name = os.uname_result((sysname, "host", release, "version", "machine"))
            monkeypatch.setattr(os, "uname", lambda name=name: name)
            assert durable._syncfs_tells_errors() is trusted

    @pytest.mark.parametrize("place", ["usual", "/dev/shm"])
    def test_the_real_call_works_or_is_not_used(self, tmp_path: Path, place: str) -> None:
        folder = tmp_path if place == "usual" else Path(place)
        if not folder.is_dir():
            pytest.skip("no such file system here")
        fd = os.open(folder, os.O_RDONLY)
        try:
            syncfs = durable._syncfs_for(fd)
            if syncfs is None:
                pytest.skip("no syncfs that would do")
            syncfs(fd)
            with pytest.raises(OSError, match="Bad file descriptor"):
                syncfs(-1)
        finally:
            os.close(fd)

    def test_proc_is_no_place_for_syncfs(self) -> None:
        fd = os.open("/proc", os.O_RDONLY)
        try:
            assert durable._syncfs_for(fd) is None
        finally:
            os.close(fd)


@needs_proc
class TestFolderSyncs:
    def test_folders_left_behind_are_synced_and_forgotten(self, tmp_path: Path, journal: Journal) -> None:
        for folder in ("a/b/c", "a/bb", "d"):
            (tmp_path / folder).mkdir(parents=True)
        folders = FolderSyncs(SyncBatch())
        for name in ("a", "a/b", "a/b/c", "a/b/c"):
            folders.enter(str(tmp_path / name))
        assert journal.synced() == []
        folders.enter(str(tmp_path / "a/bb"))
        assert journal.synced() == ["a/b/c", "a/b"]
        folders.enter(str(tmp_path / "d"))
        assert journal.synced() == ["a/b/c", "a/b", "a/bb", "a"]
        folders.finish()
        assert journal.synced() == ["a/b/c", "a/b", "a/bb", "a", "d"]
        folders.finish()
        assert len(journal.synced()) == 5

    def test_memory_does_not_grow_with_the_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(durable, "_syncfs_for", lambda fd: lambda kept: None)
        folders = FolderSyncs(SyncBatch())
        for number in range(1000):
            folders.make_folders(str(tmp_path / f"{number:04}" / "x"), None)
            assert len(folders._open) <= 3
        folders.finish()

    def test_new_folders_are_named_durably_in_their_parents(self, tmp_path: Path, journal: Journal) -> None:
        (tmp_path / "a").mkdir()
        old = os.umask(0o077)
        try:
            folders = FolderSyncs(SyncBatch())
            folders.make_folders(str(tmp_path / "a/b/c"), Ownership(0o640, None, None))
            folders.make_folders(str(tmp_path / "a/b/c"), Ownership(0o640, None, None))
        finally:
            os.umask(old)
        assert mode_of(tmp_path / "a/b") == mode_of(tmp_path / "a/b/c") == 0o750
        folders.finish()
        assert set(journal.synced()) == {"a", "a/b"}

    def test_an_inherited_group_bit_stays(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o2755)
        FolderSyncs(SyncBatch()).make_folders(str(tmp_path / "a"), Ownership(0o755, None, None))
        assert mode_of(tmp_path / "a") == 0o2755

    def test_a_file_in_the_way_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "a").touch()
        with pytest.raises(OSError, match="a"):
            FolderSyncs(SyncBatch()).make_folders(str(tmp_path / "a"), None)
        with pytest.raises(OSError, match="a"):
            FolderSyncs(SyncBatch()).make_folders(str(tmp_path / "a/b"), None)

    def test_many_folders_share_the_batch_of_the_files(
        self, tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[int] = []
        monkeypatch.setattr(durable, "_syncfs_for", lambda fd: calls.append)
        with SyncBatch() as batch:
            folders = FolderSyncs(batch)
            for number in range(200):
                folders.make_folders(str(tmp_path / f"{number:04}"), None)
                add_files(batch, tmp_path / f"{number:04}", 1)
                folders.enter(str(tmp_path / f"{number:04}"))
            folders.finish()
            assert len(journal.synced()) == 64
            assert calls == []
            batch.finish()
        assert len(calls) == 1

    def test_a_folder_that_was_removed_again_is_good(self, tmp_path: Path, journal: Journal) -> None:
        folders = FolderSyncs(SyncBatch())
        folders.make_folders(str(tmp_path / "a"), None)
        (tmp_path / "a").rmdir()
        folders.finish()
        assert journal.synced() == ["."]


def test_an_error_of_an_open_file_gets_the_files_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(OSError, match="No space left") as caught, named(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert caught.value.filename == str(path)
    # One that has a name keeps it.
    with pytest.raises(FileNotFoundError) as missing, named(path):
        os.stat(tmp_path / "another")
    assert missing.value.filename == str(tmp_path / "another")


def test_an_error_that_names_an_open_file_by_its_number_names_its_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="wrong") as caught, named(tmp_path / "file"):
        raise OSError(errno.EIO, "wrong", 7)
    assert caught.value.filename == str(tmp_path / "file")


def test_a_part_that_cannot_get_its_name_tells_that_name(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "taken").mkdir()
    with (
        PartFile(tmp_path / "taken", part=tmp_path / "tmp" / "x.part") as part,
        pytest.raises(OSError, match="taken") as caught,
    ):
        part.publish()
    assert caught.value.filename == str(tmp_path / "taken")


# What the system refuses


def test_an_owner_that_we_may_not_give_leaves_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root gives files away; a site's user may still choose among the groups that it is in."""
    asked = []

    def fchown(_: int, uid: int, gid: int) -> None:
        asked.append((uid, gid))
        if uid != -1:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    path = tmp_path / "file"
    path.write_bytes(b"")
    path.chmod(0o600)
    status = path.stat()
    monkeypatch.setattr(os, "fchown", fchown)
    with open(path, "rb") as file:
        Ownership(0o640, status.st_uid + 1, status.st_gid + 1).apply(file.fileno())
    assert asked == [(status.st_uid + 1, status.st_gid + 1), (-1, status.st_gid + 1)]
    assert mode_of(path) == 0o640


def test_a_folder_that_is_gone_need_not_be_synced(tmp_path: Path) -> None:
    with SyncBatch() as batch:
        batch.add_folder(tmp_path / "gone")
        batch.finish()


def test_what_keeps_a_folder_from_being_removed_is_named_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays = tmp_path / "folder/in it/file"
    stays.parent.mkdir(parents=True)
    stays.write_bytes(b"")
    original = os.unlink

    def unlink(path: str, **keywords: Any) -> None:
        if os.path.basename(path) == "file":
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        original(path, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        with pytest.raises(OSError, match="Input/output") as caught:
            durable.remove_tree(tmp_path / "folder")
    assert caught.value.filename == str(stays)
    assert stays.exists()


@pytest.mark.parametrize("is_only", [True, False])
def test_a_part_that_cannot_be_removed_does_not_hide_the_first_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_only: bool
) -> None:
    def refuse(path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(path))

    def write() -> None:
        with PartFile(tmp_path / "file") as part:
            part.file.write(b"half")
            monkeypatch.setattr(os, "unlink", refuse)
            if not is_only:
                raise ValueError("the one to be read")

    with pytest.raises(OSError if is_only else ValueError) as caught:
        write()
    monkeypatch.undo()
    assert (tmp_path / "file.part").exists()
    assert "Input/output" in str(caught.value) if is_only else str(caught.value) == "the one to be read"
