"""`backup-log`: the transactions in the backups, and the state before each of them comes back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest
from ZODB.FileStorage.FileStorage import FileIterator

from tests.filestorage.handmade import Handmade
from tests.schemas import documented_keys, validate
from tests.site import Site, committed_tids, generate_script, referenced_blobs, tree
from tests.stories.test_point_in_time import content_of_copy, copied_at, lived
from zodbvault.commands import log as log_module
from zodbvault.commands.log import Entry, log_as_json, log_as_text, log_transactions, parse_range
from zodbvault.errors import ZodbvaultError
from zodbvault.filestorage.tids import time_of_tid
from zodbvault.repository.timestamps import UnreadableDate
from zodbvault.site_settings import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def logged(site: Site, between: str | None = None) -> list[Entry]:
    return list(log_transactions(site.settings, between=between, which="backups"))


def told_by_zodb(datafs: Path) -> list[tuple[Any, ...]]:
    """tid, length, user, description and number of records of each transaction, newest first, as ZODB reads them."""
    iterator = FileIterator(str(datafs))
    found = [
        (each.tid, each._tend - each._tpos + 8, each.user.decode(), each.description.decode(), len(list(each)))
        for each in iterator
    ]
    iterator.close()
    return found[::-1]


def in_our_words(entries: list[Entry]) -> list[tuple[Any, ...]]:
    return [(one.tid, one.size, one.details.user, one.details.description, one.details.objects) for one in entries]


@pytest.mark.parametrize("whose", ["ours", "repozo's", "one step from done", "without .dat"])
def test_a_chain_has_the_transactions_of_the_database(site: Site, whose: str) -> None:
    for number in range(8):
        site.commit_pages(2)
        site.commit_blobs(1)
        if number == 4:
            site.undo()
        if number % 3 == 0:
            site.backup()
    with site.changing("Grüße\nund mehr") as root:
        root["big"] = {"text": "x" * 3_000_000, "more": [str(number) for number in range(10_000)]}
        site.manager.get().setUser("jürgen", "/acl_users")
    stamp, _ = site.backed_up()
    site.close()
    dat = next(site.location.glob("*.dat"))
    if whose == "repozo's":
        _as_repozo_writes(site)
    elif whose == "one step from done":
        dat.write_text("".join(dat.read_text().splitlines(keepends=True)[:-1]))
    elif whose == "without .dat":
        dat.unlink()
    before = tree(site.folder, ignore=())
    entries = logged(site)
    assert tree(site.folder, ignore=()) == before
    assert in_our_words(entries) == told_by_zodb(site.datafs)
    assert entries[0].details[:2] == ("/acl_users jürgen", "Grüße\nund mehr")
    blobs = referenced_blobs(site.data)
    for one in entries:
        assert one.details.blobs == len([tid for _, tid in blobs if tid == int.from_bytes(one.tid, "big")])
    assert entries[0].backup == stamp
    assert entries[-1].before is None
    assert all(one.before is not None for one in entries[:-1])


def _as_repozo_writes(site: Site) -> None:
    """Without records, each file one gzip member."""
    import gzip

    for path in site.location.iterdir():
        if path.suffix == ".json":
            path.unlink()
        elif path.suffix.endswith("fsz"):
            path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())))


def test_each_transaction_is_listed_once_and_the_state_before_it_comes_back(site: Site, tmp_path: Path) -> None:
    history = lived(site)
    entries = logged(site)
    listed = [one.tid for one in entries]
    assert listed == sorted(set(listed), reverse=True)
    everywhere = {tid for data in history.backups.values() for tid, _ in committed_tids(data)}
    assert set(listed) == everywhere
    known = refused = 0
    for one in entries:
        assert one.backup == history.first_that_covers(one.tid)[0]
        earlier = [moment for moment in history.moments if moment.tid < one.tid]
        folder = tmp_path / one.tid.hex()
        if one.before is None:
            just_before = (int.from_bytes(one.tid, "big") - 1).to_bytes(8, "big").hex()
            with pytest.raises(ZodbvaultError):
                copied_at(site, folder, just_before)
            refused += 1
            continue
        copied_at(site, folder, one.before.hex())
        if earlier:
            assert content_of_copy(folder) == earlier[-1].content
            known += 1
        shutil.rmtree(folder)
    assert known >= 30
    assert refused >= 4


def test_a_range_has_its_ends_and_nothing_else(site: Site) -> None:
    history = lived(site)
    listed = [one.tid for one in logged(site)]
    first, last = listed[-5], listed[7]
    assert first != last
    wanted = [tid for tid in listed if first <= tid <= last]
    assert [one.tid for one in logged(site, f"{first.hex()}..{last.hex()}")] == wanted
    assert [one.tid for one in logged(site, f"..{time_of_tid(last)}")] == [tid for tid in listed if tid <= last]
    assert [one.tid for one in logged(site, f"{last.hex()}..")] == [tid for tid in listed if tid >= last]
    assert logged(site, "2075-01-01..2075-02-01") == []
    assert logged(site, "..2001-01-01") == []
    assert [one.tid for one in logged(site, "2001-01-01..2075-01-01")] == listed
    assert len(history.moments) > len(wanted) > 20


def test_files_that_the_range_does_not_need_are_not_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    lived(site)
    newest = logged(site)[0]
    opened = []
    original = log_module.ChainBytes

    class Watched(original):  # type: ignore[misc, valid-type]
        def _file(self, number: int) -> Any:
            opened.append(self._lines[number].timestamp)
            return super()._file(number)

    monkeypatch.setattr(log_module, "ChainBytes", Watched)
    assert [one.tid for one in logged(site, f"{newest.tid.hex()}..")] == [newest.tid]
    assert set(opened) == {newest.backup}


def test_the_json_is_one_object_with_the_documented_keys(site: Site) -> None:
    site.commit_pages(1)
    stamp, _ = site.backed_up()
    entries = logged(site)
    content = json.loads("\n".join(log_as_json(entries)))
    assert list(content) == ["format", "transactions"]
    assert content["format"] == 1
    assert len(content["transactions"]) == len(entries) == len(committed_tids(site.data))
    assert content["transactions"][0] == {
        "time": time_of_tid(entries[0].tid),
        "tid": entries[0].tid.hex(),
        "user": "",
        "description": "a change",
        "objects": entries[0].details.objects,
        "bytes": entries[0].size,
        "location": "backups",
        "blobs": 0,
        "backup": stamp,
        "at_before": f"{int(entries[0].tid.hex(), 16) - 1:016x}",
    }
    assert content["transactions"][-1]["at_before"] is None
    assert {*content, *content["transactions"][0]} <= documented_keys()
    validate("log", content)
    assert json.loads("\n".join(log_as_json([]))) == {"format": 1, "transactions": []}


def test_all_places_in_one_list(site: Site) -> None:
    """A snapshot has what the backups never saw."""
    site.commit_pages(1)
    snapshot = site.snapshot().timestamp
    before = [tid for tid, _ in committed_tids(site.data)]
    site.pack()
    site.commit_pages(1)
    backup, _ = site.backed_up()
    packed = [tid for tid, _ in committed_tids(site.data)]
    entries = list(log_transactions(site.settings, between=None, which="all"))
    found = [(entry.location, entry.tid, entry.backup) for entry in entries]
    assert sorted(found) == sorted(
        [("snapshots", tid, snapshot) for tid in before] + [("backups", tid, backup) for tid in packed]
    )
    assert [entry.tid for entry in entries] == sorted((entry.tid for entry in entries), reverse=True)
    finished = site.command("backup-log", "--all")
    heading, *rows = finished.stdout.splitlines()
    assert heading.startswith("location   time (UTC)")
    assert [row.split()[0] for row in rows] == [entry.location for entry in entries]
    validate("log", json.loads(site.command("backup-log", "--all", "--json").stdout))
    assert len(site.command("backup-log").stdout.splitlines()) == 1 + len(packed)


def test_the_table_has_a_line_for_each_and_no_character_that_a_terminal_obeys(site: Site) -> None:
    with site.changing("two\nlines \x1b[31m" + "long " * 100):
        site.db.cacheMinimize()
    with site.changing("two\nlines \x1b[31m" + "long " * 100) as root:
        root["x"] = 1
    site.backup()
    entries = logged(site)
    lines = list(log_as_text(entries))
    assert len(lines) == 1 + len(entries)
    assert lines[0].split()[0] == "time"
    assert all(line.isprintable() and len(line) < 400 for line in lines)
    assert lines[1].split()[:2] == [time_of_tid(entries[0].tid), entries[0].tid.hex()]
    assert "two lines \\x1b[31m" in lines[1]
    assert list(log_as_text([])) == ["No transactions."]


@pytest.mark.parametrize("text", ["2026-11-23", "2026-11-24..2026-11-23", ""])
def test_what_is_no_range_is_wrong_usage(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_range(text)
    assert caught.value.exit_code == 2


def test_a_date_in_a_range_that_cannot_be_read(site: Site) -> None:
    with pytest.raises(UnreadableDate):
        parse_range("yesterday..")


def test_damage_is_an_error_that_names_the_file(site: Site) -> None:
    site.backup()
    site.commit_pages(1)
    stamp, _ = site.backed_up()
    path = site.location / f"{stamp}.deltafsz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ZodbvaultError, match=path.name):
        logged(site)


def test_what_is_pruned_meanwhile_is_left_out(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.options["keep"] = "1"
    site.backup()
    site.pack()
    site.commit_pages(1)
    site.options["keep"] = "0"
    site.backup()
    entries = log_transactions(site.settings, between=None, which="backups")
    newest = next(entries)
    site.options["keep"] = "1"
    site.backup(full=True)
    caplog.set_level("INFO")
    rest = list(entries)
    assert newest.tid == committed_tids(site.data)[-1][0]
    assert "was pruned meanwhile" in caplog.text
    assert len(rest) < 3


def test_twenty_thousand_transactions_need_no_more_memory_than_a_few(tmp_path: Path) -> None:
    site = Site(tmp_path / "site", blobs=False)
    many = Handmade()
    for number in range(20_000):
        many.add(records=((number % 50, bytes(1500)),))
    site.datafs.write_bytes(many.data)
    site.backup()
    assert len(many.data) > 25_000_000
    tracemalloc.start()
    try:
        count = sum(1 for _ in log_transactions(site.settings, between=None, which="backups"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert peak < 12_000_000
    site.close()


def test_the_script_comes_to_an_end_with_its_reader(site: Site) -> None:
    for _ in range(300):
        site.commit_pages(1)
    site.backup()
    site.close()
    script = generate_script(site, "backup-log")
    finished = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"'{script}' | head -n 2"], capture_output=True, text=True, timeout=60
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert len(finished.stdout.splitlines()) == 2
    as_json = site.command("backup-log", "--json")
    assert len(json.loads(as_json.stdout)["transactions"]) == len(committed_tids(site.data))
    assert site.command("backup-log", "2026-11-23").returncode == 2
    assert sys.executable in script.read_text()


def test_blobs_alone_have_no_transactions(tmp_path: Path) -> None:
    site = Site(tmp_path / "alone", options={"only_blobs": "true"})
    with pytest.raises(ConfigurationError, match="blobs alone"):
        logged(site)
    site.close()
