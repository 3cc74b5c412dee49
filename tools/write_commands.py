"""Write the reference of the commands (docs/commands.rst) and the man pages (man/*.1) anew from the parser."""

from __future__ import annotations

from pathlib import Path

from zodbvault.cli import command_parser
from zodbvault.manual import commands_reference, man_page, pages
from zodbvault.version import VERSION

PROJECT = Path(__file__).resolve().parent.parent


def files() -> dict[Path, str]:
    """Every file that is made from the parser, with its content."""
    parser = command_parser()
    found = {PROJECT / "docs" / "commands.rst": commands_reference(parser)}
    for page in pages(parser):
        found[PROJECT / "man" / f"{page.program.replace(' ', '-')}.1"] = man_page(page, VERSION)
    return found


if __name__ == "__main__":
    for path, content in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
