"""What retiring code costs: microseconds an operation, timed by a guest, beside QEMU.

One guest program (`retirement.S`, made by the project's assembler) times each operation in a loop
with the `time` counter, round after round, on coldboot and on QEMU in turn, so that a machine that
gets slower or faster meanwhile treats both alike. The first half of every run is thrown away: the
translator has made its regions by then (on a busy machine give more --seconds). Shown are medians
over all that is left, the spread between runs, and the ratio to QEMU. Nothing is asserted.

    python benchmarks/retirement.py [--runs 3] [--seconds 16] [--live N] [--json FILE]
    python benchmarks/retirement.py --tracking       what tracking stores costs other programs
    python benchmarks/retirement.py --patches N      what N patches leave behind, a hart stopped

Behind the table come retirements of everything (`retirement_machine.py`): a reset with 10 and with
--live translations, and the time from an event to the last of 1, 2 and 4 harts out. The
translations are the `llvm` backend's, made once and remembered for pages with equal bytes: 10,000
take about a minute.

Needs `qemu-system-riscv64` (Debian: qemu-system-misc); without it coldboot is measured alone.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from protocol.riscv.assembler import assemble

RAM = 0x8000_0000
TICKS = 10_000_000  # a second
PATIENCE = 120.0  # seconds beyond what a run should take
COUNTS = {
    "PATCH": 2000,
    "REWRITE": 200,
    "FENCE": 40_000,
    "STORE": 200_000,
    "VMA": 1000,
    "CALL": 10_000,
}
# In the order of the guest's table: what it is, which count, and the goal in microseconds.
ROWS: tuple[tuple[str, str, float | None], ...] = (
    ("patch one instruction, fence.i, call", "PATCH", 0.5),
    ("rewrite 256 instructions, fence.i, run once", "REWRITE", 10),
    ("fence.i, nothing changed", "FENCE", 0.05),
    ("store", "STORE", None),
    ("store to a line beside hot code", "STORE", None),
    ("sfence.vma, touch 16 pages", "VMA", 3),
    ("satp switch with ASIDs, touch 16 pages", "VMA", 3),
    ("satp switch without, sfence.vma, touch 16", "VMA", 3),
    ("ecall from S to M, mret", "CALL", 0.2),
    ("loop without stores (for comparison)", "STORE", None),
)


def guest(seconds: float) -> bytes:
    """The guest's image: it runs for so long."""
    numbers = {"TICKS": int(seconds * TICKS)} | {f"N_{name}": n for name, n in COUNTS.items()}
    head = "".join(f".equ {name}, {value}\n" for name, value in numbers.items())
    text = Path(__file__).with_suffix(".S").read_text(encoding="utf-8")
    return assemble(head + text, RAM, name="retirement.S").data


def run(command: Sequence[str], seconds: float) -> list[list[float]]:
    """One run: for each operation its microseconds, of every round of the run's second half."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=seconds + PATIENCE,
        check=False,
    )
    lines = [line.split() for line in done.stdout.decode(errors="replace").splitlines()]
    rounds = [[int(word, 16) for word in line] for line in lines if len(line) == len(ROWS)]
    if done.returncode != 0 or len(rounds) < 4:
        raise SystemExit(
            f"{command[0]} ended with status {done.returncode} after {len(rounds)} rounds: "
            f"{done.stderr.decode(errors='replace')[-500:]}"
        )
    kept = rounds[len(rounds) // 2 :]
    micro = 1e6 / TICKS
    return [
        [line[row] * micro / COUNTS[count] for line in kept]
        for row, (_, count, _) in enumerate(ROWS)
    ]


def compare(
    contenders: dict[str, list[str]], runs: int, seconds: float
) -> dict[str, list[dict[str, float]]]:
    """Run all in turn; for each contender and operation its median, and the runs' extremes."""
    found: dict[str, list[list[list[float]]]] = {name: [] for name in contenders}
    for _ in range(runs):
        for name, command in contenders.items():
            found[name].append(run(command, seconds))
    return {
        name: [
            {
                "median": statistics.median(v for one in results for v in one[row]),
                "low": min(statistics.median(one[row]) for one in results),
                "high": max(statistics.median(one[row]) for one in results),
            }
            for row in range(len(ROWS))
        ]
        for name, results in found.items()
    }


def print_operations(results: dict[str, list[dict[str, float]]]) -> None:
    """The table of operations."""
    ours, qemu = results["coldboot"], results.get("qemu")
    print(
        f"{'microseconds an operation':<46}{'coldboot':>9}{'runs':>16}"
        f"{'QEMU':>9}{'ratio':>8}{'goal':>7}"
    )
    for row, (name, _, goal) in enumerate(ROWS):
        cost = ours[row]
        spread = f"{cost['low']:.3f}-{cost['high']:.3f}"
        other = (
            f"{qemu[row]['median']:>9.3f}{cost['median'] / qemu[row]['median']:>8.2f}"
            if qemu
            else f"{'':>17}"
        )
        print(
            f"{name:<46}{cost['median']:>9.4f}{spread:>16}{other}"
            f"{goal if goal is not None else '':>7}"
        )
    beside, plain = ours[4]["median"], ours[3]["median"]
    print(f"a store beside hot code costs {beside / plain:.1f} plain stores (goal: 2)")


def machine(*words: object) -> dict[str, Any]:
    """One measurement of `retirement_machine.py`."""
    script = Path(__file__).with_name("retirement_machine.py")
    command = [sys.executable, str(script), *(str(word) for word in words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[1:])}: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def print_resets(live: int) -> dict[str, Any]:
    """Resets with few and with many translations."""
    results = {}
    print("milliseconds a guest's reset, median (least): whole, records, translator; guest's view")
    print("  (records are dropped while the translator forgets; llvm, equal bytes made once)")
    for number in (10, live):
        found = results[str(number)] = machine("resets", number, 5 if number < 5000 else 2)
        parts = [
            f"{statistics.median(found[name]):.2f} ({min(found[name]):.2f})"
            for name in ("ms", "records_ms", "translator_ms", "guest_ms")
        ]
        print(
            f"  {min(found['live'])} live: {', '.join(parts[:3])}; {parts[3]}"
            f"   [{found['seconds_to_grow']:.0f} s to make them]"
        )
    return results


EVENTS = {
    "store": "a hart's store over code that all execute",
    "request": "the host has everything retired",
    "reset": "a reset by the host",
}


def print_events(count: int) -> dict[str, Any]:
    """From an event to the last hart out."""
    results = {harts: machine("events", harts, count) for harts in (1, 2, 4)}
    print("milliseconds from an event to the last of 1, 2 and 4 harts out of old code: p50 and p99")
    for event, name in EVENTS.items():
        cells = "".join(
            f"{found[event]['p50']:>12.4f}{found[event]['p99']:>9.3f}" for found in results.values()
        )
        print(f"  {name:<42}{cells}")
    return {str(harts): found for harts, found in results.items()}


def print_tracking(runs: int, seconds: float) -> dict[str, Any]:
    """The cost of tracking to a program that never changes its code."""
    found: dict[str, list[dict[str, float]]] = {"tracked": [], "not tracked": []}
    for _ in range(runs):
        for number, name in enumerate(found):
            found[name].append(machine("program", 1 - number, int(seconds)))
    print(
        "milliseconds a round of a program that never changes its code: median, least of all runs"
    )
    for name, results in found.items():
        median = statistics.median(r["median"] for r in results)
        print(f"  {name:<12}{median:>9.3f}{min(r['least'] for r in results):>9.3f}")
    with_, without = (min(r["least"] for r in results) for results in found.values())
    print(f"  tracking costs {100 * (with_ / without - 1):+.1f} % (goal: at most 2 %)")
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--runs", type=int, default=3, help="runs of each emulator, in turn (default 3)"
    )
    parser.add_argument(
        "--seconds", type=float, default=16.0, help="how long a run goes on (default 16)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the figures there")
    parser.add_argument("--live", type=int, default=300, help="translations at a reset")
    parser.add_argument(
        "--events", type=int, default=300, help="events of each kind that harts are timed at"
    )
    parser.add_argument("--tracking", action="store_true", help="measure the cost of tracking")
    parser.add_argument("--patches", type=int, metavar="N", help="what N patches leave behind")
    options = parser.parse_args()
    if options.patches is not None:
        print(json.dumps(machine("patches", options.patches), indent=1))
        return 0
    if options.tracking:
        print_tracking(options.runs, options.seconds)
        return 0
    with tempfile.TemporaryDirectory(prefix="retirement-") as folder:
        image = Path(folder, "guest.bin")
        image.write_bytes(guest(options.seconds))
        words = ["-m", "64M", "-no-reboot", "-nographic", "-bios", str(image)]
        contenders = {"coldboot": [sys.executable, "-m", "cpu_proc", "run", *words]}
        qemu = shutil.which("qemu-system-riscv64")
        if qemu is None:
            print(
                "qemu-system-riscv64 is not installed (Debian: qemu-system-misc): no comparison",
                file=sys.stderr,
            )
        else:
            contenders["qemu"] = [qemu, "-machine", "virt", *words]
            version = re.search(
                r"version (\S+)", subprocess.check_output([qemu, "--version"], text=True)
            )
            print(
                f"QEMU {version[1] if version else '?'}; "
                f"{options.runs} runs of {options.seconds:g} s each, in turn"
            )
        results = compare(contenders, options.runs, options.seconds)
    print_operations(results)
    more = {"resets": print_resets(options.live), "events": print_events(options.events)}
    if options.json is not None:
        rows = {
            name: dict(zip((r[0] for r in ROWS), costs, strict=True))
            for name, costs in results.items()
        }
        options.json.write_text(
            json.dumps({"operations": rows} | more, indent=1) + "\n", encoding="utf-8"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
