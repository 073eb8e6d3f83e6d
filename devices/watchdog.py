"""A watchdog: resets the system unless the guest says in time that it is alive.

Problem: a guest that hangs should come back by itself, and a reset that nobody in the guest asked
for is the hardest one for whoever keeps anything derived from its memory.

Modelled on Synopsys DesignWare's watchdog, for which Linux has a driver (``dw_wdt``). Registers,
4 bytes each, little endian; others read 0 and ignore writes:

| offset | name | access | |
| --- | --- | --- | --- |
| 0x00 | CR | read, write | bit 0: enable, until reset; bit 1: interrupt first, reset second |
| 0x04 | TORR | read, write | bits 0 to 3: t, a period of 2**(16 + t) ticks |
| 0x08 | CCVR | read | ticks left |
| 0x0c | CRR | write | 0x76 starts the period again |
| 0x10 | STAT | read | bit 0: interrupt pending |
| 0x14 | EOI | read | clears the interrupt |
| 0xfc | COMP_TYPE | read | 0x44570120 |

Invariants: a tick is 100 ns of the machine's time (mtime), so with counted time the end of a period
is exact. When a period ends: with bit 1 of CR and no interrupt pending, the interrupt is raised and
another period begins; otherwise the system is reset. A new TORR counts from the next start.

Source: Linux, ``drivers/watchdog/dw_wdt.c`` and its binding ``snps,dw-wdt.yaml``.
Read next: `cpu_proc/alarm.py` (who wakes it), `device` (what becomes of a request).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from devices.device import Irq, NodeContext, Request, Reset, check_access

CR, TORR, CCVR, CRR, STAT, EOI, COMP_TYPE = 0x00, 0x04, 0x08, 0x0C, 0x10, 0x14, 0xFC
ENABLE, INTERRUPT_FIRST = 1, 2
RESTART = 0x76
IDENTITY = 0x4457_0120
CLOCK_HZ = 10_000_000


@dataclass
class WatchdogState:
    """`deadline`: mtime at which the period ends, while enabled."""

    control: int = 0
    timeout: int = 0
    deadline: int = 0
    pending: bool = False


class Watchdog:
    """The device. `now()`: mtime. `set_alarm(when)`: have `poll` called at that mtime, or never."""

    name = "watchdog"
    size = 0x1000

    def __init__(
        self,
        irq: Irq,
        now: Callable[[], int],
        set_alarm: Callable[[int | None], None],
        request: Callable[[Request], None],
    ) -> None:
        self.state = WatchdogState()
        self._irq = irq
        self._now = now
        self._set_alarm = set_alarm
        self._request = request

    def reset(self) -> None:
        """Off."""
        self.restore(WatchdogState())

    def restore(self, state: WatchdogState) -> None:
        """Continue from `state`; the alarm and the interrupt follow."""
        self.state = state
        self._set_alarm(state.deadline if state.control & ENABLE else None)
        self._irq(state.pending)

    def poll(self) -> None:
        """See whether the period is over."""
        state = self.state
        if not state.control & ENABLE:
            return
        if self._now() < state.deadline:
            self._set_alarm(state.deadline)
        elif state.control & INTERRUPT_FIRST and not state.pending:
            state.pending = True
            self._irq(True)
            self._start()
        else:
            self._set_alarm(None)
            self._request(Reset())

    def read(self, offset: int, size: int) -> int:
        """4 bytes."""
        check_access(offset, size, (4,), write=False)
        state = self.state
        if offset == CCVR and state.control & ENABLE:
            return max(0, state.deadline - self._now())
        if offset == EOI:
            state.pending = False
            self._irq(False)
        known = {CR: state.control, TORR: state.timeout, STAT: int(state.pending)}
        return known.get(offset, IDENTITY if offset == COMP_TYPE else 0)

    def write(self, offset: int, size: int, value: int) -> None:
        """4 bytes."""
        check_access(offset, size, (4,), write=True)
        state = self.state
        if offset == CR:
            started = value & ENABLE and not state.control & ENABLE
            state.control = value & (ENABLE | INTERRUPT_FIRST) | state.control & ENABLE
            if started:
                self._start()
        elif offset == TORR:
            state.timeout = value & 0xF
        elif offset == CRR and value & 0xFF == RESTART and state.control & ENABLE:
            state.pending = False
            self._irq(False)
            self._start()

    def _start(self) -> None:
        self.state.deadline = self._now() + (1 << 16 + self.state.timeout)
        self._set_alarm(self.state.deadline)

    def describe(self, context: NodeContext) -> None:
        """``watchdog``, and the clock that it counts."""
        clock = context.root.node("watchdog-clock")
        clock.string("compatible", "fixed-clock")
        clock.u32("#clock-cells", 0)
        clock.u32("clock-frequency", CLOCK_HZ)
        node = context.node("watchdog")
        node.string("compatible", "snps,dw-wdt")
        node.u32("clocks", clock.phandle)
