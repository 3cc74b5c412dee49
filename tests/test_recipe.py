"""The recipe in real buildouts: options derived from a configuration, and what `bin/buildout` makes of them."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zc.buildout.buildout as zc_buildout
from tools.demo import FETCH_NOTHING

from tests.site import Site as Database
from zodbvault.recipe import Recipe, offered_scripts, settings_source
from zodbvault.settings import settings_from_plain, settings_to_plain

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent

BLOBLESS = """
[backup]
recipe = zodbvault
backup_blobs = false
"""


class StandIn:
    """The recipe of any other part: keeps its options as they are."""

    def __init__(self, buildout: object, name: str, options: object) -> None:
        self.options = options


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Load a configuration without installing anything; other recipes than ours are stand-ins."""

    def load_recipe(spec: str, *_: object) -> type:
        return Recipe if spec == "zodbvault" else StandIn

    monkeypatch.setattr(zc_buildout, "_install_and_load", load_recipe)
    monkeypatch.chdir(tmp_path)
    root_level = logging.getLogger().level
    handlers = logging.getLogger().handlers[:]

    def loaded(
        text: str, parts: str = "backup", name: str = "buildout.cfg", bin_directory: Path = tmp_path / "bin"
    ) -> Any:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        parts_line = f"parts = {parts}\n" if parts else ""
        path.write_text(f"[buildout]\n{parts_line}offline = true\n{textwrap.dedent(text)}", encoding="utf-8")
        return zc_buildout.Buildout(str(path), [("buildout", "bin-directory", str(bin_directory))], False)

    yield loaded
    logging.getLogger().setLevel(root_level)
    logging.getLogger().handlers[:] = handlers


def mistakes_of(load: Callable[..., Any], text: str, **keywords: str) -> list[str]:
    with pytest.raises(zc_buildout.zc.buildout.UserError) as caught:
        load(text, **keywords)["backup"]
    return str(caught.value).splitlines()


# Options


def test_the_options_are_derived_in_the_constructor(load: Callable[..., Any], tmp_path: Path) -> None:
    options = load("[backup]\nrecipe = zodbvault\nblob_storage = blobs/\nkeep = 3\nfull = Yes\n")["backup"]
    var = f"{tmp_path}/var"
    expected = {
        "location": f"{var}/backups",
        "snapshotlocation": f"{var}/snapshotbackups",
        "blobbackuplocation": f"{var}/blobstoragebackups",
        "blobsnapshotlocation": f"{var}/blobstoragesnapshots",
        "datafs": f"{var}/filestorage/Data.fs",
        "blob_storage": f"{tmp_path}/blobs",
        "backup_blobs": "true",
        "only_blobs": "false",
        "blob_layout": "pool",
        "full": "true",
        "full_after_days": "0",
        "full_after_incrementals": "0",
        "nice": "0",
        "io_priority": "normal",
        "keep": "3",
        "keep_blob_days": "14",
        "pre_command": "",
        "post_command": "",
        "debug": "false",
        "enable_snapshotrestore": "true",
        "compress_blob": "false",
        "incremental_blobs": "false",
        "blob_timestamps": "true",
        "use_rsync": "true",
        "rsync_hard_links_on_first_copy": "false",
        "shared_blob_storage": "false",
        "enable_zipbackup": "false",
        "ziplocation": f"{var}/zipbackups",
        "blobziplocation": f"{var}/blobstoragezips",
    }
    assert {name: options[name] for name in expected} == expected


def test_loading_a_configuration_makes_nothing(load: Callable[..., Any], tmp_path: Path) -> None:
    load(BLOBLESS)["backup"]
    assert not (tmp_path / "var").exists()


def test_another_part_uses_its_own_name(load: Callable[..., Any], tmp_path: Path) -> None:
    settings = load("[plone]\nrecipe = zodbvault\nbackup_blobs = no\n", parts="plone")["plone"].recipe.settings
    assert settings.folders() == (tmp_path / "var/plones", tmp_path / "var/plone-snapshots")


def test_a_part_may_refer_to_options_that_we_derive(load: Callable[..., Any], tmp_path: Path) -> None:
    buildout = load(BLOBLESS + "[cron]\nrecipe = other\ncommand = du ${backup:location}\n", parts="cron backup")
    assert buildout["cron"]["command"] == f"du {tmp_path}/var/backups"


def test_the_folder_above_bin_counts_and_not_that_of_the_configuration(
    load: Callable[..., Any], tmp_path: Path
) -> None:
    options = load("[backup]\nrecipe = zodbvault\nblob_storage = b\ndatafs = x.fs\n", name="conf/prod.cfg")["backup"]
    assert options["location"] == f"{tmp_path}/var/backups"
    assert options["datafs"] == f"{tmp_path}/x.fs"
    assert options["blob_storage"] == f"{tmp_path}/b"


def test_tilde_variables_and_prefix(load: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/plone")
    monkeypatch.setenv("DISK", "/disk")
    text = BLOBLESS + "locationprefix = $DISK/site\nlocation = data\nsnapshotlocation = ~/snapshots\n"
    options = load(text)["backup"]
    assert (options["location"], options["snapshotlocation"]) == ("/disk/site/data", "/home/plone/snapshots")


def test_an_empty_prefix_is_the_buildout_folder(load: Callable[..., Any], tmp_path: Path) -> None:
    """As in collective.recipe.backup: the backups of such a site stay where they are."""
    options = load(BLOBLESS + "locationprefix =\n", name="conf/prod.cfg")["backup"]
    assert (options["location"], options["ziplocation"]) == (f"{tmp_path}/backups", f"{tmp_path}/zipbackups")


def test_a_section_that_extends_another_and_a_macro(load: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    text = """
    [base]
    recipe = zodbvault
    keep = 7
    backup_blobs = false
    [backup]
    <= base
    keep_daily = 3
    eggs = zodbvault
    find-links =
    unzip = true
    <part-dependencies> = other
    [other]
    recipe = other
    """
    settings = load(text)["backup"].recipe.settings
    assert (settings.keep, settings.keep_daily) == (7, 3)
    assert [record for record in caplog.records if record.name == "zodbvault"] == []


def test_commands_of_several_lines(load: Callable[..., Any]) -> None:
    text = BLOBLESS + "pre_command =\n    mount $$DISK\n    echo 'done' \"%s\"\n"
    assert load(text)["backup"].recipe.settings.pre_command == "mount $$DISK\necho 'done' \"%s\""


# Parts of Zope and ZEO


@pytest.mark.parametrize(
    ("recipe", "blobs"),
    [
        ("plone.recipe.zope2instance", "db/blobs"),
        ("Plone.Recipe.ZEOServer", "data/db/blobs"),
        ("plone.recipe.zope2zeoserver:default", "data/db/blobs"),
    ],
)
def test_a_zope_part_says_where_the_data_are(recipe: str, blobs: str, load: Callable[..., Any], tmp_path: Path) -> None:
    """A relative path starts where it starts for the recipe of that part."""
    text = f"""
    [backup]
    recipe = zodbvault
    [instance]
    recipe = {recipe}
    file-storage = db/main.fs
    blob-storage = db/blobs
    var = data
    """
    settings = load(text, parts="backup instance")["backup"].recipe.settings
    assert settings.datafs == tmp_path / "data/db/main.fs"
    assert settings.blob_storage == tmp_path / blobs
    assert settings.location == tmp_path / "data/backups"


@pytest.mark.parametrize("recipe", ["plone.recipe.zope2instance", "plone.recipe.zeoserver"])
def test_a_zope_part_without_var_has_a_relative_database_below_var(
    recipe: str, load: Callable[..., Any], tmp_path: Path
) -> None:
    text = f"[backup]\nrecipe = zodbvault\n[zope]\nrecipe = {recipe}\nfile-storage = filestorage/Other.fs\n"
    settings = load(text, parts="zope backup")["backup"].recipe.settings
    assert settings.datafs == tmp_path / "var/filestorage/Other.fs"
    assert settings.blob_storage == tmp_path / "var/blobstorage"


def test_whole_paths_of_a_zope_part_stay(load: Callable[..., Any], tmp_path: Path) -> None:
    text = """
    [backup]
    recipe = zodbvault
    [zope]
    recipe = plone.recipe.zeoserver
    var = data
    file-storage = /srv/db/Data.fs
    blob-storage = ${buildout:directory}/blobs
    """
    settings = load(text, parts="zope backup")["backup"].recipe.settings
    assert (settings.datafs, settings.blob_storage) == (Path("/srv/db/Data.fs"), tmp_path / "blobs")


def test_a_zope_part_without_options_means_the_usual_places(load: Callable[..., Any], tmp_path: Path) -> None:
    text = "[backup]\nrecipe = zodbvault\n[instance]\nrecipe = plone.recipe.zope2instance\n"
    settings = load(text, parts="instance backup")["backup"].recipe.settings
    assert settings.datafs == tmp_path / "var/filestorage/Data.fs"
    assert settings.blob_storage == tmp_path / "var/blobstorage"


def test_each_option_is_taken_from_the_first_part_that_has_it(load: Callable[..., Any], tmp_path: Path) -> None:
    text = """
    [backup]
    recipe = zodbvault
    [client]
    recipe = plone.recipe.zope2instance
    blob-storage = client/blobs
    var = client
    [zeoserver]
    recipe = plone.recipe.zeoserver
    file-storage = server/Data.fs
    blob-storage = server/blobs
    zeo-var = server
    """
    settings = load(text, parts="backup client zeoserver")["backup"].recipe.settings
    assert settings.datafs == tmp_path / "server/server/Data.fs"
    assert settings.blob_storage == tmp_path / "client/blobs"
    assert settings.location == tmp_path / "server/backups"


def test_the_own_options_win_over_a_zope_part(load: Callable[..., Any], tmp_path: Path) -> None:
    text = """
    [backup]
    recipe = zodbvault
    datafs = mine.fs
    blob-storage = mine
    [instance]
    recipe = plone.recipe.zope2instance
    file-storage = db/main.fs
    blob-storage = db/blobs
    """
    settings = load(text, parts="instance backup")["backup"].recipe.settings
    assert (settings.datafs, settings.blob_storage) == (tmp_path / "mine.fs", tmp_path / "mine")


def test_a_relative_var_is_where_the_zope_part_has_it(load: Callable[..., Any], tmp_path: Path) -> None:
    """Its recipe and collective.recipe.backup start from the folder that buildout works in, not from that above bin."""
    text = """
    [backup]
    recipe = zodbvault
    [instance]
    recipe = plone.recipe.zope2instance
    var = data
    """
    settings = load(text, parts="backup instance", name="conf/prod.cfg")["backup"].recipe.settings
    assert settings.location == tmp_path / "conf/data/backups"
    assert settings.datafs == tmp_path / "conf/data/filestorage/Data.fs"
    assert settings.blob_storage == tmp_path / "conf/data/blobstorage"


def test_parts_that_are_added_and_extended_are_found(load: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "base.cfg").write_text(
        "[buildout]\nparts = zeoserver\n[zeoserver]\nrecipe = Plone.Recipe.ZeoServer\nzeo-var = data\n"
    )
    (tmp_path / "more.cfg").write_text(
        "[buildout]\nextends = base.cfg\nparts += backup\n[backup]\nrecipe = zodbvault\nlocationprefix = safe\n"
        "[zeoserver]\nblob-storage = db/blobs/\n"
    )
    settings = load("extends = more.cfg\nparts += other\n[other]\nrecipe = other\n", parts="")["backup"].recipe.settings
    assert settings.blob_storage == tmp_path / "data/db/blobs"
    assert settings.datafs == tmp_path / "data/filestorage/Data.fs"
    assert settings.location == tmp_path / "safe/backups"


def test_a_part_that_is_not_built_does_not_count(load: Callable[..., Any], tmp_path: Path) -> None:
    text = BLOBLESS + "[instance]\nrecipe = plone.recipe.zope2instance\nfile-storage = db/main.fs\n"
    assert load(text)["backup"].recipe.settings.datafs == tmp_path / "var/filestorage/Data.fs"


# Mistakes and warnings


def test_without_any_blob_storage_buildout_fails(load: Callable[..., Any]) -> None:
    (mistake,) = mistakes_of(load, "[backup]\nrecipe = zodbvault\n")
    assert "No blob_storage found" in mistake
    assert "set backup_blobs = false in the [backup] section" in mistake


def test_all_mistakes_are_reported_at_once(load: Callable[..., Any]) -> None:
    text = BLOBLESS + "keep = many\nlocation = x\nsnapshotlocation = x\nrsync_options = '\nonly_blobs = true\n"
    mistakes = mistakes_of(load, text)
    assert len(mistakes) == 4
    assert all(mistake.startswith("[backup] ") for mistake in mistakes)


def test_two_sites_may_not_share_a_folder(load: Callable[..., Any]) -> None:
    text = BLOBLESS + "[other]\nrecipe = zodbvault\nbackup_blobs = false\nsnapshotlocation = backups\ndatafs = {}\n"
    for part in ("backup", "other"):
        with pytest.raises(zc_buildout.zc.buildout.UserError, match=r"different sites into one folder, .*/var/backups"):
            load(text.format("other.fs"), parts="backup other")[part]
    assert load(text.format("var/filestorage/Data.fs"), parts="backup other")["backup"].recipe.settings


def test_two_databases_with_one_blob_storage(load: Callable[..., Any]) -> None:
    text = """
    [backup]
    recipe = zodbvault
    datafs = one.fs
    blob_storage = blobs
    {0}
    [other]
    recipe = zodbvault
    datafs = two.fs
    blob-storage = blobs/
    {0}
    """
    for part in ("backup", "other"):
        with pytest.raises(zc_buildout.zc.buildout.UserError, match="set shared_blob_storage = true in both"):
            load(text.format(""), parts="backup other")[part]
        settings = load(text.format("shared_blob_storage = yes"), parts="backup other")[part].recipe.settings
        assert settings.shared_blob_storage is True
    assert load(text.format(""), parts="backup")["backup"].recipe.settings.shared_blob_storage is False


def test_a_note_says_once_which_blob_layout_is_used_and_why(
    load: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    text = "[backup]\nrecipe = zodbvault\nblob_storage = b\narchive_blob = true\nuse_rsync = false\n"
    with caplog.at_level(logging.INFO, logger="zodbvault"):
        load(text)["backup"].recipe.install  # noqa: B018 - the constructor is what logs
    assert [(record.levelname, record.message) for record in caplog.records if record.name == "zodbvault"] == [
        ("WARNING", "[backup] use_rsync: false has no effect, because blobs are kept in the layout archives"),
        ("INFO", "[backup] blob_layout: archives is used, because archive_blob = true is set"),
    ]


def test_what_is_unknown_or_gone_is_warned_about(load: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="zodbvault"):
        load(BLOBLESS + "kep = 3\ngzip = true\nfull = ture\n")["backup"]
    assert len(caplog.messages) == 3
    assert "[backup] kep: nobody knows this option; did you mean keep?" in caplog.messages


# Names and text of scripts


def test_another_sites_backups_get_a_script(load: Callable[..., Any], tmp_path: Path) -> None:
    other = "alternative_restore_source = Data backups-of-live\n"
    buildout = load(f"{BLOBLESS}{other}[plone]\nrecipe = zodbvault\nbackup_blobs = no\n{other}", parts="backup plone")
    assert offered_scripts(buildout["backup"].recipe.settings)["altrestore"] == "altrestore"
    assert offered_scripts(buildout["plone"].recipe.settings)["plone-altrestore"] == "altrestore"
    assert buildout["plone"].recipe.settings.alternative_location == tmp_path / "backups-of-live"


def test_script_names(load: Callable[..., Any]) -> None:
    text = BLOBLESS + "[plone]\nrecipe = zodbvault\nbackup_blobs = false\nenable_snapshotrestore = false\n"
    buildout = load(text, parts="backup plone")
    assert offered_scripts(buildout["backup"].recipe.settings) == {
        "backup": "backup",
        "snapshotbackup": "snapshot",
        "restore": "restore",
        "snapshotrestore": "snapshotrestore",
        "backup-verify": "verify",
        "backup-list": "list",
        "backup-log": "log",
        "backup-drill": "drill",
        "backup-check": "check",
        "backup-prune": "prune",
        "backup-report": "report",
        "backup-schedule": "schedule",
    }
    assert offered_scripts(buildout["plone"].recipe.settings) == {
        "plone": "backup",
        "plone-snapshot": "snapshot",
        "plone-restore": "restore",
        "plone-verify": "verify",
        "plone-list": "list",
        "plone-log": "log",
        "plone-drill": "drill",
        "plone-check": "check",
        "plone-prune": "prune",
        "plone-report": "report",
        "plone-schedule": "schedule",
    }


def test_zip_backups_get_their_scripts(load: Callable[..., Any]) -> None:
    text = "recipe = zodbvault\nblob_storage = b\ndatafs = d\nenable_zipbackup = On\n"
    buildout = load(f"[backup]\n{text}[plone]\n{text}", parts="backup plone")
    zips = {"zipbackup", "ziprestore"}
    for part, expected in (
        ("backup", {"zipbackup": "zipbackup", "ziprestore": "ziprestore"}),
        ("plone", {"plone-zip": "zipbackup", "plone-ziprestore": "ziprestore"}),
    ):
        names = offered_scripts(buildout[part].recipe.settings)
        assert {script: command for script, command in names.items() if command in zips} == expected


def test_a_script_searches_for_garbage_neither_at_its_start_nor_at_its_end(load: Callable[..., Any]) -> None:
    last = "import atexit, gc\natexit.register(lambda: print(gc.isenabled(), gc.get_freeze_count() > 0))\n"
    source = last + settings_source(load(BLOBLESS)["backup"].recipe.settings)
    said = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    assert said == "False True\n"


def test_the_settings_of_a_script_are_the_settings(load: Callable[..., Any]) -> None:
    text = BLOBLESS + "location = /srv/my 'bäckups' 100%\npost_command = echo \"%(x)s\"\n  ls\n"
    settings = load(text)["backup"].recipe.settings
    source = settings_source(settings)
    assert source.isascii()
    names: dict[str, Any] = {}
    exec(source, names)
    assert settings_from_plain(names["settings"]) == settings
    assert names["settings"] == settings_to_plain(settings)


# relative-paths


RELATIVE = """
[buildout]
relative-paths = true
[backup]
recipe = zodbvault
datafs = var/filestorage/Data.fs
blob_storage = var/blobstorage
snapshotlocation = /disk/snapshots
"""


def settings_after_a_move(options: Any, base: str) -> Any:
    """What a script of a part says when the folder of the buildout is `base` by now."""
    names: dict[str, Any] = {"base": base, "join": os.path.join}
    exec(settings_source(options.recipe.settings, options.recipe._tree), names)
    return settings_from_plain(names["settings"])


def test_what_is_below_a_tree_with_relative_paths_moves_with_it(load: Callable[..., Any], tmp_path: Path) -> None:
    options = load(RELATIVE)["backup"]
    assert settings_after_a_move(options, str(tmp_path)) == options.recipe.settings
    moved = settings_after_a_move(options, "/srv/moved")
    assert (moved.datafs, moved.location) == (
        Path("/srv/moved/var/filestorage/Data.fs"),
        Path("/srv/moved/var/backups"),
    )
    assert moved.snapshotlocation == Path("/disk/snapshots")
    assert moved._replace(**options.recipe.settings._asdict()) == options.recipe.settings


@pytest.mark.parametrize(
    ("general", "own", "moves"), [("false", "", False), ("true", "false", False), ("false", "true", True)]
)
def test_a_part_may_have_relative_paths_for_itself(
    general: str, own: str, moves: bool, load: Callable[..., Any]
) -> None:
    text = RELATIVE.replace("relative-paths = true", f"relative-paths = {general}")
    options = load(f"{text}relative-paths = {own}\n" if own else text)["backup"]
    assert (settings_after_a_move(options, "/srv/moved") != options.recipe.settings) == moves


def test_a_tree_is_known_by_its_link_and_by_itself(load: Callable[..., Any], tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    text = f"{RELATIVE}location = {real}/backups\n"
    text = text.replace("[backup]", f"directory = {link}\nbin-directory = {link}/bin\n[backup]", 1)
    moved = settings_after_a_move(load(text, bin_directory=link / "bin")["backup"], "/srv/moved")
    assert (moved.location, moved.datafs) == (Path("/srv/moved/backups"), Path("/srv/moved/var/filestorage/Data.fs"))


def test_what_a_move_does_not_change_is_warned_about(
    load: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = f"{RELATIVE}pre_command = ls {tmp_path}/var\npost_command = ls /disk\n"
    with caplog.at_level(logging.WARNING, logger="zodbvault"):
        load(text)["backup"]
    (message,) = caplog.messages
    assert message.startswith(f"[backup] pre_command: names {tmp_path}")
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="zodbvault"):
        options = load(text, bin_directory=Path("/elsewhere/bin"))["backup"]
    (message,) = caplog.messages
    assert message.startswith("[backup] relative-paths: has no effect, because bin-directory /elsewhere/bin")
    assert settings_after_a_move(options, "/srv/moved") == options.recipe.settings


# bin/buildout


ZEOSERVER_MODULE = """
class Recipe:
    def __init__(self, *arguments): pass
    def install(self): return ()
    update = install
"""

ZEOSERVER_SETUP = """
from setuptools import setup
setup(
    name="plone.recipe.zeoserver", version="1", py_modules=["stand_in"],
    entry_points={"zc.buildout": ["default = stand_in:Recipe"]},
)
"""


class Site:
    """A folder with a real buildout, whose develop egg is a copy of the project."""

    def __init__(self, folder: Path, develop_eggs: Path) -> None:
        self.folder = folder
        self.develop_eggs = develop_eggs

    def buildout(self, text: str, parts: str = "backup", develop: str = "") -> str:
        (self.folder / "buildout.cfg").write_text(
            f"[buildout]\nparts = {parts}\ndevelop = {develop}\ndevelop-eggs-directory = {self.develop_eggs}\n"
            f"newest = false\noffline = true\n{textwrap.dedent(text)}",
            encoding="utf-8",
        )
        return run_python(["-c", "from zc.buildout.buildout import main; main()", "-U"], self.folder)

    def scripts(self) -> set[str]:
        return set(os.listdir(self.folder / "bin"))


def run_python(arguments: list[str], folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
    environment |= FETCH_NOTHING
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


@pytest.fixture(scope="module")
def develop_eggs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Develop a copy of the project once, for all buildouts of this module, and a stand-in of a ZEO server's recipe."""
    folder = tmp_path_factory.mktemp("develop")
    project = folder / "project"
    project.mkdir()
    shutil.copytree(ROOT / "src", project / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py"):
        shutil.copy(ROOT / name, project)
    (project / "README.rst").write_text("zodbvault\n", encoding="utf-8")
    stand_in = folder / "stand_in"
    stand_in.mkdir()
    (stand_in / "stand_in.py").write_text(ZEOSERVER_MODULE)
    (stand_in / "setup.py").write_text(ZEOSERVER_SETUP)
    Site(folder, folder / "develop-eggs").buildout("", parts="", develop="project stand_in")
    return folder / "develop-eggs"


@pytest.fixture
def site(tmp_path: Path, develop_eggs: Path) -> Site:
    # A develop egg that buildout no longer knows is removed; each site has a copy of its own.
    return Site(tmp_path, Path(shutil.copytree(develop_eggs, tmp_path / "develop-eggs", symlinks=True)))


def test_install_update_reinstall_and_uninstall(site: Site, tmp_path: Path) -> None:
    output = site.buildout(BLOBLESS)
    assert "Installing backup" in output
    assert site.scripts() == {
        "backup", "restore", "snapshotbackup", "snapshotrestore", "backup-verify", "backup-list", "backup-log",
        "backup-drill", "backup-check", "backup-prune", "backup-report", "backup-schedule",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "var").iterdir()} == {"backups", "snapshotbackups"}

    assert "Updating backup" in site.buildout(BLOBLESS)

    # What someone removed comes back.
    (tmp_path / "var/backups").rmdir()
    assert "Updating backup" in site.buildout(BLOBLESS)
    assert (tmp_path / "var/backups").is_dir()
    (tmp_path / "bin/restore").unlink()
    site.buildout(BLOBLESS)
    assert (tmp_path / "bin/restore").is_file()

    # A changed option is noticed, and a script that is no longer wanted goes.
    (tmp_path / "var/snapshotbackups/precious").write_text("x")
    output = site.buildout(BLOBLESS + "enable_snapshotrestore = false\nkeep = 9\n")
    assert "Uninstalling backup" in output
    assert "snapshotrestore" not in site.scripts()
    assert "'keep': 9," in (tmp_path / "bin/backup").read_text()

    # Without the part its scripts go, and the backups stay.
    site.buildout("", parts="")
    assert site.scripts() == set()
    assert (tmp_path / "var/snapshotbackups/precious").read_text() == "x"


def test_a_changed_option_of_a_zope_part_is_noticed(site: Site, tmp_path: Path) -> None:
    text = "[backup]\nrecipe = zodbvault\n[zeo]\nrecipe = plone.recipe.zeoserver\nblob-storage = {}\n"
    for blobs in ("one", "two"):
        site.buildout(text.format(blobs), parts="backup zeo")
        assert f"'{tmp_path}/var/{blobs}'," in (tmp_path / "bin/backup").read_text()


def test_a_mistake_ends_buildout_with_a_readable_error(site: Site) -> None:
    with pytest.raises(AssertionError) as caught:
        site.buildout(BLOBLESS + "keep = many\nenable_zipbackup = true\n")
    output = str(caught.value)
    assert "Error: [backup] " in output
    assert "[backup] keep: 'many' is not a whole number" in output
    assert "[backup] enable_zipbackup: true contradicts backup_blobs = false" in output
    assert "Traceback" not in output


def test_buildout_says_which_blob_layout_is_used(site: Site) -> None:
    output = site.buildout("[backup]\nrecipe = zodbvault\nblob_storage = b\ndatafs = d\n")
    assert output.count("[backup] blob_layout: pool is used, because no option asks for another layout") == 1


def test_each_part_backs_up_and_restores_its_own_database(site: Site, tmp_path: Path) -> None:
    parts = ("plone", "catalog")
    text = "".join(
        f"[{part}]\nrecipe = zodbvault\nenable_zipbackup = true\n"
        f"datafs = {part}/var/filestorage/Data.fs\nblob_storage = {part}/var/blobstorage\n"
        for part in parts
    )
    site.buildout(text, parts=" ".join(parts))
    assert {"plone", "plone-restore", "catalog-zip", "catalog-ziprestore"} <= site.scripts()
    plone, catalog = (Database(tmp_path / part) for part in parts)
    backed_up = {}
    for database in (plone, catalog):
        database.commit_pages(3)
        database.commit_blobs(4)
        database.close()
        backed_up[database] = database.state()
        for script in (database.folder.name, f"{database.folder.name}-zip"):
            run_python([str(tmp_path / "bin" / script), "-q"], Path("/"))
    for database in (plone, catalog):
        database.commit_blobs(4)
        database.close()
    later = catalog.state()
    run_python([str(tmp_path / "bin/plone-restore"), "-n", "-q"], Path("/"))
    assert (plone.data, plone.blobs) == (backed_up[plone].data, backed_up[plone].blobs)
    assert (catalog.data, catalog.blobs) == (later.data, later.blobs)
    run_python([str(tmp_path / "bin/catalog-ziprestore"), "-n", "-q"], Path("/"))
    assert (catalog.data, catalog.blobs) == (backed_up[catalog].data, backed_up[catalog].blobs)
    for database in (plone, catalog):
        assert database.read_everything() > 0
        database.close()


ODD_NAMES = ['100% of $nobody\'s "$5" \U0001f4da', "  --full -rf {0} %(x)s %% [a-z]* #  "]


@pytest.mark.parametrize("odd", ODD_NAMES)
def test_scripts_of_a_buildout_with_odd_names(odd: str, tmp_path: Path, develop_eggs: Path) -> None:
    folder = tmp_path / odd
    folder.mkdir()
    site = Site(folder, Path(shutil.copytree(develop_eggs, folder / "develop-eggs", symlinks=True)))
    name = odd.strip()
    text = (
        "[backup]\nrecipe = zodbvault\nenable_zipbackup = true\n"
        f"datafs = var/filestorage/Data.fs\nblob_storage = var/blobstorage\nlocation = {name}\n"
        f"blobbackuplocation = blobs/{name}\nlog_file = {name}.log\n"
        'pre_command = printf \'%s %%\\n\' "$ZODBVAULT_RUN_LOCATION" >> "$PWD/ran"\n'
    )
    site.buildout(text)
    database = Database(folder)
    database.commit_pages(3)
    database.commit_blobs(4)
    database.close()
    state = database.state()
    location = folder / "var" / name
    for script in ("backup", "snapshotbackup", "zipbackup", "backup-verify", "backup-list", "backup-log"):
        run_python([str(folder / "bin" / script)], tmp_path)
    assert list(location.glob("*.fsz"))
    assert "Full backup" in (folder / f"{name}.log").read_text(encoding="utf-8")
    assert (tmp_path / "ran").read_text().splitlines()[0] == f"{location} %"
    for script in ("restore", "snapshotrestore", "ziprestore"):
        database.commit_blobs(2)
        database.close()
        run_python([str(folder / "bin" / script), "-n"], tmp_path)
        assert (database.data, database.blobs) == (state.data, state.blobs)
    for script in ("backup-check", "backup-drill", "backup-prune", "backup-report"):
        run_python([str(folder / "bin" / script)], tmp_path)


def test_scripts_work_from_any_folder_and_import_no_buildout(site: Site, tmp_path: Path) -> None:
    site.buildout(BLOBLESS)
    for script in sorted(site.scripts()):
        path = tmp_path / "bin" / script
        assert os.access(path, os.X_OK)
        text = path.read_text()
        assert "pkg_resources" not in text
        assert f"'{tmp_path}/var/backups'," in text
        output = run_python([str(path), "--help"], Path("/"))
        assert output.startswith(f"usage: {script} ")


def test_a_part_may_ask_for_an_extra(site: Site, tmp_path: Path) -> None:
    site.buildout(BLOBLESS + "eggs = zodbvault[metrics]\n")
    with pytest.raises(AssertionError, match="CRITICAL: there is no backup"):
        run_python([str(tmp_path / "bin/backup-check"), "--metrics", str(tmp_path / "x.prom")], Path("/"))
    assert "zodbvault_state" in (tmp_path / "x.prom").read_text()
