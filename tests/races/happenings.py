"""What may happen to a site while it is backed up, and what may come of it.

Everything happens to a real FileStorage, in the same process; the databases that ever were are noted on the way.
"""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING

from tests.site import State, committed_part, committed_tids, referenced_blobs

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.site import BlobKey, Site

BIG = 1_300_000
"""Bytes of an object that is more than a block of the copy."""


class History:
    """What a site has been: every Data.fs that was seen, and every blob with its content."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.databases: list[bytes] = []
        self.blobs: dict[BlobKey, bytes] = {}
        self._pending: list[Callable[[], None]] = []

    def note(self) -> None:
        """Look at the site as it is now."""
        data = self.site.data
        if not self.databases or self.databases[-1] != data:
            self.databases.append(data)
        for key, content in self.site.blobs.items():
            assert self.blobs.setdefault(key, content) == content

    def leave_pending(self, *, finished: bool) -> None:
        """A transaction that is voted, and finished or given up only when the backup is over."""
        voted, go_on = threading.Event(), threading.Event()

        def wait() -> None:
            voted.set()
            assert go_on.wait(300)
            if not finished:
                raise GivenUp

        def commit() -> None:
            try:
                self.site.commit_while(wait)
            except GivenUp:
                assert not finished

        thread = threading.Thread(target=commit)
        thread.start()
        assert voted.wait(300)

        def end() -> None:
            go_on.set()
            thread.join(300)
            assert not thread.is_alive()

        self._pending.append(end)

    def end_pending(self) -> None:
        """The backup is over: whatever waited for that."""
        while self._pending:
            self._pending.pop()()

    def require_that_it_was(self, data: bytes, blobs: dict[BlobKey, bytes], since: bytes) -> State:
        """The restored bytes are those of a Data.fs at some moment, and each blob that they refer to is there.

        since: tid of the last transaction before the backup began; it must be there, or what a pack made of it.
        """
        assert committed_part(data) == data, "an unfinished transaction was restored"
        assert any(known.startswith(data) for known in self.databases), "no Data.fs ever began with these bytes"
        tids = [tid for tid, _ in committed_tids(data)]
        assert max(tids) >= since, "what was committed before the backup is not in it"
        state = State(data, blobs, referenced_blobs(data))
        assert state.referenced <= set(blobs), "blobs that the data refer to are not there"
        assert {key: self.blobs[key] for key in state.referenced} == state.needed
        return state


class GivenUp(Exception):
    """The transaction is not to be finished."""


def commit(site: Site, history: History) -> None:
    site.commit_pages(2)
    site.commit_blobs(2)


def big_commit(site: Site, history: History) -> None:
    with site.changing() as root:
        root["big"] = site.random.randbytes(BIG)
    site.commit_blobs(20, size=20_000, names=40)


def delete(site: Site, history: History) -> None:
    for _ in range(3):
        site.delete()


def undo(site: Site, history: History) -> None:
    assert site.undo() or site.undo(1)


def give_up(site: Site, history: History) -> None:
    site.abort()


def pending_and_finished(site: Site, history: History) -> None:
    history.leave_pending(finished=True)


def pending_and_given_up(site: Site, history: History) -> None:
    history.leave_pending(finished=False)


def pack(site: Site, history: History) -> None:
    site.pack()


def pack_keeping_old(site: Site, history: History) -> None:
    shutil.rmtree(f"{site.blob_storage}.old", ignore_errors=True)
    site.pack(keep_old=True)


def commits_around_a_pack(site: Site, history: History) -> None:
    delete(site, history)
    commit(site, history)
    history.note()
    site.pack()
    history.note()
    commit(site, history)


def two_packs(site: Site, history: History) -> None:
    site.pack()
    history.note()
    commit(site, history)
    delete(site, history)
    history.note()
    pack_keeping_old(site, history)


def undo_and_pack(site: Site, history: History) -> None:
    undo(site, history)
    history.note()
    site.pack()


def restart(site: Site, history: History) -> None:
    site.close()
    commit(site, history)


def crash_and_restart(site: Site, history: History) -> None:
    """The server dies behind a vote; the next one cuts off what was not finished, and goes on there."""
    site.crash("voted")
    commit(site, history)


def cut_short_and_restart(site: Site, history: History) -> None:
    site.crash("cut")
    commit(site, history)


EVENTS: tuple[Callable[[Site, History], None], ...] = (
    commit,
    big_commit,
    delete,
    undo,
    give_up,
    pending_and_finished,
    pending_and_given_up,
    pack,
    pack_keeping_old,
    commits_around_a_pack,
    two_packs,
    undo_and_pack,
    restart,
    crash_and_restart,
    cut_short_and_restart,
)
