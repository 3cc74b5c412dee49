"""pre_command and post_command: what a shell makes of the text, what is shown, what fails."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from tests.site import Site
from zodbvault.commands.users_command import run_users_command
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from pathlib import Path


def test_several_lines_run_in_one_shell_one_after_the_other(tmp_path: Path) -> None:
    text = f"cd {tmp_path}\nname=seen\n\n# a remark\necho one > $name\necho two >> $name"
    run_users_command("pre_command", text, {})
    assert (tmp_path / "seen").read_text() == "one\ntwo\n"


def test_the_last_line_decides_unless_the_text_says_otherwise() -> None:
    run_users_command("pre_command", "false\ntrue", {})
    for text in ("true\nfalse", "set -e\nfalse\ntrue"):
        with pytest.raises(ZodbvaultError, match="pre_command failed with exit code 1"):
            run_users_command("pre_command", text, {})


def test_its_output_is_shown_in_its_order_even_when_it_fails(caplog: pytest.LogCaptureFixture) -> None:
    text = "echo first; echo; echo second >&2; printf '\\tthird'; cat"
    with caplog.at_level(logging.INFO, logger="zodbvault"):
        run_users_command("post_command", text, {})
        with pytest.raises(ZodbvaultError, match="exit code 7"):
            run_users_command("post_command", text + "; exit 7", {})
    shown = [(record.levelname, record.getMessage()) for record in caplog.records]
    lines = ["post_command: first", "post_command: second", "post_command:         third"]
    assert shown == [(level, line) for level in ("INFO", "WARNING") for line in lines]


def test_a_no_to_the_question_runs_no_command(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    site = Site(tmp_path / "site", options={"pre_command": f"touch {seen}", "post_command": f"touch {seen}"})
    site.commit_pages()
    site.backup()
    site.close()
    seen.unlink()
    finished = site.command("restore")
    assert (finished.returncode, seen.exists()) == (1, False)
    assert site.command("restore", "-n").returncode == 0
    assert seen.exists()


def test_a_restore_that_fails_runs_no_post_command(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    site = Site(tmp_path / "site", options={"post_command": f"touch {seen}"})
    site.commit_pages()
    site.close()
    assert site.command("restore", "-n").returncode == 1
    assert not seen.exists()
