from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.blobs.sites import entries, key, put
from tests.leaks import no_descriptor_left, no_thread_left
from zodbvault.blobs import verifying
from zodbvault.blobs.layouts import bushy_path
from zodbvault.blobs.manifest import DamagedManifest
from zodbvault.blobs.pool import Pool
from zodbvault.blobs.verifying import verify_blobs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zodbvault.blobs.manifest import Entry

STATE = {key(number): b"%d" % number * number for number in range(200)}


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    pool = Pool(tmp_path)
    pool.prepare()
    put(pool.folder, "bushy", STATE)
    return pool


@pytest.mark.parametrize("quick", [True, False])
def test_a_whole_pool_has_no_findings(pool: Pool, quick: bool) -> None:
    with no_descriptor_left(), no_thread_left():
        assert verify_blobs(entries(STATE), pool, quick=quick) == []


def test_each_kind_of_damage_is_found(pool: Pool) -> None:
    (pool.folder / bushy_path(key(5))).unlink()
    put(pool.folder, "bushy", {key(7): b"short", key(20): b"X" + STATE[key(20)][1:]})
    link = pool.folder / bushy_path(key(30))
    link.unlink()
    link.symlink_to("/etc/passwd")
    found = verify_blobs(entries(STATE), pool)
    assert [(one.kind, one.path) for one in found] == [
        ("missing", pool.path_of(key(5))),
        ("size", pool.path_of(key(7))),
        ("sha256", pool.path_of(key(20))),
        ("missing", pool.path_of(key(30))),
    ]
    assert "5 bytes instead of 7" in str(found[1])
    assert [one.kind for one in verify_blobs(entries(STATE), pool, quick=True)] == ["missing", "size", "missing"]


def test_a_blob_that_cannot_be_read_is_a_finding(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: int) -> tuple[int, str]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(verifying, "hash_blocks", failing)
    with no_descriptor_left():
        found = verify_blobs(entries({key(1): b"1"}), pool)
    assert [one.kind for one in found] == ["unreadable"]
    assert "Input/output error" in found[0].text


def test_an_endless_list_of_findings_ends(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "MOST_FINDINGS", 10)
    found = verify_blobs(entries({key(1000 + number): b"" for number in range(50)}), pool, quick=True)
    assert len(found) == 11
    assert found[-1].kind == "more"
    assert "40 more" in found[-1].text


def test_a_damaged_manifest_ends_the_threads(pool: Pool) -> None:
    def damaged() -> Iterator[Entry]:
        yield from entries(STATE)
        raise DamagedManifest("is damaged")

    with no_descriptor_left(), no_thread_left(), pytest.raises(DamagedManifest):
        verify_blobs(damaged(), pool)
