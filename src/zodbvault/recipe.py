"""The zc.buildout recipe: a section of a buildout becomes settings, and scripts that hold them.

All options are derived in the constructor, since buildout compares them next with those of the last run; `install` only
creates. Removing a part removes its scripts and never a backup.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import zc.buildout
import zc.buildout.easy_install
import zc.recipe.egg

from zodbvault.errors import reason_of
from zodbvault.script_names import names_of_scripts
from zodbvault.settings import ConfigurationError, Surroundings, expand_path, parse_settings, settings_to_plain
from zodbvault.several_sites import conflict_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, MutableMapping

    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")

INSTANCE_RECIPE = "plone.recipe.zope2instance"
ZOPE_RECIPES = frozenset({"plone.recipe.zeoserver", INSTANCE_RECIPE, "plone.recipe.zope2zeoserver"})
"""Recipes of parts that know where a site's data are, in lower case."""

BUILDOUT_KEYS = frozenset(
    {
        "allow-hosts",
        "bin-directory",
        "buildout-directory",
        "develop-eggs-directory",
        "eggs",
        "eggs-directory",
        "executable",
        "extra-paths",
        "find-links",
        "index",
        "newest",
        "offline",
        "parts-directory",
        "python",
        "recipe",
        "relative-paths",
        "unzip",
    }
)
"""What buildout and zc.recipe.egg keep in a section beside the recipe's own options."""


class Buildout(Protocol):
    """What we use of zc.buildout's Buildout: sections by name."""

    def __getitem__(self, section: str) -> MutableMapping[str, str]: ...


class Recipe:
    """One part of a buildout."""

    def __init__(self, buildout: Buildout, name: str, options: MutableMapping[str, str]) -> None:
        """Check and derive all options. Raises zc.buildout.UserError with all mistakes."""
        self._bin = os.path.abspath(buildout["buildout"]["bin-directory"])
        self._egg = zc.recipe.egg.Egg(buildout, "zodbvault", options)
        own = {key: value for key, value in options.items() if not _belongs_to_buildout(key)}
        if own.get("locationprefix") == "":
            # For collective.recipe.backup this is the buildout folder, and the backups are to stay where they are.
            own["locationprefix"] = "."
        try:
            parsed = parse_settings(own, _surroundings(buildout, name, Path(self._bin).parent))
        except ConfigurationError as error:
            raise zc.buildout.UserError("\n".join(error.mistakes)) from error
        for warning in parsed.warnings:
            logger.warning("%s", warning)
        for note in parsed.notes:
            logger.info("%s", note)
        self.settings = parsed.settings
        self._tree = _tree(buildout, options, self._bin)
        for warning in _warnings_of_tree(self.settings, self._tree):
            logger.warning("%s", warning)
        _refuse_conflicts(self.settings, buildout)
        for key, value in settings_to_plain(self.settings).items():
            if key != "part" and value is not None:
                options[key] = str(value).lower() if isinstance(value, bool) else str(value)

    def install(self) -> list[str]:
        """Make the folders and the scripts; the scripts are what buildout removes with the part."""
        for folder in self.settings.folders():
            _make_folder(folder)
        _compile_own_modules()
        _, working_set = self._egg.working_set(["zodbvault"])
        generated: list[str] = []
        for script, command in offered_scripts(self.settings).items():
            generated += zc.buildout.easy_install.scripts(
                [(script, "zodbvault.scripts", "run")],
                working_set,
                sys.executable,
                self._tree.bin if self._tree.may_move else self._bin,
                initialization=settings_source(self.settings, self._tree),
                arguments=f"{command!r}, settings",
                relative_paths=self._tree.root if self._tree.may_move else False,
            )
        return generated

    # A folder or a script that someone removed comes back with the next run of buildout.
    update = install


def offered_scripts(settings: Settings) -> dict[str, str]:
    """The names of the scripts that a part gets, each with its command."""
    names = names_of_scripts(settings.part)
    if not settings.enable_snapshotrestore:
        del names["snapshotrestore"]
    if not settings.enable_zipbackup:
        del names["zipbackup"], names["ziprestore"]
    if settings.alternative_location is None:
        del names["altrestore"]
    return {script: command for command, script in names.items()}


class Tree(NamedTuple):
    """The folder of a buildout, which may be moved with all that is in it where `relative-paths = true` is set.

    directory: as buildout calls it. root, bin: it and the folder of scripts, without links. is_wanted: the option.
    """

    directory: str
    root: str
    bin: str
    is_wanted: bool

    @property
    def may_move(self) -> bool:
        """Whether scripts find what is in the tree from where they are themselves."""
        return self.is_wanted and self.bin.startswith(f"{self.root}/")

    def below(self, path: Path) -> str | None:
        """A path from the tree on; None for one that stays where it is when the tree is moved."""
        if self.may_move:
            for folder in (self.directory, self.root):
                if path.is_relative_to(folder):
                    return str(path.relative_to(folder))
        return None


def settings_source(settings: Settings, tree: Tree | None = None) -> str:
    """What a script does first: its settings, a line per option; in ASCII, for a buildout may run in any locale.

    tree: what is in it is found from `base`, which buildout puts into a script together with `join`.
    """
    plain = {name: f"{value!a}" for name, value in settings_to_plain(settings).items()}
    for name, value in zip(settings._fields, settings, strict=True):
        if tree is not None and isinstance(value, Path) and (below := tree.below(value)) is not None:
            plain[name] = f"join(base, {below!a})"
    lines = (f"    {name!r}: {value}," for name, value in plain.items())
    # Nothing that the start makes is garbage, and looking for some costs a tenth of it; run() switches it on again.
    # What is left at the end goes with the process: frozen, it is not looked through once more, another tenth.
    first = ["import atexit", "import gc", "gc.disable()", "atexit.register(gc.freeze)"]
    return "\n".join([*first, "settings = {", *lines, "}"])


def _belongs_to_buildout(key: str) -> bool:
    # zc.recipe.egg adds keys such as `_d`; `<` is what a section inherits from.
    return key in BUILDOUT_KEYS or key.startswith(("_", "<"))


def _tree(buildout: Buildout, options: Mapping[str, str], bin_folder: str) -> Tree:
    """The buildout's folder, and whether its scripts are to work elsewhere too; a part may say so for itself."""
    directory = os.path.abspath(buildout["buildout"]["directory"])
    wanted = options.get("relative-paths", buildout["buildout"].get("relative-paths", "false"))
    return Tree(directory, os.path.realpath(directory), os.path.realpath(bin_folder), wanted == "true")


def _warnings_of_tree(settings: Settings, tree: Tree) -> Iterator[str]:
    """What a tree that may be moved does not take along."""
    if not tree.is_wanted:
        return
    if not tree.may_move:
        yield (
            f"[{settings.part}] relative-paths: has no effect, because bin-directory {tree.bin} is not below"
            f" {tree.directory}"
        )
        return
    for name in ("pre_command", "post_command"):
        if tree.directory in getattr(settings, name):
            yield f"[{settings.part}] {name}: names {tree.directory}, and will name it after a move (relative-paths)"


def _surroundings(buildout: Buildout, part: str, base: Path) -> Surroundings:
    """What the parts of Zope and ZEO say about the site.

    base: the parent of the folder of scripts. It is not the folder of the configuration, which may lie below it; that
    is where the recipes of Zope and ZEO, and collective.recipe.backup, find a relative `var`.
    """
    zope_parts = list(_zope_parts(buildout))
    folder = Path(buildout["buildout"]["directory"])
    var = _first(zope_parts, "zeo-var") or _first(zope_parts, "var")
    var_folder = expand_path(var, folder) if var else base / "var"
    blob_storage = _place(zope_parts, "blob-storage", folder)
    if blob_storage is None and zope_parts:
        blob_storage = str(var_folder / "blobstorage")
    return Surroundings(
        part=part,
        section=f"[{part}]",
        base=base,
        var=var_folder,
        datafs=_place(zope_parts, "file-storage", folder) or str(var_folder / "filestorage" / "Data.fs"),
        blob_storage=blob_storage,
    )


def _place(zope_parts: list[Mapping[str, str]], option: str, folder: Path) -> str | None:
    """Where the first part that has the option puts its database or blobs; None where none has it.

    folder: in which buildout works. A relative path starts where the recipe of that part lets it start, as seen in
    plone.recipe.zeoserver 4.0.1 and plone.recipe.zope2instance 9.1.0: from the var folder, but the blobs of
    zope2instance from the buildout folder.
    """
    for part in zope_parts:
        value = part.get(option)
        if value:
            if value.startswith(("/", "~", "$")):
                return value
            is_instance = _recipe_of(part) == INSTANCE_RECIPE
            if is_instance and option == "blob-storage":
                return str(folder / value)
            var = (not is_instance and part.get("zeo-var")) or part.get("var") or "var"
            return str(expand_path(var, folder) / value)
    return None


def _zope_parts(buildout: Buildout) -> Iterator[Mapping[str, str]]:
    for name in buildout["buildout"]["parts"].split():
        options = buildout[name]
        if _recipe_of(options) in ZOPE_RECIPES:
            yield options


def _recipe_of(options: Mapping[str, str]) -> str:
    return options.get("recipe", "").partition(":")[0].strip().lower()


def _first(parts: list[Mapping[str, str]], option: str) -> str | None:
    """The option's value in the first part that has one."""
    return next((value for part in parts if (value := part.get(option))), None)


def _refuse_conflicts(settings: Settings, buildout: Buildout) -> None:
    """Raise UserError when another part backs up another site in a way that harms ours, or ours its.

    Of two parts the one that is derived last sees the other.
    """
    for name in buildout["buildout"]["parts"].split():
        recipe = getattr(buildout[name], "recipe", None)
        if not isinstance(recipe, Recipe):
            continue
        conflict = conflict_of(settings, recipe.settings, (f"[{settings.part}]", f"[{recipe.settings.part}]"))
        if conflict is not None:
            raise zc.buildout.UserError(conflict)


def _compile_own_modules() -> None:
    """Write the bytecode of our own modules now: cron may run as somebody who cannot write it, and compile each time.

    What cannot be written is no error.
    """
    import compileall

    compileall.compile_dir(os.path.dirname(os.path.abspath(__file__)), quiet=2)


def _make_folder(folder: Path) -> None:
    """Make a folder of backups if it is missing; each run of a script tries again."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        logger.warning("%s: the folder cannot be made now: %s", folder, reason_of(error))
