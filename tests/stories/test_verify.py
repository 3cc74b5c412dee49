"""`verify`: what it finds at each depth, which dates are affected; never good of what does not restore."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.layouts import LAYOUTS
from tests.schemas import validate
from tests.site import Site, State, blob_files, committed_tids
from tests.terminal import shown_on_a_terminal
from zodbvault.blobs import verifying
from zodbvault.commands.verify_result import VerifyReport, data_of
from zodbvault.errors import ZodbvaultError
from zodbvault.io.space import NotEnoughSpace
from zodbvault.repository.checks import read_checks
from zodbvault.site_settings import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def history(site: Site, number: int = 3) -> list[str]:
    return list(states(site, number))


def states(site: Site, number: int = 3) -> dict[str, State]:
    found = {}
    for _ in range(number):
        site.commit_pages(2)
        site.commit_blobs(2)
        found.update([site.backed_up()])
    return found


def verdicts(report: VerifyReport) -> dict[str, bool | None]:
    return {
        date: verdict for place in report.found for chain in place.chains for date, verdict in chain.verdicts.items()
    }


def flip(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(len(content) * at)] ^= 1
    path.unlink()
    path.write_bytes(content)


def oldest_blob(folder: Path) -> Path:
    files = blob_files(folder)
    return files[min(files, key=lambda key: key[1])]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(
    "layout",
    ["directories", "numbered directories", "copies", "numbered copies", "compressed archives"],
)
def test_an_older_date_with_damage_of_its_own_is_not_called_good(tmp_path: Path, layout: str, deep: bool) -> None:
    site = Site(tmp_path / "site", options=dict(LAYOUTS[layout]))
    backed_up = states(site)
    stamps = list(backed_up)
    every = sorted(
        (path for path in site.blob_location.glob("blobstorage.*") if path.name.count(".") < 4),
        key=lambda path: path.name,
    )
    assert len(every) == 3
    path = every[1]  # the middle one, whether by date or by number
    flip(oldest_blob(path / "blobstorage") if path.is_dir() else path)
    report = site.verify(deep=deep)
    assert verdicts(report) == {stamps[0]: True, stamps[1]: False, stamps[2]: True}
    assert not report.good
    assert site.verify(stamps[0], deep=deep).good
    assert not site.verify(stamps[1], deep=deep).good
    site.close()
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    site.datafs.unlink()
    # A restore takes the damaged blob from another backup that has it.
    site.restore(stamps[1])
    site.assert_is(backed_up[stamps[1]])
    site.restore(stamps[2])
    site.assert_is(backed_up[stamps[2]])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_good_backups_are_good_at_each_depth(tmp_path: Path, layout: str) -> None:
    site = Site(tmp_path / "site", options=dict(LAYOUTS[layout]))
    stamps = history(site)
    site.pack()
    stamps += history(site)
    for depth in ({"quick": True}, {}, {"deep": True}):
        report = site.verify(**depth)  # type: ignore[arg-type]
        assert report.good, report.lines
        assert verdicts(report) == dict.fromkeys(stamps, True)
        assert {row[-2:] for row in report.table.rows} == {("good", "all")}
        for stamp in stamps:
            assert site.verify(stamp, **depth).good  # type: ignore[arg-type]
        validate("verify", json.loads(json.dumps(data_of(report))))
    site.close()


@pytest.mark.parametrize("layout", ["pool", "directories", "archives", "incremental archives"])
@pytest.mark.parametrize("what", ["data gone", "data cut", "manifest gone", "manifest cut", "blob gone", "blob cut"])
def test_a_quick_look_sees_names_and_sizes(tmp_path: Path, layout: str, what: str) -> None:
    site = Site(tmp_path / "site", options=dict(LAYOUTS[layout]))
    stamps = history(site)
    thing, how = what.split()
    path = site.location / f"{stamps[-1]}.deltafsz"
    if thing == "manifest":
        (path,) = (each for each in site.blob_location.glob(f"{stamps[-1]}.*") if each.name.endswith("blobs.gz"))
    elif thing == "blob":
        path = _newest_holder(site, stamps[-1])
    content = path.read_bytes()
    path.unlink()
    if how == "cut":
        path.write_bytes(content[:-1])
    report = site.verify(quick=True)
    found = verdicts(report)
    # Where an archive is gone altogether a restore would take another state, and none is known for the newest.
    assert found[stamps[-1]] is not True
    assert not report.good
    assert found[stamps[0]] is True
    assert site.verify(stamps[0], quick=True).good


def _newest_holder(site: Site, stamp: str) -> Path:
    if (site.blob_location / "blobs").is_dir():
        files = blob_files(site.blob_location / "blobs")
        return files[max(files, key=lambda key: key[1])]
    (path,) = (each for each in site.blob_location.glob(f"blobstorage.{stamp}*"))
    if path.is_dir():
        files = blob_files(path / "blobstorage")
        return files[max(files, key=lambda key: key[1])]
    return path


def test_a_quick_look_reads_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = history(site)
    flip(site.location / f"{stamps[1]}.deltafsz")
    flip(oldest_blob(site.blob_location / "blobs"))
    assert site.verify(quick=True).good
    assert read_checks(site.location, stamps[0]).verified_how == "quick"  # type: ignore[union-attr]
    found = verdicts(site.verify())
    # The blob is a part of each state, the data file of those from its own on.
    assert found == dict.fromkeys(stamps, False)


def test_dates_are_told_apart(site: Site) -> None:
    stamps = history(site, 4)
    flip(site.location / f"{stamps[2]}.deltafsz")
    report = site.verify()
    assert verdicts(report) == {stamps[0]: True, stamps[1]: True, stamps[2]: False, stamps[3]: False}
    assert report.table.rows[0][-2:] == ("DAMAGED", "2 of 4")
    assert any(line.endswith(f"affected: {stamps[2]} to {stamps[3]}.") for line in report.lines)
    assert f"{stamps[0]}: dates that still restore: {stamps[0]} to {stamps[1]}." in report.lines
    assert report.lines[-1] == "4 backups checked (names, sizes and checksums): 2 restore, 2 do not or may not."
    # Only what was asked for counts.
    assert site.verify(stamps[1]).good
    assert not site.verify(stamps[2]).good
    validate("verify", json.loads(json.dumps(data_of(report))))


def test_a_blob_of_the_pool_affects_the_dates_that_name_it(site: Site) -> None:
    stamps = history(site)
    files = blob_files(site.blob_location / "blobs")
    flip(files[max(files, key=lambda key: key[1])])
    assert verdicts(site.verify()) == {stamps[0]: True, stamps[1]: True, stamps[2]: False}


def test_a_damaged_delta_manifest_leaves_the_dates_before_it_and_their_blobs_are_looked_at(site: Site) -> None:
    stamps = history(site)
    path = site.blob_location / f"{stamps[2]}.deltablobs.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-3]))
    assert verdicts(site.verify()) == {stamps[0]: True, stamps[1]: True, stamps[2]: False}
    flip(oldest_blob(site.blob_location / "blobs"))
    assert verdicts(site.verify()) == dict.fromkeys(stamps, False)


def test_a_chain_behind_the_many_findings_of_another_is_not_called_good(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying, "MOST_FINDINGS", 1)
    old = history(site, 1)
    site.pack()
    new = [site.backed_up(full=True)[0]]
    for path in blob_files(site.blob_location / "blobs").values():
        path.write_bytes(b"x" * path.stat().st_size) if os.access(path, os.W_OK) else flip(path)
    report = site.verify()
    assert verdicts(report) == dict.fromkeys(old + new, False)


def test_what_is_not_listed_counts_for_every_date(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one finding that is listed concerns the second date, the one that is not the first date too."""
    monkeypatch.setattr(verifying, "MOST_FINDINGS", 1)
    site.commit_blobs(6, names=2)
    first, _ = site.backed_up()
    known = set(blob_files(site.blob_location / "blobs"))
    site.commit_blobs(6, names=2)
    second, _ = site.backed_up()
    files = blob_files(site.blob_location / "blobs")
    changed = min(key for key in files if key not in known)
    later = max(key for key in known if key > changed)
    for key in (changed, later):
        flip(files[key])
    assert verdicts(site.verify()) == {first: False, second: False}


def test_a_chain_behind_what_is_not_listed_is_looked_at_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The finding that is listed concerns the newer chain only, one that is not listed both."""
    monkeypatch.setattr(verifying, "MOST_FINDINGS", 1)
    site.commit_blobs(6, names=2)
    old, _ = site.backed_up()
    known = set(blob_files(site.blob_location / "blobs"))
    site.commit_blobs(6, names=2)
    new, _ = site.backed_up(full=True)
    files = blob_files(site.blob_location / "blobs")
    changed = min(key for key in files if key not in known)
    for key in (changed, max(key for key in known if key > changed)):
        flip(files[key])
    assert verdicts(site.verify()) == {old: False, new: False}


@pytest.mark.parametrize("also", ["data gone", "manifest gone", "another flipped"])
def test_damage_does_not_keep_a_deep_look_from_what_stands_before_it(site: Site, also: str) -> None:
    stamps = history(site, 4)
    flip(site.location / f"{stamps[1]}.deltafsz")
    if also == "data gone":
        (site.location / f"{stamps[3]}.deltafsz").unlink()
    elif also == "manifest gone":
        (site.blob_location / f"{stamps[3]}.deltablobs.gz").unlink()
    else:
        flip(site.location / f"{stamps[3]}.deltafsz")
    rewrite_manifest(site, stamps[0], f"{stamps[0]}.blobs.gz", 1)
    report = site.verify(deep=True)
    assert verdicts(report) == dict.fromkeys(stamps, False)
    assert any(f"{stamps[1]}.deltafsz" in line for line in report.lines)
    assert any("refers to 1 blob that its manifest lacks" in line for line in report.lines)


def test_a_backup_that_ends_in_the_middle_of_a_transaction(tmp_path: Path) -> None:
    """Another program's: the next one makes the bytes whole again."""
    site = Site(tmp_path / "site", blobs=False)
    for _ in range(3):
        site.commit_pages(3)
    site.close()
    data = site.data
    cut = committed_tids(data)[-2][1] + 20
    site.location.mkdir(parents=True)
    first, second = "2076-11-23-18-05-00", "2076-11-23-18-06-00"
    lines = []
    for name, start, end in ((f"{first}.fs", 0, cut), (f"{second}.deltafs", cut, len(data))):
        (site.location / name).write_bytes(data[start:end])
        lines.append(f"{name} {start} {end} {hashlib.md5(data[start:end]).hexdigest()}\n")
    (site.location / f"{first}.dat").write_text("".join(lines))
    assert site.verify().good
    report = site.verify(deep=True)
    assert verdicts(report) == {first: False, second: True}
    assert f"{first}.fs ends in the middle of a transaction" in report.lines[0]
    with pytest.raises(ZodbvaultError):
        site.restore(first)
    site.restore(second)
    assert site.data == data


def rewrite_manifest(site: Site, stamp: str, name: str, drop: int) -> None:
    """Leave out some blobs of a manifest, and make the closing line and the record fit."""
    path = site.blob_location / name
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)[:-1]
    lines = lines[: len(lines) - drop]
    closing = b"=\t%d\t%s\n" % (len(lines), hashlib.sha256(b"".join(lines)).hexdigest().encode())
    path.write_bytes(gzip.compress(b"".join([*lines, closing])))
    record_path = site.location / f"{stamp}.json"
    record = json.loads(record_path.read_text())
    record["blobs"] |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "stored_size": path.stat().st_size}
    record_path.write_text(json.dumps(record))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_manifest_that_was_made_to_fit_is_compared_with_the_data(site: Site, which: int) -> None:
    stamps = history(site)
    kind = "blobs" if which == 0 else "deltablobs"
    rewrite_manifest(site, stamps[which], f"{stamps[which]}.{kind}.gz", 1)
    assert site.verify().good
    report = site.verify(deep=True)
    assert verdicts(report) == {stamp: number < which for number, stamp in enumerate(stamps)}
    assert any("refers to 1 blob that its manifest lacks" in line for line in report.lines)


def test_an_older_directory_whose_manifest_lacks_a_blob_is_found(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", options=dict(LAYOUTS["directories"]))
    stamps = history(site)
    rewrite_manifest(site, stamps[1], f"{stamps[1]}.directoryblobs.gz", 1)
    assert site.verify().good
    assert verdicts(site.verify(deep=True)) == {stamps[0]: True, stamps[1]: False, stamps[2]: True}


def blobs_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets the sha256 of each blob that a verification reads from now on."""
    read = []
    original = verifying.hash_blocks

    def counted(blocks: Any) -> tuple[int, str]:
        found = original(blocks)
        read.append(found[1])
        return found

    monkeypatch.setattr(verifying, "hash_blocks", counted)
    return read


def test_hard_links_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path / "site", options=dict(LAYOUTS["directories"]))
    history(site, 4)
    read = blobs_read(monkeypatch)
    assert site.verify().good
    assert len(read) == len(site.blobs)


def test_aborted_blobs_with_a_low_tid_are_tolerated(site: Site) -> None:
    history(site, 1)
    site.abort(with_blob=True)
    site.commit_pages(1)
    site.backup()
    site.backup(full=True)
    for depth in ({"quick": True}, {}, {"deep": True}):
        assert site.verify(**depth).good  # type: ignore[arg-type]


def test_records_of_a_later_version_are_a_finding_and_the_others_are_verified(site: Site) -> None:
    old = history(site, 2)
    path = site.location / f"{old[1]}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    site.clock.sleep(60)
    shutil.copy(path, site.folder / "kept")
    path.write_text(path.read_text().replace('"format": 99', '"format": 1'))
    site.pack()
    new = [site.backed_up(full=True)[0]]
    shutil.copy(site.folder / "kept", path)
    report = site.verify()
    assert verdicts(report) == {old[0]: None, old[1]: None, new[0]: True}
    assert not report.good
    assert [row[5] for row in report.table.rows] == ["UNKNOWN", "good"]
    assert any("this version of zodbvault knows up to" in line for line in report.lines)
    assert site.verify(new[0]).good


def test_the_line_against_the_record(site: Site) -> None:
    stamps = history(site)
    path = site.location / f"{stamps[1]}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "md5": "0" * 32}))
    for depth in ({"quick": True}, {}, {"deep": True}):
        report = site.verify(**depth)  # type: ignore[arg-type]
        assert verdicts(report) == {stamps[0]: True, stamps[1]: False, stamps[2]: False}
        assert "do not agree" in report.lines[0]


def test_a_backup_in_the_middle_ends_where_its_record_says(site: Site) -> None:
    stamps = history(site)
    path = site.location / f"{stamps[1]}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tail_tid": "0" * 16}))
    assert site.verify().good
    report = site.verify(deep=True)
    assert verdicts(report) == {stamps[0]: True, stamps[1]: False, stamps[2]: False}
    assert "its last transaction is not the one that its record names" in report.lines[0]


def test_a_tid_that_goes_back_is_a_warning(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    history(site, 1)
    site.commit_pages(1)
    site.close()
    # What ZODB tolerates too: the last transaction has a tid soon after that of the first.
    data = bytearray(site.datafs.read_bytes())
    tids = committed_tids(bytes(data))
    (_, end), (last, _) = tids[-2], tids[-1]
    assert data[end : end + 8] == last
    site.datafs.with_name("Data.fs.index").unlink()
    early = (int.from_bytes(tids[0][0], "big") + 1).to_bytes(8, "big")
    data = bytearray(bytes(data[:end]) + bytes(data[end:]).replace(last, early))
    site.datafs.write_bytes(data)
    stamp, _ = site.backed_up(full=True)
    caplog.clear()
    report = site.verify(stamp, deep=True)
    assert "the tid goes back" in caplog.text
    assert verdicts(report) == {stamp: True}


def test_zodb_opens_it(site: Site, tmp_path: Path) -> None:
    stamps = history(site)
    place = tmp_path / "scratch"
    place.mkdir()
    report = site.verify(deep=True, opens=True, tmp=place)
    assert report.good
    assert "the newest read by ZODB" in report.lines[-1]
    assert list(place.iterdir()) == []
    checks = read_checks(site.location, stamps[-1])
    assert checks is not None
    assert (checks.verified_how, checks.verified_good, checks.drilled_good) == ("deep", True, True)
    validate("verify", json.loads(json.dumps(data_of(report))))
    with pytest.raises(ConfigurationError, match="--open goes with --deep"):
        site.verify(opens=True)


def test_zodb_finds_what_checksums_cannot(site: Site) -> None:
    """A flipped bit that was there before the backup."""
    history(site, 1)
    site.commit_pages(3)
    site.close()
    data = bytearray(site.datafs.read_bytes())
    start = data.rindex(b"\x80", 0, data.rindex(b"PersistentMapping"))
    data[start + 1] = 0xFF  # a pickle protocol of the far future
    site.datafs.write_bytes(data)
    site.datafs.with_name("Data.fs.index").unlink()
    stamp, _ = site.backed_up()
    assert site.verify(deep=True).good
    report = site.verify(deep=True, opens=True)
    assert verdicts(report)[stamp] is False
    assert "cannot be unpickled" in report.lines[0]


def test_no_room_to_open_it_says_nothing_of_the_backup(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from zodbvault.commands import drill

    def full(*_: object) -> None:
        raise NotEnoughSpace("no space")

    stamps = history(site, 1)
    monkeypatch.setattr(drill, "restore_copy", full)
    report = site.verify(deep=True, opens=True)
    assert not report.good
    assert verdicts(report) == {stamps[0]: True}
    assert any("not opened: no space" in line for line in report.lines)


def test_blobs_alone_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(tmp_path / "site", options={"only_blobs": "true"})
    stamps = []
    for _ in range(3):
        site.commit_blobs(2)
        site.tick(3600)
        stamps.append(str(site.backup().timestamp))
    read = blobs_read(monkeypatch)
    assert site.verify().good
    assert len(read) == len(site.blobs)
    files = blob_files(site.blob_location / "blobs")
    flip(files[max(files, key=lambda key: key[1])])
    # Whoever only looks at names and sizes does not see it.
    assert site.verify(quick=True).good
    assert verdicts(site.verify()) == {stamps[0]: True, stamps[1]: True, stamps[2]: False}
    assert verdicts(site.verify(quick=True)) == {stamps[0]: True, stamps[1]: True, stamps[2]: False}
    with pytest.raises(ConfigurationError, match="no database to open"):
        site.verify(deep=True, opens=True)


def test_the_script_its_json_and_a_terminal(site: Site) -> None:
    stamps = history(site)
    finished = site.command("backup-verify", "--json")
    assert finished.returncode == 0
    content = json.loads(finished.stdout)
    validate("verify", content)
    assert next(iter(content)) == "format"
    assert content["good"] is True
    (place,) = content["locations"]
    assert [one["timestamp"] for one in place["chains"][0]["backups"]] == stamps
    assert place["chains"][0]["blobs"] == len(site.blobs)
    flip(site.location / f"{stamps[1]}.deltafsz")
    assert site.command("backup-verify", "--quick", "-q").returncode == 0
    finished = site.command("backup-verify", "--json", "-q")
    assert finished.returncode == 1
    assert json.loads(finished.stdout)["good"] is False
    # It does not clear what was found.
    assert site.command("backup-verify", "--quick", "-q").returncode == 1
    assert site.command("backup-verify", stamps[0]).returncode == 0
    finished = site.command("backup-verify", "--deep")
    assert finished.returncode == 1
    assert re.search(r"^backups from \(UTC\) +to +backups .*restore$", finished.stdout, re.MULTILINE)
    assert f"affected: {stamps[1]} to {stamps[2]}." in finished.stdout
    assert site.command("backup-verify", "--open").returncode == 2
    flip(site.location / f"{stamps[1]}.deltafsz")
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    drawn = shown_on_a_terminal([str(site.folder / "bin" / "backup-verify"), "--deep"], environment)
    assert "─" in drawn
    assert "good" in drawn


def test_an_empty_place_is_not_good(site: Site) -> None:
    report = site.verify()
    assert not report.good
    assert report.table.rows == ()
    assert report.lines == (f"No backups in {site.location}.",)
    validate("verify", json.loads(json.dumps(data_of(report))))


@pytest.mark.parametrize("damage", ["none", "content", "cut", "gone"])
def test_directories_of_another_program_are_compared_with_what_ours_knows_later(tmp_path: Path, damage: str) -> None:
    """As after moving over: the older dates have directories without a manifest, the newest has ours."""
    site = Site(tmp_path / "site", options={"blob_layout": "directories"})
    stamps = history(site, 2)
    for stamp in stamps:
        (site.blob_location / f"{stamp}.directoryblobs.gz").unlink()
        (site.location / f"{stamp}.json").unlink()
    site.options["blob_layout"] = "pool"
    assert site.backup().timestamp == stamps[1]
    site.commit_blobs(1)
    stamps.append(site.backed_up()[0])
    path = oldest_blob(site.blob_location / f"blobstorage.{stamps[0]}" / "blobstorage")
    content = path.read_bytes()
    if damage != "none":
        path.unlink()
    if damage == "content":
        path.write_bytes(bytes(byte ^ 1 for byte in content))
    elif damage == "cut":
        path.write_bytes(content[:-1])
    for deep in (False, True):
        report = site.verify(deep=deep)
        # What is gone there a restore takes from the pool.
        assert verdicts(report) == {stamps[0]: damage in ("none", "gone"), stamps[1]: True, stamps[2]: True}
    site.close()
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    if damage in ("none", "gone"):
        site.restore(stamps[0])


@pytest.mark.parametrize("depth", ["quick", "default", "deep"])
def test_what_is_wrong_with_a_manifest_is_told_once_for_all_its_dates(site: Site, depth: str) -> None:
    site.commit_blobs(3)
    stamps = [site.backed_up()[0]]
    for _ in range(3):
        site.commit_blobs(1)
        stamps.append(site.backed_up()[0])
    flip(site.blob_location / f"{stamps[0]}.blobs.gz")
    report = site.verify(deep=depth == "deep", quick=depth == "quick")
    (told,) = (line for line in report.lines if "affected: " in line)
    assert f"{stamps[0]}.blobs.gz" in told
    assert told.endswith(f"; affected: {stamps[0]} to {stamps[-1]}.")
    assert not report.good
    # Of two manifests each is told.
    paths = [site.blob_location / name for name in (f"{stamps[0]}.blobs.gz", f"{stamps[2]}.deltablobs.gz")]
    flip(paths[1])
    (chain,) = site.verify(deep=depth == "deep", quick=depth == "quick").found[0].chains
    assert len(chain.findings) == 2
    for finding, path in zip(chain.findings, paths, strict=True):
        assert path.name in finding.what
        assert path.name.startswith(finding.dates[0])
    assert chain.findings[1].dates == tuple(stamps[2:])
