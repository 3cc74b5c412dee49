"""What the stories begin with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site with some objects and blobs, and no backup yet."""
    site = Site(tmp_path / "site")
    site.commit_pages(5)
    site.commit_blobs(3)
    yield site
    site.close()
