"""One hart on the engine with nothing around it: memory, records, and no board, console or thread.

The problem: a comparison of two translations, and tests of the engine, want to put a state in, run
some code, and look at every bit of the state that comes out, some thousand times a second; a whole
machine costs too much and hides too much.

Invariants: nothing of an earlier program is left after `reset` but the bytes of RAM, and those are
zeros unless asked otherwise; time is the count of instructions plus what is set, so a run is
repeatable.

Read next: `hart.py`, `comparison.py` (who runs translations on one).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from cpu_proc import engine as engines
from cpu_proc.hart import Hart
from cpu_proc.memory_map import Backing, MemoryMap
from cpu_proc.records import Records
from cpu_proc.segments import ControlSegment, GuestMemory
from protocol import layout
from protocol.faults import AccessFault
from protocol.layout import HART, PAGE_SIZE

RAM = 0x8000_0000
RECORD_ARRAYS = 1024
TICK_NS = 100
FLAGS = ((0, 4), (2, 3), (3, 2), (4, 1), (5, 0))  # MXCSR's bit, fflags' bit


class Stopped(Exception):
    """A callback from native code went wrong; the cause is attached."""


class LoneHart:
    """RAM at `RAM` and one hart in tier 0. `state` is the hart's structure."""

    def __init__(self, ram_size: int, more: Mapping[str, int] | None = None) -> None:
        """`more`: further backings, by name in bytes, which nothing is mapped to."""
        self.engine = engines.load()
        self.guest = GuestMemory({"ram": ram_size, **(more or {})})
        self.control = ControlSegment(1, self.guest.page_count)
        self.records = Records(self.control, RECORD_ARRAYS)
        self.records.decode = self.engine.address("h_decode")
        self.memory = MemoryMap(on_write=self._written)
        self.memory.add_ram(RAM, ram_size, self.guest.backings["ram"])
        self.hart = Hart(0, self.control.hart_addresses[0], self.engine, self.memory, self)
        self.hart.meet(self.control.segment.address, [self.hart])
        self.records.note_write = functools.partial(self.engine.note_write(), self.hart.address)
        drop_arrays = self.engine.drop_arrays()
        self.records.drop_arrays = functools.partial(drop_arrays, self.hart.address)
        self.state = self.hart.state
        address = self.hart.address
        self.state.scratch = self.records.make_scratch(
            self.engine.address("h_scratch_end"),
            address + HART.offset("scratch_bytes"),
            address + HART.offset("scratch_page"),
        )
        self.state.pool_next = self.records.start
        self.state.pool_end = self.records.end
        self.state.threshold = 65535
        self.state.hot_limit = layout.HOT_RING
        self.state.features = 3
        self.state.icount = TICK_NS
        self.error: BaseException | None = None
        self.ram = self.guest.backings["ram"].view

    # --- what a hart needs of its machine, and the memory map of its owner ------------------------

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.hart.call()

    def guest_error(self, hart: Hart, address: int, fault: AccessFault) -> None:
        """Nothing: what is compared is the access fault."""

    def _written(self, backing: Backing, offset: int, length: int) -> None:
        end = offset + length
        while offset < end:
            part = min(end - offset, PAGE_SIZE - offset % PAGE_SIZE)
            self.records.written(backing.page(offset), offset % PAGE_SIZE, part)
            offset += part

    # --- state ------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Drop every record, as a reset of the machine does."""
        self.records.drop_all([(self.records.start, int(self.state.pool_next))])
        self.state.pool_next = self.records.start
        self.hart.flush()

    def reset(self, pc: int = RAM, *, clear: bool = True) -> None:
        """The state after power-on, in M-mode at `pc`; with `clear`, RAM is zeros."""
        if clear:
            self.ram[:] = bytes(len(self.ram))
        self.forget()
        self.hart.reset(pc)
        self.load_map()
        self.state.count = 0
        self.state.time_offset = 0
        self.state.attention = 0
        self.error = None

    def load_map(self) -> None:
        """Tell the hart of the memory map as it is."""
        self.hart.load_map(self.control.pages_address, self.guest.segment.address)

    def load(self, address: int, data: bytes) -> None:
        """Store bytes in RAM, as a debugger does."""
        self.memory.write(address, data)

    def read(self, address: int, length: int) -> bytes:
        """Bytes of RAM."""
        return self.memory.read(address, length)

    @property
    def fflags(self) -> int:
        """The accrued exceptions: software's and the host unit's."""
        flags, unit = int(self.state.fflags), int(self.state.mxcsr)
        return flags | sum((unit >> bit & 1) << to for bit, to in FLAGS)

    @fflags.setter
    def fflags(self, value: int) -> None:
        self.state.fflags = value
        self.state.mxcsr &= ~0x3F

    def step(self) -> int:
        """Take one interrupt, or execute one instruction; returns the exit reason."""
        reason = self.hart.step()
        self.state.attention = 0
        self.state.exit_lines = 0
        if self.error is not None:
            raise Stopped from self.error
        return reason
