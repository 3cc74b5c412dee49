"""The table, the pages and the costs that are fitted, from made-up results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from benchmarks.growth import FITTED, LARGE_SITE, Site, fit, growth_figures, site_of

from benchmarks import report

if TYPE_CHECKING:
    from pathlib import Path

COSTS = (0.04, 3.0, 0.5, 0.25, 2.0)
ABOUT = {
    "K": {"data_fs": 10**7, "transactions": 2_000, "blobs": 1_000, "blob_bytes": 16 * 10**6},
    "S": {"data_fs": 39 * 10**7, "transactions": 25_000, "blobs": 5_000, "blob_bytes": 155 * 10**6},
    "L": {"data_fs": 17 * 10**8, "transactions": 200_000, "blobs": 0, "blob_bytes": 0},
    "M": {"data_fs": 46 * 10**7, "transactions": 2_000_000, "blobs": 0, "blob_bytes": 0},
    "B": {"data_fs": 6 * 10**7, "transactions": 105_000, "blobs": 100_000, "blob_bytes": 16 * 10**8},
    "S10": {"data_fs": 39 * 10**8, "transactions": 250_000, "blobs": 50_000, "blob_bytes": 1550 * 10**6},
}


def one(seconds: float, memory: int = 30_000_000) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "all_seconds": [seconds],
        "cpu": seconds,
        "peak_memory": memory,
        "read": 0,
        "written": 0,
    }


def compared(name: str, ours: float, theirs: float, target: float) -> dict[str, Any]:
    return {
        "row": name,
        "title": f"row {name}",
        "data": "S",
        "where": "memory",
        "runs": {"ours": one(ours), "theirs": one(theirs)},
        "ratio": theirs / ours,
        "target": target,
        "reached": theirs / ours >= target,
        "checks": [{"text": "x md5sum", "value": 1.5, "limit": 2.2, "unit": "x", "reached": True}],
        "figures": {},
    }


def growth_row(name: str, memory: int = 30_000_000) -> dict[str, Any]:
    seconds = site_of(name, ABOUT[name]).expected(COSTS)
    runs = {"full": one(seconds, memory), "nothing changed": one(0.04, memory)}
    return {
        "row": f"growth-{name}",
        "title": f"every command, {name}",
        "data": name,
        "where": "memory",
        "runs": runs,
        "site": ABOUT[name],
    }


MACHINE = {
    "processor": "a processor",
    "cores": 2,
    "memory_gb": 24,
    "system": "Linux",
    "python": "3.11",
    "ours": {"zodbvault": "1"},
    "theirs": {"ZODB": "6"},
}


def test_a_row_says_ratio_target_and_verdict() -> None:
    rows = [compared("good", 0.1, 2.0, 10), compared("bad", 1.0, 2.0, 10)]
    lines = report.table({"size": "full", "rows": rows, "machine": MACHINE}).splitlines()
    assert lines[1].split() == [
        *("memory", "row", "good", "100", "ms", "2.0", "s", "20.0", "10", "reached"),
        *("1.50", "x", "md5sum", "(at", "most", "2.2:", "reached);", "30", "MB", "of", "memory"),
    ]
    assert "2.0      10  MISSED" in lines[2]
    assert "peak memory, all rows (of S)" in lines[3]


def test_a_memory_that_grows_with_the_site_is_missed() -> None:
    rows = [growth_row("S"), growth_row("L", 41_000_000)]
    assert "for L than for S" in report.table({"size": "full", "rows": rows}).splitlines()[-1]
    assert "MISSED" in report.table({"size": "full", "rows": rows}).splitlines()[-1]
    rows = [growth_row("S"), growth_row("L", 33_000_000)]
    assert "reached" in report.table({"size": "full", "rows": rows}).splitlines()[-1]


def test_costs_are_found_again() -> None:
    sites = [site_of(name, ABOUT[name]) for name in FITTED]
    found = fit([(site, site.expected(COSTS)) for site in sites])
    assert found == pytest.approx(COSTS)


def test_no_cost_is_below_zero() -> None:
    sites = [Site("a", (1.0, 1.0, 0.0, 0.0, 0.0)), Site("b", (1.0, 10.0, 0.0, 0.0, 0.0))]
    assert min(fit([(sites[0], 3.0), (sites[1], 2.0)])) >= 0


def test_larger_sites_are_computed_and_compared_with_what_was_measured() -> None:
    text = "\n".join(growth_figures([growth_row(name) for name in ABOUT]))
    seconds = site_of("S10", ABOUT["S10"]).expected(COSTS)
    assert f"- {seconds:.1f} s\n     - {seconds:.1f} s" in text
    assert f"{site_of('large', LARGE_SITE).expected(COSTS) / 60:.0f} min" in text


def test_without_measurements_no_figure_is_shown() -> None:
    assert "not been measured" in growth_figures([growth_row("S")])[0]


def test_figures_are_replaced_in_a_page_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.rst"
    page.write_text(f"before\n\n{report.BEGIN}\n{report.END}\nafter\n")
    report._replace(page, ["old"])
    report._replace(page, ["one", "two"])
    assert page.read_text() == f"before\n\n{report.BEGIN}\none\ntwo\n\n{report.END}\nafter\n"
