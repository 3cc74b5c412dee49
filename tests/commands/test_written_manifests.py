"""Whether manifests are those that their records tell of: repositories made by hand, manifests of a few bytes."""

from __future__ import annotations

import logging
import shutil
import time
from typing import TYPE_CHECKING

import pytest

from tests.repository.made import RECORD, Made
from zodbvault.blobs.manifest import DamagedManifest
from zodbvault.blobs.stored import Form, Stored
from zodbvault.commands.blob_choices import BlobChoice
from zodbvault.commands.written_manifests import (
    believable,
    is_recorded,
    recorded,
    require_all_there,
    require_as_written,
    vouched_for,
    wrong_with_manifest,
)
from zodbvault.repository.records import BLOBS, BlobRecord, Record, format_record

if TYPE_CHECKING:
    from pathlib import Path

A, B, C = "2026-11-20-18-05-00", "2026-11-21-18-05-00", "2026-11-22-18-05-00"
FULL, SECOND, THIRD = f"{A}.blobs.gz", f"{B}.deltablobs.gz", f"{C}.deltablobs.gz"


@pytest.fixture
def made(tmp_path: Path) -> Made:
    made = Made(tmp_path / str(time.time_ns()))  # nobody was warned of a file in it before
    made.chain(A, B, C)
    return made


def state(made: Made, timestamp: str = C) -> BlobChoice:
    deltas = tuple(made.blob_location / f"{stamp}.deltablobs.gz" for stamp in (B, C) if stamp <= timestamp)
    return BlobChoice(timestamp, made.blob_location / FULL, deltas)


def write(made: Made, record: Record) -> None:
    (made.location / f"{record.timestamp}.json").write_bytes(format_record(record))


def read(made: Made, timestamp: str) -> Record:
    record = made.read().record(timestamp)
    assert record is not None
    return record


def blobs_of(made: Made, timestamp: str) -> BlobRecord:
    blobs = read(made, timestamp).blobs
    assert blobs is not None
    return blobs


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def test_what_is_known_to_be_gone_is_refused_without_a_look(made: Made) -> None:
    choice = BlobChoice(C, made.blob_location / THIRD, lacks="is missing")
    for look in (lambda: require_all_there(choice), lambda: require_as_written(made.read(), choice)):
        with pytest.raises(DamagedManifest) as error:
            look()
        assert str(error.value) == f"{made.blob_location / THIRD}: is missing"
    require_all_there(state(made))


def test_manifests_that_are_as_their_records_say_are_proved(made: Made) -> None:
    for stamp in (A, B, C):
        assert require_as_written(made.read(), state(made, stamp)) is True
        assert require_as_written(made.read(), state(made, stamp), quick=True) is True
        assert is_recorded(made.read(), state(made, stamp)) is True


@pytest.mark.parametrize("name", [FULL, SECOND, THIRD])
def test_a_manifest_that_is_another_than_was_written_is_damaged(made: Made, name: str) -> None:
    path = made.blob_location / name
    size = path.stat().st_size
    flip(path)
    with pytest.raises(DamagedManifest) as error:
        require_as_written(made.read(), state(made))
    assert str(error.value) == f"{path}: is not what was written"
    assert require_as_written(made.read(), state(made), quick=True) is True
    path.write_bytes(b"")
    for quick in (True, False):
        with pytest.raises(DamagedManifest) as error:
            require_as_written(made.read(), state(made), quick=quick)
        assert str(error.value) == f"{path}: has 0 bytes, written were {size}"
    path.unlink()
    with pytest.raises(DamagedManifest) as error:
        require_as_written(made.read(), state(made))
    assert str(error.value) == f"{path}: is missing"
    assert is_recorded(made.read(), state(made)) is True


@pytest.mark.parametrize("stamp", [A, B, C])
def test_where_a_record_is_missing_nobody_knows(made: Made, stamp: str) -> None:
    """Yet what the others tell is compared."""
    (made.location / f"{stamp}.json").unlink()
    assert require_as_written(made.read(), state(made)) is False
    assert is_recorded(made.read(), state(made)) is False
    flip(made.blob_location / (THIRD if stamp != C else FULL))
    with pytest.raises(DamagedManifest):
        require_as_written(made.read(), state(made))
    flip(made.blob_location / (THIRD if stamp != C else FULL))
    flip(made.blob_location / (FULL if stamp == A else f"{stamp}.deltablobs.gz"))
    assert require_as_written(made.read(), state(made)) is False


def test_a_record_tells_of_its_own_manifest_alone(made: Made) -> None:
    assert recorded(made.read(), SECOND) == blobs_of(made, B)
    assert recorded(made.read(), f"{B}.blobs.gz") is None
    assert recorded(made.read(), "2026-12-01-18-05-00.blobs.gz") is None
    assert recorded(made.read(), "notes") is None
    write(made, read(made, B)._replace(blobs=None))
    assert recorded(made.read(), SECOND) is None


def test_what_is_wrong_is_said_behind_the_name(made: Made) -> None:
    blobs = blobs_of(made, B)
    assert wrong_with_manifest(made.read(), blobs) is None
    (made.blob_location / SECOND).unlink()
    (made.blob_location / SECOND).mkdir()
    assert wrong_with_manifest(made.read(), blobs) == "is missing"
    shutil.rmtree(made.blob_location / SECOND)
    (made.blob_location / SECOND).symlink_to(made.blob_location / FULL)
    assert wrong_with_manifest(made.read(), blobs) == "is missing"


def test_a_manifest_that_the_disk_cannot_read_is_wrong(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("zodbvault.io.closing.QuietFile.readinto", refused)
    repository = made.read()
    assert wrong_with_manifest(repository, blobs_of(made, B)) == "cannot be read: Input/output error"


def test_of_some_manifests_those_are_believed_of_which_no_record_says_that_they_are_others(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    (made.location / f"{A}.json").unlink()
    flip(made.blob_location / SECOND)
    every = [FULL, SECOND, THIRD]
    assert believable(made.read(), every) == {FULL, THIRD}
    assert believable(made.read(), []) == frozenset()
    said = f"{made.blob_location / SECOND}: is not what was written. What it says of blobs is not used."
    assert caplog.messages == [said]
    # Only of what is known to be what was written a checksum is taken over; and it is said once.
    assert vouched_for(made.read(), every) == {THIRD}
    assert [(one.levelno, one.getMessage()) for one in caplog.records] == [(logging.WARNING, said)]


def alone(made: Made, backups: int) -> Record:
    """A site's blobs alone are backed up, the state at C as one of so many that stand on each other."""
    record = RECORD._replace(
        timestamp=C,
        kind=BLOBS,
        data_name=None,
        start=0,
        end=0,
        chain_backups=backups,
        blobs=blobs_of(made, C),
    )
    write(made, record)
    return record


def test_a_state_of_blobs_alone_that_stands_on_one_that_is_gone_is_damaged(made: Made) -> None:
    alone(made, 3)
    assert require_as_written(made.read(), state(made)) is True
    between = BlobChoice(C, made.blob_location / FULL, (made.blob_location / THIRD,))
    with pytest.raises(DamagedManifest) as error:
        require_as_written(made.read(), between)
    assert str(error.value) == f"{made.blob_location / THIRD}: stands on 2 states before it, and there are 1"
    alone(made, 4)
    with pytest.raises(DamagedManifest) as error:
        require_as_written(made.read(), state(made))
    assert str(error.value) == f"{made.blob_location / THIRD}: stands on 3 states before it, and there are 2"
    alone(made, 2)
    assert require_as_written(made.read(), between) is True
    # A directory or an archive stands on nothing; neither does one whose record is not there.
    alone(made, 3)
    assert require_as_written(made.read(), BlobChoice(C, between.complete, between.deltas, stored(made))) is True
    (made.location / f"{C}.json").unlink()
    assert require_as_written(made.read(), between) is False
    # Of a site with data the .dat tells what a state stands on.
    made.incremental("2026-11-23-18-05-00")
    other = BlobChoice("2026-11-23-18-05-00", made.blob_location / FULL)
    assert require_as_written(made.read(), other) is True


def stored(made: Made, form: Form = Form.DIRECTORY, timestamp: str = C) -> tuple[Stored, ...]:
    name = f"blobstorage.{timestamp}"
    older = Stored(made.blob_location / "older", "blobstorage", Form.ARCHIVE, None, A)
    newest = Stored(made.blob_location / name, "blobstorage", form, None, timestamp)
    return (newest,) if form is Form.DIRECTORY else (older, newest)


@pytest.mark.parametrize(
    ("layout", "form"),
    [("directories", Form.DIRECTORY), ("archives", Form.ARCHIVE), ("archives", Form.DELTA)],
)
def test_what_we_wrote_is_not_taken_without_its_manifest(made: Made, layout: str, form: Form) -> None:
    record = read(made, C)
    assert record.blobs is not None
    write(made, record._replace(blobs=record.blobs._replace(layout=layout, manifest=f"{C}.x.gz")))
    ours = BlobChoice(C, None, stored=stored(made, form), is_exact=False)
    with pytest.raises(DamagedManifest) as error:
        require_as_written(made.read(), ours)
    assert str(error.value) == (
        f"{ours.stored[-1].path}: {C}.x.gz is missing, so nobody knows whether its blobs are as they were written. To "
        f"take them as they are, move {C}.json out of the location"
    )
    assert is_recorded(made.read(), ours) is False
    # What another program made is: of another kind, at another time, or for a backup without a record.
    other_form = Form.ARCHIVE if form is Form.DIRECTORY else Form.DIRECTORY
    for theirs in (
        BlobChoice(C, None, stored=stored(made, other_form)),
        BlobChoice(C, None, stored=stored(made, form, "2026-11-22-18-06-00")),
        BlobChoice(C, None),
        BlobChoice("2026-11-25-18-05-00", None, stored=stored(made, form, "2026-11-25-18-05-00")),
    ):
        assert require_as_written(made.read(), theirs) is False
    write(made, record._replace(blobs=None))
    assert require_as_written(made.read(), ours) is False


def test_what_is_known_of_a_manifest_is_not_looked_at_again(made: Made) -> None:
    known: dict[str, tuple[bool, str | None]] = {}
    assert require_as_written(made.read(), state(made, B), known=known)
    assert known == {FULL: (True, None), SECOND: (True, None)}
    # Not the bytes, nor whether there is a record.
    (made.blob_location / FULL).write_bytes(b"another")
    (made.location / f"{B}.json").unlink()
    assert require_as_written(made.read(), state(made), known=known)
    (made.location / f"{C}.json").unlink()
    assert require_as_written(made.read(), state(made), known=known)
    known.clear()
    (made.location / f"{A}.json").unlink()
    assert not require_as_written(made.read(), state(made), known=known)
    assert known == dict.fromkeys((FULL, SECOND, THIRD), (False, None))
    known[SECOND] = (True, "is not what was written")
    with pytest.raises(DamagedManifest, match="is not what was written") as error:
        require_as_written(made.read(), state(made), known=known)
    assert error.value.path == str(made.blob_location / SECOND)
    known |= {SECOND: (True, None), THIRD: (True, None)}
    assert not require_as_written(made.read(), state(made), known=known)
