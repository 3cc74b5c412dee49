"""Runs the commands of a page as its reader does, block by block, and compares what they print with what the page says.

A block of `sh` is run by bash; a block of `text` right behind it is what it prints, output and errors together.
Times, sizes and tids differ from run to run: any other one is taken for the same. A word `...` stands for anything.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import docutils.core
import docutils.nodes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

SITE = "/srv/site"
"""What pages call the folder of the site."""

# The longest first: a time has a date in it.
_VARYING = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*Z", "TIME"),
    (r"\d{4}(-\d\d){5}", "TIMESTAMP"),
    (r"\b[0-9a-f]{16}\b", "TID"),
    # What took next to no time has no speed.
    (r"\s\([\d.,]+ (?:bytes|[kMGT]B)/s\)", ""),
    (r"(?<!\w)[\d.,]*\d\s(?:bytes|[kMGT]?B|s|min)(?!\w)", "AMOUNT"),
    (r"\(yes/no\) yes", "(yes/no)"),
)


class Step(NamedTuple):
    """Commands of a page. section: its title. prints: what they print; None where the page does not say."""

    section: str
    commands: str
    prints: str | None


def steps(text: str, section: str | None = None) -> tuple[Step, ...]:
    """All steps of a page, or those of one section; of the sections in it none."""
    document = docutils.core.publish_doctree(text, settings_overrides={"halt_level": 2, "report_level": 2})
    found = []
    for block in document.findall(docutils.nodes.literal_block):
        if "sh" in block["classes"]:
            title = _section_of(block)
            behind = block.next_node(siblings=True, descend=False)
            prints = behind.astext() if _is_output(behind) else None
            if section in (None, title):
                found.append(Step(title, block.astext(), prints))
    assert found, f"no commands in {section or 'the page'}"
    return tuple(found)


def _section_of(node: docutils.nodes.Node) -> str:
    while not isinstance(node, docutils.nodes.section):
        if isinstance(node, docutils.nodes.document):
            return str(node["title"])
        node = node.parent
    return str(node[0].astext())


def _is_output(node: docutils.nodes.Node | None) -> bool:
    return isinstance(node, docutils.nodes.literal_block) and "text" in node["classes"]


@dataclass
class Shell:
    """A reader who runs steps in a folder; a `cd` holds for the steps after it.

    names: what pages write, and what it is here (folders, dates). answer: what is typed. environment: besides the
    process's own, of which nothing of Python's or of a coverage run is handed on.
    """

    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    answer: str = "yes\n"

    def run(self, step: Step, *, code: int = 0) -> str:
        """Run a step, which has to end with `code` and print what the page says; what it printed."""
        commands = step.commands
        for written, meant in self.names.items():
            commands = commands.replace(written, meant)
        noted = self.folder / ".pwd-of-the-reader"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
        finished = subprocess.run(
            ["bash", "-e", "-c", f"trap 'pwd > {noted}' EXIT\n{commands}"],
            cwd=noted.read_text().rstrip("\n") if noted.exists() else self.folder,
            env={**inherited, "TZ": "UTC", **self.environment},  # elsewhere tables have local times too
            input=self.answer,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        assert finished.returncode == code, f"{commands}\n{finished.stdout}"
        if step.prints is not None:
            require_same(finished.stdout, step.prints, self.names)
        return finished.stdout

    def run_all(self, page: Iterable[Step], before: Callable[[Step], None] | None = None) -> list[str]:
        """Run steps one after the other; `before` is called before each."""
        printed = []
        for step in page:
            if before is not None:
                before(step)
            printed.append(self.run(step))
        return printed

    def return_to(self, folder: Path) -> None:
        """Go back to a folder, as somebody does who opens another terminal."""
        (self.folder / ".pwd-of-the-reader").write_text(f"{folder}\n")


def require_same(found: str, expected: str, names: Mapping[str, str]) -> None:
    """Raise AssertionError where a run printed something else than the page says."""
    for written, meant in names.items():
        found = found.replace(meant, written)
    pieces = [re.escape(piece) for piece in normal(expected).split("...")]
    pattern = r"(?s:.*)".join(pieces).replace(r"\ (?s:.*)", "(?s:.*)").replace(r"(?s:.*)\ ", "(?s:.*)")
    assert re.fullmatch(pattern, normal(found)), f"the page says:\n{expected}\n\nbut it printed:\n{found}"


def normal(text: str) -> str:
    """Text in which whatever differs from run to run is the same, on one line."""
    for pattern, name in _VARYING:
        text = re.sub(pattern, name, text)
    return " ".join(text.split())
