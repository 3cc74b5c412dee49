"""Checksums beside other work, and of files."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import pytest
from tests.leaks import no_thread_left

from zodbvault.io.hashing import BackgroundHash, sha256_of
from zodbvault.io.stored import DamagedFile

if TYPE_CHECKING:
    from pathlib import Path


def pieces(count: int, length: int) -> list[bytes]:
    return [bytes([number % 251]) * length for number in range(count)]


@pytest.mark.parametrize(("count", "length"), [(0, 0), (1, 1 << 20), (2, 1 << 20), (40, 1 << 18), (500, 10)])
@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_the_order_of_blocks_is_kept(count: int, length: int, algorithm: str) -> None:
    data = pieces(count, length)
    with BackgroundHash(algorithm) as checksum:
        for piece in data:
            checksum.update(piece)
        assert checksum.hexdigest() == hashlib.new(algorithm, b"".join(data)).hexdigest()
        checksum.update(b"more")
        assert checksum.hexdigest() == hashlib.new(algorithm, b"".join(data) + b"more").hexdigest()


def test_threads_start_with_the_second_large_block_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with no_thread_left() as before, BackgroundHash("md5") as checksum:
        checksum.update(b"x" * (1 << 20))
        checksum.update(b"small")
        assert set(threading.enumerate()) - before == set()
        checksum.update(b"x" * (1 << 20))
        assert len(set(threading.enumerate()) - before) == 1
    checksum.close()


def test_blocks_do_not_pile_up_when_the_thread_is_slow() -> None:
    gate = threading.Event()

    class Slow:
        name = "slow"
        seen = 0

        def update(self, data: bytes) -> None:
            if self.seen:
                gate.wait()
            self.seen += 1

        def hexdigest(self) -> str:
            return str(self.seen)

    checksum = BackgroundHash("md5")
    checksum._hash = Slow()  # type: ignore[assignment]
    handed_over = []

    def hand_over() -> None:
        for number, piece in enumerate(pieces(30, 1 << 16)):
            checksum.update(piece)
            handed_over.append(number)

    feeder = threading.Thread(target=hand_over)
    feeder.start()
    feeder.join(0.3)
    assert feeder.is_alive()
    assert len(handed_over) < 15
    gate.set()
    feeder.join()
    assert checksum.hexdigest() == "30"
    checksum.close()


def test_an_error_in_the_thread_reaches_the_owner() -> None:
    class Broken:
        name = "broken"
        seen = 0

        def update(self, data: bytes) -> None:
            self.seen += 1
            if self.seen > 1:
                raise MemoryError

    with BackgroundHash("md5") as checksum:
        checksum._hash = Broken()  # type: ignore[assignment]
        checksum.update(b"x" * (1 << 16))
        checksum.update(b"x" * (1 << 16))
        with pytest.raises(MemoryError):
            checksum.hexdigest()


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (3 << 20) + 5])
def test_size_and_sha256_of_a_file(tmp_path: Path, size: int) -> None:
    data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
    (tmp_path / "file").write_bytes(data)
    assert sha256_of(tmp_path / "file") == (size, hashlib.sha256(data).hexdigest())


def test_what_is_no_file_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match="is missing"):
        sha256_of(tmp_path / "missing")
    with pytest.raises(DamagedFile, match="not a regular file"):
        sha256_of(tmp_path)
