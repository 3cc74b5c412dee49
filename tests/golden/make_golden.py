"""Make the golden repositories of the present format: `python -m tests.golden.make_golden` in the project's folder.

Run once for each format of the repository, when it is new. What it makes is committed and never made again: it is what
a site has on its disks. A later change of the format adds a folder `format-N` beside the others.

Each variant has the folders of a repository as they are on a site, and `expected.json`: for each timestamp the size and
sha256 of Data.fs, and the sha256 of every blob that its data refer to. The variant `only-blobs` has no Data.fs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.site import BlobKey, Site, State, blob_files
from zodbvault.repository.records import FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
START = "2027-01-05-18-05-00"


def expectation(state: State) -> dict[str, Any]:
    """What a restore of `state` has to bring."""
    data = {"size": len(state.data), "sha256": hashlib.sha256(state.data).hexdigest()}
    return {**data, **expectation_of_blobs(state.needed)}


def expectation_of_blobs(blobs: dict[BlobKey, bytes]) -> dict[str, Any]:
    """The blobs that a restore has to bring."""
    sums = {key: hashlib.sha256(content).hexdigest() for key, content in sorted(blobs.items())}
    return {"blobs": {f"{oid:016x}-{tid:016x}": sha256 for (oid, tid), sha256 in sums.items()}}


def live_through(site: Site) -> dict[str, Any]:
    """Some days of a site: a chain, an undo, a pack, a chain with a lost blob."""
    states: dict[str, Any] = {}

    def back_up() -> None:
        stamp, state = site.backed_up()
        states[stamp] = expectation(state)

    site.commit_pages(3, 60)
    if site.blob_storage is not None:
        site.begin_with_a_blob()
        site.commit_blobs(2, 90)
    back_up()
    for step in range(3):
        site.commit_pages(2, 60)
        if site.blob_storage is not None:
            site.commit_blobs(1, 90)
        if step == 1:
            site.undo()
        back_up()
    site.pack()
    site.commit_pages(1, 60)
    back_up()
    if site.blob_storage is not None:
        site.commit_blobs(2, 90)
        site.close()
        files = blob_files(site.blob_storage)
        files[max(files, key=lambda key: key[1])].unlink()
    else:
        site.commit_pages(1, 60)
    back_up()
    return states


def pages_and_blobs(folder: Path) -> tuple[Site, dict[str, Any]]:
    site = Site(folder, start=START)
    return site, live_through(site)


def lawn(folder: Path) -> tuple[Site, dict[str, Any]]:
    site = Site(folder, start=START, layout="lawn", seed=2)
    return site, live_through(site)


def without_blobs(folder: Path) -> tuple[Site, dict[str, Any]]:
    site = Site(folder, start=START, blobs=False, seed=3)
    return site, live_through(site)


def only_blobs(folder: Path) -> tuple[Site, dict[str, Any]]:
    site = Site(folder, start=START, options={"only_blobs": "true"}, seed=4)
    site.begin_with_a_blob()
    expected: dict[str, Any] = {}
    for step in range(4):
        site.commit_blobs(2, 90)
        if step % 2:
            site.pack()
        report = site.backup(full=step == 3)
        assert report.timestamp is not None
        expected[report.timestamp] = expectation_of_blobs(site.blobs)
    return site, expected


VARIANTS: dict[str, Callable[[Path], tuple[Site, dict[str, Any]]]] = {
    "bushy": pages_and_blobs,
    "lawn": lawn,
    "without-blobs": without_blobs,
    "only-blobs": only_blobs,
}


def make(target: Path) -> None:
    """Make all variants below `target`, which must not be there yet."""
    for name, variant in VARIANTS.items():
        with tempfile.TemporaryDirectory() as scratch:
            site, expected = variant(Path(scratch) / "site")
            site.close()
            here = target / name
            here.mkdir(parents=True)
            for folder in ("backups", "blobstoragebackups"):
                if (site.var / folder).exists():
                    unneeded = shutil.ignore_patterns("*.lock", "tmp")
                    shutil.copytree(site.var / folder, here / folder, ignore=unneeded)
            (here / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    make(HERE / f"format-{FORMAT_VERSION}")
    sys.exit(0)
