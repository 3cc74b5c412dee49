"""What happens to a site over some days, drawn from a seed: the same seed, the same days."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.site import Site

_HOUR = 3600


def live_through(site: Site, seed: int, days: int, *, packs: int = 1) -> Iterator[int]:
    """Let some days pass, each with commits and one or more other things; yields its number when a backup is due.

    On `packs` of the days blobs are deleted and the database is packed, so that files of blobs go.
    """
    print(f"seed {seed}")
    drawn = random.Random(seed)
    packed = set(drawn.sample(range(1, days), packs))
    for day in range(days):
        site.tick(drawn.randrange(5 * _HOUR, 40 * _HOUR))
        site.commit_pages(drawn.randrange(1, 4))
        for _ in range(drawn.randrange(1, 4)):
            what = drawn.randrange(5)
            if what == 0:
                site.undo(drawn.randrange(2))
            elif what == 1:
                site.delete()
            elif what == 2:
                site.commit_pages(drawn.randrange(1, 6), 2000)
            else:
                site.commit_blobs(drawn.randrange(1, 4))
        if day in packed:
            site.commit_blobs(2)
            for _ in range(3):
                site.delete()
            site.pack()
        # A blob that only this day has, and something that is new in any case.
        site.commit_blobs(1)
        yield day
