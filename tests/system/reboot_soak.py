"""Boots one machine over and over in one process and looks at what stays behind.

Problem: a reset must leave nothing of the boot before it: no translation, no memory that grows from
boot to boot, neither in the machine's process nor in the translator's. A few boots show gross
mistakes; leaks of a few kilobytes want many.

    python -m tests.system.reboot_soak [--boots 50] [--guests FOLDER] [options of coldboot run]

prints a line a boot, and ends with status 1 if something grew or something older was left alive.

Read next: `test_reboot`, which runs a short one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.system.runner import Machine, children, linux, memory_of

# The guest's RAM is a shared segment, which fills up in the first boots and then stays; what a
# process has for itself is what may leak.
KINDS = ("RssAnon", "RssShmem")
WHO = ("machine", "translator", "worker1")
GROWTH = {"machine": 512, "translator": 512}
"""Kilobytes a boot that private memory may grow on average: caches that still fill up."""
WORKER_HEAP = 64 << 10
"""Kilobytes of a worker, which are as many as its largest region took: `test_worker` looks for what
single jobs leave behind.
"""


class Boot(NamedTuple):
    """One boot, at its reset. `memory`: kilobytes of (machine, translator, workers) by kind."""

    epoch: int
    regions: int
    live_older: int | None
    incarnation: str
    memory: dict[str, dict[str, int]]

    def __str__(self) -> str:
        figures = "  ".join(
            f"{who} {'+'.join(str(kinds.get(kind, 0)) for kind in KINDS)}"
            for who, kinds in self.memory.items()
        )
        return (
            f"epoch {self.epoch}: {self.regions} regions retired, live_older {self.live_older}; "
            f"anonymous+shared kB: {figures}"
        )

    def private(self, who: str) -> int:
        """Kilobytes of private memory."""
        return self.memory[who].get("RssAnon", 0)


def boots(machine: Machine, count: int) -> Iterator[Boot]:
    """The first `count` resets of a machine whose guest reboots for ever."""
    for number in range(1, count + 1):
        done = machine.wait_event("system_reset_done", number)
        retired = machine.wait_event("everything_retired", epoch=done["epoch"])
        memory = {"machine": dict(memory_of(machine.pid))}
        for i, child in enumerate(children(machine.pid)):
            memory["translator" if i == 0 else f"worker{i}"] = dict(memory_of(child))
        attached = machine.events("translator_attached")
        yield Boot(
            done["epoch"],
            retired["regions"],
            retired.get("live_older"),
            attached[-1]["incarnation"] if attached else "",
            memory,
        )


def growth(values: Sequence[int]) -> float:
    """Kilobytes a boot, from the second quarter to the last one, by the least of each: the next
    boot has begun when memory is looked at, and takes some again.
    """
    quarter = max(1, len(values) // 4)
    early, late = values[quarter : 2 * quarter], values[-quarter:]
    return (min(late) - min(early)) / max(1, len(values) - 2 * quarter)


def soak(
    guests: Path,
    folder: Path,
    count: int,
    words: Sequence[str] = (),
    tell: Callable[[str], None] = print,
) -> list[Boot]:
    """Run `count` boots; each is told as a line when it is over."""
    seen = []
    with Machine(linux(guests, *words, append='run="reboot -f"'), folder) as machine:
        for boot in boots(machine, count):
            seen.append(boot)
            tell(str(boot))
    return seen


def troubles(seen: Sequence[Boot]) -> list[str]:
    """What is wrong with a series of boots."""
    found = [
        f"epoch {b.epoch}: {b.live_older} older translations alive" for b in seen if b.live_older
    ]
    if [b.epoch for b in seen] != list(range(2, len(seen) + 2)):
        found.append(f"epochs {[b.epoch for b in seen]}: not one a boot")
    for who, limit in GROWTH.items():
        values = [b.private(who) for b in seen if who in b.memory]
        if len(values) >= 4 and growth(values) > limit:
            found.append(f"{who} grows by {growth(values):.0f} kB a boot: {values}")
    heaps = [b.private("worker1") for b in seen if "worker1" in b.memory]
    if max(heaps, default=0) > WORKER_HEAP:
        found.append(f"worker1 has {max(heaps)} kB: {heaps}")
    return found


def main() -> int:
    """Entry point: 0 if nothing stayed behind."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--boots", type=int, default=50)
    parser.add_argument("--guests", type=Path)
    asked, words = parser.parse_known_args()
    from cpu_proc.guests import default_folder

    with tempfile.TemporaryDirectory() as folder:
        seen = soak(asked.guests or default_folder(), Path(folder), asked.boots, words)
    for who in WHO:
        values = [b.private(who) for b in seen if who in b.memory]
        if values:
            last = f"{values[0]} to {values[-1]} kB, {growth(values):+.1f} a boot"
            print(f"{who}: private memory {last}")
    wrong = troubles(seen)
    print("\n".join(wrong) or f"{len(seen)} boots: nothing stayed behind")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
