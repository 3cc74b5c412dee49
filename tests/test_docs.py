"""The pages for people: their markup is right, and what they tell to do works on a real site."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import docutils.core
import docutils.nodes
import pytest

from tests.own_crontab import crontab, own_crontab
from tests.site import SOURCE, Site, generate_script
from tests.test_bad_input import unprivileged
from zodbvault.settings import Surroundings, parse_settings
from zodbvault.several_sites import conflict_of
from zodbvault.site_file import read_site_file

PROJECT = Path(__file__).resolve().parent.parent
PAGES = sorted(page for page in (*PROJECT.glob("*.rst"), *PROJECT.glob("docs/*.rst")))
README = (PROJECT / "README.rst").read_text(encoding="utf-8")


def document(text: str) -> docutils.nodes.document:
    """A page as docutils understands it; anything that it would complain about is an error."""
    return docutils.core.publish_doctree(text, settings_overrides={"halt_level": 2, "report_level": 2})


def blocks(title: str, page: str = README) -> list[str]:
    """The literal blocks of a section of a page, by default of README.rst."""
    for section in document(page).findall(docutils.nodes.section):
        if section[0].astext() == title:
            return [block.astext() for block in section.findall(docutils.nodes.literal_block)]
    raise AssertionError(f"no section {title!r}")


def run(site: Site, command: str) -> subprocess.CompletedProcess[str]:
    """Run lines of shell in the folder of a site whose scripts are in bin, where `zodbvault` is a command too."""
    for name in (
        "backup",
        "backup-list",
        "backup-verify",
        "backup-check",
        "backup-prune",
        "backup-report",
        "backup-log",
        "backup-drill",
        "backup-schedule",
        "restore",
    ):
        generate_script(site, name)
    repozo, zodbvault = site.folder / "bin" / "repozo", site.folder / "bin" / "zodbvault"
    repozo.write_text(f"#!{sys.executable}\nfrom ZODB.scripts.repozo import main\nmain()\n")
    zodbvault.write_text(f"#!{sys.executable}\nimport sys\nfrom zodbvault.cli import main\nsys.exit(main())\n")
    for script in (repozo, zodbvault):
        script.chmod(0o755)
    return subprocess.run(
        ["bash", "-e", "-c", command],
        cwd=site.folder,
        env={**os.environ, "PATH": f"{site.folder}/bin{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(SOURCE)},
        input="yes\n",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


# The index has a table of contents that only Sphinx understands: test_documentation.py.
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "index.rst"], ids=lambda page: page.name)
def test_the_markup_is_right(page: Path) -> None:
    document(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"<([^<>\s]+)>`_", page.read_text(encoding="utf-8"))
    for target in targets:
        assert (page.parent / target).exists(), target


def test_the_first_screen_has_the_two_commands() -> None:
    first_screen = README.splitlines()[:24]
    assert "    make demo" in first_screen
    assert "    make test" in first_screen


def test_what_the_readme_makes_there_are_targets_for() -> None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(f"^{target}:", makefile, re.MULTILINE), target


def test_the_smallest_part_is_one() -> None:
    (block,) = blocks("The smallest part")
    parser = configparser.ConfigParser()
    parser.read_string(block)
    part = dict(parser["backup"])
    assert part.pop("recipe") == "zodbvault"
    around = Surroundings(part="backup", section="[backup]", base=Path("/site"), var=Path("/site/var"))
    parsed = parse_settings(part, around)
    assert parsed.settings.datafs == Path("/site/var/filestorage/Data.fs")
    assert not parsed.warnings


def test_several_databases_are_parts_that_get_on_with_each_other() -> None:
    (block,) = blocks("Several Data.fs")
    parser = configparser.ConfigParser()
    parser.read_string(block)
    sites = []
    for name in parser.sections():
        part = dict(parser[name])
        assert part.pop("recipe") == "zodbvault"
        around = Surroundings(part=name, section=f"[{name}]", base=Path("/site"), var=Path("/site/var"))
        sites.append(parse_settings(part, around, strict=True).settings)
    one, two = sites
    assert (one.location, two.location) == (Path("/site/var/plones"), Path("/site/var/catalogs"))
    assert conflict_of(one, two, ("plone", "catalog")) is None


def test_the_scripts_of_the_table_are_those_of_the_recipe() -> None:
    from zodbvault.recipe import offered_scripts

    around = Surroundings(part="backup", section="[backup]", base=Path("/site"), var=Path("/site/var"))
    options = {"datafs": "d", "blob_storage": "b", "enable_zipbackup": "true", "alternative_restore_source": "Data x y"}
    settings = parse_settings(options, around).settings
    assert set(re.findall(r"^``bin/([a-z-]+)``  ", README, re.MULTILINE)) == set(offered_scripts(settings))


def test_cron_has_no_mail_to_send(tmp_path: Path) -> None:
    (line,) = blocks("Every night")
    *when, command = line.split(None, 5)
    assert all(re.fullmatch(r"\*|\d+", field) for field in when)
    site = Site(tmp_path / "site")
    site.commit_pages(1)
    site.commit_blobs(1)
    finished = run(site, command.replace("/srv/site", str(site.folder)))
    site.close()
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")


@pytest.mark.parametrize("page", ["seeing.rst", "watching.rst", "keeping.rst", "verifying.rst", "json.rst"])
def test_the_commands_of_a_page_do_what_it_tells(page: str, tmp_path: Path) -> None:
    text = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    commands = [
        block.astext()
        for block in document(text).findall(docutils.nodes.literal_block)
        if block.astext().startswith("bin/")
    ]
    assert commands
    site = Site(tmp_path / "site", start=time.strftime("%Y-%m-%d-%H-%M-%S", time.gmtime()))
    site.commit_blobs(2)
    stamp, _ = site.backed_up()
    site.snapshot()
    site.close()
    # There was no drill yet, and the disk of the tests may be full.
    text = "\n".join(commands).replace(" --max-drill-age 45d --min-free 10%", " --min-free 0%")
    finished = run(site, text.replace("2026-11-23-18-05-00", stamp))
    assert finished.returncode == 0, finished.stderr
    assert all(line.startswith("INFO: ") for line in finished.stderr.splitlines())


def words_of(line: str) -> list[str]:
    """The words of a line of output; what a run fills in (numbers, dates, tids, paths) is left out."""
    line = line.replace(" are ", " is ")
    line = re.sub(r"\S*[\d/]\S*|\S*%|\b[kMG]?B\b|\bbytes\b|\bmin\b|\bs\b", " ", line)
    return [word.removesuffix("s") for word in re.findall(r"[A-Za-z.=-]{2,}", line)]


def test_what_the_page_on_restoring_shows_is_what_is_printed(tmp_path: Path) -> None:
    def block(begin: str) -> list[str]:
        text = next(text for text in page_blocks("restore.rst") if text.startswith(begin))
        return [line for line in text.splitlines() if not line.startswith("$ ")]

    site = Site(tmp_path / "site", start=time.strftime("%Y-%m-%d-%H-%M-%S", time.gmtime()))
    for _ in range(3):
        site.commit_blobs(2)
        site.backed_up()
    site.delete()
    site.commit_blobs(3)
    site.commit_pages(2)

    plan = run(site, "bin/restore --dry-run").stdout.splitlines()
    assert [words_of(line) for line in plan] == [words_of(line) for line in block("Nothing was changed")]
    site.close()
    question = run(site, "echo no | bin/restore 2>&1 || true").stdout
    shown = " ".join(block("This will replace"))
    for sentence in ("This will replace", "by the backup of", "transactions since then will be lost, the newest of"):
        assert sentence in shown
        assert sentence in question
    assert shown.endswith("Are you sure? (yes/no)")
    log, drill = run(site, "bin/backup-log"), run(site, "bin/backup-drill 2>/dev/null")
    assert log.returncode == 0, log.stderr
    assert log.stdout.splitlines()[0].split() == block("$ bin/backup-log")[0].split()
    assert [words_of(line) for line in drill.stdout.splitlines()] == [
        words_of(line) for line in block("$ bin/backup-drill")
    ]


def test_the_part_that_keeps_more_is_one() -> None:
    block, _ = (block for block in page_blocks("keeping.rst") if block.startswith("[backup]"))
    parser = configparser.ConfigParser()
    parser.read_string(block)
    part = dict(parser["backup"])
    del part["recipe"]
    around = Surroundings("backup", "[backup]", Path("/site"), Path("/site/var"), "Data.fs", "blobs")
    settings = parse_settings(part, around, strict=True).settings
    assert (settings.keep, settings.keep_daily, settings.keep_weekly, settings.keep_monthly) == (2, 7, 4, 12)


def test_a_disk_that_is_not_mounted_is_seen(tmp_path: Path) -> None:
    page = (PROJECT / "docs" / "keeping.rst").read_text(encoding="utf-8")
    block, shown = blocks("When the disk is not mounted", page)
    parser = configparser.ConfigParser()
    parser.read_string(block)
    part = dict(parser["backup"])
    folder = tmp_path / "mnt"
    folder.mkdir()
    site = Site(tmp_path / "site")
    for name in ("location", "snapshotlocation", "blobbackuplocation", "blobsnapshotlocation"):
        site.options[name] = f"{folder}/site/{name}"
    guard = part["pre_command"]
    site.options["pre_command"] = guard.replace("/mnt/backups", str(folder))
    site.begin_with_a_blob()
    site.close()
    for command in (("backup",), ("snapshotbackup",), ("restore", "-n")):
        finished = site.command(*command)
        assert finished.returncode == 1
        last = finished.stderr.splitlines()[-1].replace(str(folder), "/mnt/backups")
        assert re.sub(r"code \d+", "code 32", last) == shown
        assert not list(folder.iterdir())
    assert site.command("backup-check").returncode == 2
    # One user may write there, the other may not.
    site.options["pre_command"] = ""
    folder.chmod(0o555)
    with unprivileged() as prefix:
        finished = site.command("backup", prefix=prefix)
    assert finished.returncode == 1
    assert re.search(rf"ERROR: {folder}\S*: .*Permission denied", finished.stderr), finished.stderr
    folder.chmod(0o755)
    finished = site.command("backup", "-q")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    assert list(folder.iterdir())
    # And where something is mounted.
    site.options["pre_command"] = guard.replace("/mnt/backups", "/")
    site.commit_pages(1)
    site.close()
    assert site.command("backup").returncode == 0
    assert len(site.timestamps()) == 2


def test_a_date_is_restored(tmp_path: Path) -> None:
    (commands,) = blocks("Yesterday's site back")
    site = Site(tmp_path / "site")
    site.commit_blobs(2)
    stamp, state = site.backed_up()
    site.commit_blobs(2)
    site.backed_up()
    site.close()
    finished = run(site, commands.replace("2026-11-23-18-05-00", stamp))
    assert finished.returncode == 0, finished.stderr
    assert stamp in finished.stdout
    site.assert_is(state)
    site.close()


def test_repozo_and_cp_rescue_a_site(tmp_path: Path) -> None:
    (commands,) = blocks("Where the backups are, and what to do without zodbvault")
    # repozo takes no backup that is later than its own clock.
    site = Site(tmp_path / "site", start="2020-11-23-18-05-00")
    site.commit_blobs(3)
    site.backed_up()
    site.commit_pages(3)
    site.commit_blobs(2)
    _, state = site.backed_up()
    site.close()
    finished = run(site, commands)
    assert finished.returncode == 0, finished.stderr
    site.assert_is(state)
    site.close()


def test_the_toml_file_is_one(tmp_path: Path) -> None:
    configuration, commands = blocks("Without buildout")
    (tmp_path / "zodbvault.toml").write_text(configuration, encoding="utf-8")
    settings = read_site_file(tmp_path / "zodbvault.toml", None)
    assert settings.location == tmp_path / "var" / "plones"
    assert settings.blobbackuplocation == tmp_path / "var" / "plone-blobstorages"
    site = Site(tmp_path)
    site.commit_blobs(2)
    site.close()
    finished = run(site, commands)
    assert finished.returncode == 0, finished.stderr
    assert "1 backup checked (names, sizes and checksums): 1 restore." in finished.stdout


def page_blocks(page: str) -> list[str]:
    """The literal blocks of a page in docs."""
    text = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    return [block.astext() for block in document(text).findall(docutils.nodes.literal_block)]


def test_a_file_is_made_and_the_first_backup_too(tmp_path: Path) -> None:
    commands, configuration, with_options = page_blocks("without-buildout.rst")
    site = Site(tmp_path)
    site.commit_blobs(2)
    site.close()
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "zope.conf").write_text(
        "<zodb_db main>\n  mount-point /\n  <filestorage>\n    path var/filestorage/Data.fs\n"
        "    blob-dir var/blobstorage\n  </filestorage>\n</zodb_db>\n"
    )
    finished = run(site, commands)
    assert finished.returncode == 0, finished.stderr
    assert len(site.timestamps(site.var / "backups")) == 1
    # The file of the page is one too.
    (tmp_path / "zodbvault.toml").write_text(configuration, encoding="utf-8")
    assert read_site_file(tmp_path / "zodbvault.toml", "plone").keep == 5
    assert read_site_file(tmp_path / "zodbvault.toml", "shop").location == tmp_path / "var" / "shops"
    finished = run(site, with_options)
    assert finished.returncode == 0, finished.stderr
    assert [line.split()[1:] for line in finished.stdout.splitlines() if line.startswith("keep ")] == [
        ["7", "ZODBVAULT_KEEP"],
        ["9", "--option"],
    ]


def test_a_schedule_comes_and_goes(tmp_path: Path) -> None:
    shell = [block for block in page_blocks("schedule.rst") if block.startswith(("bin/", "zodbvault "))]
    cron, remove, systemd, program = shell
    assert "--remove" in remove
    site = Site(tmp_path / "site")
    site.close()
    (site.folder / "zodbvault.toml").write_text("[site.x]\ndatafs = 'd'\nbackup_blobs = false\n")
    with own_crontab():
        before = crontab("-l").stdout
        finished = run(site, cron)
        assert finished.returncode == 0, finished.stderr
        assert f"# BEGIN zodbvault backup {site.folder}/bin".encode() in crontab("-l").stdout
        finished = run(site, remove)
        assert finished.returncode == 0, finished.stderr
        assert crontab("-l").stdout == before
    units = tmp_path / "units"
    finished = run(site, systemd.replace("--systemd --install", f"--systemd --install --units '{units}'"))
    assert finished.returncode == 0, finished.stderr
    assert len(list(units.iterdir())) == 8
    finished = run(site, program)
    assert finished.returncode == 0, finished.stderr
    assert "--site x backup -q" in finished.stdout


def test_the_parts_of_another_recipe_run_what_the_schedule_does(tmp_path: Path) -> None:
    several, simple = (block for block in page_blocks("schedule.rst") if block.startswith("["))
    parser = configparser.RawConfigParser()
    # The parts are those that buildout is told to use.
    parser.read_string(several.replace("parts +=", "parts ="))
    parts = parser["buildout"]["parts"].split()
    assert parts == parser.sections()[1:]
    shown = {f"{parser[part]['times']} {parser[part]['command']}" for part in parts}
    site = Site(tmp_path / "site")
    site.close()
    lines = site.command("backup-schedule").stdout.splitlines()[1:-1]
    commands = {line.split(" ", 5)[5].replace(f"{site.folder}/bin", "${buildout:bin-directory}") for line in lines}
    assert {line.split(" ", 5)[5] for line in shown} == commands
    # Times that the schedule of some site has.
    from zodbvault.commands.crontab import cron_times
    from zodbvault.commands.timetable import timetable

    times = {cron_times(each) for entry in timetable(15, "plone /srv/zodbvault.toml") for each in entry.times}
    assert {" ".join(line.split(" ", 5)[:5]) for line in shown} == times
    parser.read_string(simple)
    assert parser["cron-backup"]["command"] in commands
