"""The recording of system calls: real processes, and lines of strace that those bring only now and then."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.faults.recording import STRACE, Call, RecordingFailed, is_change, parse_log, recorded
from tests.site import Site

if TYPE_CHECKING:
    from pathlib import Path

HEX = {"/s/a": r"\x2f\x73\x2f\x61", "/s/b": r"\x2f\x73\x2f\x62", "hi": r"\x68\x69"}


def run(tmp_path: Path, program: str) -> tuple[Call, ...]:
    """What a Python program does in the folder that is its argument."""
    folder, log = tmp_path / "a site, 'é'", tmp_path / "log"
    folder.mkdir()
    command = [*STRACE, "-o", str(log), sys.executable, "-c", "import os, sys; os.umask(0)\n" + program, str(folder)]
    subprocess.run(command, check=True, timeout=300)
    calls = parse_log(log.read_text("ascii"), [str(folder)])
    return tuple(
        call._replace(path=call.path.replace(str(folder), "."), other=call.other.replace(str(folder), "."), begun=0)
        for call in calls
    )


def test_names_data_and_offsets_are_whole(tmp_path: Path) -> None:
    calls = run(
        tmp_path,
        "folder = os.open(sys.argv[1], os.O_RDONLY)\n"
        "fd = os.open('one', os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640, dir_fd=folder)\n"
        "os.write(fd, b'0123456789\\n\"<, >')\n"
        "os.lseek(fd, 2, 0); os.read(fd, 3); os.writev(os.dup(fd), [b'a', b'bc']); os.write(fd, b'd')\n"
        "os.pwrite(fd, b'z', 1); os.ftruncate(fd, 12); os.fsync(fd)\n"
        "os.rename('one', 'two', src_dir_fd=folder, dst_dir_fd=folder)\n"
        "os.link(sys.argv[1] + '/two', sys.argv[1] + '/three')\n"
        "os.unlink('two', dir_fd=folder); os.fsync(folder)\n"
        "os.utime(sys.argv[1] + '/three', ns=(1, 1_000_000_002)); os.chmod(sys.argv[1] + '/three', 0o600)\n"
        "os.mkdir(sys.argv[1] + '/f', 0o755); os.symlink('f', sys.argv[1] + '/latest'); os.rmdir(sys.argv[1] + '/f')\n"
        "sys.exit(3 if os.write(2, b'done') == 0 else 0)\n",
    )
    assert calls == (
        Call("open", "./one", mode=0o640, creates=True, must_be_new=True, may_write=True),
        Call("write", "./one", data=b'0123456789\n"<, >'),
        Call("write", "./one", data=b"abc", offset=5),
        Call("write", "./one", data=b"d", offset=8),
        Call("write", "./one", data=b"z", offset=1),
        Call("truncate", "./one", size=12),
        Call("sync", "./one"),
        Call("rename", "./one", "./two"),
        Call("link", "./two", "./three"),
        Call("unlink", "./two"),
        Call("sync", "."),
        Call("utime", "./three", time=1_000_000_002),
        Call("chmod", "./three", mode=0o600),
        Call("mkdir", "./f", mode=0o755),
        Call("symlink", "./latest", "f"),
        Call("rmdir", "./f"),
        Call("say", "2", data=b"done"),
        Call("end", ""),
    )


def test_bytes_that_the_kernel_copies(tmp_path: Path) -> None:
    calls = run(
        tmp_path,
        "os.chdir('/'); one = os.open(sys.argv[1] + '/one', os.O_RDWR | os.O_CREAT); os.write(one, b'0123456789')\n"
        "two = os.open(sys.argv[1] + '/two', os.O_RDWR | os.O_CREAT)\n"
        "os.lseek(one, 4, 0); os.copy_file_range(one, two, 3); os.sendfile(two, one, 1, 2); os.write(two, b'x')\n",
    )
    assert [call for call in calls if call.kind == "copy"] == [
        Call("copy", "./two", "./one", offset=0, from_offset=4, size=3),
        Call("copy", "./two", "./one", offset=3, from_offset=1, size=2),
    ]
    assert calls[-2] == Call("write", "./two", data=b"x", offset=5)


def test_threads_and_children_share_what_they_share(tmp_path: Path) -> None:
    calls = run(
        tmp_path,
        "import threading; fd = os.open(sys.argv[1] + '/one', os.O_RDWR | os.O_CREAT); os.write(fd, b'main')\n"
        "thread = threading.Thread(target=os.write, args=(fd, b'thread')); thread.start(); thread.join()\n"
        "child = os.fork()\n"
        "if child == 0: os.write(fd, b'child'); os._exit(5)\n"
        "os.waitpid(child, 0); os.write(fd, b'main')\n",
    )
    assert [(call.offset, call.data) for call in calls if call.kind == "write"] == [
        (0, b"main"),
        (4, b"thread"),
        (10, b"child"),
        (15, b"main"),
    ]
    assert calls[-1] == Call("end", "")


def test_a_sync_that_another_thread_overtakes_began_before() -> None:
    calls = parse_log(
        f'7 open("{HEX["/s/a"]}", O_RDWR|O_CREAT, 0600) = 3<{HEX["/s/a"]}>\n'
        f'7 open("{HEX["/s/b"]}", O_RDWR|O_CREAT, 0600) = 4<{HEX["/s/b"]}>\n'
        f"7 clone(flags=CLONE_VM|CLONE_FILES <unfinished ...>\n"
        f'8 write(4<{HEX["/s/b"]}>, "{HEX["hi"]}", 2 <unfinished ...>\n'
        "7 <... clone resumed>) = 8\n"
        f"7 fsync(3<{HEX['/s/a']}> <unfinished ...>\n"
        "8 <... write resumed>)          = 2\n"
        "7 <... fsync resumed>)          = 0\n"
        f"7 fsync(3<{HEX['/s/a']}>)    = -1 EIO (Input/output error)\n"
        "8 +++ exited with 0 +++\n"
        "7 +++ killed by SIGKILL +++\n",
        ["/s"],
    )
    assert [(call.kind, call.path, call.begun) for call in calls] == [
        ("open", "/s/a", 0),
        ("open", "/s/b", 1),
        ("write", "/s/b", 2),
        ("sync", "/s/a", 2),
        ("end", "", 4),
    ]
    assert calls[-1].size == -9


def test_a_thread_that_is_at_work_before_its_maker_knows_has_the_open_files() -> None:
    calls = parse_log(
        f'7 open("{HEX["/s/a"]}", O_RDWR|O_CREAT, 0600) = 3<{HEX["/s/a"]}>\n'
        f'7 write(3<{HEX["/s/a"]}>, "{HEX["hi"]}", 2) = 2\n'
        "7 clone3({flags=CLONE_VM|CLONE_FILES} <unfinished ...>\n"
        f'8 write(3<{HEX["/s/a"]}>, "{HEX["hi"]}", 2) = 2\n'
        "8 +++ exited with 0 +++\n"
        "7 <... clone3 resumed>) = 8\n"
        "7 fork( <unfinished ...>\n"
        f'9 write(3<{HEX["/s/a"]}>, "{HEX["hi"]}", 2) = 2\n'
        "7 <... fork resumed>) = 9\n"
        f"7 close(3<{HEX['/s/a']}>) = 0\n"
        f'9 write(3<{HEX["/s/a"]}>, "{HEX["hi"]}", 2) = 2\n',
        ["/s"],
    )
    assert [call.offset for call in calls if call.kind == "write"] == [0, 2, 4, 6]


def test_a_child_that_is_silent_for_long_keeps_what_its_maker_closes() -> None:
    calls = parse_log(
        f'7 open("{HEX["/s/a"]}", O_RDWR|O_CREAT, 0600) = 3<{HEX["/s/a"]}>\n'
        "7 fork() = 9\n"
        f"7 close(3<{HEX['/s/a']}>) = 0\n"
        f'9 write(3<{HEX["/s/a"]}>, "{HEX["hi"]}", 2) = 2\n',
        ["/s"],
    )
    assert calls[-1] == Call("write", "/s/a", data=b"hi", begun=1)


def test_a_descriptor_is_free_before_its_close_comes_back() -> None:
    calls = parse_log(
        f'7 open("{HEX["/s/a"]}", O_RDWR|O_CREAT, 0600) = 3<{HEX["/s/a"]}>\n'
        "7 clone(flags=CLONE_VM|CLONE_FILES) = 8\n"
        f"7 close(3<{HEX['/s/a']}> <unfinished ...>\n"
        f'8 open("{HEX["/s/b"]}", O_RDWR|O_CREAT, 0600) = 3<{HEX["/s/b"]}>\n'
        "7 <... close resumed>)          = 0\n"
        f'8 write(3<{HEX["/s/b"]}>, "{HEX["hi"]}", 2) = 2\n',
        ["/s"],
    )
    assert calls[-1] == Call("write", "/s/b", data=b"hi", begun=2)


@pytest.mark.parametrize(
    "line",
    [
        f'7 pwritev2(3<{HEX["/s/a"]}>, [{{iov_base="{HEX["hi"]}"..., iov_len=99}}], 1, 0, 0) = 99',
        f"7 mmap(NULL, 9, PROT_READ|PROT_WRITE, MAP_SHARED, 3<{HEX['/s/a']}>, 0) = 0x7f00",
        f'7 renameat2(AT_FDCWD<\\x2f>, "{HEX["/s/a"]}", AT_FDCWD<\\x2f>, "{HEX["/s/b"]}", RENAME_EXCHANGE) = 0',
        f'7 write(3<{HEX["/s/a"]}>, "{HEX["hi"]}", 2) = 2',
        "7 what is this",
    ],
)
def test_what_is_not_understood_is_said(line: str) -> None:
    with pytest.raises(RecordingFailed):
        parse_log(line + "\n", ["/s"])


def test_a_backup_is_reported_after_its_dat_line_is_durable(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    site.begin_with_a_blob()
    site.close()
    recording = recorded(site, "backup", log=tmp_path / "log")
    assert recording.finished.returncode == 0
    calls = recording.calls
    named = next(number for number, call in enumerate(calls) if call.kind == "rename" and call.other.endswith(".dat"))
    said = next(number for number, call in enumerate(calls) if call.kind == "say" and b"Full backup" in call.data)
    assert (calls[named + 1].kind, calls[named + 1].path) == ("sync", str(site.location))
    assert named + 1 < said
    assert calls[-1] == Call("end", "", size=0, begun=len(calls) - 1)
    assert len([call for call in calls if is_change(call)]) > 80
