"""Any part of a stored file: the same bytes as reading it from the beginning, whoever wrote it."""

from __future__ import annotations

import gzip
import random
from typing import TYPE_CHECKING

import pytest

from zodbvault.io.gzip_members import BLOCK_SIZE, MemberWriter
from zodbvault.io.stored import DamagedFile
from zodbvault.io.stored_bytes import IN_MEMORY, StoredBytes

if TYPE_CHECKING:
    from pathlib import Path

SIZE = (IN_MEMORY + 4) * BLOCK_SIZE + 4711
CONTENT = random.Random(3).randbytes(SIZE // 8) * 9
CONTENT = CONTENT[:SIZE]


def written(path: Path, content: bytes) -> None:
    """A file as a backup writes it."""
    with path.open("wb") as file:
        writer = MemberWriter(file)
        try:
            for start in range(0, len(content), BLOCK_SIZE):
                block = content[start : start + BLOCK_SIZE]
                buffer = writer.buffer()
                buffer[: len(block)] = block
                writer.write(buffer, len(block))
            writer.finish()
        finally:
            writer.close()


@pytest.fixture(scope="module", params=["members", "one gzip member", "plain", "members and others"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("stored")
    path = folder / ("x.fs" if request.param == "plain" else "x.fsz")
    if request.param == "plain":
        path.write_bytes(CONTENT)
    elif request.param == "members":
        written(path, CONTENT)
    elif request.param == "one gzip member":
        path.write_bytes(gzip.compress(CONTENT, 1))
    else:
        written(path, CONTENT[: 2 * BLOCK_SIZE])
        with path.open("ab") as file:
            file.write(gzip.compress(CONTENT[2 * BLOCK_SIZE :], 1))
    return path


def test_any_part_is_what_was_stored(stored: Path, tmp_path: Path) -> None:
    choice = random.Random(7)
    with StoredBytes(stored, SIZE, compressed=stored.suffix == ".fsz", scratch=tmp_path) as data:
        for _ in range(200):
            offset, length = choice.randrange(SIZE), choice.choice([1, 8, 23, 70_000, 3 * BLOCK_SIZE])
            assert data.read(offset, length) == CONTENT[offset : offset + length]
        assert data.read(SIZE, 10) == b""
        assert data.read(SIZE - 3, 10) == CONTENT[-3:]
        assert data.read(5, 0) == b""
    assert list(tmp_path.iterdir()) == []


def test_another_size_is_damage(stored: Path, tmp_path: Path) -> None:
    for wrong in (SIZE - 1, SIZE + 1):
        with pytest.raises(DamagedFile, match=r"holds|more than"):
            StoredBytes(stored, wrong, compressed=stored.suffix == ".fsz", scratch=tmp_path)


def test_damage_is_found_where_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.fsz"
    written(path, CONTENT[: 3 * BLOCK_SIZE])
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(DamagedFile, match="cut short"):
        StoredBytes(path, 3 * BLOCK_SIZE, compressed=True, scratch=tmp_path)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(flipped)
    with StoredBytes(path, 3 * BLOCK_SIZE, compressed=True, scratch=tmp_path) as data:
        assert data.read(10, 10) == CONTENT[10:20]
        with pytest.raises(DamagedFile, match="damaged"):
            data.read(BLOCK_SIZE + 10, 10)
    path.unlink()
    with pytest.raises(DamagedFile, match="is missing"):
        StoredBytes(path, 3, compressed=True, scratch=tmp_path)


def test_an_empty_file_has_no_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.fsz"
    written(path, b"")
    with StoredBytes(path, 0, compressed=True, scratch=tmp_path) as data:
        assert data.read(0, 10) == b""
