"""Mutants: is each mistake, switched on, found by what a guest sees, and how soon?

The problem: a tool that finds nothing proves something only if it finds what is there. So each of
the mistakes of `protocol/mutants.py` is switched on in turn, and hunted: its witness first
(`witnesses.py`), then the other scenarios of its class, then random programs, races and chaos,
until a guest reports a wrong value or the time is over. Other ends (a crash, a hang, a trap) do not
count.

Invariant: a hunt follows from mutant, seed and time; a hunt is one task of a pool and may be done
anywhere.

Read next: `report.py`, docs/stale-code.md.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from cpu_proc.stress import draw, scenario
from cpu_proc.stress.job import Job, Result, run_job
from cpu_proc.stress.witnesses import WITNESSES

Row = dict[str, Any]


def hunt(
    mutant: str,
    seed: int,
    seconds: float,
    kind: str = "all",
    run: Callable[[Job], Result] = run_job,
) -> Row:
    """Hunt one mistake. The row: `found`, `by`, `mode`, `harts`, and what it took: `seconds`,
    `events`, `jobs`; `others`: jobs that ended in another way; `job`, `verdict`."""
    began = time.monotonic()
    row: Row = {"mutant": mutant, "seed": seed, "found": False, "events": 0, "jobs": 0}
    others: Counter[str] = Counter()
    for job in quarry(mutant, seed, kind):
        result = run(job)
        row["jobs"] += 1
        row["events"] += result.get("events", 0)
        if result["kind"] == "stale":
            row |= {"found": True, "by": draw.name_of(job), "kind": draw.kind_of(job), "job": job}
            row |= {"mode": job["mode"], "harts": job["harts"], "verdict": result["verdict"]}
            break
        if result["kind"] != "passed":
            others[result["kind"]] += 1
        if time.monotonic() - began >= seconds:
            break
    return {**row, "seconds": time.monotonic() - began, "others": dict(others)}


def quarry(mutant: str, seed: int, kind: str) -> Iterator[Job]:
    """The jobs of a hunt, without end."""
    armed = [mutant]
    if kind in ("all", "scenarios"):
        witness = WITNESSES.get(mutant)
        for _ in range(witness.attempts if witness else 0):
            assert witness is not None
            yield {"scenario": witness.scenario, "mode": witness.mode, "harts": witness.harts,
                   "mutants": armed, "seed": seed}  # fmt: skip
        own = [made for made in scenario.load_all().values() if made.mutant == mutant]
        for made, mode in itertools.product(own, scenario.MODES):
            yield {
                "scenario": made.name,
                "mode": mode,
                "harts": max(made.harts, 2),
                "mutants": armed,
            }
    kinds = ("random", "chaos", "race") if kind == "all" else (kind,)
    streams = [draw.jobs(draw.Wish(seed, one, mutants=armed)) for one in kinds]
    for stream in itertools.cycle(streams):
        yield next(stream)


def table(rows: list[Row]) -> list[Row]:
    """A row a mutant: found in how many hunts, by what, median and worst of seconds and events."""
    made = []
    for mutant, group in itertools.groupby(sorted(rows, key=_order), key=lambda r: r["mutant"]):
        hunts = list(group)
        found = [row for row in hunts if row["found"]]
        line: Row = {"mutant": mutant, "hunts": len(hunts), "found": len(found)}
        if found:
            by = Counter((row["by"] if row["kind"] == "scenarios" else row["kind"], row["mode"])
                         for row in found)  # fmt: skip
            (line["by"], line["mode"]), _ = by.most_common(1)[0]
            for what in ("seconds", "events"):
                line[what] = statistics.median(row[what] for row in found)
                line[f"worst_{what}"] = max(row[what] for row in found)
        others: Counter[str] = Counter()
        for row in hunts:
            others.update(row["others"])
        made.append({**line, "others": dict(others)})
    return made


def _order(row: Row) -> tuple[int, int]:
    return int(row["mutant"][1:]), row["seed"]
