"""`drill`: a rehearsed restore says what a real one would bring, and leaves nothing but its result."""

from __future__ import annotations

import json
import os
import re
import shutil
from typing import TYPE_CHECKING

import pytest
from zc.zlibstorage import ZlibStorage

from tests.schemas import documented_keys, validate
from tests.site import Site, blob_files, tree
from tests.stories.test_restore_to import held
from zodbvault.commands import drill as drill_module
from zodbvault.commands import reading
from zodbvault.commands.drill import DrillReport, about_text, drill, drill_as_data, drill_as_text
from zodbvault.errors import ZodbvaultError
from zodbvault.io.space import NotEnoughSpace
from zodbvault.repository.checks import read_checks

if TYPE_CHECKING:
    from pathlib import Path

    from zodbvault.commands.restore_choice import Request, Said
    from zodbvault.commands.summary import RestoreReport
    from zodbvault.settings import Settings


def drilled(site: Site, when: str | None = None, *, sample: int | None = None, tmp: Path | None = None) -> DrillReport:
    site.tick()
    return drill(site.settings, when=when, which="backups", sample=sample, tmp=tmp, clock=site.clock)


def without_checks(site: Site) -> dict[str, tuple[int, int, int]]:
    found = tree(site.folder, ignore=())
    return {name: status for name, status in found.items() if not name.endswith(".checks.json")}


def test_a_good_backup_is_read_whole_and_nothing_is_left(site: Site) -> None:
    for _ in range(3):
        site.commit_pages(3)
        site.commit_blobs(2)
        site.backup()
    stamp = site.timestamps()[-1]
    site.commit_pages(1)
    before = without_checks(site)
    locks = [site.location / ".zodbvault.lock", site.blob_location / ".zodbvault.lock"]
    with held(*locks):
        report = drilled(site)
    assert without_checks(site) == before
    assert report.good
    assert report.timestamp == stamp
    assert report.reading is not None
    assert report.reading.objects == report.reading.read > 5
    with site.changing() as root:
        assert report.reading.blobs == len([name for name in root if name.startswith("blob")])
    checks = read_checks(site.location, stamp)
    assert checks is not None
    assert checks.drilled == "2076-11-23T18:09:00Z"
    assert (checks.drilled_good, checks.drill_seconds) == (True, report.seconds)
    text = "\n".join(drill_as_text(report))
    assert f"{stamp}: rehearsed: good" in text
    assert re.search(r"A real restore would take about \d+ s\.", text)


def test_a_date_is_rehearsed_and_what_a_verification_found_stays(site: Site) -> None:
    first, _ = site.backed_up()
    site.commit_blobs(1)
    site.backup()
    site.verify()
    assert drilled(site, first).timestamp == first
    checks = read_checks(site.location, first)
    assert checks is not None
    assert checks.verified_good
    assert checks.drilled_good
    assert read_checks(site.location, site.timestamps()[-1]) != checks
    site.verify()
    assert read_checks(site.location, first) == checks._replace(
        verified=read_checks(site.location, first).verified  # type: ignore[union-attr]
    )


@pytest.mark.parametrize("damage", ["data", "pool", "gone from the pool"])
def test_damage_is_a_failure_that_is_kept(site: Site, damage: str) -> None:
    stamp, _ = site.backed_up()
    if damage == "data":
        path = site.location / f"{stamp}.fsz"
    else:
        path = max(blob_files(site.blob_location / "blobs").values(), key=lambda each: each.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    os.chmod(path, 0o600)
    path.write_bytes(content)
    if damage == "gone from the pool":
        path.unlink()
    report = drilled(site)
    assert not report.good
    assert report.reading is None
    assert path.name in report.failures[0]
    checks = read_checks(site.location, stamp)
    assert checks is not None
    assert (checks.drilled_good, checks.verified) == (False, None)
    assert any(line.startswith("  FAILED: ") for line in drill_as_text(report))
    assert not any("real restore" in line for line in drill_as_text(report))
    assert not list(site.datafs.parent.glob("zodbvault-drill*"))


def test_a_blob_that_the_site_had_lost_is_a_failure(site: Site) -> None:
    """The backup is what the site was; that the site lacks a blob is what a rehearsal is there to find."""
    assert site.blob_storage is not None
    with site.changing() as root:
        newest = next(root[name] for name in root if name.startswith("blob"))
        with newest.open("w") as file:
            file.write(b"soon lost")
        oid = newest._p_oid
    lost = max(key for key in site.blobs if key[0] == int.from_bytes(oid, "big"))
    blob_files(site.blob_storage)[lost].unlink()
    site.backup()
    report = drilled(site)
    assert report.failed == 1
    assert report.failures[0] == f"the blob of object 0x{lost[0]:016x}, transaction {lost[1]:016x}, is missing"


@pytest.mark.parametrize("what", ["shorter", "gone"])
def test_a_blob_that_arrives_in_another_size_is_a_failure(
    site: Site, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older revisions too, which no object that ZODB reads refers to any more."""
    site.commit_blobs(6, names=2)
    site.commit_blobs(6, names=2)
    _, state = site.backed_up()
    original = drill_module.restore_copy

    def spoiled(settings: Settings, request: Request, folder: Path, said: Said) -> RestoreReport:
        report = original(settings, request, folder, said)
        files = blob_files(folder / "blobstorage")
        oldest = min((key for key in files if len(state.blobs[key]) > 3), key=lambda key: key[1])
        os.chmod(files[oldest], 0o600)
        if what == "gone":
            files[oldest].unlink()
        else:
            files[oldest].write_bytes(b"x")
        return report

    monkeypatch.setattr(drill_module, "restore_copy", spoiled)
    report = drilled(site)
    assert any("a blob of" in failure and "bytes is" in failure for failure in report.failures)
    assert report.failed >= 1


def test_an_object_that_cannot_be_read_is_a_failure(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A flipped bit that was there before the backup: all checksums fit, only reading finds it."""
    site.commit_pages(3)
    site.close()
    data = bytearray(site.datafs.read_bytes())
    at = data.rindex(b"PersistentMapping")
    start = data.rindex(b"\x80", 0, at)
    data[start + 1] = 0xFF  # a pickle protocol of the far future
    site.datafs.write_bytes(data)
    site.datafs.with_name("Data.fs.index").unlink()
    site.backup()
    report = drilled(site)
    assert report.failed >= 1
    assert re.search(r"object 0x[0-9a-f]{16} cannot be unpickled", report.failures[0])
    assert report.reading is not None


def test_many_failures_are_counted_and_some_are_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.backup()
    site.close()
    monkeypatch.setattr(reading, "MOST_FAILURES", 1)
    monkeypatch.setattr(reading, "_plain", lambda _: b"no pickle")
    report = drilled(site)
    assert report.reading is not None
    assert report.failed >= report.reading.objects > 2
    assert any(re.search(r"FAILED: \d+ more object", line) for line in drill_as_text(report))


def test_a_sample_reads_so_many(site: Site) -> None:
    for _ in range(10):
        site.commit_pages(5)
    site.backup()
    report = drilled(site, sample=3)
    assert report.reading is not None
    assert report.reading.objects > report.reading.read == 3
    assert any("3 of" in line for line in drill_as_text(report))
    whole = drilled(site, sample=10**6).reading
    assert whole is not None
    assert whole.objects == whole.read


def test_undone_creations_packs_and_compressed_records_are_no_failures(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", wrap=ZlibStorage)
    with site.changing() as root:
        root["text"] = {"long": "the same again and again " * 300}
    site.commit_pages(3)
    site.undo()
    site.commit_blobs(2)
    site.pack()
    site.commit_pages(2)
    site.undo()
    site.backup()
    report = drilled(site)
    assert report.failures == ()
    assert report.reading is not None
    assert report.reading.blobs > 0
    site.close()


def test_a_lawn_blobs_alone_an_empty_database_and_one_without_blobs(tmp_path: Path) -> None:
    lawn = Site(tmp_path / "lawn", layout="lawn")
    lawn.commit_blobs(2)
    lawn.backup()
    assert drilled(lawn).good
    lawn.close()
    alone = Site(tmp_path / "alone", options={"only_blobs": "true"})
    alone.commit_blobs(3)
    alone.tick(3600)
    stamp = alone.backup().timestamp
    assert stamp is not None
    report = drilled(alone)
    assert (report.good, report.reading, report.timestamp) == (True, None, stamp)
    assert read_checks(alone.blob_location, stamp) is not None
    next(iter(blob_files(alone.blob_location / "blobs").values())).unlink()
    assert not drilled(alone).good
    alone.close()
    empty = Site(tmp_path / "empty", blobs=False)
    empty.datafs.write_bytes(b"FS30")
    empty.backup()
    assert drilled(empty).good
    without = Site(tmp_path / "without", blobs=False)
    without.commit_pages(1)
    without.backup()
    assert drilled(without).good
    without.close()


def test_directories_of_another_program_are_rehearsed_too(site: Site) -> None:
    stamp, state = site.backed_up()
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_location)
    stored = site.blob_location / f"blobstorage.{stamp}" / "blobstorage"
    shutil.copytree(site.blob_storage, stored)
    assert drilled(site).good
    key = next(iter(state.needed))
    blob_files(stored)[key].unlink()
    report = drilled(site)
    assert not report.good
    assert f"{stamp}.blobs.gz: is missing; neither another state nor " in report.failures[0]


def test_another_place_too_little_space_and_no_place(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stamp, _ = site.backed_up()
    place = tmp_path / "scratch"
    with pytest.raises(ZodbvaultError, match="no folder for the rehearsal"):
        drilled(site, tmp=place)
    place.mkdir()
    assert drilled(site, tmp=place).good
    assert list(place.iterdir()) == []
    kept = read_checks(site.location, stamp)
    with pytest.raises(ZodbvaultError, match="is in a folder of the site or its backups"):
        drilled(site, tmp=site.location)

    from zodbvault.io import space

    monkeypatch.setattr(space, "free_bytes", lambda _: 10)
    # That there is no room for a rehearsal says nothing of the backup.
    with pytest.raises(NotEnoughSpace):
        drilled(site, tmp=place)
    assert read_checks(site.location, stamp) == kept
    assert list(place.iterdir()) == []


def test_a_repository_that_cannot_be_written_is_no_error(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp, _ = site.backed_up()
    monkeypatch.setattr(drill_module, "write_checks", lambda *_: False)
    assert drilled(site).good
    assert read_checks(site.location, stamp) is None


def test_what_a_killed_rehearsal_left_goes_with_the_next_one_and_a_running_one_stays(site: Site) -> None:
    site.backup()
    place = site.datafs.parent
    for name in ("killed", "killed just now", "running", "being made", "being locked", "killed while it was made"):
        folder = place / f"zodbvault-drill-{name}"
        folder.mkdir()
        if "made" not in name:
            (folder / "site").mkdir()
            (folder / "lock").write_text(" 4711\n" if "killed" in name else "")
    for name in ("killed just now", "being made", "being locked"):
        os.utime(place / f"zodbvault-drill-{name}", (site.clock.now(), site.clock.now()))
    with held(place / "zodbvault-drill-running" / "lock"):
        assert drilled(site).good
    assert sorted(path.name for path in place.glob("zodbvault-drill*")) == [
        "zodbvault-drill-being locked",
        "zodbvault-drill-being made",
        "zodbvault-drill-running",
    ]


def test_the_json_has_the_documented_keys(site: Site) -> None:
    stamp, _ = site.backed_up()
    report = drilled(site)
    content = json.loads(json.dumps(drill_as_data(report)))
    assert list(content) == [
        "format",
        "location",
        "timestamp",
        "good",
        "seconds",
        "objects",
        "objects_read",
        "blobs_read",
        "encrypted",
        "failed",
        "failures",
    ]
    assert (content["format"], content["timestamp"], content["good"]) == (1, stamp, True)
    assert content["objects"] == content["objects_read"]
    assert set(content) <= documented_keys()
    validate("drill", content)


def test_all_places_are_rehearsed(site: Site) -> None:
    site.options["enable_zipbackup"] = "true"
    backup, _ = site.backed_up()
    snapshot = site.snapshot().timestamp
    assert snapshot is not None
    finished = site.command("backup-drill", "--all", "--json")
    content = json.loads(finished.stdout)
    validate("drill", content)
    found = [(one["location"], one["timestamp"], one["good"]) for one in content["drills"]]
    assert found == [("backups", backup, True), ("snapshots", snapshot, True)]
    assert content["good"] is True
    assert read_checks(site.settings.snapshotlocation, snapshot).drilled_good  # type: ignore[union-attr]
    finished = site.command("backup-drill", "--all")
    assert f"backups: {backup}: rehearsed: good" in finished.stdout
    assert f"snapshots: {snapshot}: rehearsed: good" in finished.stdout
    path = site.settings.snapshotlocation / f"{snapshot}.fsz"
    path.write_bytes(path.read_bytes()[:-1])
    finished = site.command("backup-drill", "--all", "--json")
    assert finished.returncode == 1
    content = json.loads(finished.stdout)
    validate("drill", content)
    assert [one["good"] for one in content["drills"]] == [True, False]
    # Nothing anywhere is an error.
    assert site.command("backup-drill", "--all", "2001-01-01").returncode == 1


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "1 s"), (12.4, "12 s"), (89.0, "89 s"), (170.0, "3 min"), (5400.0, "1.5 h")]
)
def test_a_time_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert about_text(seconds) == text


def test_the_script(site: Site) -> None:
    site.commit_pages(3)
    site.pack()
    site.commit_pages(2)
    stamp, _ = site.backed_up()
    finished = site.command("backup-drill", "-q")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    finished = site.command("backup-drill", "--sample", "2", stamp)
    assert finished.returncode == 0
    assert "rehearsed: good" in finished.stdout
    assert "WARNING" not in finished.stderr
    assert site.command("backup-drill", "2001-01-01").returncode == 1
    (site.location / f"{stamp}.fsz").write_bytes(b"broken")
    finished = site.command("backup-drill", "-q")
    assert finished.returncode == 1
    assert "FAILED" in finished.stdout
