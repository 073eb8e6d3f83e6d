"""How long retirements of everything took: histograms that only grow, as Prometheus wants them.

Read next: `retirement.py` (who enters them), `metrics.py` (who shows them).
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0, 5.0)
"""Upper ends of the buckets, in seconds; the last bucket has none."""

PARTS = ("harts_out", "records", "translator", "whole")
"""Until the last hart was out of native code, before all else; then, at the same time, until
records and lookups were gone, and until the translator had let go; and all of it.
"""


class Latencies:
    """A histogram for each part."""

    def __init__(self) -> None:
        self._buckets = {part: [0] * (len(BOUNDS) + 1) for part in PARTS}
        self._sums = dict.fromkeys(PARTS, 0.0)

    def add(self, **milliseconds: float) -> None:
        """Enter one retirement: milliseconds by part."""
        for part, value in milliseconds.items():
            self._buckets[part][bisect_left(BOUNDS, value / 1e3)] += 1
            self._sums[part] += value / 1e3

    def told(self) -> dict[str, dict[str, Any]]:
        """By part: how many in each bucket (not in those below it), and the sum in seconds."""
        return {
            part: {"buckets": list(self._buckets[part]), "sum": self._sums[part]} for part in PARTS
        }
