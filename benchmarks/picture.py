"""Draws bars, ours against theirs, on a logarithmic scale: picture.py RESULTS.json PICTURE.svg (with matplotlib)."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")
# Text stays text, and the same results give the same file.
mpl.rcParams["svg.fonttype"] = "none"
mpl.rcParams["svg.hashsalt"] = "zodbvault"

import matplotlib.pyplot as plt  # noqa: E402 - after the choice of what draws

OURS, THEIRS = "#1b6ca8", "#c9c9c9"
HEIGHT = 0.38


def main() -> None:
    results = json.loads(Path(sys.argv[1]).read_text())
    compared = [row for row in results["rows"] if row["where"] == "memory" and "theirs" in row["runs"]]
    compared = compared or [row for row in results["rows"] if "theirs" in row["runs"]]
    figure, axes = plt.subplots(figsize=(9, 0.8 + 0.55 * len(compared)))
    for place, row in enumerate(reversed(compared)):
        for side, color, offset in (("theirs", THEIRS, HEIGHT / 2), ("ours", OURS, -HEIGHT / 2)):
            seconds = row["runs"][side]["seconds"]
            axes.barh(place + offset, seconds, HEIGHT, color=color, label=None if place else side)
            text = _seconds(seconds) + (f"   {row['ratio']:.1f} times faster" if side == "ours" else "")
            axes.text(seconds * 1.06, place + offset, text, va="center", fontsize=8)
    axes.set_yticks(range(len(compared)), [row["title"] for row in reversed(compared)], fontsize=9)
    axes.set_xscale("log")
    axes.set_xlabel("seconds, logarithmic: shorter is better")
    every = [row["runs"][side]["seconds"] for row in compared for side in ("ours", "theirs")]
    axes.set_xlim(min(every) / 3, max(every) * 4)
    handles, _ = axes.get_legend_handles_labels()
    names = ["zodbvault", "collective.recipe.backup 6.0.0"]
    axes.legend(handles[::-1], names, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=9, frameon=False)
    for edge in ("top", "right"):
        axes.spines[edge].set_visible(False)
    figure.tight_layout()
    figure.savefig(sys.argv[2], metadata={"Date": None})


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"


if __name__ == "__main__":
    main()
