"""Write docs/options.rst anew from the table of options."""

from __future__ import annotations

from pathlib import Path

from zodbvault.reference import options_reference

PAGE = Path(__file__).resolve().parent.parent / "docs" / "options.rst"

if __name__ == "__main__":
    PAGE.write_text(options_reference(), encoding="utf-8")
