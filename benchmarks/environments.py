"""The two environments that are compared, each with its own packages, and buildouts made with them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "benchmarks"

OURS, THEIRS, PICTURE = "ours", "theirs", "picture"
PACKAGES = {
    OURS: ["zc.buildout"],
    THEIRS: ["collective.recipe.backup==6.0.0", "ZODB", "zc.buildout"],
    PICTURE: ["matplotlib"],
}
RECIPES = {OURS: "zodbvault", THEIRS: "collective.recipe.backup"}


def make_environment(name: str, project: Path = ROOT) -> Path:
    """Make an environment, or bring it up to date; return its folder of scripts. Ours has `project` installed."""
    folder = FOLDER / name
    packages = list(PACKAGES[name])
    wanted = [sys.version, *packages]
    if name == OURS:
        source = _copy_of(project)
        packages.append(str(source))
        wanted.append(_digest(source))
    made = folder / "made"
    if not made.exists() or made.read_text() != "\n".join(wanted):
        print(f"Making the environment {folder} ...", file=sys.stderr)
        _call([sys.executable, "-m", "venv", "--clear", str(folder)])
        _call([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", *packages])
        made.write_text("\n".join(wanted))
    return folder / "bin"


def versions(name: str) -> dict[str, str]:
    """The packages of an environment and their versions."""
    lines = _call([str(FOLDER / name / "bin/python"), "-m", "pip", "list", "--format=freeze"]).splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line)


def make_buildout(name: str, folder: Path, options: dict[str, str]) -> None:
    """Make a buildout with one part [backup]: bin/backup, bin/restore and the others in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    # Everything is installed in the environment already.
    sections = {
        "buildout": {"parts": "backup", "offline": "true", "newest": "false"},
        "backup": {"recipe": RECIPES[name], **options},
    }
    if name == THEIRS:
        # It starts bin/repozo, which its users make with a part of its own.
        sections["buildout"]["parts"] = "backup repozo"
        sections["repozo"] = {"recipe": "zc.recipe.egg", "eggs": "ZODB", "scripts": "repozo"}
    lines: list[str] = []
    for section, values in sections.items():
        lines += [f"[{section}]", *(f"{key} = {value}" for key, value in values.items()), ""]
    (folder / "buildout.cfg").write_text("\n".join(lines))
    buildout = FOLDER / name / "bin" / "buildout"
    _call([str(buildout), "-U", "-c", str(folder / "buildout.cfg")])


def _copy_of(project: Path) -> Path:
    """A copy to install from, so that nothing left of earlier builds gets in, and nothing is left in the project."""
    source = FOLDER / "source"
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    shutil.copytree(project / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "README.rst", "LICENSE"):
        shutil.copy(project / name, source / name)
    return source


def _digest(folder: Path) -> str:
    """One checksum for all files of a folder."""
    checksum = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            checksum.update(os.fsencode(path.relative_to(folder)) + b"\0" + path.read_bytes())
    return checksum.hexdigest()


def _call(command: list[str]) -> str:
    """What a command says, which has to succeed. A Python around this one is none of its business."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if finished.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{finished.stdout}{finished.stderr}")
    return finished.stdout
