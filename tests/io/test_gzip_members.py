"""Members: any gzip reads them, threads write and read them, and nothing that is damaged passes."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import struct
import subprocess
import sys
import threading
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.leaks import no_descriptor_left, no_thread_left

from zodbvault.io import gzip_members
from zodbvault.io.gzip_members import BLOCK_SIZE, MemberWriter, Stored, read_blocks
from zodbvault.io.stored import DamagedFile, open_stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType


@pytest.fixture(params=["isal", "zlib"])
def codec(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Everything works with isal and where there is none."""
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal", None)
    else:
        pytest.importorskip("isal")
    assert gzip_members._codec().__name__.endswith(request.param if request.param == "zlib" else "isal_zlib")
    return str(request.param)


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    with no_thread_left():
        yield


def compressible(size: int, seed: int = 0) -> bytes:
    chance = random.Random(seed)
    words = [chance.randbytes(12) for _ in range(100)]
    unit = b"".join(chance.choice(words) for _ in range(5000))
    return (unit * (size // len(unit) + 1))[:size]


def write(pieces: list[bytes]) -> tuple[bytes, Stored]:
    """The stored bytes of a file with a member for each piece."""
    file = io.BytesIO()
    with MemberWriter(file) as writer:
        for piece in pieces:
            buffer = writer.buffer()
            assert len(buffer) == BLOCK_SIZE
            buffer[: len(piece)] = piece
            writer.write(buffer, len(piece))
        stored = writer.finish()
    return file.getvalue(), stored


def write_blocks(writer: MemberWriter, count: int) -> None:
    for _ in range(count):
        writer.write(writer.buffer(), BLOCK_SIZE)


def write_numbers(writer: MemberWriter) -> None:
    """Five blocks, each beginning with its number, to the end."""
    for number in range(5):
        buffer = writer.buffer()
        buffer[0] = number
        writer.write(buffer, 100)
    writer.finish()


def cut(data: bytes, length: int = BLOCK_SIZE) -> list[bytes]:
    return [data[start : start + length] for start in range(0, len(data), length)]


def lengths_in_headers(content: bytes) -> list[int]:
    """Goes from member to member by the lengths in their headers alone."""
    lengths = []
    position = 0
    while position < len(content):
        assert content[position : position + 4] == b"\x1f\x8b\x08\x04"
        assert content[position + 4 : position + 10] == b"\0\0\0\0\0\xff"
        assert content[position + 10 : position + 16] == b"\x08\0ZV\x04\0"
        (length,) = struct.unpack_from("<I", content, position + 16)
        lengths.append(length)
        position += length
    assert position == len(content)
    return lengths


class TestWriting:
    @pytest.mark.parametrize(
        "sizes", [[], [0], [1], [BLOCK_SIZE], [BLOCK_SIZE, 1], [5, 0, 7, BLOCK_SIZE], [70_000] * 40]
    )
    def test_any_gzip_reads_what_was_written(self, codec: str, sizes: list[int]) -> None:
        pieces = [compressible(size, seed) for seed, size in enumerate(sizes)]
        content, stored = write(pieces)
        data = b"".join(pieces)
        assert gzip.decompress(content) == data
        assert stored.size == len(data)
        assert stored.md5 == hashlib.md5(data).hexdigest()
        assert stored.stored_size == len(content)
        assert stored.stored_sha256 == hashlib.sha256(content).hexdigest()
        members = lengths_in_headers(content)
        assert len(members) == max(1, sum(1 for size in sizes if size))

    def test_bytes_that_do_not_shrink(self, codec: str) -> None:
        data = random.Random(3).randbytes(3 * BLOCK_SIZE)
        content, _ = write(cut(data))
        assert gzip.decompress(content) == data
        assert len(content) < len(data) * 1.01
        assert max(lengths_in_headers(content)) < gzip_members.LONGEST_MEMBER

    def test_memory_is_constant(self) -> None:
        file = io.BytesIO()
        buffers = set()
        with MemberWriter(file) as writer:
            for number in range(60):
                buffer = writer.buffer()
                buffers.add(id(buffer))
                buffer[:4] = struct.pack("<I", number)
                writer.write(buffer, 4096)
                assert len(writer._in_work) <= gzip_members.IN_WORK
            writer.finish()
        assert len(buffers) <= gzip_members.IN_WORK
        found = gzip.decompress(file.getvalue())
        assert [struct.unpack_from("<I", found, 4096 * number)[0] for number in range(60)] == list(range(60))

    def test_one_member_needs_no_thread(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def start(self: threading.Thread) -> None:
            raise AssertionError("a thread was started")

        monkeypatch.setattr(threading.Thread, "start", start)
        content, stored = write([b"x" * BLOCK_SIZE, b""])
        (tmp_path / "file").write_bytes(content)
        assert b"".join(read_blocks(tmp_path / "file", stored.size, compressed=True)) == b"x" * BLOCK_SIZE
        with pytest.raises(AssertionError, match="a thread was started"):
            write([b"x", b"y"])
        (tmp_path / "two").write_bytes(content + content)
        with pytest.raises(AssertionError, match="a thread was started"):
            list(read_blocks(tmp_path / "two", 2 * stored.size, compressed=True))

    def test_threads_work_and_end_when_the_owner_gives_up(self) -> None:
        with no_thread_left() as before, MemberWriter(io.BytesIO()) as writer:
            write_blocks(writer, 5)
            assert set(threading.enumerate()) - before

    def test_a_full_disk_is_told_and_cannot_be_finished_away(self) -> None:
        class Full(io.BytesIO):
            writes = 0

            def write(self, data: bytes) -> int:  # type: ignore[override]
                self.writes += 1
                if self.writes == 3:
                    raise OSError(28, "No space left on device")
                return super().write(data)

        with MemberWriter(Full()) as writer:
            with pytest.raises(OSError, match="No space left"):
                write_blocks(writer, 100)
            with pytest.raises(OSError, match="No space left"):
                writer.finish()

    @pytest.mark.parametrize("stage", ["compress", "md5"])
    def test_an_error_in_a_thread_is_raised_to_the_owner(self, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """One block of five fails; the others are good, and still nobody can finish the file."""
        if stage == "md5":
            broken = hashlib.md5()

            class FailsOnce:
                @staticmethod
                def update(data: memoryview) -> None:
                    if data[0] == 2:
                        raise MemoryError("no memory for this")
                    broken.update(data)

                hexdigest = staticmethod(broken.hexdigest)

        real = gzip_members._compress_member

        def compress(codec: ModuleType, level: int, data: memoryview) -> bytes:
            if data[0] == 2 and stage == "compress":
                raise MemoryError("no memory for this")
            return real(codec, level, data)

        monkeypatch.setattr(gzip_members, "_compress_member", compress)
        with MemberWriter(io.BytesIO()) as writer:
            if stage == "md5":
                writer._md5 = FailsOnce()  # type: ignore[assignment]
            with pytest.raises(MemoryError):
                write_numbers(writer)
            with pytest.raises(MemoryError):
                writer.finish()
            with pytest.raises(MemoryError):
                writer.buffer()

    def test_finishing_ends_the_threads(self) -> None:
        with no_thread_left():
            writer = MemberWriter(io.BytesIO())
            write_blocks(writer, 3)
            writer.finish()

    def test_an_error_in_an_early_block_stops_the_writer_before_the_end(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*arguments: object) -> bytes:
            raise MemoryError("no memory for this")

        monkeypatch.setattr(gzip_members, "_compress_member", fail)
        with MemberWriter(io.BytesIO()) as writer, pytest.raises(MemoryError):
            write_blocks(writer, 100)

    def test_where_only_one_thread_may_start_it_works_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = threading.Thread.start

        def start(self: threading.Thread) -> None:
            if self.name.endswith("-1"):
                raise RuntimeError("can't start new thread")
            real(self)

        monkeypatch.setattr(threading.Thread, "start", start)
        monkeypatch.setattr("zodbvault.io.workers.thread_count", lambda: 2)
        content, _ = write([b"a" * 1000, b"b" * 1000])
        assert gzip.decompress(content) == b"a" * 1000 + b"b" * 1000

    def test_what_starting_imports(self) -> None:
        """Small incremental backups stay cheap: no thread machinery, no codec before it is needed."""
        program = (
            "import sys\n"
            "before = set(sys.modules)\n"
            "import io, zodbvault.io.gzip_members as members, zodbvault.io.hashing\n"
            "imported = set(sys.modules) - before\n"
            "print(*sorted(imported & {'threading', 'queue', 'concurrent.futures', 'isal', 'zlib', 'hashlib',"
            " 'logging', 'tempfile', 'gzip', 'zodbvault.io.workers'}))\n"
            "with members.MemberWriter(io.BytesIO()) as writer:\n"
            "    writer.write(writer.buffer(), 5)\n"
            "    writer.finish()\n"
            "imported = set(sys.modules) - before\n"
            "print(*sorted(imported & {'threading', 'queue', 'concurrent.futures', 'zodbvault.io.workers'}))\n"
        )
        run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        assert run.stdout == "\n\n"


def gzip_like_repozo(data: bytes) -> bytes:
    file = io.BytesIO()
    with gzip.GzipFile("name of a file", "wb", fileobj=file) as compressed:
        compressed.write(data)
    return file.getvalue()


def read(path: Path, size: int | None, *, compressed: bool = True) -> bytes:
    blocks = list(read_blocks(path, size, compressed=compressed))
    assert all(0 < len(block) <= BLOCK_SIZE for block in blocks)
    assert all(type(block) is bytes for block in blocks)
    return b"".join(blocks)


SIZES = [0, 1, 100, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 12 * BLOCK_SIZE + 17]


class TestReading:
    @pytest.mark.parametrize("size", SIZES)
    def test_ours(self, tmp_path: Path, codec: str, size: int) -> None:
        data = compressible(size)
        content, stored = write(cut(data))
        (tmp_path / "file").write_bytes(content)
        assert read(tmp_path / "file", stored.size) == data

    @pytest.mark.parametrize("size", SIZES)
    def test_repozos(self, tmp_path: Path, codec: str, size: int) -> None:
        data = compressible(size)
        (tmp_path / "file").write_bytes(gzip_like_repozo(data))
        assert read(tmp_path / "file", size) == data

    @pytest.mark.parametrize("size", SIZES)
    def test_plain(self, tmp_path: Path, size: int) -> None:
        data = compressible(size)
        (tmp_path / "file").write_bytes(data)
        assert read(tmp_path / "file", size, compressed=False) == data

    def test_bytes_that_do_not_shrink(self, tmp_path: Path, codec: str) -> None:
        data = random.Random(5).randbytes(3 * BLOCK_SIZE + 1)
        (tmp_path / "ours").write_bytes(write(cut(data))[0])
        (tmp_path / "repozo's").write_bytes(gzip_like_repozo(data))
        assert read(tmp_path / "ours", len(data)) == read(tmp_path / "repozo's", len(data)) == data

    def test_a_size_that_nobody_knows(self, tmp_path: Path, codec: str) -> None:
        data = compressible(3_000_000)
        for content, compressed in [(write(cut(data))[0], True), (gzip_like_repozo(data), True), (data, False)]:
            (tmp_path / "file").write_bytes(content)
            assert read(tmp_path / "file", None, compressed=compressed) == data
            if compressed:
                (tmp_path / "file").write_bytes(content[:-5])
                with pytest.raises(DamagedFile):
                    read(tmp_path / "file", None)

    def test_a_mixture_of_members(self, tmp_path: Path, codec: str) -> None:
        ours, _ = write([b"a" * 1000, b"b" * 1000])
        single, _ = write([b"c" * 1000])
        empty, _ = write([])
        theirs = gzip_like_repozo(b"d" * 3_000_000)
        data = {"o": b"a" * 1000 + b"b" * 1000, "s": b"c" * 1000, "e": b"", "t": b"d" * 3_000_000}
        stored = {"o": ours, "s": single, "e": empty, "t": theirs}
        for mixture in ("ot", "to", "tt", "st", "ets", "oeote", "te"):
            (tmp_path / "file").write_bytes(b"".join(stored[part] for part in mixture))
            whole = b"".join(data[part] for part in mixture)
            assert read(tmp_path / "file", len(whole)) == whole

    @pytest.mark.parametrize("kind", ["ours", "ours in one member", "repozo's", "plain"])
    def test_a_wrong_length_is_damage(self, tmp_path: Path, codec: str, kind: str) -> None:
        data = compressible(300_000)
        pieces = cut(data, 100_000) if kind == "ours" else [data]
        content = gzip_like_repozo(data) if kind == "repozo's" else data if kind == "plain" else write(pieces)[0]
        (tmp_path / "file").write_bytes(content)
        for size in (0, 1, 299_999, 300_001, 10_000_000):
            with pytest.raises(DamagedFile, match=str(tmp_path / "file")):
                read(tmp_path / "file", size, compressed=kind != "plain")

    @pytest.mark.parametrize("kind", ["ours", "ours in one member", "repozo's"])
    def test_a_file_that_is_cut_short_or_has_a_tail_is_damage(self, tmp_path: Path, codec: str, kind: str) -> None:
        data = compressible(3000)
        pieces = cut(data, 1000) if kind == "ours" else [data]
        content = gzip_like_repozo(data) if kind == "repozo's" else write(pieces)[0]
        path = tmp_path / "file"
        path.write_bytes(content)
        assert read(path, 3000) == data
        for length in (*range(40), *range(40, len(content), 7), *range(len(content) - 30, len(content))):
            path.write_bytes(content[:length])
            with pytest.raises(DamagedFile):
                read(path, 3000)
        path.write_bytes(content[:-1])
        with pytest.raises(DamagedFile, match="is cut short"):
            read(path, 3000)
        for tail in (b"\0", b"\0" * 512, b"garbage", b"\x1f\x8b", content[:18], content[:25]):
            path.write_bytes(content + tail)
            with pytest.raises(DamagedFile):
                read(path, 3000)

    @pytest.mark.parametrize("kind", ["ours", "ours in one member", "repozo's"])
    def test_no_flipped_bit_changes_the_bytes_unnoticed(self, tmp_path: Path, codec: str, kind: str) -> None:
        data = compressible(600)
        pieces = cut(data, 200) if kind == "ours" else [data]
        content = gzip_like_repozo(data) if kind == "repozo's" else write(pieces)[0]
        path = tmp_path / "file"
        noticed = 0
        for position in range(len(content)):
            for bit in (position % 8, (position * 3 + 5) % 8):
                damaged = bytearray(content)
                damaged[position] ^= 1 << bit
                path.write_bytes(damaged)
                try:
                    # Some bits of a header mean nothing (a name, a time): then the bytes must be the same.
                    assert read(path, 600) == data
                except DamagedFile:
                    noticed += 1
        assert noticed > len(content)

    def test_damage_in_large_members_ends_the_threads(self, tmp_path: Path, codec: str) -> None:
        data = compressible(10 * BLOCK_SIZE)
        content = bytearray(write(cut(data))[0])
        content[len(content) // 2 + 100] ^= 0x10
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(DamagedFile):
            read(tmp_path / "file", len(data))

    def test_a_reader_that_is_left_early_ends_its_threads(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(write([b"x" * 1000] * 30)[0])
        blocks = read_blocks(tmp_path / "file", 30_000, compressed=True)
        with no_thread_left() as before:
            assert next(blocks) == b"x" * 1000
            assert set(threading.enumerate()) - before
            blocks.close()  # type: ignore[attr-defined]

    @pytest.mark.parametrize("lie", [0, 29, -1, 1, 1000, 1 << 31])
    def test_a_length_in_a_header_that_lies_is_damage(self, tmp_path: Path, codec: str, lie: int) -> None:
        content = bytearray(write([b"x" * 5000, b"y" * 5000, b"z" * 5000])[0])
        (length,) = struct.unpack_from("<I", content, 16)
        claimed = lie if lie in (0, 29, 1 << 31) else length + lie
        struct.pack_into("<I", content, 16, claimed)
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(DamagedFile):
            read(tmp_path / "file", 15_000)

    def test_a_length_that_swallows_the_next_member_is_damage(self, tmp_path: Path, codec: str) -> None:
        content = bytearray(write([b"x" * 5000, b"x" * 5000])[0])
        struct.pack_into("<I", content, 16, len(content))
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(DamagedFile):
            read(tmp_path / "file", 5000)

    def test_a_wrong_trailer_is_damage(self, tmp_path: Path, codec: str) -> None:
        content = write([b"x" * 500, b"y" * 500])[0]
        first = lengths_in_headers(content)[0]
        for end in (first, len(content)):
            for position in range(end - 8, end):
                damaged = bytearray(content)
                damaged[position] ^= 1
                (tmp_path / "file").write_bytes(damaged)
                with pytest.raises(DamagedFile):
                    read(tmp_path / "file", 1000)

    def test_an_empty_file_is_no_gzip_file(self, tmp_path: Path, codec: str) -> None:
        (tmp_path / "file").write_bytes(b"")
        for size in (0, None):
            with pytest.raises(DamagedFile, match="is empty"):
                read(tmp_path / "file", size)
        assert read(tmp_path / "file", 0, compressed=False) == b""

    def test_a_plain_file_of_another_size_is_not_even_begun(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(bytes(100))
        with pytest.raises(DamagedFile, match="holds 100 bytes instead of 101"):
            next(read_blocks(tmp_path / "file", 101, compressed=False))

    def test_only_a_few_members_are_read_ahead(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_bytes(write([b"x" * 1000] * 50)[0])
        reads = []
        real = os.pread

        def pread(fd: int, length: int, offset: int) -> bytes:
            reads.append(offset)
            return real(fd, length, offset)

        monkeypatch.setattr(os, "pread", pread)
        blocks = read_blocks(tmp_path / "file", 50_000, compressed=True)
        next(blocks)
        assert len(set(reads)) <= gzip_members.IN_WORK + 1
        assert sum(map(len, blocks)) == 49_000

    def test_a_bomb_is_not_inflated(self, tmp_path: Path, codec: str) -> None:
        """A member that says 10 bytes and holds 200 MB, one that says so, and one from another's hand."""
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        body = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(200)) + deflate.flush()
        header = gzip_members.HEADER_START + struct.pack("<I", 20 + len(body) + 8)
        (tmp_path / "ours").write_bytes(header + body + struct.pack("<II", zlib.crc32(bytes(10)), 10))
        crc = zlib.crc32(bytes(200 << 20))
        (tmp_path / "honest").write_bytes(header + body + struct.pack("<II", crc, 200 << 20))
        (tmp_path / "theirs").write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + body + bytes(8))
        script = (
            "import resource, sys\n"
            "from zodbvault.io.gzip_members import read_blocks\n"
            "from zodbvault.io.stored import DamagedFile\n"
            "resource.setrlimit(resource.RLIMIT_DATA, (100 << 20, 100 << 20))\n"
            "for path in sys.argv[1:]:\n"
            "    try:\n"
            "        print(sum(map(len, read_blocks(path, 10, compressed=True))))\n"
            "    except DamagedFile:\n"
            "        print('damaged')\n"
        )
        if codec == "zlib":
            script = "import sys; sys.modules['isal'] = None\n" + script
        run = subprocess.run(
            [sys.executable, "-c", script, *(tmp_path / name for name in ("ours", "honest", "theirs"))],
            check=True,
            capture_output=True,
            text=True,
        )
        assert run.stdout.split() == ["damaged"] * 3

    def test_a_file_that_shrinks_while_it_is_read_is_damage(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(bytes(3 * BLOCK_SIZE))
        blocks = read_blocks(path, 3 * BLOCK_SIZE, compressed=False)
        next(blocks)
        os.truncate(path, 2 * BLOCK_SIZE)
        with pytest.raises(DamagedFile):
            list(blocks)

    def test_a_disk_that_fails_names_the_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def pread(fd: int, length: int, offset: int) -> bytes:
            raise OSError(5, "Input/output error")

        (tmp_path / "file").write_bytes(write([b"x"])[0])
        monkeypatch.setattr(os, "pread", pread)
        with pytest.raises(DamagedFile, match=r"file: cannot be read: Input/output error"):
            read(tmp_path / "file", 1)


class TestOpening:
    def test_only_a_regular_file_is_opened(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"x")
        (tmp_path / "link").symlink_to(tmp_path / "file")
        os.mkfifo(tmp_path / "pipe")
        for name, why in [("link", "symbolic link"), ("pipe", "regular"), (".", "regular"), ("none", "missing")]:
            with pytest.raises(DamagedFile, match=why):
                open_stored(tmp_path / name)
            with pytest.raises(DamagedFile, match=why):
                read(tmp_path / name, 1, compressed=False)
        with open_stored(tmp_path / "file") as file:
            assert file.readall() == b"x"
        with open_stored(tmp_path / "link", nofollow=False) as file:
            assert file.readall() == b"x"
        assert b"".join(read_blocks(tmp_path / "link", 1, compressed=False, nofollow=False)) == b"x"

    def test_no_descriptor_is_left_open(self, tmp_path: Path) -> None:
        with no_descriptor_left(), pytest.raises(DamagedFile):
            open_stored(tmp_path)


@settings(max_examples=60, deadline=None)
@given(pieces=st.lists(st.binary(min_size=1, max_size=3000), max_size=12), repeat=st.integers(1, 30))
def test_whatever_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], repeat: int
) -> None:
    pieces = [piece * repeat for piece in pieces]
    content, stored = write(pieces)
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(content)
    assert gzip.decompress(content) == b"".join(pieces) == read(path, stored.size)
