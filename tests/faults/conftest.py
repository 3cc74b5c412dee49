"""What the tests that disturb commands share."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.disturbing import compile_interposer, fast_folder

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def workshop() -> Iterator[Path]:
    """A folder in memory, with the interposer in it."""
    with tempfile.TemporaryDirectory(prefix="zodbvault-faults-", dir=fast_folder()) as folder:
        compile_interposer(Path(folder))
        yield Path(folder)
