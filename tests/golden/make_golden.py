"""Make the golden repositories that are not there yet: `python -m tests.golden.make_golden` in the project's folder.

What it makes is committed and never made again: it is what a site has on its disks. A change of the format adds a
folder `format-N` beside the others; `others` has what other programs wrote. In `format-1` the variants `bushy`, `lawn`,
`without-blobs` and `only-blobs` are of the first days: their records lack the keys that came later.

Each variant has the folders of a repository as they are on a site, `expected.json`: for each timestamp the size and
sha256 of Data.fs, and the sha256 of every blob that its data refer to; and, but for these four, `site.json`, of which
`tests.golden.keeping` knows. A site of blobs alone has no Data.fs.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.faults.damage import by_repozo
from tests.golden.keeping import KeptSite, write_kept
from tests.layouts import LAYOUTS
from tests.site import BlobKey, Site, State, blob_files, timestamp
from zodbvault.repository.records import FORMAT_VERSION

if TYPE_CHECKING:
    from collections.abc import Callable

    BackUp = Callable[[], tuple[str, State]]
    """Makes a backup; its timestamp, and the state that it has to bring back."""

HERE = Path(__file__).resolve().parent
START = "2027-01-05-18-05-00"


class Made(NamedTuple):
    """A site with its backups, what they have to bring back, and what is written of the site beside them."""

    site: Site
    expected: dict[str, Any]
    kept: KeptSite | None


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


def two_chains(site: Site, back_up: BackUp) -> dict[str, Any]:
    """A full and an incremental, before a pack and after it: little, since some layouts have all blobs each time."""
    states: dict[str, Any] = {}
    has_blobs = site.blob_storage is not None
    for is_packed in (False, True):
        if is_packed:
            site.delete()
            site.delete()
            site.pack()
        elif has_blobs:
            site.begin_with_a_blob()
            site.commit_blobs(2, 90, names=4)
        for _ in range(2):
            site.commit_pages(2, 60)
            if has_blobs:
                site.commit_blobs(1, 90, names=4)
            stamp, state = back_up()
            states[stamp] = expectation(state)
    return states


def in_layout(name: str, *, start: str = START) -> Callable[[Path], Made]:
    """The variant for a layout of the table of layouts."""

    def make(folder: Path) -> Made:
        site = Site(folder, options=LAYOUTS[name], start=start, seed=5)
        return Made(site, two_chains(site, site.backed_up), KeptSite(LAYOUTS[name]))

    return make


def blobs_alone(name: str) -> Callable[[Path], Made]:
    """The variant for a site of blobs alone, in a layout of the table."""
    options = {**LAYOUTS[name], "only_blobs": "true", "keep_blob_days": "0"}

    def make(folder: Path) -> Made:
        site = Site(folder, options=options, start=START, seed=6)
        site.begin_with_a_blob()
        expected: dict[str, Any] = {}
        for number in range(4):
            site.commit_blobs(2, 90, names=4)
            if number == 2:
                site.pack()
            stamp = site.backup(full=number == 2).timestamp
            assert stamp is not None
            expected[stamp] = expectation_of_blobs(site.blobs)
        return Made(site, expected, KeptSite(options))

    return make


def zipped(folder: Path) -> Made:
    """A zip backup, of which there is one at any time."""
    options = {"enable_zipbackup": "true"}
    site = Site(folder, options=options, start=START, seed=7)

    def back_up() -> tuple[str, State]:
        stamp = site.zipbackup().timestamp
        assert stamp is not None
        return stamp, site.state()

    newest, state = list(two_chains(site, back_up).items())[-1]
    return Made(site, {newest: state}, KeptSite(options, source="zip"))


def of_repozo(folder: Path) -> Made:
    """What ZODB's own program writes: no records, no blobs."""
    site = Site(folder, blobs=False, start=START, seed=8)

    def back_up() -> tuple[str, State]:
        site.tick()
        stamp = timestamp(site.clock.now())
        by_repozo(site, stamp)
        return stamp, site.state()

    return Made(site, two_chains(site, back_up), KeptSite({}))


def of_the_old_recipe(name: str) -> Callable[[Path], Made]:
    """What collective.recipe.backup writes in a layout of the table; it is installed for that."""

    def make(folder: Path) -> Made:
        from tests.interop import upstream

        upstream.make_their_environment()
        site = Site(folder, options=LAYOUTS[name], start=upstream.START, seed=9)
        old_recipe = upstream.Upstream(site)

        def back_up() -> tuple[str, State]:
            site.close()
            return old_recipe.backup()

        return Made(site, two_chains(site, back_up), KeptSite(LAYOUTS[name]))

    return make


def of_the_first_days(make: Callable[[Path], tuple[Site, dict[str, Any]]]) -> Callable[[Path], Made]:
    """A variant that has no `site.json`."""

    def make_it(folder: Path) -> Made:
        return Made(*make(folder), None)

    return make_it


OUR_FORMAT = f"format-{FORMAT_VERSION}"
VARIANTS: dict[str, Callable[[Path], Made]] = {
    f"{OUR_FORMAT}/bushy": of_the_first_days(pages_and_blobs),
    f"{OUR_FORMAT}/lawn": of_the_first_days(lawn),
    f"{OUR_FORMAT}/without-blobs": of_the_first_days(without_blobs),
    f"{OUR_FORMAT}/only-blobs": of_the_first_days(only_blobs),
    **{f"{OUR_FORMAT}/{name.replace(' ', '-')}": in_layout(name) for name in LAYOUTS},
    **{
        f"{OUR_FORMAT}/only-blobs-{name.replace(' ', '-')}": blobs_alone(name)
        for name in ("pool", "directories", "compressed archives", "compressed incremental archives")
    },
    f"{OUR_FORMAT}/zip": zipped,
    "others/repozo": of_repozo,
    **{
        f"others/collective.recipe.backup-{name.replace(' ', '-')}": of_the_old_recipe(name)
        for name in ("directories", "numbered directories", "compressed archives", "compressed incremental archives")
    },
}


def make(target: Path) -> None:
    """Make those variants below `target` that are not there."""
    for name, variant in VARIANTS.items():
        here = target / name
        if here.exists():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            made = variant(Path(scratch) / "site")
            made.site.close()
            write_kept(made.site.var, here, made.kept)
            (here / "expected.json").write_text(json.dumps(made.expected, indent=1) + "\n")
        print(name)


if __name__ == "__main__":
    make(HERE)
    sys.exit(0)
