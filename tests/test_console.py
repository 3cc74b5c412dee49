"""Log lines, the question and results, as a person sees them."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

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


def test_a_name_makes_no_lines_of_its_own_and_commands_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "two\nERROR: lines\x1b[2J b\u00fccher \udcff"
    shown = "two\\nERROR: lines\\x1b[2J b\u00fccher \\udcff"
    with logging_to_stderr(logging.DEBUG, log_file=tmp_path / "log") as logger:
        logger.info("copying %s", name)
        try:
            raise ValueError("bad")
        except ValueError:
            logger.debug("Where it comes from:", exc_info=True)
    err = capsys.readouterr().err
    assert f"INFO: copying {shown}\n" in err
    assert "Z DEBUG: Where it comes from:\nTraceback (most recent call last):\n" in err
    assert (tmp_path / "log").read_text(encoding="utf-8").split(": ", 1)[1].startswith(f"copying {shown}\n")


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


def test_lines_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(logging.INFO, as_json=True) as logger:
        logger.debug("unseen")
        logger.info("copying %d blobs", 3)
        try:
            raise ValueError("bad")
        except ValueError:
            logger.warning("two\nlines of bl\u00f6bs", exc_info=True)
    first, second = map(json.loads, capsys.readouterr().err.splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("time"))
    assert first == {"level": "INFO", "message": "copying 3 blobs"}
    assert second["message"] == "two\nlines of bl\u00f6bs"
    assert "ValueError: bad" in second["traceback"]


def test_a_file_gets_all_lines_also_the_quiet_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log"
    for level in (logging.WARNING, logging.DEBUG):
        with logging_to_stderr(level, log_file=path) as logger:
            logger.debug("looking")
            logger.info("copying")
            logger.warning("a bl\u00f6b")
    lines = [line.split(" ", 1) for line in path.read_text().splitlines()]
    assert [text for _, text in lines] == [
        "INFO: copying",
        "WARNING: a bl\u00f6b",
        "DEBUG: looking",
        "INFO: copying",
        "WARNING: a bl\u00f6b",
    ]
    assert all(re.fullmatch(r"[\d-]{10}T[\d:]{8}\.\d{3}Z", moment) for moment, _ in lines)
    assert capsys.readouterr().err.splitlines()[0] == "WARNING: a bl\u00f6b"


def test_places_that_cannot_be_written_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(
        logging.WARNING, log_file=tmp_path / "no" / "such" / "log", syslog=tmp_path / "none"
    ) as logger:
        logger.error("said all the same")
        logger.error("and said once")
    err = capsys.readouterr().err.splitlines()
    missing = "No such file or directory"
    assert sorted(err) == [
        "ERROR: and said once",
        "ERROR: said all the same",
        f"WARNING: {tmp_path}/no/such/log: the log file cannot be written: {missing}. Check the option log_file.",
        f"WARNING: {tmp_path}/none: the system's log cannot be written: {missing}. Check the option syslog.",
    ]


def test_the_folder_of_a_log_file_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 1234, 1235)
    with logging_to_stderr(logging.INFO, log_file=tmp_path / "log" / "backup.log") as logger:
        logger.info("done")
    assert capsys.readouterr().err == "INFO: done\n"
    assert (tmp_path / "log" / "backup.log").read_text().endswith("done\n")
    owner = tmp_path.stat().st_uid
    assert {path.stat().st_uid for path in (tmp_path / "log", tmp_path / "log" / "backup.log")} == {owner}


def test_a_full_disk_under_the_log_file_is_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to_stderr(logging.INFO, log_file=Path("/dev/full")) as logger:
        for number in range(3):
            logger.info("line %d", number)
    err = capsys.readouterr().err
    assert (
        err.count(
            "WARNING: /dev/full: the log file cannot be written: No space left on device. Check the option log_file.\n"
        )
        == 1
    )
    assert "Traceback" not in err


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
        finished = subprocess.run([sys.executable, "-c", code], stdout=pipe, stderr=subprocess.PIPE, timeout=300)
    assert (finished.returncode, finished.stderr) == (0, b"")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_full_disk_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.suppress(OSError), open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(ZodbvaultError, match="standard output"):
            write_lines(["x"])
