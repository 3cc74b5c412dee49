"""What a monitoring system is told of real repositories, by real scripts."""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.schemas import validate
from tests.site import Site, timestamp, tree
from tests.test_bad_input import unprivileged
from zodbvault.io.durable import Ownership
from zodbvault.repository.checks import Checks, read_checks, write_checks

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

DAY = 86400
FIRST_LINE = re.compile(
    r"ZODBVAULT (OK|WARNING|CRITICAL|UNKNOWN): [^|]+( \| ('\w+'=-?\d+[A-Za-z%]*(;[\d:.]*)*( |$))+)?$"
)
STATES = ["OK", "WARNING", "CRITICAL", "UNKNOWN"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site whose clock is the one that its transactions have."""
    site = Site(tmp_path / "site", start=timestamp(time.time()))
    site.commit_pages(5)
    site.commit_blobs(3)
    yield site
    site.close()


def checked(site: Site, *arguments: str, state: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
    """Run the script; its exit code and its first line tell the same state, in the form that Nagios reads."""
    finished = site.command("backup-check", *arguments, **keywords)
    first = finished.stdout.splitlines()[0]
    match = FIRST_LINE.match(first)
    assert match is not None, first
    assert (match[1], finished.returncode) == (state, STATES.index(state)), finished.stdout + finished.stderr
    return finished


def data(site: Site, *arguments: str) -> dict[str, Any]:
    finished = site.command("backup-check", "--json", *arguments)
    result: dict[str, Any] = json.loads(finished.stdout)
    validate("check", result)
    assert finished.returncode == STATES.index(result["state"])
    return result


def test_no_backup_at_all(site: Site) -> None:
    site.close()
    assert "there is no backup" in checked(site, state="CRITICAL").stdout
    assert data(site)["locations"][0]["newest"] is None
    assert not site.location.exists()


def test_good_backups(site: Site) -> None:
    site.backup()
    site.commit_pages(1)
    site.backup()
    site.verify()
    before = tree(site.location, site.blob_location, ignore=())
    finished = checked(site, state="OK")
    assert finished.stderr == ""
    assert "'backups'=2" in finished.stdout
    assert "nothing was changed since" in finished.stdout
    assert tree(site.location, site.blob_location, ignore=()) == before
    assert site.command("backup-check", "-q").stdout == ""
    (location,) = data(site)["locations"]
    assert location["current"] is True
    assert location["age"] == 0
    assert location["backups"] == 2
    assert location["verified_good"] is True
    status = os.statvfs(site.location)
    assert location["disk_size"] == status.f_blocks * status.f_frsize


def test_a_quiet_site_is_no_reason_for_an_alarm(site: Site) -> None:
    site.backup()
    site.tick(40 * DAY)
    checked(site, "--max-full-age", "8d", state="OK")


def test_changes_that_are_in_no_backup(site: Site) -> None:
    site.backup()
    site.commit_pages(1)
    checked(site, state="OK")
    (location,) = data(site)["locations"]
    assert location["current"] is False
    assert location["unsaved_since"] is not None
    site.tick(27 * 3600)
    finished = checked(site, state="CRITICAL")
    assert "more than 1 d 2 h" in finished.stdout
    checked(site, "--max-age", "30h", state="OK")
    site.backup()
    checked(site, state="OK")


def test_the_age_counts_from_the_first_change_not_from_the_backup(site: Site) -> None:
    # The backup is made by a clock that is five days behind the one of the transactions.
    site.set_clock(timestamp(time.time() - 5 * DAY))
    site.backup()
    site.commit_pages(1)
    site.set_clock(timestamp(time.time()))
    assert "'age'=" in checked(site, state="OK").stdout
    assert data(site)["locations"][0]["age"] < 3600


def test_a_packed_database_counts_from_the_newest_backup(site: Site) -> None:
    site.backup()
    site.commit_pages(3)
    site.pack()
    site.tick(27 * 3600)
    checked(site, state="CRITICAL")


def test_a_database_that_is_not_there_counts_from_the_newest_backup(site: Site) -> None:
    site.backup()
    site.close()
    site.datafs.unlink()
    checked(site, state="OK")
    assert data(site)["locations"][0]["current"] is None
    site.tick(27 * 3600)
    checked(site, state="CRITICAL")


def test_a_missing_file(site: Site) -> None:
    old, _ = site.backed_up()
    site.commit_pages(1)
    new, _ = site.backed_up(full=True)
    (site.location / f"{old}.fsz").unlink()
    assert f"{old}.fsz is missing" in checked(site, state="WARNING").stdout
    (site.location / f"{new}.fsz").unlink()
    assert f"{new}.fsz is missing" in checked(site, state="CRITICAL").stdout


def test_what_a_verification_found(site: Site) -> None:
    stamp, _ = site.backed_up()
    path = site.location / f"{stamp}.fsz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    checked(site, state="OK")
    site.verify()
    assert f"{stamp} does not restore" in checked(site, state="CRITICAL").stdout


def test_the_last_drill(site: Site) -> None:
    stamp, _ = site.backed_up()
    checked(site, state="OK")
    checked(site, "--max-drill-age", "45d", state="WARNING")
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(site.clock.now()))
    for good, state in ((True, "OK"), (False, "CRITICAL")):
        checks = Checks(stamp, drilled=moment, drilled_good=good, drill_seconds=1.5)
        write_checks(site.location, checks, Ownership(0o600, None, None))
        checked(site, "--max-drill-age", "45d", state=state)
    assert data(site)["locations"][0]["drill_seconds"] == 1.5
    write_checks(site.location, checks._replace(drilled_good=True), Ownership(0o600, None, None))
    site.tick(46 * DAY)
    checked(site, "--max-drill-age", "45d", state="WARNING")


def test_free_space(site: Site) -> None:
    site.backup()
    checked(site, "--min-free", "0%", state="OK")
    assert "free" in checked(site, "--min-free", "100%", state="WARNING").stdout


def test_an_unreadable_repository_is_unknown(site: Site) -> None:
    site.backup()
    site.close()
    os.chmod(site.location, 0)
    try:
        with unprivileged() as prefix:
            finished = checked(site, state="UNKNOWN", prefix=prefix)
    finally:
        os.chmod(site.location, 0o755)
    assert "cannot be listed" in finished.stdout
    assert finished.stderr.startswith("ERROR: ")


@pytest.mark.parametrize("arguments", [("--nonsense",), ("--max-age", "soon"), ("--min-free", "x"), ("--max-age",)])
def test_wrong_usage_is_unknown_too(site: Site, arguments: tuple[str, ...]) -> None:
    site.close()
    finished = site.command("backup-check", *arguments)
    assert finished.returncode == 3
    assert finished.stderr


def test_snapshots_and_all(site: Site) -> None:
    site.backup()
    checked(site, "--all", state="OK")
    assert len(data(site, "--all")["locations"]) == 1
    checked(site, "--snapshots", state="CRITICAL")
    site.snapshot()
    checked(site, "--snapshots", state="OK")
    finished = checked(site, "--all", state="OK")
    assert "'snapshots_age'=" in finished.stdout
    assert "OK: backups: newest backup" in finished.stdout


def test_of_blobs_alone(site: Site) -> None:
    site.options["only_blobs"] = "true"
    site.close()
    checked(site, state="CRITICAL")
    site.backup()
    checked(site, state="OK")
    site.tick(27 * 3600)
    checked(site, state="CRITICAL")


def test_growth_of_a_site(site: Site) -> None:
    site.options["keep"] = "0"
    start = site.clock.now()
    for _ in range(4):
        site.commit_blobs(2, size=50_000)
        site.backup()
        site.tick(DAY - 60)
    stored = [json.loads((site.location / name).read_bytes()) for name in site.names() if name.endswith(".json")]
    written = sum(each["stored_size"] + each["blobs"]["added_size"] for each in stored[1:])
    (location,) = data(site)["locations"]
    assert location["growth"] == int(written / 3)
    assert site.clock.now() - start > 3 * DAY


# Prometheus


def metrics_of(path: Path) -> dict[tuple[str, str], float]:
    """The numbers of a file, as Prometheus reads them, by name and location."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.documentation
        for sample in family.samples:
            assert sample.labels["part"] == "backup"
            found[sample.name, sample.labels["location"]] = sample.value
    return found


def test_metrics(site: Site) -> None:
    site.backup()
    site.snapshot()
    site.verify()
    path = site.folder / "backup.prom"
    path.write_text("what was there before")
    checked(site, "--all", "--metrics", str(path), state="OK")
    found = metrics_of(path)
    assert found["zodbvault_state", "backups"] == 0
    assert found["zodbvault_backups", "snapshots"] == 1
    assert found["zodbvault_unsaved_age_seconds", "backups"] == 0
    assert timestamp(found["zodbvault_newest_backup_timestamp_seconds", "backups"]) == site.timestamps()[-1]
    # What never was is left out.
    assert ("zodbvault_drilled_timestamp_seconds", "backups") not in found
    assert ("zodbvault_verified_timestamp_seconds", "backups") in found
    assert not [name for name in os.listdir(site.folder) if "part" in name]


def test_metrics_of_a_site_without_backups(site: Site) -> None:
    site.close()
    path = site.folder / "backup.prom"
    checked(site, "--metrics", str(path), state="CRITICAL")
    assert metrics_of(path)["zodbvault_state", "backups"] == 2


def test_every_metric_is_in_the_docs(site: Site) -> None:
    from tests.test_docs import PROJECT
    from zodbvault.commands.metrics import METRICS

    page = (PROJECT / "docs" / "watching.rst").read_text(encoding="utf-8")
    assert set(re.findall(r"^``(zodbvault_\w+)``", page, re.MULTILINE)) == {f"zodbvault_{one.name}" for one in METRICS}


def test_metrics_that_cannot_be_written_are_unknown(site: Site) -> None:
    site.backup()
    site.close()
    finished = checked(site, "--metrics", str(site.folder / "nowhere" / "x.prom"), state="UNKNOWN")
    assert "metrics cannot be written" in finished.stdout


def test_metrics_without_prometheus_client(site: Site) -> None:
    site.backup()
    site.close()
    without = site.folder / "without"
    without.mkdir()
    (without / "prometheus_client.py").write_text("raise ImportError('not installed')")
    path = site.folder / "backup.prom"
    finished = checked(site, "--metrics", str(path), state="UNKNOWN", env={"PYTHONPATH": str(without)})
    assert "zodbvault[metrics]" in finished.stdout
    assert not path.exists()
    checked(site, state="OK", env={"PYTHONPATH": str(without)})


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("good", [True, False])
def test_a_drill_is_remembered_when_its_backup_is_pruned(tmp_path: Path, alone: bool, good: bool) -> None:
    options = {"only_blobs": "true", "keep_blob_days": "1"} if alone else {"keep": "1"}
    site = Site(tmp_path / "site", start=timestamp(time.time()), options=options)
    location = site.blob_location if alone else site.location
    site.commit_pages(2)
    site.commit_blobs(2)
    site.tick(60)
    first = site.backup(full=True).timestamp
    assert first is not None
    site.verify()
    moment, earlier = f"{first[:10]}T{first[11:].replace('-', ':')}Z", "2001-01-01T00:00:00Z"
    found = Checks(first, moment, True, "default", moment, good, 7.5)
    write_checks(location, found, Ownership(0o600, None, None))
    seconds = None
    for _ in range(2):
        # Each backup goes with the next one, and the last of them has the knowledge still.
        site.tick(2 * DAY)
        site.commit_blobs(1)
        newest = site.backup(full=True).timestamp
        assert newest is not None
        kept = read_checks(location, newest)
        assert kept == Checks(
            newest,
            pruned_verified=moment,
            pruned_verified_good=True,
            pruned_drilled=moment,
            pruned_drilled_good=good,
            pruned_drill_seconds=7.5,
        )
        content = data(site, "--max-drill-age", "45d")
        (place,) = content["locations"]
        seconds = (place["drilled"], place["drilled_good"], place["drill_seconds"], place["verified"])
        assert seconds == (moment, good, 7.5, moment)
        state = {judgement["name"]: judgement["state"] for judgement in place["judgements"]}
        assert state["drill"] == ("OK" if good else "CRITICAL")
    assert first not in "".join(site.names(location))
    # What is known of a backup that stays counts when it is later; an earlier look takes no place of it.
    site.verify()
    checks = read_checks(location, newest)
    assert checks is not None
    assert checks.verified is not None
    assert (checks.pruned_drilled, checks.verified > moment > earlier) == (moment, True)
    assert data(site)["locations"][0]["verified"] == checks.verified
    site.close()


def test_nothing_is_written_where_nothing_is_known_of_what_goes(site: Site) -> None:
    site.options["keep"] = "1"
    site.backup(full=True)
    site.commit_pages(1)
    site.backup(full=True)
    assert len(site.timestamps()) == 1
    assert not [name for name in site.names() if name.endswith(".checks.json")]
