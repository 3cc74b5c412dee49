"""How Sphinx makes the documentation: the pages as they are, also readable where Sphinx is not there.

The pages link to each other as files (``restore.rst``), so that the links work where the sources are shown. Here these
become links between pages, and a link to a file that is not there is a warning, which ``make docs`` takes for an error.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes
from sphinx.util import logging

from zodbvault.version import VERSION

if TYPE_CHECKING:
    from sphinx.application import Sphinx

logger = logging.getLogger(__name__)

project = "zodbvault"
project_copyright = "the zodbvault contributors"
version = release = VERSION
html_theme = "furo"
html_title = f"zodbvault {VERSION}"
html_copy_source = False
html_show_sphinx = False
exclude_patterns = ["_build", "examples"]
smartquotes = False

BESIDE = ("examples", "schemas")
"""Folders that pages link to."""


def resolve_links(app: Sphinx, document: nodes.document) -> None:
    """Turn links to files into links to pages; warn about those that lead nowhere."""
    here = Path(app.env.doc2path(app.env.docname)).parent
    for link in list(document.findall(nodes.reference)):
        target = link.get("refuri", "")
        if not target or ":" in target or target.startswith("#"):
            continue
        path, _, anchor = target.partition("#")
        if not (here / path).exists():
            logger.warning("link to %s, which is not there", target, location=link)
        elif path.endswith(".rst") and not anchor:
            page = addnodes.pending_xref(
                "", refdomain="std", reftype="doc", reftarget=path[:-4], refdoc=app.env.docname, refexplicit=True
            )
            page += nodes.inline("", link.astext(), classes=["doc"])
            link.replace_self(page)
        elif not path.startswith(BESIDE):
            logger.warning("link to %s, which is no part of the documentation", target, location=link)


def copy_beside(app: Sphinx, exception: Exception | None) -> None:
    """Put the folders that pages link to beside the pages."""
    if exception is None and app.builder.format == "html":
        for name in BESIDE:
            shutil.copytree(Path(app.srcdir) / name, Path(app.outdir) / name, dirs_exist_ok=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls."""
    app.connect("doctree-read", resolve_links)
    app.connect("build-finished", copy_beside)
    return {"parallel_read_safe": True}
