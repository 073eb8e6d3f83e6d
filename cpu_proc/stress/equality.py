"""Architectural equality: one program, one final state, whatever executes it.

The problem: a checksum that agrees may hide a register that does not. So at the end of a random
program all registers and all memory are hashed (`oracle.state_hash`), and the hash must be the
reference interpreter's in tier 0, in regions, and in regions while everything is retired again and
again, the translator is killed and backends are swapped under way.

Invariants: all ways of a seed run the same image (`Scenario.one_image`); a program that the
reference interpreter comes to no end of has no final state, and another one is taken in its place.

Read next: `random_program.py`, `disturbance.py`.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from cpu_proc.stress.job import Job, Result

OPERATIONS = 100  # enough for disturbances to hit it
PATIENCE = 300.0  # seconds; a busy computer makes no difference
WAYS: dict[str, dict[str, Any]] = {
    "tier 0": {"mode": "tier0"},
    "regions": {"mode": "regions"},
    "regions, retired every 50 ms": {"mode": "regions", "chaos": {"retire": 0.05}},
    "regions, killed every 50 ms": {"mode": "regions", "chaos": {"kill": 0.05}},
    "regions, killed every second": {"mode": "regions", "chaos": {"kill": 1.0}},
    "regions, swapped every 100 ms": {"mode": "regions", "chaos": {"swap": 0.1}},
}
"""What is compared with the reference. A translator takes longer than 50 ms to start: killed that
often, it is hardly ever there; killed every second, it is lost in the middle of work."""


def jobs_of(seed: int, number: int) -> list[Job]:
    """All jobs of one program."""
    same = {"operations": OPERATIONS, "harts": 1, "patience": PATIENCE}
    return [{"random": seed + number, "seed": number, **same, **way} for way in WAYS.values()]


class Draw:
    """The jobs of `programs` programs that have an end, a program's side by side.

    Ask again after the end: what became known of programs meanwhile may make further ones needed.
    """

    def __init__(self, seed: int, programs: int, table: Table) -> None:
        self._seed, self._programs, self._table = seed, programs, table
        self._drawn = 0
        self._queue: deque[Job] = deque()

    def __iter__(self) -> Draw:
        return self

    def __next__(self) -> Job:
        endless = self._table.endless
        while True:
            while self._queue:
                job = self._queue.popleft()
                if job["random"] not in endless:
                    return job
            if self._drawn - len(endless) >= self._programs:
                raise StopIteration
            self._queue.extend(jobs_of(self._seed, self._drawn))
            self._drawn += 1


def way_of(job: Job) -> str:
    """Which of `WAYS` a job goes."""
    return next(name for name, way in WAYS.items()
                if way["mode"] == job["mode"] and way.get("chaos") == job.get("chaos"))  # fmt: skip


class Table:
    """What was compared. `differences`: jobs with another state; `endless`: programs left out."""

    def __init__(self) -> None:
        self.states: dict[int, str] = {}
        self.endless: set[int] = set()
        self.same: Counter[str] = Counter()
        self.different: Counter[str] = Counter()
        self.disturbed: dict[str, Counter[str]] = {name: Counter() for name in WAYS}
        self.seconds: Counter[str] = Counter()
        self.differences: list[dict[str, Any]] = []

    def add(self, job: Job, result: Result) -> None:
        """Book one result."""
        if result["kind"] == "void":
            self.endless.add(job["random"])
            return
        way, reference = way_of(job), result.get("reference", "")
        self.states.setdefault(job["random"], reference)
        same = (
            result["kind"] == "passed"
            and result["state"] == self.states[job["random"]] == reference
        )
        (self.same if same else self.different)[way] += 1
        self.disturbed[way].update(result.get("disturbed", {}))
        self.seconds[way] += result.get("wall", 0.0)
        if not same:
            self.differences.append(
                {"job": job, "kind": result["kind"], "verdict": result["verdict"],
                 "state": result.get("state", ""), "reference": reference}
            )  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """A row a way."""
        return [
            {"way": name, "same": self.same[name], "different": self.different[name],
             "disturbed": dict(self.disturbed[name]), "seconds": self.seconds[name]}
            for name in WAYS
        ]  # fmt: skip
