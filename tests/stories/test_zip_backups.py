"""Zip backups: one full backup in folders of its own, made and restored beside the others of the site."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.site import Site, tree
from tests.stories.test_restore_to import assert_copy_is, copied
from zodbvault.commands import snapshot as snapshot_module
from zodbvault.commands.check import check
from zodbvault.commands.drill import drill
from zodbvault.commands.log import log_transactions
from zodbvault.commands.prune import prune
from zodbvault.commands.restore_plan import plan_restore
from zodbvault.commands.snapshot import snapshot
from zodbvault.commands.summary import iso_time
from zodbvault.commands.watching import Thresholds
from zodbvault.commands.zipbackup import zip_settings
from zodbvault.errors import ZodbvaultError
from zodbvault.io.locks import AlreadyRunning, LockFile
from zodbvault.repository.timestamps import seconds_of

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def zipping(site: Site) -> Site:
    site.options["enable_zipbackup"] = "true"
    return site


def test_a_zip_backup_is_whole_and_the_only_one(zipping: Site) -> None:
    zips = zipping.var / "zipbackups"
    zipping.backup()
    others = tree(zipping.var / "backups", zipping.var / "blobstoragebackups")
    for _ in range(3):
        zipping.commit_pages(2)
        zipping.commit_blobs(2)
        stamp = zipping.zipbackup().timestamp
        assert zipping.timestamps(zips) == [stamp]
        assert f"{stamp}.fsz" in zipping.names(zips)
    state = zipping.state()
    # The other backups neither gained nor lost by it.
    assert tree(zipping.var / "backups", zipping.var / "blobstoragebackups") == others
    zipping.commit_blobs(5)
    zipping.commit_pages(5)
    zipping.restore(source="zip")
    zipping.assert_is(state)


def test_a_plan_and_a_copy_of_the_zip_backup(zipping: Site, tmp_path: Path) -> None:
    zipping.commit_blobs(3)
    stamp, state = zipping.zipbackup().timestamp, zipping.state()
    zipping.commit_blobs(3)
    plan = plan_restore(zipping.settings, source="zip", when=None, checksum=False)
    assert (plan.timestamp, plan.location, plan.problems) == (stamp, zipping.var / "zipbackups", ())
    assert plan.loss is not None
    assert plan.loss.sentence.startswith("1 transaction")
    copied(zipping, tmp_path / "copy", source="zip")
    assert_copy_is(tmp_path / "copy", state)


def test_the_chain_of_the_other_backups_goes_on(zipping: Site) -> None:
    zipping.backup()
    zipping.commit_pages()
    zipping.zipbackup()
    zipping.commit_pages()
    stamp, state = zipping.backed_up()
    assert f"{stamp}.deltafsz" in zipping.names()
    zipping.commit_blobs()
    zipping.restore()
    zipping.assert_is(state)


def test_zip_backups_of_blobs_alone(zipping: Site) -> None:
    zipping.options["only_blobs"] = "true"
    zipping.close()
    blobs = zipping.blobs
    for _ in range(2):
        zipping.zipbackup()
    assert not (zipping.var / "zipbackups").exists()
    records = [name for name in zipping.names(zipping.var / "blobstoragezips") if name.endswith(".json")]
    assert len(records) == 1
    zipping.commit_blobs(5)
    zipping.restore(source="zip")
    assert zipping.blobs == blobs


def test_a_restore_waits_for_no_zip_backup_and_goes_no_way_beside_one(zipping: Site) -> None:
    zipping.backup()
    zipping.zipbackup()
    with LockFile(zipping.var / "zipbackups" / ".zodbvault.lock"), pytest.raises(AlreadyRunning):
        zipping.restore()
    zipping.options["enable_zipbackup"] = "false"
    with LockFile(zipping.var / "zipbackups" / ".zodbvault.lock"):
        zipping.restore()


def test_without_a_zip_backup_there_is_nothing_to_restore(zipping: Site) -> None:
    zipping.backup()
    with pytest.raises(ZodbvaultError, match="zipbackups"):
        zipping.restore(source="zip")


def test_what_holds_for_a_zip_backup_whatever_holds_for_the_others(zipping: Site) -> None:
    zipping.options |= {"archive_blob": "true", "incremental_blobs": "true", "compress_blob": "true", "keep": "7"}
    settings = zip_settings(zipping.settings)
    assert (settings.blob_layout, settings.incremental_blobs, settings.blob_timestamps) == ("archives", False, False)
    assert (settings.keep, settings.keep_daily, settings.compress_blob) == (1, 0, True)
    assert (settings.location, settings.blobbackuplocation) == (settings.ziplocation, settings.blobziplocation)


def test_a_snapshot_has_all_blobs_whatever_holds_for_backups(zipping: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    zipping.options |= {"archive_blob": "true", "incremental_blobs": "true"}
    given = []
    monkeypatch.setattr(snapshot_module, "run_backup", lambda settings, *_, **__: given.append(settings))
    snapshot(zipping.settings, clock=zipping.clock)
    assert given == [zipping.settings._replace(incremental_blobs=False)]


@pytest.fixture
def told(zipping: Site) -> Path:
    """Where the site's own commands write down what they are told."""
    told = zipping.folder / "told"
    zipping.options["pre_command"] = f'echo "pre $ZODBVAULT_RUN_COMMAND $ZODBVAULT_RUN_LOCATION" >> {told}'
    zipping.options["post_command"] = f'echo "post $ZODBVAULT_RUN_COMMAND $ZODBVAULT_RUN_TIMESTAMP" >> {told}'
    return told


def test_the_users_commands_run_around_every_kind_of_backup_and_restore(zipping: Site, told: Path) -> None:
    kinds = {
        "backup": (zipping.backup, "backups"),
        "snapshot": (zipping.snapshot, "snapshotbackups"),
        "zipbackup": (zipping.zipbackup, "zipbackups"),
        "restore": (zipping.restore, "backups"),
        "snapshotrestore": (lambda: zipping.restore(source="snapshot"), "snapshotbackups"),
        "ziprestore": (lambda: zipping.restore(source="zip"), "zipbackups"),
    }
    for command, (run, location) in kinds.items():
        stamp = run().timestamp
        assert told.read_text().splitlines() == [f"pre {command} {zipping.var / location}", f"post {command} {stamp}"]
        told.unlink()


def test_all_that_looks_at_backups_looks_at_the_zip_backup_too(zipping: Site) -> None:
    zipping.backup()
    zipping.commit_blobs(2)
    stamp = zipping.zipbackup().timestamp
    assert stamp is not None
    assert any(line.startswith(stamp) for line in zipping.list(which="zips"))
    assert any(line.startswith("zips") and stamp in line for line in zipping.list(which="all"))
    assert zipping.verify(which="zips").good
    assert (
        drill(zipping.settings, when=None, which="zips", sample=None, tmp=None, clock=zipping.clock).timestamp == stamp
    )
    newest, *_ = log_transactions(zipping.settings, between=None, which="zips")
    assert newest.backup == stamp
    checked = check(zipping.settings, which="zips", thresholds=Thresholds(), metrics=None, clock=zipping.clock)
    (found,) = checked.data["locations"]  # type: ignore[misc]
    assert (found["name"], found["newest_full"], found["verified_good"], found["drilled_good"]) == (
        "zips",
        iso_time(seconds_of(stamp)),
        True,
        True,
    )
    # Another one takes as much for its archive of the blobs.
    assert found["next_full"] > sum(len(blob) for blob in zipping.blobs.values())
    zipping.options["enable_zipbackup"] = "false"
    assert not any(stamp in line for line in zipping.list(which="all"))


def test_of_zip_backups_one_stays_whatever_else_is_to_stay(zipping: Site) -> None:
    zipping.options |= {"keep": "5", "keep_daily": "7"}
    for _ in range(2):
        zipping.commit_pages()
        stamp = zipping.zipbackup().timestamp
        zipping.clock.sleep(2 * 86400)
    assert zipping.timestamps(zipping.var / "zipbackups") == [stamp]
    for dry_run in (True, False):
        result = prune(zipping.settings, which="zips", dry_run=dry_run, clock=zipping.clock)
        (place,) = result.data["locations"]  # type: ignore[misc]
        assert [(chain["timestamp"], chain["reasons"]) for chain in place["chains"]] == [(stamp, ["number 1 of 1"])]
    zipping.restore(source="zip")
