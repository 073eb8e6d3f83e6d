"""How long retirements took: histograms that only grow, as Prometheus wants them.

Problem: a guest waits while something is retired, and for how long hangs on what it was. So there
is a histogram for each cause and, for retirements of everything, for each part of them.

Invariant: nothing is timed that native code does by itself (a store that takes back records):
reading a clock would cost more than the retirement. Those are counted: `tracked_stores`.

Read next: `retirement.py` (who enters them), `metrics.py` (who shows them), docs/metrics.md (what
each time is of).
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from typing import Any

BOUNDS = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005),
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0, 5.0),
)
"""Upper ends of the buckets, in seconds; the last bucket has none."""


class _Histogram:
    """One cause's, of one part."""

    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0


class Latencies:
    """A histogram for each cause and part that was met.

    Parts: `whole`; of everything also `harts_out`, until the last hart was out of native code,
    before all else; then, at the same time, `records`, until records and lookups were gone, and
    `translator`, until the translator had let go.
    """

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], _Histogram] = {}
        self._lock = threading.Lock()

    def add(self, cause: str, **milliseconds: float) -> None:
        """Enter one retirement: milliseconds by part."""
        with self._lock:
            for part, value in milliseconds.items():
                histogram = self._of.get((cause, part))
                if histogram is None:
                    histogram = self._of[cause, part] = _Histogram()
                histogram.buckets[bisect_left(BOUNDS, value / 1e3)] += 1
                histogram.sum += value / 1e3

    def told(self) -> list[dict[str, Any]]:
        """Each: how many in each bucket (not in those below it), and the sum in seconds."""
        with self._lock:
            return [
                {"cause": cause, "part": part, "buckets": list(one.buckets), "sum": one.sum}
                for (cause, part), one in self._of.items()
            ]
