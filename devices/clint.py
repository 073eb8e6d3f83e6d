"""CLINT: software interrupts between harts, and the timer all harts share.

Problem: a guest's firmware sends interrupts to harts (msip) and arms timers (mtimecmp against
mtime) through memory. Both are part of a hart's state, which the harts compare themselves, without
asking a device; so the registers here are windows on the harts, by `ClintPorts`.

Invariants:
- mtime counts at 10 MHz and is one for all harts.
- msip bits are kept here as well, so that a read needs no hart.
- 64-bit registers are read and written whole or by halves; a half leaves the other half alone.
- Registers of harts that do not exist read 0 and ignore writes.

Source: SiFive FU540-C000 manual, chapter 9; RISC-V ACLINT specification 1.0, sections 2 and 3 (the
same layout, msip at 0 and the timer at 0x4000). Privileged specification, section 3.2.1.
Read next: `plic` for all other interrupts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from devices.device import NodeContext, check_access, extract, insert

MTIMECMP = 0x4000
MTIME = 0xBFF8
MAX_HARTS = 4095

_NEVER = (1 << 64) - 1
_SOFTWARE_INTERRUPT, _TIMER_INTERRUPT = 3, 7  # numbers of the M-mode interrupts in mip


class ClintPorts(Protocol):
    """What the CLINT reaches of the harts. Times are ticks of 10 MHz, 64 bits."""

    def set_msip(self, hart: int, level: bool) -> None:
        """Drive ``mip.MSIP`` of a hart."""
        ...

    def get_mtimecmp(self, hart: int) -> int:
        """The time from which ``mip.MTIP`` of a hart is set."""
        ...

    def set_mtimecmp(self, hart: int, value: int) -> None:
        """Set it; ``mip.MTIP`` follows, and a sleeping hart looks again."""
        ...

    def mtime(self) -> int:
        """Now."""
        ...

    def set_mtime(self, value: int) -> None:
        """Set the clock of all harts."""
        ...


@dataclass
class ClintState:
    """The msip bits; mtimecmp and mtime live in the harts' state."""

    msip: list[bool] = field(default_factory=list)


class Clint:
    """The device, for `harts` harts with ids from 0."""

    name = "clint"
    size = 0x10000

    def __init__(self, harts: int, ports: ClintPorts) -> None:
        if not 1 <= harts <= MAX_HARTS:
            raise ValueError(f"a CLINT serves 1 to {MAX_HARTS} harts, not {harts}")
        self.state = ClintState([False] * harts)
        self._harts = harts
        self._ports = ports

    def reset(self) -> None:
        """No software interrupt, time 0, and timers that never fire.

        The specifications leave mtimecmp open; "never" spares idle harts a pending interrupt.
        """
        self.restore(ClintState([False] * self._harts))
        self._ports.set_mtime(0)
        for hart in range(self._harts):
            self._ports.set_mtimecmp(hart, _NEVER)

    def restore(self, state: ClintState) -> None:
        """Continue from `state`; msip lines follow."""
        self.state = state
        for hart, level in enumerate(state.msip):
            self._ports.set_msip(hart, level)

    def read(self, offset: int, size: int) -> int:
        """msip: 4 bytes; mtimecmp and mtime: 4 or 8 bytes."""
        check_access(offset, size, (4, 8), write=False)
        if offset < MTIMECMP:
            check_access(offset, size, (4,), write=False)
            hart = offset // 4
            return int(hart < self._harts and self.state.msip[hart])
        if offset < MTIME:
            hart = (offset - MTIMECMP) // 8
            if hart >= self._harts:
                return 0
            return extract(self._ports.get_mtimecmp(hart), offset % 8, size)
        if offset < MTIME + 8:
            return extract(self._ports.mtime(), offset % 8, size)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """msip: 4 bytes, bit 0 counts; mtimecmp and mtime: 4 or 8 bytes."""
        check_access(offset, size, (4, 8), write=True)
        if offset < MTIMECMP:
            check_access(offset, size, (4,), write=True)
            hart = offset // 4
            if hart < self._harts:
                self.state.msip[hart] = bool(value & 1)
                self._ports.set_msip(hart, bool(value & 1))
        elif offset < MTIME:
            hart = (offset - MTIMECMP) // 8
            if hart < self._harts:
                old = self._ports.get_mtimecmp(hart)
                self._ports.set_mtimecmp(hart, insert(old, offset % 8, size, value))
        elif offset < MTIME + 8:
            self._ports.set_mtime(insert(self._ports.mtime(), offset % 8, size, value))

    def describe(self, context: NodeContext) -> None:
        """``sifive,clint0``, wired to each hart's software and timer interrupt."""
        node = context.node("clint")
        node.string("compatible", "sifive,clint0", "riscv,clint0")
        cells: list[int] = []
        for phandle in context.hart_controllers:
            cells += [phandle, _SOFTWARE_INTERRUPT, phandle, _TIMER_INTERRUPT]
        node.u32("interrupts-extended", *cells)
