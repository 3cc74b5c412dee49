"""How the spelling of the pages is checked (`make spelling`): by Sphinx, with the dictionaries of enchant.

All of README, CONTRIBUTING, CHANGES and docs; code blocks and literals are passed over. words.txt beside this file has
what no dictionary knows and is right all the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

extensions = ["sphinxcontrib.spelling"]
root_doc = "README"
include_patterns = ["*.rst", "docs/*.rst"]
suppress_warnings = ["toc.not_included"]

spelling_lang = "en_GB"
spelling_word_list_filename = "tools/spelling/words.txt"
spelling_warning = True
# What git or the environment happen to hold does not decide what is right.
spelling_ignore_contributor_names = False
spelling_ignore_importable_modules = False


def check_marked_text(app: Sphinx) -> None:
    """Check what is emphasized and the words of a link too, which are no part of the text around them."""
    app.builder.TEXT_NODES = app.builder.TEXT_NODES | {"emphasis", "strong", "reference"}  # type: ignore[attr-defined]


def setup(app: Sphinx) -> dict[str, bool]:
    """What Sphinx calls."""
    app.connect("builder-inited", check_marked_text)
    return {"parallel_read_safe": True}
