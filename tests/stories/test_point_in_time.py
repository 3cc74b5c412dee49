"""`restore --at`: after each transaction of a real history, against what the site was then."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import transaction
import ZODB
from persistent.timestamp import TimeStamp
from ZODB.blob import Blob
from ZODB.FileStorage import FileStorage

from tests.site import Site, State, committed_tids, referenced_blobs, timestamp
from tests.stories.test_dry_run import all_there
from tests.stories.test_restore_to import assert_copy_is
from zodbvault.commands import restore as restoring
from zodbvault.commands.point_in_time import parse_point
from zodbvault.commands.restore_plan import plan_as_text, plan_restore
from zodbvault.errors import ZodbvaultError
from zodbvault.filestorage.tids import tid_at, time_of_tid
from zodbvault.repository.timestamps import UnreadableDate

if TYPE_CHECKING:
    from pathlib import Path

    from zodbvault.commands.summary import RestoreReport


@dataclass
class Moment:
    """The site after one transaction, and what its pages and blobs say."""

    tid: bytes
    state: State
    content: dict[str, Any]


@dataclass
class History:
    """moments: after each transaction, oldest first. backups: the bytes of each, by timestamp."""

    site: Site
    moments: list[Moment] = field(default_factory=list)
    backups: dict[str, bytes] = field(default_factory=dict)

    def first_that_covers(self, tid: bytes) -> tuple[str, bytes]:
        """The oldest backup with a transaction that is as late."""
        return next((stamp, data) for stamp, data in self.backups.items() if committed_tids(data)[-1][0] >= tid)

    def live(self, *numbers: int) -> None:
        """A transaction for each number; what it is depends on the number."""
        for number in numbers:
            if number % 5 == 0:
                self.site.commit_blobs(2, 500, names=4)
            elif number % 5 == 4:
                self.site.delete()
            elif number % 5 != 3 or not self.site.undo():
                self.site.commit_pages(2)
            data = self.site.data
            tid = committed_tids(data)[-1][0]
            assert not self.moments or tid > self.moments[-1].tid
            state = State(data, self.site.blobs, referenced_blobs(data))
            self.moments.append(Moment(tid, state, content_of(self.site.db)))

    def back_up(self, *, full: bool = False) -> None:
        report = self.site.backup(full=full)
        assert report.timestamp is not None
        self.backups[report.timestamp] = self.site.data


def content_of(database: ZODB.DB) -> dict[str, Any]:
    """What ZODB reads: all pages and blobs of the root."""
    connection = database.open(transaction.TransactionManager())
    found = {}
    for name, value in connection.root().items():
        if isinstance(value, Blob):
            with value.open() as file:
                found[name] = file.read()
        else:
            found[name] = dict(value)
    connection.close()
    return found


def content_of_copy(folder: Path) -> dict[str, Any]:
    """The same of a copy that was restored."""
    datafs, blobs = folder / "filestorage/Data.fs", folder / "blobstorage"
    database = ZODB.DB(FileStorage(str(datafs), blob_dir=str(blobs), read_only=True))
    try:
        return content_of(database)
    finally:
        database.close()


def lived(site: Site) -> History:
    """A history with undone changes, deleted blobs, packs now and packs to an earlier moment, several chains."""
    history = History(site)
    site.begin_with_a_blob()
    history.live(*range(6))
    history.back_up()
    history.live(*range(6, 10))
    history.back_up()
    history.live(*range(10, 14))
    history.back_up()
    history.live(*range(14, 20))
    history.back_up(full=True)
    history.live(*range(20, 26))
    history.back_up()
    history.live(*range(26, 30))
    site.pack()  # what is in no backup yet is written anew, too
    history.live(30, 31)
    history.back_up()
    history.live(32, 33, 34)
    until = TimeStamp(history.moments[-1].tid).timeTime() + 0.0001
    history.live(35, 36, 37)
    site.pack(until=until)
    history.live(38)
    history.back_up()
    history.live(39)
    history.back_up()
    return history


def copied_at(site: Site, folder: Path | None, at: str) -> RestoreReport:
    return restoring.restore(
        site.settings,
        source="location",
        when=None,
        ask=None,
        clock=site.clock,
        accept_missing_blobs=False,
        checksum=False,
        at=at,
        to=folder,
    )


def restored_at(site: Site, at: str) -> RestoreReport:
    site.close()
    return copied_at(site, None, at)


@pytest.fixture(params=["ours", "repozo's"])
def history(request: pytest.FixtureRequest, site: Site) -> History:
    """Of a repository with records, and of one without any."""
    found = lived(site)
    if request.param == "repozo's":
        for name in site.names():
            if name.endswith(".json"):
                (site.location / name).unlink()
    return found


def test_each_transaction_is_restored_as_it_was_or_refused(site: Site, history: History, tmp_path: Path) -> None:
    exact = logical = refused = 0
    for moment in history.moments:
        stamp, data = history.first_that_covers(moment.tid)
        folder = tmp_path / moment.tid.hex()
        packed = [tid for tid, end in committed_tids(data) if data[_header_of(data, end) + 16 :][:1] == b"p"]
        if packed and moment.tid < packed[-1]:
            before = all_there(site.folder)
            with pytest.raises(ZodbvaultError, match="packed before the backup of " + stamp) as caught:
                copied_at(site, folder, moment.tid.hex())
            assert packed[-1].hex() in str(caught.value)
            assert all_there(site.folder) == before
            refused += 1
            continue
        report = copied_at(site, folder, moment.tid.hex())
        assert report.timestamp == stamp
        found = (folder / "filestorage/Data.fs").read_bytes()
        if data.startswith(moment.state.data):
            assert_copy_is(folder, moment.state)
            exact += 1
        else:
            # Written anew by a pack up to this moment or an earlier one: other bytes, the same pages.
            assert data.startswith(found)
            assert committed_tids(found)[-1][0] <= moment.tid
            logical += 1
        assert content_of_copy(folder) == moment.content
        shutil.rmtree(folder)
    # 26 to 28 and 32 to 33 are older than a pack that their first backup has been through.
    assert (exact, logical, refused) == (30, 5, 5)


def _header_of(data: bytes, end: int) -> int:
    return end - 8 - int.from_bytes(data[end - 8 : end], "big")


def test_the_live_site_goes_there_and_back(site: Site) -> None:
    history = lived(site)
    whole = [
        moment for moment in history.moments if history.first_that_covers(moment.tid)[1].startswith(moment.state.data)
    ]
    for moment in [*whole[::4], *whole[::-5]]:
        restored_at(site, moment.tid.hex())
        site.assert_is(moment.state)
    site.restore()
    assert site.data == list(history.backups.values())[-1]
    site.read_everything()


def test_a_moment_between_two_transactions_means_the_earlier_one(site: Site, tmp_path: Path) -> None:
    history = lived(site)
    for earlier, later in zip(history.moments[2:9], history.moments[3:10], strict=True):
        just_before = (int.from_bytes(later.tid, "big") - 1).to_bytes(8, "big")
        for number, at in enumerate((f"0x{just_before.hex().upper()}", earlier.tid.hex(), time_of_tid(earlier.tid))):
            folder = tmp_path / f"{later.tid.hex()}-{number}"
            copied_at(site, folder, at)
            assert_copy_is(folder, earlier.state)


def test_an_undo_and_the_blobs_of_later_transactions(site: Site) -> None:
    """The blobs are those of the backup that follows, without what came after the moment."""
    site.commit_blobs(3)
    site.backup()
    site.commit_blobs(2)
    moment = site.state()
    assert moment.last_tid is not None
    site.commit_blobs(4)
    site.undo()
    stamp, later = site.backed_up()
    assert set(later.blobs) > set(moment.blobs)
    report = restored_at(site, moment.last_tid.hex())
    assert report.timestamp == stamp
    assert f"tid {moment.last_tid.hex()}" in report.summary
    site.assert_is(moment)
    site.restore()
    site.assert_is(later)


def test_beyond_the_newest_backup_is_refused(site: Site, tmp_path: Path) -> None:
    stamp, state = site.backed_up()
    assert state.last_tid is not None
    site.commit_pages(1)
    beyond = site.state().last_tid
    assert beyond is not None
    site.close()
    before = all_there(site.folder)
    for at in (beyond.hex(), "2075-01-01T00:00:00Z", f"{int(state.last_tid.hex(), 16) + 1:016x}"):
        with pytest.raises(ZodbvaultError, match="no backup goes as far as") as caught:
            restored_at(site, at)
        assert caught.value.exit_code == 1
        assert stamp in str(caught.value)
        assert state.last_tid.hex() in str(caught.value)
    with pytest.raises(ZodbvaultError, match="no transaction at or before"):
        restored_at(site, "2001-01-01")
    assert all_there(site.folder) == before
    copied_at(site, tmp_path / "copy", state.last_tid.hex())
    assert_copy_is(tmp_path / "copy", state)


def test_a_restore_that_went_back_hides_nothing_that_was_backed_up(site: Site) -> None:
    """Restored to Monday on Wednesday: Tuesday is still in its backup, whatever came after."""
    monday, _ = site.backed_up()
    site.commit_blobs(2)
    tuesday = site.state()
    site.commit_pages(2)
    site.backup()
    site.restore(monday)
    site.commit_pages(1)
    site.backup()
    assert tuesday.last_tid is not None
    restored_at(site, tuesday.last_tid.hex())
    site.assert_is(tuesday)


def test_the_plan_names_the_transaction(site: Site) -> None:
    site.backup()
    site.commit_pages(1)
    moment = site.state()
    site.commit_pages(1)
    site.backup()
    site.close()
    assert moment.last_tid is not None
    before = all_there(site.folder)
    plan = plan_restore(site.settings, source="location", when=None, checksum=False, at=moment.last_tid.hex())
    assert all_there(site.folder) == before
    assert (plan.tid, plan.size) == (moment.last_tid, len(moment.data))
    assert plan.loss is not None
    assert "1 transaction since then will be lost" in plan.loss.sentence
    assert any(moment.last_tid.hex() in line for line in plan_as_text(plan))


def test_an_index_is_placed_only_where_it_belongs(site: Site) -> None:
    site.close()
    stamp, _ = site.backed_up()
    assert f"{stamp}.index" in site.names()
    site.commit_pages(1)
    moment = site.state()
    site.commit_pages(3)
    site.backup()
    index = site.datafs.with_name("Data.fs.index")
    assert moment.last_tid is not None
    restored_at(site, moment.last_tid.hex())
    assert index.read_bytes() == (site.location / f"{stamp}.index").read_bytes()
    site.assert_is(moment)
    first = committed_tids(moment.data)[1][0]
    restored_at(site, first.hex())
    assert not index.exists()


def test_directories_of_another_program_serve_too(site: Site, tmp_path: Path) -> None:
    assert site.blob_storage is not None
    site.backup()
    site.commit_blobs(2)
    moment = site.state()
    site.commit_blobs(3)
    stamp, _ = site.backed_up()
    shutil.rmtree(site.blob_location)
    shutil.copytree(site.blob_storage, site.blob_location / f"blobstorage.{stamp}" / "blobstorage")
    assert moment.last_tid is not None
    copied_at(site, tmp_path / "copy", moment.last_tid.hex())
    assert_copy_is(tmp_path / "copy", moment)
    # What nobody knows to be whole removes nothing from the site.
    restored_at(site, moment.last_tid.hex())
    assert site.data == moment.data
    assert set(site.blobs) > set(moment.blobs)


def test_damage_behind_the_moment_is_damage(site: Site, tmp_path: Path) -> None:
    """The md5 of a file is compared to its end, also where less of it is restored."""
    site.backup()
    site.commit_pages(1)
    moment = site.state()
    site.commit_pages(1)
    stamp, _ = site.backed_up()
    dat = next(site.location.glob("*.dat"))
    text = dat.read_text()
    dat.write_text(text[:-2] + ("0" if text[-2] != "0" else "1") + "\n")
    assert moment.last_tid is not None
    with pytest.raises(ZodbvaultError, match="md5"):
        copied_at(site, tmp_path / "copy", moment.last_tid.hex())
    assert stamp in text


@pytest.mark.parametrize(
    ("text", "tid"),
    [
        ("040d38edadfdc033", "040d38edadfdc033"),
        ("0x040D38EDADFDC033", "040d38edadfdc033"),
        ("2026-11-24T03:25:40.779191Z", None),
        ("2026-11-24-03-25-40", None),
    ],
)
def test_what_may_be_written_for_a_moment(text: str, tid: str | None) -> None:
    found = parse_point(text)
    if tid is not None:
        assert found.hex() == tid
    else:
        assert tid_at(1795490740) <= found < tid_at(1795490741)
        assert timestamp(1795490740) == "2026-11-24-03-25-40"


@pytest.mark.parametrize("text", ["latest", "yesterday", "2026-11-24T03:25:40", "040d38edadfdc03", "1850-01-01", ""])
def test_what_is_no_moment_is_wrong_usage(text: str) -> None:
    with pytest.raises(UnreadableDate) as caught:
        parse_point(text)
    assert caught.value.exit_code == 2


def test_on_the_command_line(site: Site, tmp_path: Path) -> None:
    site.backup()
    moment = site.state()
    site.commit_pages(1)
    site.backup()
    site.close()
    assert moment.last_tid is not None
    finished = site.command("restore", "-n", f"--at={time_of_tid(moment.last_tid)}")
    assert finished.returncode == 0, finished.stderr
    site.assert_is(moment)
    site.close()
    assert site.command("restore", "-n", "--at", moment.last_tid.hex(), "2026-11-23").returncode == 2
    assert site.command("restore", "-n", "--at", "yesterday").returncode == 2
    alone = Site(tmp_path / "alone", options={"only_blobs": "true"})
    alone.commit_blobs(1)
    alone.tick(3600)
    alone.backup()
    alone.close()
    for flags in (["-n"], ["--dry-run"]):
        assert alone.command("restore", *flags, "--at", "2026-11-23").returncode == 2
