"""What the sites of the tests here are made with, once for all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.zopes import make_buildout_environment

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def buildout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of an environment that has the newest zc.buildout."""
    return make_buildout_environment(tmp_path_factory.mktemp("buildout") / "environment")


@pytest.fixture(scope="session")
def eggs(request: pytest.FixtureRequest) -> Path:
    """What buildout fetched stays in pytest's cache, for the next run."""
    return request.config.cache.mkdir("integration-eggs")
