"""Damage by chance to the backups of a site whose blobs alone are backed up; `make faults` tries many more cases.

A restore gives exactly the blobs of its state or changes nothing; verify calls nothing good that does not restore; what
a backup reports afterwards restores, but for blobs whose content changed in their place, which only verify can see.
"""

from __future__ import annotations

import os
import random
import shutil
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.layouts import LAYOUTS
from tests.site import BlobKey, Site
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from pathlib import Path

CASES = 8
MANY = 300


class Kept(NamedTuple):
    """A site, its states, and a copy of all its folders before any damage."""

    site: Site
    states: dict[str, dict[BlobKey, bytes]]
    copy: Path


def kept(tmp_path: Path, layout: str) -> Kept:
    site = Site(tmp_path / "site", options={"only_blobs": "true", **LAYOUTS[layout]})
    site.begin_with_a_blob()
    states = {}
    for step in range(3):
        site.commit_blobs(2)
        if step == 1:
            site.pack()
        stamp = site.backup().timestamp
        assert stamp is not None
        states[stamp] = site.blobs
    site.close()
    shutil.copytree(site.var, tmp_path / "copy", symlinks=True)
    return Kept(site, states, tmp_path / "copy")


def damaged(location: Path, chance: random.Random) -> str:
    """Do something to one file, or to two; what it was."""
    files = sorted(path for path in location.rglob("*") if path.is_file() and not path.is_symlink())
    path = chance.choice(files)
    other = chance.choice([each for each in files if each.suffix == path.suffix])
    how = chance.choice(("flip", "cut", "extend", "empty", "delete", "rename", "duplicate", "swap"))
    content, others = path.read_bytes(), other.read_bytes()
    if how == "delete":
        path.unlink()
    elif how == "rename":
        path.rename(path.with_name(path.name[::-1]))
    elif how == "swap":
        rewrite(path, others)
        rewrite(other, content)
    else:
        flipped = bytearray(content)
        if flipped:
            flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        cut = content[: chance.randrange(len(content) + 1)]
        rewrite(path, {"flip": bytes(flipped), "cut": cut, "extend": content + b"x", "empty": b""}.get(how, others))
    return f"{how} {path.relative_to(location)} ({other.relative_to(location)})"


def rewrite(path: Path, content: bytes) -> None:
    """Other content under a name; its time and its hard links stay as they are."""
    status = path.stat()
    path.unlink()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def lose_blobs(site: Site) -> None:
    assert site.blob_storage is not None
    shutil.rmtree(site.blob_storage, ignore_errors=True)


def look_at(case: Kept, what: str, *, restore_into_nothing: bool) -> None:
    """Restore every state and compare that with what verify says."""
    site = case.site
    chains = [chain for place in site.verify().found for chain in place.chains]
    good = {date: verdict for chain in chains for date, verdict in chain.verdicts.items()}
    for stamp, blobs in case.states.items():
        if restore_into_nothing:
            lose_blobs(site)
        before = site.blobs
        try:
            is_it = site.restore(stamp).timestamp == stamp
        except ZodbvaultError:
            is_it = False
            assert before.items() <= site.blobs.items(), what
            assert not (good.get(stamp) and restore_into_nothing), what
        assert not is_it or site.blobs == blobs, what


def try_case(case: Kept, seed: str) -> None:
    site, chance = case.site, random.Random(seed)
    shutil.rmtree(site.var)
    shutil.copytree(case.copy, site.var, symlinks=True)
    what = f"{seed}: {damaged(site.blob_location, chance)}"
    for restore_into_nothing in (False, True):
        look_at(case, what, restore_into_nothing=restore_into_nothing)
    lose_blobs(site)
    assert site.blob_storage is not None
    shutil.copytree(case.copy / site.blob_storage.relative_to(site.var), site.blob_storage, symlinks=True)
    site.tick(120)
    live = site.blobs
    try:
        stamp = site.backup(full=chance.random() < 0.3).timestamp
    except ZodbvaultError as error:
        assert ".layout is damaged" in str(error), what  # noqa: PT017 - it may succeed, and mostly does
        return
    if stamp is not None and ".blob " not in what:
        lose_blobs(site)
        site.restore(stamp)
        assert site.blobs == live, what


TRIED = ["pool", "directories", "numbered directories", "archives", "incremental archives"]


@pytest.mark.parametrize("layout", TRIED)
def test_a_restore_is_right_or_changes_nothing(tmp_path: Path, layout: str) -> None:
    case = kept(tmp_path, layout)
    for number in range(CASES):
        try_case(case, f"{layout} {number}")


@pytest.mark.slow
@pytest.mark.parametrize("layout", TRIED)
def test_a_restore_is_right_or_changes_nothing_many(tmp_path: Path, layout: str) -> None:
    case = kept(tmp_path, layout)
    for number in range(CASES, MANY):
        try_case(case, f"{layout} {number}")
