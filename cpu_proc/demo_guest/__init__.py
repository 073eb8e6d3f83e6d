"""The demonstration's guest: firmware of our own in a machine, and what it says on its serial line.

The problem: the demonstration must give a guest orders and hear from it, while the guest knows of
nothing but a serial line. So the line leads to a pipe, the orders are letters typed, and every
report is kept; stores like a device's reach the guest's memory through the machine's map.

Invariants: the firmware is assembled from its source at each start, by the assembler that follows
from the instruction declarations; nothing here judges, it waits for events until a deadline.

Read next: `firmware.s` (modes, orders and the lines of the reports), `cpu_proc/demo.py`.
"""

from __future__ import annotations

import os
import select
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cpu_proc.demo_view import View
    from cpu_proc.machine import Machine
    from cpu_proc.records import Region
    from cpu_proc.translator import TranslatorLink

FIRMWARE = Path(__file__).parent / "firmware.s"
RAM_SIZE = 16 << 20
PATIENCE = 120.0  # seconds for any one event
REFRESH = 0.1  # seconds between two looks at the machine
TICKS_PER_MICROSECOND = 10


class Unfinished(Exception):
    """An event did not come, or the machine ended: the demonstration stops here, failed."""


@dataclass(frozen=True)
class Report:
    """The guest's own account of its last 25 ms, and its totals since power-on.

    `ticks`, `pause`: tenths of microseconds. `when`: seconds since power-on, on the host;
    `published`: regions that there had been until then.
    """

    when: float
    published: int
    mode: str
    pieces: int
    instructions: int
    ticks: int
    checks: int
    stale: int
    pause: int

    @property
    def mips(self) -> float:
        return self.instructions * TICKS_PER_MICROSECOND / max(self.ticks, 1)


class Guest:
    """The machine with the demonstration's firmware, and its serial line."""

    def __init__(self, view: View) -> None:
        from cpu_proc.machine import Machine
        from cpu_proc.run_options import RunOptions, Serial
        from protocol.riscv.assembler import assemble

        self.view = view
        with view.status("assembling the guest"):
            program = assemble(FIRMWARE.read_text(encoding="utf-8"), name=FIRMWARE.name)
        self.symbols = program.symbols
        self._serial, out = os.pipe()
        os.set_blocking(self._serial, False)
        what = "building the engine, which only the first run on this computer does"
        with tempfile.NamedTemporaryFile(suffix=".bin") as image:
            image.write(program.data)
            image.flush()
            with view.status("starting the machine" if engine_is_built() else what):
                self.machine: Machine = Machine(
                    RunOptions(
                        bios=image.name,
                        ram_size=RAM_SIZE,
                        serial=Serial("file", f"/proc/self/fd/{out}"),
                    )
                )
        os.close(out)
        self._rest = b""
        self.reports: list[Report] = []
        self.boots: list[tuple[int, int]] = []  # number, what the entry's function answered
        self.ready = 0
        self.last_words = ""
        self.start = time.monotonic()

    @property
    def translator(self) -> TranslatorLink:
        assert self.machine.translator is not None
        return self.machine.translator

    @property
    def stale(self) -> int:
        """Stale results the guest has counted."""
        return self.reports[-1].stale if self.reports else 0

    def close(self) -> None:
        self.machine.close()
        os.close(self._serial)

    def now(self) -> float:
        """Seconds since power-on."""
        return time.monotonic() - self.start

    def order(self, letter: str) -> None:
        """Type a letter."""
        self.machine.receive(letter.encode())

    def mode(self, letter: str) -> list[Report]:
        """Order a mode and wait for its first report; the list that its reports are added to."""
        self.order(letter)
        self.until(lambda: bool(self.reports) and self.reports[-1].mode == letter)
        return self.reports

    def region_of(self, symbol: str) -> Region | None:
        """A published region that was made from the instruction at `symbol`."""
        from cpu_proc.records import lines_of
        from protocol.layout import PAGE_SIZE

        memory, records = self.machine.memory, self.machine.records
        address = self.symbols[symbol]
        with self.machine.lock:
            slot = memory.find(address)
            assert slot is not None
            assert slot.backing is not None
            page = slot.backing.page(slot.offset + address - slot.base)
            line = lines_of(address % PAGE_SIZE, 4)
            found = (region for region in records.regions.get(page, ()) if region.lines & line)
            return next(found, None)

    def is_translated(self, symbol: str) -> bool:
        """Whether there is such a region."""
        return self.region_of(symbol) is not None

    def store(self, address: int, data: int, size: int) -> None:
        """Store in guest memory as a device does."""
        with self.machine.lock:
            self.machine.memory.write(address, data.to_bytes(size, "little"))

    def retired(self, cause: str) -> int:
        """How often something was retired for this cause."""
        return self.machine.retirement.counts[cause]

    def pump(self) -> None:
        """Take in what the guest printed; wait for it a little."""
        if select.select([self._serial], [], [], REFRESH)[0]:
            data = os.read(self._serial, 1 << 16)
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._hear(line.decode("ascii", "replace"))
        link = self.machine.translator
        self.view.refresh(
            {
                "epoch": self.machine.retirement.epoch,
                "regions": self.machine.records.region_count,
                "translator": link.child_pid if link else None,
                "checks": self.reports[-1].checks if self.reports else 0,
                "stale": self.stale,
            }
        )

    def _hear(self, line: str) -> None:
        word, *rest = line.split() or [""]
        numbers = [int(text) for text in rest if text.isdecimal()]
        if word == "boot":
            self.boots.append((numbers[0], numbers[1]))
        elif word == "ready":
            self.ready += 1
        elif len(word) == 1 and len(numbers) == 6:
            link = self.machine.translator
            published = link.counts["published"] if link is not None else 0
            report = Report(self.now(), published, word, *numbers)
            self.reports.append(report)
            self.view.sample(report.when, report.mips)
        else:
            self.last_words = line

    def until(self, event: Callable[[], bool], what: str = "the guest's report") -> None:
        """Wait for an event. Raises Unfinished when it does not come."""
        deadline = time.monotonic() + PATIENCE
        while not event():
            self.pump()
            if self.machine.exit_code is not None and not event():
                words = self.last_words or "it said nothing"
                raise Unfinished(f"the machine ended while waiting for {what} ({words})")
            if time.monotonic() > deadline:
                raise Unfinished(f"{what} did not come in {PATIENCE:.0f} s")

    def watch(self, seconds: float) -> None:
        """Let it run."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end)

    def more_reports(self, count: int = 2) -> None:
        """Let it run until it has reported `count` times: what it does now has been checked."""
        wanted = len(self.reports) + count
        self.until(lambda: len(self.reports) >= wanted)


def engine_is_built() -> bool:
    """Whether the machine will find its engine in the cache."""
    from protocol import engine_image
    from protocol.layout import LAYOUT_HASH
    from protocol.riscv.identity import isa_hash

    return engine_image.engine_path(engine_image.engine_key(isa_hash(), LAYOUT_HASH)).exists()
