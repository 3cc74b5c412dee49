"""Which of several states of blobs serves a restore: small pools, directories and sites, and no data beside them."""

from __future__ import annotations

import os
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.blobs.sites import Blobs, entries, files_below, gone, key, put, tid, write_manifest
from tests.leaks import no_descriptor_left
from zodbvault.blobs.containers import DamagedBlob
from zodbvault.blobs.layouts import bushy_path
from zodbvault.blobs.manifest import DamagedManifest, Entry
from zodbvault.blobs.pool import Pool
from zodbvault.blobs.stored import Form, Stored
from zodbvault.commands.blob_choices import BlobChoice
from zodbvault.commands.state_in_use import StateInUse, States, entries_of
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zodbvault.blobs.layouts import Layout
    from zodbvault.blobs.target import RestorePlan

ONE, TWO, THREE, FOUR = (key(oid) for oid in range(1, 5))
A, B, C, D = ({each: b"blob" * each[7]} for each in (ONE, TWO, THREE, FOUR))
FIRST, SECOND, THIRD, FOURTH = (f"2026-11-{day}-18-05-00" for day in (20, 21, 22, 23))


class Place:
    """A site with its blobs, and a location with a pool, manifests and directories."""

    def __init__(self, folder: Path) -> None:
        self.site = folder / "site" / "blobstorage"
        self.location = folder / "backups"
        self.location.mkdir()
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.pool = Pool(self.location)
        self.pool.prepare()

    def in_pool(self, *blobs: Blobs) -> None:
        for each in blobs:
            put(self.pool.folder, "bushy", each)

    def at_site(self, *blobs: Blobs) -> None:
        for each in blobs:
            put(self.site, "bushy", each)

    def state(self, stamp: str, blobs: Blobs, layout: Layout = "bushy", **flags: Any) -> BlobChoice:
        """A state of ours in the pool."""
        path = self.location / f"{stamp}.blobs.gz"
        write_manifest(path, entries(blobs), layout)
        return BlobChoice(stamp, path, **flags)

    def directory(self, stamp: str, blobs: Blobs, layout: Layout = "bushy", **flags: Any) -> BlobChoice:
        """A state that another program has in a directory."""
        folder = self.location / f"blobstorage.{stamp}"
        put(folder / "blobstorage", layout, blobs)
        stored = Stored(folder, "blobstorage", Form.DIRECTORY, None, stamp)
        return BlobChoice(stamp, None, stored=(stored,), **{"is_exact": False, **flags})

    def in_use(
        self,
        *choices: BlobChoice,
        missing: tuple[str, ...] = (),
        is_proved: Callable[[BlobChoice], bool] = lambda _: True,
        checksum: bool = False,
        accept_missing: bool = False,
        is_judged: bool = True,
    ) -> StateInUse:
        states = States(self.location, choices, missing, is_proved, checksum, accept_missing, is_judged)
        return StateInUse(states, self.site, self.scratch)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# What makes a state one that is not known to be that of the data, and one that is later than they are.
OTHER: dict[str, Any] = {"is_exact": False, "is_of_date": False}
LATER: dict[str, Any] = {"is_of_date": False, "is_later": True}


def damage(choice: BlobChoice) -> BlobChoice:
    """Cut its manifest short."""
    assert choice.complete is not None
    choice.complete.write_bytes(choice.complete.read_bytes()[:-10])
    return choice


def added(state: StateInUse) -> tuple[int, int]:
    """Number and bytes of what a restore would add."""
    assert state.plan is not None
    return state.plan.blobs, state.plan.bytes


def size(*blobs: Blobs) -> int:
    return sum(len(content) for each in blobs for content in each.values())


def damaged_by(state: StateInUse) -> str | None:
    return None if state.first_error is None else state.first_error.path


def test_the_best_state_is_taken_where_it_is_whole(place: Place) -> None:
    place.in_pool(A, B)
    place.at_site(B, C)
    best = place.state(SECOND, A | B)
    with no_descriptor_left(), place.in_use(best, place.state(FIRST, A)) as state:
        assert (state.number, state.choice, state.plan, state.container, state.target) == (0, best, None, None, None)
        assert (state.is_in_doubt, state.is_later_than_data, state.leaves_out) == (False, False, False)
        assert (state.last_tid, state.first_error) == (None, None)
        state.take_first_that_can_be_read()
        assert (state.number, state.choice, state.first_error) == (0, best, None)
        assert (state.is_in_doubt, state.is_later_than_data, state.leaves_out) == (False, False, False)
        assert state.plan is not None
        assert added(state) == (1, size(A))
        assert list(state.plan.not_in_state) == [THREE]
        assert state.container is not None
        assert state.container.folder == place.pool.folder
        assert state.target is not None
        assert state.target.folder == place.site


def test_the_next_that_can_be_read_serves_in_its_stead(place: Place) -> None:
    place.in_pool(A, B)
    choices = damage(place.state(THIRD, A | B)), damage(place.state(SECOND, A)), place.state(FIRST, B, **OTHER)
    with no_descriptor_left(), place.in_use(*choices) as state:
        state.take_first_that_can_be_read()
        assert (state.number, state.choice, state.is_in_doubt) == (2, choices[2], True)
        assert damaged_by(state) == str(choices[0].complete)
        assert added(state) == (1, size(B))
        # Asked again, it stays, and so does what was wrong with the best one.
        place.state(SECOND, A)
        state.take_first_that_can_be_read()
        assert (state.number, damaged_by(state)) == (2, str(choices[0].complete))


def test_where_no_manifest_can_be_read_the_data_tell_what_is_needed(place: Place) -> None:
    place.at_site(A)
    choices = damage(place.state(SECOND, A)), damage(place.state(FIRST, A))
    with place.in_use(*choices) as state:
        state.take_first_that_can_be_read()
        assert (state.number, state.choice, state.is_in_doubt, state.is_later_than_data) == (2, None, True, False)
        assert damaged_by(state) == str(choices[0].complete)
        assert state.plan is not None
        assert (added(state), list(state.plan.not_in_state)) == ((0, 0), [ONE])
        assert state.plan.count_missing(sorted(A | B)) == 1
        assert not state.is_certain([ONE])
        state.take_first_that_can_be_read()
        assert (state.number, state.choice) == (2, None)
    with place.in_use(*choices, is_judged=False) as state, pytest.raises(DamagedManifest) as error:
        state.take_first_that_can_be_read()
    assert error.value.path == str(choices[0].complete)


def test_where_no_state_is_known_the_data_tell_what_is_needed(place: Place) -> None:
    for is_judged in (True, False):
        with no_descriptor_left(), place.in_use(is_judged=is_judged) as state:
            state.take_first_that_can_be_read()
            assert (state.number, state.choice, state.is_in_doubt, state.first_error) == (0, None, True, None)
            assert added(state) == (0, 0)
            assert state.target is not None
            assert state.target.layout == "bushy"
            assert state.take_one_that_has([ONE]) == 1
            assert state.take_one_that_lacks_fewest([ONE]) is None


def test_where_the_best_one_lacks_blobs_and_no_other_serves_that_is_the_error(place: Place) -> None:
    """Not that a manifest is damaged, and there is no going on without any state: the best one could be read."""
    choices = place.state(SECOND, A), damage(place.state(FIRST, A))
    with place.in_use(*choices) as state, pytest.raises(DamagedBlob, match=r"lacks 1 of the blobs") as error:
        state.take_first_that_can_be_read()
    assert error.value.path == str(place.pool.folder)
    with place.in_use(*reversed(choices)) as state:
        state.take_first_that_can_be_read()
        assert (state.number, damaged_by(state)) == (2, str(choices[1].complete))


def test_a_state_of_another_date_stands_in_for_one_that_lacks_blobs_only_where_the_data_are_read(place: Place) -> None:
    place.in_pool(B)
    choices = place.state(THIRD, A), place.state(SECOND, B, **OTHER), place.state(FIRST, B, **LATER)
    expected = {True: 1, False: 2}
    for is_judged, number in expected.items():
        with place.in_use(*choices, is_judged=is_judged) as state:
            state.last_tid = tid(1)
            state.take_first_that_can_be_read()
            assert (state.number, state.is_in_doubt) == (number, is_judged)
            assert isinstance(state.first_error, DamagedBlob)
    # Where nothing is known of the best one any serves.
    with place.in_use(damage(choices[0]), *choices[1:], is_judged=False) as state:
        state.take_first_that_can_be_read()
        assert state.number == 1
    with place.in_use(place.state(THIRD, A), choices[1], is_judged=False) as state, pytest.raises(DamagedBlob):
        state.take_first_that_can_be_read()


def test_what_is_wrong_with_the_site_is_no_reason_to_take_another_state(place: Place, tmp_path: Path) -> None:
    place.in_pool(A, B)
    choices = place.state(SECOND, A), place.state(FIRST, B)
    in_the_way = os.path.dirname(bushy_path(ONE))
    (place.site / in_the_way).parent.mkdir(parents=True)
    (place.site / in_the_way).symlink_to(tmp_path)

    def assert_refused(path: Path) -> None:
        with place.in_use(*choices) as state:
            with pytest.raises(ZodbvaultError, match="where a folder of blobs should be") as error:
                state.take_first_that_can_be_read()
            assert error.value.path == str(path)
            assert (state.first_error, state.plan) == (None, None)

    assert_refused(place.site / in_the_way)
    place.site.rename(tmp_path / "elsewhere")
    place.site.symlink_to(tmp_path / "elsewhere")
    assert_refused(tmp_path / "elsewhere" / in_the_way)
    with place.in_use(*choices) as state:
        state.take(1)
        assert added(state) == (1, size(B))


def test_of_a_later_state_only_the_blobs_up_to_the_data_count(place: Place) -> None:
    early, last, late = {key(1, 5): b"early"}, {key(1, 6): b"last"}, {key(1, 7): b"late"}
    place.in_pool(early, last, late)
    everything = early | last | late
    with place.in_use(place.state(SECOND, everything, **LATER), place.state(FIRST, everything)) as state:
        assert state.is_later_than_data
        state.take(0)
        assert added(state) == (0, 0)  # nobody knows yet
        state.last_tid = tid(6)
        state.take(0)
        assert added(state) == (2, size(early, last))
        assert (state.is_in_doubt, state.is_certain([*early, *last, *late])) == (False, True)
        state.take(1)
        assert (state.is_later_than_data, added(state)) == (False, (3, size(everything)))


def test_the_contents_are_compared_where_that_is_wanted(place: Place) -> None:
    place.in_pool(A)
    place.at_site({k: b"x" * len(content) for k, content in A.items()})
    for checksum in (False, True):
        with place.in_use(place.state(FIRST, A), checksum=checksum) as state:
            state.take_first_that_can_be_read()
            assert added(state) == ((1, size(A)) if checksum else (0, 0))


@pytest.mark.parametrize("layout", ["bushy", "lawn"])
def test_an_empty_site_gets_the_layout_of_the_state(place: Place, layout: Layout) -> None:
    place.in_pool(A)
    ours, theirs = place.state(SECOND, A, layout), place.directory(FIRST, A, layout)
    own_directory = replace(ours, stored=theirs.stored)
    for choice, folder in (
        (ours, place.pool.folder),
        (theirs, theirs.stored[0].path),
        (own_directory, theirs.stored[0].path),
    ):
        with no_descriptor_left(), place.in_use(choice) as state:
            state.take_first_that_can_be_read()
            assert state.target is not None
            assert state.target.layout == layout
            assert state.container is not None
            assert state.container.folder == folder
            assert added(state) == (1, size(A))
            assert state.is_in_doubt == (choice is theirs)


def test_temporary_files_stand_in_the_folder_for_them(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from zodbvault.blobs import spill

    seen: set[Path] = set()
    real = spill.SortedRecords.__init__

    def noted(self: spill.SortedRecords, length: int, folder: Path, **keywords: Any) -> None:
        seen.add(folder)
        real(self, length, folder, **keywords)

    monkeypatch.setattr(spill.SortedRecords, "__init__", noted)
    place.in_pool(A, B)
    full = place.state(FIRST, A)
    delta = place.location / f"{SECOND}.deltablobs.gz"
    write_manifest(delta, entries(B))
    theirs = place.directory(SECOND, A)
    archive = place.location / f"blobstorage.{SECOND}.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(theirs.stored[0].path / "blobstorage", ".")
    stored = (Stored(archive, "blobstorage", Form.ARCHIVE, None, SECOND),)
    for choice in (BlobChoice(SECOND, full.complete, (delta,)), replace(theirs, stored=stored), theirs, None):
        with place.in_use(*([] if choice is None else [choice])) as state:
            state.take_first_that_can_be_read()
    with place.in_use(replace(full, stored=stored)) as state:
        state.take_first_that_can_be_read()
        assert added(state) == (1, size(A))
    assert list(entries_of(replace(theirs, stored=stored), place.scratch)) == [Entry(ONE, size(A), "")]
    assert seen <= {place.scratch, place.site / "tmp", place.pool.scratch}
    assert place.scratch in seen


def test_only_a_state_that_is_proved_or_lacks_no_more_than_was_lost_is_certain(place: Place) -> None:
    place.in_pool(A)
    best, other = place.state(SECOND, A), place.state(FIRST, A, **OTHER)
    lost = (bushy_path(THREE), "no blob's path", bushy_path(TWO))
    with place.in_use(best, other, missing=lost) as state:
        assert state.lost() == sorted(B | C)
        state.take_first_that_can_be_read()
        assert state.is_certain(sorted(A | D))
        state.take(1)
        assert not state.is_certain([ONE])
    with place.in_use(best, missing=lost, is_proved=lambda _: False) as state:
        state.take_first_that_can_be_read()
        assert state.is_certain(sorted(A | B | C))
        assert not state.is_certain(sorted(A | D))


def test_the_data_need_not_be_read_for_a_state_that_records_prove_to_be_theirs(place: Place) -> None:
    place.in_pool(A)

    def is_known(choice: BlobChoice, *, proved: bool) -> bool:
        with place.in_use(choice, is_proved=lambda _: proved) as state:
            assert state.is_known is False  # nothing is taken yet
            state.take_first_that_can_be_read()
            return state.is_known

    assert is_known(place.state(FIRST, A), proved=True) is True
    assert is_known(place.state(FIRST, A), proved=False) is False
    assert is_known(place.state(FIRST, A, **OTHER), proved=True) is False
    assert is_known(damage(place.state(FIRST, A)), proved=True) is False


def test_the_content_is_compared_where_that_is_asked_for_and_a_manifest_tells_it(place: Place) -> None:
    def is_compared(*choices: BlobChoice, checksum: bool = True) -> bool:
        with place.in_use(*choices, checksum=checksum) as state:
            return state.is_compared_by_content

    ours, theirs = place.state(FIRST, A), place.directory(FIRST, A)
    assert is_compared(ours) is True
    assert is_compared(ours, checksum=False) is False
    assert is_compared(theirs) is False
    assert is_compared() is False


def test_a_state_that_records_say_to_be_another_is_not_taken(place: Place) -> None:
    place.in_pool(A)
    choices = place.state(SECOND, A), place.state(FIRST, A)

    def proved(choice: BlobChoice) -> bool:
        if choice == choices[0]:
            raise DamagedManifest("is not what was written", path=choice.complete)
        return True

    with place.in_use(*choices, is_proved=proved) as state:
        state.take_first_that_can_be_read()
        assert (state.number, damaged_by(state)) == (1, str(choices[0].complete))


def test_of_some_states_the_first_that_has_all_blobs_is_taken(place: Place) -> None:
    place.in_pool(A, B, C)
    place.at_site(D)
    doubtful = place.directory(FOURTH, A)
    choices = (
        doubtful,
        damage(place.state(THIRD, A | B | C)),
        place.state(SECOND, A | B, **OTHER),
        place.state(FIRST, A | B | C),
    )
    with no_descriptor_left(), place.in_use(*choices) as state:
        state.take_first_that_can_be_read()
        for referenced, number in ((A | D, 0), (A | B, 2), (A | B | D, 2), (B | C, 3)):
            state.take(0)
            assert state.take_one_that_has(sorted(referenced)) == 0
            assert (state.number, state.first_error) == (number, None)
            assert state.plan is not None
            assert state.plan.count_missing(sorted(referenced)) == 0
        # None before the one in use is looked at.
        state.take(2)
        assert state.take_one_that_has(sorted(A | B)) == 0
        assert state.number == 2
        state.take(2)
        assert state.take_one_that_has([THREE]) == 0
        assert state.number == 3
    with place.in_use(choices[3], choices[2]) as state:
        state.take(1)
        assert state.take_one_that_has([THREE]) == 1
        assert state.number == 1


def test_where_none_has_all_the_one_that_was_in_use_stays(place: Place) -> None:
    place.in_pool(B)
    choices = place.directory(SECOND, A), place.state(FIRST, A | B, **OTHER)
    wanted = sorted(B | C | D)
    with place.in_use(*choices) as state:
        state.take_first_that_can_be_read()
        assert state.take_one_that_has(wanted) == 3
        assert (state.number, state.leaves_out) == (0, False)
        assert added(state) == (1, size(A))
        state.take(1, leaves_out=True)  # the last one
        assert state.take_one_that_has(wanted) == 2
        assert (state.number, state.leaves_out) == (1, True)
        assert added(state) == (1, size(B))
    with place.in_use(choices[1], choices[0]) as state:
        state.take(0, leaves_out=True)
        assert state.take_one_that_has(wanted) == 2
        assert (state.number, state.leaves_out) == (0, True)


def test_a_certain_state_is_not_given_up(place: Place) -> None:
    place.in_pool(A, B)
    with place.in_use(place.state(SECOND, A), place.state(FIRST, A | B)) as state:
        state.take_first_that_can_be_read()
        assert state.take_one_that_has(sorted(A | B)) == 1
        assert state.number == 0
    choices = place.state(SECOND, A), place.state(FIRST, A | B)
    with place.in_use(*choices, is_proved=lambda _: False, missing=(bushy_path(TWO),)) as state:
        state.take_first_that_can_be_read()
        assert state.take_one_that_has(sorted(A | B)) == 1
        assert state.number == 0


def test_where_missing_ones_are_accepted_the_best_that_can_be_read_is_taken_without_them(place: Place) -> None:
    place.in_pool(A)
    choices = damage(place.state(THIRD, A)), place.state(SECOND, A | B), place.state(FIRST, A | B | C)
    for is_judged in (True, False):
        with no_descriptor_left(), place.in_use(*choices, accept_missing=True, is_judged=is_judged) as state:
            state.take_first_that_can_be_read()
            assert (state.number, state.leaves_out, damaged_by(state)) == (1, True, str(choices[0].complete))
            assert added(state) == (1, size(A))
            assert state.plan is not None
            assert state.plan.left_out.number == 1
    for is_judged in (True, False):
        with place.in_use(choices[0], accept_missing=True, is_judged=is_judged) as state:
            if is_judged:
                state.take_first_that_can_be_read()
                assert (state.number, state.choice, state.leaves_out) == (1, None, False)
            else:
                with pytest.raises(DamagedManifest):
                    state.take_first_that_can_be_read()
    # A whole one behind it goes before that.
    with place.in_use(place.state(SECOND, A | B), place.state(FIRST, A), accept_missing=True) as state:
        state.take_first_that_can_be_read()
        assert (state.number, state.leaves_out) == (1, False)


def test_the_state_that_lacks_the_fewest_is_taken(place: Place) -> None:
    place.in_pool(A, C)
    wanted = sorted(A | B | C | D)
    one, three = place.state(FOURTH, A, **OTHER), place.state(THIRD, B, **OTHER)
    unreadable = damage(place.state(SECOND, A | B | C | D))
    two, again = place.state(FIRST, A | C, **OTHER), place.directory(FIRST, A | C)

    def taken(*choices: BlobChoice, begun: int = 0) -> tuple[int | None, int]:
        with no_descriptor_left(), place.in_use(*choices) as state:
            state.take(begun, leaves_out=True)
            missing = state.take_one_that_lacks_fewest(wanted)
            assert missing is None or state.leaves_out
            if missing is not None:
                assert state.plan is not None
                assert state.plan.count_missing(wanted) == missing
            return missing, state.number

    assert taken(three, one, unreadable, two, again, begun=1) == (2, 3)
    assert taken(three, unreadable, one, begun=2) == (3, 2)
    assert taken(one, unreadable, three) == (3, 0)
    assert taken(again, two, one) == (2, 0)
    assert taken(three, two, unreadable) == (2, 1)
    # One that lacks nothing is the last that is looked at.
    place.at_site(B, D)
    assert taken(one, two, unreadable, again) == (0, 1)
    with place.in_use(unreadable, one, two) as state:
        assert state.take_one_that_lacks_fewest() == 0
        assert state.number == 1  # nobody knows yet what is needed
    with place.in_use(unreadable) as state:
        assert state.take_one_that_lacks_fewest(wanted) is None


def test_after_a_damaged_blob_the_next_state_of_use_is_one_that_is_known_to_be_the_datas(place: Place) -> None:
    place.in_pool(A, B)
    best = place.state(FOURTH, A)
    ours, later = replace(best, timestamp=THIRD), place.state(SECOND, A | {key(9, 9): b"late"}, **LATER)
    wanted = [ONE]

    def following(*choices: BlobChoice, referenced: list[bytes] = wanted, **keywords: Any) -> int | None:
        with no_descriptor_left(), place.in_use(best, *choices, **keywords) as state:
            state.last_tid = tid(5)
            state.take(0)
            is_there = state.take_next_of_use(referenced)
            if is_there:
                assert state.plan is not None
                assert state.plan.count_missing(wanted) == 0
            return state.number if is_there else None

    assert following() is None
    assert following(ours) == 1
    assert following(later) == 1
    # Known to be of the data, yet of an earlier date: blobs may have gone since.
    assert following(replace(ours, is_of_date=False)) is None
    assert following(place.directory(FIRST, A)) is None
    assert following(replace(later, is_exact=False)) is None
    assert following(damage(place.state(FIRST, A)), ours) == 2
    assert following(place.directory(FIRST, A), ours) == 2
    assert following(replace(ours, complete=place.state(FIRST, B).complete), ours) == 2
    assert following(ours, referenced=sorted(A | B)) is None
    assert following(ours, referenced=sorted(A | B), missing=(bushy_path(TWO),)) == 1
    with place.in_use(best, ours) as state:
        state.take(1)
        assert not state.take_next_of_use(wanted)


def test_the_entries_of_a_state_are_those_of_its_manifests_else_of_its_container(place: Place) -> None:
    full = place.state(FIRST, A | B)
    delta = place.location / f"{SECOND}.deltablobs.gz"
    write_manifest(delta, [*entries(C), gone(TWO)][::-1])
    assert list(entries_of(full, place.scratch)) == entries(A | B)
    assert list(entries_of(replace(full, deltas=(delta,)), place.scratch)) == entries(A | C)
    theirs = place.directory(SECOND, A | B)
    with no_descriptor_left():
        assert list(entries_of(theirs, place.scratch)) == [Entry(k, len(v), "") for k, v in sorted((A | B).items())]
    # Of ours in a directory the manifest tells, not what stands there.
    ours = replace(full, stored=theirs.stored)
    assert list(entries_of(ours, place.scratch)) == entries(A | B)


def test_nothing_is_changed_and_nothing_is_kept(place: Place) -> None:
    place.in_pool(A, B)
    place.at_site(C)
    plans: list[RestorePlan] = []
    with no_descriptor_left(), place.in_use(place.state(FIRST, A | B), place.directory(SECOND, A)) as state:
        before = files_below(place.site), files_below(place.location)
        for number in (0, 1, 2, 0):
            state.take(number)
            assert all(list(plan.there) == [] for plan in plans)
            assert state.plan is not None
            plans.append(state.plan)
            assert THREE in plans[-1].there
        assert (files_below(place.site), files_below(place.location)) == before
    assert list(plans[-1].there) == []
    assert os.listdir(place.scratch) == []
