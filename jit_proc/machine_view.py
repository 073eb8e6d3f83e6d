"""What the translator sees of one machine: its memory and its counters, for reading only.

The problem: the guest writes its memory while the translator reads it. Bytes are only worth
anything together with the counters that say they have not changed since the machine asked.

Invariants:

- `read_page` gives bytes only if the map and page generations, and the epoch, were those of the
  request both before and after the copy (a sequence lock whose writer never waits). A write between
  the two looks moves the page's generation, or went to a line that nobody tracks: then the machine
  finds out by the bytes' identity before it publishes.
- Nothing here writes, and nothing the machine wrote is used as an offset unchecked.

On x86-64 loads of one CPU are seen in order (Intel SDM volume 3, section 9.2), and a plain copy is
between the two looks; Python adds no reordering of its own.

Read next: `protocol/layout.py` (the ctrl segment), `protocol/generations.py` (what the counters
mean), `code_space.py` (`open_readonly`).
"""

from __future__ import annotations

import contextlib
import struct

from jit_proc.code_space import open_readonly
from protocol.generations import Now, Stamp
from protocol.layout import CONTROL, HART, PAGE, PAGE_SIZE
from protocol.messages import Attach
from protocol.reading import Reader
from protocol.reading import Unreadable as Unreadable


class MachineView:
    """The mapped segments of one machine."""

    def __init__(self, attach: Attach) -> None:
        """Map what ATTACH offers. Raises OSError or ValueError, with a line that says what is
        wrong.
        """
        with contextlib.ExitStack() as undo:
            self._ram = open_readonly(attach.ram.path, attach.ram.size)
            undo.callback(self._ram.close)
            self._ctrl = open_readonly(attach.ctrl.path, attach.ctrl.size)
            undo.callback(self._ctrl.close)
            self._pages = self._ctrl.word(CONTROL.offset("pages"))
            self.page_count = self._ctrl.word(CONTROL.offset("page_count"))
            end = self._pages + self.page_count * PAGE.size
            if self._pages < CONTROL.size or end > self._ctrl.size:
                raise ValueError(
                    f"the ctrl segment of {self._ctrl.size} bytes has no room for"
                    f" {self.page_count} page descriptors at {self._pages:#x}"
                )
            if self.page_count * PAGE_SIZE > self._ram.size:
                raise ValueError(
                    f"{self.page_count} pages are described, the RAM segment has"
                    f" {self._ram.size // PAGE_SIZE}"
                )
            self._reader = Reader(self.now, self._copy)
            undo.pop_all()

    def now(self, page: int) -> Now:
        """The counters as they are, in the order in which the machine's writers move them."""
        generation = self._pages + page * PAGE.size + PAGE.offset("generation")
        return Now(
            self._ctrl.word(CONTROL.offset("epoch")),
            self._ctrl.word(CONTROL.offset("map_generation")),
            self._ctrl.word(generation),
        )

    def read_page(self, stamp: Stamp) -> bytes:
        """The page's 4096 bytes, if they are still those the stamp is about.

        Raises Unreadable: "not_backed" for a page that is not the machine's, "stale_epoch" or
        "bytes_moved" for counters that moved.
        """
        if stamp.page >= self.page_count:
            raise Unreadable("not_backed", f"page {stamp.page} of {self.page_count}")
        return self._reader.read(stamp)

    def confirm(self, stamp: Stamp) -> Stamp:
        """The stamp that an answer may carry. Raises Unreadable if a counter has moved."""
        return self._reader.confirm(stamp)

    def registers(self) -> tuple[int, ...]:
        """What the first hart's integer registers held a moment ago, more or less: it runs on."""
        hart = self._ctrl.word(CONTROL.offset("harts")) + HART.offset("x")
        try:
            raw = self._ctrl.read(hart, 32 * 8)
        except ValueError:  # the machine says nonsense; these are hints
            return ()
        return tuple(sorted({*struct.unpack("<32Q", raw)}))

    def _copy(self, page: int) -> bytes:
        return self._ram.read(page * PAGE_SIZE, PAGE_SIZE)

    def close(self) -> None:
        """Unmap both segments."""
        self._ram.close()
        self._ctrl.close()
