"""Help, man pages, the reference of the commands and completion: all of them tell of the same parser."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tools.write_commands import files

from tests.test_docs import PROJECT
from zodbvault.arguments import DESCRIPTIONS, OF_THE_PROGRAM, script_parser, usage_exit_code
from zodbvault.cli import command_parser, main
from zodbvault.examples import EXAMPLES
from zodbvault.manual import Page, man_page, pages
from zodbvault.parser import Parser
from zodbvault.version import VERSION

if TYPE_CHECKING:
    from pathlib import Path

SCRIPTS = sorted(DESCRIPTIONS)
PAGES = pages(command_parser())


def complaint_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code, capsys.readouterr().err.splitlines()[-1]


# What may have been meant


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        ("lsit", "list"),
        ("restor 2026-11-23", "restore"),
        ("prnue --dry-run", "prune"),
        ("prune --dry-rnu", "--dry-run"),
        ("restore --dryrun", "--dry-run"),
        ("restore --too=/tmp", "--to"),
        ("restore --only dta", "data"),
        ("--conifg x list", "--config"),
        ("--site plone lst", "list"),
        ("completion zhs", "zsh"),
    ],
)
def test_what_is_mistyped_is_answered_with_the_nearest_word(
    arguments: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, line = complaint_of(arguments.split(), capsys)
    assert code == 2
    assert line.endswith(f"did you mean {meant}?")
    assert line.count("did you mean") == 1


def test_a_script_and_a_process_of_its_own_answer_too(tmp_path: Path) -> None:
    for command, script in (("prune", "backup-prune"), ("check", "backup-check")):
        (tmp_path / script).write_text(f"import zodbvault.scripts\nzodbvault.scripts.run({command!r}, {{}})\n")
        finished = subprocess.run(
            [sys.executable, str(tmp_path / script), "--jsno"], capture_output=True, text=True, check=False
        )
        assert finished.returncode == usage_exit_code(command)
        assert finished.stderr.endswith("did you mean --json?\n")
    program = "import sys; from zodbvault.cli import main; sys.exit(main())"
    finished = subprocess.run([sys.executable, "-c", program, "lsit"], capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert finished.stderr.endswith("did you mean list?\n")


def test_where_nothing_is_near_nothing_is_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["xyzzy"], ["backup", "--xyzzy"], ["backup", "-x"], ["list", "one", "two"], []):
        code, line = complaint_of(arguments, capsys)
        assert code == 2
        assert "did you mean" not in line
        assert ("(zodbvault -h tells of the commands)" in line) == (arguments in (["xyzzy"], []))


def test_options_that_are_known_are_never_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    """The complaint is of something else: two options that exclude each other."""
    _, line = complaint_of(["list", "--snapshots", "--all"], capsys)
    assert "not allowed with" in line
    assert "did you mean" not in line


# Examples


def test_each_command_has_examples_and_nothing_else_has() -> None:
    assert EXAMPLES.keys() == DESCRIPTIONS.keys() | OF_THE_PROGRAM.keys() | {"completion"}
    assert all(EXAMPLES.values())


@pytest.mark.parametrize("command", SCRIPTS)
def test_the_examples_are_understood(command: str) -> None:
    parser = script_parser(command, f"bin/{command}")
    for example in EXAMPLES[command]:
        parser.parse_args(shlex.split(example.arguments))
        assert f"\n  {f'bin/{command} {example.arguments}'.rstrip()}\n" in parser.format_help()


# The reference and the man pages


def test_the_files_are_made_of_the_parser_as_it_is() -> None:
    for path, content in files().items():
        assert path.read_text(encoding="utf-8") == content, f"make docs writes {path.relative_to(PROJECT)} anew"
    assert sorted((PROJECT / "man").glob("*")) == sorted(path for path in files() if path.parent.name == "man")


def test_every_option_of_every_command_is_in_its_page() -> None:
    reference = (PROJECT / "docs" / "commands.rst").read_text(encoding="utf-8")
    for page in PAGES[1:]:
        section = reference.partition(f"\n{page.program}\n---")[2].partition("\nzodbvault ")[0]
        command = page.program.split()[1]
        for action in parser_of(command)._actions:
            for word in action.option_strings or [str(action.metavar or "bash|zsh")]:
                assert re.search(rf"^``(.*, )?{re.escape(word)}[, `]", section, re.MULTILINE), (page.program, word)


def parser_of(command: str) -> argparse.ArgumentParser:
    (commands,) = (each for each in command_parser()._actions if isinstance(each, argparse._SubParsersAction))
    parser = commands.choices[command]
    assert isinstance(parser, Parser)
    return parser


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.program)
def test_a_man_page_renders_and_has_the_exit_codes(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "page.1"
    path.write_text(man_page(page, VERSION), encoding="utf-8")
    rendered = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-c", "-Kutf8", str(path)], capture_output=True, text=True, check=True
    )
    assert rendered.stderr == ""
    text = re.sub(".\b", "", rendered.stdout)
    words = " ".join(text.split())
    sections = re.findall("^[A-Z ]+$", text, re.MULTILINE)
    assert sections[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert sections[-2:] == ["EXIT STATUS", "SEE ALSO"]
    codes = {"check": [0, 1, 2, 3], "completion": [0, 1, 2]}.get(page.program.rpartition(" ")[2], [0, 1, 2, 75])
    assert list(page.exit_codes) == codes
    for code, meaning in page.exit_codes.items():
        assert f" {code} {meaning} " in words
    for example in page.examples:
        assert f"{page.program} {example.arguments}".rstrip() in words
    for spelling, _ in page.options:
        assert f" {spelling} " in words


def test_text_means_nothing_to_roff() -> None:
    text = ".start a\\b it's --x ~/y"
    page = Page("p", "s", "u", text, (), (), (), (), {})
    finished = subprocess.run(
        ["groff", "-man", "-ww", "-Tascii", "-P-c"],
        input=man_page(page, "1"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert text in re.sub(".\b", "", finished.stdout)


# Completion


def completion(shell: str, *more: str) -> str:
    """What a shell is to read, from a process of its own."""
    program = f"import sys; from zodbvault.cli import main; sys.exit(main({['completion', shell, *more]!r}))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def completed(*words: str, script: Path) -> list[str]:
    """What bash, which has read `script`, offers behind these words, the last one of which is being typed."""
    quoted = " ".join(shlex.quote(word) for word in words)
    commands = (
        f"source {script}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
        f'function=$(complete -p {words[0]} | sed "s/.*-F \\([^ ]*\\).*/\\1/"); $function; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    finished = subprocess.run(["bash", "-c", commands], cwd=script.parent, capture_output=True, text=True, check=True)
    return sorted(finished.stdout.split())


def test_bash_completes_commands_options_words_and_files(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(completion("bash"))
    (tmp_path / "sites.toml").touch()
    (tmp_path / "space").mkdir()
    assert completed("zodbvault", "re", script=script) == ["report", "restore"]
    assert completed("zodbvault", "restore", "--dr", script=script) == ["--dry-run"]
    assert completed("zodbvault", "restore", "--only", "d", script=script) == ["data"]
    assert completed("zodbvault", "--config", "s", script=script) == ["sites.toml", "space"]
    assert completed("zodbvault", "restore", "--to", "s", script=script) == ["space"]


def test_the_scripts_of_a_part_are_completed(tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(completion("bash", "--part", "plone"))
    assert completed("plone", "--f", script=script) == ["--full"]
    assert completed("plone-list", "--sn", script=script) == ["--snapshots"]
    assert completed("plone-altrestore", "--only", "b", script=script) == ["blobs"]
    (tmp_path / "zsh").write_text(completion("zsh", "--part", "backup"))
    commands = 'autoload -U compinit; compinit -u -D; eval "$(cat zsh)"; print $_comps[backup-list] $_comps[restore]'
    finished = subprocess.run(["zsh", "-f", "-c", commands], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (finished.stdout, finished.stderr) == ("_shtab_backup_list _shtab_restore\n", "")


@pytest.mark.parametrize("arguments", [["--config", "zodbvault.toml"], ["--site", "plone"], ["--option", "keep=3"]])
def test_no_site_is_chosen_for_completion(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "completion", "bash"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", "ERROR: --config, --site and --option have no effect with completion\n")


def test_zsh_reads_its_completion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zsh"]) == 0
    text = capsys.readouterr().out
    (tmp_path / "_zodbvault").write_text(text)
    checked = subprocess.run(["zsh", "-n", str(tmp_path / "_zodbvault")], capture_output=True, text=True, check=True)
    assert checked.stderr == ""
    assert text.startswith("#compdef zodbvault\n")
    assert all(name in text for name in DESCRIPTIONS.keys() - {"snapshotrestore", "ziprestore", "altrestore"})


def test_without_shtab_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ERROR: completion is written by")
    assert "zodbvault[completion]" in err
