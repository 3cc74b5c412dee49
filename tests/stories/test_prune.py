"""bin/backup-prune on real repositories: what it says is what it does, and what stays restores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.schemas import validate
from tests.site import State, blob_files, tree
from zodbvault.errors import ZodbvaultError
from zodbvault.io.locks import LockFile

if TYPE_CHECKING:
    from tests.site import Site

DAY = 86400


def a_month(site: Site) -> dict[str, State]:
    """Fulls every other day of a month with an incremental on each, and the states that they have to bring back."""
    site.set_clock("2076-11-01-00-00-00")
    site.options["keep"] = "0"
    states = {}
    for _ in range(15):
        for full in (True, False):
            site.commit_pages(1)
            site.commit_blobs(1)
            stamp, state = site.backed_up(full=full)
            states[stamp] = state
            site.tick(DAY - 60)
    return states


def pruned(site: Site, *arguments: str) -> dict[str, Any]:
    """What the script says, by --json."""
    site.close()
    finished = site.command("backup-prune", "--json", *arguments)
    assert finished.returncode == 0, finished.stderr
    data: dict[str, Any] = json.loads(finished.stdout)
    validate("prune", data)
    return data


def staying(data: dict[str, Any]) -> list[str]:
    (location,) = data["locations"]
    return [chain["timestamp"] for chain in location["chains"] if chain["stays"]]


def test_what_it_says_is_what_it_does_and_what_stays_restores(site: Site) -> None:
    states = a_month(site)
    site.options |= {"keep": "1", "keep_daily": "3", "keep_weekly": "3"}
    before = tree(site.location, site.blob_location, ignore=())
    site.command("backup-list")
    rehearsed = pruned(site, "--dry-run")
    assert tree(site.location, site.blob_location, ignore=()) == before
    assert (rehearsed["dry_run"], rehearsed["keep"], rehearsed["keep_daily"]) == (True, 1, 3)

    done = pruned(site)
    assert done["locations"] == rehearsed["locations"]
    fulls = [stamp for stamp in site.timestamps() if stamp + ".fsz" in site.names()]
    assert fulls == staying(done)
    # The newest three days, and the last fulls of the two weeks before.
    assert [stamp[8:10] for stamp in fulls] == ["15", "21", "25", "27", "29"]
    left = site.timestamps()
    assert len(left) == 2 * len(fulls)
    needed = set().union(*(states[stamp].blobs for stamp in left))
    assert set(blob_files(site.blob_location / "blobs")) == needed
    for stamp in (left[0], left[3], left[-1]):
        site.restore(stamp)
        site.assert_is(states[stamp])
    assert site.verify(deep=True).good
    # Again there is nothing to do.
    assert staying(pruned(site)) == fulls


def test_each_backup_does_the_same(site: Site) -> None:
    a_month(site)
    site.options |= {"keep": "1", "keep_daily": "3", "keep_weekly": "3"}
    kept = staying(pruned(site, "--dry-run"))
    site.backup()
    assert [stamp for stamp in site.timestamps() if stamp + ".fsz" in site.names()] == kept


def test_the_lines_for_people(site: Site) -> None:
    stamps = list(a_month(site))
    site.options |= {"keep": "2", "keep_monthly": "3"}
    site.close()
    finished = site.command("backup-prune", "--dry-run")
    lines = finished.stdout.splitlines()
    assert lines[0].startswith("chain (UTC)")
    assert lines[1].startswith(stamps[0])
    assert "goes   older than the newest 2 whole chains, and not the newest of a month that is kept" in lines[1]
    assert "stays  number 1 of 2; newest of the month 2076-11 (1 of 3)" in lines[15]
    assert lines[16].startswith("13 chains with ")
    assert lines[16].endswith("would go, and the blobs that only these need; 2 stay.")
    assert site.command("backup-prune", "-q").stdout == ""
    assert len(site.timestamps()) == 4


def test_snapshots_have_their_own_place(site: Site) -> None:
    site.backup()
    site.options["keep"] = "0"
    for _ in range(3):
        site.snapshot()
    site.options["keep"] = "1"
    assert [len(each["chains"]) for each in pruned(site, "--all", "--dry-run")["locations"]] == [1, 3]
    pruned(site)
    assert len(site.timestamps(Path(site.settings.snapshotlocation))) == 3
    pruned(site, "--snapshots")
    assert len(site.timestamps(Path(site.settings.snapshotlocation))) == 1


def test_a_damaged_chain_is_not_counted_and_said_so(site: Site) -> None:
    stamps = list(a_month(site))
    (site.location / f"{stamps[-1]}.deltafsz").unlink()
    site.options["keep"] = "1"
    chains = pruned(site)["locations"][0]["chains"]
    assert [chain["timestamp"] for chain in chains if chain["stays"]] == [stamps[-4], stamps[-2]]
    assert "not counted, because " in chains[-1]["reasons"][0]
    assert stamps[-4] in site.timestamps()


def test_while_another_run_is_at_work_nothing_goes(site: Site) -> None:
    a_month(site)
    site.options["keep"] = "1"
    site.close()
    with LockFile(site.location / ".zodbvault.lock", since="now"):
        assert site.command("backup-prune").returncode == 75
        assert site.command("backup-prune", "--dry-run").returncode == 0
    assert len(site.timestamps()) == 30


def test_what_a_killed_prune_left_is_finished(site: Site) -> None:
    stamps = list(a_month(site))
    (site.location / f"{stamps[0]}.dat").rename(site.location / f"{stamps[0]}.dat.pruned")
    pruned(site)
    assert stamps[0] not in site.timestamps()
    assert not [name for name in site.names() if name.endswith(".pruned")]


def test_nothing_there_yet(site: Site) -> None:
    site.close()
    finished = site.command("backup-prune", "--all")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert f"backups: No backups in {site.location}." in finished.stdout
    assert not site.location.exists()


def test_of_blobs_alone(site: Site) -> None:
    site.options |= {"only_blobs": "true", "keep_blob_days": "0"}
    for _ in range(20):
        site.commit_blobs(1)
        site.close()
        site.tick(DAY)
        site.backup(full=len(site.names(site.blob_location)) % 5 == 0)
    site.options["keep_blob_days"] = "4"
    rehearsed = pruned(site, "--dry-run")
    done = pruned(site)
    assert done["locations"] == rehearsed["locations"]
    chains = done["locations"][0]["chains"]
    assert not chains[0]["stays"]
    assert chains[0]["reasons"] == ["older than 4 days"]
    assert "0 groups of states would go; " in site.command("backup-prune", "--dry-run").stdout
    left = {name[:19] for name in site.names(site.blob_location) if name.endswith(".json")}
    assert min(left) == staying(done)[0]
    assert site.verify().good


@pytest.mark.parametrize("name", ["keep_daily", "keep_weekly", "keep_monthly"])
def test_what_would_have_no_effect_is_refused(site: Site, name: str) -> None:
    site.options = {name: "3", "keep": "0"}
    with pytest.raises(ZodbvaultError, match=f"{name}: has no effect with keep = 0"):
        site.backup()
    site.options = {name: "3", "only_blobs": "true"}
    with pytest.raises(ZodbvaultError, match=f"{name}: has no effect with only_blobs"):
        site.backup()
