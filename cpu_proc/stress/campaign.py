"""A campaign: jobs without end until the time is over, and what came of them.

The problem: hours of jobs on many cores, of which any may crash or hang, and which may be ended at
any moment; nothing that was found may be lost. So results are booked as they come, a finding is a
folder at once (`finding.py`), then is shrunk as one more job (`shrink.py`), and reports can be
written from the book at any time.

Invariants:
- Which jobs are done follows from the wish (`draw.py`); time decides only how many.
- Only a value that a guest reported makes a `stale` finding. Whatever else went wrong with a job is
  a finding of its own kind and counted apart.
- When it is told to stop, nothing is submitted any more, and what runs is given up.

Read next: `draw.py`, `pool.py`, `report.py`.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpu_proc.stress import finding, shrink
from cpu_proc.stress.draw import kind_of, name_of
from cpu_proc.stress.job import Job, Result, run_job
from cpu_proc.stress.pool import Pool

KINDS = ("stale", "trap", "late", "ended", "crashed", "hung", "idle", "lost")
"""Of findings: a wrong value; an exception nobody asked for; not done in time; ended too early; its
process crashed, hung; nothing was translated; the worker that did it was lost."""
TICK = 0.25  # seconds between two looks at the clock
SHRUNK = 8  # findings of a campaign that are shrunk


@dataclass
class Finding:
    """One result that is none of `passed`."""

    job: Job
    kind: str
    verdict: str
    second: float
    folder: str = ""
    operations: int | None = None
    """What is left of a random program's operations when it was shrunk."""
    seen: str = ""
    """How often it failed again."""


@dataclass
class Book:
    """What a campaign has come to so far."""

    seconds: float = 0.0
    jobs: int = 0
    events: int = 0
    void: int = 0
    """Random programs that even the oracle did not end; no result."""
    causes: Counter[str] = field(default_factory=Counter)
    disturbed: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    """Jobs by `draw.kind_of`."""
    points: list[tuple[float, int, int]] = field(default_factory=list)
    """Seconds, events and jobs so far, after each job."""
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds of each job, by kind and mode."""
    checks: int = 0
    """Calls that races have checked."""
    findings: list[Finding] = field(default_factory=list)
    unwritten: list[str] = field(default_factory=list)
    """Findings whose folder could not be written: why."""

    def add(self, job: Job, result: Result, second: float) -> Finding | None:
        """Book a result; the finding if it is one."""
        self.seconds = second
        if result["kind"] == "void":
            self.void += 1
            return None
        self.jobs += 1
        self.kinds[kind_of(job)] += 1
        self.events += result.get("events", 0)
        self.causes.update(result.get("retired", {}))
        self.causes["store"] += result.get("stores", 0)
        self.disturbed.update(result.get("disturbed", {}))
        if "race" in job and len(result.get("values", [])) == 6:
            self.checks += result["values"][-1]
        self.times[f"{kind_of(job)}, {job['mode']}"].append(result["wall"])
        self.points.append((second, self.events, self.jobs))
        if result["kind"] == "passed":
            return None
        made = Finding(job, result["kind"], result["verdict"], second)
        self.findings.append(made)
        return made

    def counted(self) -> Counter[str]:
        """Findings by kind."""
        return Counter(found.kind for found in self.findings)


@dataclass
class Limits:
    """When a campaign ends, and what it spends on findings."""

    seconds: float | None = None
    count: int | None = None
    first: bool = False
    """End at the first finding by a value."""
    shrink_seconds: float = 60.0
    out: Path = Path("stress-findings")


def run(
    jobs: Iterator[Job],
    pool: Pool,
    limits: Limits,
    tell: Callable[[Book], None] = lambda book: None,
    book: Book | None = None,
) -> Book:
    """Do jobs until a limit is reached. A KeyboardInterrupt or SystemExit passes; the book, when it
    was given, holds all that came before."""
    return Campaign(jobs, pool, limits, tell, Book() if book is None else book).go()


class Campaign:
    """The loop of `run`."""

    def __init__(
        self,
        jobs: Iterator[Job],
        pool: Pool,
        limits: Limits,
        tell: Callable[[Book], None],
        book: Book,
    ) -> None:
        self._jobs, self._pool, self._limits, self._tell = jobs, pool, limits, tell
        self.book = book
        self._began = time.monotonic()
        self._submitted = 0
        self._shrunk = 0
        self._ended = False
        self._pending: dict[concurrent.futures.Future[Any], tuple[Job, Finding | None]] = {}

    def go(self) -> Book:
        while True:
            self._fill()
            if not self._pending:
                return self.book
            done, _ = concurrent.futures.wait(
                self._pending, TICK, concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                self._finish(future)
            self._tell(self.book)

    def _second(self) -> float:
        return time.monotonic() - self._began

    def _over(self) -> bool:
        limits = self._limits
        timely = limits.seconds is None or self._second() < limits.seconds
        enough = limits.count is not None and self._submitted >= limits.count
        return self._ended or not timely or enough

    def _fill(self) -> None:
        while len(self._pending) < self._pool.width and not self._over():
            job = next(self._jobs, None)
            if job is None:
                self._ended = True
                return
            self._submitted += 1
            self._pending[self._pool.submit(run_job, job)] = (job, None)

    def _finish(self, future: concurrent.futures.Future[Any]) -> None:
        job, found = self._pending.pop(future)
        try:
            result = future.result()
        except Exception as error:  # the worker's end, whatever it was: the job's is not known
            result = {"kind": "lost", "verdict": f"{type(error).__name__}: {error}", "wall": 0.0}
        if found is not None:
            self._keep_shrunk(job, found, result)
            return
        found = self.book.add(job, result, self._second())
        if found is not None:
            self._keep(found, result)

    def _keep(self, found: Finding, result: Result) -> None:
        """Write a finding; have it shrunk."""
        limits = self._limits
        folder = _new(limits.out / f"{found.kind}-{name_of(found.job)}")
        self._write(found, folder, result, None)
        if limits.first and found.kind == "stale":
            self._ended = True
        if limits.shrink_seconds and self._shrunk < SHRUNK and found.kind != "lost":
            self._shrunk += 1
            arguments = (found.job, found.kind, limits.shrink_seconds)
            self._pending[self._pool.submit(shrink.shrink, *arguments)] = (found.job, found)

    def _keep_shrunk(self, job: Job, found: Finding, shrunk: Result) -> None:
        if shrunk.get("kind") == "lost":
            return  # it stays as it was
        found.seen = f"{shrunk['seen']} of {shrunk['runs']}"
        found.job = shrunk["job"]
        if "keep" in found.job:
            found.operations = len(found.job["keep"])
        if found.folder:
            result = {"kind": found.kind, "verdict": found.verdict}
            self._write(found, Path(found.folder), shrunk["result"] or result, shrunk, job)

    def _write(
        self,
        found: Finding,
        folder: Path,
        result: Result,
        shrunk: Result | None,
        job: Job | None = None,
    ) -> None:
        try:
            finding.write(folder, job or found.job, result, shrunk)
            found.folder = str(folder)
        except OSError as error:
            # Nothing is lost: a job is all that is needed to see it again.
            text = f"{folder}: {error.strerror}; the job is {json.dumps(found.job)}"
            self.book.unwritten.append(text)
            print(f"coldboot: stress: finding not written: {text}", file=sys.stderr)


def _new(folder: Path) -> Path:
    """The folder, or one beside it: what earlier campaigns found stays."""
    names = (folder.with_name(f"{folder.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([folder], names) if not path.exists())
