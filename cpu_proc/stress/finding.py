"""A finding as a folder: all there is to see, and the one command that shows it again.

The problem: what a campaign finds at night must be there in the morning, readable without the
campaign, and repeatable. A folder holds

    README.md      what was found, and the command that replays it
    job.json       the job: what `job.run_job` takes (after shrinking: the smallest that fails)
    finding.json   kind, verdict, how often it was seen, how many runs a replay tries
    program.s      the whole source; program.bin: the image
    expected.txt   the values that the guest must report, a line each; actual.txt: what it reported
    log.txt        what the guest printed, what the process wrote to standard error

Invariant: it is written before anything else is tried with it, and written again when it has been
shrunk; the job as it was found is kept then (`first.json`).

Read next: `campaign.py`, `shrink.py`, docs/stress.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cpu_proc.stress.draw import name_of
from cpu_proc.stress.job import Job, Result, program_of, run_job
from cpu_proc.stress.scenario import MODES
from protocol.errors import UserError
from protocol.mutants import MUTANTS

TRIES = 5  # runs of a replay when nobody knows better


def write(folder: Path, job: Job, result: Result, shrunk: dict[str, Any] | None = None) -> None:
    """Write a finding; raises OSError. `shrunk`: what `shrink.shrink` returned, a second time."""
    folder.mkdir(parents=True, exist_ok=True)
    tries = shrunk["tries"] if shrunk else TRIES
    if shrunk is not None:
        _json(folder / "first.json", job)
        job, result = shrunk["job"], shrunk["result"] or result
    made, _ = program_of(job)
    mode = MODES[job["mode"]]
    rounds = job.get("rounds")
    (folder / "program.s").write_text(made.source(mode, rounds), encoding="utf-8")
    (folder / "program.bin").write_bytes(made.assemble(mode, rounds).data)
    expected = [_allowed(values) for values in made.expected(mode, rounds)]
    (folder / "expected.txt").write_text("".join(f"{line}\n" for line in expected))
    values = result.get("values", [])
    (folder / "actual.txt").write_text("".join(f"{value}\n" for value in values))
    log = f"{result.get('said', '')}\n--- standard error\n{result.get('stderr', '')}\n"
    (folder / "log.txt").write_text(log, encoding="utf-8")
    rest = {name: value for name, value in result.items() if name not in ("said", "stderr", "job")}
    shown = {name: value for name, value in (shrunk or {}).items() if name not in ("job", "result")}
    _json(folder / "finding.json", {"tries": tries, **rest, "shrunk": shown})
    _json(folder / "job.json", job)
    (folder / "README.md").write_text(_readme(folder, job, result, shrunk), encoding="utf-8")


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _allowed(values: frozenset[int] | None) -> str:
    return "*" if values is None else "|".join(map(str, sorted(values)))


def _readme(folder: Path, job: Job, result: Result, shrunk: dict[str, Any] | None) -> str:
    name = name_of(job)
    lines = [f"# {result['kind']}: {name}", "", f"    {result['verdict']}", ""]
    lines += [f"Mode {job['mode']}, {job.get('harts', 1)} harts."]
    if mutants := job.get("mutants"):
        told = "; ".join(f"{mutant}, {MUTANTS[mutant].mistake}" for mutant in mutants)
        lines += [f"Switched on: {told}."]
    if chaos := job.get("chaos"):
        lines += [f"Disturbances, mean seconds between two: {chaos}; happened: "
                  f"{result.get('disturbed', {})}."]  # fmt: skip
    if "keep" in job:
        count = job.get("operations")
        lines += [f"Shrunk: {len(job['keep'])} of {count} operations are left."]
    if shrunk is not None:
        lines += [
            f"The job as it was found failed in {shrunk['seen']} of {shrunk['runs']} more runs."
        ]
    lines += ["", "Again (exit status 1 if it shows, 0 if not):", ""]
    return "\n".join([*lines, f"    coldboot stress --replay {folder}", ""])


def read(folder: Path) -> tuple[Job, int]:
    """The job of a finding, and how many runs to try. Raises UserError."""
    try:
        job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        found = json.loads((folder / "finding.json").read_text(encoding="utf-8"))
        image = (folder / "program.bin").read_bytes()
        tries = int(found["tries"])
        made, _ = program_of(job)
        same = made.assemble(MODES[job["mode"]], job.get("rounds")).data == image
    except OSError as error:
        text = f"stress: --replay {folder}: {error.filename}: {error.strerror}"
        raise UserError(text) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"stress: --replay {folder}: this is not a finding ({error!r})") from error
    if not same:
        raise UserError(
            f"stress: --replay {folder}: this version writes another program for this job;"
            " program.s is the one that failed"
        )
    return job, tries


def replay(folder: Path, tries: int | None = None) -> tuple[Result, int]:
    """Do the job again until it fails, `tries` times at most; the last result and how often."""
    job, known = read(folder)
    number = 0
    while number < (tries or known):
        number += 1
        result = run_job(job)
        if result["kind"] != "passed":
            break
    return result, number
