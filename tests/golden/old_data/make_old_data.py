"""Make the databases in this folder: `python -m tests.golden.old_data.make_old_data ENVIRONMENTS`.

They were written by ZODBs that no Python of today runs, so they are kept, and CI needs no old Python. ENVIRONMENTS is a
folder with what wrote them, each name there either an environment of Python 3 or a folder of packages of Python 2.7:

    ~/py27/bin/python -m pip install --target ENVIRONMENTS/ZODB3-3.8.6 ZODB3==3.8.6
    ~/py27/bin/python -m pip install --target ENVIRONMENTS/ZODB3-3.10.7 ZODB3==3.10.7
    ~/py38/bin/python -m venv ENVIRONMENTS/ZODB-4.4.5; .../bin/pip install "setuptools<58" ZODB==4.4.5
    ~/py38/bin/python -m venv ENVIRONMENTS/ZODB-5.0.0; .../bin/pip install "setuptools<58" ZODB==5.0.0
    ~/py38/bin/python -m venv ENVIRONMENTS/zodbupdate; .../bin/pip install "setuptools<70" zodbupdate

PYTHON27 in the environment names the Python 2.7. The last database is that of 3.10.7, converted for Python 3 by
zodbupdate.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
WRITER = HERE / "write_old_data.py"
VARIANTS = [
    ("ZODB3-3.8.6", "lawn"),
    ("ZODB3-3.8.6", "bushy"),
    ("ZODB3-3.10.7", "bushy"),
    ("ZODB-4.4.5", "lawn"),
    ("ZODB-5.0.0", "bushy"),
]
KEPT = ("Data.fs", "blobs", "ends.json")


def write(environments: Path, packages: str, layout: str, target: Path) -> None:
    """Let the ZODB of `packages` write a database into `target`."""
    python = environments / packages / "bin" / "python"
    settings = dict(os.environ)
    if not python.exists():
        python = Path(settings["PYTHON27"])
        settings["OLD_PACKAGES"] = str(environments / packages)
    subprocess.run([python, WRITER, target, layout], env=settings, check=True)


def convert(environments: Path, database: Path) -> None:
    """Let zodbupdate convert the database of Python 2 for Python 3, as sites do that move."""
    zodbupdate = environments / "zodbupdate" / "bin" / "zodbupdate"
    subprocess.run(
        [zodbupdate, "--convert-py3", "--file", database / "Data.fs"],
        check=True,
    )


def keep(made: Path, target: Path) -> None:
    """Keep of what was made what a site would keep."""
    target.mkdir()
    for name in KEPT:
        if (made / name).is_dir():
            shutil.copytree(made / name, target / name, ignore=shutil.ignore_patterns("tmp", "*.lock"))
        else:
            shutil.copy(made / name, target / name)


def main(environments: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for packages, layout in VARIANTS:
            made = Path(scratch) / f"{packages}-{layout}"
            made.mkdir()
            write(environments, packages, layout, made)
            keep(made, HERE / made.name)
        converted = Path(scratch) / "ZODB3-3.10.7-bushy"
        convert(environments, converted)
        keep(converted, HERE / "ZODB3-3.10.7-converted")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
