"""The program and its toml file, up to the call of a command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stand_ins import Calls, install_stand_ins
from zodbvault.cli import main
from zodbvault.settings import ConfigurationError
from zodbvault.site_file import read_site_file
from zodbvault.version import VERSION

ONE_SITE = """
[site.plone]
datafs = "db/Data.fs"
blob_storage = "/srv/blobs"
keep = 5
full = true
pre_command = '''
mount /disk
echo done'''
"""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return install_stand_ins(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def written(folder: Path, text: str) -> Path:
    path = folder / "zodbvault.toml"
    path.write_text(text, encoding="utf-8")
    return path


def mistakes_of(folder: Path, text: str, site: str | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        read_site_file(written(folder, text), site)
    assert caught.value.exit_code == 2
    assert caught.value.path == str(folder / "zodbvault.toml")
    return caught.value.mistakes


# The file


def test_a_site_and_its_defaults(folder: Path) -> None:
    settings = read_site_file(written(folder, ONE_SITE), None)
    assert settings.part == "plone"
    assert settings.datafs == folder / "db/Data.fs"
    assert settings.blob_storage == Path("/srv/blobs")
    assert settings.folders() == tuple(
        folder / "var" / name
        for name in ("plones", "plone-snapshots", "plone-blobstorages", "plone-blobstoragesnapshots")
    )
    assert (settings.keep, settings.full, settings.pre_command) == (5, True, "mount /disk\necho done")


def test_relative_paths_start_from_the_folder_of_the_file(folder: Path) -> None:
    written(folder, ONE_SITE + 'locationprefix = "../disk"\nlocation = "data"\n')
    settings = read_site_file(Path("../zodbvault.toml"), None)
    assert settings.location == folder.parent / "disk/data"
    assert settings.datafs == folder / "db/Data.fs"


def test_one_of_several_sites(folder: Path) -> None:
    text = "[site.a]\ndatafs = 'a.fs'\nbackup_blobs = false\n[site.'b c']\ndatafs = 'b.fs'\nbackup_blobs = false\n"
    assert read_site_file(written(folder, text), "b c").datafs == folder / "b.fs"
    assert mistakes_of(folder, text) == ("has several sites: a, b c",)
    assert mistakes_of(folder, text, "d") == ("has no site d; there is: a, b c",)


def test_two_sites_that_get_in_each_others_way(folder: Path) -> None:
    text = "[site.a]\ndatafs = 'a.fs'\nblob_storage = 'blobs'\n{0}[site.b]\ndatafs = 'b.fs'\nblob_storage = '{1}'\n{0}"
    (mistake,) = mistakes_of(folder, text.format("", "./blobs/"), "a")
    assert "[site.a] and [site.b] back up different Data.fs with one blob_storage" in mistake
    read_site_file(written(folder, text.format("shared_blob_storage = true\n", "blobs")), "a")
    read_site_file(written(folder, text.format("", "other")), "a")
    (mistake,) = mistakes_of(folder, text.format("location = 'x'\n", "other"), "b")
    assert f"[site.b] and [site.a] back up different sites into one folder, {folder}/x" in mistake
    # A site that cannot be used is no reason not to back up this one.
    read_site_file(written(folder, text.format("", "blobs") + "keep = -1\n"), "a")


def test_what_has_no_effect_is_a_mistake_and_what_has_is_none(folder: Path) -> None:
    assert read_site_file(written(folder, ONE_SITE + "blob_timestamps = false\n"), None).blob_layout == "directories"
    (mistake,) = mistakes_of(folder, ONE_SITE + "compress_blob = true\n")
    assert "[site.plone] compress_blob: true has no effect" in mistake


def test_datafs_and_blob_storage_have_no_default(folder: Path) -> None:
    mistakes = mistakes_of(folder, "[site.x]\n")
    assert len(mistakes) == 2
    assert any("[site.x] datafs: is not set" in mistake for mistake in mistakes)
    assert any("No blob_storage found" in mistake for mistake in mistakes)


def test_unknown_keys_are_mistakes_and_all_are_named_at_once(folder: Path) -> None:
    mistakes = mistakes_of(folder, ONE_SITE + "kep = 3\ngzip = true\nonly_blobs = 'maybe'\nblob_layout = 7\n")
    assert len(mistakes) == 4
    assert any("[site.plone] kep: nobody knows this option; did you mean keep?" in mistake for mistake in mistakes)


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("", "no site in it"),
        ("keep = 2\n[site.a]\n", "keep: nobody knows this"),
        ("[sites.a]\n", "sites: nobody knows this"),
        ("site = 3\n", "site: is not a table"),
        ("[site]\ndatafs = 'x'\n", "[site] datafs: options stand in a table"),
        ("[site.'a/b']\n", "[site.a/b]: a site's name"),
        ("[site.'..']\n", "[site...]: a site's name"),
        ("[site.a\n", "is not a toml file: "),
        ("[[site]]\n", "site: is not a table"),
    ],
)
def test_files_that_cannot_be_used(text: str, mistake: str, folder: Path) -> None:
    assert any(found.startswith(mistake) for found in mistakes_of(folder, text))


def test_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "bad.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="is not a toml file"):
        read_site_file(folder / "bad.toml", None)


def test_a_file_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no such configuration file.*--config"):
        read_site_file(folder / "none.toml", None)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_site_file(folder, None)


# The program


def test_each_command_gets_the_site(folder: Path, calls: Calls) -> None:
    config = str(written(folder, ONE_SITE + "enable_zipbackup = true\n"))
    commands = "backup snapshot zipbackup restore verify drill list log check prune report"
    for command in commands.split():
        for arguments in ([command, "--config", config], ["--config", config, command, "--site", "plone"]):
            calls.calls.clear()
            assert main([*arguments, "-n"]) == 0
            assert calls.only.name.startswith(command)
            assert calls.only.settings.part == "plone"


def test_the_file_in_the_current_folder_is_the_default(
    folder: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written(folder, ONE_SITE)
    assert main(["backup"]) == 2
    assert capsys.readouterr().err.startswith(f"ERROR: {folder}/elsewhere/zodbvault.toml: there is no such")
    monkeypatch.chdir(folder)
    assert main(["backup", "--full"]) == 0
    assert calls.only.full is True
    assert capsys.readouterr() == ("", "INFO: backed up\n")


def test_restore_of_a_snapshot(folder: Path, calls: Calls) -> None:
    config = str(written(folder, ONE_SITE))
    assert main(["restore", "--config", config, "-n", "--snapshot", "2026-11-23"]) == 0
    assert (calls.only.source, calls.only.when, calls.only.ask) == ("snapshot", "2026-11-23", None)


def test_restore_of_a_zip_backup(folder: Path, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(written(folder, ONE_SITE))
    for arguments in (["zipbackup"], ["restore", "--zip"]):
        assert main([*arguments, "--config", config, "-n"]) == 2
        assert "enable_zipbackup is false" in capsys.readouterr().err
    written(folder, ONE_SITE + "enable_zipbackup = true\n")
    assert main(["restore", "--config", config, "-n", "--zip"]) == 0
    assert (calls.only.source, calls.only.when) == ("zip", None)


def test_a_wrong_file_is_one_line_and_exit_code_2(
    folder: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(folder, "[site.x]\nkeep = -1\n")
    assert main(["backup", "-q", "--config", str(config)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"ERROR: {config}: [site.x] ")
    assert err.count("\n") == 1
    assert calls.calls == []


def test_wrong_usage(calls: Calls) -> None:
    for arguments in ([], ["nonsense"], ["backup", "--nonsense"], ["backup", "extra"], ["snapshot", "--full"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    assert calls.calls == []


def test_to_a_monitoring_system_wrong_usage_and_configuration_are_unknown(
    folder: Path, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["check", "--nonsense"], ["check", "--max-age"], ["--config", "x", "check", "extra"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 3
        assert capsys.readouterr().out.startswith("ZODBVAULT UNKNOWN: ")
    assert main(["check", "--config", str(folder / "missing.toml")]) == 3
    assert capsys.readouterr().out.startswith("ZODBVAULT UNKNOWN: ")
    assert calls.calls == []


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["--help"], ["restore", "--help"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith(f"zodbvault {VERSION}\n")
    assert "[site.plone]" in out
