"""Backups that run by themselves: the real crontab of whoever runs the tests, which is put back, and units of systemd.

Each line is run as cron would run it. A cron that is at work is not needed, but its program `crontab` is.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.own_crontab import crontab, own_crontab
from tests.site import Site, generate_program, generate_script, timestamp
from zodbvault.io.locks import LockFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OTHERS = b"# of somebody\nMAILTO=me@example.org\n7 7 * * * echo 100\\% \xfc\n\n#end\n"
ODD = "with space 100% \"q\" 'x' $HOME \\d"


@pytest.fixture
def lines_of_others() -> Iterator[bytes]:
    """A crontab with lines that are none of ours; what the user has is put back, whatever happens."""
    with own_crontab():
        assert crontab("-", given=OTHERS).returncode == 0
        yield OTHERS


def commands_in(text: str) -> list[str]:
    """The commands of the lines of a crontab, as cron gives them to the shell."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found = []
    for line in lines:
        assert len(line) < 998
        command = line.split(" ", 5)[5]
        assert "%" not in command.replace("\\%", "")
        found.append(command.replace("\\%", "%"))
    return found


def run_in_shell(command: str, site: Site) -> subprocess.CompletedProcess[str]:
    """A command as cron runs it, at the time of the site."""
    site.tick(60)
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd="/",
        env={"ZODBVAULT_TEST_NOW": timestamp(site.clock.now()), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def odd_site(tmp_path: Path) -> Iterator[Site]:
    """A site without buildout in a folder with an odd name."""
    site = Site(tmp_path / ODD)
    site.commit_blobs(2)
    site.close()
    text = '[site."my plone 5%"]\ndatafs = "var/filestorage/Data.fs"\nblob_storage = "var/blobstorage"\n'
    (site.folder / "zodbvault.toml").write_text(text)
    generate_program(site.folder / "bin")
    yield site
    site.close()


def schedule(site: Site, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """zodbvault schedule in the folder of a site."""
    return subprocess.run(
        ["bin/zodbvault", "schedule", *arguments],
        cwd=site.folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


# Lines of a crontab


def test_each_line_does_its_work_and_says_nothing(odd_site: Site) -> None:
    shown = schedule(odd_site)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == schedule(odd_site, "--cron", "--every", "15").stdout
    name = f"my plone 5% {odd_site.folder}/zodbvault.toml"
    assert shown.stdout.splitlines()[0] == f"# BEGIN zodbvault {name}"
    assert shown.stdout.splitlines()[-1] == f"# END zodbvault {name}"
    incremental, full, verify, drill = dict.fromkeys(commands_in(shown.stdout))
    for command in (incremental, full, verify, drill):
        finished = run_in_shell(command, odd_site)
        assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", ""), command
    location = odd_site.var / "my plone 5%s"
    fulls = [name for name in os.listdir(location) if name.endswith(".fsz")]
    checks = "".join(path.read_text() for path in location.glob("*.checks.json"))
    assert len(fulls) == 2
    assert "verified" in checks
    assert "drill" in checks


def test_the_script_of_a_part_names_its_sisters(site: Site) -> None:
    shown = site.command("backup-schedule")
    assert (shown.returncode, shown.stderr) == (0, "")
    for name in ("backup", "backup-verify", "backup-drill"):
        generate_script(site, name)
    site.close()
    for command in dict.fromkeys(commands_in(shown.stdout)):
        finished = run_in_shell(command, site)
        assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", ""), command
    assert [shlex.split(command)[0] for command in dict.fromkeys(commands_in(shown.stdout))] == [
        str(site.folder / "bin" / name) for name in ("backup", "backup", "backup-verify", "backup-drill")
    ]


def test_a_run_that_finds_another_one_sends_no_mail(site: Site) -> None:
    site.backup()
    site.close()
    generate_script(site, "backup")
    site.options["log_file"] = str(site.folder / "log")
    generate_script(site, "backup")
    with LockFile(site.location / ".zodbvault.lock", since="now"):
        for command in commands_in(site.command("backup-schedule").stdout):
            if "verify" not in command and "drill" not in command:
                finished = run_in_shell(command, site)
                assert (finished.returncode, finished.stdout, finished.stderr) == (75, "", ""), command
        assert "INFO: Skipped: " in (site.folder / "log").read_text()
        finished = site.command("backup")
        assert finished.returncode == 75
        assert finished.stderr.startswith("ERROR: ")


def test_install_twice_does_nothing_twice_and_remove_undoes_it(odd_site: Site, lines_of_others: bytes) -> None:
    finished = schedule(odd_site, "--install")
    assert (finished.returncode, finished.stdout) == (0, ""), finished.stderr
    assert "is in the crontab" in finished.stderr
    installed = crontab("-l").stdout
    assert installed == lines_of_others + schedule(odd_site).stdout.encode()
    finished = schedule(odd_site, "--install")
    assert "Nothing to do" in finished.stderr
    assert crontab("-l").stdout == installed
    # Changed in its place, between lines that came since.
    crontab("-", given=installed + b"8 8 * * * later\n")
    assert schedule(odd_site, "--install", "--every", "60").returncode == 0
    hourly = schedule(odd_site, "--every", "60").stdout.encode()
    assert crontab("-l").stdout == lines_of_others + hourly + b"8 8 * * * later\n"
    finished = schedule(odd_site, "--remove")
    assert finished.returncode == 0, finished.stderr
    assert crontab("-l").stdout == lines_of_others + b"8 8 * * * later\n"
    assert "Nothing to do" in schedule(odd_site, "--remove").stderr
    assert crontab("-l").stdout == lines_of_others + b"8 8 * * * later\n"


def test_who_had_no_crontab_has_none_again(site: Site, lines_of_others: bytes) -> None:
    crontab("-r")
    assert site.command("backup-schedule", "--install").returncode == 0
    assert crontab("-l").stdout.startswith(b"# BEGIN zodbvault backup ")
    assert site.command("backup-schedule", "--remove").returncode == 0
    assert b"no crontab for" in crontab("-l").stderr


def test_two_sites_of_one_name_stand_beside_each_other(
    site: Site, odd_site: Site, tmp_path: Path, lines_of_others: bytes
) -> None:
    other = Site(tmp_path / "other")
    other.close()
    for each in (site, other, site, other):
        assert each.command("backup-schedule", "--install").returncode == 0
    text = crontab("-l").stdout
    assert text.count(b"# BEGIN zodbvault backup ") == 2
    assert site.command("backup-schedule", "--remove").returncode == 0
    assert crontab("-l").stdout == lines_of_others + other.command("backup-schedule").stdout.encode()


def test_a_crontab_that_cannot_be_used_is_left_alone(site: Site, lines_of_others: bytes, tmp_path: Path) -> None:
    assert site.command("backup-schedule", "--install").returncode == 0
    broken = crontab("-l").stdout.replace(b"# END zodbvault", b"# and")
    crontab("-", given=broken)
    for argument in ("--install", "--remove"):
        finished = site.command("backup-schedule", argument)
        assert finished.returncode == 1
        assert "crontab -e" in finished.stderr
    assert crontab("-l").stdout == broken
    finished = site.command("backup-schedule", "--install", env={"PATH": str(tmp_path)})
    assert finished.returncode == 1
    assert "crontab cannot be started" in finished.stderr
    refusing = tmp_path / "crontab"
    refusing.write_text("#!/bin/sh\necho You are not allowed to use this program >&2\nexit 1\n")
    refusing.chmod(0o755)
    finished = site.command("backup-schedule", "--install", env={"PATH": str(tmp_path)})
    assert finished.returncode == 1
    assert "the crontab cannot be read: You are not allowed" in finished.stderr


@pytest.mark.slow
def test_a_real_cron_makes_a_backup(odd_site: Site, lines_of_others: bytes) -> None:
    location = odd_site.var / "my plone 5%s"
    assert schedule(odd_site, "--install", "--every", "1").returncode == 0
    # Where a cron is at work already this one ends at once. Jobs start at full minutes, and ten of these may go by
    # before a full backup.
    with subprocess.Popen(["/usr/sbin/cron", "-f"]) as cron:
        try:
            deadline = time.monotonic() + 800
            while not list(location.glob("*.dat")) and time.monotonic() < deadline:
                time.sleep(1)
        finally:
            cron.terminate()
    assert schedule(odd_site, "--remove").returncode == 0
    assert len(odd_site.timestamps(location)) == 1


# Units of systemd


def verified(folder: Path) -> subprocess.CompletedProcess[str]:
    units = [str(path) for path in sorted(folder.iterdir()) if path.is_file()]
    return subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)


def started(unit: Path) -> list[str]:
    """The words that systemd starts, by the rules of systemd.service(5)."""
    (line,) = re.findall(r"^ExecStart=:(.*)$", unit.read_text(), re.MULTILINE)
    assert "%" not in line.replace("%%", "")
    return shlex.split(line.replace("%%", "%"))


@pytest.mark.parametrize("every", ["1", "15", "1440"])
def test_systemd_has_nothing_to_say_about_the_units(every: str, odd_site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "units"
    finished = schedule(odd_site, "--systemd", "--units", str(folder), "--install", "--every", every)
    assert (finished.returncode, finished.stdout) == (0, ""), finished.stderr
    assert "enable --now" in finished.stderr
    assert len(list(folder.iterdir())) == 8
    finished = verified(folder)
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    for job in ("backup", "full", "verify", "drill"):
        (service,), (timer,) = (list(folder.glob(f"*-{job}.{kind}")) for kind in ("service", "timer"))
        assert service.stem == timer.stem
        assert "\nPersistent=true\n" in timer.read_text()
        assert re.search(r"^RandomizedDelaySec=\d+$", timer.read_text(), re.MULTILINE)
        # Skipped is no failure; only the full one has no next one soon.
        assert ("\nSuccessExitStatus=75\n" in service.read_text()) == (job != "full")
        assert ("\nRestart=on-failure\n" in service.read_text()) == (job == "full")
        assert "my plone 5%% " in service.read_text()
        finished = run_in_shell(shlex.join(started(service)), odd_site)
        assert (finished.returncode, finished.stdout, finished.stderr) == (0, "", "")
    assert len(odd_site.timestamps(odd_site.var / "my plone 5%s")) == 2
    # It looks.
    (odd_site.folder / "bin" / "zodbvault").rename(odd_site.folder / "gone")
    next(folder.glob("*.timer")).write_text("[Timer]\nOnCalendar=never\n")
    assert "never" in verified(folder).stderr


def test_a_plain_path_is_what_systemd_starts(site: Site, tmp_path: Path) -> None:
    for name in ("backup", "backup-verify", "backup-drill"):
        generate_script(site, name)
    folder = tmp_path / "units"
    assert site.command("backup-schedule", "--systemd", "--units", str(folder), "--install").returncode == 0
    finished = verified(folder)
    assert (finished.returncode, finished.stderr) == (0, "")
    (service,) = folder.glob("*-verify.service")
    assert started(service) == [f"{site.folder}/bin/backup-verify", "-q"]
    (site.folder / "bin" / "backup-verify").unlink()
    assert "backup-verify is not executable" in verified(folder).stderr


def test_units_twice_and_removed(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "units"
    arguments = ("--systemd", "--units", str(folder))
    (folder / "timers.target.wants").mkdir(parents=True)
    (folder / "other.timer").write_text("mine")
    (folder / "timers.target.wants" / "other.timer").symlink_to(folder / "other.timer")
    assert "Nothing to do" in site.command("backup-schedule", *arguments, "--remove").stderr
    assert site.command("backup-schedule", *arguments, "--install").returncode == 0
    status = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(status) == 10
    assert "Nothing to do" in site.command("backup-schedule", *arguments, "--install").stderr
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == status
    assert "4 units written" in site.command("backup-schedule", *arguments, "--install", "--every", "1").stderr
    # As `systemctl enable` does.
    for timer in folder.glob("zodbvault-*.timer"):
        (folder / "timers.target.wants" / timer.name).symlink_to(timer)
    finished = site.command("backup-schedule", *arguments, "--remove")
    assert (finished.returncode, finished.stdout) == (0, ""), finished.stderr
    assert sorted(path.name for path in folder.rglob("*")) == ["other.timer", "other.timer", "timers.target.wants"]


def test_units_are_shown_with_their_names(site: Site) -> None:
    shown = site.command("backup-schedule", "--systemd", env={"XDG_CONFIG_HOME": "/c"})
    assert (shown.returncode, shown.stderr) == (0, "")
    folder = "/etc/systemd/system" if os.geteuid() == 0 else "/c/systemd/user"
    names = re.findall(r"^# (/\S+)$", shown.stdout, re.MULTILINE)
    assert len(names) == 8
    assert {os.path.dirname(name) for name in names} == {folder}


def test_root_lets_the_owner_of_the_database_do_it(site: Site) -> None:
    assert "User=" not in site.command("backup-schedule", "--systemd").stdout
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(site.datafs, 65534, -1)
    assert site.command("backup-schedule", "--systemd").stdout.count("\nUser=nobody\n") == (4 if is_root else 0)


def test_root_lets_the_owner_of_the_blobs_do_it_where_they_alone_are_backed_up(site: Site) -> None:
    site.options["only_blobs"] = "true"
    site.close()
    site.datafs.unlink()
    is_root = os.geteuid() == 0
    assert site.blob_storage is not None
    if is_root:
        os.chown(site.blob_storage, 65534, -1)
    assert site.command("backup-schedule", "--systemd").stdout.count("\nUser=nobody\n") == (4 if is_root else 0)


# What is wrong


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--every", "7"], "--every 7: is none of the distances"),
        (["--units", "x"], "it goes with --systemd"),
        (["--install", "--remove"], "not allowed with argument"),
        (["--cron", "--systemd"], "not allowed with argument"),
        (["--remove", "--every", "15"], "--every has no effect with --remove"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, site: Site) -> None:
    finished = site.command("backup-schedule", *arguments)
    assert finished.returncode == 2
    assert said in finished.stderr


def test_the_log_of_the_site_tells_of_it_too(odd_site: Site, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(odd_site.folder, 1234, 1234)
    with (odd_site.folder / "zodbvault.toml").open("a") as file:
        file.write('log_file = "our.log"\n')
    said = schedule(odd_site, "-q", "--systemd", "--install", "--units", str(tmp_path / "units"))
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
    assert f" INFO: 8 units written to {tmp_path / 'units'}.\n" in (odd_site.folder / "our.log").read_text()
    log, folder = (odd_site.folder / "our.log").stat(), odd_site.folder.stat()
    assert (log.st_uid, log.st_gid) == (folder.st_uid, folder.st_gid)
    assert schedule(odd_site, "--every", "7", "--install").returncode == 2
    assert " ERROR: " in (odd_site.folder / "our.log").read_text()


def test_what_cron_does_not_have_is_not_relied_on(odd_site: Site, lines_of_others: bytes) -> None:
    shown = schedule(odd_site, ZODBVAULT_KEEP="5")
    assert shown.returncode == 0
    assert shown.stderr == "WARNING: Not set where cron or systemd runs it: ZODBVAULT_KEEP.\n"
    finished = schedule(odd_site, "--install", ZODBVAULT_KEEP="5")
    assert finished.returncode == 2
    assert "cron and systemd do not have what is set here: ZODBVAULT_KEEP" in finished.stderr
    assert crontab("-l").stdout == lines_of_others
    shown = schedule(odd_site, "--option", "keep=5", "--option", "pre_command=echo 100%")
    assert shown.stderr == ""
    assert {tuple(shlex.split(command)[5:9]) for command in commands_in(shown.stdout)} == {
        ("--option", "keep=5", "--option", "pre_command=echo 100%")
    }
    assert schedule(odd_site, "--remove", ZODBVAULT_KEEP="5").stderr.startswith("INFO: Nothing to do")
    (odd_site.folder / "zodbvault.toml").unlink()
    finished = schedule(odd_site, ZODBVAULT_DATAFS="d", ZODBVAULT_BACKUP_BLOBS="false")
    assert finished.returncode == 2
    assert "a schedule needs a zodbvault.toml" in finished.stderr
    assert "Write the site's options into one; zodbvault init makes it" in finished.stderr
    assert "--option" not in finished.stderr


def test_a_line_break_cannot_be_written(site: Site) -> None:
    site.close()
    script = generate_script(site, "backup-schedule")
    folder = site.folder / "a\nb"
    folder.mkdir()
    script = script.rename(folder / script.name)
    finished = subprocess.run([script], capture_output=True, text=True, timeout=300)
    assert finished.returncode == 2
    assert "a line break" in finished.stderr
