"""The split virtqueue: how a driver gives buffers to a device, and how it gets them back.

Problem: the rings are in guest memory, so every index, address and link in them is whatever a guest
wrote there, by mistake or on purpose, and may change while we look.

Invariants:
- Each thing is read once and checked once. What is wrong is a `QueueError` (the transport then sets
  DEVICE_NEEDS_RESET); an address that is not memory is an `AccessFault`, treated the same.
- Every walk is bounded: by the table's length, by `MAX_DESCRIPTORS` and `MAX_BYTES` a chain, by
  `MAX_CHAINS` a notification. A loop of descriptors ends.
- A used element is written before the used index that tells of it.
- The legacy layout differs only in where the three parts lie (`set_legacy_ring`).

Source: Virtual I/O Device (VIRTIO) Version 1.2, sections 2.6, 2.7 and their legacy notes.
Read next: `mmio` for who sets queues up, `rng` for the smallest use of one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from devices.device import GuestMemory

F_INDIRECT_DESC = 1 << 28
F_EVENT_IDX = 1 << 29

DESC_NEXT, DESC_WRITE, DESC_INDIRECT = 1, 2, 4
AVAIL_NO_INTERRUPT = 1

MAX_SIZE = 1024
"""The largest queue offered by any device here, in descriptors."""
MAX_DESCRIPTORS = 1024
"""Of one chain, indirect tables included."""
MAX_BYTES = 1 << 32
"""Of one chain (section 2.7.5)."""
MAX_CHAINS = 1 << 16
"""Served in one go; only a guest that makes a device write into its own ring gets there."""

_DESCRIPTOR = struct.Struct("<QIHH")
_USED = struct.Struct("<II")

Segment = tuple[int, int]
"""Guest-physical address and length in bytes (not 0) of a piece of a buffer."""


class QueueError(Exception):
    """The driver broke the rules of the ring; the text says which."""


@dataclass
class QueueState:
    """Addresses are guest-physical; indices are modulo 2**16 as in the rings."""

    size: int = 0
    """Descriptors: a power of two when `ready`."""
    ready: bool = False
    descriptors: int = 0
    available: int = 0
    used: int = 0
    next_available: int = 0
    next_used: int = 0
    signalled_used: int = 0
    """`next_used` when the driver was last considered for an interrupt."""
    align: int = 0
    """Legacy: QueueAlign, bytes."""
    page: int = 0
    """Legacy: QueuePFN as written."""


class Chain:
    """One buffer of the driver: first what the device may read, then what it may write."""

    __slots__ = ("_memory", "head", "readable", "readable_length", "writable", "writable_length")

    def __init__(
        self, memory: GuestMemory, head: int, readable: list[Segment], writable: list[Segment]
    ) -> None:
        self._memory = memory
        self.head = head
        self.readable = readable
        self.writable = writable
        self.readable_length = sum(length for _, length in readable)
        self.writable_length = sum(length for _, length in writable)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the readable part; fewer at its end."""
        pieces = _pieces(self.readable, offset, length)
        return b"".join([self._memory.read(address, size) for address, size in pieces])

    def write(self, offset: int, data: bytes) -> None:
        """Store into the writable part. Raises `QueueError` if it has no room for that."""
        if offset + len(data) > self.writable_length:
            raise QueueError(f"a buffer of {self.writable_length} bytes is too small")
        done = 0
        for address, size in _pieces(self.writable, offset, len(data)):
            self._memory.write(address, data[done : done + size])
            done += size


class VirtQueue:
    """One queue of a device. `maximum`: the most descriptors a driver may ask for."""

    def __init__(self, memory: GuestMemory, maximum: int) -> None:
        if maximum & (maximum - 1) or not 1 <= maximum <= MAX_SIZE:
            raise ValueError(f"a queue has a power of two of descriptors, at most {MAX_SIZE}")
        self.maximum = maximum
        self.state = QueueState()
        self.features = 0
        """What the driver accepted; set by the transport."""
        self._memory = memory

    def set_legacy_ring(self, page: int, page_size: int, align: int) -> None:
        """Place the ring at ``page * page_size``, in the layout of section 2.7.2, and enable it.

        Page 0 takes the queue out of use. Raises `QueueError` for a size, page size or alignment
        that cannot be.
        """
        state = self.state
        state.page = page
        state.ready = False
        if page == 0:
            return
        for what, size in (("page size", page_size), ("alignment", align)):
            if not size or size & (size - 1):
                raise QueueError(f"{what} {size:#x} is no power of two")
        state.descriptors = page * page_size
        state.available = state.descriptors + 16 * state.size
        used = state.available + 6 + 2 * state.size
        state.used = (used + align - 1) & ~(align - 1)
        self.enable()

    def enable(self) -> None:
        """Make the queue ready. Raises `QueueError` for an impossible size or alignment."""
        state = self.state
        size = state.size
        if size & (size - 1) or not 1 <= size <= self.maximum:
            raise QueueError(f"queue size {size} is no power of two up to {self.maximum}")
        if state.descriptors % 16 or state.available % 2 or state.used % 4:
            raise QueueError("a part of the ring is not aligned")
        state.next_available = state.next_used = state.signalled_used = 0
        state.ready = True

    def chains(self) -> Iterator[Chain]:
        """What the driver has made available, in order; each is to be given back by `push`."""
        for _ in range(MAX_CHAINS):
            chain = self._pop()
            if chain is None:
                return
            yield chain
        raise QueueError(f"more than {MAX_CHAINS} buffers in one go")

    def push(self, chain: Chain, written: int) -> None:
        """Give a chain back; `written` bytes of its writable part were filled, from its start."""
        state = self.state
        slot = state.used + 4 + 8 * (state.next_used & (state.size - 1))
        self._memory.write(slot, _USED.pack(chain.head, written & 0xFFFFFFFF))
        state.next_used = (state.next_used + 1) & 0xFFFF
        self._memory.write(state.used + 2, state.next_used.to_bytes(2, "little"))

    def take_signal(self) -> bool:
        """Whether the driver wants an interrupt for what was pushed since the last call."""
        state = self.state
        old, new = state.signalled_used, state.next_used
        if old == new:
            return False
        state.signalled_used = new
        if self.features & F_EVENT_IDX:
            event = self._u16(state.available + 4 + 2 * state.size)
            return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF
        return not self._u16(state.available) & AVAIL_NO_INTERRUPT

    def _pop(self) -> Chain | None:
        state = self.state
        if not state.ready:
            return None
        index = self._u16(state.available + 2)
        if index == state.next_available:
            if not self.features & F_EVENT_IDX:
                return None
            # Ask for a notification, then look again: another hart may have added meanwhile.
            event = state.used + 4 + 8 * state.size
            self._memory.write(event, state.next_available.to_bytes(2, "little"))
            index = self._u16(state.available + 2)
            if index == state.next_available:
                return None
        if (index - state.next_available) & 0xFFFF > state.size:
            raise QueueError(f"available index {index} is beyond the ring")
        slot = state.available + 4 + 2 * (state.next_available & (state.size - 1))
        chain = self._walk(self._u16(slot))
        state.next_available = (state.next_available + 1) & 0xFFFF
        return chain

    def _walk(self, head: int) -> Chain:
        """Follow a chain of descriptors (section 2.7.5, indirect ones 2.7.5.3)."""
        table, count, index = self.state.descriptors, self.state.size, head
        readable: list[Segment] = []
        writable: list[Segment] = []
        indirect = False
        total = 0
        for _ in range(MAX_DESCRIPTORS):
            if index >= count:
                raise QueueError(f"descriptor {index} of a table of {count}")
            raw = self._memory.read(table + 16 * index, 16)
            address, length, flags, following = _DESCRIPTOR.unpack(raw)
            if flags & DESC_INDIRECT:
                if indirect or flags & DESC_NEXT or not self.features & F_INDIRECT_DESC:
                    raise QueueError("an indirect descriptor where none may be")
                if length % 16 or not length:
                    raise QueueError(f"an indirect table of {length} bytes")
                table, count, index, indirect = address, length // 16, 0, True
                continue
            total += length
            if total > MAX_BYTES:
                raise QueueError(f"a buffer of more than {MAX_BYTES} bytes")
            if flags & DESC_WRITE:
                if length:
                    writable.append((address, length))
            elif writable:
                raise QueueError("a readable descriptor after a writable one")
            elif length:
                readable.append((address, length))
            if not flags & DESC_NEXT:
                return Chain(self._memory, head, readable, writable)
            index = following
        raise QueueError(f"a chain of more than {MAX_DESCRIPTORS} descriptors, or a loop")

    def _u16(self, address: int) -> int:
        return int.from_bytes(self._memory.read(address, 2), "little")


def _pieces(segments: list[Segment], offset: int, length: int) -> Iterator[Segment]:
    """The parts of `segments` that hold bytes `offset` to `offset + length` of them all."""
    for address, size in segments:
        if length <= 0:
            return
        if offset >= size:
            offset -= size
            continue
        part = min(size - offset, length)
        yield address + offset, part
        length -= part
        offset = 0
