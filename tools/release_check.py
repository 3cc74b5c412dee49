"""Build what would be published, check it, and use it where nothing else is: `make release-check`. Publishes nothing.

The source archive and the wheel are built from the files that git has, checked with twine, compared with git's list of
files, and the wheel is installed into an empty environment, where a site is made, backed up, destroyed and restored;
once more by the commands of the tutorial, as they stand there. For the Python that is not in the matrix yet the wheels
are looked for, and nothing is run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
DIST = PROJECT / "dist"

WHEEL_HAS = ("zodbvault/py.typed", "zodbvault/recipe.py", "zodbvault/cli.py")
ENTRY_POINTS = ("zodbvault = zodbvault.cli:main", "default = zodbvault.recipe:Recipe")

NEXT_PYTHON = "3.14"
# What it is used with, and does not bring itself.
USED_WITH = ("ZODB>=6", "zc.buildout>=6")

SITE = """\
[site.plone]
datafs = "filestorage/Data.fs"
blob_storage = "blobstorage"
"""
# What an application writes to that site, and what has to be read of it when it is restored.
WRITE = """\
import pathlib, transaction, ZODB, ZODB.blob, ZODB.FileStorage
pathlib.Path("filestorage").mkdir()
db = ZODB.DB(ZODB.FileStorage.FileStorage("filestorage/Data.fs", blob_dir="blobstorage"))
with db.transaction() as connection:
    connection.root()["page"] = "written before the backup"
    connection.root()["image"] = ZODB.blob.Blob(b"an image")
db.close()
"""
READ = """\
import ZODB, ZODB.FileStorage
db = ZODB.DB(ZODB.FileStorage.FileStorage("filestorage/Data.fs", blob_dir="blobstorage", read_only=True))
with db.transaction() as connection:
    assert connection.root()["page"] == "written before the backup"
    assert connection.root()["image"].open().read() == b"an image"
db.close()
"""


def run(*command: str | Path, cwd: Path = PROJECT, **environment: str) -> None:
    """Run a command, and say so; one that fails ends the check. environment: variables besides those that are set."""
    print("+", *(str(word) if "\n" not in str(word) else "..." for word in command), flush=True)
    subprocess.run([str(word) for word in command], cwd=cwd, check=True, env={**os.environ, **environment})


def build() -> tuple[Path, Path]:
    """The source archive and the wheel, the latter built from the former."""
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST)
    (archive,) = DIST.glob("*.tar.gz")
    (wheel,) = DIST.glob("*.whl")
    return archive, wheel


def check_wheel(wheel: Path) -> None:
    """It has the marker of types, the entry points, and nothing beside the package and its metadata."""
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        (points,) = (name for name in names if name.endswith("entry_points.txt"))
        text = opened.read(points).decode()
    lacking = [name for name in WHEEL_HAS if name not in names] + [line for line in ENTRY_POINTS if line not in text]
    strange = [name for name in names if not name.startswith(("zodbvault/", "zodbvault-"))]
    if lacking or strange:
        raise SystemExit(f"{wheel.name}: lacks {lacking}, should not have {strange}")


def check_wheels_for_next_python(wheel: Path) -> None:
    """What the wheel needs is there for the Python that nothing is run with yet, without anything to compile."""
    fits = ("--python-version", NEXT_PYTHON, "--only-binary", ":all:", "--target", DIST / "dry-run")
    run(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", *fits, wheel, *USED_WITH)


def use(wheel: Path, folder: Path) -> None:
    """Install the wheel into an empty environment, and back up and restore a site with it."""
    environment, site = folder / "environment", folder / "site"
    run(sys.executable, "-m", "venv", environment)
    python, zodbvault = environment / "bin" / "python", environment / "bin" / "zodbvault"
    run(python, "-m", "pip", "install", "--quiet", wheel)
    site.mkdir()
    (site / "zodbvault.toml").write_text(SITE)
    run(zodbvault, "--version", cwd=site)
    run(python, "-c", WRITE, cwd=site)
    run(zodbvault, "backup", cwd=site)
    run(zodbvault, "list", cwd=site)
    shutil.rmtree(site / "filestorage")
    shutil.rmtree(site / "blobstorage")
    run(zodbvault, "restore", "--no-prompt", cwd=site)
    run(zodbvault, "verify", "--deep", cwd=site)
    run(python, "-c", READ, cwd=site)


def follow_the_tutorial() -> None:
    """What a newcomer does with the wheel, from an empty folder to a restored site; the page's own test does it."""
    test = "tests/test_pages.py::test_the_tutorial_goes_from_an_empty_folder_to_a_restored_site"
    run(sys.executable, "-m", "pytest", "-q", test, ZODBVAULT_TEST_WHEELS=str(DIST))


def main() -> None:
    """All of it."""
    archive, wheel = build()
    run(sys.executable, "-m", "twine", "check", "--strict", archive, wheel)
    run(sys.executable, "-m", "check_manifest")
    check_wheel(wheel)
    check_wheels_for_next_python(wheel)
    with tempfile.TemporaryDirectory() as folder:
        use(wheel, Path(folder))
    follow_the_tutorial()
    print(f"{archive.name} and {wheel.name} are good. Nothing was published.")


if __name__ == "__main__":
    main()
