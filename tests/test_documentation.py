"""The documentation as Sphinx makes it, and what stands beside the pages: no link leads nowhere, examples fit."""

from __future__ import annotations

import configparser
import io
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
import ZConfig
import ZEO

from tests.test_docs import PROJECT, document
from tests.test_recipe import load
from zodbvault.arguments import CHECK_EXIT_CODES, EXIT_CODES
from zodbvault.scripts import INTERRUPTED
from zodbvault.site_file import read_site_file

__all__ = ["load"]

DOCS = PROJECT / "docs"
CONTAINER = DOCS / "examples" / "container"
NAMES = {page.name for page in DOCS.glob("*.rst")}


class Links(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.targets.append(value)
            if name in ("id", "name") and value:
                self.anchors.add(value)


def built(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """What `make docs` runs."""
    options = re.search(r"-m sphinx (.*) docs docs/_build/html", (PROJECT / "Makefile").read_text())
    assert options is not None
    arguments = [sys.executable, "-m", "sphinx", *options[1].split(), str(source), str(target)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def html(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("html")
    finished = built(DOCS, target)
    assert (finished.returncode, finished.stderr) == (0, "")
    return target


def test_every_link_inside_leads_somewhere(html: Path) -> None:
    pages = {path: Links(path) for path in html.rglob("*.html")}
    assert {f"{path.stem}.rst" for path in pages} >= NAMES
    looked_at = 0
    for path, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or parts.path.startswith("_static") or "_sources" in parts.path:
                continue
            looked_at += 1
            where = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert where.exists(), f"{path.name}: {target}"
            if parts.fragment and where in pages and path.stem not in ("search", "genindex"):
                assert unquote(parts.fragment) in pages[where].anchors, f"{path.name}: {target}"
            assert not parts.path.endswith(".rst"), f"{path.name}: {target}"
    assert looked_at > 500


def test_each_page_is_one_click_away(html: Path) -> None:
    index = DOCS / "index.rst"
    shown = index.read_text(encoding="utf-8").split(".. toctree::")[0]
    assert set(re.findall(r"<([a-z-]+\.rst)>`_", shown)) == NAMES - {"index.rst"}


def test_what_is_wrong_is_an_error(tmp_path: Path) -> None:
    wrong = {
        "`gone <gone.rst>`_": "link to gone.rst, which is not there",
        "`code <../src>`_": "link to ../src, which is no part of the documentation",
        ":doc:`gone`": "unknown document: 'gone'",
        "**open": "Inline strong start-string without end-string",
    }
    source = tmp_path / "docs"
    (tmp_path / "src").mkdir()
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("_build"))
    with (source / "exit-codes.rst").open("a", encoding="utf-8") as page:
        page.write("".join(f"\n{line}\n" for line in wrong))
    finished = built(source, tmp_path / "html")
    assert finished.returncode != 0
    for complaint in wrong.values():
        assert complaint in finished.stderr


def test_pictures_have_a_text_and_need_no_network() -> None:
    pictures = sorted((DOCS / "pictures").iterdir())
    assert {picture.name for picture in pictures} == {"list.svg", "progress.svg", "report.png"}
    for picture in pictures:
        if picture.suffix == ".svg":
            text = re.sub(r"<!--.*?-->", "", picture.read_text(encoding="utf-8"), flags=re.DOTALL)
            assert set(re.findall(r"https?://[^\"' )]+", text)) == {"http://www.w3.org/2000/svg"}
    shown = (DOCS / "seeing.rst").read_text(encoding="utf-8")
    images = re.findall(r"\.\. image:: pictures/(\S+)\n    :alt: \S", shown)
    assert sorted(images) == [picture.name for picture in pictures]


def test_the_page_on_exit_codes_has_them_all() -> None:
    page = (DOCS / "exit-codes.rst").read_text(encoding="utf-8")
    rows = {int(code) for code in re.findall(r"^``(\d+)`` ", page, re.MULTILINE)}
    codes = {int(code) for code in re.findall(r"(\d+) [a-z]", EXIT_CODES.partition("Exit codes:")[2])}
    assert rows == codes | {INTERRUPTED}
    *_, for_check = document(page).astext().split("\n\n")[-2:-1]
    for code, word in re.findall(r"(\d) ([A-Z]+)", CHECK_EXIT_CODES):
        assert f"{code} {word}" in for_check


# Plone with ZEO


def test_the_part_beside_zeo_finds_the_site(load: object, tmp_path: Path) -> None:
    page = (DOCS / "plone-with-zeo.rst").read_text(encoding="utf-8")
    block = page.split(".. code-block:: ini\n\n")[1].split("\n\nAdd")[0].split("\n\n``[backup]``")[0]
    text = "\n".join(line[4:] for line in block.splitlines())
    configuration = configparser.ConfigParser(interpolation=None, allow_no_value=True, delimiters=("=",))
    configuration.read_string(text.replace("<= client1", "extended = client1"))
    parts = configuration["buildout"]["parts"].split()
    sections = text.partition("[zeoserver]")[2]
    settings = load(f"[zeoserver]{sections}", parts=" ".join(parts))["backup"].recipe.settings  # type: ignore[operator]
    assert settings.datafs == tmp_path / "var/filestorage/Data.fs"
    assert settings.blob_storage == tmp_path / "var/blobstorage"
    assert (settings.keep, settings.keep_daily, settings.full_after_days) == (2, 7, 1)


# Containers


def test_the_files_of_the_container_fit_each_other(tmp_path: Path) -> None:
    compose = yaml.safe_load((CONTAINER / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"zeo", "zope", "backup", "restore"}
    for service in services.values():
        assert service["image"] == "site"
        for volume in service["volumes"]:
            assert volume.split(":")[0] in compose["volumes"]
    assert services["backup"]["volumes"] == ["data:/data:ro", "backups:/backups"]
    assert services["restore"]["volumes"] == ["data:/data", "backups:/backups"]
    settings = read_site_file(CONTAINER / "zodbvault.toml", None)
    (tmp_path / "filestorage").mkdir()
    text = (CONTAINER / "zeo.conf").read_text().replace("/data/", f"{tmp_path}/")
    schema = ZConfig.loadSchema(str(Path(ZEO.__file__).parent / "schema.xml"))
    zeo, _ = ZConfig.loadConfigFile(schema, io.StringIO(text))
    (storage,) = zeo.storages
    data = Path("/data")
    assert settings.datafs == data / Path(storage.config.path).relative_to(tmp_path)
    assert settings.blob_storage == data / Path(storage.config.blob_dir).relative_to(tmp_path)
    zope = (CONTAINER / "zope.conf").read_text()
    assert f"server zeo:{zeo.zeo.address.address[1]}" in zope
    assert f"blob-dir {settings.blob_storage}" in zope
    for folder in settings.folders():
        assert str(folder).startswith("/backups/")


def test_the_image_has_what_its_services_need() -> None:
    lines = (CONTAINER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    instructions = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    assert instructions[0][0] == "FROM"
    assert {name for name, _ in instructions} <= {"FROM", "ARG", "RUN", "COPY", "USER", "WORKDIR", "VOLUME"}
    copied = next(rest.split() for name, rest in instructions if name == "COPY")
    assert set(copied[1:-1]) == {path.name for path in CONTAINER.iterdir()} - {"Dockerfile", "compose.yaml"}
    order = [name for name, _ in instructions]
    assert order.index("USER") > max(number for number, name in enumerate(order) if name == "RUN")
    for command in [rest for name, rest in instructions if name == "RUN"]:
        subprocess.run(["sh", "-n", "-c", command], check=True)
    for folder in ("/data/filestorage", "/data/blobstorage", "/backups"):
        assert any(folder in rest for name, rest in instructions if name == "RUN")
