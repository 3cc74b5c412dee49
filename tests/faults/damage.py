"""Damage to repositories, by chance: good ones of every kind, what may happen to their files, and what must hold then.

A case is a number: it makes the same damage each time. Each case works on a copy of a good site and its backups, made
of hard links, so whatever changes a file here writes a new one and renames it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ZODB.scripts import repozo

from tests.layouts import LAYOUTS
from tests.site import PretendClock, Site, State, seconds, timestamp
from zodbvault.commands.check import check
from zodbvault.commands.choosing import NothingThere
from zodbvault.commands.list import list_backups
from zodbvault.commands.prune import prune
from zodbvault.commands.report import report
from zodbvault.commands.restore import restore
from zodbvault.commands.verify import verify
from zodbvault.commands.watching import Thresholds
from zodbvault.errors import ZodbvaultError
from zodbvault.repository.checks import DEEP, DEFAULT
from zodbvault.repository.names import split_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST_CASE = 300
"""Seconds after which a case counts as hanging."""

_NOT_LINKED = (".lock", ".zodbvault.lock")

REPOZO = "repozo"
THEIR_DIRECTORIES = "another program's directories"
THEIR_ARCHIVES = "another program's archives"
THEIR_DELTAS = "another program's incremental archives"
POOL_OF_A_LAWN = "pool of a lawn"
KINDS = (*LAYOUTS, POOL_OF_A_LAWN, REPOZO, THEIR_DIRECTORIES, THEIR_ARCHIVES, THEIR_DELTAS)


# Good sites


@dataclass
class Good:
    """A site with backups of several dates, and something that is in none of them yet."""

    site: Site
    states: dict[str, State] = field(default_factory=dict)
    live: State | None = None


def make_good(kind: str, folder: Path) -> Good:
    """A site whose backups are of one kind: two chains, with incrementals, and a transaction that is not backed up."""
    options: dict[str, Any] = dict(LAYOUTS.get(kind, {}))
    layout = "lawn" if kind == POOL_OF_A_LAWN else "bushy"
    good = Good(Site(folder, options=options, layout=layout, blobs=kind != REPOZO, seed=len(kind)))
    site = good.site
    if site.blob_storage is not None:
        site.begin_with_a_blob()
    for number in range(5):
        site.commit_pages(3)
        if site.blob_storage is not None:
            site.commit_blobs(2, size=400)
        if number == 3:
            site.delete()
            site.pack()
            site.commit_pages(1)
        site.close()
        stamp = _back_up(site, kind)
        good.states[stamp] = site.state()
    site.commit_pages(2)
    if site.blob_storage is not None:
        site.commit_blobs(1, size=400)
    site.close()
    good.live = site.state()
    Path(f"{site.datafs}.lock").unlink(missing_ok=True)
    return good


def _back_up(site: Site, kind: str) -> str:
    if kind in LAYOUTS or kind == POOL_OF_A_LAWN:
        stamp = site.backup().timestamp
        assert stamp is not None
        return stamp
    site.tick()
    stamp = timestamp(site.clock.now())
    by_repozo(site, stamp)
    if kind == THEIR_DIRECTORIES:
        _copy_as_rsync_does(site, stamp)
    elif kind == THEIR_ARCHIVES:
        _archive(site, f"blobstorage.{stamp}.tar")
    elif kind == THEIR_DELTAS:
        fulls = [name for name in site.names() if name.endswith(".fsz")]
        is_full = f"{stamp}.fsz" in fulls
        snapshot = site.blob_location / f"blobstorage.{max(fulls)[:-4]}.snar"
        _archive(site, f"blobstorage.{stamp}.{'' if is_full else 'delta.'}tar", f"--listed-incremental={snapshot}")
    return stamp


def by_repozo(site: Site, stamp: str) -> None:
    """A backup of Data.fs as ZODB's own program makes it, at a moment of our choice."""
    site.location.mkdir(parents=True, exist_ok=True)
    options = repozo.parseargs(["-B", "-z", "-r", str(site.location), "-f", str(site.datafs)])
    options.test_now = tuple(map(int, stamp.split("-")))
    repozo.do_backup(options)


def _copy_as_rsync_does(site: Site, stamp: str) -> None:
    assert site.blob_storage is not None
    target = site.blob_location / f"blobstorage.{stamp}"
    before = sorted(site.blob_location.glob("blobstorage.*"))
    shutil.copytree(site.blob_storage, target / "blobstorage", ignore=shutil.ignore_patterns("tmp"))
    if before:
        for path in target.rglob("*.blob"):
            older = before[-1] / path.relative_to(target)
            if older.exists():
                path.unlink()
                os.link(older, path)


def _archive(site: Site, name: str, *arguments: str) -> None:
    site.blob_location.mkdir(parents=True, exist_ok=True)
    command = ["tar", "-c", *arguments, "-f", str(site.blob_location / name), "-C", str(site.blob_storage), "."]
    subprocess.run(command, check=True, capture_output=True)


def copy_of(good: Good, folder: Path) -> Site:
    """The same site elsewhere, every file a hard link: Data.fs keeps its inode, so a backup goes on."""
    shutil.rmtree(folder, ignore_errors=True)
    _link_tree(good.site.folder, folder)
    site = Site(folder, options=good.site.options, layout=good.site.layout, blobs=good.site.blob_storage is not None)
    site.clock = PretendClock(good.site.clock.now())
    return site


def _link_tree(source: Path, target: Path) -> None:
    os.makedirs(target, exist_ok=True)
    with os.scandir(source) as entries:
        for entry in entries:
            there = target / entry.name
            if entry.is_dir(follow_symlinks=False):
                _link_tree(Path(entry.path), there)
            elif not entry.name.endswith(_NOT_LINKED):
                os.link(entry.path, there, follow_symlinks=False)
    status = os.stat(source)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


# Damage


@dataclass
class Files:
    """The files of a repository, as damage sees them. changed: what was changed so far, for people and for judges."""

    location: Path
    blob_location: Path | None
    random: random.Random
    changed: list[Path] = field(default_factory=list)

    def every(self) -> list[Path]:
        """All files and links, in a fixed order."""
        folders = [self.location, *([self.blob_location] if self.blob_location is not None else [])]
        found = [
            Path(where, name)
            for folder in folders
            for where, _, names in os.walk(folder)
            for name in names
            if name != ".zodbvault.lock"
        ]
        return sorted(found)

    def of_data(self) -> list[Path]:
        """Those beside the data files, and the manifests: where damage is likely to matter."""
        return [path for path in self.every() if split_name(path.name) is not None]

    def draw(self, *suffixes: str) -> Path | None:
        """One file by chance, with one of these endings; any file without."""
        # Blobs are many, so half of the draws leave them out.
        every = self.every() if self.random.random() < 0.5 else self.of_data()
        found = [path for path in every if not suffixes or path.name.endswith(suffixes)]
        return self.random.choice(found) if found else None

    def put(self, path: Path, data: bytes, *, keep_time: bool = True) -> None:
        """Another content under the same name; the old file, which other copies share, stays as it is."""
        status = os.lstat(path) if os.path.lexists(path) else None
        new = path.with_name(f"{path.name[:200]}.new")
        new.write_bytes(data)
        if status is not None and keep_time:
            os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(new, path)
        self.changed.append(path)


def _content(files: Files, *suffixes: str, at_least: int = 0) -> tuple[Path, bytes] | None:
    """One file by chance and what it holds; None where that is less than so many bytes."""
    path = files.draw(*suffixes)
    if path is None or path.is_symlink() or not path.is_file():
        return None
    data = path.read_bytes()
    return (path, data) if len(data) >= at_least else None


def flip(files: Files) -> str | None:
    """A bit, or some bytes, have another value."""
    found = _content(files, at_least=1)
    if found is None:
        return None
    path, data = found[0], bytearray(found[1])
    at = files.random.randrange(len(data))
    for offset in range(at, min(len(data), at + files.random.choice((1, 1, 4, 600)))):
        data[offset] ^= 1 << files.random.randrange(8)
    files.put(path, bytes(data))
    return f"flip at {at} of {path}"


def cut(files: Files) -> str | None:
    """The end of a file is gone."""
    found = _content(files, at_least=1)
    if found is None:
        return None
    path, data = found
    length = files.random.choice((0, len(data) - 1, files.random.randrange(len(data))))
    files.put(path, data[:length])
    return f"cut {path} from {len(data)} to {length}"


def extend(files: Files) -> str | None:
    """Something stands behind the end."""
    found = _content(files)
    if found is None:
        return None
    path, data = found
    more = files.random.choice((b"\0", b"\n", bytes(512), files.random.randbytes(30), data, gzip.compress(b"more")))
    files.put(path, data + more)
    return f"extend {path} by {len(more)}"


def empty(files: Files) -> str | None:
    """A file has no content."""
    path = files.draw()
    if path is None:
        return None
    files.put(path, b"")
    return f"empty {path}"


def zero_out(files: Files) -> str | None:
    """A block, or all, has become zeros, as after a crash of the machine."""
    found = _content(files, at_least=1)
    if found is None:
        return None
    path, data = found
    start = files.random.choice((0, files.random.randrange(len(data))))
    files.put(path, data[:start] + bytes(len(data) - start))
    return f"zeros from {start} in {path}"


def delete(files: Files) -> str | None:
    """A file is gone."""
    path = files.draw()
    if path is None:
        return None
    path.unlink()
    files.changed.append(path)
    return f"delete {path}"


def delete_folder(files: Files) -> str | None:
    """A whole folder of blobs is gone, or all of one kind of file."""
    if files.blob_location is None or not files.blob_location.is_dir():
        return None
    folders = sorted(path for path in files.blob_location.rglob("*") if path.is_dir() and not path.is_symlink())
    if not folders:
        return None
    path = files.random.choice(folders)
    shutil.rmtree(path)
    files.changed.append(path)
    return f"delete folder {path}"


def swap(files: Files) -> str | None:
    """Two files have changed places."""
    one, other = files.draw(), files.draw()
    if one is None or other is None or one == other:
        return None
    aside = one.with_name("aside")
    os.rename(one, aside)
    os.rename(other, one)
    os.rename(aside, other)
    files.changed += [one, other]
    return f"swap {one} and {other}"


def duplicate(files: Files) -> str | None:
    """A file stands there under another one's name, or under a name of its own kind, too."""
    one = files.draw()
    if one is None:
        return None
    other = files.draw() if files.random.random() < 0.5 else one.with_name(_other_name(files, one.name))
    if other is None or other == one:
        return None
    if other.is_dir():
        return None
    other.unlink(missing_ok=True)
    os.link(one, other, follow_symlinks=False)
    files.changed.append(other)
    return f"duplicate {one} as {other}"


def rename(files: Files) -> str | None:
    """A file has another name."""
    one = files.draw()
    if one is None:
        return None
    other = one.with_name(_other_name(files, one.name))
    if other.is_dir() and not other.is_symlink():
        return None
    os.replace(one, other)
    files.changed += [one, other]
    return f"rename {one} to {other.name}"


def _other_name(files: Files, name: str) -> str:
    parts = split_name(name)
    if parts is None:
        endings = (".part", ".orphan", "~", ".bak", ".gz", " (copy)")
        return files.random.choice([name + ending for ending in endings] + ["x" * 255, "a\nb", "\udcff"])
    stamp, suffix = parts
    stamps = sorted({split[0] for path in files.of_data() if (split := split_name(path.name))})
    later = timestamp(seconds(stamp) + files.random.choice((-86400, -1, 1, 30, 86400)))
    suffixes = sorted({split[1] for path in files.of_data() if (split := split_name(path.name))})
    more = [".dat", ".dat.pruned", ".fs", ".fsz", ".deltafs", ".deltafsz", ".json", ".checks.json", ".index"]
    return files.random.choice(
        [
            files.random.choice(stamps) + suffix,
            later + suffix,
            stamp + files.random.choice(suffixes + more),
            f"9999-12-31-23-59-59{suffix}",
            f"2026-02-31-25-61-61{suffix}",
            f"0000-00-00-00-00-00{suffix}",
            name + files.random.choice((".part", ".orphan", ".gz", "~")),
        ]
    )


def other_thing(files: Files) -> str | None:
    """Something that is no file stands in its place."""
    path = files.draw()
    if path is None:
        return None
    data = path.read_bytes() if path.is_file() else b""
    path.unlink()
    what = files.random.choice(("folder", "link to nothing", "link to the same", "pipe", "link to itself"))
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "link to the same":
        outside = files.location.parent / "outside"
        outside.mkdir(exist_ok=True)
        outside.joinpath(path.name).write_bytes(data)
        path.symlink_to(outside / path.name)
    else:
        path.symlink_to(path.name if what == "link to itself" else "nothing")
    files.changed.append(path)
    return f"{what} at {path}"


def truncated_member(files: Files) -> str | None:
    """A gzip file ends within a member, or at the end of one, or its own length of a member is another one."""
    found = _content(files, ".fsz", ".deltafsz", "blobs.gz", ".tar.gz", at_least=40)
    if found is None:
        return None
    path, data = found
    starts = [match.start() for match in re.finditer(rb"\x1f\x8b\x08", data)]
    if not starts:
        # Damaged before.
        return None
    at = files.random.choice(starts)
    how = files.random.randrange(5)
    if how == 0:
        new = data[:at]
    elif how == 1:
        new = data[: at + files.random.randrange(1, min(40, len(data) - at))]
    elif how == 2:
        new = data[: at + 16] + files.random.randbytes(4) + data[at + 20 :]
    elif how == 3:
        new = data[:-8] + files.random.randbytes(8)
    else:
        # Good gzip of other content, and of the same content packed in another way.
        with contextlib.suppress(OSError, EOFError):
            content = gzip.decompress(data)
            if files.random.random() < 0.7:
                content = content[: len(content) // 2] + b"\x55" + content[len(content) // 2 + 1 :]
            files.put(path, gzip.compress(content))
            return f"packed anew: {path}"
        return None
    files.put(path, new)
    return f"member {how} at {at} of {path}"


_STRANGE_FIELDS = ("0", "4", "-1", "x", "9" * 19, "9" * 400, "\u00b2", "1e3", "", "\udcff", "\0")


def wrong_dat(files: Files) -> str | None:  # noqa: C901 - a list
    """A `.dat` says something else."""
    found = _content(files, ".dat")
    if found is None or not found[1].strip():
        return None
    path, data = found
    lines = data.decode("utf-8", "surrogateescape").splitlines()
    number = files.random.randrange(len(lines))
    fields = lines[number].split(" ")
    how = files.random.randrange(12)
    if how == 0:
        del lines[number]
    elif how == 1:
        lines.insert(number, lines[number])
    elif how == 2:
        files.random.shuffle(lines)
    elif how == 3:
        at = files.random.randrange(len(fields))
        fields[at] = files.random.choice(_STRANGE_FIELDS)
        lines[number] = " ".join(fields)
    elif how == 4 and len(fields) > 3:
        fields[-1] = files.random.randbytes(16).hex()
        lines[number] = " ".join(fields)
    elif how == 5 and len(fields) > 3:
        fields[-2] = str(max(0, int(fields[-2]) + files.random.choice((-1, 1, 100, 1 << 40))))
        lines[number] = " ".join(fields)
    elif how == 6 and len(fields) > 3:
        fields[-3] = str(max(0, int(fields[-3]) + files.random.choice((-1, 1, 100))))
        lines[number] = " ".join(fields)
    elif how == 7:
        folder = files.random.choice(("/etc/", "../../", "/a b/", "./", "\udcfe/"))
        fields[0] = folder + fields[0].rsplit("/", 1)[-1]
        lines[number] = " ".join(fields)
    elif how == 8:
        fields[0] = files.random.choice([other.name for other in files.of_data()])
        lines[number] = " ".join(fields)
    elif how == 9:
        lines = lines[: max(1, number)]
    elif how == 10:
        files.put(path, data[:-1])
        return f"no line feed at the end of {path}"
    else:
        lines.append(files.random.choice(("", "x", "a b c d", lines[0])))
    files.put(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
    return f".dat {how} of line {number} in {path}"


_STRANGE: tuple[object, ...] = (
    None, True, 0, 1, -1, 1 << 62, 1 << 64, 10**300, 1.5, float("inf"), float("nan"), "", "x", "\u2028\n",
    "../../etc/passwd",
    "0" * 16, "f" * 16, "0x00", [], ["x"], ["0x00/0x00"], [1], {}, {"a": []}, "pool", "archives", "directories", "lawn",
    "9999-12-31-23-59-59", "2026-11-23T18:05:00Z", "a" * 100_000, "\ud800",
)  # fmt: skip


def wrong_record(files: Files) -> str | None:
    """A record, or a file of checks, is JSON still, and says something else."""
    found = _content(files, ".json")
    if found is None:
        return None
    path, data = found
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict):
        return None
    inner = values.get("blobs")
    into = inner if isinstance(inner, dict) and files.random.random() < 0.4 else values
    if not into:
        return None
    key = files.random.choice(sorted(into))
    how = files.random.randrange(4)
    if how == 0:
        del into[key]
    elif how == 1 and isinstance(into[key], int) and not isinstance(into[key], bool):
        into[key] = max(0, into[key] + files.random.choice((-1, 1, 1000)))
    elif how == 1 and isinstance(into[key], str) and into[key]:
        at = files.random.randrange(len(into[key]))
        into[key] = into[key][:at] + files.random.choice("0123456789abcdef") + into[key][at + 1 :]
    else:
        into[key] = files.random.choice(_STRANGE)
    files.put(path, json.dumps(values).encode())
    return f"record {how}, {key} = {str(into.get(key, 'gone'))[:40]!r} in {path}"


def deep_json(files: Files) -> str | None:
    """JSON that is no object, or nested deeply."""
    path = files.draw(".json")
    if path is None:
        return None
    data = files.random.choice(
        (b"[" * 200_000, b'{"a":' * 100_000, b"null", b"[]", b'"x"', b"1" * 5000, b"\xff\xfe", b"{}")
    )
    files.put(path, data)
    return f"{data[:10]!r}... in {path}"


def unpacked_manifest(path: Path) -> list[bytes]:
    """The lines of a manifest without its closing line."""
    return gzip.decompress(path.read_bytes()).splitlines(keepends=True)[:-1]


def packed_manifest(lines: list[bytes]) -> bytes:
    """A manifest of these lines, with a closing line that fits."""
    text = b"".join(lines)
    closing = b"=\t%d\t%s\n" % (text.count(b"\n"), hashlib.sha256(text).hexdigest().encode())
    return gzip.compress(text + closing)


def wrong_manifest(files: Files) -> str | None:
    """A manifest says something else, and its closing line fits."""
    path = files.draw("blobs.gz")
    if path is None or path.is_symlink():
        return None
    try:
        lines = unpacked_manifest(path)
    except (OSError, EOFError):
        return None
    if not lines:
        return None
    number = files.random.randrange(len(lines))
    fields = lines[number].rstrip(b"\n").split(b"\t")
    how = files.random.randrange(9)
    if how == 0:
        del lines[number]
    elif how == 1:
        lines.insert(number, lines[number])
    elif how == 2:
        files.random.shuffle(lines)
    elif how == 3:
        fields[files.random.randrange(len(fields))] = files.random.choice(
            (
                b"",
                b"x",
                b"0",
                b"-1",
                b"9" * 19,
                b"9" * 5000,
                b"../../../etc/passwd",
                b"/etc/passwd",
                b"\xff",
                b"\0",
                b"-",
            )
        )
        lines[number] = b"\t".join(fields) + b"\n"
    elif how == 4 and len(fields) == 4:
        fields[3] = hashlib.sha256(fields[3]).hexdigest().encode()
        lines[number] = b"\t".join(fields) + b"\n"
    elif how == 5 and len(fields) == 4:
        fields[2] = b"%d" % max(0, int(fields[2]) + files.random.choice((-1, 1, 1 << 40)))
        lines[number] = b"\t".join(fields) + b"\n"
    elif how == 6 and len(fields) == 4:
        fields[1] = fields[1].replace(b"0x0", b"0x1", 1)
        lines[number] = b"\t".join(fields) + b"\n"
    elif how == 7 and len(fields) == 4:
        lines[number] = b"-\t" + fields[1] + b"\n"
    else:
        lines = lines[: max(1, number)]
    files.put(path, packed_manifest(lines))
    return f"manifest {how} at line {number} of {path}"


def changed_blob(files: Files) -> str | None:
    """A blob has another content: of the same size, of another, or another blob's."""
    if files.blob_location is None:
        return None
    blobs = [path for path in files.every() if path.name.endswith(".blob")]
    if not blobs:
        return changed_archive(files)
    path = files.random.choice(blobs)
    data = path.read_bytes()
    new = files.random.choice(
        (files.random.randbytes(len(data)), data[:-1], data + b"x", files.random.choice(blobs).read_bytes())
    )
    if new == data:
        return None
    _put_under_all_its_names(files, path, new)
    return f"blob {path} has {len(new)} other bytes"


def _put_under_all_its_names(files: Files, path: Path, data: bytes) -> None:
    """A disk's damage shows under every hard link of a file in the repository, and only there: a copy shares more."""
    inode = os.lstat(path).st_ino
    names = [other for other in files.every() if os.lstat(other).st_ino == inode]
    files.put(path, data)
    for other in names:
        if other != path:
            other.unlink()
            os.link(path, other)


def changed_archive(files: Files) -> str | None:
    """An archive has other content in a member, lacks one, or has one twice; it is a good archive still."""
    found = _content(files, ".tar", ".tar.gz")
    if found is None:
        return None
    path, _ = found
    try:
        with tarfile.open(path) as tar:
            members = [(member, (tar.extractfile(member).read() if member.isreg() else b"")) for member in tar]  # type: ignore[union-attr]
    except (tarfile.TarError, OSError, EOFError):
        return None
    blobs = [number for number, (member, _) in enumerate(members) if member.name.endswith(".blob")]
    if not blobs:
        return None
    number = files.random.choice(blobs)
    member, content = members[number]
    how = files.random.randrange(5)
    if how == 0:
        del members[number]
    elif how == 1:
        members.append((member, files.random.randbytes(len(content))))
        member.size = len(content)
    elif how == 2:
        members[number] = (member, files.random.randbytes(len(content)))
    elif how == 3:
        members[number] = (member, content[:-1])
        member.size = len(content[:-1])
    else:
        other = tarfile.TarInfo(member.name)
        other.type = files.random.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE))
        other.linkname = "/etc/passwd"
        members[number] = (other, b"")
    import io

    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz" if path.name.endswith(".gz") else "w", format=tarfile.GNU_FORMAT) as tar:
        for each, data in members:
            if each.isreg() or each.name.endswith(".blob") or each.isdir():
                tar.addfile(each, io.BytesIO(data) if each.isreg() else None)
    files.put(path, out.getvalue())
    return f"archive {how}, member {member.name} of {path}"


def wrong_header(files: Files) -> str | None:
    """A member's header of an archive says something else, and its checksum fits."""
    found = _content(files, ".tar", ".tar.gz")
    if found is None:
        return None
    path, data = found
    is_compressed = data[:2] == b"\x1f\x8b"
    try:
        content = bytearray(gzip.decompress(data) if is_compressed else data)
        with tarfile.open(path) as tar:
            offsets = [member.offset for member in tar]
    except (tarfile.TarError, OSError, EOFError):
        return None
    if not offsets:
        return None
    offset = files.random.choice(offsets)
    at = files.random.choice((156, files.random.randrange(124, 136), files.random.randrange(512)))
    content[offset + at] = files.random.choice((0, 0x30, 0x37, 0x80, 0xFF, *b"LKxgSD5127", files.random.randrange(256)))
    head = content[offset : offset + 512]
    content[offset + 148 : offset + 156] = b"%06o\0 " % (sum(head[:148]) + sum(head[156:]) + 8 * 0x20)
    files.put(path, gzip.compress(bytes(content)) if is_compressed else bytes(content))
    return f"header at {offset}, byte {at} of {path}"


def strange_identity(files: Files) -> str | None:
    """The marks of a location are other ones: id, layout, latest."""
    places = [files.location, *([files.blob_location] if files.blob_location is not None else [])]
    marks = [path for path in files.every() if path.name in (".zodbvault.id", ".layout", "latest")]
    if not marks:
        return None
    path = files.random.choice(marks)
    if path.name == "latest":
        path.unlink()
        path.symlink_to(files.random.choice(("nothing", "/etc", "..", "latest")))
        files.changed.append(path)
        return f"{path} leads elsewhere"
    data = files.random.choice(
        (b"lawn", b"bushy", b"zeocache", b"", b"x" * 100_000, b"\xff\n\n", path.read_bytes() + b"1")
    )
    files.put(path, data)
    return f"{data[:10]!r} in {path} of {len(places)}"


MUTATIONS: tuple[Callable[[Files], str | None], ...] = (
    flip, flip, cut, extend, empty, zero_out, delete, delete_folder, swap, duplicate, rename, other_thing,
    truncated_member, wrong_dat, wrong_dat, wrong_record, wrong_record, deep_json, wrong_manifest, wrong_manifest,
    changed_blob, changed_blob, changed_archive, wrong_header, strange_identity,
)  # fmt: skip


def damage(files: Files) -> list[str]:
    """Some damage, mostly of one kind; what was done."""
    done: list[str] = []
    number = files.random.choice((1, 1, 1, 1, 2, 3))
    for _ in range(60):
        what = files.random.choice(MUTATIONS)(files)
        if what is not None:
            done.append(what)
        if len(done) == number:
            break
    return done


# What must hold


class Broken(AssertionError):
    """Something that must hold did not."""


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Broken("hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(LONGEST_CASE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without log lines: thousands of cases warn."""
    logger = logging.getLogger("zodbvault")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def attempted(what: str, command: Callable[[], Any]) -> tuple[Any, ZodbvaultError | None]:
    """What a command gives, or its error. Raises Broken for any exception that is none of ours, or not one line."""
    try:
        return command(), None
    except ZodbvaultError as error:
        if "\n" in str(error) or not str(error).isprintable():
            raise Broken(f"{what}: the error is not one printable line: {error}") from error
        return None, error
    except Broken:
        raise
    except BaseException as error:
        raise Broken(f"{what}: {type(error).__name__}: {error}") from error


class Case:
    """One case: a copy of a good site, damaged. tell: what was done and seen, for whoever has to look into it."""

    def __init__(self, good: Good, folder: Path, seed: int) -> None:
        self.good = good
        self.random = random.Random(seed)
        self.site = copy_of(good, folder)
        self.files = Files(
            self.site.location,
            None if self.site.blob_storage is None else self.site.blob_location,
            self.random,
        )
        # Of blobs that another program backed up nobody knows checksums.
        has_blobs = self.site.blob_storage is not None
        self.has_sums = has_blobs and any(name.endswith("blobs.gz") for name in os.listdir(self.site.blob_location))
        self.told: list[str] = []
        # Whether the last restore found no backup: a chain that does not exist is vouched for by nobody.
        self.is_gone = False
        self.seen: dict[str, str] = {}

    def tell(self, what: str) -> None:
        self.told.append(what)

    def run(self) -> None:
        """Damage, look, restore each date, back up, restore that."""
        self.site.options["keep"] = self.random.choice(("0", "0", "1", "2"))
        before = sizes_of(self.files)
        for what in damage(self.files):
            self.tell(what)
        self.check()
        self.judge(before)

    def judge(self, before: dict[Path, int]) -> None:
        """Everything that must hold of what is damaged now. before: sizes of the files when all was good."""
        with quiet(), _in_time():
            good = self.look()
            restored = self.restore_all(good)
            self.back_up(before, restored)

    def check(self) -> None:
        """A case without damage would test nothing."""
        assert self.told, "nothing could be damaged"

    def look(self) -> set[str]:
        """The commands that only look; the timestamps of the backups that verify vouches for."""
        site, clock = self.site, self.site.clock
        stamp = self.random.choice(sorted(self.good.states))
        attempted("list", lambda: list_backups(site.settings, when=None, which="all", clock=clock))
        attempted("list DATE", lambda: list_backups(site.settings, when=stamp, which="backups", clock=clock))
        attempted("check", self.check_backups)
        attempted("report", lambda: report(site.settings, which="all", thresholds=Thresholds(), clock=clock))
        attempted("prune", lambda: prune(site.settings, which="all", dry_run=True, clock=clock))
        good: set[str] = set()
        for date in (None, *self.good.states):
            result, _ = attempted(f"verify {date}", lambda date=date: self.verify(date))  # type: ignore[misc]
            if result is not None and result.good:
                good.add(date or "everything")
        # What verify has kept is shown.
        attempted("list again", lambda: list_backups(site.settings, when=None, which="all", clock=clock))
        attempted("check again", self.check_backups)
        return good

    def check_backups(self) -> Any:
        site, thresholds = self.site, Thresholds()
        return check(site.settings, which="all", thresholds=thresholds, metrics=None, clock=site.clock)

    def verify(self, when: str | None) -> Any:
        deep = self.random.random() < 0.2
        how = DEEP if deep else DEFAULT
        return verify(self.site.settings, when=when, how=how, which="backups", clock=self.site.clock)

    def fresh_target(self, *, empty: bool) -> None:
        """The live site as it was, or none."""
        for name in ("filestorage", "blobstorage"):
            shutil.rmtree(self.site.var / name, ignore_errors=True)
            origin = self.good.site.var / name
            if origin.exists() and not empty:
                _link_tree(origin, self.site.var / name)
        self.site.datafs.parent.mkdir(parents=True, exist_ok=True)

    def restore_one(self, date: str, states: dict[str, State], *, empty: bool) -> str | None:
        """Restore one date; the timestamp that came back, None for an error. Raises Broken for anything else."""
        self.fresh_target(empty=empty)
        where = "into nothing" if empty else "over the site"
        result, error = attempted(
            f"restore {date} {where}",
            lambda: restore(
                self.site.settings,
                source="location",
                when=date,
                ask=None,
                clock=self.site.clock,
                accept_missing_blobs=False,
                checksum=False,
            ),
        )
        self.is_gone = isinstance(error, NothingThere)
        if error is not None:
            self.tell(f"restore {date} {where}: {error}")
            self.require_untouched(states, empty=empty, what=f"restore {date} {where}: {error}")
            return None
        self.require_state(states, result.timestamp, f"restore {date} {where}")
        return str(result.timestamp)

    def require_untouched(self, states: dict[str, State], *, empty: bool, what: str) -> None:
        live = self.good.live
        assert live is not None
        data = self.site.datafs.read_bytes() if self.site.datafs.exists() else None
        if empty:
            if data is not None and data not in [state.data for state in states.values()]:
                raise Broken(f"{what}, and a wrong Data.fs stands there")
            return
        if data != self.good.site.datafs.read_bytes():
            raise Broken(f"{what}, but Data.fs is another one")
        blobs = self.site.blobs
        if any(blobs.get(key) != content for key, content in live.blobs.items()):
            raise Broken(f"{what}, but blobs of the site were touched")

    def require_state(self, states: dict[str, State], stamp: str, what: str) -> None:
        data = self.site.datafs.read_bytes()
        fitting = [states[stamp]] if stamp in states else [state for state in states.values() if state.data == data]
        # A file that got another timestamp brings back what it holds, and says so.
        if not fitting or data != fitting[0].data:
            raise Broken(f"{what}: said to be {stamp}, but the data are others")
        state, blobs = fitting[0], self.site.blobs
        wrong = [key for key, content in state.needed.items() if blobs.get(key) != content]
        if wrong and (self.has_sums or not any(map(_holds_blobs, self.files.changed))):
            raise Broken(f"{what}: {stamp} has {len(wrong)} wrong or missing blobs: {wrong[:3]}")

    def restore_all(self, good: set[str]) -> set[str]:
        """Restore each date; the timestamps that came back."""
        came_back: set[str] = set()
        for date in self.good.states:
            empty = self.random.random() < 0.5
            stamp = self.restore_one(date, self.good.states, empty=empty)
            if stamp is not None:
                came_back.add(stamp)
            elif vouching := good & ({date} if self.is_gone else {date, "everything"}):
                raise Broken(f"verify called {vouching} good, and {date} does not restore: {self.told[-1]}")
        return came_back

    def back_up(self, before: dict[Path, int], restored: set[str]) -> None:
        """A backup after it: it restores, or verify says that it does not; nothing that restored is lost."""
        self.fresh_target(empty=False)
        site = self.site
        visible = cheaply_seen(self.files, self.good, before)
        full = self.random.random() < 0.3
        result, error = attempted("backup", lambda: site.backup(full=full))
        if error is not None:
            self.tell(f"backup: {error}")
            self.seen["backup"] = re.sub(r"[0-9][-0-9a-fx]+|/\S+", "_", str(error))
            return
        stamp = result.timestamp
        if stamp is None:
            raise Broken(f"the backup says that nothing changed: {result.summary}")
        self.tell(f"backup: {result.summary}")
        is_full = any(f"{stamp}{suffix}" in site.names() for suffix in (".fsz", ".fs"))
        if visible and not is_full:
            raise Broken(f"the backup was built on what is seen to be broken: {visible}")
        live = self.good.live
        assert live is not None
        states = {**self.good.states, stamp: live}
        checked, _ = attempted("verify the new one", lambda: self.verify(stamp))
        is_good = checked is not None and checked.good
        for empty in (False, True):
            came = self.restore_one(stamp, states, empty=empty)
            if came not in (stamp, None):
                raise Broken(f"{stamp} was just made, and {came} came back")
            if came is None and is_good:
                raise Broken(f"verify called the new {stamp} good, and it does not restore: {self.told[-1]}")
            if came is None and is_full and not any(_holds_blobs(path) for path in self.files.changed):
                raise Broken(f"a new full does not restore: {self.told[-1]}")
        self.require_nothing_lost(states, restored)

    def require_nothing_lost(self, states: dict[str, State], restored: set[str]) -> None:
        """What came back before the backup and was not pruned comes back after it."""
        left = [date for date in sorted(restored & self.good.states.keys()) if _is_listed(self.site.location, date)]
        if left:
            date = self.random.choice(left)
            # With the live site's blobs: a state of another program may have needed them before too.
            if self.restore_one(date, states, empty=False) is None:
                raise Broken(f"{date} came back before the backup, and does not now: {self.told[-1]}")


def _is_listed(location: Path, date: str) -> bool:
    dats = location.glob("*.dat")
    return any(date in dat.read_text(errors="replace") for dat in dats if dat.is_file() and not dat.is_symlink())


def _holds_blobs(path: Path) -> bool:
    """Whether the content of blobs, or what a file system tells of them, was changed: only reading shows that."""
    return ".blob" in path.name or ".tar" in path.name or split_name(path.name) is None


def sizes_of(files: Files) -> dict[Path, int]:
    """The size of every file."""
    return {path: os.lstat(path).st_size for path in files.every()}


def cheaply_seen(files: Files, good: Good, before: dict[Path, int]) -> str | None:
    """Damage of the newest chain that a look at names and sizes shows."""
    newest_full = max(name[:19] for name in good.site.names() if name.endswith(".fsz"))
    changed_suffixes = {parts[1] for path in files.changed if (parts := split_name(path.name))}
    for path, size in before.items():
        parts = split_name(path.name)
        if parts is None or parts[0] < newest_full:
            continue
        status = os.lstat(path) if os.path.lexists(path) else None
        is_file = status is not None and not path.is_symlink() and path.is_file()
        is_data = parts[1] in (".fsz", ".deltafsz")
        if is_data and not is_file and ".dat" not in changed_suffixes:
            return f"{path} is no file any more"
        # The newest record knows all sizes.
        knows = _has_records(good) and not changed_suffixes & {".dat", ".json"}
        is_seen = knows and (is_data or parts[1].endswith("blobs.gz"))
        if is_seen and (not is_file or status is None or status.st_size != size):
            return f"{path} had {size} bytes"
    return _record_seen(files, good)


def _has_records(good: Good) -> bool:
    return any(name.endswith(".json") for name in good.site.names())


def _record_seen(files: Files, good: Good) -> str | None:
    """Whether the record of the newest backup that a `.dat` names cannot be read any more."""
    newest = max(good.states)
    path = files.location / f"{newest}.json"
    if not _has_records(good) or not path.is_file() or path.is_symlink() or not _is_listed(files.location, newest):
        return None
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return f"{path} is no record any more"
    return None if isinstance(values, dict) and "end" in values else f"{path} is no record any more"
