"""The reference of the options as reStructuredText, made from the table of options. Writes no file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zodbvault.options import OPTIONS, Kind, Option, Status
from zodbvault.settings import TRUE_WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable

_INTRODUCTION = """\
Options
=======

.. Made from the table in src/zodbvault/options.py by ``python tools/write_options.py``; edit the table.

The same options stand in a buildout part and in a table ``[site.NAME]`` of a toml file. The program ``zodbvault`` takes
them from the environment (``ZODBVAULT_KEEP`` for ``keep``) and from its command line (``--option keep=3``) too: see
`Without buildout <without-buildout.rst>`_. An empty value is the same as none. In a buildout, {true_words} are true in
any case, and everything else is false.

Options that contradict each other are a mistake, and buildout ends with a message that names both. An option that
nobody knows, one that is gone, and one about the layout of blobs that has no effect beside the others is warned about
by buildout; in a toml file it is a mistake too, for there is nothing old to be kept. Only what works and is not the
best choice (``blob_timestamps = false``) is no mistake there.

Defaults that are folders are relative to ``locationprefix``. They are named after the part: the first name is that of
a part called ``backup``, the second that of any other part, here ``P``. In a toml file the site's name takes the place
of the part's. ``~`` and ``$VARIABLE`` are replaced in every path. A relative location starts from ``locationprefix``,
any other relative path from the buildout folder (the parent of ``bin``) or from the folder of the toml file. In a
buildout an empty ``locationprefix`` is the buildout folder.

The *var folder* is the first ``zeo-var``, else ``var``, of the parts that use plone.recipe.zeoserver,
plone.recipe.zope2instance or plone.recipe.zope2zeoserver (the *zope parts*); else ``var`` in the buildout folder, or
beside the toml file. A relative ``file-storage`` or ``blob-storage`` of a zope part is where the recipe of that part
has it: below its var folder, but ``blob-storage`` of plone.recipe.zope2instance below the buildout folder.
"""

_RETIRED = """\
Gone
----

collective.recipe.backup had these options before version 5. A buildout that sets one gets a warning.
"""


def options_reference() -> str:
    """The whole page."""
    *words, last = (f"``{word}``" for word in sorted(TRUE_WORDS))
    parts = [
        _INTRODUCTION.format(true_words=f"{', '.join(words)} and {last}"),
        *_rows(Status.OFFERED),
        _RETIRED,
        *_rows(Status.RETIRED),
    ]
    return "\n".join(parts)


def _rows(status: Status) -> Iterable[str]:
    return (_row(option) for option in OPTIONS if option.status is status)


def _row(option: Option) -> str:
    """One option as an item of a definition list."""
    lines = [f"``{option.name}``", f"    {option.help}", ""]
    if option.status is not Status.RETIRED:
        lines += [f"    | {option.kind.value.capitalize()}. Default: {_default(option)}."]
        if option.aliases:
            lines += [f"    | Also spelled {', '.join(f'``{alias}``' for alias in option.aliases)}."]
    lines += [f"    | Since {option.since}.", ""]
    return "\n".join(lines)


def _default(option: Option) -> str:
    if option.default_text:
        return option.default_text
    if option.kind is Kind.BACKUPS:
        return f"``{option.default}``, ``{option.other_default.format(part='P')}``"
    if isinstance(option.default, bool):
        return f"``{str(option.default).lower()}``"
    return "none" if option.default in ("", None) else f"``{option.default}``"
