"""What the sites of the smoke suite get zodbvault from, made once; and which versions this environment has."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import pytest

from tests.smoke.sites import PART, Packages, Site, build_wheel, copy_project, empty_index

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGES = ("zc.buildout", "zc.recipe.egg", "setuptools", "ZODB", "isal")


def pytest_report_header() -> str:
    """The versions, in a line that tools/matrix.py reads."""
    versions = {"Python": platform.python_version(), **{package: _version(package) for package in PACKAGES}}
    return "smoke: " + " ".join(f"{name}={found}" for name, found in versions.items())


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Packages]:
    """A wheel of the project, already in the eggs-directory that sites share if they name no other."""
    folder = tmp_path_factory.mktemp("packages")
    project = copy_project(folder / "project")
    wheels = folder / "wheels"
    build_wheel(project, wheels)
    with empty_index() as index:
        made = Packages(project, wheels, folder / "eggs", index)
        site = Site(folder / "first", made)
        site.configure(PART)
        site.buildout()
        yield made


@pytest.fixture
def site(tmp_path: Path, packages: Packages) -> Site:
    """A folder for a site; its test writes the configuration."""
    packages.index.asked.clear()
    return Site(tmp_path / "site", packages)
