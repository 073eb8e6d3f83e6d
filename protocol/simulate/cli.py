"""`coldboot simulate`: search for a run that breaks the contract; print it as short as can be.

Problem: somebody who changed the protocol wants to know whether it still holds, and if not, the
shortest story of how it fails.

Invariants:
- The same seed and number of steps give the same run; a run that fails is written to a file that
  `--replay` repeats to the step.
- Exit status: 0 if nothing was found, 1 if something was, 2 for a mistake of the user's.
- A mistake armed by `--mutant` concerns this process alone, in which no guest runs.

Read next: `script.py`.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path

from protocol import mutants
from protocol.errors import UserError
from protocol.simulate.script import Outcome, Script, draw, replay, shrink

FOUND = 1
LIMIT = 60  # lines of a story that are printed


def add_arguments(parser: ArgumentParser) -> None:
    """Arguments of `coldboot simulate`."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="the first run's seed")
    parser.add_argument(
        "--runs", type=int, default=10, metavar="N", help="runs, of one seed each (default: 10)"
    )
    parser.add_argument(
        "--steps", type=int, default=20_000, metavar="N", help="steps of a run (default: 20000)"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="processes that run at once"
    )
    parser.add_argument("--replay", metavar="FILE", help="repeat a run that was written down")
    parser.add_argument(
        "--save", metavar="FILE", default="simulate.json", help="where to write a run that fails"
    )
    parser.add_argument(
        "--mutant", action="append", default=[], metavar="NAME", help="arm a mistake, as M31"
    )
    parser.add_argument("--no-shrink", action="store_true", help="write it down as it was found")


def run(options: Namespace) -> int:
    """Carry out `coldboot simulate`; its exit status."""
    if options.replay:
        return _repeat(options.replay)
    for name in ("runs", "steps", "jobs"):
        if getattr(options, name) < 1:
            raise UserError(f"simulate: --{name} {getattr(options, name)}: at least 1 is needed")
    _arm(options.mutant)
    began = time.monotonic()
    counts: Counter[str] = Counter()
    steps = 0
    seeds = range(options.seed, options.seed + options.runs)
    for seed, outcome in _search(seeds, options.steps, options.jobs, tuple(options.mutant)):
        steps += outcome.steps
        counts += outcome.counts
        if outcome.violation is not None:
            print(f"seed {seed}, step {outcome.steps}: {outcome.violation}")
            return _tell(seed, options)
    seconds = max(time.monotonic() - began, 1e-3)
    print(
        f"{options.runs} runs, {steps} steps, {steps / seconds:.0f} steps a second: nothing found"
    )
    print("  " + ", ".join(f"{name} {counts[name]}" for name in _REPORTED))
    return 0


_REPORTED = ("executed", "published", "late_page_generation", "acknowledged", "lost")


def _search(
    seeds: range, steps: int, jobs: int, armed: tuple[str, ...]
) -> list[tuple[int, Outcome]]:
    """Outcomes in the order of their seeds, to the first that fails."""
    found: list[tuple[int, Outcome]] = []
    if jobs == 1:
        for seed in seeds:
            found.append((seed, draw(seed, steps)[1]))
            if found[-1][1].violation is not None:
                break
        return found
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(jobs, initializer=mutants.arm, initargs=(armed,)) as pool:
        futures = [(seed, pool.submit(_outcome, seed, steps)) for seed in seeds]
        for seed, future in futures:
            found.append((seed, future.result()))
            if found[-1][1].violation is not None:
                pool.shutdown(cancel_futures=True)
                break
    return found


def _outcome(seed: int, steps: int) -> Outcome:
    return draw(seed, steps)[1]


def _tell(seed: int, options: Namespace) -> int:
    """Find the run again, shrink it, write it down and print its story."""
    script, outcome = draw(seed, options.steps)
    assert outcome.violation is not None
    script = Script(script.shape, script.events, tuple(options.mutant), seed)
    if not options.no_shrink:
        print(f"shrinking {len(script.events)} events", file=sys.stderr)
        script = shrink(script, outcome.violation.rule)
    try:
        Path(options.save).write_text(script.dump())
    except OSError as error:
        raise UserError(f"simulate: --save {options.save}: {error.strerror}") from error
    _story(script)
    print(f"again: coldboot simulate --replay {options.save}")
    return FOUND


def _repeat(path: str) -> int:
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"simulate: --replay {path}: {error}") from error
    script = Script.parse(text, path)
    _arm(script.mutants)
    return FOUND if _story(script) else 0


def _arm(names: list[str] | tuple[str, ...]) -> None:
    for name in names:
        if name not in mutants.MUTANTS:
            raise UserError(f"simulate: --mutant {name}: there are M1 to M48")
    mutants.arm(names)


def _story(script: Script) -> bool:
    """Print what happens in a script; whether it breaks the contract."""
    outcome = replay(script, telling=True)
    shape = ", ".join(f"{name} {value:#x}" for name, value in script.shape.as_dict().items())
    print(f"{len(script.events)} events; {shape}")
    for name in script.mutants:
        print(f"armed: {name}, {mutants.MUTANTS[name].mistake}")
    if len(outcome.told) > LIMIT:
        print(f"({len(outcome.told) - LIMIT} lines before)")
    for line in outcome.told[-LIMIT:]:
        print(line)
    if outcome.violation is None:
        print("nothing is broken")
        return False
    print(f"broken: {outcome.violation}")
    return True
