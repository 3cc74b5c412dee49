"""The library that disturbs calls sees all that the kernel sees: whatever it missed would never be tried."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.faults.disturbing import CHANGE, FULL, HALF, Point, disturbed
from tests.faults.recording import STRACE, is_change, parse_log
from tests.faults.scenarios import SCENARIOS
from tests.layouts import LAYOUTS

if TYPE_CHECKING:
    from pathlib import Path

# The names of the same thing in the C library and in a recording.
_KINDS = {
    "open64": "open",
    "open": "open",
    "openat64": "open",
    "write": "write",
    "pwrite64": "write",
    "mkdir": "mkdir",
    "rmdir": "rmdir",
    "unlink": "unlink",
    "fsync": "sync",
    "fchmod": "chmod",
    "chmod": "chmod",
    "fchown": "chown",
    "futimens": "utime",
    "utimensat": "utime",
    "ftruncate64": "truncate",
    "rename": "rename",
    "link": "link",
    "linkat": "link",
    "symlink": "symlink",
    "syncfs": "sync_all",
    "copy_file_range": "copy",
    "sendfile64": "copy",
}
_MAY_FAIL = frozenset({"ioctl", "unlinkat"})
_TWO_NAMES = frozenset({"rename", "link"})


@pytest.mark.parametrize("layout", ["pool", "directories", "compressed incremental archives"])
@pytest.mark.parametrize("scenario", ["full that prunes", "restore over other blobs"])
def test_every_change_that_strace_sees_is_counted(workshop: Path, tmp_path: Path, scenario: str, layout: str) -> None:
    assert layout in LAYOUTS
    start = SCENARIOS[scenario].start(tmp_path / "site", layout)
    log = tmp_path / "strace"
    outcome = disturbed(
        [*STRACE, "-E", f"LD_PRELOAD={workshop / 'interposer.so'}", "-o", str(log), *start.command],
        {key: value for key, value in start.environment.items() if key != "LD_PRELOAD"},
        library=None,
        root=start.site.var,
        log=tmp_path / "calls",
    )
    assert outcome.exit_code == 0, outcome.stderr
    seen = Counter(
        (call.kind, call.other if call.kind in _TWO_NAMES else call.path)
        for call in parse_log(log.read_text("ascii"), [str(start.site.var)])
        if is_change(call) or (call.kind == "open" and call.may_write)
    )
    counted = Counter(
        (_KINDS.get(call.name, call.name), call.path.removesuffix(" (deleted)"))
        for call in outcome.calls
        if call.series == CHANGE and call.name not in _MAY_FAIL
    )
    # rmtree goes by the descriptors of folders.
    removed = Counter(call.path for call in outcome.calls if call.name == "unlinkat")
    missed = {
        one: number
        for one, number in (seen - counted).items()
        if not (one[0] in ("unlink", "rmdir") and removed[one[1]])
    }
    assert len(seen) > 20
    assert not missed


def test_half_a_write_and_a_full_disk(workshop: Path, tmp_path: Path) -> None:
    start = SCENARIOS["incremental"].start(tmp_path / "site")
    keywords = {"library": workshop / "interposer.so", "root": start.site.var, "log": tmp_path / "calls"}
    outcome = disturbed(start.command, start.environment, **keywords)  # type: ignore[arg-type]
    (first, *_) = [call for call in outcome.calls if call.name == "write" and call.path.endswith(".part")]
    assert outcome.exit_code == 0
    start.site.commit_pages()
    start.site.close()
    half = disturbed(start.command, start.environment, point=Point(CHANGE, first.number, HALF), **keywords)  # type: ignore[arg-type]
    assert half.exit_code == 0
    # What was left is written by another call.
    assert [call.name for call in half.calls if call.series == CHANGE][first.number + 1] == "write"
    start.site.commit_pages()
    start.site.close()
    full = disturbed(start.command, start.environment, point=Point(CHANGE, first.number, FULL), **keywords)  # type: ignore[arg-type]
    assert full.exit_code == 1
    assert "No space left on device" in full.stderr
