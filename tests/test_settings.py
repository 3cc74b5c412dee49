"""The table of options, and what parsing makes of values."""

from __future__ import annotations

from pathlib import Path

import pytest

from zodbvault.options import OPTION_BY_NAME, OPTIONS, Kind, Status, nearest_option, plain_defaults
from zodbvault.reference import options_reference
from zodbvault.settings import (
    ConfigurationError,
    Parsed,
    Settings,
    Surroundings,
    parse_settings,
    settings_from_plain,
    settings_to_plain,
)

BASE = Path("/site")


def around(part: str = "backup", **changes: str | None) -> Surroundings:
    defaults: dict[str, str | None] = {
        "datafs": "/site/var/filestorage/Data.fs",
        "blob_storage": "/site/var/blobstorage",
        **changes,
    }
    return Surroundings(part, f"[{part}]", BASE, BASE / "var", **defaults)


def parse(part: str = "backup", strict: bool = False, **values: object) -> Parsed:
    return parse_settings(values, around(part), strict=strict)


def settings_of(part: str = "backup", **values: object) -> Settings:
    parsed = parse(part, **values)
    assert parsed.warnings == ()
    return parsed.settings


def mistakes_of(part: str = "backup", **values: object) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        parse(part, **values)
    assert caught.value.exit_code == 2
    return caught.value.mistakes


# The table


def test_each_name_and_alias_stands_in_the_table_once() -> None:
    names = [name for option in OPTIONS for name in (option.name, *option.aliases)]
    assert sorted(names) == sorted(set(names)) == sorted(OPTION_BY_NAME)


def test_each_offered_option_is_an_attribute_of_the_settings() -> None:
    offered = {option.name for option in OPTIONS if option.status is Status.OFFERED}
    made_of_others = {"part", "alternative_location", "alternative_blob_location"}
    not_kept = {"locationprefix", "alternative_restore_source", "archive_blob", "rsync_options"}
    assert set(Settings._fields) == (offered - not_kept) | made_of_others


def test_each_default_has_the_type_of_its_kind() -> None:
    types = {Kind.BOOLEAN: bool, Kind.NUMBER: int, Kind.TEXT: str, Kind.CHOICE: str, Kind.BACKUPS: str}
    for option in OPTIONS:
        if option.status is Status.RETIRED:
            assert option.default is None
        elif option.kind is not Kind.PATH:
            assert type(option.default) is types[option.kind], option.name


def test_the_reference_is_up_to_date() -> None:
    """When this fails: python tools/write_options.py"""
    page = Path(__file__).resolve().parent.parent / "docs" / "options.rst"
    assert page.read_text(encoding="utf-8") == options_reference()


# Defaults


def test_the_defaults_of_a_part_called_backup() -> None:
    assert settings_of() == Settings(
        part="backup",
        location=BASE / "var/backups",
        snapshotlocation=BASE / "var/snapshotbackups",
        datafs=BASE / "var/filestorage/Data.fs",
        blob_storage=BASE / "var/blobstorage",
        blobbackuplocation=BASE / "var/blobstoragebackups",
        blobsnapshotlocation=BASE / "var/blobstoragesnapshots",
        backup_blobs=True,
        only_blobs=False,
        blob_layout="pool",
        full=False,
        full_after_days=0,
        full_after_incrementals=0,
        nice=0,
        io_priority="normal",
        keep=2,
        keep_daily=0,
        keep_weekly=0,
        keep_monthly=0,
        keep_blob_days=14,
        pre_command="",
        post_command="",
        debug=False,
        enable_snapshotrestore=True,
        alternative_location=None,
        alternative_blob_location=None,
        compress_blob=False,
        incremental_blobs=False,
        blob_timestamps=True,
        use_rsync=True,
        rsync_hard_links_on_first_copy=False,
        shared_blob_storage=False,
        enable_zipbackup=False,
        ziplocation=BASE / "var/zipbackups",
        blobziplocation=BASE / "var/blobstoragezips",
        metrics_file=None,
        healthcheck_url="",
        log_file=None,
        syslog=None,
    )


def test_the_default_folders_of_another_part_carry_its_name() -> None:
    settings = settings_of("plone", enable_zipbackup="true")
    assert [folder.relative_to(BASE / "var").as_posix() for folder in settings.folders()] == [
        "plones",
        "plone-snapshots",
        "plone-zips",
        "plone-blobstorages",
        "plone-blobstoragesnapshots",
        "plone-blobstoragezips",
    ]


def test_the_folders_of_zip_backups_count_where_there_are_some() -> None:
    zips = {BASE / "var/zipbackups", BASE / "var/blobstoragezips"}
    assert zips.isdisjoint(settings_of().folders())
    assert zips <= set(settings_of(enable_zipbackup="true").folders())
    assert settings_of(enable_zipbackup="true", only_blobs="true").folders() == tuple(
        BASE / "var" / name for name in ("blobstoragebackups", "blobstoragesnapshots", "blobstoragezips")
    )


def test_an_empty_value_is_an_option_that_is_not_set() -> None:
    empty = {option.name: "" for option in OPTIONS if option.status is Status.OFFERED}
    assert settings_of(**empty) == settings_of()


def test_plain_data_give_the_same_settings_again() -> None:
    for settings in (settings_of(keep="7", pre_command="a\nb"), settings_of(backup_blobs="no")):
        plain = settings_to_plain(settings)
        assert all(value is None or type(value) in (str, int, bool) for value in plain.values())
        assert settings_from_plain(plain) == settings


NEW_FIELDS = {
    "compress_blob",
    "incremental_blobs",
    "blob_timestamps",
    "use_rsync",
    "rsync_hard_links_on_first_copy",
    "shared_blob_storage",
    "enable_zipbackup",
    "ziplocation",
    "blobziplocation",
}


@pytest.mark.parametrize("part", ["backup", "plone"])
@pytest.mark.parametrize("backup_blobs", ["true", "false"])
def test_a_script_from_before_the_zip_backups_has_their_defaults(part: str, backup_blobs: str) -> None:
    settings = settings_of(part, backup_blobs=backup_blobs, keep="7")
    old = {name: value for name, value in settings_to_plain(settings).items() if name not in NEW_FIELDS}
    assert settings_from_plain(old, plain_defaults) == settings


def test_a_script_without_a_place_that_it_always_had_is_refused() -> None:
    plain = settings_to_plain(settings_of())
    for place in ("location", "datafs"):
        with pytest.raises(ConfigurationError, match=place):
            settings_from_plain({name: value for name, value in plain.items() if name != place}, plain_defaults)


# Paths


def test_relative_locations_start_from_the_prefix_and_other_paths_from_the_base() -> None:
    settings = settings_of(
        locationprefix="safe",
        location="data",
        blobbackuplocation="../blobs",
        datafs="db/Data.fs",
        blob_storage="db/blobs/",
    )
    assert settings.location == BASE / "safe/data"
    assert settings.snapshotlocation == BASE / "safe/snapshotbackups"
    assert settings.blobbackuplocation == BASE / "blobs"
    assert settings.datafs == BASE / "db/Data.fs"
    assert settings.blob_storage == BASE / "db/blobs"


def test_tilde_and_variables_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/plone")
    monkeypatch.setenv("DISK", "/disk")
    settings = settings_of(locationprefix="$DISK/here", location="~/backups", snapshotlocation="${DISK}/snapshots")
    assert settings.location == Path("/home/plone/backups")
    assert settings.snapshotlocation == Path("/disk/snapshots")
    assert settings.blobbackuplocation == Path("/disk/here/blobstoragebackups")


def test_a_variable_that_is_not_set_is_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISK", raising=False)
    parsed = parse(location="$DISK/backups")
    assert parsed.settings.location == BASE / "var/$DISK/backups"
    (warning,) = parsed.warnings
    assert "[backup] location:" in warning
    assert "$DISK" in warning


def test_a_path_with_blanks_and_umlauts_is_kept() -> None:
    assert settings_of(location="/srv/my bäckups").location == Path("/srv/my bäckups")


@pytest.mark.parametrize("value", ["/a\n/b", "/a\0b", 7, True, ["/a"]])
def test_what_is_no_path_is_a_mistake(value: object) -> None:
    (mistake,) = mistakes_of(location=value)
    assert mistake.startswith("[backup] location: ")


# Values


@pytest.mark.parametrize("value", ["true", "True", "YES", "on", "1", True])
def test_true_words(value: object) -> None:
    assert settings_of(full=value).full is True


@pytest.mark.parametrize("value", ["false", "False", "NO", "off", "0", False])
def test_false_words(value: object) -> None:
    assert settings_of(backup_blobs=value).backup_blobs is False


def test_any_other_word_is_false_and_is_warned_about() -> None:
    parsed = parse(full="ture")
    assert parsed.settings.full is False
    assert parsed.warnings == (
        "[backup] full: 'ture' is neither true nor false, and a buildout takes it for false; write true or false",
    )


@pytest.mark.parametrize("name", [option.name for option in OPTIONS if option.kind is Kind.NUMBER])
def test_numbers(name: str) -> None:
    beside = {"only_blobs": "true"} if name == "keep_blob_days" else {}
    for value in ("13", " 13", 13):
        assert getattr(settings_of(**{name: value}, **beside), name) == 13
    for wrong in ("-1", "two", "1.5", "٣", "9" * 30, -1, 1.5, True, ["1"]):
        (mistake,) = mistakes_of(**{name: wrong})
        assert mistake.startswith(f"[backup] {name}: ")


def test_text_is_kept_as_it_is() -> None:
    text = "mount /disk\n  echo 'done'"
    assert settings_of(pre_command=text, post_command=text).pre_command == text


# The layout of blobs: tests/test_blob_options.py has the decisions


def test_the_layout_of_the_settings_is_the_one_that_the_options_choose() -> None:
    assert settings_of(blob_layout="Pool").blob_layout == "pool"
    assert settings_of(archive_blob="true", compress_blob="true").blob_layout == "archives"
    assert settings_of(use_rsync="false").blob_layout == "directories"
    assert parse(blob_layout="pool", use_rsync="false").settings.blob_layout == "pool"
    expected = "[backup] blob_layout: 'heap' is not one of: pool, directories, archives"
    assert mistakes_of(blob_layout="heap") == (expected,)


def test_exactly_one_note_says_which_layout_is_used_and_why() -> None:
    assert parse().notes == ("[backup] blob_layout: pool is used, because no option asks for another layout",)
    assert parse(archive_blob="1", blob_timestamps="0", use_rsync="0").notes == (
        "[backup] blob_layout: archives is used, because archive_blob = true is set",
    )
    assert parse(blob_layout="directories").notes == (
        "[backup] blob_layout: directories is used, because blob_layout = directories is set",
    )
    assert parse(backup_blobs="false").notes == ()


def test_an_option_without_effect_is_warned_about() -> None:
    parsed = parse(blob_layout="pool", use_rsync="false")
    assert parsed.warnings == ("[backup] use_rsync: false has no effect, because blobs are kept in the layout pool",)
    # Where no blobs are backed up there is no layout, and nothing to say about it.
    assert parse(backup_blobs="false", use_rsync="false", rsync_options="-z").warnings == ()


def test_hard_links_to_the_site_are_not_for_plain_copies() -> None:
    assert settings_of(rsync_hard_links_on_first_copy="true").rsync_hard_links_on_first_copy is True
    parsed = parse(rsync_hard_links_on_first_copy="true", use_rsync="false")
    assert parsed.settings.rsync_hard_links_on_first_copy is False
    (warning,) = parsed.warnings
    assert warning.startswith("[backup] rsync_hard_links_on_first_copy: ")


def test_options_for_rsync_that_do_nothing_are_named_in_one_warning() -> None:
    assert settings_of(rsync_options="-aq --delete") == settings_of()
    parsed = parse(rsync_options="-az --bwlimit=500 --chmod 'D750'")
    assert parsed.settings == settings_of()
    (warning,) = parsed.warnings
    assert warning == (
        "[backup] rsync_options: no rsync is started, and these have no effect: -z; --bwlimit=500 (nice and io_priority"
        " let a backup stand back); --chmod D750 (permissions follow those of the source)"
    )
    (mistake,) = mistakes_of(rsync_options="--exclude 'x")
    assert mistake.startswith("[backup] rsync_options: ")


def test_what_works_and_is_not_the_best_is_no_mistake_in_strict_use() -> None:
    parsed = parse(strict=True, blob_timestamps=False)
    assert (parsed.settings.blob_timestamps, len(parsed.warnings)) == (False, 1)
    for pointless in ({"compress_blob": True}, {"rsync_options": "-z"}, {"blob_layout": "pool", "use_rsync": False}):
        parse(**pointless)
        with pytest.raises(ConfigurationError):
            parse(strict=True, **pointless)


# Options that contradict each other


def test_both_spellings_of_the_blob_storage() -> None:
    assert settings_of(**{"blob-storage": "/a/"}).blob_storage == Path("/a")
    assert settings_of(**{"blob-storage": "/a/", "blob_storage": "/a"}).blob_storage == Path("/a")
    assert settings_of(**{"blob-storage": "", "blob_storage": "/a"}).blob_storage == Path("/a")
    (mistake,) = mistakes_of(**{"blob-storage": "/a", "blob_storage": "/b"})
    assert "blob_storage and blob-storage" in mistake


def test_blobs_without_a_blob_storage() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_settings({}, around(blob_storage=None))
    assert "No blob_storage found" in str(caught.value)
    assert "set backup_blobs = false in the [backup] section" in str(caught.value)
    settings = parse_settings({"backup_blobs": "false"}, around(blob_storage=None)).settings
    assert (settings.blob_storage, settings.blobbackuplocation, settings.blobsnapshotlocation) == (None, None, None)


def test_no_blobs_and_only_blobs() -> None:
    (mistake,) = mistakes_of(backup_blobs="false", only_blobs="true")
    assert mistake.startswith("[backup] only_blobs: ")


def test_no_blobs_and_zip_backups() -> None:
    (mistake,) = mistakes_of(backup_blobs="false", enable_zipbackup="true")
    assert mistake.startswith("[backup] enable_zipbackup: true contradicts backup_blobs = false")


@pytest.mark.parametrize("layout", ["pool", "directories"])
def test_archives_and_another_layout(layout: str) -> None:
    (mistake,) = mistakes_of(archive_blob="true", blob_layout=layout)
    assert mistake == f"[backup] archive_blob: true contradicts blob_layout = {layout}; keep one of them"
    assert settings_of(archive_blob="true", blob_layout="archives").blob_layout == "archives"


def test_incremental_archives_and_numbers() -> None:
    (mistake,) = mistakes_of(archive_blob="true", incremental_blobs="true", blob_timestamps="false")
    assert mistake.startswith("[backup] incremental_blobs: true contradicts blob_timestamps = false")
    assert settings_of(archive_blob="true", incremental_blobs="true").incremental_blobs is True


def test_only_blobs_needs_no_data_fs() -> None:
    with pytest.raises(ConfigurationError, match="datafs: is not set"):
        parse_settings({}, around(datafs=None))
    settings = parse_settings({"only_blobs": True}, around(datafs=None)).settings
    assert settings.folders() == (settings.blobbackuplocation, settings.blobsnapshotlocation)


def test_two_locations_that_are_one() -> None:
    (mistake,) = mistakes_of(location="same", blobbackuplocation="/site/var/../var/same")
    assert mistake == (
        "[backup] location and blobbackuplocation: These must be distinct locations, and each of them is /site/var/same"
    )


def test_the_places_of_zip_backups_are_distinct_too_even_unused() -> None:
    assert mistakes_of(ziplocation="backups") == (
        "[backup] location and ziplocation: These must be distinct locations, and each of them is /site/var/backups",
    )
    assert "These must be distinct locations" in mistakes_of(blobziplocation="zipbackups")[0]


def test_backups_in_the_blob_storage_or_around_it() -> None:
    assert "lies in the blob_storage" in mistakes_of(location="blobstorage/backups")[0]
    assert "lies in the blob_storage" in mistakes_of(blobbackuplocation="blobstorage")[0]
    assert "ziplocation: " in mistakes_of(ziplocation="blobstorage/zips")[0]
    assert "blobziplocation: " in mistakes_of(blobziplocation="blobstorage/0x00")[0]
    # Our pool is the folder `blobs` in the location.
    assert "keeps blobs where" in mistakes_of(blobbackuplocation="/safe", blob_storage="/safe/blobs")[0]
    assert settings_of(blobbackuplocation="/safe", blob_storage="/safe/blobs2")


def test_all_mistakes_are_reported_at_once() -> None:
    mistakes = mistakes_of(keep="x", keep_blob_days="y", blob_layout="z", rsync_options="'", location="snapshotbackups")
    assert len(mistakes) == 5


# The backups of another site


@pytest.mark.parametrize("name", ["alternative_restore_source", "alternative_restore_sources"])
@pytest.mark.parametrize(
    ("text", "location", "blobs"),
    [
        ("Data /a /b", "/a", "/b"),
        ("1 a ../b", "/site/a", "/b"),
        ("\n  # Data /x /y\n\n   Data 'with space' /b  \n", "/site/with space", "/b"),
    ],
)
def test_another_sites_backups_are_named_in_one_line(name: str, text: str, location: str, blobs: str) -> None:
    settings = settings_of(**{name: text})
    assert (settings.alternative_location, settings.alternative_blob_location) == (Path(location), Path(blobs))


def test_without_blobs_another_site_has_one_folder() -> None:
    settings = settings_of(backup_blobs="false", alternative_restore_source="Data /a")
    assert (settings.alternative_location, settings.alternative_blob_location) == (Path("/a"), None)


def test_another_sites_blobs_where_this_one_backs_up_none() -> None:
    options = {"backup_blobs": "false", "alternative_restore_source": "Data /a /b"}
    parsed = parse(**options)
    assert (parsed.settings.alternative_location, parsed.settings.alternative_blob_location) == (Path("/a"), None)
    (warning,) = parsed.warnings
    assert warning.startswith("[backup] alternative_restore_source: the folder of blobs, /b, has no effect")
    with pytest.raises(ConfigurationError, match="a folder of blobs, but this site has none"):
        parse_settings(options, around(blob_storage=None))


@pytest.mark.parametrize(
    ("text", "options", "what"),
    [
        ("Data /a", {}, "the folder of blobs is missing"),
        ("Other /a /b", {}, "'Other' is not known"),
        ("Data", {}, "is not of the form"),
        ("Data /a /b /c", {}, "is not of the form"),
        ("Data 'a /b", {}, "is not of the form"),
        ("Data /a /b\nData /c /d", {}, "only one line"),
    ],
)
def test_a_line_that_names_no_other_site_is_a_mistake(text: str, options: dict[str, str], what: str) -> None:
    (mistake,) = mistakes_of(alternative_restore_source=text, **options)
    assert mistake.startswith("[backup] alternative_restore_source: ")
    assert what in mistake


# What is gone, and what nobody knows


@pytest.mark.parametrize("name", [option.name for option in OPTIONS if option.status is Status.RETIRED])
def test_an_option_that_is_gone_says_what_to_do(name: str) -> None:
    (warning,) = parse(**{name: "true"}).warnings
    assert warning.startswith(f"[backup] {name}: ")


def test_an_unknown_option_names_the_nearest_known_one() -> None:
    assert parse(keeep="3").warnings == ("[backup] keeep: nobody knows this option; did you mean keep?",)
    assert parse(colour="blue").warnings == ("[backup] colour: nobody knows this option",)
    assert nearest_option("Blob-Storage") == "blob-storage"


def test_in_strict_use_every_warning_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(strict=True, keeep=3, gzip=True, full="ture", keep="x")
    assert len(caught.value.mistakes) == 4


def test_days_of_blobs_without_effect_are_warned_of() -> None:
    said = "[backup] keep_blob_days: 30 has no effect without only_blobs; keep says what stays"
    assert parse(keep_blob_days="30").warnings == (said,)
    assert parse(keep_blob_days="30", archive_blob="true").warnings == (said,)
    assert parse(keep_blob_days="14").warnings == ()
    assert parse(keep_blob_days="30", only_blobs="true").warnings == ()
