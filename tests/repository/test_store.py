from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.repository.made import RECORD, Made, line
from zodbvault.errors import ZodbvaultError
from zodbvault.repository import store
from zodbvault.repository.dat import DamagedDat
from zodbvault.repository.records import NewerFormat, format_record
from zodbvault.repository.store import (
    UnreadableFile,
    chain_problem,
    data_size,
    list_files,
    manifests_size,
    newer_format,
    read_repository,
    read_small,
    record_problem,
    refuse_newer_format,
    size_of,
    was_pruned,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


A, B, C = "2026-11-01-18-00-00", "2026-11-01-18-01-00", "2026-11-01-18-02-00"


def problem(made: Made, *, with_blobs: bool = True) -> str | None:
    repository = made.read()
    return chain_problem(repository, repository.chains[-1], with_blobs=with_blobs)


def shorten(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def test_a_whole_chain_has_no_problem(made: Made) -> None:
    made.chain(A, B, C)
    assert problem(made) is None


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("with_records", [True, False])
def test_a_missing_data_file_is_a_problem(tmp_path: Path, compressed: bool, with_records: bool) -> None:
    made = Made(tmp_path / "made", compressed=compressed, with_records=with_records)
    made.chain(A, B, C)
    assert problem(made) is None
    name = B + (".deltafsz" if compressed else ".deltafs")
    (made.location / name).unlink()
    assert problem(made) == f"{name} is missing"


def test_a_shortened_file_is_seen_without_reading_any(made: Made) -> None:
    made.chain(A, B, C)
    for name in (A + ".fsz", B + ".deltafsz", C + ".deltafsz"):
        content = (made.location / name).read_bytes()
        shorten(made.location / name)
        sizes = [(made.location / each).stat().st_size for each in (A + ".fsz", B + ".deltafsz", C + ".deltafsz")]
        assert problem(made) == (
            f"its 3 files up to {C} have {sum(sizes)} bytes, and {sum(sizes) + 1} bytes in 3 files were written"
        )
        (made.location / name).write_bytes(content)
    assert problem(made) is None


def test_a_shortened_manifest_is_seen_where_blobs_are_backed_up(made: Made) -> None:
    made.chain(A, B, C)
    path = made.blob_location / f"{B}.deltablobs.gz"
    size, whole = path.stat().st_size, sum(each.stat().st_size for each in made.blob_location.iterdir())
    shorten(path)
    assert problem(made) == f"{path.name} has {size - 1} bytes, written were {size}"
    assert problem(made, with_blobs=False) is None
    os.truncate(path, 0)
    assert problem(made) == f"{path.name} has 0 bytes, written were {size}"
    path.unlink()
    assert problem(made) == f"{path.name} is missing"
    # Where no record tells which one it is, the sum of all tells that there is one.
    (made.location / f"{B}.json").unlink()
    assert problem(made) == f"its blob manifests have {whole - size} bytes where {whole} were written"
    for each in made.blob_location.iterdir():
        each.unlink()
    assert problem(made) == f"{A}.blobs.gz is missing"


def test_the_newest_manifest_is_compared_with_what_the_record_says_of_it(made: Made) -> None:
    made.chain(A, B)
    path = made.blob_location / f"{B}.deltablobs.gz"
    size = path.stat().st_size
    shorten(path)
    assert problem(made) == f"{B}.deltablobs.gz has {size - 1} bytes, written were {size}"


def test_sizes_that_make_up_for_each_other_are_seen(made: Made) -> None:
    made.chain(A, B, C)
    shorten(made.blob_location / f"{B}.deltablobs.gz")
    newest = made.blob_location / f"{C}.deltablobs.gz"
    size = newest.stat().st_size
    os.truncate(newest, size + 1)
    assert problem(made) == f"{newest.name} has {size + 1} bytes, written were {size}"


def test_a_manifest_is_named_where_an_older_backup_has_no_record(made: Made) -> None:
    made.chain(A, B, C)
    (made.location / f"{A}.json").unlink()
    (made.blob_location / f"{B}.deltablobs.gz").unlink()
    assert problem(made) == f"{B}.deltablobs.gz is missing"


def test_a_record_whose_manifest_is_a_file_elsewhere_leads_nowhere(made: Made) -> None:
    made.chain(A, B)
    record = made.read().record(B)
    assert record is not None
    assert record.blobs is not None
    blobs = record.blobs._replace(manifest=f"../location/{A}.fsz")
    (made.location / f"{B}.json").write_bytes(format_record(record._replace(blobs=blobs)))
    (made.blob_location / f"{B}.deltablobs.gz").unlink()
    assert (problem(made) or "").startswith("its blob manifests have")


def test_a_plain_file_of_repozos_has_the_size_that_its_line_says(tmp_path: Path) -> None:
    made = Made(tmp_path / "made", compressed=False, with_records=False)
    made.chain(A, B)
    shorten(made.location / f"{B}.deltafs")
    assert problem(made) == f"{B}.deltafs is shorter or longer than it was"


def test_of_a_compressed_file_of_repozos_nobody_knows_the_size(tmp_path: Path) -> None:
    made = Made(tmp_path / "made", with_records=False)
    made.chain(A, B)
    os.truncate(made.location / f"{B}.deltafsz", 1)
    assert problem(made) is None


def test_an_empty_incremental_of_repozos_is_no_problem(tmp_path: Path) -> None:
    # repozo writes one where nothing but an unfinished transaction was added.
    made = Made(tmp_path / "made", compressed=False, with_records=False)
    made.chain(A)
    end = made.chains[A][-1].end
    made.chains[A].append(line(f"{B}.deltafs", end, end))
    (made.location / f"{B}.deltafs").touch()
    with open(made.location / f"{A}.dat", "a") as dat:
        dat.write(f"/somewhere else/{B}.deltafs {end} {end} d41d8cd98f00b204e9800998ecf8427e\n")
    assert problem(made) is None


def test_an_empty_compressed_file_is_a_problem(tmp_path: Path) -> None:
    made = Made(tmp_path / "made", with_records=False)
    made.chain(A, B)
    os.truncate(made.location / f"{B}.deltafsz", 0)
    assert problem(made) == f"{B}.deltafsz is shorter or longer than it was"


def test_a_symlink_or_a_folder_is_no_data_file(made: Made) -> None:
    made.chain(A, B)
    path = made.location / f"{B}.deltafsz"
    path.rename(made.folder / "elsewhere")
    path.symlink_to(made.folder / "elsewhere")
    assert "missing" in (problem(made) or "")
    path.unlink()
    path.mkdir()
    assert "missing" in (problem(made) or "")


def test_what_repozo_added_does_not_hide_a_loss_before_it(made: Made) -> None:
    made.chain(A, B)
    made.with_records = made.with_blobs = False
    made.incremental(C)
    made.with_blobs = True
    assert problem(made) is None
    shorten(made.location / f"{A}.fsz")
    assert "bytes" in (problem(made) or "")


def test_what_repozo_added_does_not_hide_that_its_full_is_shorter(made: Made) -> None:
    made.chain(A)
    made.with_records = made.with_blobs = False
    made.incremental(B)
    made.with_blobs = True
    shorten(made.location / f"{A}.fsz")
    assert (problem(made) or "").startswith(f"its 1 files up to {A} have")


def test_a_newest_record_that_cannot_be_read_is_a_problem(made: Made) -> None:
    made.chain(A, B)
    (made.location / f"{B}.json").write_bytes(b"{}")
    assert problem(made) == f"its newest record, {B}.json, cannot be read, or is another backup's"


def newest_problem(made: Made) -> str | None:
    repository = made.read()
    return record_problem(repository, repository.chains[-1].newest)


def test_a_record_that_is_sound_and_one_that_is_missing_are_no_problem(made: Made) -> None:
    made.chain(A, B)
    assert newest_problem(made) is None
    (made.location / f"{B}.json").unlink()
    assert newest_problem(made) is None


def test_a_record_with_another_checksum_than_its_line_is_a_problem(made: Made) -> None:
    made.chain(A, B)
    record = made.read().record(B)
    assert record is not None
    (made.location / f"{B}.json").write_bytes(format_record(record._replace(md5="0" * 32)))
    assert newest_problem(made) == f"{B}.json and its line in the .dat file do not agree"


def test_a_record_with_another_size_than_its_file_is_a_problem(made: Made) -> None:
    made.chain(A, B)
    size = (made.location / f"{B}.deltafsz").stat().st_size
    shorten(made.location / f"{B}.deltafsz")
    assert newest_problem(made) == f"{B}.deltafsz has {size - 1} bytes, written were {size}"


def test_a_record_that_counts_another_number_of_backups_is_a_problem(made: Made) -> None:
    made.chain(A, B)
    record = made.read().record(B)
    assert record is not None
    (made.location / f"{B}.json").write_bytes(format_record(record._replace(chain_backups=3)))
    assert "3 files were written" in (problem(made) or "")


def test_a_damaged_dat_is_a_problem(made: Made) -> None:
    made.chain(A, B)
    (made.location / f"{A}.dat").write_bytes(b"")
    assert "does not begin" in (problem(made) or "")


def test_a_record_belongs_to_exactly_its_line(made: Made) -> None:
    made.chain(A, B)
    repository = made.read()
    full, delta = repository.chains[0].lines
    assert repository.record_of(delta) == repository.record(B)
    assert repository.record_of(delta._replace(start=delta.start + 1)) is None
    assert repository.record_of(delta._replace(end=delta.end + 1)) is None
    assert repository.record_of(line(f"{B}.deltafs", delta.start, delta.end)) is None
    assert repository.record_of(full._replace(md5="f" * 32)) == repository.record(A)


def test_a_record_that_lies_about_its_timestamp_is_none(made: Made) -> None:
    made.chain(A)
    (made.location / f"{A}.json").write_bytes(format_record(RECORD._replace(timestamp=B)))
    assert made.read().record(A) is None


@pytest.mark.parametrize("harm", ["damaged", "folder", "symlink", "unreadable"])
def test_a_record_that_cannot_be_read_is_none_with_a_warning(
    made: Made, harm: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.chain(A)
    path = made.location / f"{A}.json"
    repository = made.read()
    if harm == "damaged":
        path.write_bytes(b"{}")
    elif harm == "symlink":
        path.rename(made.folder / "x")
        path.symlink_to(made.folder / "x")
    elif harm == "folder":
        path.unlink()
        path.mkdir()
    else:
        _make_unreadable(monkeypatch, path)
    assert repository.record(A) is None
    reasons = {
        "damaged": f"{path}: is not a record: it has no format version",
        "folder": f"{path}: is not a file that a repository can hold",
        "symlink": f"{path}: cannot be read: Too many levels of symbolic links",
        "unreadable": f"{path}: cannot be read: Input/output error",
    }
    assert caplog.messages == [f"{reasons[harm]}. The backup is treated as one without a record."]
    assert repository.record(A) is None
    assert len(caplog.messages) == 1  # it is told once
    path.rmdir() if path.is_dir() else path.unlink()
    made.read().record(A)
    assert repository.record(A) is None  # pruned since the listing: no word about it
    assert len(caplog.messages) == 1


def test_a_record_of_a_later_version_stops(made: Made) -> None:
    made.chain(A)
    (made.location / f"{A}.json").write_bytes(b'{"format": 99}')
    with pytest.raises(NewerFormat):
        made.read().record(A)


def format_99(made: Made, timestamp: str) -> None:
    (made.location / f"{timestamp}.json").write_bytes(b'{"format": 99}')


def test_a_newest_record_of_a_later_version_lets_nothing_be_tidied_up(made: Made) -> None:
    refuse_newer_format(made.read())
    made.chain(A, B)
    refuse_newer_format(made.read())
    (made.location / f"notes {C}.json").write_bytes(b'{"format": 99}')  # no record at all
    (made.location / f"{C}.checks.json").write_bytes(b'{"format": 99}')
    refuse_newer_format(made.read())
    format_99(made, A)
    refuse_newer_format(made.read())  # what is older does not count
    format_99(made, B)
    with pytest.raises(NewerFormat) as error:
        refuse_newer_format(made.read())
    assert str(error.value).startswith(f"{made.location}/{B}.json: has format 99")


def test_of_backups_that_belong_together_the_record_of_a_later_version_is_told(made: Made) -> None:
    made.chain(A, B, C)
    assert newer_format(made.read(), [A, B, C]) is None
    format_99(made, B)
    error = newer_format(made.read(), [A, B, C])
    assert str(error).startswith(f"{made.location}/{B}.json: has format 99")
    assert newer_format(made.read(), [A, C]) is None


@pytest.mark.parametrize("harm", ["damaged", "symlink", "gone"])
def test_a_newest_record_that_cannot_be_read_is_no_later_versions(made: Made, harm: str) -> None:
    made.chain(A)
    path = made.location / f"{A}.json"
    repository = made.read()
    path.unlink()
    if harm == "damaged":
        path.write_bytes(b"{}")
    elif harm == "symlink":
        path.symlink_to("elsewhere")
    refuse_newer_format(repository)


@pytest.mark.parametrize(
    ("before", "now", "is_gone"),
    [
        ({".fsz", ".dat"}, {".fsz", ".dat"}, False),
        (set(), {".fsz", ".dat"}, False),
        ({".fsz", ".dat"}, {".fsz"}, True),
        ({".fsz", ".dat"}, {".fsz", ".dat.pruned"}, True),
        ({".fsz", ".dat"}, set(), True),
        # One that had no `.dat` yet.
        ({".fsz"}, {".fsz"}, False),
        ({".fs"}, {".fs"}, False),
        ({".fsz"}, {".fsz", ".dat.pruned"}, True),
        ({".fsz"}, {".json"}, True),
        ({".fsz"}, set(), True),
    ],
)
def test_a_chain_was_pruned_when_its_dat_has_gone(before: set[str], now: set[str], is_gone: bool) -> None:
    names = [frozenset(A + suffix for suffix in suffixes) | {f"{B}.dat", f"{B}.fsz"} for suffixes in (before, now)]
    assert was_pruned(A, *names) is is_gone


@pytest.mark.parametrize("harm", ["symlink", "too large", "unreadable", "named pipe"])
def test_a_dat_that_cannot_be_read_is_damage_of_its_chain_alone(
    made: Made, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.chain(A)
    made.chain(B)
    path = made.location / f"{A}.dat"
    if harm == "symlink":
        path.rename(made.folder / "x")
        path.symlink_to(made.folder / "x")
    elif harm == "too large":
        os.truncate(path, 1 << 40)
    elif harm == "named pipe":
        path.unlink()
        os.mkfifo(path)
    else:
        _make_unreadable(monkeypatch, path)
    old, new = made.read().chains
    reasons = {
        "symlink": "cannot be read: Too many levels of symbolic links",
        "unreadable": "cannot be read: Input/output error",
    }
    assert isinstance(old.damage, DamagedDat)
    assert old.damage.what == reasons.get(harm, "is not a file that a repository can hold")
    assert old.damage.path == f"{A}.dat"
    assert old.timestamp == A
    assert old.lines == ()
    assert new.damage is None
    assert made.read().listed == ()


def _make_unreadable(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """As a bad sector does; the mode would not stop root."""
    original = os.open

    def opened(name: object, *arguments: int, **keywords: int) -> int:
        if name == path:
            raise OSError(5, "Input/output error", str(path))
        return original(name, *arguments, **keywords)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", opened)


def test_a_dat_that_vanishes_after_the_listing_is_a_chain_that_was_pruned(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.chain(A)
    made.chain(B)
    original = store.list_files

    def listed(folder: Path) -> frozenset[str]:
        names = original(folder)
        if f"{A}.dat" in names:
            (made.location / f"{A}.dat").rename(made.location / f"{A}.dat.pruned")
        return names

    monkeypatch.setattr(store, "list_files", listed)
    repository = made.read()
    assert [chain.timestamp for chain in repository.chains] == [B]
    assert repository.listed == ()
    assert repository.blob_location == made.blob_location
    assert repository.blob_names == list_files(made.blob_location)


@pytest.mark.parametrize("times", [1, 2, 100])
def test_what_a_backup_changes_between_listing_and_reading_is_looked_at_again(
    made: Made, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one chain goes and another one comes; only one who changes it all the time is not waited for."""
    made.chain(A)
    original = store.list_files
    stamps = [f"2026-11-{day:02}-18-00-00" for day in range(2, 9)]
    changes = []

    def listed(folder: Path) -> frozenset[str]:
        names = original(folder)
        if folder == made.location and len(changes) < min(times, len(stamps)):
            for path in made.location.iterdir():
                path.unlink()
            made.chain(stamps[len(changes)])
            changes.append(names)
        return names

    monkeypatch.setattr(store, "list_files", listed)
    chains = [chain.timestamp for chain in made.read().chains]
    if times < store.MOST_LOOKS:
        assert chains == [stamps[times - 1]]
        assert len(changes) == times
    else:
        assert len(changes) == store.MOST_LOOKS


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_lost_data_file_costs_one_more_look(made: Made, is_lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made.chain(A)
    made.chain(B)
    if is_lost:
        (made.location / f"{A}.fsz").unlink()
    looks = []
    original = store.list_files

    def listed(folder: Path) -> frozenset[str]:
        looks.append(folder)
        return original(folder)

    monkeypatch.setattr(store, "list_files", listed)
    assert [chain.timestamp for chain in made.read().chains] == [A, B]
    assert looks.count(made.location) == 1 + is_lost


def test_the_sizes_of_the_files_that_are_there_are_added_up(made: Made) -> None:
    made.chain(A, B, C)
    data = [made.location / name for name in (f"{A}.fsz", f"{B}.deltafsz", f"{C}.deltafsz")]
    manifests = [made.blob_location / name for name in (f"{A}.blobs.gz", f"{B}.deltablobs.gz", f"{C}.deltablobs.gz")]
    for gone in range(3):
        repository = made.read()
        lines = repository.chains[-1].lines
        assert data_size(repository, lines) == sum(path.stat().st_size for path in data[gone:])
        assert manifests_size(repository, lines) == sum(path.stat().st_size for path in manifests[gone:])
        data[gone].unlink()
        manifests[gone].unlink()
        # Also of what has gone since the listing.
        assert manifests_size(repository, lines) == sum(path.stat().st_size for path in manifests[gone + 1 :])


def test_of_the_records_the_last_one_is_read_once_in_a_look(made: Made) -> None:
    made.chain(A, B)
    repository = made.read()
    record = repository.record(B)
    assert record is not None
    (made.location / f"{B}.json").unlink()
    assert repository.record(B) == record
    # Not all of them are kept: a chain may have thousands.
    assert repository.record(A) is not None
    assert repository.record(B) is None
    assert made.read().record(B) is None


def test_folders_and_missing_places_hold_no_files(made: Made, tmp_path: Path) -> None:
    made.full(A)
    (made.location / f"{B}.fsz").mkdir()
    (made.location / f"{C}.fsz").symlink_to(f"{B}.fsz")
    assert f"{B}.fsz" not in made.read().names
    assert f"{C}.fsz" in made.read().names  # a name that is taken, whatever it leads to
    nothing = read_repository(tmp_path / "not there", None)
    assert (nothing.names, nothing.blob_names, nothing.chains, nothing.listed) == (frozenset(), frozenset(), (), ())


def test_a_place_that_is_a_file_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ZodbvaultError) as error:
        list_files(tmp_path / "file")
    assert str(error.value) == f"{tmp_path}/file: cannot be listed: Not a directory"
    with pytest.raises(ZodbvaultError) as error:
        size_of(tmp_path / "file" / "x")
    assert str(error.value) == f"{tmp_path}/file/x: cannot be looked at: Not a directory"


def test_small_files_are_read_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert read_small(tmp_path / "file") == b"content"
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "none")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe", ""):
        with pytest.raises(UnreadableFile) as error:
            read_small(tmp_path / name)
        reason = "cannot be read: Too many levels of symbolic links"
        assert error.value.what == (reason if name == "link" else "is not a file that a repository can hold")
        assert error.value.path == str(tmp_path / name)


def test_a_small_file_is_one_of_so_many_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    assert read_small(tmp_path / "file", 7) == b"content"
    with pytest.raises(UnreadableFile):
        read_small(tmp_path / "file", 6)


def after_fstat(monkeypatch: pytest.MonkeyPatch, act: Callable[[int], object]) -> None:
    """Let something happen once a file's size is known."""
    original = os.fstat

    def looked(fd: int) -> os.stat_result:
        status = original(fd)
        act(fd)
        return status

    monkeypatch.setattr(os, "fstat", looked)


def test_a_small_file_that_grows_while_it_is_read_has_the_size_that_was_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"content")

    def grow(_: int) -> None:
        with (tmp_path / "file").open("ab") as file:
            file.write(b" and more")

    with monkeypatch.context() as patched:
        after_fstat(patched, grow)
        assert read_small(tmp_path / "file", 7) == b"content"


def test_a_small_file_that_the_disk_cannot_read_is_named_and_closed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed a second time, its number may be that of a file which another thread has opened."""
    (tmp_path / "file").write_bytes(b"content")
    closed: list[int] = []

    def close(fd: int) -> None:
        os.fstat(fd)
        os.close(fd)
        closed.append(fd)

    monkeypatch.setattr(store, "close_fd", close)
    assert read_small(tmp_path / "file") == b"content"
    assert len(closed) == 1

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(store, "close_fd", closed.append)
    with monkeypatch.context() as patched:
        after_fstat(patched, fail)
        with pytest.raises(UnreadableFile) as error:
            read_small(tmp_path / "file")
    assert str(error.value) == f"{tmp_path}/file: cannot be read: Input/output error"
    assert len(closed) == 2
    os.close(closed[1])


def test_only_a_regular_file_has_a_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert [size_of(tmp_path / name) for name in ("file", "link", "none", "")] == [7, None, None, None]


def test_manifests_are_in_the_blob_location_and_all_else_in_the_location(made: Made) -> None:
    made.full(A)
    repository = made.read()
    assert repository.path(f"{A}.blobs.gz").parent == made.blob_location
    assert repository.path(f"{A}.json").parent == made.location
    assert repository.has(f"{A}.blobs.gz")
    assert repository.has(f"{A}.fsz")
    (made.location / f"{B}.blobs.gz").touch()
    (made.blob_location / f"{B}.fsz").touch()
    assert not made.read().has(f"{B}.blobs.gz")
    assert not made.read().has(f"{B}.fsz")
    without = read_repository(made.location, None)
    assert without.path(f"{B}.blobs.gz").parent == made.location
    assert without.has(f"{B}.blobs.gz")
