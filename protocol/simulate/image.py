"""Simulated code: an image says which bytes, page and backend it was made from.

Running it is reading it: what it was made from is compared with what is there now. An image that is
not all there, or an offset where none stands, is what a processor would choke on.

Read next: `machine.py` (who runs images), `translator.py` (who makes them).
"""

from __future__ import annotations

from typing import NamedTuple

from protocol.generations import Epoch
from protocol.messages import Segment
from protocol.placement import Placement

SIZE = 64
SLOTS = 4
PAGE_BYTES = 2 * SLOTS
_HEAD, _TAIL = 0xF3, 0xC3

ILLEGAL = 0
"""The value of a page's halfwords that is no instruction."""


def content_of(value: int) -> bytes:
    """A page's bytes: every halfword holds the value."""
    return value.to_bytes(2, "little") * SLOTS


class Image(NamedTuple):
    """What a piece of code was made from."""

    page: int
    content: bytes
    backend: int

    def encode(self) -> bytes:
        body = bytes((_HEAD, self.page, self.backend)) + self.content
        return body.ljust(SIZE - 1, b"\x90") + bytes((_TAIL,))


class CodeSegment:
    """A code segment: memory that one side writes and the other one executes."""

    def __init__(self, segment: Segment, epoch: Epoch, room: int) -> None:
        self.segment = segment
        self.epoch = epoch
        self.placement = Placement(room * SIZE)
        self.memory = bytearray(room * SIZE)
        self.closed = False

    def publish(self, code: bytes) -> int:
        """Write an image; its offset. Raises CodeSpaceFull."""
        offset, writes = self.placement.place(code)
        for start, data in writes:
            self.memory[start : start + len(data)] = data
        return offset

    def run(self, offset: int) -> Image | None:
        """What stands there; None if it is not a complete image."""
        base = offset - offset % SIZE
        code = self.memory[base : base + SIZE]
        if len(code) != SIZE or code[0] != _HEAD or code[-1] != _TAIL:
            return None
        return Image(code[1], bytes(code[3 : 3 + PAGE_BYTES]), code[2])
