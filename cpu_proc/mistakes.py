"""What the fault switches do in the machine process, beside `machine.py`.

The problem: a mistake belongs to the place where it would be made, and its bulk must not stand in
the way of those who read that place. So `Machine` has a line there (`if self.mistakes is not
None`), and what the line calls is here.

Invariant: a machine has no `Mistakes` unless one of its switches is on.

Read next: `protocol/mutants.py`, `protocol/kept.py`.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from cpu_proc import native
from protocol import kept
from protocol.layout import LINE_SIZE, PAGE_SIZE, RECORD_SIZE
from protocol.mutants import armed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cpu_proc.hart import Hart
    from cpu_proc.machine import Machine

PAUSE = 0.002  # seconds by which a window that is open anyway is made wider
NAMES = (*kept.JUMPS, *kept.LINKS, *kept.STACK, "M30", "M32", "M33", "M37", "M38")


def make(machine: Machine) -> Mistakes | None:
    """The machine's mistakes; None without a switch."""
    return Mistakes(machine) if kept.any_armed(NAMES) else None


class Mistakes:
    """The mistakes of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._parked: dict[int, tuple[int, int, int]] = {}  # hart -> page, slot, code
        self._retiring: set[int] = set()
        self._all_harts = armed("M17") or armed("M40")

    # --- kept pointers: who clears them, and when -----------------------------------------------

    def stored(self, hart: Hart | None) -> None:
        """A store to code was served (`hart`: who stored; None: a device or the host)."""
        harts = self._machine.harts
        if hart is not None:
            self._retiring.discard(hart.state.exit_page)
        if self._all_harts:
            self._forget(h.index for h in harts)
        elif armed("M28"):  # only the hart that stored forgets
            self._forget([hart.index] if hart is not None else [])
        elif armed("M34"):  # a hart that sleeps is passed over
            self._forget(h.index for h in harts if not h.state.waiting)

    def everything(self) -> None:
        """Everything was retired: whatever was kept points to memory that is gone."""
        base = self._machine.control.segment.address + kept.AREA
        ctypes.memset(base, 0, kept.HART_SIZE * len(self._machine.harts))
        self._parked.clear()

    def _forget(self, harts: Iterable[int]) -> None:
        base = self._machine.control.segment.address + kept.AREA
        for index in harts:
            ctypes.memset(base + index * kept.HART_SIZE, 0, kept.PENDING)

    # --- a store to lines with regions ------------------------------------------------------------

    def serve(self, hart: Hart) -> bool:
        """What goes wrong before the regions are taken back; whether they are not."""
        machine, state = self._machine, hart.state
        page = machine.records.page_of(state.exit_page)
        if page is None:
            return False
        if armed("M30"):  # first the lines are free, then the regions are taken back
            lines, state.exit_lines = int(state.exit_lines), 0
            machine.records.unwatch_regions(page, lines)
            machine.linger(PAUSE)
            state.exit_lines = lines
        if armed("M32"):  # somebody is at this page already: that will do for both
            if state.exit_page in self._retiring:
                state.exit_lines = 0
                return True
            self._retiring.add(state.exit_page)
            machine.linger(PAUSE)
        if armed("M37"):  # the store is served a little later, and a reset may come first
            machine.linger(2 * PAUSE)
        if armed("M38") and self._stands_in(page, int(state.pc), int(state.exit_lines)):
            state.exit_lines = 0  # the block that stores is not looked at
            return True
        return False

    def _stands_in(self, page: int, pc: int, lines: int) -> bool:
        """Whether the store, before `pc`, stands in a region that it wrote to."""
        if self._page_at(pc) != page:
            return False
        own = 1 << ((pc - 1) % PAGE_SIZE // LINE_SIZE)
        regions = self._machine.records.regions.get(page, ())
        return any(region.lines & own and region.lines & lines for region in regions)

    # --- a hart that sleeps in a region (M33) -----------------------------------------------------

    def sleep(self, hart: Hart, limit: float) -> None:
        """Sleep; with M33 the hart then goes on in the code where it fell asleep."""
        if not armed("M33"):
            hart.sleep(limit)
            return
        machine = self._machine
        pc = int(hart.state.pc)
        page, slot = self._page_at(pc), pc % PAGE_SIZE // 2
        link = machine.translator
        if page is not None and link is not None:
            record = machine.records.record(page, slot)
            if record and link.holds(native.words(record, 1)[0]):
                self._parked[hart.index] = (page, slot, native.words(record, 1)[0])
        hart.sleep(limit)
        page, slot, code = self._parked.get(hart.index, (None, 0, 0))
        if page is not None and slot == int(hart.state.pc) % PAGE_SIZE // 2:
            record = machine.records.record(page, slot)
            if record:
                native.words(record, RECORD_SIZE // 8)[0] = code

    def _page_at(self, pc: int) -> int | None:
        """The backing page at a physical address."""
        slot = self._machine.memory.find(pc)
        if slot is None or slot.backing is None:
            return None
        return slot.backing.page(slot.offset + pc - slot.base)
