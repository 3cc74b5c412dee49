from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import transaction
from hypothesis import given
from hypothesis import strategies as st
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage
from ZODB.scripts import repozo

from tests.repository.made import MD5, line, stamp
from zodbvault.repository.dat import DamagedDat, Line, can_follow, format_dat, parse_dat

if TYPE_CHECKING:
    from pathlib import Path

NAME = "2026-11-23-18-05-00.dat"
FULL = "2026-11-23-18-05-00.fsz"
DELTA = "2026-11-23-18-06-00.deltafsz"
TEXT = f"{FULL} 0 100 {MD5}\n{DELTA} 100 150 {MD5}\n"


def test_lines_hold_names_offsets_and_sums() -> None:
    full, delta = parse_dat(TEXT.encode(), NAME)
    assert (full.file.is_full, full.start, full.end, full.size, full.md5) == (True, 0, 100, 100, MD5)
    assert (delta.timestamp, delta.start, delta.end, delta.size) == ("2026-11-23-18-06-00", 100, 150, 50)


@pytest.mark.parametrize(
    "folder",
    [
        b"",
        b"/var/backups/",
        b"/srv/my site/backups 2/",
        b"/srv/b\xff\xe9/",
        b"a b/",
        b" /",
        "/srv/Büro 1 2 3/".encode(),
    ],
)
def test_only_the_base_name_of_a_path_counts(folder: bytes) -> None:
    content = b"".join(folder + text for text in TEXT.encode().splitlines(keepends=True))
    assert parse_dat(content, NAME) == parse_dat(TEXT.encode(), NAME)


@pytest.mark.parametrize(
    "text", [TEXT[:-1], TEXT.replace("\n", "\r\n"), TEXT.replace("\n", "\n\n"), TEXT.replace(" ", "\t")]
)
def test_spaces_and_line_ends_do_not_matter(text: str) -> None:
    assert parse_dat(text.encode(), NAME) == parse_dat(TEXT.encode(), NAME)


@given(st.lists(st.integers(0, 10**12), max_size=20), st.integers(0, 10**18), st.booleans())
def test_what_is_written_is_read_again(sizes: list[int], first: int, is_plain: bool) -> None:
    suffix = "fs" if is_plain else "fsz"
    lines: list[Line] = [line(f"{stamp(0)}.{suffix}", 0, first)]
    for number, size in enumerate(sizes, start=1):
        end = lines[-1].end
        lines.append(line(f"{stamp(number)}.delta{suffix}", end, end + size))
    content = format_dat(lines)
    assert parse_dat(content, f"{stamp(0)}.dat") == tuple(lines)
    assert b"/" not in content
    for text, each in zip(content.decode().splitlines(), lines, strict=True):
        assert text.split() == [each.file.name, str(each.start), str(each.end), MD5]  # as repozo reads it


@given(st.integers(0, len(TEXT) - 1))
def test_a_shortened_file_is_never_read_as_another_one(length: int) -> None:
    whole_lines = {len(TEXT.splitlines()[0]), len(TEXT.splitlines()[0]) + 1, len(TEXT) - 1}
    if length in whole_lines:
        assert parse_dat(TEXT[:length].encode(), NAME)
        return
    with pytest.raises(DamagedDat):
        parse_dat(TEXT[:length].encode(), NAME)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("\n\n", "no line"),
        (TEXT.splitlines(keepends=True)[1], "no full in front"),
        (TEXT.replace(" 0 100", " 4 100"), "a full that does not begin at 0"),
        (TEXT.replace(" 100 150", " 101 150"), "gap"),
        (TEXT.replace(" 100 150", " 99 150"), "overlap"),
        (TEXT.replace(" 100 150", " 100 99"), "end before start"),
        (TEXT.replace(" 100 150", " 100 1e3"), "no number"),
        (TEXT.replace(" 100 150", " 100 -5"), "negative"),
        (TEXT.replace(" 100 150", " 100 \u0661\u0665\u0660"), "digits of another script"),
        (TEXT.replace(" 100 150", " 100 " + "1" * 30), "too large"),
        (TEXT.replace(DELTA, "2026-11-23-18-04-00.deltafsz"), "goes back in time"),
        (TEXT.replace(DELTA, "2026-11-23-18-06-00.fsz"), "a second full"),
        (TEXT.replace(DELTA, "2026-11-23-18-06-00.deltafsz.orphan"), "no data file"),
        (TEXT.replace(DELTA, "notes"), "no data file"),
        (TEXT + TEXT.splitlines()[1], "twice"),
        (TEXT + f"{DELTA} 150 160 {MD5}\n", "a second one at the same time"),
        (TEXT.replace(DELTA, "2026-11-23-18-05-00.deltafsz"), "at the time of its full"),
        (TEXT.replace(MD5, MD5.upper()), "upper case"),
        (TEXT.replace(MD5, MD5[1:]), "short sum"),
        (TEXT.replace(MD5, "x" * 32), "no sum"),
        (TEXT.replace(MD5, "None"), "no sum"),
        (TEXT.replace("2026-11-23-18-05", "2026-11-23-18-03"), "another chain's full"),
        ("\0" * 200, "zeros, as after a power failure"),
        (TEXT + "\0" * 50, "zeros behind"),
    ],
)
def test_what_repozo_could_not_have_written_is_damage(text: str, why: str) -> None:
    with pytest.raises(DamagedDat) as error:
        parse_dat(text.encode(), NAME)
    assert str(error.value).startswith(NAME)


def test_damage_is_told_with_its_line_and_what_is_safe() -> None:
    noise = "x" * 150 + "y" * 150
    with pytest.raises(DamagedDat) as error:
        parse_dat(f"{TEXT}\n{noise}\n".encode(), NAME)
    assert error.value.what == f"line 4 cannot be right: {noise[:200]!r}"
    assert error.value.hint == "The files of this chain are still there; nothing was changed."
    with pytest.raises(DamagedDat) as error:
        parse_dat(b"", NAME)
    assert error.value.what == "does not begin with the line of its full backup"


def test_offsets_have_as_many_digits_as_a_file_can_be_long() -> None:
    largest = 10**19 - 1
    assert parse_dat(f"{FULL} 0 {largest} {MD5}\n".encode(), NAME)[0].end == largest
    with pytest.raises(DamagedDat):
        parse_dat(f"{FULL} 0 {largest + 1} {MD5}\n".encode(), NAME)


@given(st.binary(max_size=300))
def test_any_bytes_are_damage_and_nothing_worse(content: bytes) -> None:
    with pytest.raises(DamagedDat) as error:
        parse_dat(content, NAME)
    assert str(error.value).isprintable()


def test_a_line_without_a_sum_cannot_be_written_by_mistake() -> None:
    assert can_follow(line(FULL, 0, 100), ())
    assert not can_follow(line(FULL, 0, 100, md5=None), ())
    assert not can_follow(line(FULL, 0, 100, md5="0" * 31), ())
    assert not can_follow(line(FULL, 0, -1), ())


@pytest.mark.parametrize("folder", ["plain", "with a space", os.fsdecode(b"byte-\xff")])
@pytest.mark.parametrize("compressed", [True, False])
def test_repozos_own_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, compressed: bool
) -> None:
    location = tmp_path / folder
    location.mkdir()
    datafs = tmp_path / "Data.fs"
    db = DB(FileStorage(str(datafs)))
    sizes = []
    with monkeypatch.context() as patched:
        # repozo prints the path into a file opened with the locale's encoding.
        patched.setattr(repozo, "open", _open_with_surrogates, raising=False)
        for minute in range(3):
            with db.transaction() as connection:
                connection.root()[minute] = "x" * 100
            sizes.append(datafs.stat().st_size)
            options = SimpleNamespace(
                repository=str(location),
                file=str(datafs),
                gzip=compressed,
                full=minute == 0,
                quick=True,
                killold=False,
                date=None,
                test_now=(2026, 11, 23, 18, minute, 0),
            )
            if minute == 0:
                repozo.do_full_backup(options)
            else:
                files = [str(location / ("2026-11-23-18-00-00.fs" + "z" * compressed))]
                repozo.do_incremental_backup(options, sizes[-2], files)
    db.close()
    transaction.abort()
    content = (location / "2026-11-23-18-00-00.dat").read_bytes()
    assert os.fsencode(location) in content
    lines = parse_dat(content, "2026-11-23-18-00-00.dat")
    assert [each.end for each in lines] == sizes
    assert [each.file.is_compressed for each in lines] == [compressed] * 3
    assert [each.file.is_full for each in lines] == [True, False, False]
    assert all((location / each.file.name).exists() for each in lines)


def _open_with_surrogates(path: str, mode: str = "r", **keywords: object) -> object:
    if "b" not in mode:
        keywords = {"encoding": "utf-8", "errors": "surrogateescape"}
    return open(path, mode, **keywords)  # type: ignore[call-overload]
