from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.repository.made import OWNERSHIP, Made
from zodbvault.repository.names import data_file
from zodbvault.repository.records import NewerFormat, Record, format_record
from zodbvault.repository.sweep import one_step_from_done, sweep, unnamed_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.repository.conftest import Disk
    from zodbvault.repository.store import Repository

A, B, C, D = (f"2026-11-01-18-0{minute}-00" for minute in range(4))


@pytest.fixture
def ab(made: Made) -> Made:
    """A full and an incremental."""
    made.chain(A, B)
    return made


def orphans(made: Made) -> set[str]:
    return {name.removesuffix(".orphan") for name in made.names() if name.endswith(".orphan")}


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def lines(repository: Repository) -> list[str]:
    return [line.file.name for chain in repository.chains for line in chain.lines]


def rewrite(made: Made, record: Record, **changes: Any) -> None:
    (made.location / f"{record.timestamp}.json").write_bytes(format_record(record._replace(**changes)))


def assert_untouched(made: Made, before: set[str], contents: dict[str, bytes]) -> None:
    assert made.names() == before
    assert {name: (made.location / name).read_bytes() for name in os.listdir(made.location)} == contents


def contents_of(made: Made) -> dict[str, bytes]:
    return {name: (made.location / name).read_bytes() for name in os.listdir(made.location)}


def test_a_tidy_repository_is_left_as_it_is(ab: Made, disk: Disk) -> None:
    before, contents = ab.names(), contents_of(ab)
    swept = ab.sweep()
    assert swept.pruned == ()
    assert lines(swept.repository) == [f"{A}.fsz", f"{B}.deltafsz"]
    assert disk.events == []
    assert_untouched(ab, before, contents)


# Part files.


def test_our_part_files_go_and_those_of_others_stay(ab: Made) -> None:
    ours = [f"{C}.deltafsz.part", f"{C}.json.part", f"{A}.dat.part", ".zodbvault.id.part", f"{C}.fsz.part"]
    others = ["notes.part", "tmp.tmp", f"{C}.txt.part"]
    for name in (*ours, *others):
        (ab.location / name).touch()
    for name in (f"{C}.deltablobs.gz.part", ".zodbvault.id.part", "other.part"):
        (ab.blob_location / name).touch()
    repository = ab.sweep().repository
    assert {name for name in ab.names() if name.endswith((".part", ".tmp"))} == {*others, "other.part"}
    assert repository == ab.read()


# Records and manifests without data.


@pytest.mark.parametrize("upto", ["manifest", "record"])
@pytest.mark.parametrize("is_full", [True, False])
def test_what_never_got_its_data_file_goes(ab: Made, upto: str, is_full: bool, disk: Disk) -> None:
    before = ab.names()
    if is_full:
        ab.full(C, upto=upto)
    else:
        ab.incremental(C, upto=upto)
    (ab.location / f"{C}.checks.json").touch()
    (ab.location / f"{C}.deltafsz.part").touch()
    swept = ab.sweep()
    assert ab.names() == before
    assert swept.repository.names == ab.read().names
    removed = [event.removeprefix(f"remove {C}") for event in disk.events if event.startswith("remove")]
    assert removed[1].endswith("blobs.gz")
    # What tells that the others are ours goes last; nobody else writes checks.
    assert removed[-1] == (".checks.json" if upto == "manifest" else ".json")


def test_in_the_first_backup_too(made: Made) -> None:
    made.full(A, upto="record")
    made.sweep()
    assert made.names() == set()


def test_an_index_of_repozos_without_anything_else_stays(ab: Made) -> None:
    (ab.location / f"{C}.index").touch()
    (ab.location / "tmp.tmp").touch()
    before = ab.names()
    ab.sweep()
    assert ab.names() == before


def test_what_a_dat_names_is_not_dataless_but_lost(ab: Made) -> None:
    (ab.location / f"{B}.deltafsz").unlink()
    before = ab.names()
    ab.sweep()
    assert ab.names() == before


def test_states_of_blobs_alone_are_left_alone(ab: Made) -> None:
    for stamp in (C, "2026-10-01-00-00-00"):
        (ab.blob_location / f"{stamp}.json").touch()
        (ab.blob_location / f"{stamp}.blobs.gz").touch()
        (ab.blob_location / f"{stamp}.checks.json").touch()
    (ab.blob_location / f"{D}.blobs.gz").touch()
    before = ab.names()
    ab.sweep()
    assert ab.names() == before - {f"{D}.blobs.gz"}


def test_upstreams_blob_backups_are_left_alone(ab: Made) -> None:
    (ab.blob_location / f"blobstorage.{C}").mkdir()
    (ab.blob_location / f"blobstorage.{C}.tar.gz").touch()
    (ab.blob_location / "latest").symlink_to(f"blobstorage.{C}")
    before = ab.names()
    ab.sweep()
    assert ab.names() == before


# One step from done.


@pytest.mark.parametrize("is_full", [True, False])
def test_a_data_file_that_was_one_step_from_done_gets_its_line(
    ab: Made, is_full: bool, caplog: pytest.LogCaptureFixture
) -> None:
    record = ab.full(C, upto="data") if is_full else ab.incremental(C, upto="data")
    before = ab.names()
    swept = ab.sweep()
    assert lines(swept.repository)[-1] == record.data_name
    assert lines(ab.read()) == lines(swept.repository)
    assert ab.names() == (before | {f"{C}.dat"} if is_full else before)
    assert told(caplog) == [f"{record.data_name} was one step from done when its run was killed; it is finished now."]
    ab.add_line(record, None if is_full else A)
    ab.assert_repozo_restores()


def test_the_line_that_it_gets_may_be_read_by_those_whom_the_site_lets_read(ab: Made) -> None:
    ab.incremental(C, upto="data")
    (ab.location / f"{A}.dat").chmod(0o600)
    ab.sweep()
    assert (ab.location / f"{A}.dat").stat().st_mode & 0o777 == OWNERSHIP.mode


@pytest.mark.parametrize(
    ("layout", "suffix"), [("directories", ".directoryblobs.gz"), ("archives", ".archiveblobs.gz")]
)
def test_with_its_blobs_in_another_layout_too(ab: Made, layout: str, suffix: str) -> None:
    record = ab.incremental(C, upto="data")
    assert record.blobs is not None
    blobs = record.blobs._replace(layout=layout, complete=True)
    (ab.blob_location / record.blobs.manifest).rename(ab.blob_location / (C + suffix))
    rewrite(ab, record, blobs=blobs._replace(manifest=C + suffix))
    assert lines(ab.sweep().repository)[-1] == record.data_name
    assert not orphans(ab)


def test_the_very_first_full_too(made: Made) -> None:
    record = made.full(A, upto="data")
    assert lines(made.sweep().repository) == [record.data_name]


def test_without_blobs_too(tmp_path: Any) -> None:
    made = Made(tmp_path / "made", with_blobs=False)
    made.chain(A)
    made.incremental(B, upto="data")
    assert lines(made.sweep().repository) == [f"{A}.fsz", f"{B}.deltafsz"]


def test_killed_before_the_line_was_given_it_is_given_by_the_next_run(ab: Made, disk: Disk) -> None:
    record = ab.incremental(C, upto="data")
    with disk.killing_before(0):
        ab.sweep()
    assert disk.has_killed
    assert lines(ab.sweep().repository)[-1] == record.data_name
    assert not orphans(ab)


def harm_size(made: Made, record: Record) -> None:
    path = made.location / str(record.data_name)
    path.write_bytes(path.read_bytes() + b"x")


def harm_content(made: Made, record: Record) -> None:
    path = made.location / str(record.data_name)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def harm_start(made: Made, record: Record) -> None:
    rewrite(made, record, start=record.start + 1)


def harm_end(made: Made, record: Record) -> None:
    rewrite(made, record, end=record.start - 1)


def harm_name(made: Made, record: Record) -> None:
    rewrite(made, record, data_name=f"{record.timestamp}.deltafs")


def harm_sum(made: Made, record: Record) -> None:
    rewrite(made, record, md5=None)


def harm_sum_with_nonsense(made: Made, record: Record) -> None:
    rewrite(made, record, md5="x y")


def harm_manifest_name(made: Made, record: Record) -> None:
    assert record.blobs is not None
    rewrite(made, record, blobs=record.blobs._replace(manifest=f"{A}.blobs.gz"))


def harm_record(made: Made, record: Record) -> None:
    (made.location / f"{record.timestamp}.json").write_bytes(b"{}")


def lose_record(made: Made, record: Record) -> None:
    (made.location / f"{record.timestamp}.json").unlink()


HARMS = [
    harm_size,
    harm_content,
    harm_start,
    harm_end,
    harm_name,
    harm_sum,
    harm_sum_with_nonsense,
    harm_manifest_name,
    harm_record,
    lose_record,
]


@pytest.mark.parametrize("harm", HARMS)
def test_an_incremental_that_does_not_fit_is_put_aside_with_its_companions(
    ab: Made, harm: Callable[[Made, Record], None], caplog: pytest.LogCaptureFixture
) -> None:
    record = ab.incremental(C, upto="data")
    harm(ab, record)
    dat = (ab.location / f"{A}.dat").read_bytes()
    before = ab.names()
    ab.sweep()
    assert orphans(ab) == {name for name in before if name.startswith(C)}
    assert f"{C}.deltafsz" in orphans(ab)
    assert (ab.location / f"{A}.dat").read_bytes() == dat
    assert told(caplog)[-1] == (
        f"{ab.location}/{C}.deltafsz belongs to no backup (a run was killed while it was made); "
        f"it is kept as {C}.deltafsz.orphan."
    )
    ab.assert_repozo_restores()
    names = ab.names()
    ab.sweep()
    assert ab.names() == names


def test_an_incremental_that_the_disk_cannot_read_is_put_aside(
    ab: Made, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ab.incremental(C, upto="data")
    open_ = os.open

    def failing(path: Any, *arguments: Any, **keywords: Any) -> int:
        if str(path).endswith(f"{C}.deltafsz"):
            raise OSError(errno.EIO, "Input/output error")
        return open_(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", failing)
    repository = ab.sweep().repository
    assert lines(repository) == [f"{A}.fsz", f"{B}.deltafsz"]
    assert f"{C}.deltafsz" in orphans(ab)
    assert told(caplog)[0] == f"{ab.location}/{C}.deltafsz: cannot be read: Input/output error"


def test_an_incremental_whose_blobs_are_not_there_is_put_aside(ab: Made) -> None:
    ab.incremental(C, upto="data")
    ab.sweep(blobs_are_there=False)
    assert orphans(ab) == {f"{C}.deltafsz", f"{C}.json", f"{C}.deltablobs.gz"}
    ab.assert_repozo_restores()


def test_the_blobs_are_looked_for_with_the_files_own_record(ab: Made) -> None:
    record = ab.incremental(C, upto="data")
    seen: list[Record] = []
    sweep(ab.read(), lambda each: not seen.append(each), OWNERSHIP)  # type: ignore[func-returns-value]
    assert seen == [record]


def test_one_that_is_older_than_a_line_is_no_step_from_done(ab: Made) -> None:
    record = ab.incremental(C, upto="data")
    ab.incremental(D)  # as if another program had gone on without it
    repository = ab.read()
    assert [file.timestamp for file in unnamed_files(repository)] == [C]
    assert one_step_from_done(repository, unnamed_files(repository)[0]) is None
    ab.sweep()
    assert record.data_name in orphans(ab)
    ab.assert_repozo_restores()


def test_a_full_of_the_newest_lines_second_is_no_step_from_done(ab: Made) -> None:
    """It would be a chain whose timestamp the chain before has too."""
    ab.full(B, upto="data")
    full = data_file(f"{B}.fsz")
    assert full is not None
    assert unnamed_files(ab.read()) == (full,)
    assert one_step_from_done(ab.read(), full) is None


def test_a_full_that_is_older_than_a_line_is_no_step_from_done_although_that_lines_file_is_lost(made: Made) -> None:
    made.chain(A, D)
    (made.location / f"{D}.deltafsz").unlink()
    made.full(C, upto="data")
    before = made.names()
    made.sweep()
    assert made.names() == before
    assert [listed.timestamp for listed in made.read().listed] == [C]


def test_without_reading_it_a_file_of_another_size_is_no_step_from_done(ab: Made) -> None:
    record = ab.incremental(C, upto="data")
    file = data_file(f"{C}.deltafsz")
    assert file is not None
    assert one_step_from_done(ab.read(), file) is not None
    harm_size(ab, record)
    assert one_step_from_done(ab.read(), file) is None


def test_the_name_of_an_orphan_is_never_given_again(ab: Made) -> None:
    from zodbvault.repository.chains import newest_timestamp

    harm_size(ab, ab.incremental(C, upto="data"))
    assert newest_timestamp(ab.sweep().repository.names) == C


@pytest.mark.parametrize("step", range(4))
def test_killed_while_putting_aside_nothing_is_deleted(ab: Made, disk: Disk, step: int) -> None:
    harm_size(ab, ab.incremental(C, upto="data"))
    with disk.killing_before(step):
        ab.sweep()
    assert disk.has_killed == (step < 3)
    assert ab.sweep().repository.names == ab.read().names
    assert orphans(ab) == {f"{C}.deltafsz", f"{C}.json", f"{C}.deltablobs.gz"}
    ab.assert_repozo_restores()


def test_a_stray_older_one_does_not_keep_the_newest_from_being_finished(ab: Made) -> None:
    (ab.location / f"{C}.deltafsz").write_bytes(b"repozo was killed here")
    ab.incremental(D, upto="data")
    assert lines(ab.sweep().repository) == [f"{A}.fsz", f"{B}.deltafsz", f"{D}.deltafsz"]
    assert orphans(ab) == {f"{C}.deltafsz"}


def test_companions_of_a_backup_of_the_same_second_stay_with_it(tmp_path: Any) -> None:
    made = Made(tmp_path / "made", with_records=False, with_blobs=False)
    made.chain(A)
    (made.location / f"{A}.index").touch()
    (made.location / f"{A}.deltafsz").write_bytes(b"of repozo, in the same second")
    # It stands before the full by its name, so it is nobody's.
    made.chain("2026-11-01-17-00-00")
    made.sweep()
    assert f"{A}.index" in made.names()


# What repozo leaves.


def test_an_incremental_of_repozos_that_never_got_its_line_is_put_aside(tmp_path: Any) -> None:
    made = Made(tmp_path / "made", with_records=False, with_blobs=False, compressed=False)
    made.chain(A, B)
    made.incremental(C, upto="data")
    (made.location / f"{C}.index").touch()
    (made.location / "tmp.tmp").touch()
    made.sweep()
    assert orphans(made) == {f"{C}.deltafs", f"{C}.index"}
    assert "tmp.tmp" in made.names()
    made.assert_repozo_restores()


def test_an_incremental_of_repozos_that_has_no_full_stays_with_a_warning(
    made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    (made.location / f"{A}.deltafsz").write_bytes(b"of a chain that somebody removed by hand")
    before, contents = made.names(), contents_of(made)
    made.sweep()
    assert_untouched(made, before, contents)
    assert len(told(caplog)) == 1
    assert told(caplog)[0].startswith(f"{made.location}/{A}.deltafsz has no line in a .dat file.")


def test_a_full_of_repozos_that_never_got_its_dat_stays_with_a_warning(
    ab: Made, caplog: pytest.LogCaptureFixture
) -> None:
    ab.with_records = ab.with_blobs = False
    ab.full(C, upto="data")
    (ab.location / f"{D}.deltafsz").write_bytes(b"on it")
    before, contents = ab.names(), contents_of(ab)
    repository = ab.sweep().repository
    assert_untouched(ab, before, contents)
    assert [listed.timestamp for listed in repository.listed] == [C]
    assert told(caplog) == [
        f"{ab.location}/{name} has no line in a .dat file. It stays as it is, and no backup is built on it."
        for name in (f"{C}.fsz", f"{D}.deltafsz")
    ]


def test_a_full_of_repozos_whose_dat_is_empty_stays(ab: Made) -> None:
    ab.with_records = ab.with_blobs = False
    ab.full(C, upto="data")
    (ab.location / f"{C}.dat").touch()
    before, contents = ab.names(), contents_of(ab)
    repository = ab.sweep().repository
    assert_untouched(ab, before, contents)
    assert repository.chains[-1].damage is not None


# Fulls of ours.


@pytest.mark.parametrize("harm", [harm_size, harm_content])
def test_a_full_of_ours_that_is_not_what_was_written_is_put_aside(
    ab: Made, harm: Callable[[Made, Record], None]
) -> None:
    harm(ab, ab.full(C, upto="data"))
    ab.sweep()
    assert orphans(ab) == {f"{C}.fsz", f"{C}.json", f"{C}.index", f"{C}.blobs.gz"}
    assert ab.by_repozo(None) == ab.states[B]


def test_a_full_of_ours_that_is_whole_stays_although_its_blobs_are_lost(ab: Made) -> None:
    ab.full(C, upto="data")
    before, contents = ab.names(), contents_of(ab)
    ab.sweep(blobs_are_there=False)
    assert_untouched(ab, before, contents)


@pytest.mark.parametrize("is_newest", [True, False])
def test_a_chain_of_ours_that_lost_its_dat_stays_whole(ab: Made, is_newest: bool) -> None:
    if not is_newest:
        ab.chain(C, D)
    (ab.location / f"{A}.dat").unlink()
    before, contents = ab.names(), contents_of(ab)
    swept = ab.sweep()
    assert_untouched(ab, before, contents)
    assert [[file.timestamp for file in listed.files] for listed in swept.repository.listed] == [[A, B]]
    full = data_file(f"{A}.fsz")
    assert full is not None
    assert one_step_from_done(swept.repository, full) is None


def test_a_full_that_lost_its_dat_and_has_nothing_on_it_gets_it_again(made: Made) -> None:
    made.chain(A)
    content = (made.location / f"{A}.dat").read_bytes()
    (made.location / f"{A}.dat").unlink()
    made.sweep()
    assert (made.location / f"{A}.dat").read_bytes() == content


# Damage.


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"nonsense\n"])
def test_a_chain_whose_dat_is_damaged_is_not_touched(ab: Made, content: bytes) -> None:
    ab.incremental(C, upto="data")
    ab.incremental(D, upto="record")
    (ab.location / f"{A}.dat").write_bytes(content)
    before, contents = ab.names(), contents_of(ab)
    assert unnamed_files(ab.read()) == ()
    ab.sweep()
    assert_untouched(ab, before, contents)


def test_damage_in_an_older_chain_does_not_cost_the_newest_its_line(ab: Made) -> None:
    ab.chain(C)
    ab.incremental(D, upto="data")
    (ab.location / f"{A}.dat").write_bytes(b"")
    assert lines(ab.sweep().repository) == [f"{C}.fsz", f"{D}.deltafsz"]
    assert not orphans(ab)


def test_damage_in_an_older_chain_lets_no_trap_stay_in_the_newest(ab: Made) -> None:
    ab.chain(C)
    harm_content(ab, ab.incremental(D, upto="data"))
    (ab.location / f"{A}.dat").write_bytes(b"")
    ab.sweep()
    # Its companions too, and where they are not looked for later: beside what is damaged nothing is removed.
    assert orphans(ab) == {f"{D}.deltafsz", f"{D}.json", f"{D}.deltablobs.gz"}
    assert {f"{A}.fsz", f"{B}.deltafsz"} <= ab.names()


def test_the_record_of_a_later_version_stops_the_sweep_before_anything_is_renamed(ab: Made) -> None:
    record = ab.incremental(C, upto="data")
    (ab.location / f"{record.timestamp}.json").write_bytes(b'{"format": 99}')
    before, contents = ab.names(), contents_of(ab)
    with pytest.raises(NewerFormat):
        ab.sweep()
    assert_untouched(ab, before, contents)


def test_an_incremental_is_not_finished_on_a_chain_that_is_not_its_own(ab: Made) -> None:
    ab.with_records = ab.with_blobs = False
    ab.full(C, upto="data")  # a foreign full, without a `.dat`
    ab.with_records = ab.with_blobs = True
    ab.incremental(D, upto="data", on=A)
    repository = ab.sweep().repository
    assert lines(repository) == [f"{A}.fsz", f"{B}.deltafsz"]


# Prunes.


def test_a_prune_that_was_begun_is_finished_and_told(ab: Made) -> None:
    ab.chain(C)
    os.rename(ab.location / f"{A}.dat", ab.location / f"{A}.dat.pruned")
    swept = ab.sweep()
    assert swept.pruned == (A,)
    assert swept.repository == ab.read()
    assert lines(swept.repository) == [f"{C}.fsz"]
    assert {name[:19] for name in ab.names()} == {C}


def test_a_full_that_is_being_pruned_is_not_one_step_from_done(made: Made) -> None:
    made.chain(A)
    os.rename(made.location / f"{A}.dat", made.location / f"{A}.dat.pruned")
    full = data_file(f"{A}.fsz")
    assert full is not None
    assert one_step_from_done(made.read(), full) is None
