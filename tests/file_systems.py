"""File systems that are not the usual: other ones, full ones, and what a poor one refuses, put in the way of a command.

A refusal is injected where Python calls the system, so whichever module asks is refused.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zodbvault.io import durable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pytest


@contextlib.contextmanager
def mounted(folder: Path, size: str = "200m") -> Iterator[Path]:
    """A file system of its own in memory at `folder`, which is made. Fails where nothing may be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(folder)]
    finished = subprocess.run(mount, capture_output=True, text=True)
    assert finished.returncode == 0, f"needs root, or `unshare -rm`, to mount: {finished.stderr}"
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def mounted_file(folder: Path, make: str, size: int = 64 << 20) -> Iterator[Path]:
    """A file system on a disk that is a file. make: the program that makes it. size: bytes."""
    folder.mkdir(parents=True)
    image = folder.with_name(f"{folder.name}.img")
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run([make, "-q", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        image.unlink()


@contextlib.contextmanager
def another_file_system(than: Path) -> Iterator[Path]:
    """A new folder in another file system than that of `than`: one in a file, or memory, or disk.

    Fails where there is no other.
    """
    make = shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if make is not None and os.path.exists("/dev/loop-control") and os.geteuid() == 0:
        with mounted_file(than / "another file system", make) as folder:
            yield folder
        return
    for place in ("/dev/shm", "/tmp", "/var/tmp"):
        if os.path.isdir(place) and os.stat(place).st_dev != os.stat(than).st_dev:
            with tempfile.TemporaryDirectory(dir=place) as folder:
                yield Path(folder)
            return
    with mounted(than / "another file system") as folder:
        yield folder


def remount(folder: Path, options: str) -> None:
    """Change how a file system is mounted: `ro`, `size=2m`."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def fill(folder: Path, *, leave: int = 0) -> Path:
    """Take all space of a small file system but `leave` bytes; the file that does it."""
    free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(free - leave, 1))
    return ballast


class Poor:
    """A file system that refuses some calls while `refusing` is on. asked: how often it refused each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, calls: tuple[str, ...], number: int) -> None:
        self.asked: dict[str, int] = dict.fromkeys(calls, 0)
        self._monkeypatch = monkeypatch
        self._number = number

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse the calls meanwhile."""
        durable.forget_refusals()
        with self._monkeypatch.context() as patch:
            for name in self.asked:
                patch.setattr(os, name, self._refusal(name, getattr(os, name)))
            yield

    def _refusal(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(*arguments: Any, **keywords: Any) -> Any:
            if name == "fsync" and not stat.S_ISDIR(os.fstat(arguments[0]).st_mode):
                return call(*arguments, **keywords)
            self.asked[name] += 1
            raise OSError(self._number, os.strerror(self._number))

        return refuse


def without_links(monkeypatch: pytest.MonkeyPatch) -> Poor:
    """No hard links, as some network file systems."""
    return Poor(monkeypatch, ("link",), errno.EOPNOTSUPP)


def without_synced_folders(monkeypatch: pytest.MonkeyPatch) -> Poor:
    """Folders cannot be synced, as on some network file systems."""
    return Poor(monkeypatch, ("fsync",), errno.EINVAL)


def like_vfat(monkeypatch: pytest.MonkeyPatch) -> Poor:
    """No owners, no modes, no times of one's own choice, no links of either kind: as vfat or CIFS for who may write."""
    calls = ("chmod", "fchmod", "chown", "fchown", "lchown", "utime", "link", "symlink")
    return Poor(monkeypatch, calls, errno.EPERM)
