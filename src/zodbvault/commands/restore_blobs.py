"""The blobs' part of a restore: added before the swap of Data.fs, removed after it.

More blobs never hurt the old database, so adding is safe at any time; removing waits until the new one is in place.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from zodbvault.blobs.containers import DamagedBlob
from zodbvault.blobs.manifest import DamagedManifest
from zodbvault.blobs.pool import without
from zodbvault.blobs.target import AddOutcome, LeftOut, add_blobs, finish_replacements, remove_blobs
from zodbvault.commands.state_in_use import StateInUse, States
from zodbvault.commands.summary import plural
from zodbvault.commands.written_manifests import require_as_written
from zodbvault.errors import ZodbvaultError
from zodbvault.io.closing import Closing
from zodbvault.io.progress import step
from zodbvault.io.sizes import size_text
from zodbvault.io.space import require_space
from zodbvault.repository.store import read_repository

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

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
    to, and these were not read.
    """

    choice: BlobChoice | None
    add: int
    add_size: int
    remove: int
    is_certain: bool


class BlobRestore(Closing):
    """The blobs of one state and the blobstorage that gets them; does nothing for a site without blobs.

    states: those that may serve; None where no blobs are backed up. is_shared: whether the blobstorage has blobs of
    other databases too, which no backup of this one knows. A context manager.
    """

    def __init__(self, blob_storage: Path | None, states: States | None, scratch: Path, *, is_shared: bool) -> None:
        self._state = (
            StateInUse(states, blob_storage, scratch) if blob_storage is not None and states is not None else None
        )
        self._blob_storage = blob_storage
        self._accept_missing = states is not None and states.accept_missing
        self._is_judged = states is not None and states.is_judged
        self._is_shared = is_shared
        self._said: tuple[int, bool] | None = None
        # Whether the state has every blob that the data refer to; None before these are read.
        self._is_whole: bool | None = None
        self._added = AddOutcome()
        # With another state, which took over since; the plan of the one in use finds these there.
        self._added_before = 0
        self._removed = 0

    def close(self) -> None:
        """Let go of all that is open."""
        if self._state is not None:
            self._state.close()

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
        state = self._state
        if state is None or (not is_known and state.is_later_than_data):
            return False
        state.last_tid = last_tid
        state.take_first_that_can_be_read()
        if not is_known and state.is_later_than_data:
            state.plan = None
        return state.plan is not None

    def say_what_is_taken(self) -> None:
        """Warn, once, where the best state is not whole: another one, none, or what there is of it is in use."""
        state = self._state
        if state is None or state.plan is None or state.first_error is None:
            return
        in_use = (state.number, state.leaves_out)
        if self._said == in_use:
            return
        self._said = in_use
        choice, why = state.choice, state.first_error.sentence
        if choice is None:
            logger.warning("%s All blobs that the data refer to have to be in %s.", why, self._blob_storage)
            return
        if state.number:
            doubt = "" if choice.is_exact else ", which may lack blobs"
            logger.warning("%s Another state is taken%s: %s, from %s.", why, doubt, choice.timestamp, choice.place)
        if state.plan.left_out.number:
            _say_left_out(state, state.plan.left_out, "lacks, or has in another size,")

    @property
    def waits_for_data(self) -> bool:
        """Whether only the data can tell if the state that compare() took will do, or which one."""
        return self._state is not None and not self._state.is_known

    def expected(self) -> Expected | None:
        """What the comparison says that is to be done; None before it, and without blobs."""
        state = self._state
        if state is None or state.plan is None:
            return None
        choice, plan = state.choice, state.plan
        is_exact = choice is not None and choice.is_exact
        may_be_whole = self._is_whole if self._is_whole is not None else self._is_judged
        removes = not self._is_shared and self._tells_what_goes(choice, is_whole=may_be_whole)
        gone = sum(1 for _ in without(((key, 0) for key in plan.not_in_state), iter(state.lost()))) if removes else 0
        is_certain = is_exact or not removes or self._is_whole is not None
        return Expected(choice, plan.blobs, plan.bytes, gone, is_certain)

    @staticmethod
    def _tells_what_goes(choice: BlobChoice | None, *, is_whole: bool) -> bool:
        """Whether blobs that a state does not have are to be removed.

        is_whole: it has every blob that the data refer to. What is not ours tells the state of its date then.
        """
        return choice is not None and (choice.is_exact or (choice.is_of_date and is_whole))

    def doubt(self) -> ZodbvaultError | None:
        """What is wrong with the known state of the data, where one is in use that may lack blobs; else None."""
        return self._state.first_error if self._state is not None and self._state.is_in_doubt else None

    @property
    def timestamp(self) -> str:
        """That of the state in use."""
        choice = self._state.choice if self._state is not None else None
        return "" if choice is None else choice.timestamp

    def judge(self, checked: CheckedRange, referenced: Iterable[bytes]) -> None:
        """Decide whether data and blobs fit together. Nothing of the site has been changed yet.

        referenced: the blobs that the restored data refer to, in the order of their keys; it is read more than once.
        Raises ZodbvaultError.
        """
        state = self._state
        if state is None:
            return
        if state.plan is None or (state.is_later_than_data and state.last_tid != checked.last_tid):
            self.check_before_writing(checked.last_tid, is_known=True)
        state.last_tid = checked.last_tid
        missing = self._take_the_best_for(state, referenced, is_encrypted=checked.encrypted)
        is_certain = state.is_certain(referenced)
        self._is_whole = is_certain or (missing == 0 and not checked.encrypted)
        if missing == 0 and (is_certain or not checked.encrypted):
            return
        what = f"{plural(missing, 'blob')} that the data refer to" if missing else "blobs that the data may refer to"
        if is_certain and not state.leaves_out:
            logger.warning("%s: not in the backup; the site had lost them when it was made.", what)
        elif self._accept_missing:
            logger.warning("%s: neither in the backup nor in %s; restored without.", what, self._blob_storage)
        else:
            raise self._refusal(state, what)

    def _take_the_best_for(self, state: StateInUse, referenced: Iterable[bytes], *, is_encrypted: bool) -> int:
        """Take the first state that has all these blobs, else, if that is accepted, the one that lacks the fewest.

        is_encrypted: the data may refer to others, which only their own state is known to have. Returns how many the
        one taken lacks.
        """
        begun = state.number
        missing = state.take_one_that_has(referenced)
        choice = state.choice
        if state.number != begun and choice is not None:
            self._require_space()
            # Whoever was told that another one is taken is told that it is not.
            level = logging.INFO if state.first_error is None else logging.WARNING
            logger.log(level, "The blobs are those of %s, from %s, which has all.", choice.timestamp, choice.place)
        is_settled = missing == 0 and (not is_encrypted or state.is_certain(referenced))
        if not is_settled and self._accept_missing and state.first_error is not None and choice is not None:
            fewest = state.take_one_that_lacks_fewest(referenced)
            if fewest is None:
                raise state.first_error
            missing = fewest
            self._require_space()
            self.say_what_is_taken()
        return missing

    def _refusal(self, state: StateInUse, what: str) -> ZodbvaultError:
        """Why nothing is restored where blobs are missing: the state that may have them could not be read, or has not.

        what: the blobs.
        """
        hint = "Nothing was changed. Choose another date, or go on with --accept-missing-blobs."
        why, folder = state.first_error, self._blob_storage
        if why is None:
            return ZodbvaultError(f"{what}: neither in the backup nor in the blob storage", path=folder, hint=hint)
        if isinstance(why, DamagedManifest):
            hint = (
                "Nothing was changed. Fetch this file from another copy of the backups; else choose another date, or "
                "go on with --accept-missing-blobs."
            )
        where = f"neither another state nor {folder} has" if state.choice is not None else f"{folder} does not have"
        return ZodbvaultError(f"{why.what}; {where} {what}", path=why.path, hint=hint)

    def _require_space(self, also_needed: int = 0) -> None:
        """Refuse to add blobs where the disk has no room. also_needed: bytes that are written there before them."""
        assert self._state is not None
        assert self._blob_storage is not None
        plan = self._state.plan
        assert plan is not None
        with_data = " and the new Data.fs" if also_needed else ""
        what_for = f"for {plural(plan.blobs, 'blob')} that the site lacks{with_data}"
        require_space(self._blob_storage, plan.bytes + also_needed, what_for)

    def add(self, referenced: Iterable[bytes] = ()) -> None:
        """Add the blobs that the site lacks; durable on return.

        Where one turns out to be damaged, the next state that has all of `referenced` is taken: what was added before
        is checked, and stays. Where there is none, the damaged ones are left out if that is accepted, else the first
        error is raised.
        """
        state = self._state
        while state is not None and state.choice is not None and state.target is not None:
            begun = state.number
            try:
                _add(state, self._added)
            except DamagedBlob as error:
                # What was added before counts as there from now on, so its names have to be on the disk too.
                state.target.finish()
                self._added_before = self._added.added + self._added.replaced
                if state.take_next_of_use(referenced):
                    _say_that_another_serves(error, state.choice)
                elif self._accept_missing and not state.leaves_out:
                    state.take(begun, leaves_out=True)
                else:
                    raise
            else:
                if self._added.left_out.number:
                    _say_left_out(state, self._added.left_out, "has damaged copies of")
                return

    def remove(self, referenced: Iterable[bytes]) -> None:
        """Remove the blobs that the restored state does not have; none where nobody knows that of each blob."""
        state = self._state
        if state is None or state.target is None:
            return
        assert state.plan is not None
        if self._is_shared or not self._tells_what_goes(state.choice, is_whole=bool(self._is_whole)):
            finish_replacements(state.plan, state.target)
            return
        self._removed = remove_blobs(state.plan, referenced, state.lost(), state.target)

    def finish(self) -> None:
        """Take away what was set aside, and remove nothing else."""
        state = self._state
        if state is not None and state.plan is not None and state.target is not None:
            finish_replacements(state.plan, state.target)

    def summary(self) -> str:
        """The end of the line that says what was done."""
        if self._state is None or self._state.target is None:
            return ""
        added = f", {plural(self._added.added, 'blob')} added ({size_text(self._added.bytes)})"
        replaced = f", {self._added.replaced:,} damaged ones replaced" if self._added.replaced else ""
        number = 0 if self._state.plan is None else self._state.plan.kept - self._added_before
        how = "content" if self._state.is_compared_by_content else "name and size"
        kept = f", {number:,} kept (same {how})" if number > 0 else ""
        return f"{added}{replaced}, {self._removed:,} removed{kept}"


def _add(state: StateInUse, outcome: AddOutcome) -> None:
    """Add what the site lacks of the state in use, and count it."""
    assert state.plan is not None
    assert state.container is not None
    assert state.target is not None
    with step("blobs", state.plan.bytes) as on_progress:
        add_blobs(
            state.plan, state.container, state.target, on_progress, accept_missing=state.leaves_out, outcome=outcome
        )


def _say_that_another_serves(why: ZodbvaultError, choice: BlobChoice) -> None:
    what = "%s The blobs are taken from another state: %s, from %s."
    logger.warning(what, why.sentence, choice.timestamp, choice.place)


def _say_left_out(state: StateInUse, left_out: LeftOut, what: str) -> None:
    """Tell of blobs that are not restored. what: what is wrong with them in the container."""
    assert state.container is not None
    blobs, examples = plural(left_out.number, "blob"), ", ".join(left_out.examples)
    folder = state.container.folder
    logger.warning("%s %s %s of the state, such as %s. All others are restored.", folder, what, blobs, examples)


def blob_restore(
    settings: Settings, repository: Repository, choice: Choice, scratch: Path, request: Request
) -> BlobRestore:
    """The blobs' part of a restore of a chosen state. settings: those of the target."""
    record = repository.record_of(choice.chain.newest)
    missing = record.blobs.missing if record is not None and record.blobs is not None else ()
    states = _states(repository, choice.blob_choices, missing, request, is_judged=request.has_data(settings))
    return BlobRestore(settings.blob_storage, states, scratch, is_shared=settings.shared_blob_storage)


def restore_of_blobs_alone(
    settings: Settings, location: Path, choices: Sequence[BlobChoice], scratch: Path, request: Request
) -> BlobRestore:
    """The restore of a site whose blobs alone are backed up: no data tell what may be missing.

    settings: those of the target. location: the folder of states, records and blobs.
    """
    repository = read_repository(location, location)
    states = _states(repository, choices, (), request, is_judged=False)
    return BlobRestore(settings.blob_storage, states, scratch, is_shared=settings.shared_blob_storage)


def _states(
    repository: Repository,
    choices: Sequence[BlobChoice],
    missing: tuple[str, ...],
    request: Request,
    *,
    is_judged: bool,
) -> States | None:
    """The states that may serve a request; None where no blobs are backed up."""
    if repository.blob_location is None:
        return None
    return States(
        repository.blob_location,
        choices,
        missing,
        is_proved=lambda state: require_as_written(repository, state),
        checksum=request.checksum,
        accept_missing=request.accept_missing_blobs,
        is_judged=is_judged,
    )
