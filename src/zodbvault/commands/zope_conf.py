"""What a zope.conf or zeo.conf says of databases: every FileStorage in it, with its blobs.

Read by ZConfig without a schema, for that of Zope, and of whatever else the file imports, need not be installed here.
Writes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Storage(NamedTuple):
    """One FileStorage. blobs: None where the file names none. database: its name there. mount: its mount point."""

    datafs: Path
    blobs: Path | None
    database: str
    mount: str
    source: Path


class Conf(NamedTuple):
    """What a file says. remarks: what its reader should know of it."""

    storages: tuple[Storage, ...]
    remarks: tuple[str, ...]


class _Surroundings(NamedTuple):
    """What the sections around one say of it."""

    blobs: str | None = None
    database: str = ""
    mount: str = ""


_NO_FILES = {
    "zeoclient": "{name} has its data from the ZEO server {server}, and is backed up where that runs",
    "relstorage": "the data of {name} are in a RelStorage, not in a FileStorage",
    "pgjsonb": "the data of {name} are in PostgreSQL, not in a FileStorage",
}
"""Storages that have no Data.fs, and what is to be said of them."""


def read_conf(path: Path) -> Conf:
    """The databases in a file. One that cannot be read has none, and a remark says so.

    A relative path in it starts from the folder that its `etc` is in, which is where Zope is started usually.
    """
    import ZConfig

    try:
        top = _parsed(path)
    except ZConfig.ConfigurationError as error:
        return Conf((), (f"{path}: ZConfig cannot read it: {error}",))
    except (OSError, ValueError) as error:
        return Conf((), (f"{path}: cannot be read: {error}",))
    folder = path.parent.parent if path.parent.name == "etc" else path.parent
    storages: list[Storage] = []
    remarks: list[str] = []
    for section, around in _sections(top, _Surroundings()):
        if section.type == "filestorage":
            data = _value(section, "path")
            blobs = _value(section, "blob-dir") or around.blobs
            if data is not None:
                storages.append(
                    Storage(
                        _absolute(data, folder),
                        None if blobs is None else _absolute(blobs, folder),
                        around.database or (section.name or ""),
                        around.mount,
                        path,
                    )
                )
        elif section.type in _NO_FILES:
            server = _value(section, "server") or "?"
            text = _NO_FILES[section.type].format(name=around.database or section.type, server=server)
            remarks.append(f"{path}: {text}")
    return Conf(tuple(storages), tuple(remarks))


def _parsed(path: Path) -> Any:
    """The file as ZConfig's sections, with its definitions carried out and what it includes."""
    import ZConfig
    import ZConfig.cfgparser
    import ZConfig.schemaless

    open_files: list[str] = []

    class Context(ZConfig.schemaless.Context):  # type: ignore[misc]
        def includeConfiguration(self, section: Any, newurl: str, defines: dict[str, str]) -> None:  # noqa: N802
            _parse_into(section, newurl, self, defines)

    def _parse_into(section: Any, name: str, context: Any, defines: dict[str, str]) -> None:
        if name in open_files:
            raise ZConfig.ConfigurationError(f"{name} includes itself")
        open_files.append(name)
        with open(name, encoding="utf-8", errors="surrogateescape") as file:
            resource = ZConfig.schemaless.Resource(file, name)
            ZConfig.cfgparser.ZConfigParser(resource, context, defines).parse(section)
        open_files.remove(name)

    context = Context()
    _parse_into(context.top, str(path), context, {})
    return context.top


def _sections(section: Any, around: _Surroundings) -> Iterator[tuple[Any, _Surroundings]]:
    """All sections below one, each with what those around it say."""
    for each in section.sections:
        yield each, around
        inner = around
        if each.type == "zodb_db":
            inner = inner._replace(database=each.name or "main", mount=_value(each, "mount-point") or "")
        elif each.type == "blobstorage":
            inner = inner._replace(blobs=_value(each, "blob-dir"), database=inner.database or each.name or "")
        yield from _sections(each, inner)


def _value(section: Any, key: str) -> str | None:
    """The value of a key, whose case does not count; None where it is not there."""
    for name, values in section.items():
        if name.lower() == key and values and values[-1]:
            return str(values[-1])
    return None


def _absolute(text: str, folder: Path) -> Path:
    return Path(os.path.normpath(os.path.join(folder, os.path.expanduser(text))))
