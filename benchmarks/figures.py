"""From what was seen to what is said: medians, spreads, ratios, means.

The problem: a figure must not be better than the run it comes from. A run whose checksums differ
from the host's gives no figure at all, and a run is compared with those beside it in time.

Invariants: all costs are CPU seconds for 10^9 guest instructions, the translator's included unless
they are named apart; so two contenders did the same work whatever number of chunks each did. Pure
functions: no process, no clock.

Read next: `suite.py`, `report.py`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.processes import Trace

GIGA = 1e9


@dataclass(frozen=True)
class Cost:
    """A steady phase: seconds for 10^9 guest instructions, and the memory of the whole run."""

    wall: float
    own: float
    translator: float
    memory_own: int = 0
    memory_translator: int = 0

    @property
    def cpu(self) -> float:
        """All CPU seconds."""
        return self.own + self.translator


@dataclass
class Row:
    """A program: what each contender's rounds cost (None: no figure), and why there is none."""

    program: str
    kind: str
    instructions: float  # a chunk
    rounds: dict[str, list[Cost | None]] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    def kept(self, name: str) -> list[Cost]:
        """A contender's figures."""
        return [cost for cost in self.rounds.get(name, []) if cost is not None]


def cost(trace: Trace, instructions: float) -> Cost | None:
    """What the steady phase of a run cost; None if there was none."""
    steady = trace.steady
    if steady is None or steady.chunks < 1:
        return None
    work = steady.chunks * instructions / GIGA
    return Cost(
        steady.wall / work,
        steady.own / work,
        steady.others / work,
        trace.memory[0],
        trace.memory[1],
    )


def wrong_at(checksums: Sequence[str], expected: Sequence[str]) -> int | None:
    """The first chunk whose checksum is not as expected; None if all are."""
    for number, (one, other) in enumerate(zip(checksums, expected, strict=False)):
        if one != other:
            return number
    return len(expected) if len(checksums) > len(expected) else None


def median(values: Iterable[float]) -> float:
    """The median; NaN of nothing."""
    found = list(values)
    return statistics.median(found) if found else math.nan


def geometric_mean(values: Iterable[float]) -> float:
    """The geometric mean; NaN of nothing."""
    found = [value for value in values if not math.isnan(value)]
    return math.exp(sum(map(math.log, found)) / len(found)) if found else math.nan


def ratio(row: Row, slow: str, fast: str) -> float:
    """How many times the CPU seconds of `fast` are those of `slow`: median over rounds."""
    pairs = zip(row.rounds.get(slow, []), row.rounds.get(fast, []), strict=False)
    return median(a.cpu / b.cpu for a, b in pairs if a is not None and b is not None)


def least_ratio(row: Row, slow: str, fast: str) -> float:
    """The same of the cheapest round of each: what a busy machine disturbs least."""
    a, b = row.kept(slow), row.kept(fast)
    return min(x.cpu for x in a) / min(x.cpu for x in b) if a and b else math.nan


def means(rows: Sequence[Row], slow: str, fast: str) -> dict[str, float]:
    """Geometric means of the ratio, by kinds of programs."""
    kinds: Mapping[str, tuple[str, ...]] = {
        "integer": ("integer",),
        "floating point": ("float",),
        "CPU-bound": ("integer", "float"),
        "all": ("integer", "float", "system"),
    }
    return {
        name: geometric_mean(ratio(row, slow, fast) for row in rows if row.kind in wanted)
        for name, wanted in kinds.items()
    }


def as_json(rows: Sequence[Row], versions: Mapping[str, str]) -> dict[str, Any]:
    """All that was measured."""
    return {"versions": dict(versions), "rows": [asdict(row) for row in rows]}


def from_json(found: Mapping[str, Any]) -> tuple[list[Row], dict[str, str]]:
    """What `as_json` made."""
    rows = []
    for raw in found["rows"]:
        rounds = {
            name: [Cost(**one) if one else None for one in costs]
            for name, costs in raw["rounds"].items()
        }
        rows.append(Row(**{**raw, "rounds": rounds}))
    return rows, dict(found["versions"])
