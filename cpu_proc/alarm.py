"""An alarm at a point of the machine's time: a device is woken when mtime gets there.

Problem: with the host's clock a thread can wait for it; with counted time there is no thread to
ask: time stands still while hart 0 does, leaps when it sleeps, and a deadline must come at the same
instruction in every run.

How: with the host's clock a timer's thread looks, under the machine's lock. With counted time hart
0's `stop_count` is the count at which mtime gets there; as sleeping moves the relation of the two,
it is set anew after each sleep, and hart 0 sleeps no further than the alarm.

Invariant: `ring` is called under the machine's lock, never before its time; it may set the alarm.

Read next: `devices/watchdog.py`, `hart.py` (`sleep`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from cpu_proc.hart import NEVER, TICK_NS

if TYPE_CHECKING:
    from cpu_proc.machine import Machine


class Alarm:
    """The alarm of one device."""

    def __init__(self, machine: Machine, ring: Callable[[], None]) -> None:
        self._machine = machine
        self._hart = machine.harts[0]
        self._ring = ring
        self._counted = machine.options.icount is not None
        self._when: int | None = None
        self._timer: threading.Timer | None = None
        self._timer_at = NEVER

    def set(self, when: int | None) -> None:
        """Ring at this mtime, or not at all. The machine's lock is held."""
        self._when = when
        if self._counted:
            self._count()
        elif when is None:
            self.close()
        elif self._timer is None or when < self._timer_at:
            self.close()
            self._timer_at = when
            seconds = max(0, when - self._hart.now()) * TICK_NS / 1e9
            self._timer = threading.Timer(seconds, self._over)
            self._timer.daemon = True
            self._timer.name = "watchdog"
            self._timer.start()
        # Else a timer looks earlier, and then waits for the rest.

    def look(self) -> None:
        """Ring if it is time; the clock may have leapt. Takes the machine's lock."""
        with self._machine.lock:
            if self._when is None:
                return
            if self._hart.now() >= self._when:
                self._when = None
                self._count()
                self._ring()
            else:
                self.set(self._when)

    def close(self) -> None:
        """End the timer."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _over(self) -> None:
        with self._machine.lock:
            if threading.current_thread() is self._timer:
                self._timer = None
                self.look()

    def _count(self) -> None:
        """Have hart 0 leave at the count at which its mtime is there."""
        if not self._counted:
            return
        state = self._hart.state
        stop = self._machine.options.max_instructions or NEVER
        self._hart.alarm = NEVER if self._when is None else self._when
        if self._when is not None:
            # After a reset mtime began anew: the offset is what 64 bits leave of a negative one.
            ticks = self._when - int(state.time_offset) & NEVER
            stop = min(stop, -(-ticks * TICK_NS // int(state.icount)))
        state.stop_count = stop
        state.limit = 0
