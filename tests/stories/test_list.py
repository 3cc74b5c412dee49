"""What the list says of good and of bad repositories: for people, on a terminal, and for programs."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.schemas import validate
from tests.site import generate_script, tree
from tests.terminal import shown_on_a_terminal
from zodbvault.commands.list import list_backups
from zodbvault.errors import ZodbvaultError

if TYPE_CHECKING:
    from tests.site import Site


def data(site: Site, when: str | None = None, which: str = "backups") -> dict[str, Any]:
    """What --json says; the schema has told of all of it."""
    result = json.loads(json.dumps(list_backups(site.settings, when=when, which=which, clock=site.clock).data))
    validate("list", result)
    assert next(iter(result)) == "format"
    return result


def two_chains(site: Site) -> list[str]:
    """Two chains of two backups."""
    stamps = []
    for full in (True, False, True, False):
        site.commit_pages(2)
        site.commit_blobs(1)
        stamps.append(site.backed_up(full=full)[0])
    return stamps


def test_a_row_for_each_backup(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = two_chains(site)
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        heading, *rows, totals = site.list()
    finally:
        monkeypatch.undo()
        time.tzset()
    assert heading.split("  ")[0] == "backup (UTC)"
    assert "local" not in heading
    assert [row.split()[:2] for row in rows] == [
        [stamp, kind] for stamp, kind in zip(stamps, ["full", "incremental"] * 2, strict=True)
    ]
    assert totals.startswith("2 chains, 4 backups, ")


def test_local_time_where_it_is_another_one(site: Site) -> None:
    site.backup()
    site.close()
    for zone, told in (("UTC", False), ("Asia/Kolkata", True)):
        finished = site.command("backup-list", env={"TZ": zone})
        assert ("2076-11-23 23:36 IST" in finished.stdout) == told
        assert "2076-11-23-18-06-00" in finished.stdout


def test_numbers_are_those_of_the_site(site: Site) -> None:
    stamps = two_chains(site)
    site.verify()
    (location,) = data(site)["locations"]
    assert location["location"] == str(site.location)
    assert [chain["timestamp"] for chain in location["chains"]] == [stamps[0], stamps[2]]
    backups = [backup for chain in location["chains"] for backup in chain["backups"]]
    assert [backup["timestamp"] for backup in backups] == stamps
    state = site.state()
    newest = backups[-1]
    assert newest["end"] == len(state.data)
    assert newest["transactions"] == 2
    assert newest["stored_size"] == (site.location / newest["data_file"]).stat().st_size
    assert newest["blobs"] == len(state.referenced)
    assert newest["blobs_size"] == sum(len(content) for content in state.needed.values())
    assert newest["time"] == "2076-11-23T18:09:00Z"
    assert newest["verified_good"] is True
    assert newest["drilled"] is None
    assert location["totals"]["stored_size"] == sum(backup["stored_size"] for backup in backups)
    assert (location["totals"]["full"], location["totals"]["incremental"]) == (2, 2)
    assert location["warnings"] == []


def test_nothing_there_yet(site: Site) -> None:
    assert site.list() == (f"No backups in {site.location}.",)
    assert data(site)["locations"][0]["chains"] == []
    assert not site.location.exists()


def test_snapshots_and_all(site: Site) -> None:
    stamps = two_chains(site)
    snapshot = site.snapshot().timestamp
    assert snapshot is not None
    assert [each["name"] for each in data(site, which="all")["locations"]] == ["backups", "snapshots"]
    assert stamps[0] not in "\n".join(site.list(which="snapshots"))
    heading, *rows = site.list(which="all")
    assert heading.startswith("location")
    assert rows[0].split()[:2] == ["backups", stamps[0]]
    assert rows[4].split()[:2] == ["snapshots", snapshot]
    report = site.verify(which="all")
    assert report.table.rows[-1][:2] == ("snapshots", snapshot)
    assert report.lines[-1].startswith("snapshots: 1 backup checked")


def test_all_is_good_where_there_are_no_snapshots(site: Site) -> None:
    assert not site.verify(which="all").good
    site.backup()
    report = site.verify(which="all")
    assert report.good, report.lines
    assert not site.verify(which="snapshots").good


# What a restore would take


def test_a_date_shows_what_a_restore_takes(site: Site) -> None:
    stamps = two_chains(site)
    _heading, *rows, data_line, blob_line = site.list(stamps[1])
    assert [row.split()[0] for row in rows] == stamps[:2]
    assert f"the state of {stamps[1]}: the full {stamps[0]} and 1 incremental, " in data_line
    assert f"those of {stamps[1]}: " in blob_line
    assert blob_line.endswith("from the pool.")
    restore = data(site, stamps[1])["locations"][0]["restore"]
    assert restore == {
        "timestamp": stamps[1],
        "data_files": [f"{stamps[0]}.fsz", f"{stamps[1]}.deltafsz"],
        "blobs": {
            "timestamp": stamps[1],
            "exact": True,
            "manifests": [f"{stamps[0]}.blobs.gz", f"{stamps[1]}.deltablobs.gz"],
            "stored": [],
        },
    }


def test_what_the_list_says_is_what_the_restore_takes(site: Site) -> None:
    states = {}
    for _ in range(3):
        site.commit_pages(2)
        site.commit_blobs(1)
        stamp, state = site.backed_up()
        states[stamp] = state
    for stamp in list(states)[:2]:
        taken = data(site, stamp)["locations"][0]["restore"]
        site.restore(stamp)
        site.assert_is(states[taken["timestamp"]])


def test_a_date_that_no_backup_is_for(site: Site) -> None:
    stamps = two_chains(site)
    for which in ("backups", "all"):
        with pytest.raises(ZodbvaultError, match="no backup at or before 2001"):
            site.list("2001-01-01", which=which)
    # Of several repositories those that have one are shown.
    assert [each["name"] for each in data(site, stamps[0], "all")["locations"]] == ["backups"]


@pytest.mark.parametrize(
    ("options", "groups"),
    [
        ({}, [2, 2]),
        ({"blob_layout": "directories"}, [1, 1, 1, 1]),
        ({"archive_blob": "true", "incremental_blobs": "true"}, [2, 2]),
    ],
    ids=["pool", "directories", "incremental archives"],
)
def test_of_blobs_alone(site: Site, options: dict[str, str], groups: list[int]) -> None:
    site.options |= {"only_blobs": "true", **options}
    stamps = two_chains(site)
    (location,) = data(site)["locations"]
    assert [len(chain["backups"]) for chain in location["chains"]] == groups
    assert location["warnings"] == []
    restore = data(site, stamps[1])["locations"][0]["restore"]
    assert (restore["timestamp"], restore["data_files"], restore["blobs"]["exact"]) == (stamps[1], [], True)


# What is not as it should be


def warnings(site: Site) -> str:
    (location,) = data(site)["locations"]
    assert list(site.list())[-len(location["warnings"]) :] == location["warnings"]
    return "\n".join(location["warnings"])


def test_a_missing_file(site: Site) -> None:
    stamps = two_chains(site)
    (site.location / f"{stamps[1]}.deltafsz").unlink()
    assert "MISSING" in "\n".join(site.list())
    assert f"The chain of {stamps[0]}: {stamps[1]}.deltafsz is missing" in warnings(site)


def test_a_file_of_another_size(site: Site) -> None:
    stamps = two_chains(site)
    with open(site.location / f"{stamps[2]}.fsz", "ab") as file:
        file.write(b"x")
    assert f"The chain of {stamps[2]}: " in warnings(site)


def test_a_damaged_dat(site: Site) -> None:
    stamps = two_chains(site)
    (site.location / f"{stamps[0]}.dat").write_bytes(b"?")
    assert f"The chain of {stamps[0]}: " in warnings(site)


def test_a_chain_without_a_dat(site: Site) -> None:
    stamps = two_chains(site)
    (site.location / f"{stamps[0]}.dat").unlink()
    assert f"The chain of {stamps[0]}: it has no .dat file" in warnings(site)
    assert stamps[1] in "\n".join(site.list())


def test_data_without_blobs(site: Site) -> None:
    site.options["backup_blobs"] = "false"
    stamps = two_chains(site)
    site.options["backup_blobs"] = "true"
    assert f"The chain of {stamps[2]} has no blob state" in warnings(site)


def test_files_that_belong_to_no_backup(site: Site) -> None:
    stamps = two_chains(site)
    shutil.copy(site.location / f"{stamps[3]}.deltafsz", site.location / "2076-11-24-00-00-00.deltafsz")
    (site.location / f"{stamps[1]}.deltafsz.orphan").touch()
    text = warnings(site)
    assert "2076-11-24-00-00-00.deltafsz has no line in a .dat file" in text
    assert f"Put aside: 1 file of killed runs, such as {stamps[1]}.deltafsz.orphan" in text


def test_what_a_verification_found(site: Site) -> None:
    stamps = two_chains(site)
    path = site.location / f"{stamps[2]}.fsz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "does not restore" not in "\n".join(site.list())
    site.verify()
    assert "DAMAGED" in "\n".join(site.list())
    assert f"found that {stamps[2]} does not restore" in warnings(site)


def test_blobs_that_the_site_has_lost(site: Site) -> None:
    two_chains(site)
    assert site.blob_storage is not None
    site.close()
    victim = next(path for path in sorted(site.blob_storage.rglob("*.blob")))
    victim.unlink()
    site.backup(full=True)
    # What the pool has is not lost; a new repository does not have it.
    site.options["location"] = str(site.var / "other")
    site.options["blobbackuplocation"] = str(site.var / "other-blobs")
    site.backup()
    assert "The site has lost 1 blob that its data refer to" in warnings(site)


def test_a_record_of_a_later_version_hides_nothing_else(site: Site) -> None:
    stamps = two_chains(site)
    path = site.location / f"{stamps[3]}.json"
    path.write_bytes(path.read_bytes().replace(b'"format": 1', b'"format": 99', 1))
    (location,) = data(site)["locations"]
    assert location["totals"]["backups"] == 4
    assert f"The chain of {stamps[2]}: " in "\n".join(location["warnings"])


# As a script


def test_the_script_writes_json_and_touches_nothing(site: Site) -> None:
    two_chains(site)
    site.close()
    site.command("backup-list")
    before = tree(site.location, site.blob_location, ignore=())
    for arguments in (["--json"], ["--json", "-q"], ["--all", "--json"]):
        finished = site.command("backup-list", *arguments)
        assert (finished.returncode, finished.stderr) == (0, "")
        validate("list", json.loads(finished.stdout))
    assert tree(site.location, site.blob_location, ignore=()) == before


def test_warnings_go_to_standard_error_also_when_quiet(site: Site) -> None:
    stamps = two_chains(site)
    site.close()
    (site.location / f"{stamps[1]}.deltafsz").unlink()
    finished = site.command("backup-list", "-q")
    assert finished.stdout == ""
    assert finished.stderr.startswith(f"WARNING: The chain of {stamps[0]}: ")


def test_two_locations_are_wrong_usage(site: Site) -> None:
    for script in ("backup-list", "backup-verify"):
        finished = site.command(script, "--snapshots", "--all")
        assert finished.returncode == 2
        assert "not allowed with" in finished.stderr


def on_a_terminal(site: Site, columns: int, *arguments: str) -> str:
    """What the script shows on a terminal that is so many characters wide, without colours."""
    script = generate_script(site, "backup-list")
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": "50", "TERM": "xterm", "TZ": "UTC"}
    return shown_on_a_terminal([str(script), *arguments], environment)


def test_a_terminal_gets_a_table_that_fits(site: Site) -> None:
    stamps = two_chains(site)
    site.close()
    for columns, has_transactions in ((140, True), (90, False)):
        lines = on_a_terminal(site, columns).splitlines()
        assert any(set(line.strip()) == {"─"} for line in lines)
        assert max(len(line) for line in lines if "chains," not in line) <= columns
        assert ("transactions" in "\n".join(lines)) == has_transactions
        assert all(any(stamp in line for line in lines) for stamp in stamps)


def test_a_terminal_that_is_far_too_narrow_gets_plain_lines(site: Site) -> None:
    stamps = two_chains(site)
    site.close()
    shown = on_a_terminal(site, 30)
    assert "─" not in shown
    assert all(stamp in shown for stamp in stamps)


def test_a_terminal_without_rich_gets_plain_lines(site: Site) -> None:
    stamps = two_chains(site)
    site.close()
    script = generate_script(site, "backup-list")
    # As an installation without the extra `progress`: importing it fails.
    assert "sys.path[0:0]" in script.read_text()
    without = site.folder / "without"
    (without / "rich").mkdir(parents=True)
    (without / "rich" / "__init__.py").write_text("raise ImportError('rich')")
    os.environ["PYTHONPATH"] = str(without)
    try:
        shown = on_a_terminal(site, 140)
    finally:
        del os.environ["PYTHONPATH"]
    assert "─" not in shown
    assert all(stamp in shown for stamp in stamps)
