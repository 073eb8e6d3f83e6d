"""The reset ROM: the first instructions every hart executes, and what they hand to the firmware.

Problem: harts start at 0x1000 with nothing in their registers. Firmware expects the hart's id in
a0, the device tree's address in a1, and (OpenSBI's fw_dynamic) a record in a2 that says what to
start next and in which mode.

Invariants: the code is position independent and runs on every hart alike; offsets 0x18, 0x20 and
0x28 hold the entry address, the device tree's address and the record, 64 bits each. It is plain
memory to the board, not a device.

Source: QEMU's ``hw/riscv/boot.c`` (`riscv_setup_rom_reset_vec`, `riscv_compute_fdt_addr`); OpenSBI,
``include/sbi/fw_dynamic.h``.
Read next: `device_tree`, which makes the blob that a1 points at.
"""

from __future__ import annotations

import struct

MAGIC = 0x4942534F  # "OSBI"
VERSION = 2

MODE_U, MODE_S, MODE_M = 0, 1, 3
"""Privilege modes, for `next_mode`."""

_CODE = (
    0x00000297,  # auipc  t0, 0
    0x02828613,  # addi   a2, t0, 0x28
    0xF1402573,  # csrr   a0, mhartid
    0x0202B583,  # ld     a1, 0x20(t0)
    0x0182B283,  # ld     t0, 0x18(t0)
    0x00028067,  # jr     t0
)

_DEVICE_TREE_LIMIT = 3 << 30
_ROOM_TO_GROW = 64 << 10


def reset_rom(
    entry: int,
    device_tree: int,
    *,
    next_address: int = 0,
    next_mode: int = MODE_S,
    options: int = 0,
    boot_hart: int = 0,
) -> bytes:
    """The ROM's contents: 88 bytes. All addresses are guest-physical.

    `entry`: where harts continue (the firmware, or a program of one's own). `device_tree`: address
    of the blob. The rest is for OpenSBI: `next_address` and `next_mode` of what it starts,
    `options` as OpenSBI's (1: no boot prints), `boot_hart`: the preferred one, 2**64-1 for none.
    """
    code = struct.pack("<6I", *_CODE)
    pointers = struct.pack("<2Q", entry, device_tree)
    return (
        code
        + pointers
        + struct.pack("<6Q", MAGIC, VERSION, next_address, next_mode, options, boot_hart)
    )


def device_tree_address(ram_base: int, ram_size: int, blob_size: int) -> int:
    """Where to put the device tree: near the end of RAM, below 3 GiB, 2 MiB aligned if RAM allows.

    Out of the way of kernel and initrd, within reach of 32-bit guests, and with room behind it,
    because firmware adds nodes in place. Raises `ValueError` if the RAM cannot hold it.
    """
    end = ram_base + ram_size
    if ram_base < _DEVICE_TREE_LIMIT:
        end = min(end, _DEVICE_TREE_LIMIT)
    for alignment in (2 << 20, 4 << 10):
        address = (end - blob_size - _ROOM_TO_GROW) // alignment * alignment
        if address > ram_base:  # at the base itself stands the firmware
            return address
    raise ValueError(f"{ram_size:#x} bytes of RAM cannot hold a device tree of {blob_size} bytes")
