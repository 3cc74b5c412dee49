"""A Zope or ZEO server that is started in the middle of a restore cannot open; one that runs is not restored under."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from zc.lockfile import LockError
from ZODB.FileStorage import FileStorage

from tests.races.steps import RESTORE_STEPS, Step, let_happen
from tests.site import Site, State
from zodbvault.errors import ZodbvaultError
from zodbvault.io.locks import AlreadyRunning

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGETS = ["over the site", "into nothing", "behind a symlink", "a symlink into nothing"]

ZOPE = """\
import sys
from ZODB.FileStorage import FileStorage
FileStorage(sys.argv[1], blob_dir=sys.argv[2])
"""


@pytest.fixture
def old(tmp_path: Path) -> Iterator[tuple[Site, str, State]]:
    """A site that has gone on since a backup, packed what that has, and is stopped."""
    site = Site(tmp_path / "site")
    site.begin_with_a_blob()
    site.commit_blobs(4)
    site.commit_pages(3)
    stamp, state = site.backed_up()
    for _ in range(4):
        site.delete()
    site.commit_blobs(3)
    site.pack()
    site.close()
    yield site, stamp, state
    site.close()


def prepare(site: Site, target: str, elsewhere: Path) -> list[Path]:
    """Make the target of the restore; the names that the database can be opened by."""
    assert site.blob_storage is not None
    names = [site.datafs]
    if "symlink" in target:
        elsewhere.mkdir()
        names.append(elsewhere / "Real.fs")
        os.rename(site.datafs, names[1])
        site.datafs.symlink_to(names[1])
    if "nothing" in target:
        names[-1].unlink()
        shutil.rmtree(site.blob_storage)
    return names


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("step", RESTORE_STEPS, ids=lambda step: step.name)
def test_none_is_started_at_any_step(
    old: tuple[Site, str, State], target: str, step: Step, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, stamp, state = old
    names = prepare(site, target, tmp_path / "elsewhere")

    def start() -> None:
        before = site.blobs
        for name in names:
            with pytest.raises(LockError):
                FileStorage(str(name), blob_dir=str(site.blob_storage))
        with pytest.raises(AlreadyRunning):
            site.backup()
        assert site.blobs == before

    with monkeypatch.context() as patched:
        happening = let_happen(patched, step, start)
        site.restore(stamp)
    assert happening.times == 1
    assert site.datafs.is_symlink() == ("symlink" in target)
    site.assert_is(state)
    site.commit_pages()
    assert site.backup().timestamp is not None


@pytest.mark.parametrize("step", ["5 bytes written", "7 index gone", "8 before blobs are removed"])
def test_another_process_is_kept_out_too(
    old: tuple[Site, str, State], step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, stamp, state = old
    (wanted,) = (each for each in RESTORE_STEPS if each.name == step)
    started = []

    def start() -> None:
        command = [sys.executable, "-c", ZOPE, str(site.datafs), str(site.blob_storage)]
        started.append(subprocess.run(command, capture_output=True, text=True, timeout=300, check=False))

    with monkeypatch.context() as patched:
        let_happen(patched, wanted, start)
        site.restore(stamp)
    assert [each.returncode for each in started] == [1]
    assert "LockError" in started[0].stderr
    site.assert_is(state)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("moment", ["when it is chosen", "when the question is answered"])
def test_one_that_is_started_before_the_restore_begins_goes_on(
    old: tuple[Site, str, State], target: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of the two names it opened the database by: the restore is refused, and nothing is touched."""
    from zodbvault.commands import restore as module

    site, stamp, _ = old
    names = prepare(site, target, tmp_path / "elsewhere")
    opened = []

    def start() -> None:
        opened.append(FileStorage(str(names[-1]), blob_dir=str(site.blob_storage)))
        opened.append(site.state())

    name = "choose_and_say" if moment == "when it is chosen" else "_ask"
    step = Step(moment, module.__name__, name, is_before=False)
    with monkeypatch.context() as patched:
        let_happen(patched, step, start)
        with pytest.raises(ZodbvaultError, match="in use"):
            site.restore(stamp)
    storage, state = opened
    storage.close()
    assert site.state() == state
    assert not Path(f"{names[-1]}.restoring").exists()
