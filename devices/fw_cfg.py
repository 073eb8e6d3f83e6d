"""fw_cfg: named and numbered blobs that firmware reads from the machine around it.

Problem: firmware in flash is the same file for every run, so what the user asked for (a kernel, its
initial RAM disk, its command line) must reach it another way. QEMU's firmware-configuration device
is the one that edk2 and U-Boot know: a selector chooses an item, and its bytes are read one after
the other from a data register, or copied by DMA.

Invariants:
- Items never change and are never written: a write by the guest is ignored, or an error by DMA.
- What is read behind an item's end, or of an item that is not there, is zero.
- Numbers in registers and in the DMA descriptor are big endian; those inside numbered items are
  little endian, as on every little-endian machine of QEMU.
- A DMA either copies everything and leaves 0 in the descriptor's control word, or leaves its error
  bit. A descriptor that is not memory can tell nobody: the order is dropped.

Source: QEMU, ``docs/specs/fw_cfg.rst``; Linux, ``include/uapi/linux/qemu_fw_cfg.h`` and the binding
``firmware/qemu,fw-cfg-mmio.yaml``.
Read next: `cpu_proc/loader.py` for what is handed over, and when.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from devices.device import AccessFault, GuestMemory, NodeContext, check_access

DATA, SELECTOR, DMA = 0x0, 0x8, 0x10
"""Offsets: 8 bytes, 2 bytes, 8 bytes."""

SIGNATURE, IDENTITY, CPUS, MAX_CPUS = 0x00, 0x01, 0x05, 0x0F
KERNEL_SIZE, KERNEL_DATA = 0x08, 0x11
INITRD_SIZE, INITRD_DATA = 0x0B, 0x12
COMMAND_LINE_SIZE, COMMAND_LINE_DATA = 0x14, 0x15
DIRECTORY, FIRST_FILE = 0x19, 0x20

HAS_REGISTERS, HAS_DMA = 1, 2
"""Bits of IDENTITY."""

ERROR, READ, SKIP, SELECT, WRITE = 1, 2, 4, 8, 16
"""Bits of the descriptor's control word, whose upper half is an item."""

DMA_SIGNATURE = b"QEMU CFG"
_DESCRIPTOR = struct.Struct(">IIQ")  # control, length, address
_FILE = struct.Struct(">IHH56s")  # size, item, reserved, name
_PIECE = 1 << 20  # bytes copied at once

Blob = bytes | memoryview


def items(
    harts: int, *, kernel: Blob = b"", initrd: Blob = b"", command_line: str = ""
) -> dict[int, Blob]:
    """The numbered items of a machine, the ones that firmware asks for."""
    text = command_line.encode() + b"\0" if command_line else b""
    return {
        SIGNATURE: b"QEMU",
        IDENTITY: struct.pack("<I", HAS_REGISTERS | HAS_DMA),
        CPUS: struct.pack("<H", harts),
        MAX_CPUS: struct.pack("<H", harts),
        KERNEL_SIZE: struct.pack("<I", len(kernel)),
        KERNEL_DATA: kernel,
        INITRD_SIZE: struct.pack("<I", len(initrd)),
        INITRD_DATA: initrd,
        COMMAND_LINE_SIZE: struct.pack("<I", len(text)),
        COMMAND_LINE_DATA: text,
    }


@dataclass
class FwCfgState:
    """Where the guest is reading."""

    item: int = 0
    offset: int = 0
    """Bytes of the item that were read."""
    dma_high: int = 0
    """Upper half of the descriptor's address, until the lower one starts the DMA."""


class FwCfg:
    """The device. `numbered`: see `items`; `files`: blobs by name."""

    name = "fw-cfg"
    size = 0x18

    def __init__(
        self,
        memory: GuestMemory,
        numbered: Mapping[int, Blob],
        files: Mapping[str, Blob] | None = None,
    ) -> None:
        self.state = FwCfgState()
        self._memory = memory
        self._items = dict(numbered)
        named = sorted((files or {}).items())
        directory = struct.pack(">I", len(named))
        for item, (name, data) in enumerate(named, FIRST_FILE):
            directory += _FILE.pack(len(data), item, 0, name.encode())
            self._items[item] = data
        self._items[DIRECTORY] = directory

    def reset(self) -> None:
        """Nothing is selected, nothing read."""
        self.state = FwCfgState()

    def restore(self, state: FwCfgState) -> None:
        """Continue from `state`."""
        self.state = state

    # --- registers -----------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """The next 1, 2, 4 or 8 bytes of data, in the order of memory; or DMA's signature."""
        check_access(offset, size, (1, 2, 4, 8), write=False)
        if offset < SELECTOR:
            return int.from_bytes(self._take(size), "little")
        if offset >= DMA:
            at = offset - DMA
            return int.from_bytes(DMA_SIGNATURE[at : at + size], "little")
        raise AccessFault(offset, size, write=False)

    def write(self, offset: int, size: int, value: int) -> None:
        """2 bytes of SELECTOR, 4 or 8 of DMA; DATA is ignored."""
        check_access(offset, size, (1, 2, 4, 8), write=True)
        number = int.from_bytes(value.to_bytes(8, "little")[:size], "big")
        state = self.state
        if offset == SELECTOR and size == 2:
            state.item, state.offset = number, 0
        elif offset == DMA and size == 8:
            self._transfer(number)
        elif offset == DMA and size == 4:
            state.dma_high = number
        elif offset == DMA + 4 and size == 4:
            address, state.dma_high = state.dma_high << 32 | number, 0
            self._transfer(address)
        elif offset >= SELECTOR:
            raise AccessFault(offset, size, write=True)

    # --- items ---------------------------------------------------------------------------------

    def _take(self, length: int) -> bytes:
        """The next bytes of the selected item, zeros behind its end."""
        state = self.state
        data = self._items.get(state.item, b"")
        piece = bytes(data[state.offset : state.offset + length])
        state.offset += length
        return piece + bytes(length - len(piece))

    def _transfer(self, address: int) -> None:
        """Carry out the descriptor at a guest-physical address."""
        memory, state = self._memory, self.state
        try:
            control, length, target = _DESCRIPTOR.unpack(memory.read(address, _DESCRIPTOR.size))
        except AccessFault:
            return
        if control & SELECT:
            state.item, state.offset = control >> 16, 0
        error = 0
        if control & READ:
            error = self._copy(target, length)
        elif control & WRITE:
            error = ERROR
        elif control & SKIP:
            state.offset += length
        try:
            memory.write(address, struct.pack(">I", error))
        except AccessFault:
            return

    def _copy(self, target: int, length: int) -> int:
        """DMA of the next `length` bytes to `target`; ERROR or 0."""
        try:
            while length:
                piece = self._take(min(length, _PIECE))
                self._memory.write(target, piece)
                target += len(piece)
                length -= len(piece)
        except AccessFault:
            return ERROR
        return 0

    # --- the device tree -----------------------------------------------------------------------

    def describe(self, context: NodeContext) -> None:
        """``qemu,fw-cfg-mmio`` below the root, as QEMU has it."""
        node = context.root.node(f"fw-cfg@{context.base:x}")
        node.string("compatible", "qemu,fw-cfg-mmio")
        node.u64("reg", context.base, context.size)
        node.empty("dma-coherent")
