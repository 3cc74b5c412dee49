"""Before a restore somebody wants to know what it takes away, and which backups there are near a date."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.site import Site, committed_tids, tree
from zodbvault.commands.restore import Declined, restore
from zodbvault.errors import ZodbvaultError
from zodbvault.filestorage.tids import time_of_tid

if TYPE_CHECKING:
    from pathlib import Path


def asked(site: Site, when: str | None = None, source: str = "location") -> str:
    """The question of a restore that is answered with no."""
    questions: list[str] = []

    def no(question: str) -> bool:
        questions.append(question)
        return False

    site.close()
    before = tree(site.folder)
    with pytest.raises(Declined):
        restore(
            site.settings,
            source=source,
            when=when,
            ask=no,
            clock=site.clock,
            accept_missing_blobs=False,
            checksum=False,
        )
    assert tree(site.folder) == before
    (question,) = questions
    return question


def newest_time(site: Site) -> str:
    return time_of_tid(committed_tids(site.data)[-1][0])


def test_the_question_says_how_many_transactions_will_be_lost_and_of_when_the_newest_is(site: Site) -> None:
    stamp, _ = site.backed_up()
    assert "No transaction since then will be lost." in asked(site)
    site.commit_pages(1)
    newest = newest_time(site)
    assert f"1 transaction since then will be lost, of {newest}; 1 is in no backup." in asked(site)
    site.commit_pages(1)
    site.backup()
    site.commit_pages(1)
    newest = newest_time(site)
    assert f"1 transaction since then will be lost, of {newest}; 1 is in no backup." in asked(site)
    question = asked(site, stamp)
    assert f"3 transactions since then will be lost, the newest of {newest}; 1 is in no backup." in question
    assert re.match(f"This will replace .*Data.fs and the blobs in .* by the backup of {stamp}", question)


def test_it_counts_in_a_packed_database_and_in_a_backup_of_repozo_too(site: Site) -> None:
    stamp, _ = site.backed_up()
    (site.location / f"{stamp}.json").unlink()
    site.commit_pages(1)
    site.pack()
    site.commit_pages(1)
    site.commit_pages(1)
    # No record: the backup's moment has to do, and these databases live long before 2076.
    assert "No transaction since then will be lost." in asked(site)
    site.backup()
    site.pack()
    site.commit_pages(2)
    assert "1 transaction since then will be lost" in asked(site)


def test_a_snapshot_is_compared_with_the_backups_too(site: Site) -> None:
    site.snapshot()
    site.commit_pages(1)
    site.backup()
    assert "1 transaction since then will be lost, of" in asked(site, source="snapshot")
    assert "; none is in no backup." in asked(site, source="snapshot")
    site.commit_pages(1)
    assert "; 1 is in no backup." in asked(site, source="snapshot")


def test_a_database_that_is_gone_or_damaged_is_no_obstacle(site: Site) -> None:
    _, state = site.backed_up()
    site.commit_pages(1)
    site.close()
    whole = site.datafs.read_bytes()
    site.datafs.write_bytes(whole[:-3])
    assert "Which transactions will be lost cannot be told" in asked(site)
    site.datafs.write_bytes(b"nothing")
    assert "is no FileStorage" in asked(site)
    site.datafs.unlink()
    assert "There is no Data.fs now" in asked(site)
    site.datafs.mkdir()
    assert "There is no Data.fs now" in asked(site)
    site.datafs.rmdir()
    site.restore()
    site.assert_is(state)


def test_a_person_reads_it_on_the_terminal(site: Site) -> None:
    site.backup()
    site.commit_pages(1)
    site.close()
    finished = site.command("restore", stdin=subprocess.DEVNULL)
    assert finished.returncode == 1
    assert "1 transaction since then will be lost" in finished.stderr
    assert "Are you sure? (yes/no)" in finished.stderr


def test_dates_of_iso_8601_and_latest_restore(site: Site) -> None:
    site.set_clock("2076-11-23-17-59-00")
    stamp, first = site.backed_up()
    assert stamp == "2076-11-23-18-00-00"
    site.commit_pages(1)
    newest, second = site.backed_up()
    site.restore("2076-11-23T19:00:59.9+01:00")
    site.assert_is(first)
    site.restore("latest")
    site.assert_is(second)
    site.restore("2076-11-23T18:00:00Z")
    site.assert_is(first)
    site.backup(full=True)
    for when, taken in (newest, newest), ("2076-11-23T18:00Z", stamp):
        assert f"A restore takes the state of {taken}: the full {stamp}" in "".join(site.list(when))
        (row,) = site.verify(when).table.rows
        assert row[:2] == (stamp, taken)
    assert site.list("latest")[-2].startswith("A restore takes the state of 2076-11-23-18-")
    assert len(site.verify("latest").table.rows) == 1
    assert len(site.verify().table.rows) == 2


def test_a_date_without_a_backup_names_the_nearest_ones(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    stamps = []
    for _ in range(6):
        site.commit_pages(1)
        stamps.append(site.backed_up()[0])
    site.close()
    before = tree(site.folder)
    with pytest.raises(ZodbvaultError) as caught:
        site.restore("2076-11-22")
    assert tree(site.folder) == before
    text = str(caught.value)
    assert f"The nearest backups are {', '.join(stamps[:4])}; the newest is {stamps[-1]}." in text
    with pytest.raises(ZodbvaultError, match="nearest backups"):
        site.list("2076-11-22")
    caplog.set_level("INFO")
    between = stamps[2][:-2] + "30"
    site.restore(between)
    assert f"newest backup at or before {between}; the next one is {stamps[3]}" in caplog.text


def test_the_nearest_states_of_blobs_alone(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", options={"only_blobs": "true"})
    site.commit_blobs(1)
    site.tick(3600)
    site.backup()
    with pytest.raises(ZodbvaultError, match="The oldest backup is"):
        site.restore("2001-01-01")
    site.close()
