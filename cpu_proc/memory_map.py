"""The physical memory map: which address is RAM, ROM or a device's window, and how to reach it.

Problem: harts, DMA, the loader and debuggers name guest-physical addresses; behind them stand host
memory and devices. Two things must hold whatever is mapped where: nobody keeps a lookup that a
change of the map made wrong, and nobody keeps code made from bytes that were overwritten.

Invariants:
- Slots never overlap, are whole pages, and are replaced together: `commit` takes effect as one
  store of a new tuple, or raises and changes nothing. A thread that looks up without the lock sees
  the map before or after a commit, never between.
- `generation` goes up by one with every commit. `on_commit(generation)` flushes the lookups of all
  harts before the mutator returns.
- Code belongs to bytes of a backing, not to an address. Every store through this class calls
  `on_write(backing, offset, length)` *after* the bytes are there: retiring first would let a hart
  decode the old bytes again in between.
- A store is checked as a whole before its first byte: it faults and changes nothing, or it is done.
- Devices are called under `lock`, the machine's one lock.

Read next: `board` (which slots there are), `retirement` (what `on_write` leads to).
"""

from __future__ import annotations

import contextlib
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

from protocol import mutants
from protocol.faults import AccessFault
from protocol.layout import PAGE_SIZE

BULK = 1 << 20  # bytes
ADDRESS_BITS = 56
"""Width of a physical address (privileged architecture, section 4.3.1: Sv39)."""


class Window(Protocol):
    """What the map needs of a device: see `devices.device.Device`."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def read(self, offset: int, size: int) -> int: ...

    def write(self, offset: int, size: int, value: int) -> None: ...


class MapError(Exception):
    """A commit that cannot be: slots overlap, or one is not whole pages. A bug of the board."""


@dataclass(frozen=True, eq=False)
class Backing:
    """A memory object: RAM, a ROM's or a flash's contents, mapped anywhere, twice or not at all.

    `view`: its host bytes, writable by this process, a whole number of pages. `first_page`: index
    of its first page in the machine's array of page descriptors. `fd`: the memfd behind `view`, its
    byte 0 first; long stores go through it while no seal forbids (see `_fill`).
    """

    name: str
    view: memoryview
    first_page: int
    fd: int | None = None

    def page(self, offset: int) -> int:
        """Index of the page descriptor of byte `offset`."""
        return self.first_page + offset // PAGE_SIZE


@dataclass(frozen=True, eq=False)
class Slot:
    """[`base`, `base` + `size`): memory if it has a `backing` (from `offset` on), else a `device`.

    `readonly`: a guest's store does not reach the memory. It goes to `device` if there is one too
    (flash in read-array mode), else it faults.
    """

    name: str
    base: int
    size: int
    backing: Backing | None = None
    offset: int = 0
    readonly: bool = False
    device: Window | None = None

    @property
    def end(self) -> int:
        """First address after it."""
        return self.base + self.size


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
    ) -> None:
        self.lock = lock if lock is not None else threading.RLock()
        self.on_write = on_write
        self.on_commit = on_commit
        self.generation = 0
        self._table = _Table((), ())

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

    def commit(self, add: Iterable[Slot] = (), remove: Iterable[Slot] = ()) -> None:
        """Change the map in one step. Raises `MapError` and changes nothing if it cannot be."""
        with self.lock:
            gone = tuple(remove)
            for slot in gone:
                if slot not in self._table.slots:
                    raise MapError(f"{slot.name} at {slot.base:#x} is not mapped")
            added = tuple(add)
            for slot in added:
                _check(slot)
            kept = [slot for slot in self._table.slots if slot not in gone]
            slots = tuple(sorted((*kept, *added), key=lambda slot: slot.base))
            for low, high in pairwise(slots):
                if low.end > high.base:
                    raise MapError(
                        f"{high.name} at {high.base:#x} overlaps {low.name} "
                        f"({low.base:#x}..{low.end:#x})"
                    )
            self._table = _Table(tuple(slot.base for slot in slots), slots)
            self.generation += 1
            self.on_commit(self.generation)

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

    def write(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data` in RAM, as DMA does. Raises `AccessFault`, having stored nothing."""
        # M3: DMA takes the bytes for data.
        self._store(address, data, rom=False, told=not mutants.armed("M3"))

    def write_rom(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data` in RAM or ROM: the loader's images, and a debugger's patches."""
        # M5: a debugger is trusted to know what it does.
        self._store(address, data, rom=True, told=not mutants.armed("M5"))

    def write_backing(self, backing: Backing, offset: int, data: bytes) -> None:
        """Store `data` in a backing, mapped or not: a device changes the memory it answers for."""
        _fill(backing, offset, memoryview(data))
        if not mutants.armed("M1"):  # M1: a device's own memory is nobody else's business
            self.on_write(backing, offset, len(data))

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
            return device.read(offset, size)

    def mmio_write(self, address: int, size: int, value: int) -> None:
        """A guest's store of 1, 2, 4 or 8 bytes that no writable memory answers."""
        with self.lock:
            device, offset = self._device(address, size, write=True)
            device.write(offset, size, value)

    # --- the parts of a span -------------------------------------------------------------------

    def _device(self, address: int, size: int, *, write: bool) -> tuple[Window, int]:
        slot = self.find(address)
        if slot is None or slot.device is None:
            raise AccessFault(address, size, write=write)
        offset = address - slot.base
        if offset + size > slot.device.size:
            raise AccessFault(address, size, write=write)
        return slot.device, offset

    def _store(
        self, address: int, data: bytes | bytearray | memoryview, *, rom: bool, told: bool
    ) -> None:
        source = memoryview(data)
        done = 0
        for piece in list(self._pieces(address, len(source), write=True, rom=rom)):
            _fill(piece.backing, piece.offset, source[done : done + piece.length])
            if told:
                self.on_write(piece.backing, piece.offset, piece.length)
            done += piece.length

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


def _check(slot: Slot) -> None:
    where = f"{slot.name} at {slot.base:#x}"
    if slot.backing is None and slot.device is None:
        raise MapError(f"{where} has neither memory nor a device")
    if slot.size <= 0 or (slot.base | slot.size | slot.offset) % PAGE_SIZE:
        raise MapError(f"{where}: base, size ({slot.size:#x}) and offset must be whole pages")
    if slot.base < 0 or slot.end > 1 << ADDRESS_BITS:
        raise MapError(f"{where} ends beyond {ADDRESS_BITS} address bits")
    if slot.backing is not None and not 0 <= slot.offset <= len(slot.backing.view) - slot.size:
        raise MapError(f"{where} reaches beyond the end of {slot.backing.name}")
