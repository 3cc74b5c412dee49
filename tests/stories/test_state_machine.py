"""Whatever happens to a site, in whatever order: every backup brings back what was there when it was made.

The model is plain: for each backup the bytes and blobs of that moment. Its expectations follow from bytes alone: what
was live is equal to the newest backup (no changes), begins with it (incremental), or neither (full).
"""

from __future__ import annotations

import itertools
import logging
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ZODB.scripts import repozo

from tests.faults.disturbing import fast_folder
from tests.layouts import LAYOUTS
from tests.site import Site, State, copy_without_times, seconds, timestamp, tree

if TYPE_CHECKING:
    from collections.abc import Callable

logging.getLogger("ZODB").setLevel(logging.CRITICAL)
logging.getLogger("txn").setLevel(logging.CRITICAL)

# About one step in twenty is a child process: two steps in five are commands of ours.
SCRIPTS = st.sampled_from([False] * 7 + [True])
# The pool more often than the others: it is what most have.
BLOB_OPTIONS: list[dict[str, str]] = [*[{}] * 8, *LAYOUTS.values()]
WORK_FOLDER = fast_folder()


class Repository:
    """What the model knows of one repository: the states of its chains, oldest first."""

    def __init__(self) -> None:
        self.chains: list[dict[str, State]] = []

    def states(self) -> dict[str, State]:
        """All states that can be restored, by timestamp."""
        return {stamp: state for chain in self.chains for stamp, state in chain.items()}

    def newest(self) -> State | None:
        """The state of the newest backup."""
        return list(self.chains[-1].values())[-1] if self.chains else None

    def prune(self, keep: int) -> None:
        """The newest `keep` chains stay; 0 keeps all."""
        if keep:
            self.chains = self.chains[-keep:]

    def at(self, when: str | None) -> State | None:
        """What a restore for `when` has to bring."""
        stamps = [stamp for stamp in self.states() if when is None or stamp <= when]
        return self.states()[stamps[-1]] if stamps else None


class LifeOfASite(RuleBasedStateMachine):
    """Steps are what an application, an administrator and a clock may do."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="zodbvault-life-", dir=WORK_FOLDER))
        self.moves = itertools.count()
        self.repository = Repository()
        self.snapshots = Repository()

    def teardown(self) -> None:
        self.site.close()
        shutil.rmtree(self.folder)

    @initialize(
        layout=st.sampled_from(["bushy", "bushy", "lawn"]),
        keep=st.sampled_from([0, 0, 1, 2, 3]),
        seed=st.integers(0, 2**32),
        blob_options=st.sampled_from(BLOB_OPTIONS),
    )
    def a_new_site(self, layout: str, keep: int, seed: int, blob_options: dict[str, str]) -> None:
        # The database's own tids come from the real clock.
        start = timestamp(time.time() + 86400)
        self.keep = keep
        options = {"keep": str(keep), **blob_options}
        self.site = Site(self.folder / "site", layout=layout, options=options, start=start, seed=seed)
        # A blobstorage without any blob counts as one that is not mounted once a backup has blobs.
        self.site.begin_with_a_blob()

    # What the application does

    @rule(number=st.integers(1, 5), size=st.sampled_from([100, 5000]))
    def commit(self, number: int, size: int) -> None:
        self.site.commit_pages(number, size)

    @rule(number=st.integers(1, 3))
    def commit_blobs(self, number: int) -> None:
        # Few names, so that most are changes of a blob, which can be undone.
        self.site.commit_blobs(number, names=4)

    @rule()
    def delete(self) -> None:
        self.site.delete()

    @rule(back=st.sampled_from([0, 0, 0, 1, 2, 4]))
    def undo(self, back: int) -> None:
        self.site.undo(back)

    @rule(with_blob=st.booleans())
    def abort(self, with_blob: bool) -> None:
        self.site.abort(with_blob=with_blob)

    @rule(with_blob=st.booleans())
    def commit_while_a_backup_runs(self, with_blob: bool) -> None:
        before = self.site.state()
        self.site.commit_while(lambda: self._backup(self.site.backup, before=before), with_blob=with_blob)

    @rule(keep_old=st.booleans(), ago=st.sampled_from([0.0, 0.0, 0.02, 0.1]))
    def pack(self, keep_old: bool, ago: float) -> None:
        self.site.pack(keep_old=keep_old, until=time.time() - ago)

    @rule(how=st.sampled_from(["cut", "voted"]), keep=st.floats(0, 1), with_blob=st.booleans())
    def crash(self, how: str, keep: float, with_blob: bool) -> None:
        self.site.crash(how, keep, with_blob=with_blob)

    @rule()
    def stop(self) -> None:
        self.site.close()

    # What the administrator does

    @rule(full=st.sampled_from([False, False, False, True]), script=SCRIPTS)
    def backup(self, full: bool, script: bool) -> None:
        if script:
            self._backup(lambda: self._command("backup", *(["--full"] if full else [])), full=full)
        else:
            self._backup(lambda: self.site.backup(full=full), full=full)

    @rule(script=SCRIPTS)
    def snapshot(self, script: bool) -> None:
        location = Path(self.site.settings.snapshotlocation)
        before = set(self.site.timestamps(location))
        if script:
            self._command("snapshotbackup")
        else:
            self.site.snapshot()
        (new,) = set(self.site.timestamps(location)) - before
        self.snapshots.chains.append({new: self.site.state()})
        self.snapshots.prune(self.keep)
        assert self.site.timestamps(location) == list(self.snapshots.states())

    @precondition(lambda self: self.repository.chains)
    @rule(which=st.integers(0, 60), later=st.sampled_from([0, 0, 1, 30]), script=SCRIPTS, newest=st.booleans())
    def restore(self, which: int, later: int, script: bool, newest: bool) -> None:
        when = None if newest else self._date(self.repository, which, later)
        expected = self.repository.at(when)
        assert expected is not None
        self.site.close()
        if script:
            self._command("restore", "--no-prompt", *([] if when is None else [when]))
        else:
            self.site.restore(when)
        self.site.assert_is(expected)

    @precondition(lambda self: self.snapshots.chains)
    @rule(which=st.integers(0, 60), script=SCRIPTS)
    def restore_a_snapshot(self, which: int, script: bool) -> None:
        when = self._date(self.snapshots, which, 0)
        expected = self.snapshots.at(when)
        assert expected is not None
        self.site.close()
        if script:
            self._command("snapshotrestore", "--no-prompt", when)
        else:
            self.site.restore(when, source="snapshot")
        self.site.assert_is(expected)

    @precondition(lambda self: self.repository.chains)
    @rule(which=st.integers(0, 60))
    def restore_elsewhere(self, which: int) -> None:
        when = self._date(self.repository, which, 0)
        expected = self.repository.at(when)
        assert expected is not None
        other = self.site.standby(self.folder / f"standby{next(self.moves)}")
        other.restore(when)
        other.assert_is(expected)
        other.close()
        shutil.rmtree(other.folder)

    @precondition(lambda self: self.repository.chains)
    @rule(which=st.integers(0, 60))
    def restore_with_repozo(self, which: int) -> None:
        when = self._date(self.repository, which, 0)
        expected = self.repository.at(when)
        assert expected is not None
        output = self.folder / "by-repozo.fs"
        repozo.main(["-R", "-r", str(self.site.location), "-D", when, "-o", str(output)])
        assert output.read_bytes() == expected.data

    @precondition(lambda self: self.repository.chains)
    @rule(deep=st.booleans())
    def verify(self, deep: bool) -> None:
        report = self.site.verify(deep=deep)
        assert report.good, report.lines

    @precondition(lambda self: self.repository.chains)
    @rule()
    def move_the_backups(self) -> None:
        """Copied without their times to another disk, where they are carried on."""
        number = next(self.moves)
        for option in ("location", "blobbackuplocation"):
            old = Path(self.site.plain_options()[option])
            new = self.folder / f"disk{number}" / option
            shutil.copytree(old, new, symlinks=True, copy_function=copy_without_times)
            shutil.rmtree(old)
            self.site.options[option] = str(new)

    @rule(seconds_=st.sampled_from([-86400 * 3, -3600, -61, -60, -59, 3600, 86400]))
    def set_the_clock(self, seconds_: int) -> None:
        self.site.set_clock(timestamp(self.site.clock.now() + seconds_))

    @rule(keep=st.sampled_from([0, 1, 2, 3]))
    def change_keep(self, keep: int) -> None:
        self.keep = keep
        self.site.options["keep"] = str(keep)

    @rule(blob_options=st.sampled_from(BLOB_OPTIONS))
    def change_the_layout_of_blobs(self, blob_options: dict[str, str]) -> None:
        for name in {name for options in BLOB_OPTIONS for name in options}:
            self.site.options.pop(name, None)
        self.site.options.update(blob_options)

    # What always holds

    @invariant()
    def the_repository_holds_what_the_model_knows(self) -> None:
        if hasattr(self, "site"):
            assert self.site.timestamps() == list(self.repository.states())

    # How

    def _backup(self, run: Callable[[], Any], *, full: bool = False, before: State | None = None) -> None:
        """A backup, and what it has to have done. before: the state that is live where that cannot be read now."""
        state = before or self.site.state()
        newest = self.repository.newest()
        stamps = self.site.timestamps()
        files = tree(self.site.location) if self.site.location.exists() else {}
        run()
        new = [stamp for stamp in self.site.timestamps() if stamp not in stamps]
        chain = self.repository.chains[-1] if self.repository.chains else None
        if not full and newest is not None and state.data == newest.data:
            assert not new
            assert set(tree(self.site.location)) <= set(files)
        else:
            (stamp,) = new
            assert not stamps or stamp > stamps[-1]
            if not full and newest is not None and chain is not None and state.data.startswith(newest.data):
                chain[stamp] = state
                assert f"{stamp}.deltafsz" in self.site.names()
            else:
                self.repository.chains.append({stamp: state})
                assert f"{stamp}.fsz" in self.site.names()
        self.repository.prune(self.keep)

    def _command(self, name: str, *arguments: str) -> None:
        finished = self.site.command(name, "-q", *arguments)
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout == ""
        assert "Traceback" not in finished.stderr

    @staticmethod
    def _date(repository: Repository, which: int, later: int) -> str:
        """A date for which there is a state: one of the timestamps or some seconds later."""
        stamps = list(repository.states())
        return timestamp(seconds(stamps[which % len(stamps)]) + later)


LifeOfASite.TestCase.settings = settings(
    # An example has up to 30 steps, on average two thirds of that: twice the profile's number makes up for it.
    max_examples=2 * settings.default.max_examples,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestLifeOfASite = LifeOfASite.TestCase
