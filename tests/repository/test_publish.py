from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.repository.made import OWNERSHIP, Made, line
from zodbvault.io.durable import PartFile
from zodbvault.repository.dat import parse_dat
from zodbvault.repository.publish import publish_backup, publish_line, publish_record
from zodbvault.repository.records import Record, parse_record

if TYPE_CHECKING:
    from pathlib import Path

    from tests.repository.conftest import Disk
    from zodbvault.repository.dat import Line

A, B = "2026-11-01-18-00-00", "2026-11-01-18-01-00"


def publish(made: Made, timestamp: str) -> None:
    """Publish what `made` prepared: as a run does, with everything in part files before."""
    chains = made.read().chains
    model = Made(made.folder / f"model of {timestamp}")
    for each in made.chains:
        model.chain(*(line.timestamp for line in made.chains[each]))
    record = model.incremental(timestamp) if chains else model.full(timestamp)
    assert record.data_name is not None
    assert record.blobs is not None
    new = model.chains[max(model.chains)][-1]
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(PartFile(made.location / record.data_name, OWNERSHIP))
        manifest = stack.enter_context(PartFile(made.blob_location / record.blobs.manifest, OWNERSHIP))
        index = None
        if not chains:
            index = stack.enter_context(PartFile(made.location / f"{timestamp}.index", OWNERSHIP))
        data.file.write((model.location / record.data_name).read_bytes())
        data.finish()
        manifest.file.write((model.blob_location / record.blobs.manifest).read_bytes())
        publish_backup(
            made.location,
            record,
            new,
            chains[-1] if chains else None,
            publish_blobs=manifest.publish,
            index=index,
            data=data,
            ownership=OWNERSHIP,
        )
    made.states[timestamp] = model.states[timestamp]
    made.chains.setdefault(max(model.chains), []).append(new)


def test_each_file_is_durable_before_the_next_appears_and_the_line_comes_last(made: Made, disk: Disk) -> None:
    publish(made, A)
    files = [(f"{A}.blobs.gz", "blobs"), (f"{A}.json", "location"), (f"{A}.index", "location")]
    files += [(f"{A}.fsz", "location"), (f"{A}.dat", "location")]
    events = [event for event in disk.events if not event.startswith("remove")]
    first = f"sync {A}.fsz.part"
    assert events[0] == first  # the data file is finished long before it is published
    position = 1
    for name, folder in files:
        expected = [f"sync {name}.part", f"rename {name}.part {name}", f"sync {folder}"]
        if name.endswith(".fsz"):
            del expected[0]
        assert events[position : position + len(expected)] == expected
        position += len(expected)
    assert position == len(events)


def test_what_was_published_is_what_repozo_restores(made: Made) -> None:
    publish(made, A)
    publish(made, B)
    made.assert_repozo_restores()
    lines = parse_dat((made.location / f"{A}.dat").read_bytes(), f"{A}.dat")
    assert [each.timestamp for each in lines] == [A, B]
    assert [chain.lines for chain in made.read().chains] == [lines]
    assert not [name for name in made.names() if name.endswith(".part")]


def test_all_that_was_published_may_be_read_by_those_whom_the_site_lets_read(made: Made) -> None:
    publish(made, A)
    publish(made, B)
    files = [*made.location.iterdir(), *made.blob_location.iterdir()]
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == dict.fromkeys(made.names(), OWNERSHIP.mode)


@pytest.mark.parametrize("first", [True, False])
def test_killed_between_any_two_steps_the_next_run_has_the_old_state_or_the_new_one(
    made: Made, disk: Disk, first: bool, tmp_path: Path
) -> None:
    for step in range(10):
        made = Made(tmp_path / f"step {step}")
        stamps = [A] if first else [A, B]
        if not first:
            publish(made, A)
        states = dict(made.states)
        with disk.killing_before(step):
            publish(made, stamps[-1])
        if not disk.has_killed:
            assert step == 5 - (not first)
            break
        repository = made.sweep().repository
        lines: list[Line] = [line for chain in repository.chains for line in chain.lines]
        names = [line.timestamp for line in lines]
        assert names in (stamps, stamps[:-1])
        if names == stamps:
            states = {**states, stamps[-1]: states.get(A, b"") + f"<{stamps[-1]}>".encode() * 7}
        assert not [name for name in repository.names if name.endswith((".part", ".orphan"))]
        assert {name[:19] for name in repository.names | repository.blob_names} <= set(names)
        made.states = states
        made.assert_repozo_restores()
    else:
        pytest.fail("publishing has more steps than expected")


def test_a_line_is_added_behind_the_others(made: Made) -> None:
    made.chain(A)
    chain = made.read().chains[0]
    new = line(f"{B}.deltafsz", chain.newest.end, chain.newest.end + 5)
    publish_line(made.location, new, chain, OWNERSHIP)
    assert made.read().chains[0].lines == (*chain.lines, new)


def test_a_record_is_written_anew_in_one_instant(made: Made, disk: Disk) -> None:
    record: Record = made.full(A)
    disk.events.clear()
    publish_record(made.location, record._replace(source_inode=77), OWNERSHIP)
    assert disk.events == [f"sync {A}.json.part", f"rename {A}.json.part {A}.json", "sync location"]
    assert parse_record((made.location / f"{A}.json").read_bytes(), "x").source_inode == 77
    assert (made.location / f"{A}.json").stat().st_mode & 0o777 == 0o640
