"""How many cases the tests try that make their own (hypothesis), and how a failure comes back.

`ci`, the usual one, tries the same cases each time, so that a change is what a new failure comes from. `search`
(`make search`) looks for new ones, many; a failure prints what repeats it.
"""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

# A loaded machine is slow, and real databases are: neither is a failure.
_SLOW = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile(
    "ci", max_examples=200, deadline=None, derandomize=True, print_blob=True, suppress_health_check=_SLOW
)
settings.register_profile(
    "search", max_examples=5000, deadline=None, derandomize=False, print_blob=True, suppress_health_check=_SLOW
)
# `make mutation` runs the tests very many times, and asks only whether one fails.
settings.register_profile(
    "mutation", settings.get_profile("ci"), database=None, phases=[Phase.explicit, Phase.generate]
)
# --hypothesis-profile comes later than this and wins.
settings.load_profile("ci")
