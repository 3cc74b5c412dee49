"""The one function that generated scripts call: arguments, calls of commands, errors, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import errno
import gc
import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.stand_ins import REPORTS, Calls, install_stand_ins
from zodbvault.arguments import (
    DESCRIPTIONS,
    FLAGS,
    LOOKING,
    VALUED,
    Arguments,
    add_arguments,
    arguments_from,
    parse_arguments,
)
from zodbvault.commands.watching import Thresholds
from zodbvault.errors import ZodbvaultError
from zodbvault.scripts import run
from zodbvault.settings import Surroundings, parse_settings, settings_from_plain, settings_to_plain

ALL_COMMANDS = {"alternative_restore_source": "Data /other /other-blobs", "enable_zipbackup": "true"}
PLAIN = settings_to_plain(
    parse_settings(
        ALL_COMMANDS, Surroundings("backup", "[backup]", Path("/s"), Path("/s/var"), "Data.fs", "blobs")
    ).settings
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return install_stand_ins(monkeypatch)


def refused(command: str, *arguments: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run(command, PLAIN, arguments)
    # To a monitoring system 2 would mean that the backups are broken.
    assert caught.value.code == (3 if command == "check" else 2)


def test_backup(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("backup", PLAIN, []) == 0
    assert calls.only.name == "backup"
    assert calls.only.settings == settings_from_plain(PLAIN)
    assert calls.only.full is False
    assert calls.only.clock.now() > 0
    assert capsys.readouterr() == ("", "INFO: backed up\n")


@pytest.mark.parametrize("command", sorted(DESCRIPTIONS.keys() - {"schedule"}))
def test_what_a_script_has_switched_off_for_its_start_is_on_again(command: str, calls: Calls) -> None:
    seen: list[bool] = []

    def look(name: str) -> Any:
        return lambda *_, **__: seen.append(gc.isenabled()) or REPORTS[name]

    calls.results = {name: look(name) for name in REPORTS}
    gc.disable()
    try:
        assert run(command, PLAIN, ["-n"]) == 0
        assert seen == [True]
    finally:
        gc.enable()


def test_full_backup(calls: Calls) -> None:
    assert run("backup", PLAIN, ["--full"]) == 0
    assert calls.only.full is True


def test_snapshot(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("snapshot", PLAIN, []) == 0
    assert calls.only.name == "snapshot"
    assert capsys.readouterr() == ("", "INFO: snapshot made\n")


def test_zipbackup(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("zipbackup", PLAIN, []) == 0
    assert calls.only.name == "zipbackup"
    assert capsys.readouterr() == ("", "INFO: zip backup made\n")


@pytest.mark.parametrize(
    ("command", "source"),
    [
        ("restore", "location"),
        ("snapshotrestore", "snapshot"),
        ("ziprestore", "zip"),
        ("altrestore", "alternative"),
    ],
)
def test_restore(command: str, source: str, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, PLAIN, []) == 0
    call = calls.only
    assert (call.name, call.source, call.when) == ("restore", source, None)
    assert (call.accept_missing_blobs, call.checksum) == (False, False)
    assert callable(call.ask)
    assert capsys.readouterr() == ("", "INFO: restored\n")


def test_restore_with_all_arguments(calls: Calls) -> None:
    assert run("restore", PLAIN, ["-n", "--accept-missing-blobs", "--checksum", "2026-11-23"]) == 0
    call = calls.only
    assert (call.ask, call.when, call.accept_missing_blobs, call.checksum) == (None, "2026-11-23", True, True)


@pytest.mark.parametrize(
    ("command", "source"), [("restore", "location"), ("snapshotrestore", "snapshot"), ("altrestore", "alternative")]
)
def test_a_dry_run_plans_and_does_not_restore(
    command: str, source: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(command, PLAIN, ["--dry-run", "--checksum", "--only=blobs", "2026-11-23"]) == 0
    call = calls.only
    assert (call.name, call.source, call.when, call.checksum) == ("plan_restore", source, "2026-11-23", True)
    assert call.only == "blobs"
    assert capsys.readouterr() == ("the plan\n", "")
    assert run(command, PLAIN, ["--dry-run", "--json"]) == 0
    assert capsys.readouterr() == ('{\n "the": "plan"\n}\n', "")
    assert run(command, PLAIN, ["--dry-run", "-q"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_plan_with_problems_is_a_failure_and_never_quiet(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.results["plan_restore"] = SimpleNamespace(problems=("no space",))
    assert run("restore", PLAIN, ["--dry-run", "-q"]) == 1
    assert capsys.readouterr() == ("the plan\n", "")


def test_json_without_a_plan_is_wrong_usage(calls: Calls) -> None:
    assert run("restore", PLAIN, ["-n", "--json"]) == 2
    assert calls.calls == []


def test_the_question_is_put_on_standard_error(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def restore(*_: object, ask: Any, **__: object) -> Any:
        answer = ask("Are you sure?")
        raise ZodbvaultError(f"answered {answer}")

    calls.results["restore"] = restore
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    assert run("restore", PLAIN, []) == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run("restore", PLAIN, []) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Are you sure? (yes/no) ",
        "ERROR: answered True",
        "Are you sure? (yes/no) ",
        "ERROR: answered False",
    ]


@pytest.mark.parametrize("command", ["restore", "snapshotrestore", "ziprestore", "verify", "list"])
def test_a_date_may_be_an_argument_or_an_option(command: str, calls: Calls) -> None:
    for arguments in (["2026-11-23-18-05-00"], ["--date", "2026-11-23-18-05-00"], ["-n", "--date=2026-11-23-18-05-00"]):
        calls.calls.clear()
        assert run(command, PLAIN, arguments) == 0
        assert calls.only.when == "2026-11-23-18-05-00"
    refused(command, "2026-11-23", "--date", "2026-11-24")
    refused(command, "2026-11-23", "2026-11-24")


def test_verify(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", PLAIN, ["--deep", "--open", "--tmp", "/scratch"]) == 0
    only = calls.only
    assert (only.how, only.when, only.opens, only.tmp) == ("deep", None, True, Path("/scratch"))
    assert capsys.readouterr() == ("all is well\n", "")
    calls.calls.clear()
    assert run("verify", PLAIN, ["--quick"]) == 0
    assert (calls.only.how, calls.only.opens) == ("quick", False)
    refused("verify", "--quick", "--deep")
    assert run("verify", PLAIN, ["--tmp", "/scratch"]) == 2


def test_list(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", PLAIN, []) == 0
    assert calls.only.name == "list_backups"
    assert capsys.readouterr() == ("one\ntwo\n", "")


def test_log(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("log", PLAIN, ["2026-11-23..2026-11-24"]) == 0
    assert (calls.only.name, calls.only.between) == ("log_transactions", "2026-11-23..2026-11-24")
    assert capsys.readouterr() == ("an entry\n", "")
    assert run("log", PLAIN, ["--json"]) == 0
    assert capsys.readouterr() == ("json of an entry\n", "")


def test_drill(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("drill", PLAIN, ["2026-11-23", "--sample", "100", "--tmp", "somewhere"]) == 0
    call = calls.only
    assert (call.name, call.when, call.sample, call.tmp) == (
        "drill_each",
        "2026-11-23",
        100,
        Path("somewhere").absolute(),
    )
    assert capsys.readouterr() == ("rehearsed\n", "")
    assert run("drill", PLAIN, ["--json"]) == 0
    assert capsys.readouterr() == ('{\n "re": "hearsed"\n}\n', "")
    calls.results["drill_each"] = (SimpleNamespace(good=False),)
    assert run("drill", PLAIN, ["-q"]) == 1
    assert capsys.readouterr() == ("rehearsed\n", "")


@pytest.mark.parametrize("sample", ["0", "-1", "many", ""])
def test_a_sample_is_a_number(sample: str, calls: Calls) -> None:
    assert run("drill", PLAIN, [f"--sample={sample}"]) == 2
    assert calls.calls == []


@pytest.mark.parametrize("command", sorted(LOOKING))
def test_the_other_places_are_looked_at_where_there_are_any(command: str, calls: Calls) -> None:
    for arguments, which in ((), "backups"), (("--snapshots",), "snapshots"), (("--zips",), "zips"):
        assert run(command, PLAIN, arguments) == 0
        assert calls.only.which == which
        calls.calls.clear()
    without = {**PLAIN, "enable_zipbackup": False}
    assert run(command, without, ["--zips"]) == (3 if command == "check" else 2)
    assert calls.calls == []


def test_check(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", PLAIN, []) == 0
    assert (calls.only.which, calls.only.thresholds, calls.only.metrics) == ("backups", Thresholds(), None)
    assert capsys.readouterr() == ("ZODBVAULT OK: fine\n", "")
    calls.calls.clear()
    assert run("check", PLAIN, ["--all", "--max-age=1h", "--max-drill-age", "2d", "--metrics", "file"]) == 0
    assert calls.only.which == "all"
    assert calls.only.thresholds == Thresholds(3600, max_drill_age=2 * 86400)
    assert calls.only.metrics == Path("file")


def test_report(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("report", PLAIN, ["--all", "--max-age", "2h"]) == 0
    assert (calls.only.which, calls.only.thresholds) == ("all", Thresholds(7200))
    assert capsys.readouterr() == ("<!DOCTYPE html>\n", "")


@pytest.mark.parametrize(
    "error", [ZodbvaultError("cannot be listed"), OSError(5, "Input/output error"), RuntimeError("a mistake of ours")]
)
def test_to_a_monitoring_system_every_error_is_unknown(
    error: Exception, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.results["check"] = error
    assert run("check", PLAIN, []) == 3
    out, err = capsys.readouterr()
    assert out.startswith("ZODBVAULT UNKNOWN: ")
    assert err.startswith("ERROR: ")


def test_to_a_monitoring_system_wrong_usage_is_unknown_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("check", PLAIN, ["--max-age", "-5h"])
    assert caught.value.code == 3
    out, err = capsys.readouterr()
    assert out == "ZODBVAULT UNKNOWN: argument --max-age: expected one argument\n"
    assert err.endswith("\nERROR: argument --max-age: expected one argument\n")


def test_wrong_usage_is_an_error_as_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("backup", PLAIN, ["--fulll"])
    assert caught.value.code == 2
    usage, _, error = capsys.readouterr().err.rpartition("\nERROR: ")
    assert usage.startswith("usage: ")
    assert error == "unrecognized arguments: --fulll - did you mean --full?\n"
    with pytest.raises(SystemExit) as caught:
        run("backup", PLAIN, ["--log-json", "--fulll"])
    assert caught.value.code == 2
    line = json.loads(capsys.readouterr().err)
    assert line["level"] == "ERROR"
    assert line["message"] == error.rstrip()


def test_a_check_whose_standard_output_is_full_is_unknown(
    calls: Calls, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(OSError), open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert run("check", PLAIN, []) == 3
    assert re.fullmatch("ERROR: the result cannot be written to standard output: .*\n", capsys.readouterr().err)


@pytest.mark.parametrize("command", DESCRIPTIONS)
def test_a_quiet_success_says_nothing(command: str, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in ("-q", "--quiet"):
        assert run(command, PLAIN, ["-n", quiet]) == 0
        # What was asked for, a page or the lines of a crontab, is no talk.
        out, err = capsys.readouterr()
        begins = {"report": "<!DOCTYPE html>\n", "schedule": "# BEGIN zodbvault backup "}.get(command, "")
        assert (out[: len(begins) or None], err) == (begins, "")


def test_a_quiet_verify_says_what_is_wrong(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.results["verify"].lines, calls.results["verify"].good = ("a blob is missing",), False
    try:
        assert run("verify", PLAIN, ["-q"]) == 1
    finally:
        calls.results["verify"].lines, calls.results["verify"].good = ("all is well",), True
    assert capsys.readouterr().out == "a blob is missing\n"


@pytest.mark.parametrize("command", DESCRIPTIONS)
def test_help_says_what_the_exit_codes_mean(command: str, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(command, PLAIN, ["-h"])
    assert caught.value.code == 0
    out, err = capsys.readouterr()
    assert ("3 UNKNOWN" if command == "check" else "75 another run is at work") in out
    assert err == ""
    assert calls.calls == []


def test_arguments_that_are_wrong(calls: Calls) -> None:
    refused("backup", "--nonsense")
    refused("backup", "2026-11-23")
    refused("backup", "--ful")
    refused("snapshot", "--full")
    refused("zipbackup", "--full")
    refused("restore", "--full")
    refused("list", "--deep")
    refused("backup", "-q", "--debug")
    assert calls.calls == []


def test_flags_mean_the_same_with_and_without_argparse() -> None:
    for command in DESCRIPTIONS:
        for flag in FLAGS:
            for spelling in flag.spellings:
                if command not in flag.commands:
                    refused(command, spelling)
                    continue
                expected = Arguments(**{flag.name: True})
                assert parse_arguments(command, "x", [spelling]) == expected
                parser = argparse.ArgumentParser()
                add_arguments(parser, command)
                assert arguments_from(parser.parse_args([spelling])) == expected
        for valued in VALUED:
            for spelling in valued.spellings:
                value = valued.choices[0] if valued.choices else "9"
                name = {"date_option": "date"}.get(valued.name, valued.name)
                if command in valued.commands:
                    assert parse_arguments(command, "x", [spelling, value]) == Arguments(**{name: value})
                else:
                    refused(command, spelling, value)
        assert parse_arguments(command, "x", ["-qn"]) == Arguments(quiet=True, no_prompt=True)


# Errors


class Busy(ZodbvaultError):
    exit_code = 75


def outcome(calls: Calls, capsys: pytest.CaptureFixture[str], error: BaseException, *arguments: str) -> tuple[int, str]:
    calls.results["backup"] = error
    code = run("backup", PLAIN, arguments)
    out, err = capsys.readouterr()
    assert out == ""
    return code, err


def test_an_error_of_ours_is_one_line(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    error = ZodbvaultError("is damaged", path="/a\nb", hint="Do this.")
    assert outcome(calls, capsys, error) == (1, "ERROR: /a\\nb: is damaged. Do this.\n")
    assert outcome(calls, capsys, error, "-q") == (1, "ERROR: /a\\nb: is damaged. Do this.\n")
    assert outcome(calls, capsys, Busy("is held")) == (75, "ERROR: is held\n")


def test_the_systems_errors_name_the_file(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = outcome(calls, capsys, OSError(errno.EIO, "Input/output error", "/disk/file"))
    assert code == 1
    assert err.startswith("ERROR: /disk/file: Input/output error. ")
    assert err.count("\n") == 1
    assert outcome(calls, capsys, OSError("odd"))[1].startswith("ERROR: odd. ")


def test_a_bug_is_one_line_too(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = outcome(calls, capsys, KeyError("a\nb"))
    assert code == 1
    assert err.startswith("ERROR: this is a bug in zodbvault: KeyError: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [ZodbvaultError("x"), OSError("x"), ValueError("x")])
def test_with_debug_the_traceback_is_shown(error: Exception, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = outcome(calls, capsys, error, "--debug")
    assert code == 1
    assert "Traceback" in err
    assert " ERROR: " in err.splitlines()[-1]


def test_ctrl_c(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(calls, capsys, KeyboardInterrupt()) == (
        130,
        "ERROR: Interrupted. It is safe to run the same command again.\n",
    )


# Options


def test_the_option_debug_is_as_the_argument_and_quiet_wins(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.results["backup"] = ValueError("x")
    run("backup", {**PLAIN, "debug": True}, [])
    assert "Traceback" in capsys.readouterr().err
    run("backup", {**PLAIN, "debug": True}, ["-q"])
    assert "Traceback" not in capsys.readouterr().err


def test_snapshots_are_not_restored_where_the_option_forbids_it(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("snapshotrestore", {**PLAIN, "enable_snapshotrestore": False}, ["-n"]) == 2
    assert "enable_snapshotrestore" in capsys.readouterr().err
    assert calls.calls == []


def test_zip_backups_are_neither_made_nor_restored_where_the_option_is_not_set(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("zipbackup", "ziprestore"):
        assert run(command, {**PLAIN, "enable_zipbackup": False}, ["-n"]) == 2
        assert "enable_zipbackup" in capsys.readouterr().err
    assert calls.calls == []


def test_a_script_of_an_older_version_still_runs(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    came_since = ("blob", "rsync", "zip", "shared")
    known = {"blob_storage", "blobbackuplocation", "blobsnapshotlocation", "backup_blobs", "only_blobs", "blob_layout"}
    known |= {"keep_blob_days", "alternative_blob_location"}
    old = {name: value for name, value in PLAIN.items() if name in known or not any(new in name for new in came_since)}
    assert "ziplocation" not in old
    assert run("backup", old, ["-q"]) == 0
    assert calls.only.settings == settings_from_plain({**PLAIN, "enable_zipbackup": False})
    assert run("zipbackup", old, ["-q"]) == 2
    assert "enable_zipbackup" in capsys.readouterr().err


def test_no_other_site_is_restored_where_none_is_named(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("altrestore", {**PLAIN, "alternative_location": None}, ["-n"]) == 2
    assert "alternative_restore_source" in capsys.readouterr().err
    assert calls.calls == []


def test_tests_may_set_the_clock(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZODBVAULT_TEST_NOW", "1970-01-01-00-01-00")
    run("backup", PLAIN, [])
    assert calls.only.clock.now() == 60
