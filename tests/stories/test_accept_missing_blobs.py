"""`--accept-missing-blobs`: what the backup cannot give is left out, and told; everything else comes back."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from zc.zlibstorage import ZlibStorage

from tests.site import BlobKey, Site, State, blob_files
from tests.stories.test_restore_only import only
from tests.test_bad_input import unprivileged
from zodbvault.blobs import target
from zodbvault.commands.restore_plan import plan_restore
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from pathlib import Path


def pool_files(site: Site) -> dict[BlobKey, Path]:
    return blob_files(site.blob_location / "blobs")


def lose_blobs(site: Site) -> None:
    site.close()
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)


def flip(path: Path, content: bytes) -> None:
    """Damage just that content, in a file that may hold more."""
    whole = path.read_bytes()
    assert whole.count(content) == 1
    path.chmod(0o600)
    path.write_bytes(whole.replace(content, bytes(byte ^ 1 for byte in content)))


def assert_is_but_for(site: Site, state: State, *gone: BlobKey) -> None:
    """The site is as it was; it lacks these blobs and no other one."""
    assert site.data == state.data
    assert site.blobs == {key: content for key, content in state.blobs.items() if key not in gone}


def with_two_blobs_lost_in_the_pool(site: Site, how: str) -> tuple[State, dict[BlobKey, Path]]:
    """Two blobs of each state are missing or damaged in the backup, and the site has lost all of its own."""
    site.commit_blobs(20, names=20)
    _, state = site.backed_up()
    files = pool_files(site)
    lost = {key: files[key] for key in sorted(files, key=lambda key: key[1])[1:3]}
    for key, path in lost.items():
        if how == "damaged":
            flip(path, state.blobs[key])
        else:
            path.unlink()
            if how == "folders":
                path.mkdir()
    lose_blobs(site)
    return state, lost


@pytest.mark.parametrize("had_data", [True, False])
@pytest.mark.parametrize("how", ["missing", "damaged", "folders"])
def test_all_others_come_back(site: Site, how: str, had_data: bool, caplog: pytest.LogCaptureFixture) -> None:
    state, lost = with_two_blobs_lost_in_the_pool(site, how)
    if not had_data:
        site.datafs.unlink()
    else:
        with pytest.raises(ZodbvaultError, match="--accept-missing-blobs restores without"):
            site.restore()
        assert site.data == state.data
    report = site.restore(accept_missing_blobs=True)
    assert_is_but_for(site, state, *lost)
    assert f"{len(state.blobs) - 2} blobs added" in report.summary
    (said,) = [record.message for record in caplog.records if "2 blobs of the state" in record.message]
    assert all(str(path) in said for path in lost.values())
    site.commit_blobs(1)
    assert site.backup().timestamp is not None


def test_what_the_site_still_has_stays(site: Site) -> None:
    """Given a blob damaged in the backup, and another size of it in the site, then the site's own is left alone."""
    site.commit_blobs(5, names=5)
    _, state = site.backed_up()
    site.close()
    files = pool_files(site)
    key = max(files)
    files[key].unlink()
    assert site.blob_storage is not None
    live = blob_files(site.blob_storage)
    live[key].chmod(0o600)
    live[key].write_bytes(state.blobs[key][:100])
    live[min(live)].unlink()
    site.restore(accept_missing_blobs=True)
    assert site.blobs == {**state.blobs, key: state.blobs[key][:100]}


def with_the_newest_blob_lost_in_the_pool(site: Site, how: str) -> tuple[State, BlobKey]:
    """Of two states the newer one has ten blobs more, and one of these is missing or damaged in the backup."""
    site.commit_blobs(5, names=30)
    site.backup()
    site.commit_blobs(10, names=30)
    _, state = site.backed_up()
    files = pool_files(site)
    newest = max(files, key=lambda key: key[1])
    if how == "damaged":
        flip(files[newest], state.blobs[newest])
    else:
        files[newest].unlink()
    lose_blobs(site)
    return state, newest


def test_the_state_that_lacks_the_fewest_serves(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """Given that of the newest state one blob is gone, then it serves, not the one before, which lacks ten more."""
    state, newest = with_the_newest_blob_lost_in_the_pool(site, "missing")
    site.restore(accept_missing_blobs=True)
    assert_is_but_for(site, state, newest)
    assert "1 blob that the data refer to: neither in the backup nor in" in caplog.text


@pytest.mark.parametrize("layout", ["directories", "archives"])
def test_in_another_layout(tmp_path: Path, layout: str) -> None:
    site = Site(tmp_path / "site", options={"blob_layout": layout})
    site.commit_blobs(6, names=6)
    stamp, state = site.backed_up()
    key = min(state.blobs)
    if layout == "directories":
        flip(blob_files(site.blob_location / f"blobstorage.{stamp}" / "blobstorage")[key], state.blobs[key])
    else:
        (archive,) = site.blob_location.glob("*.tar")
        flip(archive, state.blobs[key])
    lose_blobs(site)
    with pytest.raises(ZodbvaultError, match="is damaged"):
        site.restore()
    site.restore(accept_missing_blobs=True)
    assert_is_but_for(site, state, key)


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_only_the_blobs(site: Site, how: str) -> None:
    state, lost = with_two_blobs_lost_in_the_pool(site, how)
    with pytest.raises(ZodbvaultError):
        only(site, "blobs")
    only(site, "blobs", accept_missing_blobs=True)
    assert_is_but_for(site, state, *lost)


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_site_whose_blobs_alone_are_backed_up(tmp_path: Path, how: str) -> None:
    site = Site(tmp_path / "alone", options={"only_blobs": "true"})
    state, lost = with_two_blobs_lost_in_the_pool(site, how)
    with pytest.raises(ZodbvaultError):
        site.restore()
    site.restore(accept_missing_blobs=True)
    assert_is_but_for(site, state, *lost)


def test_a_copy(site: Site, tmp_path: Path) -> None:
    site.commit_blobs(5, names=5)
    _, state = site.backed_up()
    files = pool_files(site)
    files[min(files)].unlink()
    site.restore_while_open(to=tmp_path / "copy", accept_missing_blobs=True)
    copies = blob_files(tmp_path / "copy" / "blobstorage")
    assert set(copies) == set(state.blobs) - {min(files)}


def test_a_blob_that_may_not_be_read(site: Site) -> None:
    """As of a disk that cannot read one place any more: the error names the blob, and the others come back."""
    site.commit_blobs(5, names=5)
    _, state = site.backed_up()
    key = max(state.blobs)
    pool_files(site)[key].chmod(0)
    lose_blobs(site)
    with unprivileged() as before:
        refused = site.command("restore", "-n", prefix=before)
        assert refused.returncode == 1
        assert str(pool_files(site)[key]) in refused.stderr
        assert "Permission denied" in refused.stderr
        restored = site.command("restore", "-n", "--accept-missing-blobs", prefix=before)
    assert restored.returncode == 0, restored.stderr
    assert str(pool_files(site)[key]) in restored.stderr
    assert_is_but_for(site, state, key)


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_only_the_blobs_are_those_of_the_state_itself(site: Site, how: str) -> None:
    """Given an earlier state that is whole, and lacks more, then nobody sees what it lacks; so it never stands in."""
    state, newest = with_the_newest_blob_lost_in_the_pool(site, how)
    with pytest.raises(ZodbvaultError, match="--accept-missing-blobs restores without"):
        only(site, "blobs")
    plan = plan_restore(site.settings, source="location", when=None, checksum=False, only="blobs")
    assert bool(plan.problems) == (how == "missing")
    only(site, "blobs", accept_missing_blobs=True)
    assert_is_but_for(site, state, newest)


def encrypted(data: bytes) -> bytes:
    """As cipher.encryptingstorage has it: nobody can read from the records which blobs they refer to."""
    return b".e" + bytes(byte ^ 0x55 for byte in data)


def decrypted(data: bytes) -> bytes:
    return bytes(byte ^ 0x55 for byte in data[2:]) if data[:2] == b".e" else data


def encrypting(base: Any) -> ZlibStorage:
    storage = ZlibStorage(base)
    vars(storage).update(_transform=encrypted, _untransform=decrypted)
    return storage


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_where_the_data_are_encrypted(tmp_path: Path, how: str) -> None:
    """What they refer to is not known then, so the state of the data serves, not one that seems to lack nothing."""
    site = Site(tmp_path / "site", wrap=encrypting)
    state, newest = with_the_newest_blob_lost_in_the_pool(site, how)
    with pytest.raises(ZodbvaultError):
        site.restore()
    site.restore(accept_missing_blobs=True)
    assert_is_but_for(site, state, newest)


@pytest.mark.parametrize("is_shared", [False, True])
def test_damaged_ones_of_the_site_do_not_stay(site: Site, is_shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given that blobs were replaced before one turned out to be damaged, then all are counted, and none set aside."""
    site.options["shared_blob_storage"] = str(is_shared)
    monkeypatch.setattr(target, "_PLACED_AT_ONCE", 4)
    site.commit_blobs(20, names=20)
    _, state = site.backed_up()
    site.close()
    assert site.blob_storage is not None
    live, files = blob_files(site.blob_storage), pool_files(site)
    *others, lost = sorted(live)
    for key in others:
        live[key].chmod(0o600)
        live[key].write_bytes(b"damaged")
    live[lost].unlink()
    flip(files[lost], state.blobs[lost])
    report = site.restore(accept_missing_blobs=True) if is_shared else only(site, "blobs", accept_missing_blobs=True)
    assert f"{len(others)} damaged ones replaced" in report.summary
    assert_is_but_for(site, state, lost)
    assert not list(site.blob_storage.rglob("*.replaced"))


def test_what_a_killed_restore_set_aside_does_not_stay(site: Site) -> None:
    site.options["shared_blob_storage"] = "true"
    _, state = site.backed_up()
    site.close()
    assert site.blob_storage is not None
    path = next(iter(blob_files(site.blob_storage).values()))
    path.with_name(f"{path.name}.replaced").write_bytes(b"damaged")
    site.restore()
    site.assert_is(state)
    assert not list(site.blob_storage.rglob("*.replaced"))


def test_a_plan_for_blobs_alone_tells_of_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(tmp_path / "alone", options={"only_blobs": "true"})
    with_two_blobs_lost_in_the_pool(site, "missing")
    plan = plan_restore(site.settings, source="location", when=None, checksum=False, accept_missing_blobs=True)
    assert plan.problems == ()
    assert "2 blobs of the state" in caplog.text


def test_a_plan_tells_of_them(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    state, _ = with_two_blobs_lost_in_the_pool(site, "missing")
    plan = plan_restore(site.settings, source="location", when=None, checksum=False)
    assert "lacks 2 of the blobs" in plan.problems[0]
    plan = plan_restore(site.settings, source="location", when=None, checksum=False, accept_missing_blobs=True)
    assert plan.problems == ()
    assert plan.blobs is not None
    assert plan.blobs.add == len(state.blobs) - 2
    assert "2 blobs of the state" in caplog.text
    assert site.restore(accept_missing_blobs=True).summary.count(f"{len(state.blobs) - 2} blobs added") == 1
