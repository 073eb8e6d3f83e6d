"""How the translator reads a page that its machine may write at any moment.

Problem: bytes are only worth anything together with the counters that say they are those a request
is about. The translator has no lock on the machine's memory, so it looks at the counters before and
after it copies, and once more before it answers: a sequence lock whose writer never waits.

Invariants:
- Bytes are handed out only if no counter of the stamp had moved before or behind the copy.
- Nothing is kept from one reading to the next.

Read next: `jit_proc/machine_view.py` and the simulator, which give it counters and bytes to read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from protocol.fields import RejectReason
from protocol.generations import Now, Stamp, stale_reason
from protocol.mutants import armed


class Unreadable(Exception):
    """The bytes that a request is about cannot be had; `reason` is the answer to it."""

    def __init__(self, reason: RejectReason, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason: RejectReason = reason
        self.text = text


class Reader:
    """Reads pages of one machine. `now(page)`: its counters; `copy(page)`: its bytes."""

    def __init__(self, now: Callable[[int], Now], copy: Callable[[int], bytes]) -> None:
        self._now = now
        self._copy = copy
        self._kept: dict[int, bytes] = {}  # M21 alone fills it

    def read(self, stamp: Stamp) -> bytes:
        """The page's bytes, if they are those the stamp is about. Raises Unreadable."""
        self._check(stamp)
        content = self._copy(stamp.page)
        self._check(stamp)
        if armed("M21"):
            return self._kept.setdefault(stamp.page, content)
        return content

    def confirm(self, stamp: Stamp) -> Stamp:
        """The stamp that an answer made from bytes read before may carry. Raises Unreadable."""
        if armed("M47"):
            now = self._now(stamp.page)
            return replace(
                stamp, map_generation=now.map_generation, page_generation=now.page_generation
            )
        if not (armed("M31") or armed("M42")):
            self._check(stamp)
        return stamp

    def _check(self, stamp: Stamp) -> None:
        moved = stale_reason(stamp, self._now(stamp.page))
        if moved is not None:
            raise Unreadable("stale_epoch" if moved == "epoch" else "bytes_moved", f"{moved} moved")
