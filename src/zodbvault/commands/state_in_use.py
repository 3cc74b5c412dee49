"""The state of blobs that serves a restore: the first of those that may, opened and compared with the site.

Where one turns out not to be whole the next one is taken. Changes nothing of the site; what is done with the state in
use is in restore_blobs.py.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.layouts import BUSHY, OID_SIZE, key_of_bushy
from zodbvault.blobs.manifest import DamagedManifest, manifest_layout, merge_state
from zodbvault.blobs.opening import opened_container, opened_state
from zodbvault.blobs.target import open_target, plan_restore
from zodbvault.errors import ZodbvaultError
from zodbvault.io.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from zodbvault.blobs.containers import Container
    from zodbvault.blobs.manifest import Entry
    from zodbvault.blobs.target import RestorePlan, Target
    from zodbvault.commands.blob_choices import BlobChoice


class States(NamedTuple):
    """The states that may serve, and how they are read.

    location: the folder of their blobs. choices: the best one first. missing: blobs that the site had lost already when
    the backup was made, as paths in bushy layout. is_proved: says whether records prove the manifests of a state to be
    those that were written, and raises where they are others. checksum: compare the content of blobs, not only sizes.
    accept_missing: do without blobs that nobody has. is_judged: whether the data will tell which blobs are needed, so
    that any state may be tried, and none where no manifest can be read: the site itself may have them all.
    """

    location: Path
    choices: Sequence[BlobChoice]
    missing: tuple[str, ...]
    is_proved: Callable[[BlobChoice], bool]
    checksum: bool
    accept_missing: bool
    is_judged: bool


class StateInUse(Closing):
    """One of some states, compared with a blob storage. A context manager: close() lets go of all that is open.

    number: which one of the choices; choice: the same, None for none. leaves_out: whether blobs that its container
    cannot give are left out. container, target, plan: of the comparison; no plan before it. last_tid: that of the data,
    once it is known. first_error: why the best state is not in use, where that is so.
    """

    def __init__(self, states: States, blob_storage: Path, scratch: Path) -> None:
        self.number = 0
        self.leaves_out = False
        self.container: Container | None = None
        self.target: Target | None = None
        self.plan: RestorePlan | None = None
        self.last_tid: bytes | None = None
        self.first_error: ZodbvaultError | None = None
        self._states = states
        self._blob_storage = blob_storage
        self._scratch = scratch
        self._is_proved = False
        self._opened = contextlib.ExitStack()

    def close(self) -> None:
        """Let go of state, site and plan."""
        self._opened.close()

    @property
    def choice(self) -> BlobChoice | None:
        """The state in use; None for none."""
        choices = self._states.choices
        return choices[self.number] if self.number < len(choices) else None

    @property
    def is_later_than_data(self) -> bool:
        """Whether only the blobs up to the last tid of the data are of the state."""
        return self.choice is not None and self.choice.is_later

    @property
    def is_in_doubt(self) -> bool:
        """Whether the state in use is not known to be that of the data."""
        return self.plan is not None and (self.choice is None or not self.choice.is_exact)

    @property
    def is_known(self) -> bool:
        """Whether records prove the state in use to be the one of the data, so that these need not be read for it."""
        return self.plan is not None and self.choice is not None and self.choice.is_exact and self._is_proved

    @property
    def is_compared_by_content(self) -> bool:
        """Whether the content of the site's blobs was compared with what the state in use is known to hold."""
        return self._states.checksum and self.choice is not None and self.choice.complete is not None

    def lost(self) -> list[bytes]:
        """The keys of the blobs that the site had lost when the backup was made, in their order."""
        return sorted(key for path in self._states.missing if (key := key_of_bushy(path)) is not None)

    def is_certain(self, referenced: Iterable[bytes]) -> bool:
        """Whether the state in use is the one of the data, so that what it lacks was lost when it was made.

        Where no record proves its manifests, only the blobs that the backup's record lists as lost may be missing.
        """
        if self.choice is None or not self.choice.is_exact:
            return False
        assert self.plan is not None
        return self._is_proved or self.plan.count_missing(referenced, self.lost()) == 0

    def take_first_that_can_be_read(self) -> None:
        """Take the state in use, or the next that can be read, or none where that will do.

        Raises the first one's error.
        """
        errors: list[ZodbvaultError] = []
        for number in range(self.number, max(len(self._states.choices), 1)):
            if not self._may_serve(number):
                continue
            error = self._tried(number)
            if error is None:
                return
            errors.append(error)
            self.first_error = self.first_error or error
        if self._states.accept_missing and self.take_one_that_lacks_fewest() is not None:
            return
        if not self._states.is_judged or not isinstance(self.first_error, DamagedManifest):
            raise errors[0]
        self.take(len(self._states.choices))

    def take_one_that_has(self, referenced: Iterable[bytes]) -> int:
        """Take the first state, from the one in use on, that has all these blobs; how many the one taken lacks.

        Where none has them, the one that was in use stays.
        """
        assert self.plan is not None
        begun, leaves_out, missing = self.number, self.leaves_out, self.plan.count_missing(referenced)
        if missing == 0 or self.choice is None or self.is_certain(referenced):
            return missing
        for number in range(begun + 1, len(self._states.choices)):
            if self._tried(number) is None and self.plan.count_missing(referenced) == 0:
                return 0
        self.take(begun, leaves_out=leaves_out)
        return missing

    def take_one_that_lacks_fewest(self, referenced: Iterable[bytes] | None = None) -> int | None:
        """Of the states that can be read take the one that lacks the fewest of these blobs; how many that are.

        Those that its container cannot give are left out. referenced: None where nobody knows yet; the best state that
        can be read is taken then. Returns None where none can be read.
        """
        fewest: tuple[int, int] | None = None
        for number in range(len(self._states.choices)):
            if self._tried(number, leaves_out=True) is not None:
                continue
            assert self.plan is not None
            missing = 0 if referenced is None else self.plan.count_missing(referenced)
            fewest = (missing, number) if fewest is None else min(fewest, (missing, number))
            if missing == 0:
                break
        if fewest is None:
            return None
        missing, number = fewest
        if number != self.number:
            self.take(number, leaves_out=True)
        return missing

    def take_next_of_use(self, referenced: Iterable[bytes]) -> bool:
        """Take the next state that is known to be of use for data that refer to these blobs; whether there is one.

        Where there is none, the state that was in use has to be taken again.
        """
        for number in range(self.number + 1, len(self._states.choices)):
            choice = self._states.choices[number]
            is_of_use = choice.is_exact and (choice.is_of_date or choice.is_later)
            if not is_of_use or self._tried(number) is not None:
                continue
            assert self.plan is not None
            if self.plan.count_missing(referenced, self.lost()) == 0:
                return True
        return False

    def take(self, number: int, *, leaves_out: bool = False) -> None:
        """Open a state and compare the site with it. Raises ZodbvaultError where it cannot be read or lacks blobs.

        leaves_out: blobs that it lacks are left out instead.
        """
        self._opened.close()
        self.number, self.leaves_out = number, leaves_out
        self.plan = None
        choice, location = self.choice, self._states.location
        self._is_proved = choice is not None and self._states.is_proved(choice)
        if choice is not None and choice.complete is None:
            state = self._opened.enter_context(opened_state(choice.stored, self._scratch))
            self.container, layout, all_entries = state, state.layout, state.blobs()
        else:
            stored = () if choice is None else choice.stored
            self.container = self._opened.enter_context(opened_container(location, stored, self._scratch))
            layout = BUSHY if choice is None or choice.complete is None else manifest_layout(choice.complete)
            all_entries = _nothing() if choice is None else entries_of(choice, self._scratch)
        self.target = self._opened.enter_context(open_target(self._blob_storage, layout))
        with contextlib.closing(all_entries):
            plan = plan_restore(
                self._of_the_data(all_entries),
                self.container,
                self.target,
                self._scratch,
                checksum=self._states.checksum,
                accept_missing=leaves_out,
            )
        self.plan = self._opened.enter_context(contextlib.closing(plan))

    def _may_serve(self, number: int) -> bool:
        """Whether a state may stand in for the best one, where that is not whole.

        Where nobody will see what a state lacks, one that is not that of the data would lack more than the few blobs
        that the best one has lost; it serves where nothing is known of that one.
        """
        if self.first_error is None or self._states.is_judged or isinstance(self.first_error, DamagedManifest):
            return True
        return self._states.choices[number].is_exact

    def _of_the_data(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The entries of a state; of one that is later than the data without its later blobs."""
        if not self.is_later_than_data:
            return iter(entries)
        return (entry for entry in entries if entry.key[OID_SIZE:] <= (self.last_tid or b""))

    def _tried(self, number: int, *, leaves_out: bool = False) -> ZodbvaultError | None:
        """Take a state; why it cannot be taken, where it cannot. Raises what no other state would mend."""
        try:
            self.take(number, leaves_out=leaves_out)
        except ZodbvaultError as error:
            if self._is_about_the_site(error):
                raise
            return error
        return None

    def _is_about_the_site(self, error: ZodbvaultError) -> bool:
        """Whether an error tells of the site's own blobs, not of a state's."""
        roots = (self._blob_storage, Path(os.path.realpath(self._blob_storage)))
        return error.path is not None and any(Path(error.path).is_relative_to(root) for root in roots)


def entries_of(choice: BlobChoice, scratch: Path) -> Generator[Entry, None, None]:
    """The entries of a state, in the order of their keys; of another program's state without sha256.

    scratch: a folder for temporary files. Raises ZodbvaultError.
    """
    if choice.complete is not None:
        yield from merge_state(choice.complete, choice.deltas, scratch)
        return
    with opened_state(choice.stored, scratch) as state, contextlib.closing(state.blobs()) as blobs:
        yield from blobs


def _nothing() -> Generator[Entry, None, None]:
    yield from ()
