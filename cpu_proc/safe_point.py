"""Safe points: work that needs every hart out of native code.

The problem: retirement of everything, a change of the memory map, a publication: each must happen
between two instructions of every hart, and none may wait for a hart that sleeps or for a device
that is being served.

How: anyone posts a piece of work (never blocking, from any thread, under any lock) and every hart
is called. A hart passes `enter` before it goes into native code; while there is work, it waits
there, and the last to arrive does the work. A hart that sleeps or serves an exit in Python counts
as out. Who needs the result asks `do`; who wants harts to stay out asks `hold`.

Invariants: work runs with no hart in native code, one piece after another in the order of posting,
on a hart's thread (on the caller's of `do` while no hart has a thread); `attention` is cleared
before the queue is looked at, so no call is lost. The gate's lock is never held while work runs,
so whoever posts, under whatever lock, waits for nobody.

Read next: `machine.py`, `host_api.py`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from cpu_proc.hart import Hart

Work = Callable[[], None]
T = TypeVar("T")

PATIENCE = 20.0  # seconds until a safe point that does not come is an error


class SafePoint:
    """The gate through which harts enter native code."""

    def __init__(self) -> None:
        self.harts: Sequence[Hart] = ()
        self._gate = threading.Condition()
        self._running = 0  # harts in native code
        self._parked = 0  # harts in `enter`
        self._threads: set[int] = set()  # harts' threads
        self._holds = 0
        self._working = False
        self._ended = False
        self._work: deque[tuple[Work, object]] = deque()  # with who asked for it
        self.whose: Callable[[], object] = lambda: None
        """Tells who is asking, to whom it is of interest later: `culprit.py`."""
        self.worker = 0  # the thread that does work at the moment
        self.asked: object = None  # and what `whose` told when it was posted
        self.called = time.monotonic()  # when the harts were called for what waits, or is done

    # --- from any thread -----------------------------------------------------------------------

    def post(self, work: Work) -> None:
        """Have `work` done at the next safe point."""
        if not self._work:
            self.called = time.monotonic()
        self._work.append((work, self.whose()))
        self.call_all()
        with self._gate:
            self._gate.notify_all()  # harts that are held do it at once

    def call_all(self) -> None:
        """Have every hart come out, without work."""
        for hart in self.harts:
            hart.call()

    def do(self, work: Callable[[], T], seconds: float = PATIENCE) -> T:
        """Have `work` done at the next safe point, and wait for it: its result, or what it raised.

        Not from a hart's thread, which would wait for itself (RuntimeError), nor holding a lock
        that work may want. TimeoutError after `seconds`; then the work is not done any more, unless
        it has begun.
        """
        if threading.get_ident() in self._threads:
            raise RuntimeError("a hart's thread cannot wait for a safe point: post the work")
        results: list[T] = []
        errors: list[BaseException] = []

        def carry_out() -> None:
            try:
                results.append(work())
            except BaseException as error:
                errors.append(error)

        self.post(carry_out)
        deadline = time.monotonic() + seconds
        with self._gate:
            while not results and not errors:
                if not self._threads and not self._running and not self._working:
                    self._do_all()
                elif not self._gate.wait(max(0.0, deadline - time.monotonic())):
                    waiting = [item for item in self._work if item[0] is carry_out]
                    if waiting:
                        self._work.remove(waiting[0])
                        raise TimeoutError(f"no safe point within {seconds} s")
                    if time.monotonic() > deadline + seconds:
                        raise TimeoutError(f"work at a safe point takes more than {seconds} s")
                    deadline += 0.1  # it has begun: its end is near
        if errors:
            raise errors[0]
        return results[0]

    def hold(self, seconds: float = PATIENCE) -> None:
        """Keep harts out of native code until `release`; returns when all have come to the gate.

        TimeoutError, and nothing is held, if one does not come within `seconds`.
        """
        if threading.get_ident() in self._threads:
            raise RuntimeError("a hart's thread cannot wait for harts to stop")
        with self._gate:
            self._holds += 1
        self.call_all()
        with self._gate:
            if not self._gate.wait_for(self._all_parked, seconds):
                self._holds -= 1
                self._gate.notify_all()
                raise TimeoutError(f"a hart did not stop within {seconds} s")

    def release(self) -> None:
        """Undo one `hold`. RuntimeError if nobody holds."""
        with self._gate:
            if not self._holds:
                raise RuntimeError("no hart is held")
            self._holds -= 1
            self._gate.notify_all()

    @property
    def held(self) -> bool:
        """Whether harts are kept out of native code."""
        return self._holds > 0

    def end(self) -> None:
        """Harts are to end: nobody is held any more."""
        with self._gate:
            self._ended = True
            self._gate.notify_all()
        self.call_all()

    # --- from a hart's thread ------------------------------------------------------------------

    def join(self) -> None:
        """The calling thread is a hart's from now on."""
        with self._gate:
            self._threads.add(threading.get_ident())

    def part(self) -> None:
        """It is none any more."""
        with self._gate:
            self._threads.discard(threading.get_ident())
            self._gate.notify_all()

    def enter(self, hart: Hart) -> None:
        """Go into native code as soon as no work waits and nobody holds."""
        with self._gate:
            self._parked += 1
            try:
                self._gate.notify_all()
                while True:
                    if self._working:  # it may be a step of this very hart, which calls it
                        self._gate.wait()
                        continue
                    hart.state.attention = 0
                    if self._work and not self._running:
                        self._do_all()
                    elif self._work or (self._holds and not self._ended):
                        self._gate.wait()
                    else:
                        break
                self._running += 1
            finally:
                self._parked -= 1

    def leave(self) -> None:
        """The hart is out of native code."""
        with self._gate:
            self._running -= 1
            if self._running == 0:
                self._gate.notify_all()

    # --- parts: the gate's lock is held ----------------------------------------------------------

    def _all_parked(self) -> bool:
        return self._parked == len(self._threads) and not self._running and not self._working

    def _do_all(self) -> None:
        self._working = True
        self._gate.release()
        self.worker = threading.get_ident()
        try:
            while self._work:
                work, self.asked = self._work.popleft()
                work()
        finally:
            self.worker, self.asked = 0, None
            self._gate.acquire()
            self._working = False
            self._gate.notify_all()
