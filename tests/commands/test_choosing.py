"""Which backup a date means, in repositories on a disk: files of repozo's kind, `.dat`, records and manifests."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.repository.made import Made, line
from zodbvault.commands.blob_choices import BlobChoice
from zodbvault.commands.choosing import (
    Choice,
    Cut,
    NothingThere,
    blobs_of_each,
    chains_known_by_listing,
    chains_to_restore,
    choose,
    of_each_that_has_some,
    recorded_blob_states,
    timestamps_of,
    what_there_is,
)
from zodbvault.repository.chains import Chain
from zodbvault.repository.dat import DamagedDat, Line
from zodbvault.repository.records import Record, format_record

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

A, B, C, D, E = (f"2026-11-2{number}-18-05-00" for number in range(5))
SIZE = len(f"<{A}>") * 7
WARNING = "is one step from done: a backup is at it, or was killed; it counts as one."


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def of(chain: Chain) -> list[str]:
    return [each.timestamp for each in chain.lines]


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_date_means_the_newest_backup_at_or_before_it_with_all_that_it_stands_on(made: Made) -> None:
    made.chain(A, B, C)
    made.chain(D, E)
    repository = made.read()
    for when, stamps in ((None, [D, E]), (E, [D, E]), (D, [D]), (C, [A, B, C]), (B, [A, B]), ("2026-11-22", [A, B])):
        choice = choose(repository, when, with_blobs=False)
        assert of(choice.chain) == stamps
        assert (choice.timestamp, choice.end) == (stamps[-1], SIZE * len(stamps))
        assert (choice.blob_choices, choice.blobs, choice.cut) == ((), None, None)


def test_where_a_state_ends_within_a_backup_the_cut_tells_its_end(made: Made) -> None:
    made.chain(A, B)
    whole = choose(made.read(), None, with_blobs=True)
    cut = Choice(whole.chain, whole.blob_choices, Cut(SIZE + 5, b"\x01" * 8))
    assert (cut.timestamp, cut.end, cut.blobs) == (B, SIZE + 5, whole.blob_choices[0])


def test_the_blobs_are_those_of_the_backup_that_is_taken(made: Made) -> None:
    made.chain(A, B, C)
    repository = made.read()
    choice = choose(repository, B, with_blobs=True)
    assert choice.blobs is not None
    assert choice.blobs.timestamp == B
    assert choice.blobs.complete == made.blob_location / f"{A}.blobs.gz"
    assert choice.blobs.deltas == (made.blob_location / f"{B}.deltablobs.gz",)
    # What may serve where that is damaged: a later state of the chain, then an earlier one. The whole chain counts.
    assert [one.timestamp for one in choice.blob_choices] == [B, C, A]
    each = [[one.timestamp for one in states] for states in blobs_of_each(repository, choice.chain, (2, 1))]
    assert each == [[B, A], [A, B]]


def test_what_another_program_kept_belongs_to_the_backup_before_it_in_whatever_chain(made: Made) -> None:
    made.with_blobs = False
    made.chain(A)
    made.chain(C)
    for number, stamp in ((1, A), (0, C)):
        folder = made.blob_location / f"blobstorage.{number}"
        folder.mkdir()
        seconds = _seconds(stamp) + 60
        os.utime(folder, (seconds, seconds))
    made.with_blobs = True
    choices = choose(made.read(), A, with_blobs=True).blob_choices
    assert [(one.timestamp, one.place, one.is_of_date) for one in choices] == [
        (A, "blobstorage.1", True),
        (C, "blobstorage.0", False),
    ]


def _seconds(stamp: str) -> int:
    import calendar
    import time

    return calendar.timegm(time.strptime(stamp, "%Y-%m-%d-%H-%M-%S"))


def complete(made: Made, timestamp: str) -> Path:
    return made.blob_location / f"{timestamp}.blobs.gz"


def delta(made: Made, timestamp: str) -> Path:
    return made.blob_location / f"{timestamp}.deltablobs.gz"


def lost(made: Made, gone: Iterable[Path], when: str | None = None) -> BlobChoice | None:
    """The state that is known to have been written where these manifests are gone; None where nothing tells of it."""
    content = {path: path.read_bytes() for path in gone}
    for path in content:
        path.unlink()
    first, *others = choose(made.read(), when, with_blobs=True).blob_choices or (None,)
    for path, text in content.items():
        path.write_bytes(text)
    assert not any(each.gone for each in others if each)
    return first if first and first.gone else None


def test_manifests_that_are_gone_are_known_by_the_records(made: Made) -> None:
    made.chain(A, B, C)
    full, second, third = complete(made, A), delta(made, B), delta(made, C)
    for gone in ((full,), (second,), (third,), (full, third), (full, second, third)):
        assert lost(made, gone) == BlobChoice(C, full, (second, third), gone=gone)
        until_then = tuple(path for path in gone if path != third)
        if until_then:
            assert lost(made, gone, B) == BlobChoice(B, full, (second,), gone=until_then)
    assert lost(made, (full,), A) == BlobChoice(A, full, gone=(full,))
    assert lost(made, ()) is None
    # It is taken for that of the data, so that it is the first; what may replace it comes behind.
    full.unlink()
    assert [each.gone for each in choose(made.read(), None, with_blobs=True).blob_choices] == [(full,)]


def test_without_records_a_delta_tells_of_the_manifests_before_it(tmp_path: Path) -> None:
    made = Made(tmp_path / "made", with_records=False)
    made.chain(A, B, C)
    full, second, third = complete(made, A), delta(made, B), delta(made, C)
    assert lost(made, (full,)) == BlobChoice(C, full, (second, third), gone=(full,))
    # Of a backup in between nobody knows whether it had a complete one; of the last one, whether it had any.
    assert lost(made, (second,)) is None
    assert lost(made, (third,)) is None
    assert lost(made, (full, second, third)) is None
    assert lost(made, (full,), A) is None


def test_changes_with_nothing_that_they_change_are_no_state(tmp_path: Path) -> None:
    made = Made(tmp_path / "made", with_records=False)
    made.chain(A, B)
    complete(made, A).rename(delta(made, A))
    assert choose(made.read(), None, with_blobs=True).blob_choices == ()


def test_a_record_tells_of_a_manifest_and_the_next_one_of_the_chain_without_a_record_does_not(made: Made) -> None:
    made.chain(A, B, C)
    (made.location / f"{B}.json").unlink()
    full, second, third = complete(made, A), delta(made, B), delta(made, C)
    assert lost(made, (full, third)) == BlobChoice(C, full, (second, third), gone=(full, third))
    assert lost(made, (second, third)) is None


@pytest.mark.parametrize("with_record", [True, False])
def test_what_is_gone_is_looked_for_from_the_newest_complete_manifest_on(made: Made, with_record: bool) -> None:
    made.chain(A)
    record = made.incremental(B)
    made.incremental(C)
    assert record.blobs is not None
    delta(made, B).rename(complete(made, B))
    whole = record.blobs._replace(complete=True, manifest=f"{B}.blobs.gz")
    (made.location / f"{B}.json").write_bytes(format_record(record._replace(blobs=whole)))
    if not with_record:
        (made.location / f"{B}.json").unlink()
    of_the_newest = BlobChoice(C, complete(made, B), (delta(made, C),), gone=(delta(made, C),))
    assert lost(made, (complete(made, A), delta(made, C))) == of_the_newest
    if with_record:
        assert lost(made, (complete(made, B),)) == replace(of_the_newest, gone=(complete(made, B),))
    # The complete manifest of the chain's full tells nothing of what came later.
    assert lost(made, (complete(made, A),)) is None


def kept_in(made: Made, record: Record, layout: str) -> Path:
    """Let the record of a backup say that its blobs are in a directory or an archive; the path of its manifest."""
    suffix = {"directories": "directoryblobs", "archives": "archiveblobs"}[layout]
    path = made.blob_location / f"{record.timestamp}.{suffix}.gz"
    assert record.blobs is not None
    blobs = record.blobs._replace(layout=layout, manifest=path.name)
    (made.location / f"{record.timestamp}.json").write_bytes(format_record(record._replace(blobs=blobs)))
    (made.blob_location / record.blobs.manifest).unlink()
    return path


@pytest.mark.parametrize("layout", ["directories", "archives"])
def test_a_directory_or_an_archive_that_is_gone_with_its_manifest_is_known_by_the_record(
    made: Made, layout: str
) -> None:
    path = kept_in(made, made.full(A), layout)
    assert choose(made.read(), None, with_blobs=True).blob_choices == (BlobChoice(A, path, gone=(path,)),)
    # Where the manifest is there nothing of it is gone, and what is gone tells no state.
    path.write_bytes(b"")
    assert choose(made.read(), None, with_blobs=True).blob_choices == ()
    path.unlink()
    # Where it is there without its manifest it is taken as another program's.
    stored = made.blob_location / (f"blobstorage.{A}" + (".tar" if layout == "archives" else ""))
    stored.mkdir() if layout == "directories" else stored.write_bytes(b"")
    (theirs,) = choose(made.read(), None, with_blobs=True).blob_choices
    assert (theirs.place, theirs.is_of_date, theirs.is_exact, theirs.gone) == (stored.name, True, False, ())


def test_a_directory_that_is_gone_comes_before_what_may_replace_it(made: Made) -> None:
    """A later state of the chain would do, but is not the one that was written for the date."""
    first = made.full(A)
    second = made.incremental(B)
    path = kept_in(made, first, "directories")
    delta(made, B).rename(complete(made, B))
    assert second.blobs is not None
    later = BlobChoice(B, complete(made, B), is_of_date=False, is_later=True)
    assert choose(made.read(), A, with_blobs=True).blob_choices == (BlobChoice(A, path, gone=(path,)), later)


@pytest.mark.parametrize("with_record", [True, False])
def test_nothing_is_said_to_be_gone_where_no_record_tells_of_a_directory(made: Made, with_record: bool) -> None:
    made.full(A)
    record = made.incremental(B)
    kept_in(made, record, "directories")
    (made.location / f"{B}.json").write_bytes(format_record(record._replace(blobs=None)))
    if not with_record:
        (made.location / f"{B}.json").unlink()
    (state,) = choose(made.read(), None, with_blobs=True).blob_choices
    assert state == BlobChoice(A, complete(made, A), is_exact=False, is_of_date=False)


def test_states_of_other_chains_may_serve_where_that_of_the_date_is_gone(made: Made) -> None:
    made.chain(A, B)
    made.chain(C, D)
    made.chain(E)
    choices = choose(made.read(), D, with_blobs=True).blob_choices
    assert [(each.timestamp, each.is_exact, each.is_later) for each in choices] == [
        (D, True, False),
        (C, False, False),
        (E, False, True),
        (B, False, False),
    ]


def test_a_site_without_blobs_has_no_blob_state(made: Made) -> None:
    made.with_blobs = False
    made.chain(A, B)
    repository = made.read()
    assert choose(repository, None, with_blobs=True).blob_choices == ()
    assert [list(states) for states in blobs_of_each(repository, repository.chains[0], (1, 2))] == [[], []]


def test_an_incremental_that_was_one_step_from_done_counts(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    made.chain(A)
    made.chain(B)
    made.incremental(C, upto="data")
    repository = made.read()
    chains = chains_to_restore(repository)
    assert [of(chain) for chain in chains] == [[A], [B, C]]
    assert chains[-1].dat_name == f"{B}.dat"
    assert messages(caplog) == [f"{C}.deltafsz {WARNING}"]
    choice = choose(repository, None, with_blobs=True)
    assert of(choice.chain) == [B, C]
    assert choice.blobs is not None
    assert choice.blobs.deltas == (made.blob_location / f"{C}.deltablobs.gz",)


def test_a_full_that_was_one_step_from_done_counts(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    made.chain(A, B)
    made.full(C, upto="data")
    repository = made.read()
    chains = chains_to_restore(repository)
    assert [(chain.timestamp, of(chain)) for chain in chains] == [(A, [A, B]), (C, [C])]
    assert messages(caplog) == [f"{C}.fsz {WARNING}"]
    # It has no `.dat` either; that it is among the chains is enough.
    assert chains_known_by_listing(repository, chains) == ()
    assert [chain.timestamp for chain in chains_known_by_listing(repository, repository.chains)] == [C]
    assert of(choose(repository, None, with_blobs=False).chain) == [C]


def test_a_strange_file_does_not_hide_the_backup_that_was_one_step_from_done(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    made.chain(A, B)
    (made.location / "2026-11-20-23-00-00.deltafsz").write_bytes(b"no record tells of it")
    made.incremental(C, upto="data")
    assert [of(chain) for chain in chains_to_restore(made.read())] == [[A, B, C]]
    assert messages(caplog) == [f"{C}.deltafsz {WARNING}"]


def test_one_backup_at_most_was_one_step_from_done(made: Made) -> None:
    made.chain(A)
    record = made.incremental(B, upto="data")
    (made.location / f"{C}.deltafsz").write_bytes((made.location / f"{B}.deltafsz").read_bytes())
    again = record._replace(timestamp=C, data_name=f"{C}.deltafsz", blobs=None)
    (made.location / f"{C}.json").write_bytes(format_record(again))
    assert [of(chain) for chain in chains_to_restore(made.read())] == [[A, B]]


def test_a_stray_copy_of_an_incremental_as_a_full_is_no_chain(made: Made) -> None:
    made.chain(A, B)
    shutil.copy(made.location / f"{A}.fsz", made.location / f"{B}.fs")
    repository = made.read()
    assert [chain.timestamp for chain in repository.listed] == [B]
    assert chains_known_by_listing(repository, repository.chains) == ()


@pytest.mark.parametrize("with_records", [True, False])
@pytest.mark.parametrize("compressed", [True, False])
def test_a_chain_that_lost_its_dat_is_measured(
    tmp_path: Path, with_records: bool, compressed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    made = Made(tmp_path / "made", with_records=with_records, compressed=compressed)
    made.chain(A, B, C)
    made.chain(D)
    (made.location / f"{A}.dat").unlink()
    repository = made.read()
    choice = choose(repository, B, with_blobs=True)
    assert choice.chain == Chain(A, tuple(made.chains[A][:2]))
    assert choice.blobs is not None
    assert choice.blobs.timestamp == B
    assert messages(caplog) == [f"The chain of {A} has no .dat file; its files are taken as they are."]
    assert timestamps_of(repository.chains, repository.listed) == [A, B, C, D]


def test_a_record_saves_the_reading_of_a_file_whose_chain_lost_its_dat(made: Made) -> None:
    made.chain(A, B)
    (made.location / f"{A}.dat").unlink()
    (made.location / f"{B}.deltafsz").write_bytes(b"nobody looks at this here")
    assert choose(made.read(), None, with_blobs=False).chain.lines == tuple(made.chains[A])


@pytest.mark.parametrize("change", [{"data_name": f"{B}.deltafs"}, {"start": SIZE + 1}])
def test_a_record_of_something_else_is_not_believed(made: Made, change: dict[str, object]) -> None:
    made.full(A)
    record = made.incremental(B)
    (made.location / f"{A}.dat").unlink()
    text = format_record(record._replace(end=record.end + 1000, md5="f" * 32)._replace(**change))  # type: ignore[arg-type]
    (made.location / f"{B}.json").write_bytes(text)
    assert choose(made.read(), None, with_blobs=False).chain.lines == tuple(made.chains[A])


def test_a_large_file_is_measured_block_by_block(made: Made) -> None:
    content = os.urandom(3 << 20)
    (made.location / f"{A}.fsz").write_bytes(gzip.compress(content, 1))
    (measured,) = choose(made.read(), None, with_blobs=False).chain.lines
    assert measured == line(f"{A}.fsz", 0, len(content), hashlib.md5(content).hexdigest())


def test_a_dat_that_cannot_be_read_is_said_and_not_passed_over(made: Made) -> None:
    made.chain(A)
    made.chain(B)
    (made.location / f"{B}.dat").write_bytes(b"?")
    repository = made.read()
    with pytest.raises(DamagedDat) as error:
        choose(repository, None, with_blobs=False)
    assert error.value.what == "line 1 cannot be right: '?'"
    assert error.value.path == str(made.location / f"{B}.dat")
    assert error.value.hint == (
        "Nothing was changed. With this file moved away the backups are taken from the other files as they are."
    )
    assert of(choose(repository, A, with_blobs=False).chain) == [A]


def test_an_empty_repository_has_nothing(made: Made) -> None:
    with pytest.raises(NothingThere) as error:
        choose(made.read(), None, with_blobs=False)
    assert error.value.what == "holds no backup"
    assert error.value.path == str(made.location)
    assert error.value.hint == "Nothing was changed. Check the location, and that its disk is mounted."


def test_a_date_before_all_backups_names_the_nearest_ones(made: Made) -> None:
    made.chain(A, B, C, D, E)
    with pytest.raises(NothingThere) as error:
        choose(made.read(), "2026-11-19", with_blobs=False)
    assert error.value.what == "holds no backup at or before 2026-11-19 (UTC)"
    assert error.value.hint == (f"Nothing was changed. The nearest backups are {A}, {B}, {C}, {D}; the newest is {E}.")


def test_a_date_that_means_its_midnight_names_the_backup_that_followed(made: Made) -> None:
    made.chain(A, B)
    with pytest.raises(NothingThere) as error:
        choose(made.read(), A[:10], with_blobs=False)
    assert error.value.hint == (
        f"Nothing was changed. The nearest backups are {A}, {B}; the newest is {B}. "
        f"A date alone means its midnight, UTC; newest of {A[:10]}: {A}."
    )


def test_what_there_is_is_said_in_a_sentence() -> None:
    only = f"Nothing was changed. The oldest backup is {A}, the newest {A}."
    assert what_there_is([A], A) == only
    assert what_there_is([A], None) == only
    assert what_there_is([A, B], None) == f"Nothing was changed. The oldest backup is {A}, the newest {B}."
    assert what_there_is([A, B], B) == f"Nothing was changed. The nearest backups are {A}, {B}; the newest is {B}."
    assert what_there_is([], A) == "Nothing was changed. Check the location, and that its disk is mounted."


def test_timestamps_of_both_kinds_stand_in_their_order(made: Made) -> None:
    made.chain(A, B)
    made.chain(C, D)
    (made.location / f"{A}.dat").unlink()
    repository = made.read()
    assert timestamps_of(repository.chains, repository.listed) == [A, B, C, D]


def test_of_several_repositories_those_count_that_have_something_for_the_date() -> None:
    def look(number: int) -> int:
        if number % 2:
            raise NothingThere(f"holds no backup {number}")
        return 10 * number

    assert of_each_that_has_some((1, 2, 3, 4), look) == [20, 40]
    assert of_each_that_has_some((), look) == []
    with pytest.raises(NothingThere, match="holds no backup 3"):
        of_each_that_has_some((3, 1), look)


def test_states_of_blobs_alone_are_those_with_a_record_and_without_data() -> None:
    names = frozenset([f"{B}.json", f"{A}.json", f"{C}.json", f"{C}.fsz", f"{D}.blobs.gz", "notes.json", "x"])
    assert recorded_blob_states(names) == (A, B)


def test_lines_of_a_choice_are_plain_values() -> None:
    chain = Chain(A, (Line(line(f"{A}.fsz", 0, 10).file, 0, 10, None),))
    assert (Choice(chain).blobs, Choice(chain).end, Choice(chain).timestamp) == (None, 10, A)
