"""A first zodbvault.toml for what a folder holds: a buildout, an instance of Zope, one that cookiecutter made.

Looks, makes text of what it found, and writes it where nothing is yet. What it cannot know stands as a comment.
"""

from __future__ import annotations

import os
import re
from configparser import Error as ConfigParserError
from configparser import RawConfigParser
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.commands.zope_conf import Storage, read_conf
from zodbvault.errors import ZodbvaultError, explained, one_line
from zodbvault.options import OPTION_BY_NAME, OPTIONS, Kind, default_folder_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

CONF_NAMES = ("zeo.conf", "zope.conf")
"""The server's first: what it says of blobs is right."""

BACKUP_RECIPES = frozenset({"collective.recipe.backup", "zodbvault"})

SUGGESTED = (
    "keep",
    "keep_daily",
    "full_after_days",
    "pre_command",
    "log_file",
    "metrics_file",
    "healthcheck_url",
)
"""The options that stand in the file as comments, for whoever wants them."""

EXAMPLE_VALUES = {"pre_command": "", "log_file": "var/log/backup.log", "metrics_file": "var/backup.prom"}

_MAIN_NAMES = frozenset({"", "main", "root", "1"})
_WIDTH = 100


class Site(NamedTuple):
    """One site to write. name: of its table. sources: the files that name its Data.fs. locations: by option."""

    name: str
    storage: Storage
    sources: tuple[Path, ...]
    locations: dict[str, Path]
    is_shared: bool
    remarks: tuple[str, ...]


class Found(NamedTuple):
    """What a folder holds. remarks: what there is beside the sites."""

    folder: Path
    sites: tuple[Site, ...]
    remarks: tuple[str, ...]


class Part(NamedTuple):
    """A part of a buildout."""

    name: str
    recipe: str
    options: dict[str, str]


# Looking


def look(folder: Path) -> Found:
    """What is in a folder. Raises ZodbvaultError when it is none, or no FileStorage is found."""
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "there is no such folder"
        raise ZodbvaultError(what, path=folder, hint="Name that of a buildout, or of an instance of Zope.")
    confs = [read_conf(path) for path in conf_files(folder)]
    storages = [storage for conf in confs for storage in conf.storages]
    remarks = [remark for conf in confs for remark in conf.remarks]
    if not confs:
        cookies = cookiecutter_storage(folder)
        storages += [cookies] if cookies is not None else []
    if not storages:
        said = "".join(f" {remark}." for remark in remarks)
        raise ZodbvaultError(
            "no FileStorage was found: no zope.conf or zeo.conf names one in etc, */etc or parts/*/etc",
            path=folder,
            hint=f"{said.strip()} Name another folder, or write the file by hand.".strip(),
        )
    parts = [part for part in installed_parts(folder) if part.recipe.lower() in BACKUP_RECIPES]
    return Found(folder, sites_of(storages, parts), tuple(remarks))


def conf_files(folder: Path) -> list[Path]:
    """The files of Zope and ZEO below a folder, each once."""
    found: dict[str, Path] = {}
    # The parts of a buildout may be elsewhere.
    elsewhere = [Path(part.options["location"]) for part in installed_parts(folder) if part.options.get("location")]
    for name in CONF_NAMES:
        for pattern in (f"etc/{name}", f"parts/*/etc/{name}", f"*/etc/{name}"):
            for path in sorted(folder.glob(pattern)):
                found.setdefault(os.path.realpath(path), path)
        for location in elsewhere:
            path = location / "etc" / name
            if path.is_file():
                found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def installed_parts(folder: Path) -> tuple[Part, ...]:
    """The parts of the buildout in a folder, as buildout installed them last."""
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read_string((folder / ".installed.cfg").read_text("utf-8", "surrogateescape"))
    except (OSError, ConfigParserError):
        return ()
    sections = [(name, dict(parser[name])) for name in parser.sections()]
    return tuple(Part(name, options.get("recipe", "").partition(":")[0].strip(), options) for name, options in sections)


def cookiecutter_storage(folder: Path) -> Storage | None:
    """The database of an instance.yaml whose instance is not generated yet; None without one that is in files."""
    source = folder / "instance.yaml"
    try:
        text = source.read_text("utf-8")
    except (OSError, ValueError):
        return None
    # Its values are one line each; more of YAML is not needed.
    values = dict(re.findall(r"""^\s+(\w+):\s*['"]?(.*?)['"]?\s*$""", text, re.MULTILINE))
    if values.get("db_storage", "direct") != "direct":
        return None
    target = values.get("target", "instance")
    client = values.get("location_clienthome", f"{target}/var")

    def path_of(*names: str, default: str) -> Path:
        value = next((values[name] for name in names if values.get(name)), default)
        for name, replacement in (("location_clienthome", client), ("target", target)):
            value = re.sub(r"\{\{\s*cookiecutter\." + name + r"\s*\}\}", lambda _, text=replacement: text, value)
        return Path(os.path.normpath(folder / value))

    data = path_of("db_filestorage_location", default=f"{client}/filestorage/Data.fs")
    blobs = path_of("db_blobs_location", "db_blob_location", default=f"{client}/blobs")
    return Storage(data, blobs, "main", "/", source)


# Deciding


def sites_of(storages: Sequence[Storage], parts: Sequence[Part]) -> tuple[Site, ...]:
    """A site for each Data.fs, whichever files name it."""
    by_file: dict[str, list[Storage]] = {}
    for storage in storages:
        by_file.setdefault(os.path.realpath(storage.datafs), []).append(storage)
    groups = [_agreed(group) for group in by_file.values()]
    main = next((storage for storage, _ in groups if storage.mount == "/"), None)
    main = main or next((storage for storage, _ in groups if storage.database in _MAIN_NAMES), groups[0][0])
    blobs = [os.path.realpath(storage.blobs) for storage, _ in groups if storage.blobs is not None]
    names: list[str] = []
    sites = []
    for (storage, remarks), group in zip(groups, by_file.values(), strict=True):
        name = _new_name("main" if storage is main else _name_of(storage), names)
        names.append(name)
        part = next((each for each in parts if _is_of(each, storage)), None)
        if part is not None:
            remarks = (*remarks, f"The part [{part.name}] with the recipe {part.recipe} backs it up: the same folders")
        is_shared = storage.blobs is not None and blobs.count(os.path.realpath(storage.blobs)) > 1
        sources = tuple(dict.fromkeys(each.source for each in group))
        sites.append(Site(name, storage, sources, _locations(name, storage, part), is_shared, remarks))
    return tuple(sorted(sites, key=lambda site: site.name != "main"))


def _agreed(group: Sequence[Storage]) -> tuple[Storage, tuple[str, ...]]:
    """One FileStorage of all that several files say of it, the first first; and where they differ."""
    first = next((storage for storage in group if storage.blobs is not None), group[0])
    mounts = [storage for storage in group if storage.mount]
    storage = first._replace(
        mount=mounts[0].mount if mounts else "", database=mounts[0].database if mounts else first.database
    )
    others = {each.blobs: each.source for each in group if each.blobs not in (None, first.blobs)}
    return storage, tuple(f"{source} names other blobs: {blobs}" for blobs, source in others.items())


def _name_of(storage: Storage) -> str:
    if storage.database not in _MAIN_NAMES and not storage.database.isdigit():
        return storage.database
    return storage.datafs.stem.lower()


def _new_name(name: str, names: Sequence[str]) -> str:
    name = name.replace("/", "-").strip() or "site"
    return next(
        each for number in range(len(names) + 1) if (each := f"{name}-{number + 1}" if number else name) not in names
    )


def _is_of(part: Part, storage: Storage) -> bool:
    datafs = part.options.get("datafs")
    return bool(datafs) and os.path.realpath(str(datafs)) == os.path.realpath(storage.datafs)


def _locations(name: str, storage: Storage, part: Part | None) -> dict[str, Path]:
    """Where the backups go: where a part of the buildout puts them, else where the recipe would."""
    parent = storage.datafs.parent
    var = parent.parent if parent.name == "filestorage" else parent
    found = {}
    for option in OPTIONS:
        if option.kind is not Kind.BACKUPS or "zip" in option.name or ("blob" in option.name and not storage.blobs):
            continue
        value = part.options.get(option.name) if part is not None else None
        default = var / default_folder_name(option, "backup" if name == "main" else name)
        found[option.name] = Path(value) if value is not None and Path(value).is_absolute() else default
    return found


# Writing


def text_of(found: Found, folder: Path) -> str:
    """The toml file. folder: where it is going to be; paths below it are relative.

    Raises ZodbvaultError for a path that toml cannot hold.
    """
    lines = [
        "# Backups with zodbvault. `zodbvault settings` shows all options, and what holds.",
        "# Relative paths start from the folder of this file.",
    ]
    if found.remarks:
        lines += ["#", "# Found too:", *(f"# - {one_line(remark)}" for remark in found.remarks)]
    for site in found.sites:
        lines += ["", *_site_lines(site, folder)]
    lines += ["", *_suggestions(found.sites[0].name, first_only=len(found.sites) > 1)]
    return "\n".join(lines) + "\n"


def _site_lines(site: Site, folder: Path) -> Iterator[str]:
    storage = site.storage
    yield f"[site.{_key(site.name)}]"
    for source in site.sources:
        yield f"# From {one_line(str(source))}" + (f", mounted at {one_line(storage.mount)}" if storage.mount else "")
    for remark in site.remarks:
        yield f"# {one_line(remark)}."
    if not os.path.exists(storage.datafs):
        yield "# This file is not there yet."
    yield f"datafs = {_path(storage.datafs, folder)}"
    if storage.blobs is None:
        yield "# No blobs are named there. Where there are some, name them with blob_storage instead."
        yield "backup_blobs = false"
    else:
        yield f"blob_storage = {_path(storage.blobs, folder)}"
    if site.is_shared:
        yield "# Another site has the same blobs: a restore then removes none."
        yield "shared_blob_storage = true"
    yield "# Backups, better on another disk."
    for option, location in site.locations.items():
        yield f"# {_plain(OPTION_BY_NAME[option].help)}"
        yield f"{option} = {_path(location, folder)}"


def _suggestions(name: str, *, first_only: bool) -> Iterator[str]:
    """Options that may be wanted, as comments."""
    where = (
        f"these belong into a table, [site.{_key(name)}] say" if first_only else "take away the # where you want one"
    )
    yield f"# More, {where}:"
    for option_name in SUGGESTED:
        option = OPTION_BY_NAME[option_name]
        yield "#"
        yield from _wrapped(_plain(option.help))
        value = EXAMPLE_VALUES.get(option_name, option.default)
        yield f"# {option_name} = {_string(value) if isinstance(value, str) else value}"


def _wrapped(text: str) -> Iterable[str]:
    import textwrap

    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _plain(text: str) -> str:
    """A help text without its markup."""
    return text.replace("``", "")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)


def _path(path: Path, folder: Path) -> str:
    """A path as a string of toml, from the folder of the file where it lies there."""
    text = str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)
    if "$" in text or text.startswith("~"):
        raise ZodbvaultError(
            "a path with $ or ~ in it cannot be written: zodbvault would replace it by a variable or a home",
            path=path,
            hint="Name it by a symlink.",
        )
    return _string(text)


def _string(text: str) -> str:
    """A basic string of toml. Raises ZodbvaultError for bytes that are no text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ZodbvaultError("is no text in UTF-8, and a toml file holds nothing else", path=text) from error
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(each if each.isprintable() else f"\\U{ord(each):08X}" for each in escaped) + '"'


def _write_where_nothing_is(path: Path, text: str) -> None:
    """Write a file, or leave none: half of one would stand in the way of the next try. Raises OSError."""
    with open(path, "x", encoding="utf-8") as file:
        try:
            file.write(text)
            file.flush()
        except BaseException:
            os.unlink(path)
            raise


def write_new(found: Found, path: Path) -> tuple[str, ...]:
    """Write the file; what was written, and what to do next. Raises ZodbvaultError where one is there already."""
    import shlex

    text = text_of(found, path.parent)
    hint = "Is its folder there, and may you write into it? -o names another file, -o - shows the text."
    with explained("the file cannot be written", path=path, hint=hint):
        try:
            _write_where_nothing_is(path, text)
        except FileExistsError:
            raise ZodbvaultError(
                "is there already", path=path, hint="It was left as it is. -o names another file, -o - shows the text."
            ) from None
    sites = ", ".join(f"{site.name} ({site.storage.datafs})" for site in found.sites)
    words = ["zodbvault", "--config", str(path)]
    words += ["--site", found.sites[0].name] if len(found.sites) > 1 else []
    return (
        f"Found: {sites}.",
        *(f"Found too: {remark}." for remark in found.remarks),
        f"Written: {path}. Look at it, and change what you like.",
        f"Next: {shlex.join([*words, 'backup'])}",
    )
