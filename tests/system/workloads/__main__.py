"""Run a workload for any number of rounds; see the package's docstring.

    python -m tests.system.workloads remote [--delay MS] [--loss PERCENT] [--rounds N]
    python -m tests.system.workloads swaps [--swaps N] [--kills N] [--upgrades N]
    python -m tests.system.workloads machines [--count N] [--only one|each|killed]...
    python -m tests.system.workloads losses [--rounds N] [--only NAME]...
    python -m tests.system.workloads NAME [--harts N] [--count N] [--emulator E]... [--rounds N]

With several emulators they run in turn, `--rounds` times; medians are printed, nothing is asserted
about time. The exit status is 1 when a run on coldboot went wrong; that QEMU fails is only told.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import defaultdict
from pathlib import Path

from tests.system.workloads import emulators, flash, linux, losses, machines, remote, swaps
from tests.system.workloads.emulators import WorkloadError

FLASH = {"flash": False, "flash-reset": True}
OTHERS = {
    "swaps": swaps.main,
    "losses": losses.main,
    "machines": machines.main,
    "remote": remote.main,
}
"""With options of their own."""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; the exit status."""
    from cpu_proc.guests import default_folder

    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in OTHERS:
        return OTHERS[words[0]](words[1:])
    parser = argparse.ArgumentParser(
        prog="python -m tests.system.workloads",
        epilog=f"Others, with options of their own: {', '.join(OTHERS)} (NAME --help).",
    )
    known = [*linux.WORKLOADS, *FLASH]
    parser.add_argument("name", choices=known, help="which workload")
    parser.add_argument("--harts", type=int, default=1, help="number of harts (default 1)")
    parser.add_argument("--count", type=int, help="rounds in the guest (default: a full run)")
    parser.add_argument("--emulator", action="append", choices=emulators.EMULATORS)
    parser.add_argument("--rounds", type=int, default=1, help="runs of each emulator (default 1)")
    parser.add_argument("--deadline", type=float, default=3600.0, help="seconds for one run")
    parser.add_argument("--guests", type=Path, default=default_folder())
    options = parser.parse_args(words)
    took: dict[tuple[str, str], list[float]] = defaultdict(list)
    chosen = list(dict.fromkeys(options.emulator or ["coldboot"]))
    status = 0
    for _ in range(options.rounds):
        for emulator in chosen:
            try:
                for what, seconds in measure(options, emulator).items():
                    took[what, emulator].append(seconds)
            except WorkloadError as error:
                print(f"FAILED {options.name} on {options.harts} hart(s), {error}", flush=True)
                status |= emulator != "qemu"
    print(f"{'seconds a round':<34}" + "".join(f"{e:>12}" for e in chosen))
    for what in dict.fromkeys(what for what, _ in took):
        figures = [took.get((what, emulator)) for emulator in chosen]
        texts = [f"{statistics.median(f):>12.6f}" if f else f"{'-':>12}" for f in figures]
        print(f"{what:<34}" + "".join(texts))
    return status


def measure(options: argparse.Namespace, emulator: str) -> dict[str, float]:
    """One run: seconds by what they were taken for."""
    harts, deadline = options.harts, options.deadline
    if options.name in FLASH:
        count = options.count or 1000
        done = flash.run(
            emulator=emulator,
            harts=harts,
            count=count,
            reset=FLASH[options.name],
            deadline=deadline,
        )
        return {"a whole run's wall clock": done.seconds, "a whole run's CPU": done.cpu}
    result = linux.run(
        [options.name],
        options.guests,
        emulator=emulator,
        harts=harts,
        count=lambda name: options.count or linux.WORKLOADS[name].count,
        deadline=deadline,
    )
    whole = {"a whole run's wall clock": result.seconds, "a whole run's CPU": result.cpu}
    return {**result.rounds, **whole}


if __name__ == "__main__":
    sys.exit(main())
