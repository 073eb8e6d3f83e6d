"""All machines and translators of one user on this host, looked at again and again.

Problem: what is wanted is rates - instructions, retirements, leaves a second - of machines that
come and go, from counts that only grow.

Invariants: who does not answer is not there; a machine is known by its process and its start, so
that a number used again is another machine; a count that went back begins anew.

Read next: `counts.py` (a machine's), `metrics.py` (a translator's), `top.py` (who shows it).
"""

from __future__ import annotations

import stat
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpu_proc import counts

HISTORY = 120  # looks kept for the graph
TRANSLATOR_PATIENCE = 0.5  # seconds for each to answer


@dataclass
class Machine:
    """One machine, as of the last look. Rates are a second's, since the look before."""

    name: str
    told: dict[str, Any]
    seen: float
    mips: float = 0.0
    leaves: float = 0.0
    retirements: float = 0.0
    speeds: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))

    @property
    def started(self) -> float:
        return self.seen - float(self.told["seconds"])

    @property
    def harts(self) -> str:
        """What its harts are at: `2 native 1 sleeps`."""
        states = [hart["state"] for hart in self.told["harts"]]
        return " ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))

    def look(self, told: dict[str, Any], now: float) -> None:
        """It told this now."""
        seconds = max(1e-6, now - self.seen)
        before, self.told, self.seen = self.told, told, now
        self.mips = max(0, _instructions(told) - _instructions(before)) / seconds / 1e6
        self.leaves = max(0, _leaves(told) - _leaves(before)) / seconds
        moved = sum(told["retirements"].values()) - sum(before["retirements"].values())
        self.retirements = max(0, moved) / seconds
        self.speeds.append(self.mips)


def _instructions(told: dict[str, Any]) -> int:
    return sum(int(hart["instructions"]) for hart in told["harts"])


def _leaves(told: dict[str, Any]) -> int:
    calls = sum(sum(hart["leaves"].values()) for hart in told["harts"])
    return int(calls + sum(told["devices"].values()))


class Observer:
    """Looks, when told to, and remembers."""

    def __init__(self, folder: Path | None = None) -> None:
        """`folder`: the runtime folder; the user's own if not given."""
        self.folder = folder or counts.folder().parent
        self.machines: dict[str, Machine] = {}
        self.translators: dict[str, dict[str, int]] = {}

    def look(self) -> None:
        """Ask everybody. May take a while, where somebody hangs."""
        found = {}
        for name, told in counts.machines(self.folder / counts.FOLDER):
            now = time.monotonic()
            known = self.machines.get(name)
            if known is not None and abs(known.started - (now - told["seconds"])) < 1:
                known.look(told, now)
                found[name] = known
            else:
                found[name] = Machine(name, told, now)
        self.machines = found
        self.translators = dict(self._translators())

    def _translators(self) -> list[tuple[str, dict[str, int]]]:
        from cpu_proc.metrics import ask

        found = []
        for path in sorted(self.folder.glob("*")) if self.folder.is_dir() else []:
            named = path.name == "translator" or path.name.startswith(("translator-", "run-"))
            if not named or path.suffix == ".lock" or not _is_socket(path):
                continue
            told = ask(f"ipc://{path}", TRANSLATOR_PATIENCE)
            if told is not None:
                found.append((path.name, dict(told)))
        return found


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
