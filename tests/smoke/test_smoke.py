"""What has to work with each Python, zc.buildout and ZODB: a site is backed up, lost, restored; and who compressed."""

from __future__ import annotations

import gzip
import shutil
import struct
import zlib
from typing import TYPE_CHECKING

import pytest

from tests.smoke.sites import HAS_ISAL, PART, PROJECT, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.smoke.sites import Site

pytestmark = pytest.mark.smoke

REPOZO = """
[repozo]
recipe = zc.recipe.egg
eggs = ZODB
scripts = repozo
"""

GOLDEN = PROJECT / "tests" / "golden" / "format-1" / "bushy"


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_site_is_backed_up_destroyed_and_restored(site: Site) -> None:
    site.configure(PART + REPOZO, head="parts = backup repozo")
    site.buildout()
    backups = site.folder / "var" / "backups"
    before = site.write(1)
    first = site.backup()
    after = site.write(2)
    second = site.backup()
    assert (backups / f"{second}.deltafsz").stat().st_size < (backups / f"{first}.fsz").stat().st_size * 2
    assert "othing" in site.script("backup").stderr
    assert site.timestamps() == [first, second]
    site.script("backup-verify", "--deep")
    site.script("backup-drill")

    site.destroy()
    site.script("restore", first, answer="yes\n")
    assert site.state() == before
    site.script("restore", "-n")
    assert site.state() == after

    # The backups are repozo's too, the one of this version of ZODB.
    output = site.folder / "by-repozo.fs"
    site.script("repozo", "-R", "-r", str(backups), "-o", str(output))
    assert output.read_bytes() == after.data

    flip_a_bit(backups / f"{second}.deltafsz")
    site.script("backup-verify", expected=1)
    site.destroy()
    site.script("restore", "-n", expected=1)
    assert not (site.folder / "var" / "filestorage" / "Data.fs").exists()
    site.script("restore", "-n", first)
    assert site.state() == before


@pytest.mark.parametrize("layout", ["directories", "archives"])
def test_other_layouts_snapshots_and_zips_restore(layout: str, site: Site) -> None:
    site.configure(f"{PART}blob_layout = {layout}\nenable_zipbackup = true\n")
    site.buildout()
    before = site.write(1)
    first = site.backup()
    site.script("snapshotbackup")
    site.script("zipbackup")
    after = site.write(2)
    site.backup()
    for script, expected in (
        (("restore", "-n", first), before),
        (("restore", "-n"), after),
        (("snapshotrestore", "-n"), before),
        (("restore", "-n"), after),
        (("ziprestore", "-n"), before),
    ):
        site.destroy()
        site.script(*script)
        assert site.state() == expected, script


def first_member(path: Path) -> bytes:
    """The first member of a file of gzip members; docs/format.rst says where its length stands."""
    content = path.read_bytes()
    (length,) = struct.unpack_from("<I", content, 16)
    return content[:length]


def made_by_zlib(member: bytes) -> bool:
    """Whether a member's deflate stream is byte for byte what zlib makes."""
    codec = zlib.compressobj(6, zlib.DEFLATED, -15)
    return member[20:-8] == codec.compress(gzip.decompress(member)) + codec.flush()


def imports_isal(site: Site, name: str, *arguments: str) -> bool:
    """Whether a script imports isal while it runs."""
    script = site.folder / "bin" / name
    python = script.read_text().splitlines()[0].removeprefix("#!")
    finished = run([python, "-X", "importtime", script, *arguments], site.folder)
    imported = {line.rpartition("|")[2].strip() for line in finished.stderr.splitlines()}
    assert "zodbvault.scripts" in imported
    return "isal.isal_zlib" in imported


def test_isal_compresses_where_it_is_and_zlib_elsewhere(site: Site) -> None:
    site.configure()
    site.buildout()
    state = site.write(1)
    assert imports_isal(site, "backup") == HAS_ISAL
    (full,) = (site.folder / "var" / "backups").glob("*.fsz")
    assert made_by_zlib(first_member(full)) == (not HAS_ISAL)
    assert gzip.decompress(full.read_bytes()) == state.data
    site.destroy()
    assert imports_isal(site, "restore", "-n") == HAS_ISAL
    assert site.state() == state


def test_backups_of_another_machine_restore(site: Site) -> None:
    """Those in tests/golden were compressed by isal; here zlib may have to read them."""
    site.configure()
    site.buildout()
    var = site.folder / "var"
    for name in ("backups", "blobstoragebackups"):
        shutil.rmtree(var / name)
        shutil.copytree(GOLDEN / name, var / name)
    newest_full = max((var / "backups").glob("*.fsz"))
    chain = [newest_full, *sorted(each for each in newest_full.parent.glob("*.deltafsz") if each > newest_full)]
    assert not any(made_by_zlib(first_member(path)) for path in chain)
    site.script("backup-verify", "--deep")
    site.script("restore", "-n")
    data = (var / "filestorage" / "Data.fs").read_bytes()
    assert data == b"".join(gzip.decompress(path.read_bytes()) for path in chain)
    for blob in (var / "blobstorage").rglob("*.blob"):
        kept = var / "blobstoragebackups" / "blobs" / blob.relative_to(var / "blobstorage")
        assert blob.read_bytes() == kept.read_bytes()
    assert "othing" in site.script("backup").stderr
