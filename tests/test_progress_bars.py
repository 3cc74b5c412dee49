"""Bars by themselves: log lines go around them, and without rich there is none."""

from __future__ import annotations

import logging
import sys

import pytest
from rich.file_proxy import FileProxy

from zodbvault import progress_bars
from zodbvault.console import logging_to_stderr
from zodbvault.progress_bars import Bars


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands for standard error is taken for a terminal, and a bar is due at once."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress_bars, "AFTER", 0.0)


@pytest.mark.usefixtures("terminal")
def test_log_lines_go_above_the_bar_as_long_as_there_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(logging.INFO) as logger:
        (handler,) = logger.handlers
        assert isinstance(handler, logging.StreamHandler)
        before = sys.stderr
        bars = Bars()
        bars.begin("Data.fs", 10)
        assert handler.stream is before
        bars.at(5)
        assert handler.stream is sys.stderr
        assert isinstance(sys.stderr, FileProxy)
        logger.info("meanwhile")
        bars.begin("blobs", None)  # the one before did not end
        assert handler.stream is sys.stderr is before
        bars.at(3)
        bars.at(4)
        bars.end()
        bars.end()
        assert handler.stream is sys.stderr is before
    assert "INFO: meanwhile\n" in capsys.readouterr().err


@pytest.mark.usefixtures("terminal")
def test_without_rich_there_is_none(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    bars = Bars()
    bars.begin("Data.fs", 10)
    bars.at(5)
    bars.at(10)
    bars.end()
    assert capsys.readouterr() == ("", "")
