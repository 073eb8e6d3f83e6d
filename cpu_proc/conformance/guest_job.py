"""A guest on the translator under test, in a process of its own (`cpu_proc.stress.job`, otherwise).

Read next: `guests.py`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

from cpu_proc.stress import trial
from cpu_proc.stress.job import Job, Result, program_of
from cpu_proc.stress.oracle import OutOfSteps
from cpu_proc.stress.scenario import MODES


class Visit(trial.Trial):
    """Kills and stops a translator that is the kit's child, not the machine's; the kit starts
    another.
    """

    pid_file = ""

    def translator_pid(self) -> int | None:
        return int(Path(self.pid_file).read_text()) if self.pid_file else None


def perform(job: Job) -> Result:
    """Do a job in this process."""
    try:
        asked, state = program_of(job)
    except OutOfSteps as error:
        return {**asdict(trial.Outcome(kind="void", verdict=str(error)))}
    mode = replace(MODES[job["mode"]], translator=job["endpoint"], backend=job["backend"])
    Visit.pid_file = job["pid_file"]
    outcome = trial.run(asked, mode, int(job["harts"]), patience=float(job["patience"]), kind=Visit)
    if state and outcome.kind in ("passed", "idle") and outcome.state != state:
        outcome.kind, outcome.verdict = "stale", "registers or memory differ at the end"
    return asdict(outcome)


def main() -> int:
    """Entry point of the process."""
    from cpu_proc.machine import SWITCH_INTERVAL

    sys.setswitchinterval(SWITCH_INTERVAL)
    print(json.dumps(perform(json.loads(sys.stdin.read()))), flush=True)
    sys.stderr.flush()
    os._exit(0)  # a hart's thread that hangs must not keep the process


if __name__ == "__main__":
    sys.exit(main())
