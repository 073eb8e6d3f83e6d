"""What a device is, and what it may ask of the machine around it.

Problem: a board wants to treat all devices alike: give them an address, an interrupt line and
memory to reach, reset them, save them, describe them to the guest.

Invariants:
- A device never knows its address: it sees offsets into its window of `size` bytes.
- All that a device remembers between two accesses stands in `state`, one plain dataclass of
  numbers, strings of bytes, lists and other such dataclasses. That is the snapshot format.
- Nothing here locks: whoever calls a device (a hart, an input thread) holds the machine's one lock.
- A device that wants to stop or reset the machine asks, by a `Request`; it happens later, at a safe
  point, when no guest instruction is half done.
- Whatever a guest writes, a device answers: at worst with `AccessFault`, which the hart turns into
  an access-fault exception. Any other exception is a bug of the device.

Read next: `test_finisher` for a whole device in few lines, `device_tree` for who calls `describe`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from protocol.faults import AccessFault as AccessFault  # devices raise it; so do the map and DMA
from protocol.fdt import Node


@dataclass(frozen=True)
class PowerOff:
    """Stop the machine; the emulator ends with exit status `code` (0 to 255)."""

    code: int = 0


@dataclass(frozen=True)
class Reset:
    """Reset the whole machine: harts, devices, loaded images. RAM keeps the rest."""


@dataclass(frozen=True)
class Fail:
    """Stop the machine because the guest says that it failed; `code` is the guest's, 16 bits."""

    code: int


Request = PowerOff | Reset | Fail
"""What a device may ask of the machine."""

Irq = Callable[[bool], None]
"""An interrupt output: called with the level, when it changes (calling it again is harmless)."""


class GuestMemory(Protocol):
    """Guest-physical memory as a device's DMA sees it: RAM and what is like RAM, no devices."""

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes from `address`. Raises `AccessFault` if any of them is not memory."""
        ...

    def write(self, address: int, data: bytes) -> None:
        """Store `data` and retire code over it. Raises `AccessFault`, having stored nothing."""
        ...


@dataclass(frozen=True)
class NodeContext:
    """Where a device stands on its board, for its device-tree node."""

    root: Node
    soc: Node
    base: int
    """Guest-physical address of the window."""
    size: int
    """Bytes of the window."""
    irq: int | None
    """Interrupt source at the platform's controller, if it has one."""
    controller: int
    """Phandle reserved for the platform's interrupt controller (the PLIC)."""
    hart_controllers: tuple[int, ...]
    """Phandles of the harts' own interrupt controllers, in order of hart id."""

    def node(self, name: str) -> Node:
        """Make the device's node ``name@base`` below ``/soc`` with ``reg`` and ``interrupts``."""
        node = self.soc.node(f"{name}@{self.base:x}")
        node.u64("reg", self.base, self.size)
        if self.irq is not None:
            node.u32("interrupt-parent", self.controller)
            node.u32("interrupts", self.irq)
        return node


class Device(Protocol):
    """What the board needs of a device. Devices need not inherit from this."""

    @property
    def name(self) -> str:
        """What it is, for logs and the memory map: ``uart16550``."""
        ...

    @property
    def size(self) -> int:
        """Bytes of its register window."""
        ...

    @property
    def state(self) -> Any:
        """Its one plain dataclass. Read it to save the device; `restore` puts another in place."""
        ...

    def read(self, offset: int, size: int) -> int:
        """The guest reads `size` (1, 2, 4, 8) bytes, little endian, zero-extended.

        Raises `AccessFault` for a size or an offset that the device does not decode.
        """
        ...

    def write(self, offset: int, size: int, value: int) -> None:
        """The guest writes the low `size` bytes of `value`. Raises `AccessFault` as `read` does."""
        ...

    def reset(self) -> None:
        """As after power-on; outputs follow."""
        ...

    def restore(self, state: Any) -> None:
        """Continue from a saved `state` of this device; outputs follow."""
        ...

    def describe(self, context: NodeContext) -> None:
        """Add the device's node (or nodes) to the device tree."""
        ...


def check_access(offset: int, size: int, sizes: tuple[int, ...], *, write: bool) -> None:
    """Raise `AccessFault` unless the access is naturally aligned and one of `sizes`."""
    if size not in sizes or offset % size:
        raise AccessFault(offset, size, write=write)


def extract(register: int, offset: int, size: int) -> int:
    """Bytes `offset` to `offset + size` of a register's value: a narrow read of a wide register."""
    return register >> (8 * offset) & ((1 << (8 * size)) - 1)


def insert(register: int, offset: int, size: int, value: int) -> int:
    """A register's value after a narrow write of `size` bytes at byte `offset`."""
    mask = ((1 << (8 * size)) - 1) << (8 * offset)
    return register & ~mask | value << (8 * offset) & mask
