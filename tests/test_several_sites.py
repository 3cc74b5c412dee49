"""Whether two sites may stand beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zodbvault.settings import Surroundings, parse_settings
from zodbvault.several_sites import conflict_of

if TYPE_CHECKING:
    from zodbvault.settings import Settings

NAMES = ("[one]", "[two]")


def site(part: str, base: Path = Path("/site"), **options: object) -> Settings:
    around = Surroundings(part, f"[{part}]", base, base / "var", f"{part}.fs", f"{part}-blobs")
    return parse_settings(options, around).settings


def test_sites_with_all_of_their_own() -> None:
    assert conflict_of(site("one"), site("two"), NAMES) is None


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ({"location": "here"}, {"location": "here"}),
        ({"location": "here"}, {"blobsnapshotlocation": "here"}),
        ({"enable_zipbackup": True, "ziplocation": "here"}, {"snapshotlocation": "here"}),
        ({"location": "here"}, {"enable_zipbackup": True, "blobziplocation": "here"}),
    ],
)
def test_one_folder_for_two_sites(mine: dict[str, object], theirs: dict[str, object]) -> None:
    for found in (
        conflict_of(site("one", **mine), site("two", **theirs), NAMES),
        conflict_of(site("two", **theirs), site("one", **mine), NAMES),
    ):
        assert found is not None
        assert found.startswith("[one] and [two] back up different sites into one folder, /site/var/here, ")


def test_a_folder_for_zip_backups_that_are_not_made_is_nobodys() -> None:
    assert conflict_of(site("one", ziplocation="here"), site("two", location="here"), NAMES) is None


def test_two_parts_for_one_database_may_share_everything() -> None:
    same = {"datafs": "Data.fs", "blob_storage": "blobs", "location": "here", "blobbackuplocation": "blobs-here"}
    assert conflict_of(site("one", **same), site("two", full=True, **same), NAMES) is None


def test_one_blob_storage_for_two_databases() -> None:
    shared = {"blob_storage": "blobs/"}
    found = conflict_of(site("one", **shared), site("two", **shared), NAMES)
    assert found is not None
    assert "[one] and [two] back up different Data.fs with one blob_storage, /site/blobs" in found
    assert "set shared_blob_storage = true in both" in found
    # Saying so in one of them is not enough.
    assert conflict_of(site("one", shared_blob_storage=True, **shared), site("two", **shared), NAMES) is not None
    shared |= {"shared_blob_storage": "true"}
    assert conflict_of(site("one", **shared), site("two", **shared), NAMES) is None
    # It is about blobs, not about folders of backups.
    shared |= {"location": "here"}
    assert conflict_of(site("one", **shared), site("two", **shared), NAMES) is not None


def test_a_blob_storage_that_one_of_them_does_not_back_up() -> None:
    assert conflict_of(site("one", blob_storage="b"), site("two", blob_storage="b", backup_blobs=False), NAMES) is None


def test_symlinks_are_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    for option in ("location", "blob_storage"):
        one = site("one", tmp_path, **{option: str(tmp_path / "disk" / "x")})
        two = site("two", tmp_path, **{option: str(tmp_path / "link" / "x")})
        assert conflict_of(one, two, NAMES) is not None
        assert conflict_of(two, one, NAMES) is not None
    one = site("one", tmp_path, datafs="disk/D.fs", blob_storage="disk/b", location="here")
    two = site("two", tmp_path, datafs="link/D.fs", blob_storage="link/b", location="here")
    assert conflict_of(one, two, NAMES) is None
