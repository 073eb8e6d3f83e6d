"""A guest prints checksums while its backend is swapped, its translator killed and upgraded.

    python -m tests.system.workloads swaps [--swaps 100] [--kills 100] [--upgrades 1]

Problem: what is retired, lost and replaced under a guest must show neither in what it computes nor
as a pause. So Debian runs `sha256sum` over a file in a loop; each line it prints is compared with
the checksum known here, and the gaps between lines are counted, beside those of two runs that
nobody disturbs: with the translator, and in tier 0 alone.

The kernel tells how much of a gap the hart's thread was ready to run and waited for a processor
that something else had (schedstat); the rest is the gap's own. One whose own part is more than
`LONG` is taken apart: how long the thread ran, how long the machine's other threads (its console's
among them) and who reads here waited for a processor, how long harts were out for retirements (the
machine's book), and which disturbance was under way.

An upgrade is another build at the same endpoint: a copy of these packages whose regions are shorter
and whose code therefore differs; machines meet it as they meet any new incarnation.

Read next: `cpu_proc/retirement.py`, `docs/control.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from cpu_proc.control_socket import is_served
from cpu_proc.qmp_client import QmpClient, Refused
from tests.system import runner

BACKENDS = ("none", "llvm,level=0", "reference", "llvm", "shadow:llvm,reference", "llvm,level=2")
NUMBERS = 3000  # the file: the numbers from 1 up, a line each
CHECKSUM = hashlib.sha256("".join(f"{i}\n" for i in range(1, NUMBERS + 1)).encode()).hexdigest()
LINE = f"{CHECKSUM}  /f".encode()
SCRIPT = f"seq 1 {NUMBERS} > /f; echo BEGIN; while :; do sha256sum /f; done"
BUCKETS = (5, 10, 20, 50, 100, 200, 500, 1000)  # milliseconds
LONG = 0.1  # seconds: a pause that wants an explanation
PATIENCE = 120.0


class Line(NamedTuple):
    """What the guest printed, when, and where its hart's thread was: seconds run, and waited for a
    processor; `others`: what the machine's other threads and the reader waited for one.
    """

    when: float
    text: bytes
    ran: float
    ready: float
    others: float


class Disturbance(NamedTuple):
    """What was done to the machine, and from when to when it was under way."""

    what: str
    begin: float
    end: float


class Guest:
    """The machine, its translator, and who reads its lines."""

    def __init__(self, guests: Path, folder: Path, backend: str, harts: int = 1) -> None:
        self.folder = folder
        self.endpoint = f"ipc://{runner.socket_folder()}/translator"
        self.socket = str(Path(self.endpoint.removeprefix("ipc://")).with_name("qmp"))
        self.translator: subprocess.Popen[bytes] | None = None
        self.tree = runner.REPOSITORY
        self.start_translator()
        words = ["-serial", "stdio", "-smp", harts, "-backend", backend]
        words += ["-translator", self.endpoint, "-qmp", f"unix:{self.socket},server=on,wait=off"]
        self.process = subprocess.Popen(
            runner.command(
                "run", *runner.linux(guests, *map(str, words), append=f'run="{SCRIPT}"')
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(folder / "machine.err").open("ab"),
            env=runner.environment(),
        )
        self.lines: list[Line] = []
        self.disturbances: list[Disturbance] = []
        self.begun = threading.Event()
        self._hart = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        runner.until(lambda: is_served(self.socket), "the control socket", PATIENCE)
        self.client = QmpClient(self.socket)
        self._hart = self.client.ask("query-cpus-fast")[0]["thread-id"]
        if not self.begun.wait(PATIENCE):
            raise SystemExit(f"the guest did not begin; see {folder}")

    def start_translator(self) -> None:
        """A translator, of the build in force."""
        path = os.pathsep.join([str(self.tree), os.environ.get("PYTHONPATH", "")])
        self.translator = subprocess.Popen(
            [sys.executable, "-m", "jit_proc", "--endpoint", self.endpoint, "--store", "off"],
            stdin=subprocess.DEVNULL,
            stderr=(self.folder / "translator.err").open("ab"),
            env={**os.environ, "PYTHONPATH": path},
            cwd=self.tree,
        )

    def _read(self) -> None:
        assert self.process.stdout is not None
        held, counting = b"", False
        found = (0.0, 0.0, 0.0)
        while part := os.read(self.process.stdout.fileno(), 65536):
            when = time.monotonic()
            *whole, held = (held + part).split(b"\n")
            if counting:
                found = self._scheduled() or found  # the last lines come from a machine that ends
                self.lines += [Line(when, text.rstrip(b"\r"), *found) for text in whole]
            elif any(text.strip() == b"BEGIN" for text in whole):
                counting = True
                self.begun.set()

    def _scheduled(self) -> tuple[float, float, float] | None:
        """What a line tells of its threads; None if the hart's is gone."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        ran = ready = others = 0.0
        reader = Path(f"/proc/self/task/{threading.get_native_id()}")
        with contextlib.suppress(OSError):
            for task in [reader, *tasks.iterdir()]:
                busy, waited, _ = map(int, (task / "schedstat").read_text().split())
                if task.name == str(self._hart):
                    ran, ready = busy / 1e9, waited / 1e9
                else:
                    others += waited / 1e9
        return (ran, ready, others) if ran else None

    # --- disturbances --------------------------------------------------------------------------

    def attached(self) -> bool:
        """Whether a translator has the machine."""
        facts = self.client.ask("x-query-jit")["translator"]
        return bool(facts["state"] == "attached")

    def wait_attached(self) -> None:
        runner.until(self.attached, "the translator to be met", PATIENCE)

    def swap(self, backend: str) -> None:
        """Swap, and give the new one time to do something."""
        begin = time.monotonic()
        for _ in range(100):
            try:
                self.client.ask("x-swap-backend", backend=backend)
                break
            except Refused as error:  # the translator is being met
                refusal = error
                time.sleep(0.05)
        else:
            raise SystemExit(f"swap {backend}: {refusal.text}")
        self.disturbances.append(Disturbance(f"swap to {backend}", begin, time.monotonic()))

    def kill(self, what: str = "kill") -> None:
        """Kill the translator, and start the next as a supervisor does."""
        begin = time.monotonic()
        assert self.translator is not None
        former = self.client.ask("x-query-jit")["translator"]["incarnation"]
        self.translator.kill()
        self.translator.wait()
        self.start_translator()
        runner.until(
            lambda: (
                self.attached()
                and self.client.ask("x-query-jit")["translator"]["incarnation"] != former
            ),
            "the next translator",
            PATIENCE,
        )
        self.disturbances.append(Disturbance(what, begin, time.monotonic()))

    def upgrade(self) -> None:
        """Another build behind the same endpoint."""
        tree = self.folder / f"build-{len(self.disturbances)}"
        for package in ("cpu_proc", "jit_proc", "devices", "protocol"):
            shutil.copytree(
                runner.REPOSITORY / package,
                tree / package,
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        limits = tree / "jit_proc" / "select.py"
        text = limits.read_text()
        changed = text.replace("MAX_INSTRUCTIONS = ", "MAX_INSTRUCTIONS = 1 + ", 1)
        if changed == text:
            raise SystemExit("jit_proc/select.py has no MAX_INSTRUCTIONS: mend this workload")
        limits.write_text(changed)
        self.tree = tree
        self.kill("upgrade")

    def run_on(self, lines: int, seconds: float = PATIENCE) -> None:
        """Until the guest has printed so many lines more."""
        wanted = len(self.lines) + lines
        runner.until(lambda: len(self.lines) >= wanted, f"{lines} lines", seconds)

    def finish(self) -> list[dict[str, Any]]:
        """End it; the machine's retirements, on this process's clock."""
        book = self.client.ask("x-retirements", count=4096)
        offset = time.monotonic() - book["now"]
        self.client.ask("quit")
        self.client.close()
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        if self.translator is not None:
            self.translator.send_signal(signal.SIGTERM)
            self.translator.wait(PATIENCE)
        if status:
            raise SystemExit(f"the machine ended with status {status}")
        return [{**event, "when": event["when"] + offset} for event in book["events"]]

    def close(self) -> None:
        """Leave no process behind."""
        for process in (self.process, self.translator):
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


def wrong_lines(lines: list[Line]) -> list[bytes]:
    """Those that are not the checksum; the last may be cut off."""
    return [line.text for line in lines if line.text != LINE]


def gaps(lines: list[Line], own: bool = False) -> list[float]:
    """Seconds between lines; `own`: less what the hart's thread waited for a processor."""
    return [
        max(0.0, after.when - before.when - own * (after.ready - before.ready))
        for before, after in itertools.pairwise(lines)
    ]


def histogram(found: list[float]) -> dict[str, int]:
    """Gaps by milliseconds."""
    names = [f"up to {limit}" for limit in BUCKETS] + [f"over {BUCKETS[-1]}"]
    counts: Counter[str] = Counter()
    for gap in found:
        index = next((i for i, limit in enumerate(BUCKETS) if gap * 1e3 <= limit), len(BUCKETS))
        counts[names[index]] += 1
    return {name: counts[name] for name in names}


def explain(guest: Guest, book: list[dict[str, Any]]) -> list[str]:
    """A line on each gap of which more than LONG is its own."""
    told = []
    for (before, after), own in zip(
        itertools.pairwise(guest.lines), gaps(guest.lines, own=True), strict=True
    ):
        gap = after.when - before.when
        if own <= LONG:
            continue
        out = sum(
            e["ms"] + e["waited-ms"] for e in book if before.when <= e["when"] <= after.when + 0.01
        )
        doing = [
            d.what for d in guest.disturbances if d.begin <= after.when and d.end >= before.when
        ]
        ran, ready = after.ran - before.ran, after.ready - before.ready
        told.append(
            f"{gap * 1e3:6.0f} ms: hart ran {ran * 1e3:.0f}, waited for a processor "
            f"{ready * 1e3:.0f}, other threads {(after.others - before.others) * 1e3:.0f}, "
            f"out for retirements {out:.0f}; under way: "
            f"{', '.join(doing) or 'nothing'}"
        )
    return told


def undisturbed(guests: Path, folder: Path, backend: str, lines: int) -> list[Line]:
    """The lines of a run that is left alone."""
    guest = Guest(guests, folder, backend)
    try:
        guest.run_on(lines)
        guest.finish()
        if wrong := wrong_lines(guest.lines):
            raise SystemExit(f"wrong without any disturbance: {wrong[0]!r}")
        return guest.lines
    finally:
        guest.close()


def disturbed(guest: Guest, swaps: int, kills: int, upgrades: int, lines: int = 5) -> None:
    """All disturbances, mixed evenly, with some lines between two."""
    plan = [("swap", i / max(1, swaps)) for i in range(swaps)]
    plan += [("kill", (i + 0.5) / max(1, kills)) for i in range(kills)]
    plan += [("upgrade", (i + 0.7) / max(1, upgrades)) for i in range(upgrades)]
    backends = itertools.cycle(BACKENDS)
    for what, _ in sorted(plan, key=lambda item: item[1]):
        guest.run_on(lines)
        if what == "swap":
            guest.swap(next(backends))
        elif what == "kill":
            guest.kill()
        else:
            guest.upgrade()
    guest.run_on(lines)


def main(arguments: list[str]) -> int:
    """Run it all, print the table; 1 if a line was wrong."""
    from cpu_proc.guests import default_folder

    parser = argparse.ArgumentParser(prog="python -m tests.system.workloads swaps")
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--upgrades", type=int, default=1)
    parser.add_argument("--harts", type=int, default=1)
    parser.add_argument("--guests", type=Path, default=default_folder())
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="coldboot-swaps-") as name:
        folder = Path(name)
        guest = Guest(options.guests, folder, "llvm", options.harts)
        try:
            disturbed(guest, options.swaps, options.kills, options.upgrades)
            done = Counter(d.what.split()[0] for d in guest.disturbances)
            book = guest.finish()
        finally:
            guest.close()
        wrong = wrong_lines(guest.lines[:-1])
        count = min(1000, len(guest.lines))
        columns = {
            "disturbed": guest.lines,
            "left alone": undisturbed(options.guests, folder, "llvm", count),
            "tier 0 alone": undisturbed(options.guests, folder, "none", count),
        }
    print(f"{len(guest.lines)} lines, {len(wrong)} wrong; {dict(done)}")
    for text in wrong[:10]:
        print(f"WRONG {text!r}")
    for title, own in (("gap, ms", False), ("less waits for a processor", True)):
        table = {name: histogram(gaps(lines, own)) for name, lines in columns.items()}
        print(f"{title:<28}" + "".join(f"{name:>14}" for name in columns))
        for bucket in histogram([]):
            print(f"{bucket:<28}" + "".join(f"{table[name][bucket]:>14}" for name in columns))
    for explained in explain(guest, book):
        print(explained)
    return int(bool(wrong))
