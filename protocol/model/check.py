"""Check the models with spin: clean ones have no error, each mistake switched on has one.

Problem: a model that is checked once and then forgotten proves nothing about today's protocol, and
one that finds no mistake may be unable to find any. So `make model` checks both, each time.

Invariants:
- A clean configuration is searched exhaustively (no bit-state hashing): spin says so, and a search
  that was cut short counts as a failure.
- A mutant counts as found only by a counterexample: a failed assertion or an invalid end state.

Read next: README.md here (what is modelled), `session.pml`, `harts.pml`.
"""

from __future__ import annotations

import argparse
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DEPTH = 200_000  # steps; a search that reaches it is cut short, and so has failed
MEMORY_MIB = 3000
PATIENCE = 600.0  # seconds for one search


@dataclass(frozen=True)
class Case:
    """One search. `mutant`: the class of mistake that is switched on; empty for a clean one."""

    model: str
    what: str
    switches: str
    mutant: str = ""
    quick: bool = False


_REGIONS = "NO_RECORDS=1 ACTS=3"
CASES = (
    Case("session", "a crash, a store", "CRASHES=1 STORES=1 REQS=1 RUNS=2"),
    Case("session", "stores", "STORES=1 REQS=2 RUNS=2", quick=True),
    Case("session", "stores, by counters alone", "BYTES=0 STORES=2 REQS=2 RUNS=1"),
    Case("session", "reset, remap, store", "RESETS=1 REMAPS=1 STORES=1 REQS=1 RUNS=2"),
    Case("session", "reset in a crash, twice", "DUPS=1 RESETS=1 CRASHES=1 REQS=1 RUNS=1"),
    Case("session", "lost connection, deadline", "DROPS=1 HANGS=1 RESETS=1 REQS=1 RUNS=1"),
    Case("session", "backend swap, store", "SWAPS=1 STORES=1 REQS=1 RUNS=2", quick=True),
    Case("session", "code space full", "CAP=1 STORES=1 REQS=3 RUNS=1"),
    Case("session", "epochs that wrap", "RESETS=3 REQS=1 RUNS=1 EMOD=3 EPOCH0=2", quick=True),
    Case("harts", "decoding beside stores", "REGIONS=0 ONE_PAGE=1 ACTS=3", quick=True),
    Case("harts", "code bytes polled", "REGIONS=0 ONE_PAGE=1 POLL"),
    Case("harts", "code bytes polled: regions", f"{_REGIONS} ONE_PAGE=1 POLL"),
    Case("harts", "regions beside stores", f"{_REGIONS} REGIONS=1"),
    Case("harts", "records and regions", "ONE_PAGE=1 ACTS=2"),
    Case("harts", "publication beside retirement", f"{_REGIONS} REGIONS=2 ONE_PAGE=1"),
    Case("harts", "stores over a page's edge", f"{_REGIONS} REGIONS=2 STORES=0 STRADDLES=1"),
    Case("harts", "code space used again", f"{_REGIONS} RETIREMENTS=1 ONE_PAGE=1"),
    Case("harts", "loops that only a call ends", "SPIN NO_RECORDS=1 ACTS=2 RETIREMENTS=1"),
    Case("harts", "harts stopped and started", f"{_REGIONS} REGIONS=1 ONE_PAGE=1 STOP"),
    Case("session", "lookups outlive a remap", "REMAPS=1 REQS=1", "M9", quick=True),
    Case("session", "jump cache", "STORES=1 REQS=1", "M15", quick=True),
    Case("session", "chained jump", "STORES=1 REQS=2 REMAPS=1", "M16", quick=True),
    Case("harts", "link made while broken", f"{_REGIONS} REGIONS=2", "M17"),
    Case("session", "refusal kept", "STORES=1 REQS=2 RUNS=1", "M20", quick=True),
    Case("session", "bytes kept", "BYTES=0 STORES=2 REQS=2", "M21", quick=True),
    Case("session", "record survives recycling", "CAP=1 REQS=2", "M22", quick=True),
    Case("session", "identity by place", "RESETS=1 STORES=1 REQS=2", "M26", quick=True),
    Case("harts", "bytes before tracking", "REGIONS=0 ONE_PAGE=1", "M27", quick=True),
    Case("session", "bytes not compared", "REMAPS=1 STORES=1 REQS=2", "M27", quick=True),
    Case("harts", "one hart only", f"{_REGIONS} ONE_PAGE=1", "M28", quick=True),
    Case("harts", "hart never called", "SPIN NO_RECORDS=1 ACTS=2 RETIREMENTS=1", "M29"),
    Case("harts", "tracking ends too soon", f"{_REGIONS} ONE_PAGE=1", "M30", quick=True),
    Case("session", "late publication", "BYTES=0 RESETS=1 REQS=1", "M31", quick=True),
    Case("harts", "retirements without a lock", f"{_REGIONS} REGIONS=2 ONE_PAGE=1", "M32"),
    Case("session", "segment dropped under a hart", "RESETS=1 REQS=1", "M33", quick=True),
    Case("harts", "space reused under a hart", f"{_REGIONS} RETIREMENTS=1 ONE_PAGE=1", "M33"),
    Case("harts", "stopped hart keeps a pointer", f"{_REGIONS} ONE_PAGE=1 STOP", "M34", quick=True),
    Case("session", "generation wraps", "BYTES=0 STORES=2 REQS=1", "M35", quick=True),
    Case("session", "epochs compared as counts", "RESETS=3 REQS=1", "M35E", quick=True),
    Case("session", "reset retires nothing", "RESETS=1 REQS=1", "M37", quick=True),
    Case("harts", "link patched in two stores", f"{_REGIONS} REGIONS=2", "M40"),
    Case("harts", "record patched under a hart", "REGIONS=0 ONE_PAGE=1", "TORN", quick=True),
    Case("harts", "fence.i does not wait", "REGIONS=0 ONE_PAGE=1 POLL", "NOWAIT", quick=True),
    Case("harts", "fence.i does not wait: regions", f"{_REGIONS} ONE_PAGE=1 POLL", "NOWAIT"),
    Case("session", "old incarnation's answer", "CRASHES=1 REQS=1", "M41", quick=True),
    Case("session", "retirement not waited for", "RESETS=1 REQS=1", "M42", quick=True),
    Case("session", "store without bytes in key", "STORES=2 REQS=2", "M43", quick=True),
    Case("session", "visible before complete", "REQS=1", "M44", quick=True),
    Case("session", "swap retires nothing", "SWAPS=1 REQS=1", "M46", quick=True),
    Case("session", "generation of when served", "BYTES=0 STORES=1 REQS=1", "M47", quick=True),
    Case("harts", "second event dropped", f"{_REGIONS} REGIONS=2 STORES=0 STRADDLES=1", "M48"),
)


@dataclass(frozen=True)
class Search:
    """What spin said. `error`: the counterexample's last word, or empty. `trail`: its steps.

    `seconds`: of CPU time.
    """

    error: str
    states: int
    depth: int
    complete: bool
    trail: int
    seconds: float


class ModelError(Exception):
    """The model cannot be checked: spin or the compiler refuses it."""


def search(
    model: Path, switches: str, folder: Path, *, optimise: bool = True, ends: bool = True
) -> Search:
    """Have spin search all of a model's states, or until the first error; its trail is left in
    `folder`. `optimise`: worth it for a long search only. `ends`: an
    invalid end state is an error.
    """
    defines = [f"-D{switch}" for switch in switches.split()]
    began = _cpu_seconds()
    _do(["spin", "-a", *defines, str(model)], folder)
    level = "-O1" if optimise else "-O0"
    limits = [f"-DMEMLIM={MEMORY_MIB}", "-DVECTORSZ=8192"]
    _do(["gcc", level, "-w", "-DSAFETY", "-DCOLLAPSE", *limits, "-o", "pan", "pan.c"], folder)
    said = _do(["./pan", f"-m{DEPTH}", *([] if ends else ["-E"])], folder)
    error = re.search(r"^pan:1: (.*) \(at depth (\d+)\)", said, re.MULTILINE)
    states = re.search(r"(\S+) states, stored", said)
    depth = re.search(r"depth reached (\d+)", said)
    if states is None or depth is None:
        raise ModelError(f"{model.name} {switches}: {said[-2000:]}")
    cut = "Search not completed" in said or "max search depth too small" in said
    return Search(
        error[1] if error else "",
        int(float(states[1])),
        int(depth[1]),
        not cut,
        int(error[2]) if error else 0,
        _cpu_seconds() - began,
    )


def _cpu_seconds() -> float:
    """What our children have cost so far: unlike the clock, the same on a busy machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _do(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise ModelError(f"{' '.join(command)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def check(case: Case, folder: Path) -> tuple[bool, Search]:
    """Whether the search went as it must, and what it was."""
    model = HERE / f"{case.model}.pml"
    switches = f"{case.switches} {case.mutant}"
    found = search(model, switches, folder, optimise=not case.mutant)
    return (bool(found.error) if case.mutant else found.complete and not found.error), found


def missing() -> list[str]:
    """The programs that are needed and are not there."""
    return [name for name in ("spin", "gcc") if shutil.which(name) is None]


def main(words: list[str] | None = None) -> int:
    """Check all models, and print a line for each search; 1 if one went wrong."""
    parser = argparse.ArgumentParser(prog="python -m protocol.model.check", description=__doc__)
    parser.add_argument("names", nargs="*", help="mutants (M31) or models (session) to check only")
    parser.add_argument("--keep", type=Path, help="folder in which models and trails are left")
    options = parser.parse_args(words)
    if missing():
        print(f"model: {' and '.join(missing())} needed: apt-get install spin gcc", file=sys.stderr)
        return 2
    chosen = [
        case
        for case in CASES
        if not options.names or {case.model, case.mutant} & set(options.names)
    ]
    if not chosen:
        print(f"model: nothing is called {' '.join(options.names)}", file=sys.stderr)
        return 2
    wrong = 0
    began = time.monotonic()
    print(f"{'':6}{'model':9}{'what':32}{'states':>9}{'depth':>6}{'seconds':>8}  result")
    for number, case in enumerate(chosen):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            if options.keep:
                folder = options.keep / f"{number:02}-{case.model}-{case.mutant or 'clean'}"
                folder.mkdir(parents=True, exist_ok=True)
            try:
                good, found = check(case, folder)
            except ModelError as error:
                print(f"model: {error}", file=sys.stderr)
                return 1
        result = f"found in {found.trail} steps: {found.error}" if found.error else "no error"
        if not found.error and not found.complete:
            result = "cut short"
        wrong += not good
        print(
            f"{case.mutant:6}{case.model:9}{case.what:32}{found.states:9}{found.depth:6}"
            f"{found.seconds:8.1f}  {'' if good else 'WRONG: '}{result[:70]}",
            flush=True,
        )
    print(
        f"{len(chosen)} searches, {wrong} wrong; CPU time {_cpu_seconds():.0f} s, "
        f"elapsed {time.monotonic() - began:.0f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
