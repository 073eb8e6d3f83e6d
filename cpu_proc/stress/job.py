"""A trial in a process of its own: `python -m cpu_proc.stress.job` reads a description, writes what
came of it.

The problem: with a mistake switched on, a machine may crash, hang or write where it should not, and
the campaign must go on and say so. So each trial is a process: description in on standard input
(JSON), one line of JSON out. `run_job` is the pure function that schedulers call.

Invariant: what a job does follows from its description alone. Fault switches are armed here, before
anything of the machine is imported, and nowhere else.

Read next: `trial.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocol.errors import UserError

if TYPE_CHECKING:
    from cpu_proc.stress.scenario import Scenario

Job = dict[str, Any]
"""What to run: `scenario` (a name), `random` (a seed of `random_program.py`; `operations`, `keep`,
`blank`) or `race` (a seed of `random_race.py`; `operations`, `keep`). How: `mode`, `harts`;
optional `mutants` (a list), `chaos` (see `disturbance.py`), `seed`, `rounds`, `patience`,
`folder`."""
Result = dict[str, Any]
LONGEST = 5  # times its patience a trial may take, as long as its guest goes on saying something
GRACE = 30.0  # seconds beyond that until its process is killed
_ending = threading.Event()
_running: set[subprocess.Popen[str]] = set()  # changed by whole operations only: set.add, discard


def run_job(job: Job, module: str = "cpu_proc.stress.job") -> Result:
    """Do a job in a process of its own, `module`'s. A crash or a hang is a result, not an error.

    Raises Abandoned when this process is about to end.
    """
    if _ending.is_set():
        raise Abandoned
    patience = LONGEST * float(job.get("patience", 60.0))
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": _path()},
    )
    _running.add(process)
    try:
        out, errors = process.communicate(json.dumps(job), timeout=patience + GRACE)
    except subprocess.TimeoutExpired:
        out, errors = "", "its process hung"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        _running.discard(process)
    lines = out.strip().splitlines()
    if process.returncode == 0 and lines:
        result: Result = json.loads(lines[-1])
    else:
        last = errors.strip().splitlines()[-1:] or [""]
        text = f"status {process.returncode}: {last[0]}"
        kind = "hung" if errors == "its process hung" else "crashed"
        result = {"kind": kind, "verdict": text, "values": [], "stderr": errors[-4000:]}
    return {"job": job, "wall": time.monotonic() - began, **result}


class Abandoned(Exception):
    """No job is done any more: see `abandon`."""


def allow() -> None:
    """Jobs may be done again."""
    _ending.clear()


def abandon() -> None:
    """Kill all jobs of this process that are under way, and begin no other."""
    _ending.set()
    for process in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _path() -> str:
    root = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])


def perform(job: Job) -> Result:
    """Do a job in this process."""
    from protocol import mutants

    mutants.arm(job.get("mutants", ()))
    from cpu_proc.stress import trial
    from cpu_proc.stress.oracle import OutOfSteps

    try:
        asked, state = program_of(job)
    except OutOfSteps as error:  # nobody can say what it should do
        return {**asdict(trial.Outcome(kind="void", verdict=str(error))), "events": 0}
    outcome = trial.run(
        asked,
        job["mode"],
        int(job.get("harts", 1)),
        folder=Path(job["folder"]) if "folder" in job else None,
        rounds=job.get("rounds"),
        patience=float(job.get("patience", 60.0)),
        chaos=job.get("chaos"),
        seed=int(job.get("seed", 0)),
    )
    if state and outcome.kind == "passed" and outcome.state != state:
        outcome.kind, outcome.verdict = "stale", "registers or memory differ at the end"
    return {**asdict(outcome), "events": outcome.events, "reference": state}


def program_of(job: Job) -> tuple[Scenario, str]:
    """A job's program; and the state hash at its end, if one is known. Raises UserError."""
    from cpu_proc.stress import random_program, random_race, scenario

    keep = frozenset(job["keep"]) if "keep" in job else None
    if "random" in job:
        operations = int(job.get("operations", random_program.OPERATIONS))
        cut = random_program.Cut(keep, frozenset(job.get("blank", ())))
        made, expectation = random_program.scenario(int(job["random"]), operations, cut)
        return made, expectation.state
    if "race" in job:
        operations = int(job.get("operations", random_race.OPERATIONS))
        harts = int(job.get("harts", 1))
        return random_race.scenario(int(job["race"]), harts, operations, keep), ""
    if "file" in job:
        return scenario.read(Path(job["file"])), ""
    name = job.get("scenario", "")
    if name not in scenario.load_all():
        raise UserError(f"scenario {name}: there is none of this name")
    return scenario.load_all()[name], ""


def main() -> int:
    """Entry point of the process."""
    from cpu_proc.machine import SWITCH_INTERVAL

    sys.setswitchinterval(SWITCH_INTERVAL)
    result = perform(json.loads(sys.stdin.read()))
    print(json.dumps(result), flush=True)
    sys.stderr.flush()
    os._exit(0)  # a hart's thread that hangs must not keep the process


if __name__ == "__main__":
    sys.exit(main())
