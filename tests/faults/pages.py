"""Commands that write a file about the backups, `report` and `check`, and what must hold after they were disturbed.

The file is the old one or the new one, whole, and nothing else is touched.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.faults.aftermath import require_clear_end
from tests.faults.scenarios import Scenario, Story, leftovers
from tests.site import tree
from zodbvault.commands.check import check
from zodbvault.commands.metrics import METRICS
from zodbvault.commands.report import report, write_page
from zodbvault.commands.watching import Thresholds

if TYPE_CHECKING:
    from pathlib import Path

    from tests.faults.aftermath import Tree
    from tests.faults.disturbing import Outcome, Point
    from tests.faults.scenarios import Start

CHECK = "backup-check"
UNKNOWN = 3
"""The exit code of a check that failed."""
OLD = b"what an earlier run wrote\n"
PAGE, NUMBERS = "backups.html", "backups.prom"


def _page(story: Story) -> None:
    story.history()
    (story.site.var / PAGE).write_bytes(OLD)
    story.arguments = ("--output", str(story.site.var / PAGE))


def _numbers(story: Story) -> None:
    story.history()
    story.backup()
    (story.site.var / NUMBERS).write_bytes(OLD)
    story.arguments = ("--metrics", str(story.site.var / NUMBERS))


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("page about the backups", "backup-report", _page),
        Scenario("check with metrics", CHECK, _numbers),
    )
}


def untouched(start: Start) -> Tree:
    """All files of the site and its backups but the one that is written."""
    written = start.arguments[1]
    return {path: status for path, status in tree(start.site.var).items() if not path.startswith(written)}


def require_good_end(start: Start, outcome: Outcome, point: Point, before: Tree) -> None:
    """How a disturbed command has to end, whatever it leaves."""
    if start.scenario.script != CHECK:
        require_clear_end(start, outcome, point)
    elif outcome.exit_code in (1, 2):
        # It found something wrong with the backups, and says what.
        require_clear_end(start, outcome._replace(exit_code=0), point)
        assert outcome.stdout.startswith(("ZODBVAULT WARNING: ", "ZODBVAULT CRITICAL: ")), outcome.stdout
    else:
        require_clear_end(start, outcome, point, failed=UNKNOWN)
        if outcome.exit_code == UNKNOWN:
            assert outcome.stdout.startswith("ZODBVAULT UNKNOWN: "), outcome.stdout
    assert untouched(start) == before, "files of the site or its backups were touched"


def require_aftermath(start: Start, outcome: Outcome, point: Point, scratch: Path, *, changes: bool) -> None:
    """All that must hold once the command was disturbed, with the next run. Arguments as in aftermath.py."""
    site = start.site
    judged = (0, 1, 2) if start.scenario.script == CHECK else (0,)
    _require_file(start, is_new=outcome.exit_code in judged)
    if changes:
        site.commit_pages()
        site.close()
    before = untouched(start)
    site.tick(3600)
    file, thresholds = site.var / start.arguments[1], Thresholds()
    if start.scenario.script == CHECK:
        check(site.settings, which="all", thresholds=thresholds, metrics=file, clock=site.clock)
    else:
        write_page(file, report(site.settings, which="all", thresholds=thresholds, clock=site.clock))
    _require_file(start, is_new=True)
    assert untouched(start) == before, "files of the site or its backups were touched by the next run"
    assert not leftovers(site), f"left behind: {leftovers(site)}"


def _require_file(start: Start, *, is_new: bool) -> None:
    """The file is a new one; unless is_new it may be the old one too."""
    content = (start.site.var / start.arguments[1]).read_bytes()
    if content == OLD:
        assert not is_new, "the file is the old one"
    elif start.scenario.script == CHECK:
        names = set(re.findall(r"^# HELP zodbvault_(\S+) ", content.decode(), re.MULTILINE))
        assert names == {metric.name for metric in METRICS}, "some numbers are missing"
        assert content.endswith(b"\n")
    else:
        assert content.startswith(b"<!DOCTYPE html>")
        assert content.rstrip().endswith(b"</html>"), "a part of the page is missing"
