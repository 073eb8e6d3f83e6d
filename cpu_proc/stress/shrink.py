"""A failing random program, as short as can be.

The problem: of three hundred operations two or three matter. Which ones, delta debugging tells:
leave parts out while what remains still fails (Zeller and Hildebrandt, "Simplifying and isolating
failure-inducing input", 2002). What a shorter program must report, the oracle says anew, so a
shorter program fails for itself and not because something is missing.

Invariants: what is returned has failed, in the same way, or is the job as it was; a program is only
ever cut (`random_program.Cut`), never changed. Failures that depend on timing are asked for several
times before a cut is taken for harmless; so a shrunk program may be longer than need be, and is
never one that was not seen to fail.

Read next: `random_program.py`, `finding.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from cpu_proc.stress import draw
from cpu_proc.stress.job import Job, Result, run_job
from cpu_proc.stress.random_program import PAGES, PLACES

FIRST_TRIES = 4  # runs of the whole job: how often does it fail?
MOST_TRIES = 6  # runs of a cut, at most
SURE = 3.0  # expected failures among a cut's runs if nothing was lost by the cut
_FUNCTIONS = range(PAGES * len(PLACES) - 1)

Runner = Callable[[Job], Result]


def shrink(job: Job, kind: str, seconds: float, run: Runner = run_job) -> dict[str, Any]:
    """The smallest job found in so many seconds that ends in `kind` too.

    `job`, `result` (None if it never failed again), `seen` of `runs`: how often the job as it was
    failed again; `tried`: runs in all; `tries`: how many runs make it likely to see it.
    """
    deadline = time.monotonic() + seconds
    search = Search(kind, run, deadline)
    runs = 0
    while runs < FIRST_TRIES and not search.over():
        runs += 1
        search.fails(job)
        if runs == 2 and search.seen == 2:
            break
    seen = search.seen
    if seen:
        search.tries = min(MOST_TRIES, math.ceil(SURE * runs / seen)) if seen < runs else 1
        job = _shorter(job, search)
    return {
        "job": job,
        "result": search.last,
        "seen": seen,
        "runs": runs,
        "tried": search.tried,
        "tries": max(search.tries, 1 if seen else MOST_TRIES),
    }


class Search:
    """Runs jobs until the time is over. `last`: the last result that was a failure."""

    def __init__(self, kind: str, run: Runner, deadline: float) -> None:
        self.kind, self._run, self._deadline = kind, run, deadline
        self.tries = 1
        self.tried = self.seen = 0
        self.last: Result | None = None

    def over(self) -> bool:
        return time.monotonic() >= self._deadline

    def fails(self, job: Job) -> bool:
        """Whether the job fails in one of `tries` runs. When the time is over: no."""
        for _ in range(self.tries):
            if self.over():
                return False
            self.tried += 1
            result = self._run(job)
            if result["kind"] == self.kind:
                self.last = result
                self.seen += 1
                return True
        return False


def _shorter(job: Job, search: Search) -> Job:
    for kind in list(job.get("chaos", {})):
        rest = {name: value for name, value in job["chaos"].items() if name != kind}
        fewer = {**job, "chaos": rest}
        if not rest:
            del fewer["chaos"]
        if search.fails(fewer):
            job = fewer
            if not rest:
                break
    if "scenario" in job:
        return job
    program = "race" if "race" in job else "random"
    if program == "random" and job.get("harts", 1) > 1 and search.fails({**job, "harts": 1}):
        job = {**job, "harts": 1}
    whole: Sequence[int] = job.get(
        "keep", range(int(job.get("operations", draw.OPERATIONS[program])))
    )
    kept = minimise(list(whole), lambda some: search.fails({**job, "keep": some}))
    if len(kept) < len(whole):
        job = {**job, "keep": kept}
    if program == "random":
        blank = frozenset(job.get("blank", ()))
        left = [n for n in _FUNCTIONS if n not in blank]

        def without(some: list[int]) -> Job:
            return {**job, "blank": [n for n in _FUNCTIONS if n not in some]}

        need = minimise(left, lambda some: search.fails(without(some)))
        if len(need) < len(left):
            job = without(need)
    return job


def minimise(items: list[int], fails: Callable[[list[int]], bool]) -> list[int]:
    """A part of `items` that `fails`, from which no single one can be left out (ddmin).

    `items` itself fails. If `fails` says no because time is over, what was found by then.
    """
    if items and fails([]):
        return []
    parts = 2
    while len(items) >= 2:
        size = math.ceil(len(items) / parts)
        chunks = [items[at : at + size] for at in range(0, len(items), size)]
        for chunk in chunks:
            if parts == 2 or len(chunk) == len(items):
                continue  # the complements are the same two
            if fails(chunk):
                items, parts = chunk, 2
                break
        else:
            for number in range(len(chunks)):
                rest = [item for other in chunks[:number] + chunks[number + 1 :] for item in other]
                if fails(rest):
                    items, parts = rest, max(parts - 1, 2)
                    break
            else:
                if size == 1:
                    break
                parts = min(2 * parts, len(items))
    return items
