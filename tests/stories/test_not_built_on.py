"""A backup never builds on what a cheap look shows to be broken: it starts over with a full, which restores."""

from __future__ import annotations

import gzip
import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.layouts import LAYOUTS
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - min(20, len(content) // 2)])


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def garble(path: Path) -> None:
    """As many bytes as before, and none of them right."""
    path.write_bytes(b"x" * path.stat().st_size)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def contradict(key: str, value: object) -> Callable[[Path], None]:
    """Let a record say something else than the `.dat` file does."""

    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    return change


def spoil_closing_line(path: Path) -> None:
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    assert lines[-1].startswith(b"=")
    path.write_bytes(gzip.compress(b"".join(lines[:-1]) + b"=\t7\tno sum\n"))


def change_lines(path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:-1], lines[-1].replace(" ", " 9", 1)]))


DATA = {"data missing": "unlink", "data cut": cut, "data extended": extend, "data empty": empty}
MANIFEST = {
    "manifest missing": "unlink",
    "manifest cut": cut,
    "manifest extended": extend,
    "manifest's closing line wrong": spoil_closing_line,
}
RECORD = {
    "record garbled": garble,
    "record cut": halve,
    "record empty": empty,
    "record of other bytes": contradict("end", 4711),
    "record of another file": contradict("data_name", "2001-01-01-00-00-00.deltafsz"),
    "record of another content": contradict("md5", "0" * 32),
    "record of another time": contradict("timestamp", "2001-01-01-00-00-00"),
    "record's stored size wrong": contradict("stored_size", 3),
}
DAT = {"dat garbled": garble, "dat cut": halve, "dat empty": empty, "dat with a wrong line": change_lines}

DAMAGES = {**DATA, **MANIFEST, **RECORD, **DAT}
LAYOUTS_TRIED = ("pool", "directories", "numbered directories", "archives", "incremental archives")


def damaged_file(site: Site, full: str, newest: str, damage: str) -> Path:
    if damage in DATA:
        return next(site.location.glob(f"{newest}.*fsz"))
    if damage in MANIFEST:
        return next(path for path in site.blob_location.glob(f"{newest}.*") if path.name.endswith("s.gz"))
    return site.location / (f"{full}.dat" if damage in DAT else f"{newest}.json")


@pytest.mark.parametrize("on", ["a full", "an incremental"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("layout", LAYOUTS_TRIED)
def test_a_backup_starts_over(
    tmp_path: Path, layout: str, damage: str, on: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path / "site", options=dict(LAYOUTS[layout]))
    site.commit_pages(3)
    site.commit_blobs(2)
    full, _ = site.backed_up()
    newest = full
    if on == "an incremental":
        site.commit_blobs(2)
        newest, _ = site.backed_up()
    path = damaged_file(site, full, newest, damage)
    how = DAMAGES[damage]
    if callable(how):
        how(path)
    else:
        path.unlink()
    site.commit_pages(2)
    site.commit_blobs(1)
    stamp, state = site.backed_up()
    assert f"{stamp}.fsz" in site.names()
    assert any(record.levelname == "WARNING" for record in caplog.records)
    site.close()
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage)
    site.datafs.unlink()
    site.restore(stamp)
    site.assert_is(state)
    assert site.verify(stamp, deep=True).good
    site.close()


@pytest.mark.parametrize("layout", LAYOUTS_TRIED)
def test_a_record_that_is_gone_is_made_up_for_by_reading(tmp_path: Path, layout: str) -> None:
    """repozo's backups have none: the last line's md5 is compared with Data.fs, and the chain goes on."""
    site = Site(tmp_path / "site", options=dict(LAYOUTS[layout]))
    site.commit_blobs(2)
    site.backup()
    site.commit_blobs(2)
    newest, before = site.backed_up()
    (site.location / f"{newest}.json").unlink()
    site.commit_blobs(1)
    stamp, state = site.backed_up()
    assert f"{stamp}.deltafsz" in site.names()
    site.close()
    assert site.blob_storage is not None
    for when, wanted in (newest, before), (stamp, state):
        shutil.rmtree(site.blob_storage)
        site.restore(when)
        site.assert_is(wanted)
    assert site.verify(deep=True).good
    site.close()


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_a_verification_found_damaged_is_not_built_on_and_lets_no_good_one_go(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """The size is right, so that a cheap look finds nothing; the verification has left word of it."""
    site.options["keep"] = "2"
    site.commit_pages(3)
    good, state_of_good = site.backed_up()
    bad, _ = site.backed_up(full=True)
    flip_a_bit(site.location / f"{bad}.fsz")
    site.commit_pages(1)
    last, _ = site.backed_up()
    assert not (site.location / f"{last}.fsz").exists(), "nobody has looked yet"
    assert not site.verify().good
    site.commit_pages(1)
    caplog.clear()
    newest, state_of_newest = site.backed_up()
    assert f"cannot be continued: the last verification found {last} damaged" in caplog.text
    assert (site.location / f"{newest}.fsz").exists()
    site.restore(good)
    site.assert_is(state_of_good)
    site.restore(newest)
    site.assert_is(state_of_newest)


def test_a_chain_that_a_verification_found_damaged_does_not_count_in_a_prune(site: Site) -> None:
    site.options["keep"] = "2"
    site.commit_pages(3)
    good, state = site.backed_up()
    bad, _ = site.backed_up(full=True)
    flip_a_bit(site.location / f"{bad}.fsz")
    assert not site.verify().good
    site.options["keep"] = "1"
    site.close()
    finished = site.command("backup-prune")
    assert finished.returncode == 0, finished.stderr
    assert f"its last verification found {bad} damaged" in finished.stdout
    assert (site.location / f"{good}.dat").exists()
    site.restore(good)
    site.assert_is(state)
