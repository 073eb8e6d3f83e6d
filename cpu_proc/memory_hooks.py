"""What a machine does when its guest's memory is written from outside, or its map changes.

The problem: DMA, the loader and the host write bytes that code may have been made from, and a
commit changes what addresses mean. The memory map tells here, and what is out of date is retired
before the writer goes on.

Read next: `memory_map.py` (who calls), `records.py`, `exits.py` (stores of harts).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cpu_proc import explain
from cpu_proc.records import lines_of
from protocol.generations import burst
from protocol.layout import PAGE_SIZE
from protocol.logs import get_logger

if TYPE_CHECKING:
    from cpu_proc.machine import Machine
    from cpu_proc.memory_map import Backing

log = get_logger("machine")


class MemoryHooks:
    """What a machine's memory map tells."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def storing(self, change: int) -> None:
        """A write by DMA or the host begins (1) or ends (-1): a hart's fence.i waits for it."""
        machine = self._machine
        with machine.lock:
            machine.control.words.storing += change

    def written(self, backing: Backing, offset: int, length: int) -> None:
        """Bytes of a backing were written by DMA, the loader or the host: retire what they made."""
        machine = self._machine
        if not self.records_in_use and not machine.records.watched:
            return
        end = offset + length
        pages = burst(range(offset // PAGE_SIZE, -(-end // PAGE_SIZE)))
        while offset < end:
            part = min(end - offset, PAGE_SIZE - offset % PAGE_SIZE)
            page = backing.page(offset)
            known = offset // PAGE_SIZE in pages
            before, began = machine.records.generation(page), time.monotonic()
            if known and machine.records.written(page, offset % PAGE_SIZE, part):
                machine.retirement.note(
                    "memory_write",
                    machine.culprits.current(machine.memory.doing),
                    explain.where(machine, page, before, lines=lines_of(offset % PAGE_SIZE, part)),
                    began=began,
                    page=page,
                    regions=len(machine.records.gone),
                )
                if machine.records.generation(page) == 0:
                    self.wrapped()
            offset += part
        if machine.mistakes is not None:
            machine.mistakes.stored(None)

    def wrapped(self) -> None:
        """A counter wrapped to 0: a new epoch, so that no value of it is met a second time."""
        machine = self._machine
        machine.safe_point.post(lambda: machine.retirement.everything("counter_wrap"))

    @property
    def records_in_use(self) -> bool:
        """Whether any page has records."""
        machine = self._machine
        return any(
            h.state.pool_next != start
            for h, (start, _) in zip(machine.harts, machine.pools, strict=True)
        )

    def committed(self, generation: int) -> None:
        machine, began = self._machine, time.monotonic()
        machine.control.words.map_generation = generation
        log.info("map_committed", generation=generation)
        if not hasattr(machine, "harts"):
            return
        if generation == 0:
            self.wrapped()
        for hart in machine.harts:
            hart.load_map(machine.control.pages_address, machine.guest.segment.address)
        if machine.made:
            machine.retirement.note(
                "remap",
                more=explain.map_change(machine, generation),
                began=began,
                generation=generation,
            )
