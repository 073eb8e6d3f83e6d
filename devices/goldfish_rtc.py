"""Goldfish RTC: the time of day, and an alarm.

Problem: a guest asks once what time it is, in nanoseconds since 1970, through 32-bit registers; and
it may ask to be woken at such a time.

Invariants:
- The clock is injected, so a deterministic run has a deterministic date. Setting the time changes
  an offset only.
- Reading TIME_LOW latches TIME_HIGH: the two halves read one after the other belong together.
- The device has no thread. It tells the owner by `schedule` when the alarm is due, and the owner
  calls `poll` at that time or later; an alarm that is due fires once.
- The interrupt is up while an alarm has fired, is not cleared, and IRQ_ENABLED is 1.

Source: Android goldfish "GOLDFISH VIRTUAL HARDWARE", section VII; Linux ``rtc-goldfish.c``.
Read next: `clint` for the clock that guests use all the time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from devices.device import Irq, NodeContext, check_access

TIME_LOW = 0x00
TIME_HIGH = 0x04
ALARM_LOW = 0x08
ALARM_HIGH = 0x0C
IRQ_ENABLED = 0x10
CLEAR_ALARM = 0x14
ALARM_STATUS = 0x18
CLEAR_INTERRUPT = 0x1C

_MASK64 = (1 << 64) - 1
_LOW = 0xFFFFFFFF


@dataclass
class GoldfishRtcState:
    """Times are nanoseconds."""

    offset: int = 0
    """Guest's time minus the injected clock, modulo 2**64."""
    time_high: int = 0
    """What TIME_HIGH reads: latched by TIME_LOW."""
    alarm: int = 0
    """When the alarm fires, in guest's time."""
    alarm_high: int = 0
    """What was written to ALARM_HIGH, used by the next write of ALARM_LOW."""
    armed: bool = False
    pending: bool = False
    enabled: bool = False


def _ignore(_deadline: int | None) -> None:
    pass


class GoldfishRtc:
    """The device.

    `clock`: nanoseconds since 1970 (`time.time_ns`). `irq`: level. `schedule`: called with the time
    of `clock` at which `poll` shall be called, or None when no longer.
    """

    name = "goldfish-rtc"
    size = 0x1000

    def __init__(
        self,
        irq: Irq,
        clock: Callable[[], int],
        schedule: Callable[[int | None], None] = _ignore,
    ) -> None:
        self.state = GoldfishRtcState()
        self._irq = irq
        self._clock = clock
        self._schedule = schedule

    def reset(self) -> None:
        """No alarm. The time goes on as it was set: a real clock has a battery."""
        self.restore(GoldfishRtcState(offset=self.state.offset))

    def restore(self, state: GoldfishRtcState) -> None:
        """Continue from `state`; the interrupt and the schedule follow."""
        self.state = state
        self._arm(state.armed)
        self._update()

    def poll(self) -> None:
        """Fire the alarm if it is due."""
        state = self.state
        if state.armed and self._now() >= state.alarm:
            state.pending = True
            self._arm(False)
            self._update()

    def read(self, offset: int, size: int) -> int:
        """4 bytes only. Unused offsets read 0."""
        check_access(offset, size, (4,), write=False)
        state = self.state
        if offset == TIME_LOW:
            now = self._now()
            state.time_high = now >> 32
            return now & _LOW
        if offset == TIME_HIGH:
            return state.time_high
        if offset == ALARM_LOW:
            return state.alarm & _LOW
        if offset == ALARM_HIGH:
            return state.alarm >> 32
        if offset == IRQ_ENABLED:
            return int(state.enabled)
        if offset == ALARM_STATUS:
            self.poll()
            return int(state.armed)
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """4 bytes only. ALARM_LOW arms the alarm; one in the past fires at once."""
        check_access(offset, size, (4,), write=True)
        state = self.state
        value &= _LOW
        if offset == TIME_LOW:
            self._set_time(self._now() & ~_LOW | value)
        elif offset == TIME_HIGH:
            self._set_time(self._now() & _LOW | value << 32)
        elif offset == ALARM_LOW:
            state.alarm = state.alarm_high << 32 | value
            self._arm(True)
            self.poll()
        elif offset == ALARM_HIGH:
            state.alarm_high = value
        elif offset == IRQ_ENABLED:
            state.enabled = bool(value & 1)
            self._update()
        elif offset == CLEAR_ALARM:
            self._arm(False)
        elif offset == CLEAR_INTERRUPT:
            state.pending = False
            self._update()

    def describe(self, context: NodeContext) -> None:
        """``google,goldfish-rtc``."""
        context.node("rtc").string("compatible", "google,goldfish-rtc")

    def _now(self) -> int:
        return (self._clock() + self.state.offset) & _MASK64

    def _set_time(self, now: int) -> None:
        self.state.offset = (now - self._clock()) & _MASK64
        self._arm(self.state.armed)
        self.poll()

    def _arm(self, armed: bool) -> None:
        state = self.state
        state.armed = armed
        clock = self._clock()
        wait = max(0, state.alarm - (clock + state.offset & _MASK64))
        self._schedule(clock + wait if armed else None)

    def _update(self) -> None:
        self._irq(self.state.pending and self.state.enabled)
