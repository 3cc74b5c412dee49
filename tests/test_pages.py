"""The pages that are copied from in a hurry: what they say is done, literally, on a real site."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.pages import SITE, Shell, Step, require_same, steps
from tests.site import COMMANDS, SOURCE, Site, generate_script
from tests.test_docs import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator

DATE = "2026-11-23-18-05-00"
"""The date that pages take for an example."""


def page(name: str) -> str:
    return (PROJECT / "docs" / name).read_text(encoding="utf-8")


# The tutorial


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel of zodbvault, in the place of the registry that will have it.

    ZODBVAULT_TEST_WHEELS names one that is there: `make release-check` has built what would be published.
    """
    built = os.environ.get("ZODBVAULT_TEST_WHEELS")
    if built:
        return Path(built)
    project = tmp_path_factory.mktemp("project")
    for name in ("pyproject.toml", "setup.py", "README.rst", "LICENSE"):
        shutil.copy(PROJECT / name, project)
    for name in ("src", "man"):
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", "wheels", "."]
    subprocess.run(build, cwd=project, check=True, capture_output=True, timeout=300)
    return project / "wheels"


def test_the_tutorial_goes_from_an_empty_folder_to_a_restored_site(wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    shell = Shell(
        tmp_path,
        {"PIP_FIND_LINKS": str(wheels), "HOME": str(tmp_path / "home"), "TZ": "UTC"},
        {SITE: str(tmp_path / "site"), "python3 -m": f"{sys.executable} -m"},
    )
    example = "040d43c785155f10"
    assert page("tutorial.rst").count(example) == 3
    for step in steps(page("tutorial.rst")):
        printed = shell.run(step)
        if step.commands.endswith("bin/backup-log"):
            shell.names[example] = re.findall(r"[0-9a-f]{16}", printed)[1]
    found = subprocess.run(
        ["man", "-w", "zodbvault-restore"],
        env={"PATH": f"{tmp_path}/site/.venv/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == f"{tmp_path}/site/.venv/share/man/man1/zodbvault-restore.1\n"


# The night of a disaster


class Night:
    """A site with a backup of each of three days, and the scripts that its administrator has."""

    def __init__(self, folder: Path, **options: str) -> None:
        # repozo takes no backup that is later than its own clock.
        self.site = Site(folder / "site", start="2020-11-23-18-05-00", options=options)
        self.states = {}
        for _ in range(3):
            self.site.commit_pages(5)
            self.site.commit_blobs(3)
            stamp, state = self.site.backed_up(full=not self.states)
            self.states[stamp] = state
        self.site.close()
        self.newest = list(self.states)[-1]
        for name in COMMANDS:
            generate_script(self.site, name)
        self._script("repozo", "from ZODB.scripts.repozo import main")
        self._script("zodbvault", f"sys.path[0:0] = [{str(SOURCE)!r}]; from zodbvault.cli import main")
        for name in ("instance", "zeoserver", "client1", "client2"):
            stand_in = self.site.folder / "bin" / name
            stand_in.write_text(f'#!/bin/sh\necho {name} "$@" >> {self.site.folder}/called\n')
            stand_in.chmod(0o755)
        self.offsite = folder / "offsite"
        self.shell = Shell(
            self.site.folder,
            {
                "PATH": f"{self.site.folder}/bin:/usr/local/bin:/usr/bin:/bin",
                "RCLONE_CONFIG_OFFSITE_TYPE": "alias",
                "RCLONE_CONFIG_OFFSITE_REMOTE": str(self.offsite),
                "RCLONE_CONFIG": str(folder / "rclone.conf"),
            },
            {
                SITE: str(self.site.folder),
                "/mnt/offsite": str(self.offsite),
                "/tmp/before": str(folder / "before"),
                "/tmp/test-site": str(folder / "test-site"),
                "/srv/rescued": str(folder / "rescued"),
            },
        )

    def _script(self, name: str, code: str) -> None:
        script = self.site.folder / "bin" / name
        script.write_text(f"#!{sys.executable}\nimport sys\n{code}\nsys.exit(main())\n")
        script.chmod(0o755)

    def destroy(self) -> None:
        for name in ("filestorage", "blobstorage"):
            shutil.rmtree(self.site.var / name, ignore_errors=True)

    def called(self) -> list[str]:
        return (self.site.folder / "called").read_text().splitlines()

    def require(self, stamp: str | None = None) -> None:
        """The site is as it was at a backup, and ZODB reads all of it."""
        self.site.assert_is(self.states[stamp or self.newest])
        assert self.site.read_everything() > 0
        self.site.close()


@pytest.fixture
def night(tmp_path: Path) -> Iterator[Night]:
    night = Night(tmp_path)
    yield night
    night.site.close()


NIGHT = page("disaster-night.rst")


def at_night(night: Night, *sections: str) -> None:
    for section in sections:
        night.shell.run_all(steps(NIGHT, section))


def test_a_database_that_is_gone(night: Night) -> None:
    night.site.datafs.write_bytes(b"broken")
    at_night(night, "1. Stop the site", "2. Keep what is there", "The database is gone or broken")
    night.require()
    assert (night.site.var / "filestorage.broken" / "Data.fs").read_bytes() == b"broken"
    assert night.called() == ["instance stop", "zeoserver stop", "zeoserver start", "instance start"]
    at_night(night, "4. When the site is back")
    assert len([name for name in night.site.names() if name.endswith(".fsz")]) == 2


def test_yesterday_was_still_good(night: Night) -> None:
    yesterday = list(night.states)[1]
    night.shell.names[DATE] = yesterday
    at_night(night, "Yesterday was still good")
    night.require(yesterday)


def test_somebody_deleted_something(night: Night) -> None:
    before = night.site.state()
    with night.site.changing("deleted") as root:
        for name in list(root):
            del root[name]
    night.site.close()
    night.site.backup()
    log, copy, back = steps(NIGHT, "Somebody deleted something")
    rows = night.shell.run(log).splitlines()
    assert rows[1].endswith("deleted")
    night.shell.names["040d35ac6b2961f8"] = re.findall("[0-9a-f]{16}", rows[1])[1]
    night.shell.run(copy)
    copied = Path(night.shell.names["/tmp/before"])
    assert (copied / "filestorage" / "Data.fs").read_bytes() == before.data
    night.shell.run(back)
    night.site.assert_is(before)


def test_only_blobs_are_missing(night: Night) -> None:
    shutil.rmtree(night.site.var / "blobstorage")
    at_night(night, "Only blobs are missing")
    night.require()


def test_the_machine_is_gone(night: Night) -> None:
    copy_with(night, "rsync")
    shutil.rmtree(night.site.var)
    at_night(night, "The machine is gone")
    night.require()


def test_what_it_says_when_it_refuses_is_on_the_page(night: Night) -> None:
    """The words by which the reader finds the case: each is provoked."""
    whole = shutil.copytree(night.site.var, night.site.folder / "whole")
    full = next(night.site.location.glob("*.fsz"))

    def refusal(spoil: str) -> str:
        shutil.rmtree(night.site.var)
        shutil.copytree(whole, night.site.var)
        if spoil == "open":
            assert night.site.db is not None
        elif spoil == "damaged":
            data = full.read_bytes()
            full.write_bytes(data[:100] + bytes([data[100] ^ 1]) + data[101:])
        elif spoil == "missing":
            full.unlink()
        elif spoil == "blobs":
            shutil.rmtree(night.site.var / "blobstorage")
            shutil.rmtree(night.site.blob_location / "blobs" / "0x00")
        hold = f"flock {night.site.location}/.zodbvault.lock " if spoil == "locked" else ""
        code = 75 if spoil == "locked" else 1
        printed = night.shell.run(Step("", f"{hold}bin/restore -n", None), code=code)
        night.site.close()
        return printed.splitlines()[-1]

    section = NIGHT[NIGHT.index("When it refuses\n") : NIGHT.index("4. When the site")]
    words = re.findall(r"^``([^`]+)``(?:, ``([^`]+)``)?(?: \(exit code 75\))?$", section, re.MULTILINE)
    named = [word for pair in words for word in pair if word]
    space, *rest = sorted(named, key=lambda word: word != "not enough space")
    assert space in (SOURCE / "zodbvault" / "io" / "space.py").read_text()
    for word, spoil in zip(rest, ("open", "damaged", "missing", "blobs", "locked"), strict=True):
        pattern = ".*".join(map(re.escape, word.split("...")))
        assert re.search(pattern, refusal(spoil)), (word, spoil)


# Elsewhere


def copy_with(night: Night, program: str) -> None:
    night.offsite.mkdir(exist_ok=True)
    night.shell.run_all(steps(page("off-site.rst"), f"With {program}"))


@pytest.mark.parametrize("program", ["rsync", "rclone"])
def test_a_copy_elsewhere_is_good_and_restores(program: str, night: Night, tmp_path: Path) -> None:
    copy_with(night, program)
    # It is followed where it goes on.
    night.site.commit_blobs(4)
    stamp, state = night.site.backed_up()
    night.site.close()
    night.states[stamp], night.newest = state, stamp
    copy_with(night, program)
    shutil.rmtree(night.site.var)

    text = page("off-site.rst")
    (look,) = steps(text, "Is the copy good?")
    printed = night.shell.run(look._replace(prints=None))
    assert look.prints is not None
    expected = look.prints.replace("2 backups", "4 backups").replace("2 restore.", "4 restore.")
    require_same(printed, expected, night.shell.names)
    elsewhere, back = steps(text, "The site from the copy")
    night.shell.run(elsewhere)
    assert (tmp_path / "rescued" / "filestorage" / "Data.fs").read_bytes() == state.data
    night.shell.return_to(night.site.folder)
    night.shell.run(back)
    night.require()


def test_a_copy_that_follows_removals_stays_good(night: Night) -> None:
    copy_with(night, "rsync")
    night.site.options["keep"] = "1"
    night.site.commit_blobs(1)
    stamp, state = night.site.backed_up(full=True)
    night.site.close()
    night.states[stamp], night.newest = state, stamp
    night.shell.run_all(steps(page("off-site.rst"), "What the copy forgets"))
    names = {path.name for path in (night.offsite / "backups").iterdir()}
    assert [name for name in names if name.endswith(".dat")] == [f"{stamp}.dat"]
    shutil.rmtree(night.site.var)
    at_night(night, "The machine is gone")
    night.require()


def test_a_copy_that_is_made_during_backups_has_whole_backups(night: Night) -> None:
    """The order of the page: between its lines a backup is made each time."""
    night.offsite.mkdir()
    (step,) = steps(page("off-site.rst"), "With rsync")
    states = [night.states[night.newest]]
    for line in step.commands.splitlines():
        night.shell.run(Step("", line, None))
        night.site.commit_blobs(3)
        night.site.commit_pages(2)
        states.append(night.site.backed_up()[1])
        night.site.close()
    shutil.rmtree(night.site.var)
    at_night(night, "The machine is gone")
    (state,) = (each for each in states if each.data == night.site.data)
    night.site.assert_is(state)


# Without zodbvault


def test_a_site_is_rescued_with_repozo(night: Night) -> None:
    text = page("rescue.rst")
    earlier = next(iter(night.states))
    night.shell.names[DATE] = earlier
    (put_aside,) = steps(text, "Rescue without zodbvault")
    newest, old = steps(text, "Data.fs, with repozo")
    copy, check = steps(text, "Blobs, from the pool")
    for step in (put_aside, newest, old, copy):
        night.shell.run(step)
    night.shell.run(check)
    assert (night.site.folder / "earlier.fs").read_bytes() == night.states[earlier].data
    night.require()


def test_a_site_is_rescued_with_zcat(night: Night) -> None:
    text = page("rescue.rst")
    night.shell.run_all(steps(text, "Rescue without zodbvault"))
    join, check = steps(text, "Data.fs, with zcat")
    night.shell.run(join)
    night.shell.return_to(night.site.folder)
    sizes = night.shell.run(check).splitlines()
    assert len(sizes) == 2
    assert sizes[0] == sizes[1] == str(len(night.states[night.newest].data))
    night.shell.return_to(night.site.folder)
    night.shell.run(steps(text, "Blobs, from the pool")[0])
    night.require()


@pytest.mark.parametrize(
    ("section", "options"),
    [
        ("Blobs, from a directory", {"blob_layout": "directories"}),
        ("Blobs, from an archive", {"blob_layout": "archives"}),
        ("Blobs, from archives with deltas", {"blob_layout": "archives", "incremental_blobs": "true"}),
    ],
)
def test_a_site_is_rescued_from_other_layouts(section: str, options: dict[str, str], tmp_path: Path) -> None:
    night = Night(tmp_path, **options)
    night.shell.names[DATE] = night.newest
    text = page("rescue.rst")
    night.shell.run_all(steps(text, "Rescue without zodbvault"))
    night.shell.run(steps(text, "Data.fs, with repozo")[0])
    night.shell.run_all(steps(text, section))
    night.require()


def test_the_checks_of_the_rescue_find_damage(night: Night) -> None:
    text = page("rescue.rst")
    data = next(iter(sorted(night.site.location.glob("*.deltafsz"))))
    stored = bytearray(data.read_bytes())
    stored[len(stored) // 2] ^= 1
    data.write_bytes(stored)
    check = steps(text, "Data.fs, with zcat")[1]
    assert f"{data.name} is damaged" in night.shell.run(check)
    night.shell.return_to(night.site.folder)
    blob = next(iter(sorted((night.site.var / "blobstorage").rglob("*.blob"))))
    blob.write_bytes(b"another one")
    assert "FAILED" in night.shell.run(steps(text, "Blobs, from the pool")[1], code=1)


# Plone with ZEO


def test_restoring_a_site_with_zeo(night: Night) -> None:
    night.destroy()
    night.shell.run_all(steps(page("plone-with-zeo.rst")))
    night.require()
    assert night.called() == [
        "client1 stop", "client2 stop", "zeoserver stop", "zeoserver start", "client1 start", "client2 start",
    ]  # fmt: skip
    copied = Path(night.shell.names["/tmp/test-site"]) / "filestorage" / "Data.fs"
    assert copied.read_bytes() == night.states[night.newest].data


# What is compared


def test_another_time_is_the_same_and_another_word_is_not() -> None:
    page_says = "INFO: Full backup 2026-11-26-01-42-55: 720 bytes\nof Data.fs, 2 blobs (1.5 MB), 0.1 s (14.3 kB/s)."
    require_same(page_says.replace("720", "1,720").replace("-55", "-56").replace("14.3 kB", "9 bytes"), page_says, {})
    for other in ("INFO: Full", page_says.replace("2 blobs", "3 blobs"), page_says + " more", ""):
        with pytest.raises(AssertionError):
            require_same(other, page_says, {})
    require_same("one two three\nfour", "one\n...\nfour", {})
    with pytest.raises(AssertionError):
        require_same("one two three", "one ... four", {})
