"""The decisions about blob layouts, as tables: which layout the options choose, and what is said of each option."""

from __future__ import annotations

import itertools

import pytest

from zodbvault.blob_options import (
    LAYOUTS,
    BlobOptions,
    advice,
    choose_layout,
    contradictions,
    rsync_options_without_effect,
    without_effect,
)

ARCHIVE = {"archive_blob": True}
NUMBERS = {"blob_timestamps": False}
COPIES = {"use_rsync": False}
LINKS = {"rsync_hard_links_on_first_copy": True}


@pytest.mark.parametrize(
    ("options", "layout", "reason"),
    [
        ({}, "pool", "no option asks for another layout"),
        ({"compress_blob": True}, "pool", "no option asks for another layout"),
        ({"incremental_blobs": True}, "pool", "no option asks for another layout"),
        (NUMBERS, "directories", "blob_timestamps = false is set"),
        (COPIES, "directories", "use_rsync = false is set"),
        (LINKS, "directories", "rsync_hard_links_on_first_copy = true is set"),
        (NUMBERS | COPIES | LINKS, "directories", "blob_timestamps = false is set"),
        (ARCHIVE, "archives", "archive_blob = true is set"),
        (ARCHIVE | NUMBERS | COPIES | LINKS, "archives", "archive_blob = true is set"),
        ({"blob_layout": "pool"}, "pool", "blob_layout = pool is set"),
        ({"blob_layout": "pool"} | NUMBERS | COPIES, "pool", "blob_layout = pool is set"),
        ({"blob_layout": "directories"}, "directories", "blob_layout = directories is set"),
        ({"blob_layout": "archives"} | COPIES, "archives", "blob_layout = archives is set"),
        ({"blob_layout": "archives"} | ARCHIVE, "archives", "blob_layout = archives is set"),
    ],
)
def test_the_layout(options: dict[str, object], layout: str, reason: str) -> None:
    assert choose_layout(BlobOptions(**options)) == (layout, reason)  # type: ignore[arg-type]


EFFECTS = {
    "compress_blob": {"archives"},
    "incremental_blobs": {"archives"},
    "blob_timestamps": {"directories", "archives"},
    "use_rsync": {"directories"},
    "rsync_hard_links_on_first_copy": {"directories"},
}


@pytest.mark.parametrize(("name", "layout"), [*itertools.product(EFFECTS, LAYOUTS)])
def test_an_option_that_changes_nothing_is_named(name: str, layout: str) -> None:
    options = BlobOptions(**{name: not BlobOptions._field_defaults[name]})
    remarks = without_effect(options, layout)
    if layout in EFFECTS[name]:
        assert remarks == ()
    else:
        (remark,) = remarks
        assert remark.option == name
        assert remark.text.endswith(f"has no effect, because blobs are kept in the layout {layout}")


def test_defaults_are_never_remarked_on() -> None:
    for layout in LAYOUTS:
        assert without_effect(BlobOptions(), layout) == advice(BlobOptions(), layout) == ()
    assert contradictions(BlobOptions()) == ()


def test_links_to_the_site_and_plain_copies() -> None:
    (remark,) = without_effect(BlobOptions(**(COPIES | LINKS)), "directories")
    assert (remark.option, "use_rsync = false" in remark.text) == ("rsync_hard_links_on_first_copy", True)


def test_numbers_are_advised_against_where_there_are_some() -> None:
    options = BlobOptions(**NUMBERS)
    for layout in ("directories", "archives"):
        (remark,) = advice(options, layout)
        assert remark.option == "blob_timestamps"
    assert advice(options, "pool") == ()


def test_what_cannot_both_be_meant() -> None:
    for layout in ("pool", "directories"):
        (remark,) = contradictions(BlobOptions(blob_layout=layout, archive_blob=True))
        assert (remark.option, f"blob_layout = {layout}" in remark.text) == ("archive_blob", True)
    (remark,) = contradictions(BlobOptions(incremental_blobs=True, blob_timestamps=False))
    assert (remark.option, "blob_timestamps = false" in remark.text) == ("incremental_blobs", True)
    assert contradictions(BlobOptions(blob_layout="archives", archive_blob=True, incremental_blobs=True)) == ()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", []),
        ("-a", []),
        ("--archive -rpogqW --delete --no-l --quiet", []),
        ("-avz", ["-v", "-z"]),
        ("--no-l -k", ["-k (symlinks in a blobstorage are not followed)"]),
        ("--bwlimit=500", ["--bwlimit=500 (nice and io_priority let a backup stand back)"]),
        ("--bwlimit 500 -x", ["--bwlimit 500 (nice and io_priority let a backup stand back)", "-x"]),
        ("--chmod=D750,F640", ["--chmod=D750,F640 (permissions follow those of the source)"]),
        ("--exclude 'old one' -a", ["--exclude old one"]),
        ("-e 'ssh -p 22' -e", ["-e ssh -p 22", "-e"]),
        ("-aB4096 --exclude", ["-B 4096", "--exclude"]),
        ("archive -t\n  --nonsense", ["archive", "-t", "--nonsense"]),
    ],
)
def test_options_for_rsync(text: str, named: list[str]) -> None:
    assert list(rsync_options_without_effect(text)) == named


def test_options_for_rsync_that_are_no_words() -> None:
    with pytest.raises(ValueError, match="quotation"):
        rsync_options_without_effect("--exclude 'x")
