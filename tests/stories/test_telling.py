"""A backup tells a service of its beginning and its end, and nothing that goes wrong there fails it."""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.services import listening
from zodbvault.commands import telling
from zodbvault.commands.telling import address, backup_and_tell
from zodbvault.errors import ZodbvaultError
from zodbvault.io.locks import LockFile

if TYPE_CHECKING:
    from tests.site import Site


def test_a_success(site: Site) -> None:
    site.close()
    with listening() as service:
        site.options["healthcheck_url"] = service.url + "?create=1"
        finished = site.command("backup")
        assert finished.returncode == 0
        (begin, nothing), (end, summary) = service.calls
        assert (begin, nothing) == ("/ping/start?create=1", "")
        assert end == "/ping?create=1"
        assert summary.startswith("Full backup 2076-11-23-18-06-00: ")
        assert f"INFO: {summary}" in finished.stderr
        # Nothing to do is a success too.
        assert site.command("backup", "-q").stderr == ""
        assert service.calls[-1][1].startswith("No changes since ")


def test_a_failure_brings_the_last_lines_of_the_log(site: Site) -> None:
    site.close()
    site.datafs.write_bytes(b"")
    with listening() as service:
        site.options["healthcheck_url"] = service.url
        site.options["pre_command"] = "true"
        finished = site.command("backup")
    assert finished.returncode == 1
    assert [path for path, _ in service.calls] == ["/ping/start", "/ping/fail"]
    last = service.calls[-1][1].splitlines()[-1]
    assert last == finished.stderr.splitlines()[-1]
    assert last.startswith(f"ERROR: {site.datafs}")


def test_a_mistake_of_ours_is_a_failure_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        logging.getLogger("zodbvault").error("the last line")
        raise KeyboardInterrupt

    monkeypatch.setattr(telling, "backup", fail)
    with listening() as service:
        site.options["healthcheck_url"] = service.url
        with pytest.raises(KeyboardInterrupt):
            backup_and_tell(site.settings, full=False, clock=site.clock)
    assert service.calls[-1] == ("/ping/fail", "ERROR: the last line\nERROR: KeyboardInterrupt")


def test_a_run_that_finds_another_one_at_work_does_not_tell_of_an_end(site: Site) -> None:
    site.backup()
    site.close()
    with listening() as service, LockFile(site.location / ".zodbvault.lock", since="now"):
        site.options["healthcheck_url"] = service.url
        assert site.command("backup").returncode == 75
    assert "/ping" not in [path for path, _ in service.calls]
    assert "/ping/fail" not in [path for path, _ in service.calls]


def test_a_service_that_refuses_fails_no_backup(site: Site) -> None:
    site.close()
    with listening(404) as service:
        site.options["healthcheck_url"] = service.url
        finished = site.command("backup", "-q")
    assert finished.returncode == 0
    warnings = finished.stderr.splitlines()
    assert len(warnings) == 2
    assert all("WARNING: The health check at 127.0.0.1 was not told of the backup: " in line for line in warnings)
    # Who knows the address can make a dead backup look alive.
    assert "/ping" not in finished.stderr
    assert len(site.timestamps()) == 1


def test_a_service_that_is_not_there_fails_no_backup(site: Site) -> None:
    site.close()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        site.options["healthcheck_url"] = f"http://127.0.0.1:{taken.getsockname()[1]}/x"
        assert site.command("backup", "-q").returncode == 0
    assert len(site.timestamps()) == 1


def test_a_service_that_talks_nonsense_fails_no_backup(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        site.options["healthcheck_url"] = f"http://127.0.0.1:{server.getsockname()[1]}/x"

        def answer() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                connection.recv(65536)
                connection.sendall(b"\xff nonsense\r\n\r\n")
                connection.close()

        thread = threading.Thread(target=answer)
        thread.start()
        assert backup_and_tell(site.settings, full=False, clock=site.clock).timestamp is not None
        thread.join()
    assert "was not told of the backup" in caplog.text


@pytest.mark.parametrize("patient", ["timeout", "patience"])
def test_a_service_that_never_answers_fails_no_backup(
    site: Site, patient: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(telling, "TIMEOUT", 0.2 if patient == "timeout" else 200.0)
    monkeypatch.setattr(telling, "PATIENCE", 0.2 if patient == "patience" else 200.0)
    threads = set(threading.enumerate())
    with listening(None) as service:
        site.options["healthcheck_url"] = service.url
        begun = time.monotonic()
        assert backup_and_tell(site.settings, full=False, clock=site.clock).timestamp is not None
        assert time.monotonic() - begun < 100
    assert "was not told of the backup" in caplog.text
    # A call that was given up goes on, and says something when the service is gone: not in another test.
    for thread in set(threading.enumerate()) - threads:
        thread.join(60)
        assert not thread.is_alive()


def test_a_failure_of_a_backup_is_told_where_the_service_is_gone_too(site: Site) -> None:
    site.close()
    site.datafs.write_bytes(b"")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        site.options["healthcheck_url"] = f"http://127.0.0.1:{taken.getsockname()[1]}/x"
        finished = site.command("backup", "-q")
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith(f"ERROR: {site.datafs}")


@pytest.mark.parametrize(
    ("url", "what", "expected"),
    [
        ("https://x/a", "", "https://x/a"),
        ("https://x/a", "start", "https://x/a/start"),
        ("https://x/a/", "fail", "https://x/a/fail"),
        ("https://x/a?b=c", "fail", "https://x/a/fail?b=c"),
        ("https://x", "start", "https://x/start"),
    ],
)
def test_the_address_of_an_event(url: str, what: str, expected: str) -> None:
    assert address(url, what) == expected


@pytest.mark.parametrize("url", ["file:///etc/passwd", "hc.example.org/x", "http://a b", "http://a\nb", "http://ä"])
def test_what_is_no_web_address_is_refused(site: Site, url: str) -> None:
    site.options["healthcheck_url"] = url
    with pytest.raises(ZodbvaultError, match=r"healthcheck_url: .* is not a web address"):
        site.settings  # noqa: B018 - reading it parses the options


# Metrics


def test_numbers_of_each_backup(site: Site) -> None:
    path = site.folder / "numbers.prom"
    site.options["metrics_file"] = str(path)
    for number in (1, 2):
        site.commit_pages(1)
        site.close()
        assert site.command("backup").returncode == 0
        assert f'zodbvault_backups{{location="backups",part="backup"}} {number}.0' in path.read_text()
    # A backup that failed is a number too: the age goes on.
    site.datafs.write_bytes(b"")
    path.unlink()
    assert site.command("backup").returncode == 1
    assert "zodbvault_unsaved_age_seconds" in path.read_text()


def test_numbers_that_cannot_be_written_fail_no_backup(site: Site) -> None:
    site.options["metrics_file"] = str(site.folder / "nowhere" / "numbers.prom")
    site.close()
    finished = site.command("backup", "-q")
    assert finished.returncode == 0
    assert finished.stderr.startswith("WARNING: The metrics are not written: ")
    without = site.folder / "without"
    without.mkdir()
    (without / "prometheus_client.py").write_text("raise ImportError('not installed')")
    finished = site.command("backup", env={"PYTHONPATH": str(without)})
    assert finished.returncode == 0
    assert "zodbvault[metrics]" in finished.stderr


@pytest.mark.parametrize(("script", "summary"), [("snapshotbackup", "Full backup "), ("zipbackup", "Full backup ")])
def test_snapshots_and_zip_backups_tell_of_themselves_too(site: Site, script: str, summary: str) -> None:
    site.close()
    site.options |= {"enable_zipbackup": "true", "metrics_file": str(site.folder / "backup.prom")}
    with listening() as service:
        site.options["healthcheck_url"] = service.url
        assert site.command(script).returncode == 0
        (begin, _), (end, text) = service.calls
        assert (begin, end) == ("/ping/start", "/ping")
        assert text.startswith(summary)
        location = "zips" if script == "zipbackup" else "snapshots"
        metrics = (site.folder / "backup.prom").read_text()
        assert f'zodbvault_backups{{location="{location}",part="backup"}} 1.0' in metrics
        site.datafs.write_bytes(b"")
        assert site.command(script).returncode == 1
        assert service.calls[-1][0] == "/ping/fail"
