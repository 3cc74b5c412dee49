"""Where the options of a site without buildout come from: toml file, environment, command line; which one wins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.schemas import validate
from tests.site import SOURCE, Site, generate_program
from tests.terminal import shown_on_a_terminal
from zodbvault.options import OPTIONS, Kind, Option, Status
from zodbvault.settings import ConfigurationError
from zodbvault.site_file import read_site, variable_of

if TYPE_CHECKING:
    from zodbvault.origins import ReadSite

TOML = "[site.plone]\ndatafs = 'Data.fs'\nblob_storage = 'blobs'\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, text: str = TOML) -> Path:
    path = folder / "zodbvault.toml"
    path.write_text(text, encoding="utf-8")
    return path


def read(*options: str, site: str | None = None, config: Path | None = None, **environment: str) -> ReadSite:
    return read_site(config, site, environment, options)


def mistakes(*options: str, site: str | None = None, **environment: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        read(*options, site=site, **environment)
    assert caught.value.exit_code == 2
    return caught.value.mistakes


# Which one wins


def test_each_place_wins_over_the_one_before(folder: Path) -> None:
    written(folder)
    assert read().settings.keep == 2
    written(folder, TOML + "keep = 3\n")
    assert read().settings.keep == 3
    assert read(ZODBVAULT_KEEP="4").settings.keep == 4
    site = read("keep=5", "keep=6", ZODBVAULT_KEEP="4")
    assert site.settings.keep == 6
    assert site.origins["keep"] == ("option", "--option")
    assert site.origins["datafs"] == ("toml", "zodbvault.toml [site.plone]")
    assert read(ZODBVAULT_KEEP="4").origins["keep"] == ("environment", "ZODBVAULT_KEEP")
    assert "full" not in site.origins


def test_an_empty_variable_is_none_and_an_empty_option_takes_away_what_was_set(folder: Path) -> None:
    written(folder, TOML + "keep = 3\npre_command = 'mount /disk'\n")
    site = read("pre_command=", ZODBVAULT_KEEP="", ZODBVAULT_PRE_COMMAND="mount /other")
    assert (site.settings.keep, site.settings.pre_command) == (3, "")
    assert "pre_command" not in site.origins


def test_two_spellings_of_an_option_are_one(folder: Path) -> None:
    written(folder, TOML.replace("blob_storage", "blob-storage"))
    assert read(ZODBVAULT_BLOB_STORAGE="/a").settings.blob_storage == Path("/a")
    site = read("blob-storage=/b", ZODBVAULT_BLOB_STORAGE="/a")
    assert site.settings.blob_storage == Path("/b")
    assert site.origins["blob_storage"].level == "option"
    two = {"ZODBVAULT_ALTERNATIVE_RESTORE_SOURCE": "Data a b", "ZODBVAULT_ALTERNATIVE_RESTORE_SOURCES": "Data c d"}
    (mistake,) = mistakes(**two)
    assert "another spelling of ZODBVAULT_ALTERNATIVE_RESTORE_SOURCE" in mistake


def value_for(option: Option) -> str:
    """A value that is not the default."""
    if option.kind is Kind.BOOLEAN:
        return str(not option.default).lower()
    if option.kind is Kind.CHOICE:
        return next(choice for choice in reversed(option.choices) if choice != option.default)
    special = {
        "alternative_restore_source": "Data /x /y",
        "healthcheck_url": "https://hc.example.org/secret",
        "rsync_options": "-a",
    }
    return special.get(option.name) or {Kind.NUMBER: "7"}.get(option.kind, f"/there/{option.name}")


ALSO = {
    "only_blobs": {"keep_daily": "0"},
    "compress_blob": {"blob_layout": "archives"},
    "incremental_blobs": {"blob_layout": "archives"},
    "blob_timestamps": {"blob_layout": "directories"},
    "use_rsync": {"blob_layout": "directories"},
    "rsync_hard_links_on_first_copy": {"blob_layout": "directories"},
}
"""What an option needs beside it to have an effect."""


@pytest.mark.parametrize(
    "option", [each for each in OPTIONS if each.status is Status.OFFERED], ids=lambda option: option.name
)
def test_every_option_of_the_table_is_read_from_each_place(option: Option, folder: Path) -> None:
    value = value_for(option)
    others = {"datafs": "Data.fs", "blob_storage": "blobs", **ALSO.get(option.name, {})}
    others.pop(option.name, None)

    def in_file(values: dict[str, str]) -> None:
        written(folder, "[site.plone]\n" + "".join(f"{name} = '{text}'\n" for name, text in values.items()))

    in_file({**others, option.name: value})
    by_toml = read()
    in_file(others)
    by_variable = read(**{variable_of(option.name): value})
    by_option = read(f"{option.name}={value}")
    assert by_toml.settings == by_variable.settings == by_option.settings
    assert by_toml.written[option.name] == by_variable.written[option.name] == by_option.written[option.name]
    # The settings have locationprefix and archive_blob in another form, and rsync_options does nothing.
    if option.name in others.keys() | {"datafs", "blob_storage", "rsync_options"}:
        return
    assert read().settings != by_variable.settings


# Without a file


def test_a_site_of_variables_alone(folder: Path) -> None:
    site = read(ZODBVAULT_DATAFS="/data/Data.fs", ZODBVAULT_BLOB_STORAGE="/data/blobs", ZODBVAULT_KEEP_DAILY="7")
    assert site.path is None
    assert site.settings.part == "backup"
    assert site.settings.location == folder / "var" / "backups"
    assert (site.settings.datafs, site.settings.keep_daily) == (Path("/data/Data.fs"), 7)
    named = read(ZODBVAULT_SITE="shop", ZODBVAULT_DATAFS="d", ZODBVAULT_BACKUP_BLOBS="false")
    assert (named.settings.part, named.settings.location) == ("shop", folder / "var" / "shops")
    assert named.settings.datafs == folder / "d"
    assert read("datafs=d", "backup_blobs=false").settings.datafs == folder / "d"
    assert "a/b" in mistakes(site="a/b", ZODBVAULT_DATAFS="d")[0]
    with pytest.raises(ConfigurationError, match=r"datafs: is not set.*There is no zodbvault\.toml here"):
        read(ZODBVAULT_KEEP="3")


def test_a_file_that_was_named_has_to_be_there(folder: Path) -> None:
    assert mistakes(ZODBVAULT_CONFIG="none.toml", ZODBVAULT_DATAFS="d") == ("there is no such configuration file",)
    with pytest.raises(ConfigurationError, match=r"no such configuration file.*zodbvault init.*ZODBVAULT_DATAFS"):
        read()
    written(folder).rename(folder / "other.toml")
    assert read(ZODBVAULT_CONFIG="other.toml").settings.part == "plone"
    assert read(config=folder / "other.toml", ZODBVAULT_CONFIG="none.toml").path == folder / "other.toml"


# Several sites


def test_what_only_one_site_can_have_is_no_variable_for_several(folder: Path) -> None:
    written(folder, TOML + TOML.replace("plone", "shop").replace("'blobs'", "'b'").replace("'Data.fs'", "'S.fs'"))
    assert read(site="shop", ZODBVAULT_KEEP="9").settings.keep == 9
    assert read(ZODBVAULT_SITE="shop").settings.datafs == folder / "S.fs"
    assert read(site="plone", ZODBVAULT_SITE="shop").settings.datafs == folder / "Data.fs"
    assert mistakes(ZODBVAULT_KEEP="9") == ("has several sites: plone, shop",)
    for name in ("datafs", "blob_storage", "location", "blobziplocation", "metrics_file", "healthcheck_url"):
        (mistake,) = mistakes(site="shop", **{variable_of(name): "/x"})
        assert mistake.startswith(f"{variable_of(name)}: cannot hold for all sites that there are (plone, shop)")
    assert read("datafs=/x", site="shop").settings.datafs == Path("/x")
    # A place that both have is seen, wherever it comes from.
    (mistake,) = mistakes("location=var/plones", site="shop")
    assert "[site.shop] and [site.plone] back up different sites into one folder" in mistake


# Mistakes


@pytest.mark.parametrize(
    ("options", "environment", "mistake"),
    [
        ((), {"ZODBVAULT_KEP": "3"}, "ZODBVAULT_KEP: there is no option for this variable of the environment; did"),
        ((), {"ZODBVAULT_KEP": "3"}, "did you mean ZODBVAULT_KEEP?"),
        ((), {"ZODBVAULT_KEEP": "many"}, "ZODBVAULT_KEEP: 'many' is not a whole number"),
        ((), {"ZODBVAULT_FULL": "maybe"}, "ZODBVAULT_FULL: 'maybe' is neither true nor false"),
        ((), {"ZODBVAULT_GZIP": "true"}, "ZODBVAULT_GZIP: Backups are always compressed"),
        (("kep=3",), {}, "--option kep: nobody knows this option; did you mean keep?"),
        (("keep=many",), {"ZODBVAULT_KEEP": "3"}, "--option keep: 'many' is not a whole number"),
        (("keep",), {}, "--option keep: is not of the form NAME=VALUE"),
        (("blob_layout=pol",), {}, "'pol' is not one of: pool, directories, archives; did you mean pool?"),
        ((), {"ZODBVAULT_IO_PRIORITY": "7"}, "ZODBVAULT_IO_PRIORITY: '7' is not one of: normal, idle"),
        ((), {"ZODBVAULT_SITE": "Plones"}, "has no site Plones; there is: plone; did you mean plone?"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(
    options: tuple[str, ...], environment: dict[str, str], mistake: str, folder: Path
) -> None:
    written(folder)
    assert any(mistake in found for found in mistakes(*options, **environment))


def test_variables_that_are_no_options_are_none_of_ours(folder: Path) -> None:
    written(folder)
    others = {
        "ZODBVAULT_RUN_COMMAND": "backup",
        "ZODBVAULT_TEST_NOW": "x",
        "ZODBVAULT_SERVICE_HOST": "10.0.0.1",
        "ZODBVAULT_SERVICE_PORT_WEB": "80",
        "ZODBVAULT_PORT": "tcp://10.0.0.1:80",
        "ZODBVAULT_PORT_80_TCP_ADDR": "10.0.0.1",
        "MY_ZODBVAULT_KEP": "1",
    }
    assert read(**others).settings == read().settings


# The program


@pytest.fixture
def site(folder: Path) -> Site:
    site = Site(folder / "site")
    site.commit_blobs(2)
    site.close()
    return site


def program(
    site: Site, *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [generate_program(site.folder / "bin"), *arguments],
        cwd=cwd or site.folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_container_backs_up_with_variables_alone(site: Site) -> None:
    environment = {
        "ZODBVAULT_DATAFS": str(site.datafs),
        "ZODBVAULT_BLOB_STORAGE": str(site.blob_storage),
        "ZODBVAULT_LOCATION": str(site.folder / "volume/data"),
        "ZODBVAULT_BLOBBACKUPLOCATION": str(site.folder / "volume/blobs"),
        # What a backup tells its commands is no option to a zodbvault that they start.
        "ZODBVAULT_PRE_COMMAND": f"echo $ZODBVAULT_RUN_COMMAND; {site.folder}/bin/zodbvault settings --json >settings",
    }
    for _ in range(2):
        finished = program(site, "backup", **environment)
        assert finished.returncode == 0, finished.stderr
    assert "INFO: pre_command: backup\n" in finished.stderr
    assert json.loads((site.folder / "settings").read_text())["part"] == "backup"
    assert len(site.timestamps(site.folder / "volume/data")) == 1
    finished = program(site, "list", "--option", "location=elsewhere", **environment)
    assert "No backups" in finished.stdout
    for arguments in (["--option", "keep=x", "list"], ["list", "--option", "keep=x"]):
        finished = program(site, *arguments, **environment)
        assert finished.returncode == 2
        assert finished.stderr == (
            "ERROR: --option keep: 'x' is not a whole number from 0 to 999999999. There is no zodbvault.toml here: the"
            " options are those of the environment and of --option.\n"
        )
    finished = program(site, "--option", "keep=1", "settings", "--option", "full=true", "--json", **environment)
    values = {each["name"]: each["value"] for each in json.loads(finished.stdout)["settings"]}
    assert (values["keep"], values["full"]) == (1, True)


def test_scripts_of_a_buildout_ignore_the_environment(site: Site) -> None:
    elsewhere = str(site.folder / "elsewhere")
    environment = {"ZODBVAULT_LOCATION": elsewhere, "ZODBVAULT_KEP": "x", "ZODBVAULT_CONFIG": elsewhere}
    finished = site.command("backup", env=environment)
    assert finished.returncode == 0, finished.stderr
    assert not os.path.exists(elsewhere)
    assert len(site.timestamps(site.location)) == 1


# zodbvault settings


def settings_of(site: Site, *arguments: str, **environment: str) -> dict[str, dict[str, Any]]:
    finished = program(site, "settings", "--json", *arguments, **environment)
    assert finished.returncode == 0, finished.stderr
    data = json.loads(finished.stdout)
    validate("settings", data)
    return {each["name"]: each for each in data["settings"]} | {"": data}


def test_settings_say_what_holds_and_why(site: Site) -> None:
    written(
        site.folder,
        "[site.plone]\ndatafs = 'var/filestorage/Data.fs'\nblob-storage = 'var/blobstorage'\nkeep = 3\n"
        "archive_blob = true\nhealthcheck_url = 'https://user:pass@hc.example.org:81/ping/secret?key=secret'\n",
    )
    found = settings_of(site, "--option", "full_after_days=7", ZODBVAULT_NICE="5")
    assert list(found)[:-1] == [option.name for option in OPTIONS if option.status is Status.OFFERED]
    assert found[""]["config"] == str(site.folder / "zodbvault.toml")
    assert found[""]["part"] == "plone"

    def of(name: str) -> tuple[object, object, object]:
        return found[name]["value"], found[name]["origin"], found[name]["where"]

    place = "zodbvault.toml [site.plone]"
    assert of("keep") == (3, "toml", place)
    assert of("blob_storage") == (str(site.folder / "var/blobstorage"), "toml", place)
    assert of("location") == (str(site.folder / "var/plones"), "default", None)
    assert of("nice") == (5, "environment", "ZODBVAULT_NICE")
    assert of("full_after_days") == (7, "option", "--option")
    assert of("log_file") == (None, "default", None)
    assert of("blob_layout") == ("archives", "default", None)
    assert any("archives is used, because archive_blob = true is set" in note for note in found[""]["notes"])
    assert found["healthcheck_url"]["hidden"]
    assert of("healthcheck_url")[0] == "https://hc.example.org/..."
    assert "secret" not in json.dumps(found[""])
    assert not found["keep"]["hidden"]


def test_settings_for_people(site: Site) -> None:
    path = written(
        site.folder,
        f"[site.plone]\ndatafs = '{site.datafs}'\nbackup_blobs = false\nhealthcheck_url = 'https://h.example/secret'\n"
        "pre_command = '''\nmount /a\ndf\n'''\n",
    )
    finished = program(site, "settings", ZODBVAULT_KEEP="9")
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert lines[0].split() == ["option", "value", "from"]
    assert [line.split() for line in lines if line.startswith("keep ")] == [["keep", "9", "ZODBVAULT_KEEP"]]
    assert any(line.startswith("pre_command ") and "mount /a \\n df" in line for line in lines)
    assert f"The toml file is {path}." in lines
    assert "secret" not in finished.stdout
    assert program(site, "settings", "-q").stdout == ""
    shown = shown_on_a_terminal(
        [sys.executable, str(site.folder / "bin/zodbvault"), "--config", str(path), "settings"],
        {**os.environ, "COLUMNS": "250", "TERM": "xterm", "PYTHONPATH": str(SOURCE)},
    )
    assert "─" in shown
    assert "blob_layout" in shown


def test_bytes_that_are_no_text_are_written_out(site: Site) -> None:
    odd = site.folder / os.fsdecode(b"odd \xff")
    odd.mkdir()
    path = written(odd, f"[site.plone]\ndatafs = '{site.datafs}'\nbackup_blobs = false\n")
    environment = {os.fsencode(name): os.fsencode(value) for name, value in os.environ.items()}
    environment[b"ZODBVAULT_PRE_COMMAND"] = b"echo \xff"
    program = [generate_program(site.folder / "bin"), "settings", "--config", path]
    finished = subprocess.run([*program, "--json"], env=environment, capture_output=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    data = json.loads(finished.stdout)
    validate("settings", data)
    values = {each["name"]: each["value"] for each in data["settings"]}
    assert values["pre_command"] == "echo \\xff"
    assert values["location"] == f"{site.folder}/odd \\xff/var/plones"
    assert data["config"] == f"{site.folder}/odd \\xff/zodbvault.toml"
    finished = subprocess.run(program, env=environment, capture_output=True, timeout=300)
    assert b"echo \\xff" in finished.stdout, finished.stderr


def test_init_takes_no_site(site: Site) -> None:
    for arguments in (["--config", "x"], ["--site", "x"], ["--option", "keep=3"]):
        finished = program(site, *arguments, "init")
        assert finished.returncode == 2
        assert "have no effect with init" in finished.stderr
        finished = program(site, "init", *arguments)
        assert finished.returncode == 2
