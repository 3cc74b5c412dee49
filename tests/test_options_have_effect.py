"""Every option does something: a test for each row of the table changes it and sees a difference."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from tests.services import listening
from tests.site import Site, blob_files
from zodbvault.options import OPTIONS, Status
from zodbvault.settings import MOST_NICE, ConfigurationError, Surroundings, parse_settings

if TYPE_CHECKING:
    from pathlib import Path

Effect = Callable[[Site], None]
EFFECTS: dict[str, Effect] = {}


def effect_of(name: str) -> Callable[[Effect], Effect]:
    """This function sees the difference that the option `name` makes."""

    def register(function: Effect) -> Effect:
        EFFECTS[name] = function
        return function

    return register


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "site")
    site.commit_pages(5)
    site.commit_blobs(3)
    yield site
    site.close()


@effect_of("location")
def _(site: Site) -> None:
    site.options["location"] = str(site.folder / "here")
    site.backup()
    assert len(site.timestamps(site.folder / "here")) == 1
    assert not (site.var / "backups").exists()


@effect_of("snapshotlocation")
def _(site: Site) -> None:
    site.options["snapshotlocation"] = str(site.folder / "here")
    site.snapshot()
    assert len(site.timestamps(site.folder / "here")) == 1
    assert not (site.var / "snapshotbackups").exists()


@effect_of("blobbackuplocation")
def _(site: Site) -> None:
    site.options["blobbackuplocation"] = str(site.folder / "here")
    site.backup()
    assert blob_files(site.folder / "here" / "blobs")
    assert not (site.var / "blobstoragebackups").exists()


@effect_of("blobsnapshotlocation")
def _(site: Site) -> None:
    site.options["blobsnapshotlocation"] = str(site.folder / "here")
    site.snapshot()
    assert blob_files(site.folder / "here" / "blobs")
    assert not (site.var / "blobstoragesnapshots").exists()


@effect_of("ziplocation")
def _(site: Site) -> None:
    site.options["ziplocation"] = str(site.folder / "here")
    site.zipbackup()
    assert len(site.timestamps(site.folder / "here")) == 1
    assert not (site.var / "zipbackups").exists()


@effect_of("blobziplocation")
def _(site: Site) -> None:
    site.options["blobziplocation"] = str(site.folder / "here")
    site.zipbackup()
    assert os.listdir(site.folder / "here")
    assert not (site.var / "blobstoragezips").exists()


@effect_of("locationprefix")
def _(site: Site) -> None:
    plain = site.plain_options()
    kept = {name: plain[name] for name in ("datafs", "blob_storage")}
    around = Surroundings(part="backup", section="[backup]", base=site.folder, var=site.var)
    here = parse_settings({**kept, "locationprefix": "prefix", "location": "files"}, around).settings
    assert here.location == site.folder / "prefix" / "files"
    assert here.blobbackuplocation == site.folder / "prefix" / "blobstoragebackups"
    site.options = {
        name: str(site.folder / "prefix" / name) for name in plain if "location" in name and name != "locationprefix"
    }
    site.backup()
    assert (site.folder / "prefix").is_dir()


@effect_of("datafs")
def _(site: Site) -> None:
    site.close()
    os.rename(site.datafs, site.folder / "Other.fs")
    site.options["datafs"] = str(site.folder / "Other.fs")
    site.backup()
    (site.folder / "Other.fs").unlink()
    site.restore()
    assert (site.folder / "Other.fs").exists()


@effect_of("blob_storage")
def _(site: Site) -> None:
    site.close()
    assert site.blob_storage is not None
    os.rename(site.blob_storage, site.folder / "other")
    expected = {key: path.read_bytes() for key, path in blob_files(site.folder / "other").items()}
    for name in ("blob_storage", "blob-storage"):
        site.options.pop("blob_storage", None)
        options = site.plain_options()
        del options["blob_storage"]
        around = Surroundings(part="backup", section="[backup]", base=site.folder, var=site.var)
        assert parse_settings({**options, name: "other"}, around).settings.blob_storage == site.folder / "other"
    site.options["blob_storage"] = str(site.folder / "other")
    site.backup()
    found = {key: path.read_bytes() for key, path in blob_files(site.blob_location / "blobs").items()}
    assert found == expected


@effect_of("backup_blobs")
def _(site: Site) -> None:
    site.options["backup_blobs"] = "false"
    site.backup()
    assert len(site.timestamps()) == 1
    assert not (site.var / "blobstoragebackups").exists()
    site.options["backup_blobs"] = "true"
    site.backup()
    assert blob_files(site.var / "blobstoragebackups" / "blobs")


@effect_of("only_blobs")
def _(site: Site) -> None:
    site.options["only_blobs"] = "true"
    site.close()
    site.backup()
    assert not site.timestamps(site.var / "backups")
    assert blob_files(site.var / "blobstoragebackups" / "blobs")


@effect_of("blob_layout")
def _(site: Site) -> None:
    site.options["blob_layout"] = "pool"
    site.backup()
    assert (site.blob_location / "blobs" / ".layout").exists()
    site.options["blob_layout"] = "heap"
    with pytest.raises(ConfigurationError, match="pool"):
        site.backup()


@effect_of("shared_blob_storage")
def _(site: Site) -> None:
    site.backup()
    site.close()
    for shared in ("true", "false"):
        assert site.blob_storage is not None
        theirs = site.blob_storage / "0x00/0x00/0x00/0x00/0x00/0x00/0x77/0x77/0x0377777777777777.blob"
        theirs.parent.mkdir(parents=True, exist_ok=True)
        theirs.write_bytes(b"of another database")
        site.options["shared_blob_storage"] = shared
        site.restore()
        assert theirs.exists() == (shared == "true")


@effect_of("full")
def _(site: Site) -> None:
    for full, suffix in (("false", ".deltafsz"), ("true", ".fsz")):
        site.options["full"] = full
        site.backup()
        site.commit_pages()
        stamp, _ = site.backed_up()
        assert stamp + suffix in site.names()
        site.commit_pages()


@effect_of("full_after_days")
def _(site: Site) -> None:
    for days, suffix in ((0, ".deltafsz"), (30, ".deltafsz"), (7, ".fsz")):
        site.options["full_after_days"] = days
        site.backup(full=True)
        site.clock.sleep(10 * 86400)
        site.commit_pages()
        stamp, _ = site.backed_up()
        assert stamp + suffix in site.names()


@effect_of("full_after_incrementals")
def _(site: Site) -> None:
    site.options["full_after_incrementals"] = 2
    kinds = []
    for _ in range(7):
        site.commit_pages()
        stamp, _ = site.backed_up()
        kinds.append("full" if stamp + ".fsz" in site.names() else "incremental")
    assert kinds == ["full", "incremental", "incremental"] * 2 + ["full"]


@effect_of("nice")
def _(site: Site) -> None:
    seen = site.folder / "seen"
    # What the user's own commands inherit is what the backup has.
    site.options["pre_command"] = f"nice > {seen}"
    site.close()
    assert site.command("backup").returncode == 0
    before = int(seen.read_text())
    site.options["nice"] = "5"
    assert site.command("backup").returncode == 0
    assert int(seen.read_text()) == min(before + 5, MOST_NICE)  # the tests may be nice themselves
    site.options["nice"] = "20"
    with pytest.raises(ConfigurationError, match="nice: '20' is not a whole number from 0 to 19"):
        site.settings  # noqa: B018 - reading it parses the options


@effect_of("io_priority")
def _(site: Site) -> None:
    seen = site.folder / "seen"
    site.options["pre_command"] = f"ionice > {seen}"
    site.close()
    assert site.command("backup").returncode == 0
    assert "idle" not in seen.read_text()
    site.options["io_priority"] = "idle"
    assert site.command("backup").returncode == 0
    assert seen.read_text().strip() == "idle"


@effect_of("keep")
def _(site: Site) -> None:
    for keep, left in (("3", 3), ("1", 1)):
        site.options["keep"] = keep
        for _ in range(4):
            site.backup(full=True)
        assert len(site.timestamps()) == left


def fulls_left(site: Site, **options: str) -> list[str]:
    """The days of the fulls that stay of ten, one every three days from the 24th of November 2076, a Tuesday."""
    site.options = {"keep": "1", "location": str(site.folder / "-".join(options)), "backup_blobs": "false", **options}
    site.set_clock("2076-11-24-00-00-00")
    for _ in range(10):
        site.backup(full=True)
        site.tick(3 * 86400 - 60)
    return [stamp[5:10] for stamp in site.timestamps()]


@effect_of("keep_daily")
def _(site: Site) -> None:
    assert fulls_left(site, keep_daily="3") == ["12-15", "12-18", "12-21"]


@effect_of("keep_weekly")
def _(site: Site) -> None:
    # A week ends on Sunday: the 13th and the 20th of December.
    assert fulls_left(site, keep_weekly="3") == ["12-12", "12-18", "12-21"]


@effect_of("keep_monthly")
def _(site: Site) -> None:
    assert fulls_left(site, keep_monthly="5") == ["11-30", "12-21"]


@effect_of("keep_blob_days")
def _(site: Site) -> None:
    left = []
    for number, days in enumerate((0, 30, 4)):
        site.options = {
            "only_blobs": "true",
            "keep": "0",
            "keep_blob_days": str(days),
            "blobbackuplocation": str(site.folder / f"blobs{number}"),
        }
        for _ in range(20):
            site.commit_blobs(1)
            site.close()
            site.clock.sleep(86400)
            site.backup()
        records = [name for name in os.listdir(site.folder / f"blobs{number}") if name.endswith(".json")]
        left.append(len(records))
    assert left[0] == 20
    assert left[1] == 20
    assert 4 <= left[2] <= 8


@effect_of("pre_command")
def _(site: Site) -> None:
    seen = site.folder / "seen"
    site.options["pre_command"] = f"ls {site.var} > {seen}\n"
    site.backup()
    # It ran before any folder was made: it may mount the disk.
    assert "backups" not in seen.read_text().split()


@effect_of("post_command")
def _(site: Site) -> None:
    seen = site.folder / "seen"
    site.options["post_command"] = f"ls {site.var / 'backups'} > {seen}"
    site.backup()
    assert f"{site.timestamps()[0]}.fsz" in seen.read_text().split()
    seen.unlink()
    site.close()
    site.datafs.write_bytes(b"")
    assert site.command("backup").returncode == 1
    assert not seen.exists()


@effect_of("log_file")
def _(site: Site) -> None:
    site.options["log_file"] = "backup.log"
    site.close()
    assert site.command("backup", "-q").stderr == ""
    assert "INFO: Full backup " in (site.folder / "backup.log").read_text()


@effect_of("syslog")
def _(site: Site) -> None:
    site.options["syslog"] = "log"
    site.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(site.folder / "log"))
        assert site.command("backup", "-q").stderr == ""
        log.settimeout(10)
        lines = [log.recv(65536).decode()]
        while "Full backup " not in lines[-1]:
            lines.append(log.recv(65536).decode())
    assert re.match(r"<30>zodbvault\[\d+\]: backup: INFO: Please wait", lines[0])
    assert "INFO: Full backup " in lines[-1]


@effect_of("metrics_file")
def _(site: Site) -> None:
    site.close()
    assert site.command("backup").returncode == 0
    site.options["metrics_file"] = "numbers.prom"
    assert site.command("backup").returncode == 0
    assert 'zodbvault_backups{location="backups",part="backup"} 1.0' in (site.folder / "numbers.prom").read_text()


@effect_of("healthcheck_url")
def _(site: Site) -> None:
    site.close()
    with listening() as service:
        assert site.command("backup").returncode == 0
        assert service.calls == []
        site.options["healthcheck_url"] = service.url
        assert site.command("backup").returncode == 0
    assert [path for path, _ in service.calls] == ["/ping/start", "/ping"]


@effect_of("debug")
def _(site: Site) -> None:
    site.datafs.write_bytes(b"")
    assert "Traceback" not in site.command("backup").stderr
    site.options["debug"] = "true"
    assert "Traceback" in site.command("backup").stderr


@effect_of("enable_snapshotrestore")
def _(site: Site) -> None:
    site.snapshot()
    site.close()
    site.options["enable_snapshotrestore"] = "false"
    assert site.command("snapshotrestore", "-n").returncode == 2
    site.options["enable_snapshotrestore"] = "true"
    assert site.command("snapshotrestore", "-n").returncode == 0


@effect_of("enable_zipbackup")
def _(site: Site) -> None:
    state = site.state()
    site.close()
    for script in ("zipbackup", "ziprestore"):
        assert site.command(script, "-n").returncode == 2
    site.options["enable_zipbackup"] = "true"
    assert site.command("zipbackup").returncode == 0
    site.commit_blobs()
    site.close()
    assert site.command("ziprestore", "-n").returncode == 0
    assert (site.data, site.blobs) == (state.data, state.blobs)


@effect_of("alternative_restore_source")
def _(site: Site) -> None:
    site.backup()
    state = site.state()
    for name in ("backups", "blobstoragebackups"):
        os.rename(site.var / name, site.folder / f"other {name}")
    site.commit_pages()
    site.close()
    assert site.command("altrestore", "-n").returncode == 2
    site.options["alternative_restore_source"] = "Data 'other backups' 'other blobstoragebackups'"
    assert site.command("altrestore", "-n").returncode == 0
    assert (site.data, site.blobs) == (state.data, state.blobs)


def layout_of(site: Site, **options: str) -> str:
    return Site(site.folder, options=options).settings.blob_layout


@effect_of("archive_blob")
def _(site: Site) -> None:
    assert layout_of(site, archive_blob="false") == "pool"
    assert layout_of(site, archive_blob="true") == "archives"


@effect_of("compress_blob")
def _(site: Site) -> None:
    for word in ("true", "false"):
        site.options = {"blob_layout": "archives", "compress_blob": word}
        assert site.settings.compress_blob == (word == "true")


@effect_of("incremental_blobs")
def _(site: Site) -> None:
    for word in ("true", "false"):
        site.options = {"blob_layout": "archives", "incremental_blobs": word}
        assert site.settings.incremental_blobs == (word == "true")


@effect_of("blob_timestamps")
def _(site: Site) -> None:
    assert layout_of(site, blob_timestamps="true") == "pool"
    assert layout_of(site, blob_timestamps="false") == "directories"
    for word in ("true", "false"):
        site.options = {"blob_layout": "archives", "blob_timestamps": word}
        assert site.settings.blob_timestamps == (word == "true")


@effect_of("use_rsync")
def _(site: Site) -> None:
    assert layout_of(site, use_rsync="true") == "pool"
    assert layout_of(site, use_rsync="false") == "directories"
    for word in ("true", "false"):
        site.options = {"blob_layout": "directories", "use_rsync": word}
        assert site.settings.use_rsync == (word == "true")


@effect_of("rsync_hard_links_on_first_copy")
def _(site: Site) -> None:
    assert layout_of(site, rsync_hard_links_on_first_copy="false") == "pool"
    assert layout_of(site, rsync_hard_links_on_first_copy="true") == "directories"


@effect_of("rsync_options")
def _(site: Site) -> None:
    """It has none, and says so."""
    around = Surroundings(part="backup", section="[backup]", base=site.folder, var=site.var)
    parsed = parse_settings({**site.plain_options(), "rsync_options": "-z"}, around)
    assert parsed.settings == site.settings
    assert parsed.warnings == ("[backup] rsync_options: no rsync is started, and these have no effect: -z",)


# What we no longer do is never accepted and ignored.


@pytest.mark.parametrize(
    "option", [option for option in OPTIONS if option.status is Status.RETIRED], ids=lambda o: o.name
)
def test_an_option_of_the_past_is_warned_about(site: Site, option: object) -> None:
    around = Surroundings(part="backup", section="[backup]", base=site.folder, var=site.var)
    name = option.name  # type: ignore[attr-defined]
    parsed = parse_settings({**site.plain_options(), name: "true"}, around)
    assert any(name in warning for warning in parsed.warnings)


@pytest.mark.parametrize("name", sorted(EFFECTS))
def test_the_option_has_an_effect(site: Site, name: str) -> None:
    EFFECTS[name](site)


def test_no_option_is_without_such_a_test() -> None:
    offered = {option.name for option in OPTIONS if option.status is Status.OFFERED}
    assert set(EFFECTS) == offered
