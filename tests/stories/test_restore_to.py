"""`restore --to FOLDER`: a copy of the site for somebody to look into, while the site goes on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from typing import TYPE_CHECKING, Any

import pytest

from tests.site import Site, State, blob_files
from tests.stories.test_dry_run import all_there, lived
from zodbvault.blobs import target as blob_target
from zodbvault.commands import restore as restoring
from zodbvault.commands import restore_blobs
from zodbvault.commands.restore_plan import plan_as_text, plan_restore
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zodbvault.commands.summary import RestoreReport


def copied(site: Site, folder: Path, when: str | None = None, *, source: str = "location") -> RestoreReport:
    return restoring.restore(
        site.settings,
        source=source,
        when=when,
        ask=None,
        clock=site.clock,
        accept_missing_blobs=False,
        checksum=False,
        to=folder,
    )


def assert_copy_is(folder: Path, state: State) -> None:
    assert (folder / "filestorage" / "Data.fs").read_bytes() == state.data
    blobs = {key: path.read_bytes() for key, path in blob_files(folder / "blobstorage").items()}
    assert {key: blobs.get(key) for key in state.needed} == state.needed
    assert {key: state.blobs.get(key) for key in blobs} == blobs
    assert not [name for name in os.listdir(folder / "filestorage") if name.endswith((".restoring", ".part"))]


@contextlib.contextmanager
def held(*locks: Path) -> Iterator[None]:
    """Somebody else holds these locks."""
    with contextlib.ExitStack() as stack:
        for lock in locks:
            file = stack.enter_context(lock.open("a+"))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def test_each_state_is_copied_while_the_site_and_a_backup_run(site: Site, tmp_path: Path) -> None:
    states = lived(site)
    assert site.is_open
    with held(site.location / ".zodbvault.lock", site.blob_location / ".zodbvault.lock"):
        before = all_there(site.folder)
        for stamp, state in states.items():
            copied(site, tmp_path / stamp, stamp)
            assert_copy_is(tmp_path / stamp, state)
        assert all_there(site.folder) == before
    site.commit_pages(1)


def test_zodb_reads_all_of_a_copy(site: Site, tmp_path: Path) -> None:
    states = lived(site)
    copied(site, tmp_path / "copy" / "deep")
    other = Site(tmp_path / "other")
    other.datafs, other.blob_storage = tmp_path / "copy/deep/filestorage/Data.fs", tmp_path / "copy/deep/blobstorage"
    assert other.read_everything() > 5
    assert other.data == list(states.values())[-1].data
    other.close()


def test_a_lawn_is_copied_as_a_lawn(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", layout="lawn")
    site.commit_blobs(3)
    _, state = site.backed_up()
    (tmp_path / "copy").mkdir()
    copied(site, tmp_path / "copy")
    assert_copy_is(tmp_path / "copy", state)
    assert (tmp_path / "copy/blobstorage/.layout").read_text() == "lawn"
    site.close()


@pytest.mark.parametrize("way", ["a file in it", "a file", "hidden"])
def test_a_folder_that_is_not_empty_is_refused(site: Site, tmp_path: Path, way: str) -> None:
    site.backup()
    folder = tmp_path / "copy"
    if way == "a file":
        folder.write_text("precious")
    else:
        folder.mkdir()
        (folder / (".hidden" if way == "hidden" else "file")).write_text("precious")
    before = all_there(tmp_path)
    with pytest.raises(ZodbvaultError) as caught:
        copied(site, folder)
    assert caught.value.exit_code == 1
    assert "Nothing was done" in str(caught.value)
    assert all_there(tmp_path) == before
    with pytest.raises(ZodbvaultError) as planned:
        plan_restore(site.settings, source="location", when=None, checksum=False, to=folder)
    assert str(planned.value) == str(caught.value)


def test_a_copy_is_marked_as_not_whole_until_it_is(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data.fs gets its name before the blobs come, so what a kill leaves may look like a site."""
    site.backup()
    folder = tmp_path / "copy"
    add_blobs = restore_blobs.add_blobs
    refused: list[str] = []

    def copied_meanwhile(*arguments: Any, **keywords: Any) -> Any:
        assert (folder / "filestorage" / "Data.fs").exists()
        with pytest.raises(ZodbvaultError) as caught:
            copied(site, folder)
        refused.append(str(caught.value))
        return add_blobs(*arguments, **keywords)

    monkeypatch.setattr(restore_blobs, "add_blobs", copied_meanwhile)
    copied(site, folder)
    assert [text for text in refused if "holds a copy that is not whole" in text and "empty the folder" in text]
    assert sorted(os.listdir(folder)) == ["blobstorage", "filestorage"]


@pytest.mark.parametrize("place", ["var/backups/copy", "var/blobstorage/copy", "var/blobstoragebackups"])
def test_among_the_blobs_and_the_backups_is_no_place_for_a_copy(site: Site, place: str) -> None:
    site.backup()
    before = all_there(site.folder)
    with pytest.raises(ZodbvaultError, match="is in a folder of the site or its backups"):
        copied(site, site.folder / place)
    assert all_there(site.folder) == before


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("damage", ["data", "blob"])
def test_a_copy_that_fails_leaves_nothing(
    site: Site, tmp_path: Path, damage: str, is_new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp, _ = site.backed_up()
    folder = tmp_path / "copy"
    if not is_new:
        folder.mkdir()
    if damage == "data":
        path = site.location / f"{stamp}.fsz"
    else:
        # Of its size, so that it is found only when it is copied: behind the swap, where no database was before.
        path = max(blob_files(site.blob_location / "blobs").values(), key=lambda each: each.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    os.chmod(path, 0o600)
    path.write_bytes(content)
    with pytest.raises(ZodbvaultError) as caught:
        copied(site, folder)
    assert "is damaged" in str(caught.value) or "md5" in str(caught.value)
    assert "Do not start the site" not in str(caught.value)
    assert folder.exists() == (not is_new)
    assert is_new or os.listdir(folder) == []


def test_what_a_backup_prunes_meanwhile_is_said_to_be_gone(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.options["keep"] = "1"
    site.commit_blobs(4)
    first, _ = site.backed_up()
    original = blob_target.add_blobs

    def prune_first(*arguments: object, **keywords: object) -> object:
        site.pack()
        site.backup(full=True)
        return original(*arguments, **keywords)  # type: ignore[arg-type]

    site.commit_blobs(5)
    monkeypatch.setattr("zodbvault.commands.restore_blobs.add_blobs", prune_first)
    with pytest.raises(ZodbvaultError, match=f"the backup of {first} was pruned meanwhile"):
        copied(site, tmp_path / "copy", first)
    assert not (tmp_path / "copy").exists()


def test_pre_and_post_command_do_not_run_and_nothing_is_asked(site: Site, tmp_path: Path) -> None:
    site.backup()
    site.options |= {"pre_command": f"touch {tmp_path}/pre", "post_command": f"touch {tmp_path}/post"}
    finished = site.command("restore", "--to", "copy", cwd=str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "copy/filestorage/Data.fs").exists()
    assert not list(tmp_path.glob("p*st")) + list(tmp_path.glob("pre"))
    assert "yes/no" not in finished.stderr
    again = site.command("restore", "--to", "copy", cwd=str(tmp_path))
    assert again.returncode == 1
    assert "is not empty" in again.stderr
    nameless = site.command("restore", "--to", "")
    assert nameless.returncode == 2


def test_a_plan_of_a_copy(site: Site, tmp_path: Path) -> None:
    _, state = site.backed_up()
    plan = plan_restore(site.settings, source="location", when=None, checksum=False, to=tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert plan.target == tmp_path / "copy/filestorage/Data.fs"
    assert plan.blobs is not None
    assert (plan.blobs.add, plan.blobs.remove, plan.loss, plan.running) == (len(state.blobs), 0, None, None)
    assert plan.problems == ()
    assert any(re.fullmatch(r"  site +is left alone", line) for line in plan_as_text(plan))


def test_blobs_alone_and_data_alone_are_copied_too(tmp_path: Path) -> None:
    alone = Site(tmp_path / "alone", options={"only_blobs": "true"})
    alone.commit_blobs(3)
    alone.tick(3600)
    alone.backup()
    copied(alone, tmp_path / "copy of blobs")
    assert os.listdir(tmp_path / "copy of blobs") == ["blobstorage"]
    found = blob_files(tmp_path / "copy of blobs/blobstorage")
    assert {key: path.read_bytes() for key, path in found.items()} == alone.blobs
    alone.close()
    without = Site(tmp_path / "without", blobs=False)
    without.commit_pages(2)
    without.backup()
    copied(without, tmp_path / "copy of data")
    assert os.listdir(tmp_path / "copy of data") == ["filestorage"]
    assert (tmp_path / "copy of data/filestorage/Data.fs").read_bytes() == without.data
    without.close()
