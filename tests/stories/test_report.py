"""The page about the backups: what it tells, how it is built, and what a browser makes of it."""

from __future__ import annotations

import html
import re
import subprocess
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest

from zodbvault.commands.report import report
from zodbvault.commands.report_style import STYLE
from zodbvault.commands.watching import Thresholds

if TYPE_CHECKING:
    from pathlib import Path

    from tests.site import Site

VOID = frozenset({"meta", "br"})
# How a browser of tests is started: as root it has no sandbox, and in a container little shared memory.
CHROMIUM = ("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")


class Page(HTMLParser):
    """A page as a tree that has to add up. elements: name and attributes of each; text: all of it, by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self.open:
            self.text.setdefault(tag, []).append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)

    def all_text(self, tag: str) -> str:
        return " ".join(" ".join(self.text.get(tag, [])).split())


def a_week(site: Site) -> list[str]:
    stamps = []
    for number in range(8):
        site.commit_pages(3)
        site.commit_blobs(1)
        stamps.append(site.backed_up(full=number == 4)[0])
        site.tick(86340)
    return stamps


def written(site: Site, which: str = "backups") -> str:
    text = report(site.settings, which=which, thresholds=Thresholds(), clock=site.clock)
    assert text.isascii()
    return text


def test_what_it_tells(site: Site) -> None:
    stamps = a_week(site)
    site.verify()
    page = Page(written(site))
    text = page.all_text("body")
    assert all(stamp in text for stamp in stamps)
    assert page.all_text("h1") == "Backups of backup"
    assert "OK All is well" in text
    assert "Nothing to do." in text
    assert text.count("2076-12-01 18") >= 8  # verified, once in each row
    chains = re.search(r"Newest left then (.*?) An incremental", text)
    assert chains is not None
    newest, oldest = (f"{stamps[4]} whole {stamps[7]} 4", f"{stamps[0]} whole {stamps[3]} 4")
    assert newest in chains[1]
    assert oldest in chains[1]
    assert chains[1].index(newest) < chains[1].index(oldest)
    assert chains[1].endswith("4 none")
    assert re.search(rf"{newest} [\d.]+ \w+ 4 {stamps[3]} ", chains[1])
    titles = [element for element in page.text["title"] if ": " in element]
    assert f"{stamps[4][:10]}: 1 backup, 1 full" in titles
    assert f"{stamps[5][:10]}: 1 backup, 0 full" in titles


def test_what_is_wrong_stands_on_top(site: Site) -> None:
    stamps = a_week(site)
    (site.location / f"{stamps[5]}.deltafsz").unlink()
    page = Page(written(site))
    text = page.all_text("main")
    assert text.startswith("CRITICAL The backups are not as they should be")
    assert f"The chain of {stamps[4]}: {stamps[5]}.deltafsz is missing." in text[: text.index("What was looked at")]
    assert f"{stamps[5][:10]}: 1 backup, 0 full, damaged" in page.text["title"]


def test_how_it_is_built(site: Site) -> None:
    a_week(site)
    site.snapshot()
    text = written(site, "all")
    page = Page(text)
    assert [page.count(tag) for tag in ("header", "nav", "main", "footer", "h1")] == [1, 1, 1, 1, 1]
    assert page.elements[0] == ("html", {"lang": "en"})
    assert page.count("table") == page.count("caption") == 6
    assert page.count("svg") == page.count("figure") == page.count("figcaption") > 4
    assert all(attributes.get("aria-label") for name, attributes in page.elements if name == "svg")
    assert all(attributes.get("scope") in ("col", "row") for name, attributes in page.elements if name == "th")
    # What scrolls can be reached with the keyboard.
    assert all(
        attributes.get("tabindex") == "0" and attributes.get("aria-label")
        for _, attributes in page.elements
        if attributes.get("class") == "scroll"
    )
    names = {attributes.get("id") for _, attributes in page.elements}
    used = [attributes[key] for _, attributes in page.elements for key in ("aria-labelledby",) if key in attributes]
    assert names >= set(used)
    # One file that needs nothing else.
    assert page.count("script") == page.count("link") == page.count("img") == 0
    links = [attributes["href"] for _, attributes in page.elements if "href" in attributes]
    assert links == ["#backups", "#snapshots"]
    assert not re.search(r"url\(|@import|https?:|\ssrc=|\son\w+=", text)


def test_names_are_text_and_nothing_else(site: Site) -> None:
    folder = site.folder / 'a<b>"&\u00f6'
    site.options["location"] = str(folder)
    site.backup()
    text = written(site)
    assert html.escape(str(folder), quote=False).replace("\u00f6", "&#246;").replace('"', "&quot;") in text
    Page(text)


def test_without_backups(site: Site) -> None:
    page = Page(written(site, "all"))
    assert "there is no backup" in page.all_text("main")
    assert page.count("svg") == 0


@pytest.mark.parametrize("name", ["2076-99-99-99-99-99", "0500-01-01-00-00-00", "0000-00-00-00-00-00"])
def test_a_name_that_is_no_date_or_none_of_our_time(site: Site, name: str) -> None:
    stamp, _ = site.backed_up()
    (site.location / f"{stamp}.fsz").rename(site.location / f"{name}.fsz")
    (site.location / f"{stamp}.dat").unlink()
    assert name in Page(written(site)).all_text("main")


def test_of_very_many_backups_the_newest_are_listed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = a_week(site)
    assert Page(written(site)).all_text("summary") == f"All {len(stamps)} backups"
    monkeypatch.setattr("zodbvault.commands.report.MOST_ROWS", 3)
    page = Page(written(site))
    assert page.all_text("summary") == f"The newest 3 of {len(stamps)} backups"
    listed = page.all_text("details")
    assert [stamp for stamp in stamps if stamp in listed] == stamps[-3:]


def test_of_blobs_alone(site: Site) -> None:
    site.options["only_blobs"] = "true"
    stamps = a_week(site)
    assert stamps[0] in Page(written(site)).all_text("main")


def test_as_a_script(site: Site) -> None:
    site.backup()
    site.close()
    path = site.folder / "page.html"
    finished = site.command("backup-report", "-o", str(path))
    assert (finished.returncode, finished.stdout) == (0, "")
    assert finished.stderr == f"INFO: The page about the backups is {path}.\n"
    shown = site.command("backup-report").stdout
    assert shown.startswith("<!DOCTYPE html>\n")
    Page(shown)
    finished = site.command("backup-report", "-o", "-", cwd=site.folder)
    assert finished.stdout.startswith("<!DOCTYPE html>\n")
    assert not (site.folder / "-").exists()
    finished = site.command("backup-report", "-o", str(site.folder / "no" / "page.html"))
    assert finished.returncode == 1
    assert "the page cannot be written" in finished.stderr
    assert "-o names another file" in finished.stderr


# Colours


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG 2 defines it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_text_can_be_read_in_the_light_and_in_the_dark() -> None:
    parts = STYLE.split("@media print")[0].split("@media")
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in parts)
    for colours in (light, dark):
        for text in ("ink", "quiet", "full", "good", "warning", "critical"):
            for ground in ("paper", "box"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
        for shape in ("full", "incremental", "blobs", "time", "critical"):
            assert contrast(colours[shape], colours["paper"]) >= 3, shape


# In a browser


def in_a_browser(folder: Path, page: str, width: int) -> tuple[int, str]:
    """How wide the page is in a window of this width, and what the console says of it."""
    measure = "document.title = this.contentDocument.documentElement.scrollWidth"
    style = f"width: {width}px; height: 900px; border: 0"
    frame = f'<iframe style="{style}" onload="{measure}" srcdoc="{html.escape(page)}"></iframe>'
    path = folder / "frame.html"
    path.write_text(f"<!DOCTYPE html><html><head><title></title></head><body>{frame}</body></html>")
    finished = subprocess.run(
        [
            *CHROMIUM,
            f"--user-data-dir={folder / 'chromium'}",
            "--enable-logging=stderr",
            "--dump-dom",
            f"file://{path}",
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    title = re.search(r"<title>(\d+)</title>", finished.stdout)
    console = "\n".join(line for line in finished.stderr.splitlines() if "CONSOLE" in line)
    assert title is not None, console or finished.stderr[-1000:]
    return int(title[1]), console


@pytest.mark.parametrize("width", [360, 1200])
def test_a_small_and_a_large_screen(site: Site, width: int, tmp_path: Path) -> None:
    a_week(site)
    site.snapshot()
    found, console = in_a_browser(tmp_path, written(site, "all"), width)
    # The bar beside it for scrolling takes a little of the width.
    assert 0.9 * width < found <= width
    assert console == ""


def test_the_browser_would_notice(tmp_path: Path) -> None:
    wide = "<!DOCTYPE html><html><body><div style='width: 700px'>x</div><script>nonsense()</script></body></html>"
    width, console = in_a_browser(tmp_path, wide, 360)
    assert width > 360
    assert "nonsense is not defined" in console
