"""What an I/O loop needs beside its sockets: to be woken by other threads, and deadlines.

Invariants: `Mailbox.put` alone may be called by any thread; whoever puts bounds what may be under
way.

Read next: `protocol.transport`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """A queue into an I/O loop: any thread puts, the loop polls `fileno()` and takes all.

    Unbounded: whoever puts bounds what may be under way.
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def put(self, item: T) -> None:
        """Append an item and wake the loop. Safe from any thread."""
        self._items.append(item)
        os.eventfd_write(self._fd, 1)

    def take_all(self) -> list[T]:
        """All items put so far, oldest first. Only for the loop's thread."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)
        items = []
        while self._items:
            items.append(self._items.popleft())
        return items

    def fileno(self) -> int:
        """Readable while there may be items."""
        return self._fd

    def close(self) -> None:
        """Give the descriptor back; no `put` may follow."""
        os.close(self._fd)


class Bell:
    """Ends a loop's wait, for a signal too that comes just before it.

    Python runs a signal's handler between two of its own instructions. What comes while the process
    is on its way into a wait would be heard after the wait: so the C part of each handler writes
    here (Python library, signal.set_wakeup_fd).
    """

    def __init__(self) -> None:
        self._fd, self._end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def hear_signals(self) -> None:
        """Ring for each signal that has a handler of Python's. Only for the main thread."""
        signal.set_wakeup_fd(self._end, warn_on_full_buffer=False)

    def ring(self) -> None:
        """End the wait, and each that follows until `quiet`. Safe from any thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._end, b"\0")

    def quiet(self) -> None:
        """Let the loop wait again. Only for the loop's thread, after its wait."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._fd, 4096)

    def fileno(self) -> int:
        """Readable once it has rung."""
        return self._fd

    def close(self) -> None:
        """Give the descriptors back."""
        with contextlib.suppress(ValueError):  # another thread than the main one: it never heard
            if (heard := signal.set_wakeup_fd(-1)) != self._end:
                signal.set_wakeup_fd(heard)
        os.close(self._end)
        os.close(self._fd)


class Timers:
    """Named deadlines for SetTimer and CancelTimer. Setting one again moves it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deadlines: dict[str, float] = {}

    def set(self, name: str, seconds: float) -> None:
        """Let `name` be due in `seconds`."""
        self._deadlines[name] = self._clock() + seconds

    def cancel(self, name: str) -> None:
        """Forget `name`; it need not be set."""
        self._deadlines.pop(name, None)

    def due(self) -> list[str]:
        """The names whose time has come, earliest first; each is told once."""
        now = self._clock()
        names = sorted((at, name) for name, at in self._deadlines.items() if at <= now)
        for _, name in names:
            del self._deadlines[name]
        return [name for _, name in names]

    def wait(self, limit: float) -> float:
        """Seconds until the next deadline, 0 to `limit`: the timeout for `poll`."""
        if not self._deadlines:
            return limit
        return min(limit, max(0.0, min(self._deadlines.values()) - self._clock()))
