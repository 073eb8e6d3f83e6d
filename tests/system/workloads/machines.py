"""Many machines that boot Debian at once, with one translator or one each.

    python -m tests.system.workloads machines [--count N] [--only one|each|killed]...

Problem: what one translator for all of them is worth is a matter of time, of memory, and of what
they find in each other's translations; and the day it is killed, none of them may notice.

Three runs: `one` translator for all; a translator `each`; one that is `killed` (SIGKILL) when half
of the machines have their first regions, and none after it. Each run begins with an empty content
store. Told are wall clock and processor seconds until all shells are there, the translators' memory
(proportional set size, at the end) and the machines', and hits in the store. The exit status is 1
when a shell does not come.

Read next: `tests/system/runner.py`; `docs/loss.md`, where the figures stand.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from protocol.messages import Stats, StatsReply
from tests.system import runner
from tests.system.runner import PROMPT, Machine, Translator, linux

RUNS = ("one", "each", "killed")


@dataclass
class Figures:
    """Of one run; seconds, and bytes."""

    wall: float
    cpu: float
    translators: int
    machines: int
    counts: dict[str, int]

    def lines(self) -> list[str]:
        """For people."""
        made = self.counts.get("translated", 0)
        hits = self.counts.get("store_hits", 0)
        return [
            f"  all shells after {self.wall:.1f} s, {self.cpu:.1f} s of processors",
            f"  memory: translators {self.translators >> 20} MiB, machines"
            f" {self.machines >> 20} MiB",
            f"  regions: {made}, of them found in the store {hits}",
        ]


def main(words: list[str]) -> int:
    """Entry point; the exit status."""
    from cpu_proc.guests import default_folder

    parser = argparse.ArgumentParser(prog="python -m tests.system.workloads machines")
    parser.add_argument("--count", type=int, default=8, help="how many machines (default 8)")
    parser.add_argument("--only", action="append", choices=RUNS, help="not all of the runs")
    parser.add_argument("--deadline", type=float, default=900.0, help="seconds for one run")
    parser.add_argument("--guests", type=Path, default=default_folder())
    options = parser.parse_args(words)
    for kind in options.only or RUNS:
        print(f"{options.count} machines, {kind}:", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            figures = run(kind, options.count, options.guests, Path(folder), options.deadline)
        print("\n".join(figures.lines()), flush=True)
    return 0


def run(kind: str, count: int, guests: Path, folder: Path, deadline: float) -> Figures:
    """Boot them all; fails as a test does when one of them does not come to its shell."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        translators = []
        for number in range(count if kind == "each" else 1):
            cache = ("--cache", folder / f"cache-{number}")
            translators.append(stack.enter_context(Translator(folder, *cache)))
        machines = []
        for number in range(count):
            endpoint = translators[number % len(translators)].endpoint
            words = linux(guests, "--translator", endpoint)
            machines.append(stack.enter_context(Machine(words, folder / f"machine-{number}")))
        end = began + deadline
        if kind == "killed":
            wait(machines, lambda one: bool(one.events("region_published")), count // 2, end)
            translators[0].kill()
        wait(machines, at_prompt, count, end)
        wall = time.monotonic() - began
        counts: dict[str, int] = {}
        for translator in translators if kind != "killed" else ():
            for name, value in ask(translator.endpoint).items():
                counts[name] = counts.get(name, 0) + value
        served = [t.process.pid for t in translators if t.process.poll() is None]
        groups = [[pid, *runner.children(pid)] for pid in served]
        figures = Figures(
            wall,
            sum(cpu_of(pid) for group in groups for pid in group)
            + sum(cpu_of(one.pid) for one in machines),
            sum(memory_of(pid) for group in groups for pid in group),
            sum(memory_of(one.pid) for one in machines),
            counts,
        )
        for one in machines:
            os.kill(one.pid, signal.SIGKILL)
    return figures


def wait(machines: list[Machine], ready: object, wanted: int, end: float) -> None:
    """Until so many of them are ready, while all of them can print."""
    assert callable(ready)
    while sum(bool(ready(one)) for one in machines) < wanted:
        for one in machines:
            one.pump()
        assert time.monotonic() < end, "\n".join(one.diagnosis() for one in machines)
        time.sleep(0.1)


def at_prompt(machine: Machine) -> bool:
    """Whether the shell is there."""
    return re.search(PROMPT, machine.transcript_path.read_bytes()) is not None


def ask(endpoint: str) -> dict[str, int]:
    """A translator's counts."""
    from protocol.transport import Client

    client = Client(endpoint)
    try:
        client.send(Stats(0))
        end = time.monotonic() + 60
        while time.monotonic() < end:
            client.poll(0.1)
            for message in client.receive():
                if isinstance(message, StatsReply):
                    return dict(message.counters)
    finally:
        client.close()
    raise AssertionError(f"{endpoint} does not answer")


def cpu_of(pid: int) -> float:
    """Processor seconds of a process so far, and of its children that ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def memory_of(pid: int) -> int:
    """Its proportional share of the memory it uses, in bytes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.M)
    return 1024 * int(found[1]) if found else 0
