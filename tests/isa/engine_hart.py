"""A hart on the engine with the interface of the reference's `ReferenceMachine`.

The problem: tests of traps, CSRs and translation say in assembly what a guest does, and look at
the hart's fields; they were written for the reference interpreter and hold for the engine as they
stand. This is the stand-in: fields are the engine's, a step is the engine's single step.

Invariants: what a test changes behind the hart's back (a field, memory) takes effect at the next
step, as with the reference: the TLB set is chosen afresh and the TLBs are emptied. Tests of what a
TLB may keep are programs of their own, in `test_translation.py`.

Read next: `tests/protocol/riscv/reference_machine.py`, `test_on_engine.py`.
"""

from __future__ import annotations

import functools
from typing import Any

from protocol import layout
from protocol.riscv import csr, privileged
from protocol.riscv.assembler import assemble
from protocol.riscv.reference import Trap
from protocol.riscv.to_python import compile_function
from tests.engine_harness import EngineMachine
from tests.protocol.riscv.reference_machine import (
    MACHINE,
    RAM,
    RAM_SIZE,
    Guest,
)

_SAVED = ("pc", "count", "priv", "mstatus", "mcause", "mepc", "mtval")
CSR_CODE = RAM + RAM_SIZE - 16  # where `read_csr` and `write_csr` put their instruction

_update_context = compile_function(privileged.update_context)
_interrupt_waiting = compile_function(privileged.interrupt_waiting)


@functools.cache
def _shared() -> EngineMachine:
    return EngineMachine(RAM_SIZE)


class _Memory:
    """Physical memory by address, size and value."""

    def __init__(self, owner: EngineHart) -> None:
        self._owner = owner

    def read(self, address: int, size: int) -> int:
        return int.from_bytes(self._owner.machine.read(address, size), "little")

    def write(self, address: int, size: int, value: int) -> None:
        self._owner.machine.load(address, (value % (1 << 8 * size)).to_bytes(size, "little"))
        self._owner.touched = True

    def add_ram(self, base: int, size: int, writable: bool = True) -> memoryview:
        assert size == layout.PAGE_SIZE
        assert not writable
        return self._owner.machine.map_rom(base)


class EngineHart(Guest):
    """A hart in tier 0. What is not found here is a field of the engine's hart."""

    machine: EngineMachine
    memory: _Memory
    now: int
    waiting: bool
    touched: bool

    def __init__(self, priv: int = MACHINE, grant: bool = True, **fields: int) -> None:
        machine = _shared()
        machine.reset(RAM)
        machine.state.mstatus = 0
        machine.state.features = 3
        own = {"machine": machine, "memory": _Memory(self), "touched": True}
        self.__dict__.update(own, now=0, waiting=False, next_table=0)
        self.begin(priv, grant, fields)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.machine.state, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__:
            self.__dict__[name] = value
        else:
            setattr(self.machine.state, name, value % 2**64)
            self.__dict__["touched"] = True

    @property
    def raw(self) -> int:
        """Bits of the instruction executed last: a step decodes it into the scratch array."""
        return int(self.machine.state.scratch_bytes)

    # --- for the routines compiled above ----------------------------------------------------------

    def set_context(self, data: int, fetch: int) -> None:
        self.machine.hart.choose_sets(data, fetch)

    def time(self) -> int:
        return self.now

    # --- running ----------------------------------------------------------------------------------

    def step(self) -> None:
        state = self.machine.state
        if self.waiting:
            if not _interrupt_waiting(self):
                return
            self.waiting = False
        if self.touched:
            self.machine.hart.flush()
            _update_context(self)
            self.touched = False
        state.icount = 1
        state.time_offset = (self.now - state.count // 100) % 2**64
        self.waiting = self.machine.step() == layout.EXIT_WAIT

    def _execute_csr(self, text: str, value: int) -> int:
        """Execute one CSR instruction with t0 in the present mode; t0 afterwards. Raises Trap."""
        state = self.machine.state
        saved = [int(getattr(state, name)) for name in _SAVED] + [int(state.x[5])]
        self.memory.write(CSR_CODE, 4, int.from_bytes(assemble(text).data, "little"))
        state.pc, state.x[5] = CSR_CODE, value
        self.step()
        result, trapped = int(state.x[5]), state.pc != CSR_CODE + 4
        trap = Trap(int(state.mcause), int(state.mtval))
        for name, field in zip(_SAVED, saved, strict=False):
            if trapped or name in ("pc", "count"):
                setattr(state, name, field)
        state.x[5] = saved[-1]
        if trapped:
            raise trap
        return result

    def read_csr(self, name: str) -> int:
        return self._execute_csr(f"csrr t0, {csr.NUMBERS[name]}", 0)

    def write_csr(self, name: str, value: int) -> None:
        self._execute_csr(f"csrw {csr.NUMBERS[name]}, t0", value % 2**64)
