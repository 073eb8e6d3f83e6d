"""How long a guest is slower after its translator was lost, in each way it can be.

    python -m tests.system.workloads losses [--rounds N] [--only NAME]...

A guest prints a line for each piece of work, always the same. Before the loss a piece takes what it
takes at full speed (the median), of its hart's own time on a processor, so that a busy computer
does not look like a slow guest (schedstat, proc(5)). Told is, of the median round: the longest gap
between two lines after the loss, less what the hart waited for a processor; how long until pieces
take again what they did (the median of `LOOK` in a row within `AS_BEFORE` of it); and how much
slower they were meanwhile. Every piece is checked by the guest: one wrong sum ends it, and this
with status 1.

Read next: `docs/loss.md`, where the figures stand.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.system import programs, runner

LOOK = 15
AS_BEFORE = 1.25
WARM = 60  # pieces until the speed is taken
PATIENCE = 90.0

GUEST = """
main:
    la s0, sum
    li s1, 4000
    li s2, 500500
    li s3, 1
    call check
    li t0, UART
    li t1, 10
    sb t1, 0(t0)
    j main
    .align 12
sum:
    li a0, 0
    li t0, 1000
1:
    add a0, a0, t0
    addi t0, t0, -1
    bnez t0, 1b
    ret
"""


class Piece(NamedTuple):
    """When it was done, what it took of the hart's processor time, and the time since the last one
    in which the hart could have run. Seconds.
    """

    when: float
    took: float
    gap: float


def hart_time(pid: int) -> tuple[float, float]:
    """Seconds that the busiest thread of a process ran, and waited for a processor."""
    times = [(0.0, 0.0)]
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            ran, ready, _ = map(int, path.read_text().split())
            times.append((ran / 1e9, ready / 1e9))
    return max(times)


class Run:
    """A machine, its translator, and when it finished each piece."""

    def __init__(self, folder: Path, words: tuple[str, ...], *, own: bool) -> None:
        """`own`: the machine starts its translator itself."""
        self.folder = folder
        self.log = folder / "machine.log"
        self.service: runner.Translator | None = None
        line = ["-m", "32M", "-serial", "stdio", "--log-json", "-d", "retire", "-D", self.log]
        if not own:
            self.service = self.serve()
            line += ["-translator", self.service.endpoint]
        line += [*words, programs.elf(GUEST, folder)]
        self.pieces: list[Piece] = []
        self.process = subprocess.Popen(
            runner.command("run", *line),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=runner.environment(),
        )
        threading.Thread(target=self._read, daemon=True).start()

    def serve(self) -> runner.Translator:
        """A translator service, at the same endpoint if there was one."""
        endpoint = self.service.endpoint if self.service is not None else None
        cold = ("--store", "off")
        return runner.Translator(self.folder, *cold, endpoint=endpoint)

    def _read(self) -> None:
        assert self.process.stdout is not None
        last, (ran, ready) = time.monotonic(), (0.0, 0.0)
        while part := os.read(self.process.stdout.fileno(), 4096):
            now, (ran_now, ready_now) = time.monotonic(), hart_time(self.process.pid)
            count = max(1, part.count(b"\n"))
            gap = max(0.0, now - last - (ready_now - ready))
            self.pieces += [Piece(now, (ran_now - ran) / count, gap)] * count
            last, ran, ready = now, ran_now, ready_now

    def translator(self) -> int:
        """The process that is attached."""
        events = [e for e in runner.read_events(self.log) if e["event"] == "translator_attached"]
        return int(events[-1]["pid"])

    def wait(self, pieces: int) -> None:
        """Until the guest did so many more."""
        wanted = len(self.pieces) + pieces
        end = time.monotonic() + PATIENCE
        while len(self.pieces) < wanted:
            if self.process.poll() is not None:
                raise SystemExit(f"the guest ended with status {self.process.returncode}")
            if time.monotonic() > end:
                raise SystemExit("the guest does nothing any more")
            time.sleep(0.01)

    def since(self, start: float) -> list[Piece]:
        """The pieces done after a moment."""
        return [piece for piece in list(self.pieces) if piece.when > start]

    def published(self) -> int:
        """Regions so far."""
        return sum(e["event"] == "region_published" for e in runner.read_events(self.log))

    def end(self) -> None:
        """Of all processes."""
        self.process.kill()
        self.process.wait()
        if self.service is not None:
            self.service.__exit__(None, None, None)


def restarted(run: Run, number: int) -> None:
    """Signal the service, and have a supervisor start it anew."""
    assert run.service is not None
    run.service.process.send_signal(number)
    run.service.process.wait()
    run.service = run.serve()


def worker(run: Run) -> None:
    """Kill the worker."""
    for pid in runner.children(run.translator()):
        os.kill(pid, signal.SIGKILL)


def folder_gone(run: Run) -> None:
    """Remove the folder of the socket."""
    assert run.service is not None
    shutil.rmtree(Path(run.service.endpoint.removeprefix("ipc://")).parent)


LOSSES: dict[str, tuple[bool, tuple[str, ...], Callable[[Run], None]]] = {
    "own, SIGKILL": (True, (), lambda run: os.kill(run.translator(), signal.SIGKILL)),
    "own, SIGKILL, -cold": (
        True,
        ("-cold",),
        lambda run: os.kill(run.translator(), signal.SIGKILL),
    ),
    "own, SIGSTOP": (True, (), lambda run: os.kill(run.translator(), signal.SIGSTOP)),
    "service, SIGKILL": (False, (), lambda run: restarted(run, signal.SIGKILL)),
    "service, SIGTERM": (False, (), lambda run: restarted(run, signal.SIGTERM)),
    "a worker, SIGKILL": (False, (), worker),
    "socket's folder removed": (False, (), folder_gone),
}


def lose(name: str, folder: Path) -> tuple[float, float, float]:
    """One loss: longest gap and time to full speed in seconds, and how much slower meanwhile."""
    own, words, act = LOSSES[name]
    run = Run(folder, words, own=own)
    try:
        runner.until(lambda: run.published() > 0, "a region", PATIENCE)
        run.wait(WARM)
        full = statistics.median(piece.took for piece in run.pieces[-WARM // 2 :])
        began = time.monotonic()
        threading.Thread(target=act, args=(run,), daemon=True).start()
        lasting = 10.0 if "SIGSTOP" in name else 5.0
        end = began + PATIENCE
        while time.monotonic() < end:
            run.wait(LOOK)
            after = run.since(began)
            back = recovered(after, full * AS_BEFORE)
            if back is not None and time.monotonic() > began + lasting:
                slow = [piece.took for piece in after if piece.when <= back]
                gap = max(piece.gap for piece in after)
                slower = statistics.median(slow) / full if slow else 1.0
                return gap, max(0.0, back - began), slower
        raise SystemExit(f"{name}: full speed did not come back")
    finally:
        run.end()


def recovered(after: list[Piece], limit: float) -> float | None:
    """Since when pieces take what they took, to the end of what was seen."""
    back = None
    for at in range(len(after) - LOOK + 1):
        if statistics.median(piece.took for piece in after[at : at + LOOK]) > limit:
            back = None
        elif back is None:
            back = after[at].when
    return back


def main(words: list[str]) -> int:
    """Entry point; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.workloads losses")
    parser.add_argument("--rounds", type=int, default=3, help="of each (default 3)")
    parser.add_argument("--only", action="append", choices=LOSSES, help="not all of them")
    options = parser.parse_args(words)
    print(f"{'what is lost':<26}{'longest gap':>13}{'full speed after':>18}{'meanwhile':>12}")
    for name in options.only or LOSSES:
        rounds = []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as folder:
                rounds.append(lose(name, Path(folder)))
        gap, back, slower = sorted(rounds, key=lambda one: one[1])[len(rounds) // 2]
        print(f"{name:<26}{gap * 1e3:>10.0f} ms{back:>16.2f} s{slower:>10.1f} x", flush=True)
    return 0
