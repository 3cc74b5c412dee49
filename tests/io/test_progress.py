"""Steps, and who listens to them."""

from __future__ import annotations

import pytest
from tests.listeners import Noted

from zodbvault.io import progress
from zodbvault.io.progress import listening, step


def test_nobody_listens() -> None:
    with step("x", 1) as on_progress:
        assert on_progress is None
    assert progress.begin("x", None) is None
    progress.end()


def test_a_listener_is_told() -> None:
    noted = Noted()
    with listening(noted):
        with step("x", 9) as on_progress:
            assert on_progress is not None
            on_progress(4)
        with pytest.raises(ValueError, match="stop"), step("y", None):
            raise ValueError("stop")
    assert noted.events == [("x", 9), 4, "end", ("y", None), "end", "end"]
    with step("z", None) as on_progress:
        assert on_progress is None
