"""Backups that somebody else could write to: whatever they put there, nothing is read or written outside.

What stands outside is watched as a whole; memory is measured; what is planted is real (links, pipes, archives).
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import tarfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ZODB.Connection import TransactionMetaData
from ZODB.FileStorage import FileStorage

from tests.faults.damage import packed_manifest, unpacked_manifest
from tests.layouts import LAYOUTS
from tests.site import Site, State, blob_files
from zodbvault.commands.check import check
from zodbvault.commands.drill import drill
from zodbvault.commands.list import list_backups
from zodbvault.commands.log import log_transactions
from zodbvault.commands.prune import prune
from zodbvault.commands.report import report
from zodbvault.commands.watching import Thresholds
from zodbvault.errors import ZodbvaultError
from zodbvault.io.durable import WholeFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zodbvault.commands.drill import DrillReport

pytestmark = pytest.mark.filterwarnings("ignore")

SECRET = b"what nobody is to see"
MEGABYTE = 1 << 20


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that belongs neither to the site nor to its backups."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(SECRET)
    return folder


def everything_in(folder: Path) -> dict[str, object]:
    """Names, types, contents and times of all that is in a folder."""
    found: dict[str, object] = {}
    for where, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(where, name)
            status = os.lstat(path)
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            found[str(path)] = (status.st_mode, status.st_mtime_ns, status.st_ino, content)
    return found


@contextlib.contextmanager
def nothing_changes_in(folder: Path) -> Iterator[None]:
    before = everything_in(folder)
    yield
    assert everything_in(folder) == before


def made(folder: Path, layout: str = "pool", **options: str) -> tuple[Site, dict[str, State]]:
    """A site with a full and an incremental backup."""
    site = Site(folder / "site", options={**LAYOUTS[layout], **options})
    site.begin_with_a_blob()
    site.commit_pages(3)
    site.commit_blobs(3)
    site.close()  # which saves the index
    states = dict([site.backed_up()])
    site.commit_blobs(2)
    site.commit_pages(2)
    states |= dict([site.backed_up()])
    site.close()
    return site, states


def emptied(site: Site) -> None:
    """The site is lost."""
    site.close()
    for path in (site.datafs.parent, site.blob_storage):
        assert path is not None
        shutil.rmtree(path, ignore_errors=True)


def moved_outside(path: Path, outside: Path) -> None:
    """What stands at `path` stands outside now, and a symlink leads there."""
    there = outside / path.name
    os.rename(path, there)
    path.symlink_to(there)


def all_commands(site: Site) -> list[Callable[[], object]]:
    """Everything that reads backups."""
    settings, clock = site.settings, site.clock
    thresholds = Thresholds()
    return [
        site.verify,
        lambda: site.verify(deep=True),
        lambda: list_backups(settings, when=None, which="all", clock=clock),
        lambda: list(log_transactions(settings, between=None, which="backups")),
        lambda: check(settings, which="all", thresholds=thresholds, metrics=None, clock=clock),
        lambda: report(settings, which="all", thresholds=thresholds, clock=clock),
        lambda: prune(settings, which="all", dry_run=True, clock=clock),
        site.restore,
        site.backup,
        lambda: site.backup(full=True),
    ]


def try_all(site: Site) -> None:
    """Run them all; errors of ours are good."""
    for command in all_commands(site):
        with contextlib.suppress(ZodbvaultError):
            command()


# Links in the place of files


@pytest.mark.parametrize("suffix", [".fsz", ".deltafsz", ".dat", ".deltablobs.gz", ".blobs.gz"])
def test_a_file_that_is_a_link_to_outside_is_refused(tmp_path: Path, outside: Path, suffix: str) -> None:
    site, states = made(tmp_path)
    folder = site.blob_location if suffix.endswith("blobs.gz") else site.location
    moved_outside(next(path for path in folder.iterdir() if path.name.endswith(suffix)), outside)
    emptied(site)
    with nothing_changes_in(outside):
        with pytest.raises(ZodbvaultError, match=r"link|missing|cannot be read"):
            site.restore(max(states))
        assert not site.datafs.exists()
        assert not site.verify().good


@pytest.mark.parametrize("suffix", [".json", ".index", ".checks.json", ".zodbvault.id"])
def test_what_a_restore_can_do_without_is_not_read_through_a_link(tmp_path: Path, outside: Path, suffix: str) -> None:
    site, states = made(tmp_path)
    site.verify()
    linked = [path for path in site.location.iterdir() if path.name.endswith(suffix)]
    assert linked
    for path in linked:
        moved_outside(path, outside)
    emptied(site)
    with nothing_changes_in(outside):
        site.restore(max(states))
        assert not Path(f"{site.datafs}.index").exists() or suffix != ".index"
        site.assert_is(states[max(states)])
        site.commit_pages()
        stamp, state = site.backed_up()
        site.restore(stamp)
        site.assert_is(state)


def test_a_lock_that_is_another_name_of_a_file_outside_is_not_written(tmp_path: Path, outside: Path) -> None:
    site, _ = made(tmp_path)
    for folder in (site.location, site.blob_location):
        lock = folder / ".zodbvault.lock"
        lock.unlink()
        (outside / folder.name).write_bytes(SECRET)
        os.link(outside / folder.name, lock)
    site.commit_pages()
    with nothing_changes_in(outside):
        site.backup()


# Links among the folders of blobs


def folders_of_blobs(root: Path) -> list[Path]:
    """A folder of each depth on the way to a blob, and the blob."""
    blob = next(root.rglob("*.blob"))
    return [root, *(root / Path(*blob.relative_to(root).parts[:depth]) for depth in (1, 4, 8)), blob]


@pytest.mark.parametrize("depth", range(5))
@pytest.mark.parametrize("layout", ["pool", "directories", "copies", "numbered directories"])
def test_a_link_in_a_folder_of_blobs_is_not_followed(tmp_path: Path, outside: Path, layout: str, depth: int) -> None:
    site, states = made(tmp_path, layout)
    root = site.blob_location / "blobs"
    if layout != "pool":
        root = max((path for path in site.blob_location.glob("blobstorage.*")), key=lambda path: path.stat().st_mtime)
    moved_outside(folders_of_blobs(root)[depth], outside)
    with nothing_changes_in(outside):
        site.restore_while_open(max(states))  # the site has all blobs
        assert not site.verify().good or layout != "pool"
        emptied(site)
        with contextlib.suppress(ZodbvaultError):
            # From another state, where there is one.
            site.restore(max(states))
            site.assert_is(states[max(states)])
            assert layout != "pool"
        if layout == "pool":
            assert not site.blob_storage or not list(site.blob_storage.rglob("*.blob")) or not site.datafs.exists()


@pytest.mark.parametrize("depth", range(5))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_backup_writes_or_removes_anything_through_a_link(
    tmp_path: Path, outside: Path, layout: str, depth: int
) -> None:
    site, _ = made(tmp_path, layout, keep="1")
    roots = [path for path in site.blob_location.iterdir() if path.is_dir() and not path.is_symlink()]
    planted = folders_of_blobs(max(roots))[depth] if roots else None
    if planted is None:
        planted = max(site.blob_location.glob("*.tar*"))
    moved_outside(planted, outside)
    site.commit_blobs(3)
    site.close()
    with nothing_changes_in(outside):
        for full in (False, True, True):
            with contextlib.suppress(ZodbvaultError):
                site.backup(full=full)
        try_all(site)


def test_the_folder_of_unfinished_copies_is_no_way_out(tmp_path: Path, outside: Path) -> None:
    site, _ = made(tmp_path)
    (outside / f"zodbvault-{'0' * 32}.part").write_bytes(SECRET)
    scratch = site.blob_location / "blobs" / "tmp"
    scratch.rmdir()
    scratch.symlink_to(outside)
    site.commit_blobs(2)
    site.close()
    with nothing_changes_in(outside), pytest.raises(ZodbvaultError, match="should be, and is none"):
        site.backup()


@pytest.mark.parametrize("name", ["blobstorage.{}.part", "{}.directoryblobs.gz.part", "latest.part", "{}.json.part"])
def test_a_link_where_something_is_going_to_be_written_is_not_followed(
    tmp_path: Path, outside: Path, name: str
) -> None:
    site, _ = made(tmp_path, "directories")
    site.commit_blobs(2)
    site.close()
    following = Site(tmp_path / "clock").clock
    following.sleep(site.clock.now() - following.now() + 60)
    stamp = site.names()[-1][:19]
    for folder in (site.location, site.blob_location):
        for minute in range(3):
            planted = folder / name.format(f"{stamp[:-5]}{int(stamp[-5:-3]) + minute:02}-00")
            if not os.path.lexists(planted):
                planted.symlink_to(outside)
    with nothing_changes_in(outside):
        stamp, state = site.backed_up()
        site.restore(stamp)
        site.assert_is(state)


@pytest.mark.parametrize("depth", [1, 4, 8, 9])
def test_a_link_in_the_blob_storage_is_no_way_out_for_a_restore(tmp_path: Path, outside: Path, depth: int) -> None:
    site, states = made(tmp_path)
    assert site.blob_storage is not None
    blob = min(blob_files(site.blob_storage).items())[1]
    planted = site.blob_storage / Path(*blob.relative_to(site.blob_storage).parts[:depth])
    shutil.rmtree(planted) if depth < 9 else planted.unlink()
    planted.symlink_to(outside if depth < 9 else outside / "secret")
    before = site.datafs.read_bytes()
    with nothing_changes_in(outside), pytest.raises(ZodbvaultError, match="stands where"):
        site.restore(min(states))
    assert site.datafs.read_bytes() == before


# Pipes, sockets, folders: nothing waits for ever


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pipes_in_the_place_of_files_keep_nobody_waiting(tmp_path: Path, layout: str) -> None:
    site, states = made(tmp_path, layout)
    files = [
        Path(where, name)
        for folder in (site.location, site.blob_location)
        for where, _, names in os.walk(folder)
        for name in names
    ]
    for path in files:
        path.unlink()
        os.mkfifo(path)
    site.commit_pages()
    site.close()
    try_all(site)
    with pytest.raises(ZodbvaultError):
        site.restore(max(states))


# Names in manifests, .dat files and archives


HOSTILE_PATHS = [
    b"/etc/passwd",
    b"../../../../outside/planted",
    b"0x00/0x00/0x00/0x00/0x00/0x00/0x00/../0x03/0x040d38d87b6e7fdd.blob",
    b"0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x03/../../0x040d38d87b6e7fdd.blob",
    b"./0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x03/0x040d38d87b6e7fdd.blob",
    b"0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x03/0x040d38d87b6e7fdd.blob\0",
    b"0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x03//0x040d38d87b6e7fdd.blob",
    b"0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x03/0x040D38D87B6E7FDD.blob",
    b"0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x03/\xff\xfe.blob",
    b"x" * 255,
    b"0x00/" + b"a" * 5000,
    "0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x0\u0663/0x040d38d87b6e7fdd.blob".encode(),
    b"",
    b".layout",
]


@pytest.mark.parametrize("path", HOSTILE_PATHS)
@pytest.mark.parametrize("with_record", [True, False])
def test_a_path_in_a_manifest_leads_nowhere(tmp_path: Path, outside: Path, path: bytes, with_record: bool) -> None:
    site, states = made(tmp_path)
    newest = max(states)
    manifest = site.blob_location / f"{newest}.deltablobs.gz"
    lines = unpacked_manifest(manifest)
    content = b"%d\t%s" % (len(SECRET), hashlib.sha256(SECRET).hexdigest().encode())
    manifest.write_bytes(packed_manifest([*lines[:1], b"+\t" + path + b"\t" + content + b"\n"]))
    if not with_record:
        (site.location / f"{newest}.json").unlink()
    with nothing_changes_in(outside):
        assert not site.verify().good
        before = site.datafs.read_bytes()
        # The site has all blobs, so it can do without the manifest.
        site.restore(newest)
        site.assert_is(states[newest])
        assert site.datafs.read_bytes() == before
        emptied(site)
        with pytest.raises(ZodbvaultError):
            site.restore(newest)
    assert not site.datafs.exists()


@pytest.mark.parametrize("folder", ["/etc/", "../../../outside/", "/dev/fd/", "a b/", "\udcff/", "x\n/"])
def test_of_a_path_in_a_dat_only_the_last_part_counts(tmp_path: Path, outside: Path, folder: str) -> None:
    site, states = made(tmp_path)
    dat = next(site.location.glob("*.dat"))
    lines = dat.read_bytes().splitlines(keepends=True)
    dat.write_bytes(b"".join(os.fsencode(folder) + line for line in lines))
    with nothing_changes_in(outside):
        if "\n" in folder:
            with pytest.raises(ZodbvaultError, match="cannot be right"):
                site.restore(max(states))
            return
        site.restore(max(states))
        site.assert_is(states[max(states)])


def hostile_members() -> Iterator[tarfile.TarInfo]:
    """Members of every type under names that lead out, or stand for a blob and are none."""
    names = (
        "/tmp/planted",
        "../../outside/planted",
        "./../../outside/planted",
        "./0x00/../../../outside/planted",
        "./0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x77/0x040d38d87b6e7fdd.blob",
        "./" + "n" * 255,
        "./a\nb",
        "./\udcff",
        "./.layout",
    )
    types = (
        tarfile.REGTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
        tarfile.DIRTYPE,
        tarfile.CONTTYPE,
    )
    for name in names:
        for kind in types:
            member = tarfile.TarInfo(name)
            member.type = kind
            member.mode = 0o6777
            member.linkname = "../../outside/secret"
            member.devmajor, member.devminor = 1, 3
            yield member


@pytest.mark.parametrize("layout", ["archives", "compressed archives", "incremental archives", "numbered archives"])
@pytest.mark.parametrize("of_another_program", [False, True])
def test_members_of_an_archive_lead_nowhere(
    tmp_path: Path, outside: Path, layout: str, of_another_program: bool
) -> None:
    site, states = made(tmp_path, layout)
    newest = max(states)
    archive = max(site.blob_location.glob("blobstorage.*.tar*"), key=lambda path: path.stat().st_mtime)
    moment = archive.stat().st_mtime_ns
    with tarfile.open(archive) as tar:
        members = [(member, tar.extractfile(member).read() if member.isreg() else None) for member in tar]  # type: ignore[union-attr]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz" if "compressed" in layout else "w", format=tarfile.GNU_FORMAT) as tar:
        for member in hostile_members():
            tar.addfile(member)
        for member, content in members:
            member.mode = 0o6777
            tar.addfile(member, None if content is None else io.BytesIO(content))
    archive.write_bytes(out.getvalue())
    os.utime(archive, ns=(moment, moment))
    if of_another_program:
        for path in [*site.blob_location.glob("*blobs.gz"), *site.location.glob("*.json")]:
            path.unlink()
    emptied(site)
    with nothing_changes_in(outside):
        if layout == "incremental archives":
            # tarfile does not write GNU's dumpdirs anew, so nobody can tell what is in the series.
            with contextlib.suppress(ZodbvaultError):
                site.restore(newest)
        else:
            site.restore(newest)
            assert site.datafs.read_bytes() == states[newest].data
            # Where no manifest says what belongs to the state, every file under a blob's name is one.
            blobs, wanted = site.blobs, states[newest].blobs
            assert blobs.items() >= wanted.items() if of_another_program else blobs == wanted
        assert site.blob_storage is not None
        for where, folders, names in os.walk(site.blob_storage):
            for name in (*folders, *names):
                status = os.lstat(os.path.join(where, name))
                assert not status.st_mode & 0o7000
                assert not os.path.islink(os.path.join(where, name))
    assert not Path("/tmp/planted").exists()


# Sizes: no more memory and no more disk than there is to restore


@contextlib.contextmanager
def little_memory(limit: int = 60 * MEGABYTE) -> Iterator[None]:
    """No more than so many bytes at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every write that goes to a disk by us."""
    sizes: list[int] = []
    write = WholeFile.write

    def counted(self: WholeFile, data: Any) -> int:
        sizes.append(memoryview(data).nbytes)
        return write(self, data)

    monkeypatch.setattr(WholeFile, "write", counted)
    return sizes


def bomb(path: Path, content: bytes, times: int) -> None:
    """A small gzip file of very much."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(times):
            file.write(content)


@pytest.mark.parametrize("suffix", [".fsz", ".deltafsz"])
@pytest.mark.parametrize("with_record", [True, False])
def test_a_bomb_in_the_place_of_data_stops_at_their_size(
    tmp_path: Path, written: list[int], suffix: str, with_record: bool
) -> None:
    site, states = made(tmp_path)
    data = next(site.location.glob(f"*{suffix}"))
    bomb(data, bytes(MEGABYTE), 80)
    for record in [] if with_record else site.location.glob("*.json"):
        record.unlink()
    before = site.datafs.read_bytes()
    written.clear()
    with little_memory(), pytest.raises(ZodbvaultError):
        site.restore(max(states))
    assert sum(written) <= len(states[max(states)].data) + 100_000
    assert site.datafs.read_bytes() == before
    with little_memory():
        assert not site.verify(deep=True).good
        with contextlib.suppress(ZodbvaultError):
            list(log_transactions(site.settings, between=None, which="backups"))
    assert data.stat().st_size < MEGABYTE


@pytest.mark.parametrize("line", [b"\0", b"+\t0x00", b"#\t1\tbushy\n", b"\n"])
def test_a_bomb_in_the_place_of_a_manifest(tmp_path: Path, line: bytes) -> None:
    site, states = made(tmp_path)
    bomb(site.blob_location / f"{max(states)}.deltablobs.gz", line * (MEGABYTE // len(line)), 60)
    with little_memory():
        try_all(site)


def header(name: str, kind: bytes, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K", b"X", b"D", b"S"])
@pytest.mark.parametrize("content", [b"\0", b"Y"])
@pytest.mark.parametrize("compressed", [True, False])
def test_a_bomb_in_the_place_of_an_archive(tmp_path: Path, kind: bytes, content: bytes, compressed: bool) -> None:
    layout = "compressed incremental archives" if compressed else "incremental archives"
    site, _ = made(tmp_path, layout)
    archive = max(site.blob_location.glob("blobstorage.*.tar*"))
    size = 80 * MEGABYTE
    with gzip.open(archive, "wb", compresslevel=1) if compressed else open(archive, "wb") as file:
        file.write(header("./0x00/", kind, size))
        for _ in range(size // MEGABYTE):
            file.write(content * MEGABYTE)
        file.write(bytes(10240))
    for path in site.blob_location.glob("*blobs.gz"):
        path.unlink()
    emptied(site)
    with little_memory():
        with contextlib.suppress(ZodbvaultError):
            site.restore()
        with contextlib.suppress(ZodbvaultError):
            site.verify(deep=True)


@pytest.mark.parametrize("size", [1 << 62, (1 << 64) - 1, -1, -(10**6)])
@pytest.mark.parametrize("compressed", [True, False])
def test_a_member_of_impossible_size(tmp_path: Path, size: int, compressed: bool) -> None:
    site, states = made(tmp_path, "compressed archives" if compressed else "archives")
    name = "./0x00/0x00/0x00/0x00/0x00/0x00/0x00/0x07/0x040d38d87b6e7fdd.blob"
    for archive in site.blob_location.glob("blobstorage.*.tar*"):
        content = header(name, tarfile.REGTYPE, size) + bytes(10240)
        archive.write_bytes(gzip.compress(content) if compressed else content)
    for path in [*site.blob_location.glob("*blobs.gz"), *site.location.glob("*.json")]:
        path.unlink()
    emptied(site)
    with little_memory(), pytest.raises(ZodbvaultError):
        site.restore(max(states))
    assert not site.datafs.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 5_000_000,
        b'{"a":' * 1_000_000,
        b"9" * 5_000_000,
        b'{"format": 1, "timestamp": "' + b"x" * 5_000_000 + b'"}',
        b'{"format": 1e999}',
        b'{"format": true}',
    ],
    ids=["deep list", "deep object", "long number", "long text", "infinity", "true"],
)
@pytest.mark.parametrize("suffix", [".json", ".checks.json"])
def test_json_that_is_too_deep_or_too_long(tmp_path: Path, suffix: str, content: bytes) -> None:
    site, states = made(tmp_path)
    (site.location / f"{max(states)}{suffix}").write_bytes(content)
    with little_memory():
        try_all(site)
        site.restore(min(states))
        site.assert_is(states[min(states)])


def test_a_record_that_is_larger_than_any_is_not_read(tmp_path: Path) -> None:
    site, states = made(tmp_path)
    with open(site.location / f"{max(states)}.json", "wb") as file:
        file.truncate(20 << 30)
    with little_memory():
        site.restore(max(states))
    site.assert_is(states[max(states)])


def test_an_index_that_is_larger_than_any_is_not_copied(tmp_path: Path, written: list[int]) -> None:
    site, states = made(tmp_path)
    with open(next(site.location.glob("*.index")), "r+b") as file:
        file.truncate(1 << 30)
    written.clear()
    site.restore(max(states))
    assert sum(written) < MEGABYTE
    site.assert_is(states[max(states)])


# Pickles


class _Creates:
    """What would create a file, if somebody unpickled it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self._path), "w")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_index_that_would_run_code(tmp_path: Path, protocol: int) -> None:
    site, states = made(tmp_path)
    planted = tmp_path / "planted"
    index = next(site.location.glob("*.index"))
    good = index.read_bytes()
    for content in (
        pickle.dumps(_Creates(planted), protocol),
        pickle.dumps(4, protocol) + pickle.dumps(_Creates(planted), protocol),
        good[:-2] + pickle.dumps((b"\0" * 6, _Creates(planted)), protocol) + good[-2:],
    ):
        index.write_bytes(content)
        site.restore(max(states))
        assert rehearse(site).good
        try_all(site)
        assert not planted.exists()
        assert not Path(f"{site.datafs}.index").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x03K\x04r\xff\xff\xff\x7f.",
        b"\x80\x03B\xff\xff\xff\xff.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"(" * 1_000_000,
        b"L" + b"9" * 1_000_000,
        b"\x8b\xff\xff\xff\x7f",
    ],
    ids=["memo", "bytes", "bytes8", "frame", "marks", "long", "long4"],
)
def test_an_index_that_asks_for_much_memory(tmp_path: Path, content: bytes) -> None:
    site, states = made(tmp_path)
    next(site.location.glob("*.index")).write_bytes(content)
    with little_memory():
        site.restore(max(states))
    assert not Path(f"{site.datafs}.index").exists()
    site.assert_is(states[max(states)])


def rehearse(site: Site) -> DrillReport:
    return drill(site.settings, when=None, which="backups", sample=None, tmp=None, clock=site.clock)


@pytest.mark.parametrize("oid", [0, 77])
def test_records_that_would_run_code(tmp_path: Path, oid: int) -> None:
    site = Site(tmp_path / "site")
    site.begin_with_a_blob()
    site.close()
    planted = tmp_path / "planted"
    evil = pickle.dumps(_Creates(planted), 2)
    storage = FileStorage(str(site.datafs), blob_dir=str(site.blob_storage))
    for data in (evil + evil, b"cZODB.blob\nBlob\n." + evil, evil + pickle.dumps(None, 2)):
        txn = TransactionMetaData()
        storage.tpc_begin(txn)
        key = oid.to_bytes(8, "big")
        try:
            serial = storage.getTid(key)
        except KeyError:
            serial = bytes(8)
        storage.store(key, serial, data, "", txn)
        storage.tpc_vote(txn)
        storage.tpc_finish(txn)
    storage.close()
    with contextlib.suppress(ZodbvaultError):
        site.backup()
    try_all(site)
    with contextlib.suppress(ZodbvaultError):
        rehearse(site)
    assert site.timestamps()
    assert not planted.exists()


# Shells


@pytest.mark.parametrize("layout", ["pool", "directories", "compressed archives"])
def test_no_path_is_put_through_a_shell(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    name = "a; touch one;$(touch two)`touch three` | touch four && 'touch' \"five\" -rf *"
    (tmp_path / name).mkdir()
    site, states = made(tmp_path / name, layout)
    site.options["pre_command"] = "touch theirs"
    try_all(site)
    site.restore(max(states))
    site.assert_is(states[max(states)])
    assert os.listdir(here) == ["theirs"]


def test_records_are_not_believed_to_name_files(tmp_path: Path, outside: Path) -> None:
    site, states = made(tmp_path)
    record = site.location / f"{max(states)}.json"
    values = json.loads(record.read_text())
    for name in ("../../outside/secret", str(outside / "secret"), "../backups/x", ""):
        values["blobs"]["manifest"] = name
        values["blobs"]["stored_size"] = len(SECRET)
        values["blobs"]["sha256"] = hashlib.sha256(SECRET).hexdigest()
        record.write_text(json.dumps(values))
        with nothing_changes_in(outside):
            try_all(site)
