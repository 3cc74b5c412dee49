"""A real site and opened databases, closed after each test."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.filestorage.handmade import Handmade
from tests.filestorage.sites import ActingClock, Site
from zodbvault.filestorage.source import DataFs, open_data_fs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    logging.getLogger("ZODB").setLevel(logging.ERROR)
    made = Site(tmp_path)
    yield made
    made.close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[Handmade | bytes | Path], DataFs]]:
    """Opens a file, given as a path or by its bytes, and closes it after the test."""
    sources: list[DataFs] = []

    def open_it(content: Handmade | bytes | Path) -> DataFs:
        path = content if isinstance(content, Path) else tmp_path / "handmade.fs"
        if isinstance(content, Handmade):
            path.write_bytes(content.data)
        elif not isinstance(content, Path):
            path.write_bytes(content)
        sources.append(open_data_fs(path, ActingClock()))
        return sources[-1]

    yield open_it
    for source in sources:
        source.close()
