"""The physical memory map: which address is RAM, ROM or a device's window, and how to reach it.

Problem: harts, DMA, the loader and debuggers name guest-physical addresses; behind them stand host
memory and devices. Two things must hold whatever is mapped where: nobody keeps a lookup that a
change of the map made wrong, and nobody keeps code made from bytes that were overwritten.

Invariants:
- Slots never overlap, are whole pages, and are replaced together: a `change` takes effect as one
  store of a new tuple, or raises and changes nothing. A thread that looks up without the lock sees
  the map before or after a commit, never between. What overlaps by intention is a matter of layers
  (`placement.py`).
- `generation` goes up by one with every commit. `on_commit(generation)` flushes the lookups of all
  harts before the mutator returns.
- Code belongs to bytes of a backing, not to an address. Every store through this class calls
  `on_write(backing, offset, length)` *after* the bytes are there: retiring first would let a hart
  decode the old bytes again in between.
- A store is checked as a whole before its first byte: it faults and changes nothing, or it is done.
- Devices are called under `lock`, the machine's one lock.

Read next: `placement` (priorities, aliases), `board` (which slots there are), `retirement`
(what `on_write` leads to).
"""

from __future__ import annotations

import contextlib
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from cpu_proc.placement import (
    Backing as Backing,
)
from cpu_proc.placement import (
    Change,
    Layers,
    Placement,
    flatten,
)
from cpu_proc.placement import (
    MapError as MapError,
)
from cpu_proc.placement import (
    Slot as Slot,
)
from cpu_proc.placement import (
    Window as Window,
)
from protocol import mutants
from protocol.faults import AccessFault
from protocol.generations import MASK
from protocol.layout import MAX_SLOTS, PAGE_SIZE

BULK = 1 << 20  # bytes


class _Table(NamedTuple):
    bases: tuple[int, ...]
    slots: tuple[Slot, ...]


class MemoryMap:
    """The map and the ways through it. Addresses are guest-physical; all lengths are bytes."""

    def __init__(
        self,
        lock: threading.RLock | None = None,
        *,
        on_write: Callable[[Backing, int, int], None] = lambda backing, offset, length: None,
        on_commit: Callable[[int], None] = lambda generation: None,
        on_storing: Callable[[int], None] = lambda change: None,
    ) -> None:
        self.lock = lock if lock is not None else threading.RLock()
        self.on_write = on_write
        self.on_commit = on_commit
        self.on_storing = on_storing
        self.generation = 0
        self.serving: Window | None = None
        self.accesses: dict[str, int] = {}  # device -> times that a guest called it
        """The device whose register is accessed; whoever accesses one holds the lock."""
        self.doing = ""  # what the write is that `on_write` is told of
        self.former: tuple[Slot, ...] = ()
        """The slots before the last commit."""
        self._table = _Table((), ())
        self._layers: Layers = {}

    # --- the map -------------------------------------------------------------------------------

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All slots, lowest address first."""
        return self._table.slots

    def find(self, address: int) -> Slot | None:
        """The slot that holds `address`; None for a hole."""
        table = self._table
        index = bisect_right(table.bases, address) - 1
        if index < 0:
            return None
        slot = table.slots[index]
        return slot if address < slot.end else None

    @contextlib.contextmanager
    def change(self) -> Iterator[Change]:
        """A transaction: edits made inside take effect together at its end, as one commit.

            with memory.change() as change:
                change.enable(flash, False)
                change.enable(ram)

        Raises `MapError` if the map cannot be so; then, as after any other exception inside, it is
        as it was. While harts run, call it at a safe point.
        """
        with self.lock:
            change = Change(self._layers)
            yield change
            slots = flatten(change.layers)
            memory = sum(slot.backing is not None for slot in slots)
            if memory > MAX_SLOTS:
                raise MapError(f"{memory} ranges of memory, at most {MAX_SLOTS} are supported")
            self._layers = change.layers
            self.former = self._table.slots
            self._table = _Table(tuple(slot.base for slot in slots), slots)
            self.generation = (self.generation + 1) & MASK
            self.on_commit(self.generation)

    def placement(self, slot: Slot) -> Placement:
        """The layer that was made for a slot. Raises `MapError` if there is none."""
        for placement, layer in self._layers.items():
            if layer.of is None and layer.slot == slot:
                return placement
        raise MapError(f"{slot.name} at {slot.base:#x} is not mapped")

    def commit(self, add: Iterable[Slot] = (), remove: Iterable[Slot] = ()) -> None:
        """Change the map in one step. Raises `MapError` and changes nothing if it cannot be."""
        with self.change() as change:
            for slot in remove:
                change.remove(self.placement(slot))
            for slot in add:
                change.add(slot)

    def add_ram(self, base: int, size: int, backing: Backing, offset: int = 0) -> Slot:
        """Map `size` bytes of `backing`, from `offset` on, at `base`."""
        slot = Slot(backing.name, base, size, backing, offset)
        self.commit(add=[slot])
        return slot

    def add_rom(self, base: int, size: int, backing: Backing, offset: int = 0) -> Slot:
        """The same, but a guest's store faults."""
        slot = Slot(backing.name, base, size, backing, offset, readonly=True)
        self.commit(add=[slot])
        return slot

    def add_device(self, base: int, device: Window) -> Slot:
        """Map the window of `device` at `base`; its slot is rounded up to whole pages."""
        slot = Slot(device.name, base, -(-device.size // PAGE_SIZE) * PAGE_SIZE, device=device)
        self.commit(add=[slot])
        return slot

    # --- memory ----------------------------------------------------------------------------------

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes of memory. Raises `AccessFault` if any of them is not memory."""
        pieces = [
            piece.backing.view[piece.offset : piece.offset + piece.length]
            for piece in self._pieces(address, length, write=False, rom=True)
        ]
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def write(self, address: int, data: bytes | bytearray | memoryview, did: str = "DMA") -> None:
        """Store `data` in RAM, as DMA does. Raises `AccessFault`, having stored nothing."""
        self.doing = did
        # M3: DMA takes the bytes for data.
        self._store(address, data, rom=False, told=not mutants.armed("M3"))

    def write_rom(
        self, address: int, data: bytes | bytearray | memoryview, did: str = "debugger's write"
    ) -> None:
        """Store `data` in RAM or ROM: the loader's images, and a debugger's patches."""
        self.doing = did
        # M5: a debugger is trusted to know what it does.
        self._store(address, data, rom=True, told=not mutants.armed("M5"))

    def write_backing(
        self, backing: Backing, offset: int, data: bytes, did: str = "device's own write"
    ) -> None:
        """Store `data` in a backing, mapped or not: a device changes the memory it answers for."""
        self.doing = did
        self.on_storing(1)
        _fill(backing, offset, memoryview(data))
        if not mutants.armed("M1"):  # M1: a device's own memory is nobody else's business
            self.on_write(backing, offset, len(data))
        self.on_storing(-1)

    def is_memory(self, address: int, length: int, *, write: bool = False) -> bool:
        """Whether `read` (or `write`) of that range would succeed."""
        try:
            list(self._pieces(address, length, write=write, rom=not write))
        except AccessFault:
            return False
        return True

    # --- devices ---------------------------------------------------------------------------------

    def mmio_read(self, address: int, size: int) -> int:
        """A guest's load of 1, 2, 4 or 8 bytes that no memory answers.

        Raises `AccessFault` for a hole, or what the device does not decode.
        """
        with self.lock:
            device, offset = self._device(address, size, write=False)
            self.serving = device
            try:
                return device.read(offset, size)
            finally:
                self.serving = None

    def mmio_write(self, address: int, size: int, value: int) -> None:
        """A guest's store of 1, 2, 4 or 8 bytes that no writable memory answers."""
        with self.lock:
            device, offset = self._device(address, size, write=True)
            self.serving = device
            try:
                device.write(offset, size, value)
            finally:
                self.serving = None

    # --- the parts of a span -------------------------------------------------------------------

    def _device(self, address: int, size: int, *, write: bool) -> tuple[Window, int]:
        slot = self.find(address)
        if slot is None or slot.device is None:
            raise AccessFault(address, size, write=write)
        offset = slot.window + address - slot.base
        if offset + size > slot.device.size:
            raise AccessFault(address, size, write=write)
        self.accesses[slot.name] = self.accesses.get(slot.name, 0) + 1
        return slot.device, offset

    def _store(
        self, address: int, data: bytes | bytearray | memoryview, *, rom: bool, told: bool
    ) -> None:
        source = memoryview(data)
        done = 0
        pieces = list(self._pieces(address, len(source), write=True, rom=rom))
        self.on_storing(1)
        for piece in pieces:
            _fill(piece.backing, piece.offset, source[done : done + piece.length])
            if told:
                self.on_write(piece.backing, piece.offset, piece.length)
            done += piece.length
        self.on_storing(-1)

    def _pieces(self, address: int, length: int, *, write: bool, rom: bool) -> Iterator[_Piece]:
        """The stretches of backings that make up a span, lowest address first."""
        at, end = address, address + length
        while at < end:
            slot = self.find(at)
            if slot is None or slot.backing is None or (write and slot.readonly and not rom):
                raise AccessFault(at, end - at, write=write)
            taken = min(end, slot.end) - at
            yield _Piece(slot.backing, slot.offset + at - slot.base, taken)
            at += taken


class _Piece(NamedTuple):
    backing: Backing
    offset: int
    length: int


def _fill(backing: Backing, offset: int, data: memoryview) -> None:
    """Store in the backing's host memory.

    A kernel copied into fresh memory by write(2) costs half as much as through the mapping, which
    takes a page fault a page: 25 ms less before the guest's first instruction. Once the memfd is
    sealed only the mapping is left; by then the pages are there.
    """
    done = 0
    if backing.fd is not None and len(data) >= BULK:
        with contextlib.suppress(OSError):
            done = os.pwrite(backing.fd, data, offset)
    backing.view[offset + done : offset + len(data)] = data[done:]
