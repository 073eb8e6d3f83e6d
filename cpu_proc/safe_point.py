"""Safe points: work that needs every hart out of native code.

The problem: retirement of everything, a change of the memory map, a publication: each must happen
between two instructions of every hart, and none may wait for a hart that sleeps or for a device
that is being served.

How: anyone posts a piece of work (never blocking, from any thread, under any lock) and every hart
is called. A hart passes `enter` before it goes into native code; while there is work, it waits
there, and the last to arrive does the work. A hart that sleeps or serves an exit in Python counts
as out.

Invariants: work runs with no hart in native code, one piece after another in the order of posting,
on a hart's thread; `attention` is cleared before the queue is looked at, so no call is lost.

Read next: `machine.py`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cpu_proc.hart import Hart

Work = Callable[[], None]


class SafePoint:
    """The gate through which harts enter native code."""

    def __init__(self) -> None:
        self.harts: Sequence[Hart] = ()
        self._gate = threading.Condition()
        self._running = 0
        self._work: deque[Work] = deque()

    def post(self, work: Work) -> None:
        """Have `work` done at the next safe point."""
        self._work.append(work)
        for hart in self.harts:
            hart.call()

    def call_all(self) -> None:
        """Have every hart come out, without work."""
        for hart in self.harts:
            hart.call()

    def enter(self, hart: Hart) -> None:
        """Go into native code as soon as no work waits."""
        with self._gate:
            while True:
                hart.state.attention = 0
                if not self._work:
                    break
                if self._running == 0:
                    while self._work:
                        self._work.popleft()()
                    self._gate.notify_all()
                else:
                    self._gate.wait()
            self._running += 1

    def leave(self) -> None:
        """The hart is out of native code."""
        with self._gate:
            self._running -= 1
            if self._running == 0 and self._work:
                self._gate.notify_all()
