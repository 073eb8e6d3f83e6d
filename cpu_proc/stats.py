"""What `-stats` tells at the end of a run, on standard error.

The problem: a hart is fast as long as it stays in native code. Each time it comes back to Python
costs microseconds, so how often that happens, and why, must be seen: by cause, with the rate over
the whole run. A guest that computes comes back for nothing at all; one that waits, for its sleeps
and its devices.

Read next: `hart.py` (what native code is left for), `docs/profiling.md`.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cpu_proc.hart import Hart
    from cpu_proc.machine import Machine

CAUSES = ("other", "attention", "wait", "retire", "pool", "stop", "hot", "trap")


def write(machine: Machine) -> None:
    """What happened, on standard error."""
    seconds = time.monotonic() - machine.started
    lines = [_hart(hart, seconds) for hart in machine.harts]
    devices = machine.memory.accesses
    lines.append(f"Python called for devices: {rates(devices, seconds)}")
    lines += machine.retirement.summary()
    if machine.translator is not None:
        lines += machine.translator.summary()
    for line in lines:
        print(line, file=sys.stderr)


def _hart(hart: Hart, seconds: float) -> str:
    state = hart.state
    leaves = {name: int(state.stat_leaves[i]) for i, name in enumerate(CAUSES)}
    return (
        f"hart {hart.index}: {state.count} instructions, {state.stat_traps} traps, "
        f"{state.stat_decodes} decodes, {state.stat_walks} walks, "
        f"{state.stat_stores} tracked stores, {state.stat_mmio} device accesses, "
        f"{state.stat_assumed} failed assumptions; "
        f"left native code: {rates(leaves, seconds)}"
    )


def rates(counts: Mapping[str, int], seconds: float) -> str:
    """Counts that are not 0, the largest first, and what they come to in a second."""
    shown = sorted(((n, name) for name, n in counts.items() if n), key=lambda c: (-c[0], c[1]))
    if not shown:
        return "never"
    total = sum(n for n, _ in shown)
    names = ", ".join(f"{name} {n}" for n, name in shown)
    return f"{names} ({total / max(seconds, 1e-9):.0f} a second)"
