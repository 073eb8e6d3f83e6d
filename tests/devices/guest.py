"""What stands around a device in these tests: guest memory, an interrupt line, a virtio driver.

The driver does what Linux's does, register by register, so a test says what a guest would do.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from devices.device import AccessFault
from devices.virtio import mmio
from devices.virtio.mmio import VirtioMmio
from devices.virtio.queue import DESC_INDIRECT, DESC_NEXT, DESC_WRITE, F_EVENT_IDX

RAM = 0x8000_0000


class Memory:
    """RAM at `RAM`, nothing elsewhere."""

    def __init__(self, size: int = 4 << 20) -> None:
        self.ram = bytearray(size)

    def read(self, address: int, length: int) -> bytes:
        at = self._at(address, length, write=False)
        return bytes(self.ram[at : at + length])

    def write(self, address: int, data: bytes) -> None:
        at = self._at(address, len(data), write=True)
        self.ram[at : at + len(data)] = data

    def _at(self, address: int, length: int, *, write: bool) -> int:
        at = address - RAM
        if not 0 <= at <= at + length <= len(self.ram):
            raise AccessFault(address, length, write=write)
        return at


@dataclass
class Line:
    """An interrupt line that remembers how often it rose."""

    level: bool = False
    rises: int = 0

    def __call__(self, level: bool) -> None:
        self.rises += level and not self.level
        self.level = level


@dataclass
class Slot:
    """A virtio slot, its line, and memory."""

    device: VirtioMmio
    line: Line
    memory: Memory

    def get(self, offset: int) -> int:
        return self.device.read(offset, 4)

    def set(self, offset: int, value: int) -> None:
        self.device.write(offset, 4, value)


@dataclass
class Buffer:
    """One descriptor: data for the device, or room for its answer."""

    data: bytes = b""
    room: int = 0


@dataclass
class Driver:
    """A guest's driver of one queue. `place`: where its ring and then its buffers go."""

    slot: Slot
    size: int = 8
    index: int = 0
    place: int = RAM + 0x1_0000
    features: int = 0
    available_index: int = 0
    seen_used: int = 0
    addresses: dict[int, list[int]] = field(default_factory=dict)
    """For each head, where its buffers are."""

    def start(self, wanted: int = (1 << 64) - 1) -> None:
        """Reset, agree on what is offered and `wanted`, set the queue up, go (section 3.1.1)."""
        slot = self.slot
        legacy = slot.device.legacy
        slot.set(mmio.STATUS, 0)
        slot.set(mmio.STATUS, mmio.ACKNOWLEDGE)
        slot.set(mmio.STATUS, mmio.ACKNOWLEDGE | mmio.DRIVER)
        for sel in range(1 if legacy else 2):
            slot.set(mmio.DEVICE_FEATURES_SEL, sel)
            word = slot.get(mmio.DEVICE_FEATURES) & (wanted >> 32 * sel)
            self.features |= word << 32 * sel
            slot.set(mmio.DRIVER_FEATURES_SEL, sel)
            slot.set(mmio.DRIVER_FEATURES, word)
        ready = mmio.ACKNOWLEDGE | mmio.DRIVER
        if not legacy:
            ready |= mmio.FEATURES_OK
            slot.set(mmio.STATUS, ready)
            assert slot.get(mmio.STATUS) == ready
        self.set_queue_up()
        slot.set(mmio.STATUS, ready | mmio.DRIVER_OK)

    def set_queue_up(self) -> None:
        slot, size = self.slot, self.size
        self.descriptors = self.place
        self.available = self.descriptors + 16 * size
        slot.set(mmio.QUEUE_SEL, self.index)
        assert slot.get(mmio.QUEUE_NUM_MAX) >= size
        slot.set(mmio.QUEUE_NUM, size)
        if slot.device.legacy:
            self.used = (self.available + 6 + 2 * size + 0xFFF) & ~0xFFF
            self.clear_ring()
            slot.set(mmio.GUEST_PAGE_SIZE, 0x1000)
            slot.set(mmio.QUEUE_ALIGN, 0x1000)
            slot.set(mmio.QUEUE_PFN, self.place >> 12)
            assert slot.get(mmio.QUEUE_PFN) == self.place >> 12
        else:
            self.used = self.available + 0x1000
            self.clear_ring()
            for register, address in (
                (mmio.QUEUE_DESC_LOW, self.descriptors),
                (mmio.QUEUE_DRIVER_LOW, self.available),
                (mmio.QUEUE_DEVICE_LOW, self.used),
            ):
                slot.set(register, address & 0xFFFFFFFF)
                slot.set(register + 4, address >> 32)
            slot.set(mmio.QUEUE_READY, 1)
            assert slot.get(mmio.QUEUE_READY) == 1
        self.buffers = self.used + 0x1000
        self.next_descriptor = 0

    def clear_ring(self) -> None:
        self.slot.memory.write(self.place, bytes(self.used + 0x1000 - self.place))

    def describe(self, at: int, address: int, length: int, flags: int, following: int) -> None:
        """Write one descriptor at guest address `at`."""
        self.slot.memory.write(at, struct.pack("<QIHH", address, length, flags, following))

    def add(self, buffers: Sequence[Buffer], *, indirect: bool = False) -> int:
        """Make a chain available; returns its head."""
        memory = self.slot.memory
        head = self.next_descriptor
        table = self.descriptors
        first = head
        if indirect:
            table, first = self.place_buffer(b"", 16 * len(buffers)), 0
            self.describe(self.descriptors + 16 * head, table, 16 * len(buffers), DESC_INDIRECT, 0)
            self.next_descriptor = (head + 1) % self.size
        else:
            self.next_descriptor = (head + len(buffers)) % self.size
        count = len(buffers) if indirect else self.size
        placed = []
        for number, buffer in enumerate(buffers):
            address = self.place_buffer(buffer.data, buffer.room)
            placed.append(address)
            last = number == len(buffers) - 1
            flags = (DESC_WRITE if buffer.room else 0) | (0 if last else DESC_NEXT)
            at = (first + number) % count
            length = buffer.room or len(buffer.data)
            self.describe(table + 16 * at, address, length, flags, 0 if last else (at + 1) % count)
        self.addresses[head] = placed
        slot_address = self.available + 4 + 2 * (self.available_index % self.size)
        memory.write(slot_address, struct.pack("<H", head))
        self.available_index = (self.available_index + 1) & 0xFFFF
        memory.write(self.available + 2, struct.pack("<H", self.available_index))
        return head

    def place_buffer(self, data: bytes, room: int) -> int:
        address = self.buffers
        self.buffers += (max(room, len(data)) + 15) & ~15
        self.slot.memory.write(address, data.ljust(room, b"\xee"))
        return address

    def kick(self) -> None:
        self.slot.set(mmio.QUEUE_NOTIFY, self.index)

    def take_used(self) -> list[tuple[int, int]]:
        """(head, written) of what came back since the last call."""
        memory = self.slot.memory
        (index,) = struct.unpack("<H", memory.read(self.used + 2, 2))
        taken = []
        while self.seen_used != index:
            at = self.used + 4 + 8 * (self.seen_used % self.size)
            head, written = struct.unpack("<II", memory.read(at, 8))
            taken.append((head, written))
            self.seen_used = (self.seen_used + 1) & 0xFFFF
        if self.features & F_EVENT_IDX:
            self.ask_for_interrupt_at(self.seen_used)
        return taken

    def ask_for_interrupt_at(self, used_event: int) -> None:
        event = self.available + 4 + 2 * self.size
        self.slot.memory.write(event, struct.pack("<H", used_event))

    def result(self, head: int, number: int, length: int) -> bytes:
        """What is in buffer `number` of a chain."""
        return self.slot.memory.read(self.addresses[head][number], length)

    def take_interrupt(self) -> int:
        """What an interrupt handler does: read InterruptStatus, acknowledge all of it."""
        status = self.slot.get(mmio.INTERRUPT_STATUS)
        self.slot.set(mmio.INTERRUPT_ACK, status)
        return status

    @property
    def broken(self) -> bool:
        return bool(self.slot.get(mmio.STATUS) & mmio.DEVICE_NEEDS_RESET)
