"""Bars on a real terminal, for each command that takes long; and none where nobody looks on."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

import pytest

from tests.site import SOURCE, timestamp
from tests.terminal import shown_on_a_terminal
from zodbvault.io.progress import listening
from zodbvault.settings import settings_to_plain

if TYPE_CHECKING:
    from tests.site import Site

# As the scripts do it, but that a bar is due at once and is drawn to its end.
SCRIPT = """
import sys
sys.path[0:0] = [{source!r}]
from zodbvault import progress_bars
progress_bars.AFTER = {after!r}
from zodbvault.scripts import run
sys.exit(run({command!r}, {plain!r}, {arguments!r}))
"""


def on_a_terminal(site: Site, command: str, *arguments: str, after: float = 0.0, **environment: str) -> str:
    """What a person sees who runs the command, without colours; it has to succeed."""
    site.tick()
    plain = settings_to_plain(site.settings)
    script = SCRIPT.format(source=str(SOURCE), command=command, plain=plain, arguments=list(arguments), after=after)
    now = timestamp(site.clock.now())
    surroundings = {**os.environ, "COLUMNS": "120", "TERM": "xterm", "ZODBVAULT_TEST_NOW": now, **environment}
    return shown_on_a_terminal([sys.executable, "-c", script], surroundings)


BAR = "\u2501"  # what rich draws bars with


@pytest.fixture
def larger_site(site: Site) -> Site:
    """A site of some blocks."""
    for _ in range(5):
        site.commit_pages(30, 40_000)
    site.commit_blobs(5, 100_000)
    return site


def test_what_takes_long_shows_a_bar(larger_site: Site) -> None:
    site = larger_site
    state = site.state()
    site.close()
    shown = on_a_terminal(site, "backup")
    assert re.search(rf"Data\.fs {BAR}.* [\d.]+/[\d.]+ MB", shown)
    assert re.search(rf"\d+ blobs {BAR}", shown)
    # The log lines are there, each on a line of its own.
    assert re.search(r"(^|[\r\n])INFO: Please wait while backing up database file: .*\r\n", shown)
    assert re.search(r"[\r\n]INFO: Full backup .*\r\n$", shown)
    for arguments in ((), ("--deep",)):
        shown = on_a_terminal(site, "verify", *arguments)
        assert re.search(rf"(Data\.fs|data files) {BAR}", shown)
        assert re.search(rf"\d+ blobs {BAR}", shown)
        assert "1 backup" in shown
    assert site.blob_storage is not None
    for path in (site.datafs, *site.blob_storage.rglob("*.blob")):
        path.unlink()
    shown = on_a_terminal(site, "restore", "-n")
    assert re.search(rf"Data\.fs {BAR}", shown)
    assert re.search(rf"blobs {BAR}", shown)
    site.assert_is(state)


def test_what_takes_no_time_shows_none(site: Site) -> None:
    site.close()
    shown = on_a_terminal(site, "backup", after=60.0)
    assert BAR not in shown
    assert "INFO: Full backup " in shown


@pytest.mark.parametrize("arguments", [("-q",), ("--log-json",)])
def test_none_where_it_is_not_wanted(larger_site: Site, arguments: tuple[str, ...]) -> None:
    larger_site.close()
    assert BAR not in on_a_terminal(larger_site, "backup", *arguments)


def test_none_in_cron(larger_site: Site) -> None:
    larger_site.close()
    finished = larger_site.command("backup")
    assert BAR not in finished.stderr
    assert "\x1b" not in finished.stderr


def test_none_without_rich(larger_site: Site) -> None:
    larger_site.close()
    without = larger_site.folder / "without" / "rich"
    without.mkdir(parents=True)
    (without / "__init__.py").write_text("raise ImportError('rich')")
    shown = on_a_terminal(larger_site, "backup", PYTHONPATH=str(without.parent))
    assert BAR not in shown
    assert "INFO: Full backup " in shown


class Told:
    """Notes the steps and how far they came."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, int | None]] = []
        self.done: list[int] = []

    def begin(self, what: str, total: int | None) -> None:
        self.steps.append((what, total))
        self.done.append(0)

    def at(self, done: int) -> None:
        assert done >= self.done[-1]
        self.done[-1] = done

    def end(self) -> None:
        pass


def test_the_numbers_are_right(larger_site: Site) -> None:
    site = larger_site
    size, blobs = len(site.data), sum(map(len, site.state().needed.values()))
    told = Told()
    with listening(told):
        site.backup()
    assert told.steps == [("Data.fs", size), ("blobs", None)]
    assert told.done == [size, blobs]
    told = Told()
    with listening(told):
        site.verify()
    (data, stored), (what, _) = told.steps
    size_of_files = sum(path.stat().st_size for path in site.location.glob("*fsz"))
    assert (data, stored, what) == ("data files", size_of_files, "blobs")
    assert told.done == [stored, blobs]
    site.close()
    site.datafs.unlink()
    told = Told()
    with listening(told):
        site.restore()
    assert told.steps[0] == ("Data.fs", size)
    assert told.done[0] == size


@pytest.mark.parametrize("layout", ["directories", "archives"])
def test_blobs_of_the_other_layouts_are_counted_too(larger_site: Site, layout: str) -> None:
    larger_site.options["blob_layout"] = layout
    blobs = sum(map(len, larger_site.state().needed.values()))
    told = Told()
    with listening(told):
        larger_site.backup()
    assert told.steps[-1] == ("blobs", blobs)
    assert told.done[-1] == blobs
