"""One hart on the engine, in this process, with a finisher: tier 0 for tests.

The problem: tests of the engine want to put a state in, run some code, and look at every bit of the
state that comes out. `cpu_proc.lone_hart` has the hart; here it gets a finisher at QEMU's address,
so that a program which ends by a store there runs in QEMU as well, and a page of ROM.

Read next: `cpu_proc/lone_hart.py`; `tests/isa/batch.py` (programs of many sequences).
"""

from __future__ import annotations

import functools

from cpu_proc.hart import Hart
from cpu_proc.lone_hart import FLAGS as FLAGS
from cpu_proc.lone_hart import RAM as RAM
from cpu_proc.lone_hart import RECORD_ARRAYS as RECORD_ARRAYS
from cpu_proc.lone_hart import TICK_NS as TICK_NS
from cpu_proc.lone_hart import LoneHart
from cpu_proc.lone_hart import Stopped as Stopped
from cpu_proc.memory_map import Slot
from protocol import layout
from protocol.faults import AccessFault
from protocol.layout import PAGE_SIZE

FINISHER = 0x10_0000


class Finisher:
    """A store of 16 or 32 bits ends the run."""

    name = "finisher"
    size = PAGE_SIZE

    def __init__(self) -> None:
        self.value: int | None = None
        self.hart: Hart | None = None

    def read(self, offset: int, size: int) -> int:
        raise AccessFault(offset, size, write=False)

    def write(self, offset: int, size: int, value: int) -> None:
        if offset or size not in (2, 4):
            raise AccessFault(offset, size, write=True)
        assert self.hart is not None
        self.value = value
        self.hart.call()


class EngineMachine(LoneHart):
    """RAM at `RAM`, a finisher, and one hart in tier 0. `state` is the hart's structure.

    `rom`: a page of read-only memory that `map_rom` puts somewhere until the next reset.
    """

    def __init__(self, ram_size: int = 1 << 24) -> None:
        super().__init__(ram_size, {"rom": PAGE_SIZE})
        self.finisher = Finisher()
        self.memory.add_device(FINISHER, self.finisher)
        self.finisher.hart = self.hart
        self.rom = self.guest.backings["rom"].view
        self._rom_slot: Slot | None = None
        self.reset()

    def reset(self, pc: int = RAM, *, clear: bool = True) -> None:
        """The state after power-on, in M-mode at `pc`; with `clear`, RAM is zeros."""
        if self._rom_slot is not None:
            self.memory.commit(remove=[self._rom_slot])
            self._rom_slot = None
        self.finisher.value = None
        super().reset(pc, clear=clear)

    def map_rom(self, base: int) -> memoryview:
        """Map the page of read-only memory; its bytes, zeros at first."""
        self._rom_slot = self.memory.add_rom(base, PAGE_SIZE, self.guest.backings["rom"])
        self.rom[:] = bytes(PAGE_SIZE)
        self.load_map()
        return self.rom

    # --- running ----------------------------------------------------------------------------------

    def run(self, instructions: int) -> int:
        """Run until the finisher is stored to, the hart sleeps, or so many instructions are done.

        Returns `layout.EXIT_*`: ATTENTION, WAIT or STOP. The count is looked at where control is
        transferred, so a straight run of code is finished first.
        """
        self.state.stop_count = self.state.count + instructions
        self.state.limit = 0
        while True:
            reason = self.hart.run()
            self.state.exit_lines = 0  # there are no regions to retire
            self.state.hot_count = 0  # nor to ask for
            if self.error is not None:
                raise Stopped from self.error
            if reason == layout.EXIT_POOL:
                self.forget()
            elif reason == layout.EXIT_ATTENTION:
                self.state.attention = 0
                if self.finisher.value is not None:
                    return reason
            elif reason in (layout.EXIT_WAIT, layout.EXIT_STOP):
                return reason


@functools.cache
def shared_machine() -> EngineMachine:
    """One machine for all tests of a process: making one costs more than most tests."""
    return EngineMachine()
