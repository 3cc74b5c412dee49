"""The blobs' part of a restore: added before the swap of Data.fs, removed after it.

More blobs never hurt the old database, so adding is safe at any time; removing waits until the new one is in place.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.containers import DamagedBlob
from zodbvault.blobs.layouts import BUSHY, OID_SIZE, key_of_bushy
from zodbvault.blobs.manifest import DamagedManifest, manifest_layout, merge_state
from zodbvault.blobs.opening import opened_container, opened_state
from zodbvault.blobs.pool import without
from zodbvault.blobs.target import (
    AddOutcome,
    LeftOut,
    RestorePlan,
    Target,
    add_blobs,
    finish_replacements,
    open_target,
    plan_restore,
    remove_blobs,
)
from zodbvault.commands.summary import plural
from zodbvault.commands.written_manifests import require_as_written
from zodbvault.errors import ZodbvaultError
from zodbvault.io.progress import step
from zodbvault.io.sizes import size_text
from zodbvault.io.space import require_space
from zodbvault.repository.store import read_repository

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from zodbvault.blobs.containers import Container
    from zodbvault.blobs.manifest import Entry
    from zodbvault.commands.blob_choices import BlobChoice
    from zodbvault.commands.choosing import Choice
    from zodbvault.commands.restore_choice import Request
    from zodbvault.filestorage.checking import CheckedRange
    from zodbvault.repository.store import Repository
    from zodbvault.settings import Settings

logger = logging.getLogger("zodbvault")


class Expected(NamedTuple):
    """What a restore will do to the blobs of a site. choice: the state in use; None where none is known.

    add, add_size: number and bytes of the blobs that the site lacks or has damaged. remove: how many of its blobs the
    state does not have. is_certain: False where they are removed only if the state has every blob that the data refer
    to, which shows when these are read.
    """

    choice: BlobChoice | None
    add: int
    add_size: int
    remove: int
    is_certain: bool


class BlobRestore:
    """The blobs of one state and the blobstorage that gets them; does nothing for a site without blobs.

    choices: the states that may serve, the best one first; where one turns out not to be whole the next one is taken.
    is_judged: whether judge() will follow: where no manifest tells the state, none is taken then, and the site itself
    has to have all that the data refer to.
    is_proved: says whether records prove the manifests of a state to be those that were written, and raises where they
    are others. missing: blobs that the site had lost already when the backup was made, as paths in bushy layout.
    accept_missing: go on without blobs that nobody has, the fewest that can be: where no state is whole, the one that
    has most of what is needed serves then. is_shared: whether the blobstorage has blobs of other databases too, which
    no backup of this one knows.
    """

    def __init__(
        self,
        blob_storage: Path | None,
        location: Path | None,
        choices: Sequence[BlobChoice],
        missing: tuple[str, ...],
        scratch: Path,
        *,
        is_proved: Callable[[BlobChoice], bool],
        checksum: bool,
        accept_missing: bool,
        is_shared: bool,
        is_judged: bool,
    ) -> None:
        self._blob_storage = blob_storage if location is not None else None
        self._location = location
        self._choices = choices
        self._missing = missing
        self._scratch = scratch
        self._checksum = checksum
        self._accept_missing = accept_missing
        self._leaves_out = False
        self._is_shared = is_shared
        self._is_judged = is_judged
        self._prove = is_proved
        self._is_proved = False
        self._number = 0
        self._first_error: ZodbvaultError | None = None
        self._said: tuple[int, bool] | None = None
        self._last_tid: bytes | None = None
        # What is open for the state in use; state and site are compared once, and what came of it is worked off later.
        self._opened = contextlib.ExitStack()
        self._container: Container | None = None
        self._target: Target | None = None
        self._plan: RestorePlan | None = None
        self._is_whole = False
        self._added = AddOutcome(0, 0, 0, LeftOut())
        self._removed = 0

    def __enter__(self) -> BlobRestore:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def check_before_writing(self, last_tid: bytes | None, *, is_known: bool, also_needed: int = 0) -> None:
        """See that the manifests are whole, that what will be needed is there, and that there is space for it.

        last_tid: of the data, where it is known already (is_known). also_needed: bytes that will be written in the
        same file system before the blobs. Raises ZodbvaultError with nothing changed.
        """
        if self.compare(last_tid, is_known=is_known):
            self.say_what_is_taken()
            self._require_space(also_needed)

    def compare(self, last_tid: bytes | None, *, is_known: bool) -> bool:
        """Compare state and site; False where that has to wait for the data. Arguments as in check_before_writing()."""
        if self._blob_storage is None or (not is_known and self._is_later_than_data):
            return False
        self._last_tid = last_tid
        self._take_first_that_can_be_read()
        if not is_known and self._is_later_than_data:
            self._plan = None
        return self._plan is not None

    def say_what_is_taken(self) -> None:
        """Warn, once, where the best state is not whole: another one, none, or what there is of it is in use."""
        in_use = (self._number, self._leaves_out)
        if self._first_error is None or self._plan is None or self._said == in_use:
            return
        self._said = in_use
        choice, why = self._choice, self._first_error.sentence
        if choice is None:
            logger.warning("%s All blobs that the data refer to have to be in %s.", why, self._blob_storage)
            return
        if self._number:
            doubt = "" if choice.is_exact else ", which may lack blobs"
            logger.warning("%s Another state is taken%s: %s, from %s.", why, doubt, choice.timestamp, choice.place)
        if self._plan.left_out.number:
            self._say_left_out(self._plan.left_out, "lacks, or has in another size,")

    def expected(self) -> Expected | None:
        """What the comparison says that is to be done; None before it, and without blobs."""
        if self._plan is None or self._target is None:
            return None
        choice = self._choice
        is_exact = choice is not None and choice.is_exact
        removes = not self._is_shared and choice is not None and (is_exact or choice.is_of_date)
        gone = (
            sum(1 for _ in without(((key, 0) for key in self._plan.not_in_state), iter(self._lost()))) if removes else 0
        )
        return Expected(choice, self._plan.blobs, self._plan.bytes, gone, is_certain=is_exact or not removes)

    def doubt(self) -> ZodbvaultError | None:
        """What is wrong with the known state of the data, where one is in use that may lack blobs; else None."""
        is_in_doubt = self._plan is not None and (self._choice is None or not self._choice.is_exact)
        return self._first_error if is_in_doubt else None

    @property
    def timestamp(self) -> str:
        """That of the state in use."""
        return "" if self._choice is None else self._choice.timestamp

    def judge(self, checked: CheckedRange, referenced: Iterable[bytes]) -> None:
        """Decide whether data and blobs fit together. Nothing of the site has been changed yet.

        referenced: the blobs that the restored data refer to, in the order of their keys; it is read more than once.
        Raises ZodbvaultError.
        """
        if self._blob_storage is None:
            return
        if self._plan is None or (self._is_later_than_data and self._last_tid != checked.last_tid):
            self.check_before_writing(checked.last_tid, is_known=True)
        self._last_tid = checked.last_tid
        missing = self._take_one_that_has(referenced)
        if missing and self._accept_missing and self._first_error is not None and self._choice is not None:
            fewest = self._take_one_that_lacks_fewest(referenced)
            if fewest is None:
                raise self._first_error
            missing = fewest
            self._require_space()
            self.say_what_is_taken()
        assert self._target is not None
        is_certain = self._is_certain(referenced)
        self._is_whole = is_certain or (missing == 0 and not checked.encrypted)
        if missing == 0 and (is_certain or not checked.encrypted):
            return
        what = f"{plural(missing, 'blob')} that the data refer to" if missing else "blobs that the data may refer to"
        if is_certain and not self._leaves_out:
            logger.warning("%s: not in the backup; the site had lost them when it was made.", what)
        elif self._accept_missing:
            logger.warning("%s: neither in the backup nor in %s; restored without.", what, self._target.folder)
        else:
            raise self._refusal(what, self._target.folder)

    def _refusal(self, what: str, folder: Path) -> ZodbvaultError:
        """Why nothing is restored where blobs are missing: the state that may have them could not be read, or has not.

        what: the blobs. folder: the blob storage.
        """
        hint = "Nothing was changed. Choose another date, or go on with --accept-missing-blobs."
        why = self._first_error
        if why is None:
            return ZodbvaultError(f"{what}: neither in the backup nor in the blob storage", path=folder, hint=hint)
        if isinstance(why, DamagedManifest):
            hint = (
                "Nothing was changed. Fetch this file from another copy of the backups; else choose another date, or "
                "go on with --accept-missing-blobs."
            )
        where = f"neither another state nor {folder} has" if self._choice is not None else f"{folder} does not have"
        return ZodbvaultError(f"{why.what}; {where} {what}", path=why.path, hint=hint)

    def _take_first_that_can_be_read(self) -> None:
        """Compare the site with the state in use, or with the next that can be read, or with none where that will do.

        Raises the first one's error.
        """
        errors: list[ZodbvaultError] = []
        for number in range(self._number, max(len(self._choices), 1)):
            error = self._tried(number)
            if error is None:
                return
            errors.append(error)
            self._first_error = self._first_error or error
        if self._accept_missing and self._take_one_that_lacks_fewest() is not None:
            return
        if not self._is_judged or not isinstance(self._first_error, DamagedManifest):
            raise errors[0]
        self._take(len(self._choices))

    def _take_one_that_lacks_fewest(self, referenced: Iterable[bytes] | None = None) -> int | None:
        """Of the states that can be read take the one that lacks the fewest of these blobs; how many that are.

        Those that its container cannot give are left out. referenced: None where nobody knows yet; the best state that
        can be read is taken then. Returns None where none can be read.
        """
        fewest: tuple[int, int] | None = None
        for number in range(len(self._choices)):
            if self._tried(number, leaves_out=True) is not None:
                continue
            assert self._plan is not None
            missing = 0 if referenced is None else self._plan.count_missing(referenced)
            fewest = (missing, number) if fewest is None else min(fewest, (missing, number))
            if missing == 0:
                break
        if fewest is None:
            return None
        missing, number = fewest
        if number != self._number:
            self._take(number, leaves_out=True)
        return missing

    def _say_left_out(self, left_out: LeftOut, what: str) -> None:
        """Tell of blobs that are not restored. what: what is wrong with them in the container."""
        assert self._container is not None
        logger.warning(
            "%s %s %s of the state, such as %s. All others are restored.",
            self._container.folder,
            what,
            plural(left_out.number, "blob"),
            ", ".join(left_out.examples),
        )

    def _take_one_that_has(self, referenced: Iterable[bytes]) -> int:
        """Take the first state, from the one in use on, that has all these blobs; how many the one taken lacks.

        Where none has them, the one that was in use stays.
        """
        assert self._plan is not None
        begun, leaves_out, missing = self._number, self._leaves_out, self._plan.count_missing(referenced)
        if missing == 0 or self._choice is None or self._is_certain(referenced):
            return missing
        for number in range(begun + 1, len(self._choices)):
            if self._tried(number) is None and self._plan.count_missing(referenced) == 0:
                self._require_space()
                choice = self._choices[number]
                logger.info("The blobs are those of %s, from %s, which has all.", choice.timestamp, choice.place)
                return 0
        self._take(begun, leaves_out=leaves_out)
        return missing

    def _is_certain(self, referenced: Iterable[bytes]) -> bool:
        """Whether the state in use is the one of the data, so that what it lacks was lost when it was made.

        Where no record proves its manifests, only the blobs that the backup's record lists as lost may be missing.
        """
        if self._choice is None or not self._choice.is_exact:
            return False
        assert self._plan is not None
        return self._is_proved or self._plan.count_missing(referenced, self._lost()) == 0

    def _lost(self) -> list[bytes]:
        """The keys of the blobs that the site had lost already, in their order."""
        return sorted(key for path in self._missing if (key := key_of_bushy(path)) is not None)

    def _tried(self, number: int, *, leaves_out: bool = False) -> ZodbvaultError | None:
        """Take a state; why it cannot be taken, where it cannot. Raises what no other state would mend."""
        try:
            self._take(number, leaves_out=leaves_out)
        except ZodbvaultError as error:
            if self._is_about_the_site(error):
                raise
            return error
        return None

    def _is_about_the_site(self, error: ZodbvaultError) -> bool:
        """Whether an error tells of the site's own blobs, not of a state's."""
        assert self._blob_storage is not None
        roots = (self._blob_storage, Path(os.path.realpath(self._blob_storage)))
        return error.path is not None and any(Path(error.path).is_relative_to(root) for root in roots)

    def _take(self, number: int, *, leaves_out: bool = False) -> None:
        """Open a state and compare the site with it. Raises ZodbvaultError where it cannot be read or lacks blobs.

        leaves_out: blobs that it lacks are left out instead.
        """
        self._opened.close()
        self._number, self._leaves_out = number, leaves_out
        self._plan = None
        assert self._blob_storage is not None
        assert self._location is not None
        choice = self._choice
        self._is_proved = choice is not None and self._prove(choice)
        if choice is not None and choice.complete is None:
            state = self._opened.enter_context(opened_state(choice.stored, self._scratch))
            self._container, layout, all_entries = state, state.layout, state.blobs()
        else:
            stored = () if choice is None else choice.stored
            self._container = self._opened.enter_context(opened_container(self._location, stored, self._scratch))
            layout = BUSHY if choice is None or choice.complete is None else manifest_layout(choice.complete)
            all_entries = _nothing() if choice is None else entries_of(choice, self._scratch)
        self._target = self._opened.enter_context(open_target(self._blob_storage, layout))
        with contextlib.closing(all_entries):
            entries = self._of_the_data(all_entries)
            plan = plan_restore(
                entries,
                self._container,
                self._target,
                self._scratch,
                checksum=self._checksum,
                accept_missing=leaves_out,
            )
        self._plan = self._opened.enter_context(contextlib.closing(plan))

    def _of_the_data(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The entries of a state; of one that is later than the data without its later blobs."""
        if not self._is_later_than_data:
            return iter(entries)
        return (entry for entry in entries if entry.key[OID_SIZE:] <= (self._last_tid or b""))

    def _require_space(self, also_needed: int = 0) -> None:
        """Refuse to add blobs where the disk has no room. also_needed: bytes that are written there before them."""
        assert self._plan is not None
        assert self._target is not None
        with_data = " and the new Data.fs" if also_needed else ""
        what_for = f"for {plural(self._plan.blobs, 'blob')} that the site lacks{with_data}"
        require_space(self._target.folder, self._plan.bytes + also_needed, what_for)

    def add(self, referenced: Iterable[bytes] = ()) -> None:
        """Add the blobs that the site lacks; durable on return.

        Where one turns out to be damaged, the next state that has all of `referenced` is taken: what was added before
        is checked, and stays. Where there is none, the damaged ones are left out if that is accepted, else the first
        error is raised.
        """
        while self._choice is not None and self._target is not None:
            assert self._plan is not None
            assert self._container is not None
            begun = self._number
            try:
                with step("blobs", self._plan.bytes) as on_progress:
                    self._added = add_blobs(
                        self._plan, self._container, self._target, on_progress, accept_missing=self._leaves_out
                    )
            except DamagedBlob as error:
                # What was added before counts as there from now on, so its names have to be on the disk too.
                self._target.finish()
                if self._go_on_to_next(referenced, error):
                    continue
                if not self._accept_missing or self._leaves_out:
                    raise
                self._take(begun, leaves_out=True)
            else:
                if self._added.left_out.number:
                    self._say_left_out(self._added.left_out, "has damaged copies of")
                return

    def _go_on_to_next(self, referenced: Iterable[bytes], why: ZodbvaultError) -> bool:
        """Take the next state that is known to be of use for the data; whether there is one."""
        for number in range(self._number + 1, len(self._choices)):
            choice = self._choices[number]
            is_of_use = choice.is_exact and (choice.is_of_date or choice.is_later)
            if not is_of_use or self._tried(number) is not None:
                continue
            assert self._plan is not None
            if self._plan.count_missing(referenced, self._lost()) == 0:
                logger.warning(
                    "%s The blobs are taken from another state: %s, from %s.",
                    why.sentence,
                    choice.timestamp,
                    choice.place,
                )
                return True
        return False

    def remove(self, referenced: Iterable[bytes]) -> None:
        """Remove the blobs that the restored state does not have; none where nobody knows that of each blob."""
        if self._target is None:
            return
        choice = self._choice
        # What is not ours tells the state of its date, once it is seen to have all that the data refer to.
        is_known = choice is not None and (choice.is_exact or (choice.is_of_date and self._is_whole))
        if not is_known or self._is_shared:
            finish_replacements(self._target)
            return
        assert self._plan is not None
        self._removed = remove_blobs(self._plan, referenced, self._lost(), self._target)

    def finish(self) -> None:
        """Take away what was set aside, and remove nothing else."""
        if self._target is not None:
            finish_replacements(self._target)

    def summary(self) -> str:
        """The end of the line that says what was done."""
        if self._target is None:
            return ""
        added = f", {plural(self._added.added, 'blob')} added ({size_text(self._added.bytes)})"
        replaced = f", {self._added.replaced:,} damaged ones replaced" if self._added.replaced else ""
        return f"{added}{replaced}, {self._removed:,} removed"

    @property
    def _choice(self) -> BlobChoice | None:
        """The state in use; None for none."""
        return self._choices[self._number] if self._number < len(self._choices) else None

    @property
    def _is_later_than_data(self) -> bool:
        return self._choice is not None and self._choice.is_later


def blob_restore(
    settings: Settings, repository: Repository, choice: Choice, scratch: Path, request: Request
) -> BlobRestore:
    """The blobs' part of a restore of a chosen state. settings: those of the target."""
    record = repository.record_of(choice.chain.newest)
    missing = record.blobs.missing if record is not None and record.blobs is not None else ()
    return BlobRestore(
        settings.blob_storage,
        repository.blob_location,
        choice.blob_choices,
        missing,
        scratch,
        is_proved=lambda state: require_as_written(repository, state),
        checksum=request.checksum,
        accept_missing=request.accept_missing_blobs,
        is_shared=settings.shared_blob_storage,
        is_judged=request.has_data(settings),
    )


def restore_of_blobs_alone(
    settings: Settings, location: Path, states: Sequence[BlobChoice], scratch: Path, request: Request
) -> BlobRestore:
    """The restore of a site whose blobs alone are backed up: no data tell what may be missing.

    settings: those of the target. location: the folder of states, records and blobs.
    """
    repository = read_repository(location, location)
    return BlobRestore(
        settings.blob_storage,
        location,
        states,
        (),
        scratch,
        is_proved=lambda state: require_as_written(repository, state),
        checksum=request.checksum,
        accept_missing=request.accept_missing_blobs,
        is_shared=settings.shared_blob_storage,
        is_judged=False,
    )


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
