"""The machine's two segments: guest memory, and the words that native code and translator watch.

`GuestMemory` holds the bytes of every backing (RAM, ROMs) one after the other, so that one page
index names one page of the machine. `ControlSegment` holds `layout.CONTROL`, the harts and the page
descriptors. Both are written here and mapped read-only by the translator.

Read next: `records.py` (what hangs on a page descriptor), `hart.py`.
"""

from __future__ import annotations

import ctypes

from cpu_proc import native
from cpu_proc.memory_map import Backing
from protocol.layout import CONTROL, HART, PAGE, PAGE_SIZE


class GuestMemory:
    """The ram segment: all backings."""

    def __init__(self, sizes: dict[str, int], segment: native.SharedSegment | None = None) -> None:
        """`sizes`: backing name -> bytes, whole pages. `segment`: one as large as all of them."""
        self.segment = segment or native.SharedSegment("ram", sum(sizes.values()))
        self.backings: dict[str, Backing] = {}
        offset = 0
        for name, size in sizes.items():
            view = native.view(self.segment.address + offset, size)
            self.backings[name] = Backing(name, view, offset // PAGE_SIZE)
            offset += size

    @property
    def page_count(self) -> int:
        return self.segment.size // PAGE_SIZE

    def page_bytes(self, page: int) -> memoryview:
        """The bytes of one page by its index."""
        return native.view(self.segment.address + page * PAGE_SIZE, PAGE_SIZE)


class ControlSegment:
    """The ctrl segment."""

    def __init__(self, harts: int, pages: int) -> None:
        stride = -(-HART.size // native.PAGE) * native.PAGE
        harts_at = native.PAGE
        pages_at = harts_at + harts * stride
        self.segment = native.SharedSegment("ctrl", pages_at + pages * PAGE.size)
        base = self.segment.address
        self.words = CONTROL.ctype.from_address(base)
        self.words.pages = pages_at
        self.words.page_count = pages
        self.words.harts = harts_at
        self.words.hart_stride = stride
        self.words.hart_count = harts
        self.pages_address = base + pages_at
        self.page_count = pages
        self.pages = native.words(self.pages_address, pages * PAGE.size // 8)
        self.hart_addresses = [base + harts_at + i * stride for i in range(harts)]

    def hart(self, index: int) -> ctypes.Structure:
        """A view of one hart's structure."""
        return HART.ctype.from_address(self.hart_addresses[index])
