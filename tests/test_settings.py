"""The table of options, and what parsing makes of values."""

from __future__ import annotations

from pathlib import Path

import pytest

from zodbvault.reference import options_reference
from zodbvault.settings import (
    OPTION_BY_NAME,
    OPTIONS,
    ConfigurationError,
    Kind,
    Parsed,
    Settings,
    Status,
    Surroundings,
    nearest_option,
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
    assert set(Settings._fields) == (offered - {"locationprefix", "alternative_restore_source"}) | made_of_others


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
        metrics_file=None,
        healthcheck_url="",
        log_file=None,
        syslog=None,
    )


def test_the_default_folders_of_another_part_carry_its_name() -> None:
    settings = settings_of("plone")
    assert [folder.relative_to(BASE / "var").as_posix() for folder in settings.folders()] == [
        "plones",
        "plone-snapshots",
        "plone-blobstorages",
        "plone-blobstoragesnapshots",
    ]


def test_an_empty_value_is_an_option_that_is_not_set() -> None:
    empty = {option.name: "" for option in OPTIONS if option.status is Status.OFFERED}
    assert settings_of(**empty) == settings_of()


def test_plain_data_give_the_same_settings_again() -> None:
    for settings in (settings_of(keep="7", pre_command="a\nb"), settings_of(backup_blobs="no")):
        plain = settings_to_plain(settings)
        assert all(value is None or type(value) in (str, int, bool) for value in plain.values())
        assert settings_from_plain(plain) == settings


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
    assert parsed.warnings == ("[backup] full: 'ture' is neither true nor false, and a buildout takes it for false",)


@pytest.mark.parametrize("name", [option.name for option in OPTIONS if option.kind is Kind.NUMBER])
def test_numbers(name: str) -> None:
    for value in ("13", " 13", 13):
        assert getattr(settings_of(**{name: value}), name) == 13
    for wrong in ("-1", "two", "1.5", "٣", "9" * 30, -1, 1.5, True, ["1"]):
        (mistake,) = mistakes_of(**{name: wrong})
        assert mistake.startswith(f"[backup] {name}: ")


def test_text_is_kept_as_it_is() -> None:
    text = "mount /disk\n  echo 'done'"
    assert settings_of(pre_command=text, post_command=text).pre_command == text


def test_only_the_pool_is_known() -> None:
    assert settings_of(blob_layout="Pool").blob_layout == "pool"
    assert mistakes_of(blob_layout="archives") == ("[backup] blob_layout: 'archives' is not one of: pool",)


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


def test_only_blobs_needs_no_data_fs() -> None:
    with pytest.raises(ConfigurationError, match="datafs: is not set"):
        parse_settings({}, around(datafs=None))
    settings = parse_settings({"only_blobs": True}, around(datafs=None)).settings
    assert settings.folders() == (settings.blobbackuplocation, settings.blobsnapshotlocation)


def test_two_locations_that_are_one() -> None:
    (mistake,) = mistakes_of(location="same", blobbackuplocation="/site/var/../var/same")
    assert mistake == (
        "[backup] location and blobbackuplocation: these must be distinct locations, and both are /site/var/same"
    )


def test_backups_in_the_blob_storage_or_around_it() -> None:
    assert "lies in the blob_storage" in mistakes_of(location="blobstorage/backups")[0]
    assert "lies in the blob_storage" in mistakes_of(blobbackuplocation="blobstorage")[0]
    # Our pool is the folder `blobs` in the location.
    assert "keeps blobs where" in mistakes_of(blobbackuplocation="/safe", blob_storage="/safe/blobs")[0]
    assert settings_of(blobbackuplocation="/safe", blob_storage="/safe/blobs2")


def test_all_mistakes_are_reported_at_once() -> None:
    mistakes = mistakes_of(
        keep="x", keep_blob_days="y", blob_layout="z", archive_blob="true", location="snapshotbackups"
    )
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


@pytest.mark.parametrize(
    ("text", "options", "what"),
    [
        ("Data /a", {}, "the folder of blobs is missing"),
        ("Data /a /b", {"backup_blobs": "false"}, "this site has none"),
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


# What collective.recipe.backup knows and we do not


DEFAULTS_OF_PLANNED = {
    "archive_blob": ("False", "true"),
    "compress_blob": ("no", "true"),
    "incremental_blobs": ("false", "on"),
    "blob_timestamps": ("true", "false"),
    "enable_zipbackup": ("false", "1"),
    "ziplocation": ("zipbackups", "elsewhere"),
    "blobziplocation": ("/site/var/blobstoragezips", "elsewhere"),
    "use_rsync": ("True", "false"),
    "rsync_options": ("", "--no-l -k"),
    "rsync_hard_links_on_first_copy": ("false", "true"),
}


def test_every_planned_option_is_tried() -> None:
    planned = [option for option in OPTIONS if option.status is Status.PLANNED]
    assert {name for option in planned for name in (option.name, *option.aliases)} == set(DEFAULTS_OF_PLANNED)


@pytest.mark.parametrize("name", DEFAULTS_OF_PLANNED)
def test_an_option_that_is_not_offered_yet_may_only_have_its_default(name: str) -> None:
    harmless, refused = DEFAULTS_OF_PLANNED[name]
    assert settings_of(**{name: harmless}) == settings_of()
    (mistake,) = mistakes_of(**{name: refused})
    assert mistake.startswith(f"[backup] {OPTION_BY_NAME[name].name}: zodbvault does not offer this yet")


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
