from __future__ import annotations

import gzip
import hashlib
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.leaks import no_descriptor_left, open_files
from zodbvault.blobs.layouts import bushy_path, lawn_path
from zodbvault.blobs.manifest import (
    PACKED_SIZE,
    DamagedManifest,
    Entry,
    ManifestSummary,
    ManifestWriter,
    manifest_layout,
    merge_state,
    pack_entry,
    read_manifest,
    unpack_entry,
)
from zodbvault.errors import ZodbvaultError
from zodbvault.io.durable import PartFile

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def key(oid: int, tid: int = 0x03E8000000000001) -> bytes:
    return oid.to_bytes(8, "big") + tid.to_bytes(8, "big")


def entry(oid: int, content: bytes = b"content") -> Entry:
    return Entry(key(oid), len(content), hashlib.sha256(content).hexdigest())


def gone(oid: int) -> Entry:
    return Entry(key(oid), 0, "", removed=True)


def write(path: Path, entries: Iterable[Entry], *, layout: str = "bushy") -> ManifestSummary:
    with PartFile(path) as part:
        with ManifestWriter(part, layout, complete=".delta" not in path.name) as writer:  # type: ignore[arg-type]
            for one in entries:
                writer.add(one)
            summary = writer.finish()
        part.publish()
    return summary


def write_text(path: Path, lines: list[str], *, closing: str | None = None) -> Path:
    text = "".join(lines).encode()
    if closing is None:
        closing = f"=\t{len(lines)}\t{hashlib.sha256(text).hexdigest()}\n"
    path.write_bytes(gzip.compress(text + closing.encode()))
    return path


HEAD = "#\t1\tbushy\n"


def line(one: Entry) -> str:
    return f"+\t{bushy_path(one.key)}\t{one.size}\t{one.sha256}\n"


def test_the_text_is_as_documented(tmp_path: Path) -> None:
    path = tmp_path / "T.deltablobs.gz"
    summary = write(path, [entry(1), gone(2), entry(3, b"")], layout="lawn")
    text = gzip.decompress(path.read_bytes()).decode()
    body = (
        "#\t1\tlawn\n"
        "+\t0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x01/0x03e8000000000001.blob\t7\t"
        "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73\n"
        "-\t0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x02/0x03e8000000000001.blob\n"
        "+\t0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x03/0x03e8000000000001.blob\t0\t"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n"
    )
    assert text == body + f"=\t4\t{hashlib.sha256(body.encode()).hexdigest()}\n"
    assert summary == ManifestSummary(
        name="T.deltablobs.gz",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        stored_size=path.stat().st_size,
        complete=False,
        layout="lawn",
        blobs=2,
        bytes=7,
        total_blobs=None,
    )


entries_of_any_size = st.lists(
    st.builds(
        Entry,
        st.binary(min_size=16, max_size=16),
        st.integers(0, (1 << 63) - 1),
        st.binary(min_size=32, max_size=32).map(bytes.hex),
        st.just(False),
    ),
    unique_by=lambda one: one.key,
    max_size=30,
).map(sorted)


@given(entries_of_any_size)
@settings(deadline=None)
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, entries: list[Entry]) -> None:
    path = tmp_path_factory.getbasetemp() / "T.blobs.gz"
    summary = write(path, entries)
    assert list(read_manifest(path)) == entries
    assert (summary.blobs, summary.total_blobs) == (len(entries), len(entries))
    assert summary.bytes == sum(one.size for one in entries)
    assert manifest_layout(path) == "bushy"
    assert [unpack_entry(pack_entry(one)) for one in entries] == entries


def test_a_packed_entry_sorts_as_its_key(tmp_path: Path) -> None:
    assert len(pack_entry(entry(1))) == len(pack_entry(gone(1))) == PACKED_SIZE
    assert unpack_entry(pack_entry(gone(1))) == gone(1)
    assert pack_entry(entry(1)) < pack_entry(gone(1)) < pack_entry(entry(2))


def test_many_blobs_make_many_members_and_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "T.blobs.gz"
    write(path, (entry(number, b"%d" % number) for number in range(20_000)))
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_manifest(path)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert gzip.decompress(path.read_bytes()).count(b"\n") == 20_002


def test_blobs_out_of_order_are_a_programming_error(tmp_path: Path) -> None:
    with PartFile(tmp_path / "T.blobs.gz") as part, ManifestWriter(part, "bushy", complete=True) as writer:
        writer.add(entry(2))
        for wrong in (entry(2), entry(1)):
            with pytest.raises(ValueError, match="order"):
                writer.add(wrong)
        with pytest.raises(ValueError, match="removed"):
            writer.add(gone(3))


def test_what_is_left_without_finish_is_no_manifest(tmp_path: Path) -> None:
    with PartFile(tmp_path / "T.blobs.gz") as part:
        with ManifestWriter(part, "bushy", complete=True) as writer:
            for number in range(2000):
                writer.add(entry(number))
        part.publish()
    with pytest.raises(DamagedManifest):
        list(read_manifest(tmp_path / "T.blobs.gz"))


def test_a_full_disk_is_told_by_the_manifests_role(tmp_path: Path) -> None:
    with PartFile(tmp_path / "T.blobs.gz") as part:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, part.file.fileno())
        os.close(full)
        with ManifestWriter(part, "bushy", complete=True) as writer:
            writer.add(entry(1))
            with pytest.raises(ZodbvaultError, match="manifest of blobs cannot be written"):
                writer.finish()


@pytest.mark.parametrize("cut", [0, 1, 10, 200, -1, -8, -40])
def test_a_shortened_file_is_damaged(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "T.blobs.gz"
    write(path, [entry(number) for number in range(50)])
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DamagedManifest, match=r"T\.blobs\.gz"):
        list(read_manifest(path))


def test_each_flipped_bit_is_noticed_before_a_wrong_line_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "T.blobs.gz"
    entries = [entry(number, b"%d" % number) for number in range(6)]
    write(path, entries)
    good = path.read_bytes()
    unnoticed = 0
    for position in range(len(good)):
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        try:
            found = list(read_manifest(path))
        except DamagedManifest:
            continue
        assert found == entries  # bytes of the gzip header that mean nothing
        unnoticed += 1
    assert unnoticed <= 20
    assert good.count(b"\x1f\x8b\x08\x04") == 1  # one member needs no threads


def test_a_member_that_was_cut_off_shows_at_the_end_only(tmp_path: Path) -> None:
    path = tmp_path / "T.blobs.gz"
    entries = [entry(number) for number in range(3000)]
    write(path, entries)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\x1f\x8b\x08\x04", 1)])
    read = []
    with pytest.raises(DamagedManifest, match="no closing line"):
        read.extend(read_manifest(path))
    seen = []
    reading = read_manifest(path)
    with pytest.raises(DamagedManifest):
        seen.extend(one for one in reading)
    assert seen == entries[: len(seen)]


@pytest.mark.parametrize(
    "path_field",
    [
        "/etc/passwd",
        "../../../../etc/passwd",
        bushy_path(key(1)).replace("0x00/0x00", "0x00/../0x00", 1),
        "/" + bushy_path(key(1)),
        "./" + bushy_path(key(1)),
        lawn_path(key(1)),
        ".layout",
        "",
        bushy_path(key(1)).upper(),
        bushy_path(key(1)).replace(".blob", ".blob\0"),
        bushy_path(key(1)) + "/x",
    ],
)
def test_a_path_that_is_not_exactly_a_blobs_is_refused(tmp_path: Path, path_field: str) -> None:
    good = entry(1)
    for bad in (f"+\t{path_field}\t7\t{good.sha256}\n", f"-\t{path_field}\n"):
        path = write_text(tmp_path / "T.blobs.gz", [HEAD, bad])
        with pytest.raises(DamagedManifest, match="line 2"):
            list(read_manifest(path))


SHA = entry(1).sha256


@pytest.mark.parametrize(
    "rest",
    [
        "",
        "\t7",
        f"\t-7\t{SHA}",
        f"\t+7\t{SHA}",
        f"\t7.0\t{SHA}",
        f"\t\t{SHA}",
        f"\t {7}\t{SHA}",
        f"\t1_0\t{SHA}",
        f"\t\u0667\t{SHA}",
        f"\t{1 << 63}\t{SHA}",
        f"\t7\t{SHA[:-1]}",
        f"\t7\t{SHA}0",
        f"\t7\t{SHA.upper()}",
        f"\t7\t{SHA[:-1]}g",
        f"\t7\t{SHA[:20]}g{SHA[21:]}",
        f"\t7\t{SHA}\tmore",
        f"\t7\t{SHA}\r",
    ],
)
def test_a_line_that_is_not_a_blobs_is_refused(tmp_path: Path, rest: str) -> None:
    good = write_text(tmp_path / "good", [HEAD, line(entry(1))])
    assert list(read_manifest(good)) == [entry(1)]
    path = write_text(tmp_path / "T.blobs.gz", [HEAD, f"+\t{bushy_path(key(1))}{rest}\n"])
    with pytest.raises(DamagedManifest, match="line 2"):
        list(read_manifest(path))


@pytest.mark.parametrize(
    "lines",
    [
        [HEAD, f"-\t{bushy_path(key(1))}\t7\n"],
        [HEAD, f"*\t{bushy_path(key(1))}\t7\t{SHA}\n"],
        [HEAD, "\n"],
        [HEAD, HEAD],
        [HEAD, line(entry(2)), line(entry(1))],
        [HEAD, line(entry(2)), line(entry(2))],
    ],
    ids=["removed with a size", "unknown sign", "empty line", "two heads", "out of order", "twice"],
)
def test_lines_that_do_not_belong_are_refused(tmp_path: Path, lines: list[str]) -> None:
    path = write_text(tmp_path / "T.blobs.gz", lines)
    with pytest.raises(DamagedManifest, match=f"line {len(lines)}"):
        list(read_manifest(path))


@pytest.mark.parametrize(
    "head",
    ["", "#\n", "#\t1\n", "#\t0\tbushy\n", "#\tx\tbushy\n", "#\t1\twood\n", "#\t1\tbushy\tx\n", line(entry(1))],
)
def test_another_beginning_is_refused(tmp_path: Path, head: str) -> None:
    path = write_text(tmp_path / "T.blobs.gz", [one for one in (head,) if one])
    with pytest.raises(DamagedManifest):
        list(read_manifest(path))
    with pytest.raises(DamagedManifest, match="begin"):
        manifest_layout(path)


def test_a_newer_format_says_so(tmp_path: Path) -> None:
    path = write_text(tmp_path / "T.blobs.gz", ["#\t2\tbushy\tanything\n", "?\tnew\n"])
    for read in (lambda: list(read_manifest(path)), lambda: manifest_layout(path)):
        with pytest.raises(DamagedManifest, match=r"format 2.*newer zodbvault"):
            read()


@pytest.mark.parametrize(
    "closing",
    [
        "",
        f"=\t1\t{SHA}\n",
        f"=\t2\t{SHA}\n",
        "=\n",
        "GOOD",
        "GOOD\n\n",
        "GOOD\n=\t2\tx\n",
        "GOOD\nx",
    ],
)
def test_a_missing_wrong_or_repeated_closing_line_is_refused(tmp_path: Path, closing: str) -> None:
    lines = [HEAD, line(entry(1))]
    good = f"=\t2\t{hashlib.sha256(''.join(lines).encode()).hexdigest()}"
    assert list(read_manifest(write_text(tmp_path / "good", lines, closing=good + "\n"))) == [entry(1)]
    path = write_text(tmp_path / "T.blobs.gz", lines, closing=closing.replace("GOOD", good))
    with pytest.raises(DamagedManifest):
        list(read_manifest(path))


def test_a_line_taken_out_is_noticed(tmp_path: Path) -> None:
    lines = [HEAD, line(entry(1)), line(entry(2))]
    closing = f"=\t3\t{hashlib.sha256(''.join(lines).encode()).hexdigest()}\n"
    path = write_text(tmp_path / "T.blobs.gz", [*lines[:2]], closing=closing)
    with pytest.raises(DamagedManifest, match="closing"):
        list(read_manifest(path))


@pytest.mark.parametrize("length", [300, 70_000, 5_000_000])
def test_an_endless_line_is_refused_in_constant_memory(tmp_path: Path, length: int) -> None:
    import tracemalloc

    path = write_text(tmp_path / "T.blobs.gz", [HEAD, "+\t" + "x" * length + "\n"])
    tracemalloc.start()
    try:
        with pytest.raises(DamagedManifest, match=r"too long|another way"):
            list(read_manifest(path))
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_what_is_no_gzip_file_or_goes_on_behind_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "T.blobs.gz"
    path.write_text("#\t1\tbushy\n")
    with pytest.raises(DamagedManifest):
        list(read_manifest(path))
    write(path, [entry(1)])
    with path.open("ab") as file:
        file.write(b"\0\0")
    with pytest.raises(DamagedManifest):
        list(read_manifest(path))


def test_symlinks_folders_pipes_and_missing_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "T.blobs.gz", [entry(1)])
    (tmp_path / "link.blobs.gz").symlink_to(tmp_path / "T.blobs.gz")
    (tmp_path / "folder.blobs.gz").mkdir()
    os.mkfifo(tmp_path / "pipe.blobs.gz")
    for name, said in [("link", "symlink"), ("folder", "regular"), ("pipe", "regular"), ("none", "missing")]:
        with pytest.raises(DamagedManifest, match=said):
            list(read_manifest(tmp_path / f"{name}.blobs.gz"))


def test_an_abandoned_reading_leaves_no_open_file(tmp_path: Path) -> None:
    write(tmp_path / "0.blobs.gz", [entry(number) for number in range(0, 50, 2)])
    write(tmp_path / "1.deltablobs.gz", [entry(number) for number in range(1, 50, 2)])
    for reading in (
        read_manifest(tmp_path / "0.blobs.gz"),
        merge_state(tmp_path / "0.blobs.gz", [tmp_path / "1.deltablobs.gz"], tmp_path),
    ):
        with no_descriptor_left():
            next(reading)
            reading.close()


changes = st.lists(
    st.dictionaries(st.integers(0, 12), st.one_of(st.none(), st.binary(max_size=3)), max_size=13), max_size=6
)


@given(first=st.dictionaries(st.integers(0, 12), st.binary(max_size=3), max_size=13), deltas=changes)
@settings(deadline=None)
def test_a_state_is_what_the_changes_make_one_after_the_other(
    tmp_path_factory: pytest.TempPathFactory, first: dict[int, bytes], deltas: list[dict[int, bytes | None]]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    write(folder / "0.blobs.gz", [entry(oid, first[oid]) for oid in sorted(first)])
    expected = dict(first)
    paths = []
    for number, delta in enumerate(deltas):
        paths.append(folder / f"{number}.deltablobs.gz")
        found = ((oid, delta[oid]) for oid in sorted(delta))
        write(paths[-1], [gone(oid) if content is None else entry(oid, content) for oid, content in found])
        for oid, content in delta.items():
            if content is None:
                expected.pop(oid, None)
            else:
                expected[oid] = content
    state = list(merge_state(folder / "0.blobs.gz", paths, folder))
    assert state == [entry(oid, expected[oid]) for oid in sorted(expected)]


def test_a_long_chain_is_merged_with_few_open_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "0.blobs.gz", [entry(number) for number in range(10)])
    deltas = [tmp_path / f"{number}.deltablobs.gz" for number in range(300)]
    for number, path in enumerate(deltas):
        write(path, [entry(number % 20, b"%d" % number)])
    most = 0
    really = os.open

    def counting(*args: object, **kw: object) -> int:
        nonlocal most
        fd = really(*args, **kw)  # type: ignore[arg-type]
        most = max(most, len(os.listdir("/proc/self/fd")))
        return fd

    before = len(open_files())
    monkeypatch.setattr(os, "open", counting)
    state = list(merge_state(tmp_path / "0.blobs.gz", deltas, tmp_path))
    assert state == [entry(number, b"%d" % (280 + number)) for number in range(20)]
    assert most - before <= 4


def test_damage_in_any_part_of_a_state_is_told(tmp_path: Path) -> None:
    write(tmp_path / "0.blobs.gz", [entry(1)])
    write(tmp_path / "1.deltablobs.gz", [entry(2)])
    for name in ("0.blobs.gz", "1.deltablobs.gz"):
        good = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(good[:-9])
        with pytest.raises(DamagedManifest, match=name):
            list(merge_state(tmp_path / "0.blobs.gz", [tmp_path / "1.deltablobs.gz"], tmp_path))
        (tmp_path / name).write_bytes(good)


def test_nothing_can_be_gone_in_a_complete_manifest(tmp_path: Path) -> None:
    write(tmp_path / "1.deltablobs.gz", [gone(1)])
    (tmp_path / "1.deltablobs.gz").rename(tmp_path / "1.blobs.gz")
    with pytest.raises(DamagedManifest, match="gone"):
        list(merge_state(tmp_path / "1.blobs.gz", [], tmp_path))
