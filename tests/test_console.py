"""Log lines, the question and results, as a person sees them."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import subprocess
import sys

import pytest

from zodbvault.console import ask_yes, logging_to_stderr, write_lines
from zodbvault.errors import ZodbvaultError


def test_log_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(logging.INFO) as logger:
        logger.debug("unseen")
        logger.info("copying %d blobs", 3)
        logging.getLogger("zodbvault.deeper").warning("careful")
    logger.info("after the end")
    assert capsys.readouterr() == ("", "INFO: copying 3 blobs\nWARNING: careful\n")


def test_debug_lines_have_times(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(logging.DEBUG) as logger:
        logger.debug("looking")
    line = capsys.readouterr().err
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z DEBUG: looking\n", line)


def test_what_was_configured_before_is_there_again() -> None:
    logger = logging.getLogger("zodbvault")
    before = (logger.level, logger.propagate, list(logger.handlers))
    with logging_to_stderr(logging.WARNING):
        pass
    assert (logger.level, logger.propagate, list(logger.handlers)) == before


@pytest.mark.parametrize(
    ("answer", "is_yes"),
    [("yes\n", True), (" yes \n", True), ("yes", True), ("y\n", False), ("YES\n", False), ("\n", False), ("", False)],
)
def test_only_yes_is_a_yes(
    answer: str, is_yes: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answer))
    assert ask_yes("Are you sure?") is is_yes
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Are you sure? (yes/no) ")


def test_a_closed_or_unreadable_standard_input_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert ask_yes("?") is False
    closed = io.StringIO("yes\n")
    closed.close()
    monkeypatch.setattr(sys, "stdin", closed)
    assert ask_yes("?") is False
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n"), "utf-8"))
    assert ask_yes("?") is False


def test_results_go_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(["one", "two"])
    assert capsys.readouterr() == ("one\ntwo\n", "")


def test_a_name_that_is_no_text_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    write_lines(["b\udcff\xe4"])
    assert raw.getvalue() == b"b\\udcff\\xe4\n"


def test_a_reader_that_went_away_is_no_failure() -> None:
    code = "from zodbvault.console import write_lines; write_lines(['x' * 1000] * 1000)"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as pipe:
        finished = subprocess.run([sys.executable, "-c", code], stdout=pipe, stderr=subprocess.PIPE, timeout=30)
    assert (finished.returncode, finished.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.suppress(OSError), open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(ZodbvaultError, match="standard output"):
            write_lines(["x"])
