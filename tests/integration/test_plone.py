"""A real Plone site with images: backed up while requests run, broken, restored, and all of it read over HTTP again."""

from __future__ import annotations

import base64
import shutil
import struct
import urllib.request
import zlib
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_zope import Writer, digest, every_file
from tests.integration.zopes import ZopeSite, make_zope

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.integration, pytest.mark.plone]

IMAGES = 5

MAKE_SITE = """\
import pathlib
import transaction
from AccessControl.SecurityManagement import newSecurityManager
from blobpages import make_pages
from Products.CMFPlone.factory import addPloneSite
from Testing.makerequest import makerequest
from zope.component.hooks import setSite
from plone.namedfile.file import NamedBlobImage

app = makerequest(app)
newSecurityManager(None, app.acl_users.getUserById("admin").__of__(app.acl_users))
site = addPloneSite(app, "Plone", title="A site", extension_ids=["plone.app.contenttypes:default"])
setSite(site)
for path in sorted(pathlib.Path("images").iterdir()):
    site.invokeFactory("Image", path.stem, title=path.stem)
    site[path.stem].image = NamedBlobImage(path.read_bytes(), contentType="image/png", filename=path.name)
site.invokeFactory("Document", "page", title="A page of the site")
transaction.commit()
setSite(None)
make_pages(app)
"""


def png(number: int) -> bytes:
    """A picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + bytes((number * 40 % 256, 80, 160)) * 64
    header = struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * 64)) + chunk(b"IEND", b"")


def get(plone: ZopeSite, path: str) -> bytes:
    """What the site answers to its manager."""
    request = urllib.request.Request(plone.url(f"Plone/{path}"))
    request.add_header("Authorization", "Basic " + base64.b64encode(b"admin:admin").decode())
    with urllib.request.urlopen(request, timeout=300) as answer:
        content: bytes = answer.read()
        return content


@pytest.fixture
def plone(buildout: Path, eggs: Path, tmp_path_factory: pytest.TempPathFactory) -> ZopeSite:
    """A site that has its images."""
    # A short name: the path of its socket may have 107 bytes.
    folder = tmp_path_factory.mktemp("plone") / "site"
    site = make_zope(buildout, folder, eggs, with_zeo=False, packages="Products.CMFPlone")
    images = site.folder / "images"
    images.mkdir()
    for number in range(IMAGES):
        (images / f"image{number}.png").write_bytes(png(number))
    script = site.folder / "make_site.py"
    script.write_text(MAKE_SITE)
    site.script("instance", "run", str(script))
    return site


def images_of(plone: ZopeSite) -> list[bytes]:
    return [get(plone, f"image{number}/@@images/image") for number in range(IMAGES)]


def test_a_plone_site_comes_back_with_its_images(plone: ZopeSite) -> None:
    wanted = [png(number) for number in range(IMAGES)]
    with plone.running(), Writer(plone) as writer:
        for _ in range(3):
            assert plone.script("backup", "-q").stderr == ""
            assert images_of(plone) == wanted
        assert writer.number > 3
        refused = plone.script("restore", "-n", check=False)
        assert refused.returncode == 1
        assert "Stop Zope" in refused.stderr
    plone.script("backup", "-q")
    data, blobs = digest(plone.datafs), every_file(plone.blob_storage)
    assert len(blobs) >= IMAGES

    plone.datafs.unlink()
    shutil.rmtree(plone.blob_storage)
    plone.script("restore", "-n")
    assert digest(plone.datafs) == data
    assert every_file(plone.blob_storage) == blobs
    with plone.running():
        assert images_of(plone) == wanted
        assert b"A page of the site" in get(plone, "page")
        assert plone.read_all() == writer.pages
    assert "rehearsed: good" in plone.script("backup-drill").stdout
