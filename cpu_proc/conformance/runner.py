"""Runs the checks, one after the other, and says of each what came of it.

Invariants: a check that breaks the translator is blamed for that itself: after each failure it is
asked whether it still answers, and if not, started anew, or the rest is skipped. A mistake of the
kit itself is a traceback, never a finding.

Read next: `cli.py`, `report.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cpu_proc.conformance import guests
from cpu_proc.conformance.rules import Bench, Check, Result, Skipped, Violation, load_all

ALIVE = 10.0  # seconds to say anything after a failure
Tell = Callable[[Result], None]


def names(random: int) -> list[str]:
    """All checks, in the order in which they are run; `random`: how many random programs."""
    return [*load_all(), *guests.names(random)]


def run(bench: Bench, chosen: Sequence[str], tell: Tell) -> list[Result]:
    """Run the checks of these names."""
    checks = load_all()
    results: list[Result] = []
    dead = ""
    for name in chosen:
        if dead:
            found = checks.get(name)
            clause, rule = (found.clause, found.rule) if found else ("", name)
            result = Result(name, clause, rule, "skipped", f"no translator since {dead}")
        else:
            result = _protocol(bench, checks[name]) if name in checks else guests.run(bench, name)
            if result.verdict == "failed" and not _revived(bench, result):
                dead = name
        results.append(result)
        tell(result)
    return results


def _protocol(bench: Bench, one: Check) -> Result:
    result = Result(one.name, one.clause, one.rule, "passed")
    if one.restarts and not bench.target.restartable:
        result.verdict = "skipped"
        result.finding = "it wants the translator restarted: start it with --start"
        return result
    began = time.monotonic()
    try:
        one.function(bench)
    except Violation as error:
        result.verdict, result.finding = "failed", error.text
        result.clause = error.clause or one.clause
    except Skipped as error:
        result.verdict, result.finding = "skipped", str(error)
    result.seconds = time.monotonic() - began
    return result


def _revived(bench: Bench, result: Result) -> bool:
    """Whether there is a translator for the next check."""
    target = bench.target
    if target.restartable:
        if target.ended():
            result.finding += "; its process ended"
        target.kill()
        target.start()
        return True
    return target.listens(min(ALIVE, bench.deadline))
